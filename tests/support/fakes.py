"""Second implementations of the ports, in memory."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import gevent
from gevent.event import Event as Signal
from gevent.queue import Queue

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.priority import Priority
from scheduler.errors import SchedulerError
from scheduler.gateway.figures import Figures, Grouped, Totals, Usage
from scheduler.gateway.ports import (
    CleanupState,
    DatabaseSize,
    Event,
    ExamStep,
    NodeFindings,
    NodeTarget,
    ProbeResult,
    RequestFilter,
    RequestPage,
    StoredNode,
)
from scheduler.gateway.record import RequestRecord


class MemoryNodeStore:
    """Keeps nodes in memory. `before_save` may switch greenlets, as a database does, or raise."""

    def __init__(self) -> None:
        self.nodes: dict[str, StoredNode] = {}
        self.before_save: Callable[[StoredNode], None] = lambda node: gevent.sleep(0)
        self.saves = 0

    def load(self) -> list[StoredNode]:
        return deepcopy(sorted(self.nodes.values(), key=lambda node: node.created_at))

    def save(self, node: StoredNode) -> None:
        kept = deepcopy(node)
        self.before_save(kept)
        self.nodes[node.id] = kept
        self.saves += 1

    def delete(self, node_id: str) -> None:
        gevent.sleep(0)
        self.nodes.pop(node_id, None)


class MemoryEventLog:
    """Keeps events in memory, oldest first."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


class MemoryRequestLog:
    """Reads what tests put into `records`, newest last. `asked` keeps what was asked for."""

    def __init__(self, events: MemoryEventLog | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.asked: list[tuple[RequestFilter, int, int]] = []
        self._events = events or MemoryEventLog()

    def page(self, wanted: RequestFilter, limit: int, offset: int) -> RequestPage:
        self.asked.append((wanted, limit, offset))
        found = list(reversed(self.records))
        return RequestPage(found[offset : offset + limit], len(found), False)

    def batches(self, wanted: RequestFilter) -> Iterator[list[dict[str, Any]]]:
        self.asked.append((wanted, 0, 0))
        newest_first = list(reversed(self.records))
        yield newest_first[:2]
        for begin in range(2, len(newest_first), 2):
            yield newest_first[begin : begin + 2]

    def get(self, request_id: str) -> dict[str, Any] | None:
        return next((record for record in self.records if record["id"] == request_id), None)

    def events(self, limit: int, offset: int) -> Iterator[Event]:
        return iter(list(reversed(self._events.events))[offset : offset + limit])


class FixedMetricsPage:
    """Always the same text."""

    content_type = "text/plain; version=0.0.4"

    def text(self) -> bytes:
        return b"up 1\n"


class ScriptedStatistics:
    """Answers what tests put into its attributes; `asked` keeps what was asked for."""

    def __init__(self) -> None:
        self.found_totals = Totals(Figures(), 0, 0, True)
        self.found_ranges: list[dict[str | None, Figures]] = []
        self.found_usage: list[Usage] = []
        self.is_exact = True
        self.is_broken = False
        self.asked: list[tuple[Any, ...]] = []

    def totals(self, start_time: float | None, end_time: float | None) -> Totals:
        if self.is_broken:
            raise OSError("database is locked")
        self.asked.append((start_time, end_time))
        return self.found_totals

    def grouped(self, edges: Sequence[float | None], group_by: str | None) -> Grouped:
        self.asked.append((list(edges), group_by))
        missing: list[dict[str | None, Figures]] = [{}] * (len(edges) - 1 - len(self.found_ranges))
        return Grouped(self.found_ranges + missing, self.is_exact)

    def usage(self, start_time: float | None, end_time: float | None) -> tuple[list[Usage], bool]:
        self.asked.append((start_time, end_time))
        return self.found_usage, self.is_exact


class ScriptedCleanup:
    """Answers what tests put into its attributes; `asked` keeps what is to be deleted."""

    def __init__(self) -> None:
        self.found_matching = 0
        self.found_state = CleanupState(True, None, False, None, 0)
        self.found_size = DatabaseSize(4096, 0, None)
        self.asked: list[float] = []
        self.is_broken = False

    def matching(self, before: float) -> int:
        return self.found_matching

    def ask(self, before: float) -> None:
        self.asked.append(before)

    def state(self) -> CleanupState:
        return self.found_state

    def size(self) -> DatabaseSize:
        if self.is_broken:
            raise OSError("database is locked")
        return self.found_size


class ScriptedProber:
    """Answers probes as told: `results[id]`, else up. `hold(id)` lets that node's probes hang until `let_go`.

    `probes` receives the id of each probe that has begun, so that tests wait for probes and never for time.
    """

    def __init__(self) -> None:
        self.results: dict[str, ProbeResult] = {}
        self.probes: Queue[tuple[NodeTarget, bool]] = Queue()
        self.error: Exception | None = None
        self._gates: dict[str, Signal] = {}

    def probe(self, target: NodeTarget, check_key: bool = False) -> ProbeResult:
        self.probes.put((target, check_key))
        error, self.error = self.error, None
        if error is not None:
            raise error
        if target.id in self._gates:
            self._gates[target.id].wait()
        return self.results.get(target.id, ProbeResult(True))

    def hold(self, node_id: str) -> None:
        self._gates[node_id] = Signal()

    def let_go(self, node_id: str) -> None:
        self._gates.pop(node_id).set()


class ScriptedExaminer:
    """Finds what it was told to find; `targets` keeps what was examined."""

    def __init__(self) -> None:
        self.findings = NodeFindings(
            (ExamStep("tcp", True, "connected", 1.0), ExamStep("models", True, "1 model", 2.0))
        )
        self.targets: list[NodeTarget] = []

    def examine(self, target: NodeTarget) -> NodeFindings:
        self.targets.append(target)
        return self.findings


class FakeLiveCall:
    """A request that waits or runs, as the admin side sees it."""

    def __init__(
        self,
        record: RequestRecord,
        is_running: bool = False,
        on_cancel: Callable[[], None] | None = None,
        dispatcher: Dispatcher | None = None,
    ):
        self.record = record
        self._dispatcher = dispatcher
        self.is_running = is_running
        self.phase = "streaming" if is_running else "queued"
        self.elapsed_ms = 12.34
        self.last_piece_at = 0.0
        self.is_cancelled = False
        self._on_cancel = on_cancel

    def change_priority(self, priority: Priority) -> None:
        assert self._dispatcher is not None, "this fake was given no queue"
        self._dispatcher.change_priority(self.record.id, priority)
        self.record.priority = priority.label

    def end_early(self, error: SchedulerError) -> None:
        self.cancel()

    def cancel(self) -> None:
        self.is_cancelled = True
        if self._on_cancel is not None:
            self._on_cancel()


def some_record(id: str = "req-1", **changes: Any) -> RequestRecord:
    """A record of a waiting chat request."""
    known: dict[str, Any] = {
        "id": id,
        "boot_id": "boot",
        "model": "qwen",
        "priority": "normal",
        "path": "/v1/chat/completions",
        "stream": False,
        "client": "10.0.0.9",
        "created_at": 1_700_000_000.0,
    }
    return RequestRecord(**{**known, **changes})
