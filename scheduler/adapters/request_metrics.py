"""RequestMetrics: what has happened to requests, counted as they end, for Prometheus."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from scheduler.gateway.record import RequestRecord

log = logging.getLogger(__name__)

PREFIX = "llm_scheduler_"
#: The model of requests for what nobody has registered: a caller must not be able to make new series.
OTHER = "other"
#: An engine that claims more tokens for one request is not believed.
MOST_TOKENS = 10**9

DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
QUEUE_WAIT_S = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
FIRST_BYTE_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
GAP_S = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)

_CLASSES = {number: f"{number}xx" for number in range(1, 6)}
_HTTP = "upstream_http_"

Labels = tuple[str, ...]


class Histogram:
    """How many values fell between which bounds (inclusive above), and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """The counts up to each bound, and the sum, as Prometheus wants them."""
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
        return buckets, self._sum


class RequestMetrics:
    """Counts requests as they end. A collector of prometheus-client, which does the rest.

    The sums are plain numbers, because only greenlets of one thread touch them: prometheus-client's own counters take
    a lock for each, which costs three times as much. `is_registered` tells whether any node is registered with a model.
    """

    def __init__(self, is_registered: Callable[[str], bool]) -> None:
        self._is_registered = is_registered
        self._models: set[str] = set()  # those that may be labels
        self._requests: defaultdict[Labels, float] = defaultdict(float)
        self._rejections: defaultdict[Labels, float] = defaultdict(float)
        self._failures: defaultdict[Labels, float] = defaultdict(float)
        self._attempts: defaultdict[Labels, float] = defaultdict(float)
        self._prompt_tokens: defaultdict[Labels, float] = defaultdict(float)
        self._completion_tokens: defaultdict[Labels, float] = defaultdict(float)
        self._unread: defaultdict[Labels, float] = defaultdict(float)
        self._durations: defaultdict[Labels, Histogram] = defaultdict(lambda: Histogram(DURATION_S))
        self._queue_waits: defaultdict[Labels, Histogram] = defaultdict(lambda: Histogram(QUEUE_WAIT_S))
        self._first_bytes: defaultdict[Labels, Histogram] = defaultdict(lambda: Histogram(FIRST_BYTE_S))
        self._gaps: defaultdict[Labels, Histogram] = defaultdict(lambda: Histogram(GAP_S))

    # -- on the hot path ----------------------------------------------------------------------

    def note_finished(self, record: RequestRecord) -> None:
        """Count a request that has ended. Never raises, never blocks."""
        try:
            self._count(record)
        except Exception:
            # A figure less must not become a request less.
            log.exception("a request could not be counted", extra={"id": record.id})

    def note_unread(self, code: str) -> None:
        """Count a request that was refused before its model was known; `code` is the error's."""
        self._unread[code,] += 1

    def _count(self, record: RequestRecord) -> None:
        model, outcome = record.model, record.outcome or "none"
        if model not in self._models:
            model = self._label_of(model)
        self._requests[model, record.priority, outcome, _CLASSES.get((record.http_status or 0) // 100, "none")] += 1
        latency_ms, ttfb_ms = record.latency_ms or 0.0, record.ttfb_ms
        self._durations[model, outcome].observe(latency_ms / 1000)
        if record.queue_ms is not None:
            self._queue_waits[model, record.priority].observe(record.queue_ms / 1000)
        if ttfb_ms is not None:
            self._first_bytes[model, "true" if record.stream else "false"].observe(ttfb_ms / 1000)
            if record.stream and record.pieces > 1:
                self._gaps[model,].observe((latency_ms - ttfb_ms) / 1000 / (record.pieces - 1))
        for attempt in record.attempts:
            self._attempts[attempt.node_id, _reason(attempt.result)] += 1
        if record.prompt_tokens and 0 < record.prompt_tokens <= MOST_TOKENS:
            self._prompt_tokens[model, record.key_name or ""] += record.prompt_tokens
        if record.completion_tokens and 0 < record.completion_tokens <= MOST_TOKENS:
            self._completion_tokens[model, record.key_name or ""] += record.completion_tokens
        if outcome in ("rejected", "evicted"):
            self._rejections[model, record.error_code or ""] += 1
        elif outcome in ("failed", "interrupted"):
            self._failures[model, _reason(record.error_code or "")] += 1

    def _label_of(self, model: str) -> str:
        if not self._is_registered(model):
            return OTHER
        self._models.add(model)
        return model

    # -- when it is scraped -------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client's registry."""
        yield _counter(
            "requests",
            "Requests that have ended, by outcome and by the class of the status that the caller got.",
            ("model", "priority", "outcome", "status"),
            self._requests,
        )
        yield _counter(
            "rejections",
            "Requests that were refused before the queue or left it without a slot, by error code.",
            ("model", "reason"),
            self._rejections,
        )
        yield _counter(
            "failures",
            "Requests that a node, its engine or the scheduler failed, by error code.",
            ("model", "reason"),
            self._failures,
        )
        yield _counter(
            "unread_refusals",
            "Requests that were refused before their model was known, by error code. They are in no other metric.",
            ("reason",),
            self._unread,
        )
        yield _counter(
            "attempts", "Deliveries of requests to nodes, by how they ended.", ("node", "result"), self._attempts
        )
        yield _counter(
            "prompt_tokens", "Prompt tokens, as the engines tell them.", ("model", "key"), self._prompt_tokens
        )
        yield _counter(
            "completion_tokens",
            "Completion tokens, as the engines tell them.",
            ("model", "key"),
            self._completion_tokens,
        )
        yield _histogram(
            "request_duration_seconds",
            "From the acceptance of a request to its end, in seconds.",
            ("model", "outcome"),
            self._durations,
        )
        yield _histogram(
            "queue_wait_seconds",
            "What requests have waited for slots, in seconds; those that got none too.",
            ("model", "priority"),
            self._queue_waits,
        )
        yield _histogram(
            "time_to_first_byte_seconds",
            "From the acceptance of a request to the first byte of the answer's body, in seconds.",
            ("model", "stream"),
            self._first_bytes,
        )
        yield _histogram(
            "inter_token_gap_seconds",
            "The mean gap between the pieces of each stream, in seconds: from its first byte to its end, divided by "
            "the pieces that followed the first. One value a stream; a piece has one token or several.",
            ("model",),
            self._gaps,
        )


def _reason(code: str) -> str:
    """The error code, with the engines' own statuses by class: a node can make up as many as it likes."""
    if code.startswith(_HTTP):
        return f"{_HTTP}{code[len(_HTTP) : len(_HTTP) + 1]}xx"
    return code


def _counter(name: str, text: str, labels: Labels, counts: Mapping[Labels, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _histogram(name: str, text: str, labels: Labels, values: Mapping[Labels, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for label_values, histogram in values.items():
        buckets, total = histogram.told()
        family.add_metric(label_values, buckets, total)
    return family
