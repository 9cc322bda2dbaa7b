"""Gateway: serves a call, from its ticket to the first byte of its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gevent

from scheduler.core.lease import Lease
from scheduler.errors import (
    NodeAuthError,
    NodeClosed,
    NodeError,
    NodeProtocolError,
    NodeTimeout,
    NodeUnreachable,
    NoOtherNode,
    QueueTimeout,
    ReplyBroken,
)
from scheduler.gateway.answer_class import AnswerClass, classify, is_no_such_model
from scheduler.gateway.busy_backoff import BusyBackoff
from scheduler.gateway.call import InferenceCall
from scheduler.gateway.exchange import Exchange, Surroundings
from scheduler.gateway.passing_headers import response_headers
from scheduler.gateway.ports import ClientConnection, Upstream
from scheduler.gateway.record import RequestRecord
from scheduler.gateway.reply import ErrorEvent, Reply, ReplyStream

#: The most that is kept of an answer that sends the request elsewhere.
MAX_KEPT_BYTES = 64 * 1024


class NodeWatch(Protocol):
    """What is told of how nodes behave under requests."""

    def answered(self, node_id: str, can_serve: bool) -> None:
        """It gave an answer; `can_serve` where that was neither busy nor an error of its own."""

    def missed(self, node_id: str, reason: str) -> None:
        """It could not be reached, or gave no answer."""

    def seems_sick(self, node_id: str) -> None:
        """It answered HTTP 5xx: a probe should decide."""

    def refused_key(self, node_id: str) -> None:
        """It answered 401 or 403 to our key."""

    def lacks_model(self, node_id: str, model: str) -> None:
        """It answered that it does not have a model that it is registered with."""


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How often a request may be delivered."""

    max_attempts: int = 3
    retry_sent: bool = True  # one more node where the first had the call and gave no answer


@dataclass(frozen=True, slots=True)
class _KeptAnswer:
    """An answer that sent the request elsewhere; it passes where there is no elsewhere."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Gateway:
    """Serves calls: a ticket, a lease, an attempt, perhaps another, then a Reply that owns all that is held."""

    def __init__(
        self,
        around: Surroundings,
        node_watch: NodeWatch,
        rule: RetryRule,
        error_event: ErrorEvent,
        wall_clock: Callable[[], float],
        boot_id: str,
    ) -> None:
        self._around = around
        self._node_watch = node_watch
        self._rule = rule
        self._error_event = error_event
        self._wall_clock = wall_clock
        self._boot_id = boot_id
        self._backoff = BusyBackoff(around.clock)

    def accept(self, call: InferenceCall, client: ClientConnection, request_id: str) -> Exchange:
        """Open the record of a call; from here on its every end is seen. Whoever gets the exchange closes it."""
        record = RequestRecord(
            request_id,
            self._boot_id,
            call.model,
            call.priority.label,
            call.path,
            call.stream,
            call.client,
            self._wall_clock(),
            call.client_request_id,
            call.key_name,
            len(call.body),
        )
        return Exchange(self._around, call, client, record)

    def serve(self, exchange: Exchange) -> Reply:
        """Block until the answer's first body byte, or its end, is here. Raises AdmissionError, NodeError, ClientGone.

        On an error everything is given back and the record is finished before it is raised.
        """
        try:
            exchange.begin()
            return self._attempts(exchange)
        except BaseException as error:
            exchange.fail(error)
            raise

    def _attempts(self, exchange: Exchange) -> Reply:
        kept: _KeptAnswer | None = None
        last: NodeError | None = None
        exclude: str | None = None
        is_poisonous = False  # a node has died when it had the whole call: perhaps of it
        while True:
            try:
                if exchange.record.attempts:
                    exchange.enter_queue_again(exclude, is_poisonous)
                else:
                    exchange.enter_queue()
                lease = exchange.wait_for_lease()
            except (NoOtherNode, QueueTimeout) as refusal:
                # Attempts or wait are spent: what the last node said is the best there is to say.
                if kept is not None:
                    return self._kept_reply(exchange, kept)
                if last is not None and isinstance(refusal, NoOtherNode):
                    raise last from None
                raise
            try:
                outcome = self._attempt(exchange, lease)
            except NodeError as error:
                self._attempt_failed(exchange, lease, error)
                kept, last, exclude = None, error, lease.node.id
                is_poisonous = is_poisonous or isinstance(error, _MAY_HAVE_DIED_OF_IT)
                if not self._may_try_again(exchange, error):
                    raise
                continue
            if isinstance(outcome, Reply):
                return outcome
            kept, last, exclude = outcome.kept, outcome.error, outcome.exclude
            if len(exchange.record.attempts) >= self._rule.max_attempts:
                if kept is not None:
                    return self._kept_reply(exchange, kept)
                raise last or NoOtherNode

    def _attempt(self, exchange: Exchange, lease: Lease) -> Reply | _Elsewhere:
        """Deliver the call to the leased node, up to the first byte of an answer that may pass."""
        upstream = exchange.deliver(lease)
        node_id = lease.node.id
        answer = classify(upstream.status)
        if answer is AnswerClass.REDIRECT:
            raise NodeProtocolError("The node answered with a redirect, which is not followed.", node_id)
        if answer is AnswerClass.AUTH:
            self._node_watch.refused_key(node_id)
            exchange.attempt_ended("auth")
            exchange.let_go()
            return _Elsewhere(
                None, NodeAuthError("The node refused the key it was given (401, 403).", node_id), node_id
            )
        if answer is AnswerClass.SICK:
            self._node_watch.seems_sick(node_id)
        elif answer is not AnswerClass.BUSY:
            self._backoff.served(node_id)
        first = exchange.read()
        self._node_watch.answered(node_id, can_serve=answer is AnswerClass.PASS)
        if answer is AnswerClass.BUSY or answer is AnswerClass.NO_SUCH_MODEL:
            first, is_whole = _read_more(exchange, upstream, first)
            if is_whole and (answer is AnswerClass.BUSY or is_no_such_model(first)):
                return self._elsewhere(exchange, lease, upstream, first, is_busy=answer is AnswerClass.BUSY)
        return self._reply(exchange, upstream, first)

    def _elsewhere(
        self, exchange: Exchange, lease: Lease, upstream: Upstream, body: bytes, *, is_busy: bool
    ) -> _Elsewhere:
        """Keep an answer that may not be the last word, and give the node back."""
        kept = _KeptAnswer(upstream.status, list(upstream.headers), body)
        if not is_busy:
            self._node_watch.lacks_model(lease.node.id, exchange.call.model)
            exchange.attempt_ended("no_such_model")
            exchange.let_go()
            return _Elsewhere(kept, None, lease.node.id)
        retry_after = next((value for name, value in upstream.headers if name.lower() == "retry-after"), None)
        exchange.attempt_ended("busy")
        exchange.let_go(self._backoff.next_s(lease.node.id, retry_after))
        return _Elsewhere(kept, None, None)

    def _reply(self, exchange: Exchange, upstream: Upstream, first: bytes) -> Reply:
        """The answer is the caller's from here on; exchange and lease move into its stream."""
        headers = {name.lower(): value for name, value in upstream.headers}
        is_event_stream = headers.get("content-type", "").lower().startswith("text/event-stream")
        is_framed, can_tell = upstream.is_framed, is_event_stream and upstream.content_length is None
        exchange.begin_reply(upstream.status, exchange.call.stream or is_event_stream)
        if exchange.is_node_done and exchange.let_go():
            gevent.sleep(0)  # the next call goes out before this answer is written
        stream = ReplyStream(
            exchange,
            first,
            is_framed=is_framed,
            is_event_stream=is_event_stream,
            can_tell_error=can_tell and "content-encoding" not in headers,
            error_event=self._error_event,
        )
        return Reply(upstream.status, response_headers(upstream.headers, is_event_stream), stream, is_event_stream)

    def _kept_reply(self, exchange: Exchange, kept: _KeptAnswer) -> Reply:
        exchange.begin_reply(kept.status, False)
        stream = ReplyStream(
            exchange,
            kept.body,
            is_framed=True,
            is_event_stream=False,
            can_tell_error=False,
            error_event=self._error_event,
        )
        return Reply(kept.status, response_headers(kept.headers, False), stream, False)

    def _attempt_failed(self, exchange: Exchange, lease: Lease, error: NodeError) -> None:
        """Give the node back, and tell the watch where it was the node's doing."""
        node_id = error.node_id = lease.node.id
        exchange.attempt_ended(_RESULT.get(type(error), "failed"))
        exchange.let_go()
        self._node_watch.missed(node_id, _RESULT.get(type(error), "failed"))

    def _may_try_again(self, exchange: Exchange, error: NodeError) -> bool:
        """True where another node may get the call: always before it was written, once after.

        The core sees to it that it then never gets to the last node of its model.
        """
        if exchange.ended_by is not None or len(exchange.record.attempts) >= self._rule.max_attempts:
            return False
        if isinstance(error, NodeUnreachable):
            return True
        if not self._rule.retry_sent or not isinstance(error, _MAY_HAVE_DIED_OF_IT):
            return False
        return sum(attempt.result == "closed" for attempt in exchange.record.attempts) < 2


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The verdict of an attempt that sends the request to another node, or back to the queue."""

    kept: _KeptAnswer | None
    error: NodeError | None
    exclude: str | None


_MAY_HAVE_DIED_OF_IT = (NodeClosed, ReplyBroken)

_RESULT: dict[type[NodeError], str] = {
    NodeUnreachable: "unreachable",
    NodeClosed: "closed",
    ReplyBroken: "closed",
    NodeTimeout: "timeout",
    NodeProtocolError: "protocol_error",
}


def _read_more(exchange: Exchange, upstream: Upstream, first: bytes) -> tuple[bytes, bool]:
    """Read a small answer whole: what was read, and whether that was all of it."""
    pieces, size = [first], len(first)
    while not upstream.is_finished and size <= MAX_KEPT_BYTES:
        piece = exchange.read()
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces), upstream.is_finished
