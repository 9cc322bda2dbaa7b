"""Exchange: one request from acceptance to its end, and all that is held for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.lease import Lease
from scheduler.core.outcome import Outcome
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.errors import (
    AdmissionError,
    Cancelled,
    ClientGone,
    NodeTimeout,
    NodeUnreachable,
    ReplyBroken,
    SchedulerError,
    ShuttingDown,
    UnknownNode,
    UnknownRequest,
)
from scheduler.gateway.call import InferenceCall
from scheduler.gateway.clocks import Clocks, ClockSweep
from scheduler.gateway.live_calls import LiveCalls
from scheduler.gateway.ports import ClientConnection, Delivery, Forwarder, NodeTarget, Recorder, Upstream
from scheduler.gateway.read_ahead import ReadAhead
from scheduler.gateway.record import Attempt, RequestRecord
from scheduler.gateway.usage import UsageTap

#: A send that has been blocked for so long makes the reply be read ahead.
STALL_S = 0.05
#: Progress of a blocked send is asked of the kernel only after so long.
PROGRESS_AFTER_S = 0.5


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """How an error is told to the caller."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every exchange works with; built once."""

    dispatcher: Dispatcher
    forwarder: Forwarder
    target: Callable[[str], NodeTarget]  # by node id
    live_calls: LiveCalls
    sweep: ClockSweep
    clocks: Clocks
    recorder: Recorder
    on_finished: Callable[[RequestRecord], None]  # once a request, for the log
    explain: Callable[[BaseException], ErrorFacts]
    clock: Callable[[], float]
    release_body: Callable[[int], None]  # so many bytes of a body are held no longer


class Exchange:
    """One request, and all that is held for it: its place in the queue, its lease, the node's connection, the watch on
    its client, its body. Each is given back exactly once, whatever ends the request and whenever.

    Order of the end: the node's connection is closed, then the slot is free, then the record is finished.
    """

    def __init__(
        self, around: Surroundings, call: InferenceCall, client: ClientConnection, record: RequestRecord
    ) -> None:
        self._around = around
        self._client = client
        self._created = around.clock()
        self._is_finished = False
        self.call = call
        self.record = record
        self.ticket = Ticket(record.id, call.model, call.priority, self._created + call.queue_timeout_s)
        self.usage = UsageTap()
        self.ended_by: SchedulerError | None = None  # who ended it early; the first reason stays
        self._lease: Lease | None = None
        self._delivery: Delivery | None = None
        self._upstream: Upstream | None = None
        self._read_ahead: ReadAhead | None = None
        self._body_bytes = len(call.body)
        self._asked_at = self._created  # since when it waits for a slot
        self._dispatched_at = 0.0
        self.last_piece_at = 0.0  # when the node has last sent something
        self._is_replying = False
        self._is_streaming = False
        self._is_reading = False
        self._is_whole = False  # the last byte of the answer has arrived
        self._sending_since: float | None = None
        self._progress: tuple[int, float] | None = None  # of a blocked send: what the client took, and since when

    def __repr__(self) -> str:
        return f"<Exchange {self.record.id} {self.phase} {self._lease!r}>"

    def begin(self) -> None:
        """Become known to others: from here on its client may leave and an administrator may cancel it."""
        self._around.live_calls.add(self)
        self._client.watch(self._client_left)
        self._around.recorder.save(self.record)

    # -- as others see it ---------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """True while it holds a slot or its answer is still being sent."""
        return self._lease is not None or self._is_replying

    @property
    def phase(self) -> str:
        """queued, connecting, waiting_first_byte, streaming, sending."""
        if self._is_replying:
            return "streaming" if self._lease is not None else "sending"
        if self._lease is None:
            return "queued"
        return "waiting_first_byte" if self._delivery is not None and self._delivery.is_written else "connecting"

    @property
    def elapsed_ms(self) -> float:
        return self._since_created_ms()

    def change_priority(self, priority: Priority) -> None:
        """Move it to another priority while it waits. Raises UnknownRequest where it does not."""
        self._around.dispatcher.change_priority(self.ticket.id, priority)
        self.record.priority = priority.label
        self._around.recorder.save(self.record)

    def cancel(self) -> None:
        """End it on behalf of an administrator. Idempotent, never blocks."""
        self.end_early(Cancelled())

    # -- the queue ----------------------------------------------------------------------------

    def enter_queue(self) -> None:
        """Submit the ticket. Raises AdmissionError."""
        self._raise_if_ended()
        self._around.dispatcher.submit(self.ticket)

    def enter_queue_again(self, exclude: str | None, needs_company: bool = False) -> None:
        """Submit the ticket again after an attempt has failed. Raises AdmissionError. See Dispatcher.resubmit."""
        self._raise_if_ended()
        self._asked_at = self._around.clock()
        self._around.dispatcher.resubmit(self.ticket, exclude, needs_company)

    def wait_for_lease(self) -> Lease:
        """Block until the ticket has its lease, which this exchange then owns. Raises what ended the wait."""
        lease = self.ticket.wait()
        if self._is_finished:  # by another greenlet, after the grant: the slot is back already
            raise self.ended_by or ClientGone("The request was ended.")
        self._lease = lease
        now = self._dispatched_at = self._around.clock()
        record = self.record
        record.queue_ms = (record.queue_ms or 0.0) + (lease.granted_at - self._asked_at) * 1000
        record.node_id = lease.node.id
        record.decision = f"least in flight for its weight among {lease.considered} with a free slot"
        if record.started_at is None:
            record.started_at = self._wall(now)
        record.status = "processing"
        record.attempts.append(Attempt(lease.node.id, (now - self._created) * 1000))
        self._around.recorder.save(record)
        self._around.sweep.add(self)
        self._raise_if_ended()
        return lease

    # -- the node -----------------------------------------------------------------------------

    def deliver(self, lease: Lease) -> Upstream:
        """Send the call to the leased node; status and headers of its answer. Raises NodeError, or who ended it."""
        call, around = self.call, self._around
        try:
            target = around.target(lease.node.id)
        except UnknownNode as error:
            raise NodeUnreachable("The node was removed.") from error
        delivery = self._delivery = around.forwarder.prepare(target, call.path, call.query, call.headers, call.body)
        self._raise_if_ended()
        self.usage = UsageTap()
        self._is_whole = False
        self.last_piece_at = 0.0
        self.record.first_byte_at = self.record.ttfb_ms = None  # what an earlier attempt brought was no answer
        upstream = self._upstream = delivery.send()
        return upstream

    @property
    def was_written(self) -> bool:
        """True where the node has the whole call."""
        return self._delivery is not None and self._delivery.is_written

    def read(self) -> bytes:
        """A piece of the answer; b"" at its end. Raises NodeError, or who ended it."""
        upstream = self._upstream
        if upstream is None:
            if self._is_whole:  # all of it has been relayed: whoever ends it now comes too late
                return b""
            raise self.ended_by or ReplyBroken("The reply has been closed.")
        self._is_reading = True
        try:
            piece = upstream.read()
        finally:
            self._is_reading = False
        now = self.last_piece_at = self._around.clock()
        self._is_whole = upstream.is_finished
        if piece:
            self.usage.see(piece)
            if not self._is_replying:
                self._first_byte(now)
        return piece

    def begin_reply(self, status: int, is_streaming: bool) -> None:
        """The answer goes to the caller from here on: no other attempt will need the body."""
        self._is_streaming = is_streaming
        self.record.http_status = status
        self._is_replying = True
        self._drop_body()

    def attempt_ended(self, result: str) -> None:
        """Note how the latest attempt ended."""
        attempts = self.record.attempts
        if attempts and attempts[-1].duration_ms is None:
            attempts[-1].result = result
            attempts[-1].duration_ms = self._since_created_ms() - attempts[-1].start_ms

    def let_go(self, hold_back_s: float | None = None) -> bool:
        """Close or give back the node's connection, then the slot; True where that granted somebody. Idempotent."""
        lease, self._lease = self._lease, None
        delivery, self._delivery, self._upstream = self._delivery, None, None
        has_granted = False
        try:
            if delivery is not None:
                delivery.close()
        finally:
            if lease is not None:
                has_granted = lease.release(hold_back_s)
        return has_granted

    # -- the client ---------------------------------------------------------------------------

    def sending(self, piece: bytes) -> None:
        """A piece goes to the client: until `sent`, its connection may block."""
        self.record.bytes_out += len(piece)
        self.record.pieces += 1
        self._sending_since = self._around.clock()
        self._progress = None

    def sent(self) -> None:
        """The client's connection has taken the piece."""
        self._sending_since = None

    def next_piece(self) -> bytes:
        """The next piece of the answer, read ahead or not; b"" at the end. The slot goes back with the last byte."""
        if self._read_ahead is not None:
            return self._read_ahead.read()
        return self.read()

    @property
    def is_node_done(self) -> bool:
        """True where the last byte of the answer has arrived and the slot is still held."""
        return self._is_whole and self._lease is not None

    def reset_client(self) -> None:
        """Let the client's connection end with a reset, so that what it has got cannot look whole."""
        self._client.reset_on_close()

    # -- the end ------------------------------------------------------------------------------

    def end_early(self, error: SchedulerError) -> None:
        """End it from outside, in whatever phase, from any greenlet or the hub. Idempotent, never blocks."""
        if self.ended_by is not None or self._is_finished:
            return
        self.ended_by = error
        if self.ticket.is_waiting:
            with contextlib.suppress(UnknownRequest):  # its deadline or its slot came with this very step of the clock
                self._around.dispatcher.cancel(self.ticket.id, error)
            return
        is_blocked = self._sending_since is not None  # its greenlet is held up by the client, and reads nothing
        if is_blocked and (self._delivery is None or isinstance(error, ClientGone)):
            self._client.cut()  # wakes it
        self._abort_delivery(error)

    def succeed(self) -> None:
        """The answer was relayed to its end."""
        status = self.record.http_status or 0
        if status < 400:
            self._finish(Outcome.COMPLETED, None, None)
        else:
            self._finish(Outcome.FAILED, f"upstream_http_{status}", f"The node answered HTTP {status}.")

    def fail(self, error: BaseException) -> None:
        """It has ended with an error. Gives everything back. Idempotent: the first end counts."""
        error = self.ended_by or error
        facts = self._around.explain(error)
        if not self._is_replying:
            self.record.http_status = facts.status
        self._finish(self._outcome_of(error), facts.code, facts.message)

    def close(self) -> None:
        """Called by whoever owns the exchange last, always. What has no end yet was ended by the client."""
        if not self._is_finished:
            self.fail(self.ended_by or ClientGone("The client closed the connection."))

    def check_clocks(self, now: float) -> None:
        """End it where one of its clocks has run out; read ahead where its client's connection blocks."""
        clocks, delivery = self._around.clocks, self._delivery
        if delivery is not None and self._lease is not None and self.ended_by is None:
            elapsed = now - self._dispatched_at
            if not self._is_replying and not delivery.is_connected and elapsed > clocks.connect_timeout_s:
                delivery.abort(NodeUnreachable("It did not accept the connection in time (connect_timeout)."))
            elif not (self._is_replying and self._is_streaming):
                if elapsed > clocks.request_timeout_s:
                    self._time_out("request_timeout")
            elif elapsed > clocks.stream_timeout_s:
                self._time_out("stream_timeout")
            elif self._is_reading and now - self.last_piece_at > clocks.idle_timeout_s:
                self._time_out("idle_timeout")
        if self._sending_since is not None:
            self._check_send(now, now - self._sending_since)

    # -- inside -------------------------------------------------------------------------------

    def _time_out(self, clock: str) -> None:
        self.ended_by = error = NodeTimeout(clock)
        self._abort_delivery(error)

    def _abort_delivery(self, error: SchedulerError) -> None:
        if self._delivery is None:
            return
        self._delivery.abort(error)
        if self._sending_since is not None and self._read_ahead is None:
            self.let_go()  # nobody reads, so nobody would find out

    def _check_send(self, now: float, blocked_s: float) -> None:
        if blocked_s > STALL_S and self._read_ahead is None and self._upstream is not None:
            self._read_ahead = ReadAhead(self._read_for_later, self.let_go)
        if blocked_s > PROGRESS_AFTER_S:
            progress = self._client.progress()
            if self._progress is None:
                self._progress = (progress, now - blocked_s)
            elif self._progress[0] != progress:
                self._progress = (progress, now)
            elif now - self._progress[1] > self._around.clocks.write_timeout_s:
                self.end_early(ClientGone("The client stopped reading (server.write_timeout)."))
                self._client.cut()

    def _read_for_later(self) -> bytes:
        """Read for the read-ahead; the slot goes back as soon as the node is done."""
        piece = self.read()
        if self.is_node_done:
            self.let_go()
        return piece

    def _client_left(self) -> None:
        self.end_early(ClientGone("The client closed the connection."))

    def _raise_if_ended(self) -> None:
        if self.ended_by is not None:
            raise self.ended_by

    def _first_byte(self, now: float) -> None:
        if self.record.first_byte_at is None:
            self.record.first_byte_at = self._wall(now)
            self.record.ttfb_ms = (now - self._created) * 1000

    def _outcome_of(self, error: BaseException) -> Outcome:
        if isinstance(error, Cancelled):
            return Outcome.CANCELLED
        if isinstance(error, ClientGone):
            return Outcome.CLIENT_CLOSED
        if isinstance(error, ShuttingDown) and self.record.attempts:
            return Outcome.INTERRUPTED
        if isinstance(error, AdmissionError):
            has_waited = self.ticket.error is not None or self.record.attempts
            return Outcome.EVICTED if has_waited else Outcome.REJECTED
        return Outcome.FAILED

    def _finish(self, outcome: Outcome, code: str | None, message: str | None) -> None:
        """Give everything back, then finish the record; once."""
        if self._is_finished:
            return
        self._is_finished = True
        try:
            self._give_back()
        finally:
            self._finish_record(outcome, code, message)

    def _give_back(self) -> None:
        """What fails, or is interrupted, keeps nothing of what follows from being given back."""
        try:
            if self._read_ahead is not None:
                # Its greenlet may wait on the connection: it has to be gone before the connection is closed under it.
                self._read_ahead.stop()
        finally:
            try:
                self.let_go()
            finally:
                self._around.dispatcher.abandon(self.ticket)
                self._around.sweep.remove(self)
                self._drop_body()
                self._around.live_calls.remove(self)
                self._client.unwatch()

    def _finish_record(self, outcome: Outcome, code: str | None, message: str | None) -> None:
        self.attempt_ended(code or outcome.value)
        record, now = self.record, self._around.clock()
        record.outcome, record.status = outcome.value, outcome.status
        record.error_code, record.error_message = code, message
        if not record.attempts and outcome is not Outcome.REJECTED:
            record.queue_ms = (now - self._asked_at) * 1000  # it waited, for nothing
        record.finished_at = self._wall(now)
        record.latency_ms = (now - self._created) * 1000
        record.prompt_tokens, record.completion_tokens = self.usage.counts()
        # Last: a slow database or log must never hold a slot.
        self._around.recorder.save(record)
        self._around.on_finished(record)

    def _drop_body(self) -> None:
        if self._body_bytes:
            self._around.release_body(self._body_bytes)
            self._body_bytes = 0
            self.call.body = b""

    def _since_created_ms(self) -> float:
        return (self._around.clock() - self._created) * 1000

    def _wall(self, now: float) -> float:
        return self.record.created_at + (now - self._created)
