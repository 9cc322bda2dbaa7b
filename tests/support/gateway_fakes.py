"""A gateway whose outside world is in memory, counts the calls to it, and can be struck at any of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import gevent

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.errors import NodeError, NodeUnreachable, ReplyBroken, ShuttingDown, UnknownRequest
from scheduler.gateway.caller import KeyRing
from scheduler.gateway.clocks import Clocks, ClockSweep
from scheduler.gateway.exchange import ErrorFacts, Surroundings
from scheduler.gateway.gateway import Gateway, RetryRule
from scheduler.gateway.held_bytes import HeldBytes
from scheduler.gateway.live_calls import LiveCalls
from scheduler.gateway.ports import NodeTarget
from scheduler.gateway.record import RequestRecord
from scheduler.web.body_reader import BodyReader
from scheduler.web.data_plane import DataPlane, error_event
from scheduler.web.error_handlers import describe

#: What passes in one step of the virtual clock, where nobody can go on without it.
MOMENT_S = 0.25
#: No request takes so many of them.
MOMENTS = 200
#: So often every greenlet gets its turn before the clock goes on.
TURNS = 8


class Calls:
    """The calls to the outside world, in order. `strike` is called within the n-th where that is `at`, or from there on
    where it `goes_on`.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.at = 0
        self.goes_on = False
        self.strike: Callable[[str], None] = lambda name: None

    @property
    def count(self) -> int:
        return len(self.names)

    def made(self, name: str) -> None:
        self.names.append(name)
        if self.count == self.at or (self.goes_on and 0 < self.at < self.count):
            self.strike(name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node does with one call: `error` before it answers, or so many pieces and then perhaps `breaks`."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    pieces: tuple[bytes, ...] = (b'{"id": "1"}',)
    is_framed: bool = True
    error: NodeError | None = None
    breaks: NodeError | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class MemoryForwarder:
    """Sends calls to nodes that answer as they were told: each its answers in order, the last one again and again."""

    def __init__(self, calls: Calls, answers: Mapping[str, Sequence[Answer]]) -> None:
        self._calls = calls
        self._answers = {node_id: list(each) for node_id, each in answers.items()}
        self.deliveries: list[MemoryDelivery] = []

    def prepare(
        self, target: NodeTarget, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> MemoryDelivery:
        self._calls.made("prepare")
        answers = self._answers[target.id]
        delivery = MemoryDelivery(self._calls, answers.pop(0) if len(answers) > 1 else answers[0])
        self.deliveries.append(delivery)
        return delivery

    def forget(self, address: str) -> None:
        """There are no idle connections."""

    @property
    def open_count(self) -> int:
        """Connections that nobody has given back."""
        return sum(delivery.is_open for delivery in self.deliveries)


class MemoryDelivery:
    """One call and its answer: a Delivery and an Upstream in one. Every step gives the others a turn, as sockets do."""

    def __init__(self, calls: Calls, answer: Answer) -> None:
        self._calls = calls
        self._answer = answer
        self._left = list(answer.pieces)
        self._abort_error: Exception | None = None
        self.is_open = self.is_connected = self.is_written = self.is_finished = False
        self.status, self.headers, self.is_framed = answer.status, answer.headers, answer.is_framed
        self.content_length: int | None = None

    def send(self) -> MemoryDelivery:
        self._step("connect")
        self.is_open = self.is_connected = True
        self._step("write")
        self.is_written = not isinstance(self._answer.error, NodeUnreachable)
        self._step("read the head")
        if self._answer.error is not None:
            raise self._answer.error
        return self

    def read(self) -> bytes:
        if not self.is_open:
            raise self._abort_error or ReplyBroken("the reply has been closed")
        self._step("read")
        if not self._left:
            if self._answer.breaks is not None:
                raise self._answer.breaks
            self.is_finished = True
            return b""
        piece = self._left.pop(0)
        self.is_finished = not self._left and self.is_framed and self._answer.breaks is None
        return piece

    def abort(self, error: Exception) -> None:
        self._abort_error = self._abort_error or error

    def close(self) -> None:
        self.is_open = False
        self._calls.made("close the connection")

    def _step(self, name: str) -> None:
        self._calls.made(name)
        gevent.sleep(0)
        if self._abort_error is not None:
            raise self._abort_error


class MemoryRecorder:
    """Keeps what is saved; `finished` counts by id how often a record was saved with an outcome."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.records: dict[str, RequestRecord] = {}
        self.finished: Counter[str] = Counter()

    def save(self, record: RequestRecord) -> None:
        self.records[record.id] = record
        if record.outcome is not None:
            self.finished[record.id] += 1
        self._calls.made("save the record")


class MemoryClient:
    """The caller's connection. `stalls` lets each write block for so many seconds of the virtual clock."""

    def __init__(self, calls: Calls, stall: Callable[[], None]) -> None:
        self._calls = calls
        self._stall = stall
        self._on_gone: Callable[[], None] | None = None
        self._is_gone = self._is_reset = False
        self._taken = 0
        self.has_left = False
        self.received = b""

    @property
    def is_watched(self) -> bool:
        return self._on_gone is not None

    def watch(self, on_gone: Callable[[], None]) -> None:
        self._calls.made("watch the client")
        self._on_gone = on_gone

    def unwatch(self) -> None:
        self._on_gone = None
        self._calls.made("unwatch the client")

    def progress(self) -> int:
        self._calls.made("ask for progress")
        return self._taken

    def reset_on_close(self) -> None:
        self._calls.made("reset on close")

    def cut(self) -> None:
        self._is_reset = True
        self._calls.made("cut the client")

    def leave(self, *, with_reset: bool = False) -> None:
        """It goes. A write fails from now on, after a FIN the first one does not yet."""
        self.has_left = True
        self._is_reset = self._is_reset or with_reset
        on_gone, self._on_gone = self._on_gone, None  # told once
        if on_gone is not None:
            on_gone()

    def write(self, piece: bytes) -> None:
        """What the WSGI server does with a piece. Raises OSError where the client has left."""
        self._calls.made("write to the client")
        self._stall()
        if self._is_reset or self._is_gone:
            raise BrokenPipeError("the client is gone")
        self._is_gone = self.has_left
        self._taken += len(piece)
        self.received += piece


class MemoryNodeWatch:
    """Keeps what it is told of nodes."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.told: list[tuple[str, str]] = []

    def answered(self, node_id: str, can_serve: bool) -> None:
        self._told("answered", node_id)

    def missed(self, node_id: str, reason: str) -> None:
        self._told("missed", node_id)

    def seems_sick(self, node_id: str) -> None:
        self._told("seems sick", node_id)

    def refused_key(self, node_id: str) -> None:
        self._told("refused key", node_id)

    def lacks_model(self, node_id: str, model: str) -> None:
        self._told("lacks model", node_id)

    def _told(self, what: str, node_id: str) -> None:
        self.told.append((what, node_id))
        self._calls.made(f"tell that it {what}")


@dataclass(slots=True)
class Ending:
    """What the client saw in the end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    error: BaseException | None = None  # what the WSGI server got instead of an end: it cuts the connection then

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


class MemoryWorld:
    """A data plane with a real gateway and dispatcher, nodes in memory, one caller, and a clock of its own."""

    ID = "req-1"

    def __init__(
        self,
        answers: Mapping[str, Sequence[Answer]],
        *,
        slots: int = 1,
        stream: bool = False,
        stall_s: float = 0.0,
        keepalive_s: float = 0.0,
        occupied_moments: int = 0,
    ) -> None:
        self.calls = Calls()
        self.now = 1000.0
        self.errors: list[BaseException] = []  # of the sweep
        self.dispatcher = Dispatcher(self._clock)
        self.held = HeldBytes(10_000)
        self.live_calls = LiveCalls()
        self.sweep = ClockSweep(self._clock, self.errors.append)
        self.recorder = MemoryRecorder(self.calls)
        self.forwarder = MemoryForwarder(self.calls, answers)
        self.node_watch = MemoryNodeWatch(self.calls)
        self.client = MemoryClient(self.calls, self._stall)
        self.ending = Ending()
        self.is_stream = stream
        self._stall_s = stall_s
        self._keepalive_s = keepalive_s
        self._occupied_moments = occupied_moments
        self._occupants = []
        for node_id in answers:
            spec = NodeSpec(node_id, f"http://{node_id}", ("sim",), slots)
            self.dispatcher.put_node(spec, AdminState.ACTIVE)
            self.dispatcher.set_health(node_id, Health.UP)
        if occupied_moments:
            for number in range(slots * len(answers)):
                occupant = Ticket(f"occupant-{number}", "sim", Priority.CRITICAL, self.now + 3600)
                self.dispatcher.submit(occupant)
                self._occupants.append(occupant.wait())
        self._app = self._build(keepalive_s)
        self.greenlet = gevent.Greenlet(self._answer)

    def run(self) -> Ending:
        """Send the request and see it to its end, in virtual time."""
        self.greenlet.start()
        for moment in range(MOMENTS):
            for _ in range(TURNS):
                gevent.sleep(0)
            gevent.sleep(2 * self._keepalive_s)  # comments keep real time
            if self.greenlet.ready():
                return self.ending
            self.calls.made(A_MOMENT)
            if moment == self._occupied_moments:
                self.free_occupants()
            self.pass_time(MOMENT_S)
        self.greenlet.kill()
        raise AssertionError(f"the request does not end; its last calls: {self.calls.names[-10:]}")

    # -- what may happen to it --------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.dispatcher.tick()
        with suppress(gevent.GreenletExit):  # the sweep has a greenlet of its own, which would be started again
            self.sweep.sweep()

    def cancel(self) -> None:
        """An administrator cancels the request, where there is one."""
        try:
            self.live_calls.get(self.ID).cancel()
        except UnknownRequest:
            return

    def shut_down(self) -> None:
        """The server stops, and waits for nobody."""
        self.dispatcher.close()
        for call in self.live_calls:
            call.end_early(ShuttingDown())

    def kill(self) -> None:
        """Kill the greenlet that serves the request, from outside: it is hit where it waits next."""
        self.greenlet.kill(block=False)

    def remove_nodes(self) -> None:
        for node in self.dispatcher.nodes():
            self.dispatcher.remove_node(node.spec.id)

    def free_occupants(self) -> None:
        """Those who held every slot before the request came give them back."""
        for lease in self._occupants:
            lease.release()

    # -- what must be so in the end ---------------------------------------------------------------

    def leftovers(self) -> dict[str, int]:
        """What somebody has forgotten to give back."""
        self.free_occupants()
        for _ in range(TURNS):  # greenlets that were told to end
            gevent.sleep(0)
        found = {
            "slots": self.dispatcher.in_flight_count,
            "waiting": self.dispatcher.waiting_count,
            "live calls": len(self.live_calls),
            "held bytes": self.held.held,
            "connections": self.forwarder.open_count,
            "watches on the client": int(self.client.is_watched),
            "exchanges under the clocks": len(self.sweep),
        }
        return {name: count for name, count in found.items() if count}

    # -- inside -----------------------------------------------------------------------------------

    def _build(self, keepalive_s: float) -> DataPlane:
        around = Surroundings(
            self.dispatcher,
            self.forwarder,
            self._target,
            self.live_calls,
            self.sweep,
            Clocks(),
            self.recorder,
            lambda record: self.calls.made("write the log"),
            _explain,
            self._clock,
            self.held.give_back,
        )
        gateway = Gateway(around, self.node_watch, RetryRule(), error_event, self._clock, "boot")
        reader = BodyReader(10_000, 1.0, self.held.take, self.held.give_back, lambda error: False, lambda: None)
        return DataPlane(gateway, KeyRing([]), reader, lambda: self.ID, lambda _: self.client, 60.0, 60.0, keepalive_s)

    def _target(self, node_id: str) -> NodeTarget:
        self.calls.made("look up the node")
        return NodeTarget(node_id, self.dispatcher.node(node_id).spec.address)

    def _answer(self) -> None:
        """What gunicorn does: it always calls `close`, and cuts the connection where anything is raised."""
        try:
            chunks = self._app(self._environ(), self._start_response)
            try:
                for piece in chunks:
                    self.client.write(piece)
            finally:
                close = getattr(chunks, "close", None)
                if close is not None:
                    close()
        except BaseException as error:
            self.ending.error = error

    def _environ(self) -> dict[str, Any]:
        body = json.dumps({"model": "sim", "stream": self.is_stream, "messages": []}).encode()
        return {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/v1/chat/completions",
            "RAW_URI": "/v1/chat/completions",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": BytesIO(body),
        }

    def _start_response(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        self.calls.made("start the response")
        self.ending.status = int(status.split()[0])
        self.ending.headers = {name.lower(): value for name, value in headers}

    def _stall(self) -> None:
        """The client's connection blocks: meanwhile the clocks go on, and everybody else."""
        if self._stall_s:
            self.pass_time(self._stall_s)
            for _ in range(TURNS):
                gevent.sleep(0)

    def _clock(self) -> float:
        return self.now


#: The call that stands for a while in which the request waits for something.
A_MOMENT = "a moment passes"


def _explain(error: BaseException) -> ErrorFacts:
    answer = describe(error)
    return ErrorFacts(answer.status, answer.code, answer.message)
