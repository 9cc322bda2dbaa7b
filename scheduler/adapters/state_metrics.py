"""StateMetrics: how the scheduler is at the moment of a scrape, for Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from scheduler.adapters.request_metrics import PREFIX
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import AdminState, Health
from scheduler.core.priority import Priority
from scheduler.core.snapshot import NodeView


class Writing(Protocol):
    """What writes rows behind the requests."""

    name: str  # records, events
    lost: int
    last_write_ms: float | None
    last_error: str | None

    @property
    def backlog(self) -> int: ...


class Lag(Protocol):
    """How late the event loop is."""

    last_ms: float

    @property
    def max_ms(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Watched:
    """What is looked at when it is scraped. Each look is cheap, and none blocks."""

    dispatcher: Dispatcher
    writers: Sequence[Writing]
    hub_lag: Lag
    held_bytes: Callable[[], int]
    max_held_bytes: int
    max_queue_size: int
    database_bytes: Callable[[], int | None]  # None where the database is not a file of ours
    uptime_s: Callable[[], float]
    is_ready: Callable[[], bool]
    version: str


class StateMetrics:
    """Looks around when it is scraped, so that requests pay nothing for it. A collector of prometheus-client."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client's registry."""
        yield from self._process()
        yield from self._queue()
        yield from _nodes(self._watched.dispatcher.nodes())
        yield from self._writers()

    def _process(self) -> Iterator[Metric]:
        watched = self._watched
        yield InfoMetricFamily(f"{PREFIX}build", "The version that runs.", {"version": watched.version})
        yield _gauge("uptime_seconds", "Since the start of the process, in seconds.", watched.uptime_s())
        yield _gauge("ready", "1 while it may be sent traffic.", watched.is_ready())
        cpu = CounterMetricFamily(f"{PREFIX}cpu_seconds", "CPU time of the process, in seconds.")
        cpu.add_metric((), time.process_time())
        yield cpu
        lag = watched.hub_lag
        yield _gauge("hub_lag_seconds", "How late the event loop was at the last look, in seconds.", lag.last_ms / 1000)
        yield _gauge("hub_lag_max_seconds", "The most of the last minute, in seconds.", lag.max_ms / 1000)
        yield _gauge("held_body_bytes", "Bytes of the bodies that are read, wait or run.", watched.held_bytes())
        yield _gauge("held_body_bytes_limit", "Past so many the queue counts as full.", watched.max_held_bytes)

    def _queue(self) -> Iterator[Metric]:
        dispatcher = self._watched.dispatcher
        counts, oldest_s = dispatcher.queue(limit=0).by_priority, dispatcher.oldest_waits_s()
        depth = GaugeMetricFamily(f"{PREFIX}queue_depth", "Requests that wait.", labels=("priority",))
        oldest = GaugeMetricFamily(
            f"{PREFIX}queue_oldest_wait_seconds",
            "How long the request that waits longest has waited, in seconds; 0 where none waits.",
            labels=("priority",),
        )
        for priority in Priority:
            depth.add_metric((priority.label,), counts.get(priority, 0))
            oldest.add_metric((priority.label,), oldest_s.get(priority, 0.0))
        yield depth
        yield oldest
        yield _gauge("queue_limit", "So many requests may wait.", self._watched.max_queue_size)
        yield _gauge("in_flight", "Slots that are held, at removed nodes too.", dispatcher.in_flight_count)

    def _writers(self) -> Iterator[Metric]:
        backlog = GaugeMetricFamily(f"{PREFIX}recorder_backlog", "Rows in memory only.", labels=("kind",))
        lost = CounterMetricFamily(f"{PREFIX}recorder_lost", "Rows that could not be kept.", labels=("kind",))
        last = GaugeMetricFamily(
            f"{PREFIX}recorder_last_write_seconds",
            "What the last batch took, commit included, in seconds.",
            labels=("kind",),
        )
        failing = GaugeMetricFamily(
            f"{PREFIX}recorder_failing", "1 while the database does not take what it is given.", labels=("kind",)
        )
        for writer in self._watched.writers:
            kind = (writer.name,)
            backlog.add_metric(kind, writer.backlog)
            lost.add_metric(kind, writer.lost)
            failing.add_metric(kind, writer.last_error is not None)
            if writer.last_write_ms is not None:
                last.add_metric(kind, writer.last_write_ms / 1000)
        yield from (backlog, lost, last, failing)
        size = GaugeMetricFamily(f"{PREFIX}database_bytes", "Size of the database's files; of SQLite only.")
        database_bytes = self._watched.database_bytes()
        if database_bytes is not None:
            size.add_metric((), database_bytes)
        yield size


def _nodes(nodes: Sequence[NodeView]) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily(f"{PREFIX}node_in_flight", "Slots that are held on a node.", labels=("node",))
    capacity = GaugeMetricFamily(f"{PREFIX}node_capacity", "Slots of a node (max_concurrent).", labels=("node",))
    state = GaugeMetricFamily(
        f"{PREFIX}node_state", "1 for the state that the operator has set.", labels=("node", "state")
    )
    health = GaugeMetricFamily(f"{PREFIX}node_health", "1 for what the probes say.", labels=("node", "health"))
    registered = GaugeMetricFamily(f"{PREFIX}model_nodes", "Nodes that are registered with a model.", labels=("model",))
    serving = GaugeMetricFamily(
        f"{PREFIX}model_nodes_serving", "Nodes that may get requests for a model now, room or not.", labels=("model",)
    )
    by_model: Counter[str] = Counter()
    serving_model: Counter[str] = Counter()
    for node in nodes:
        node_id = node.spec.id
        in_flight.add_metric((node_id,), node.in_flight)
        capacity.add_metric((node_id,), node.spec.max_concurrent)
        for each_state in AdminState:
            state.add_metric((node_id, each_state.value), node.state is each_state)
        for each_health in Health:
            health.add_metric((node_id, each_health.value), node.health is each_health)
        is_serving = node.state is AdminState.ACTIVE and node.health is Health.UP
        for model in node.spec.models:
            by_model[model] += 1
            serving_model[model] += is_serving and model not in node.withdrawn
    for model, count in by_model.items():
        registered.add_metric((model,), count)
        serving.add_metric((model,), serving_model[model])
    yield from (in_flight, capacity, state, health, registered, serving)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)
