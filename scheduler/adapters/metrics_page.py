"""PrometheusPage: all metrics as text, for `GET /metrics`. It is the gateway's MetricsPage."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import gevent
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

#: So many samples are written between two looks at the hub: about a millisecond.
SLICE = 150


class PrometheusPage:
    """The text that a Prometheus server scrapes. Only our own metrics: prometheus-client's look at each open file."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self.registry = CollectorRegistry()
        for collector in collectors:
            self.registry.register(collector)

    def text(self) -> bytes:
        """All metrics as they are now. Lets the hub run meanwhile, so that a long page delays no stream."""
        pieces = []
        for metric in self.registry.collect():
            for part in _parts(metric):
                text = generate_latest(part)
                if part.is_continued:
                    # Its HELP and TYPE have been told.
                    text = text.split(b"\n", 2)[2]
                pieces.append(text)
                gevent.sleep(0)
        return b"".join(pieces)


class _Part:
    """Some samples of one metric, as something that can be collected."""

    def __init__(self, metric: Metric, start: int) -> None:
        self.is_continued = start > 0
        self._metric = copy.copy(metric)
        self._metric.samples = metric.samples[start : start + SLICE]

    def collect(self) -> list[Metric]:
        return [self._metric]


def _parts(metric: Metric) -> Iterator[_Part]:
    return (_Part(metric, start) for start in range(0, max(1, len(metric.samples)), SLICE))
