"""Tally: the figures of many requests, which can be added up; and how requests fall into the rollups."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from scheduler.adapters.sketch import Sketch, bucket_of

MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

OUTCOME, MODEL, NODE, PRIORITY, KEY = "outcome", "model", "node", "priority", "key"
KEY_MODEL = "key_model"

_BY_HOUR = (DAY_MS, HOUR_MS, MINUTE_MS)

#: The lengths of rollups by dimension, from coarse to fine; a day is one of UTC. All but the minutes are kept for long.
#: Usage is billed by local month, and every time zone of the world is a whole number of quarters away from UTC.
STEPS_MS = {
    **dict.fromkeys((OUTCOME, MODEL, NODE, PRIORITY, KEY), _BY_HOUR),
    KEY_MODEL: (DAY_MS, QUARTER_MS, MINUTE_MS),
}

#: More tokens than this, an engine cannot have meant; sums stay far below what a column holds.
MOST_TOKENS = 10**9
MOST_MS = 1e9

COMPLETED = "completed"


class Facts(NamedTuple):
    """What the rollups want to know of a finished request: columns of its row, in this order."""

    created_at: int
    model: str
    node_id: str | None
    priority: str
    outcome: str
    key_name: str | None
    error_code: str | None
    first_byte_at: int | None
    queue_ms: float | None
    ttfb_ms: float | None
    latency_ms: float | None
    prompt_tokens: int | None
    completion_tokens: int | None


class RollupKey(NamedTuple):
    """Which rollup: its length, what it is about, its begin (epoch ms), and of whom."""

    step_ms: int
    dimension: str
    at: int
    name: str  # outcome, model, node, priority or key; empty where a request had none
    model: str  # only beside a key


class Tally:
    """Figures of requests. Durations are those of completed requests, except where the tally is that of an outcome.

    Sums are whole microseconds, so that they do not depend on the order of adding.
    """

    __slots__ = (
        "completed",
        "completion_tokens",
        "latency",
        "latency_us",
        "prompt_tokens",
        "queue",
        "queue_us",
        "requests",
        "ttfb",
        "ttfb_us",
        "without_usage",
    )

    def __init__(self) -> None:
        self.requests = self.completed = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.without_usage = 0  # answers that began, were no error, and brought no token counts
        self.queue_us = self.ttfb_us = self.latency_us = 0
        self.queue = Sketch()
        self.ttfb = Sketch()
        self.latency = Sketch()

    def count(self, facts: Facts) -> None:
        """Add one request, its durations included, however it ended."""
        self.requests += 1
        self.completed += facts.outcome == COMPLETED
        prompt, completion = _tokens(facts.prompt_tokens), _tokens(facts.completion_tokens)
        self.prompt_tokens += prompt or 0
        self.completion_tokens += completion or 0
        if prompt is None and completion is None and facts.first_byte_at is not None:
            self.without_usage += not (facts.error_code or "").startswith("upstream_http_")
        if facts.queue_ms is not None:
            self.queue_us += _measure(self.queue, facts.queue_ms)
        if facts.ttfb_ms is not None:
            self.ttfb_us += _measure(self.ttfb, facts.ttfb_ms)
        if facts.latency_ms is not None:
            self.latency_us += _measure(self.latency, facts.latency_ms)

    def add(self, other: "Tally", with_durations: bool = True) -> None:
        """Add the figures of other requests."""
        self.requests += other.requests
        self.completed += other.completed
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.without_usage += other.without_usage
        if with_durations:
            self.queue_us += other.queue_us
            self.ttfb_us += other.ttfb_us
            self.latency_us += other.latency_us
            self.queue.merge(other.queue)
            self.ttfb.merge(other.ttfb)
            self.latency.merge(other.latency)

    def __repr__(self) -> str:
        return f"<Tally {self.requests} requests, {self.completed} completed>"


def facts_of(row: Mapping[Any, Any]) -> Facts:
    """The facts of a row of `requests`."""
    return Facts(*(row[name] for name in Facts._fields))


def names_of(facts: Facts) -> dict[str, tuple[str, str]]:
    """Under which name a request is counted in each dimension.

    A model that no node has is a word that the caller made up: those are counted together, under no name.
    """
    model = "" if facts.error_code == "model_not_found" else facts.model
    key = facts.key_name or ""
    return {
        OUTCOME: (facts.outcome, ""),
        MODEL: (model, ""),
        NODE: (facts.node_id or "", ""),
        PRIORITY: (facts.priority, ""),
        KEY: (key, ""),
        KEY_MODEL: (key, model),
    }


def has_durations(dimension: str, is_completed: bool) -> bool:
    """Whether the durations of a request go into its rollup of this dimension."""
    return dimension == OUTCOME or (is_completed and dimension != KEY_MODEL)


def fold(finished: Iterable[Facts]) -> dict[RollupKey, Tally]:
    """What finished requests add to each rollup that they belong to."""
    # First by all that tells them apart: many requests of a batch differ in nothing, and then are spread once.
    alike: dict[tuple[Any, ...], tuple[Facts, Tally]] = {}
    for facts in finished:
        known_by = (facts.created_at // MINUTE_MS, *facts[1:6], facts.error_code == "model_not_found")
        found = alike.get(known_by)
        if found is None:
            found = alike[known_by] = (facts, Tally())
        found[1].count(facts)
    tallies: dict[RollupKey, Tally] = {}
    for facts, tally in alike.values():
        for dimension, (name, model) in names_of(facts).items():
            with_durations = has_durations(dimension, facts.outcome == COMPLETED)
            for step_ms in STEPS_MS[dimension]:
                key = RollupKey(step_ms, dimension, facts.created_at // step_ms * step_ms, name, model)
                known = tallies.get(key)
                if known is None:
                    known = tallies[key] = Tally()
                known.add(tally, with_durations)
    return tallies


def fold_into(rows: Iterable[Facts], dimension: str, tally_of: Callable[[int, str, str], Tally | None]) -> None:
    """Count requests in one dimension, each in the tally that `tally_of(created_at, name, model)` says, if any."""
    for facts in rows:
        tally = tally_of(facts.created_at, *names_of(facts)[dimension])
        if tally is not None:
            one = Tally()
            one.count(facts)
            tally.add(one, has_durations(dimension, facts.outcome == COMPLETED))


def _tokens(count: int | None) -> int | None:
    return None if count is None or not 0 <= count <= MOST_TOKENS else count


def _measure(sketch: Sketch, duration_ms: float) -> int:
    """Put a duration into the sketch; returns it in microseconds."""
    duration_ms = min(max(duration_ms, 0.0), MOST_MS)
    sketch.add(bucket_of(duration_ms))
    return round(duration_ms * 1000)
