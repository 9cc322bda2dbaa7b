"""Reply: a node's answer on its way to the caller, and the stream that owns what is held for it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass

import gevent

from scheduler.errors import ClientGone, ReplyBroken, SchedulerError
from scheduler.gateway.exchange import Exchange

#: Turns an error into the event that tells it to the reader of an event stream.
ErrorEvent = Callable[[BaseException], bytes]

# As an event of its own: a model may well write the word.
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose first body byte, or whose end, is here. Whoever gets it closes its stream."""

    status: int
    headers: list[tuple[str, str]]  # those that pass
    stream: ReplyStream
    is_event_stream: bool


class ReplyCut(ConnectionResetError):
    """Raised to the server under us when a reply must not look whole: it closes the connection, without noise."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the reply of the node broke")


class ReplyStream:
    """The body of an answer: an iterator for the WSGI server, which calls `close` whatever happens.

    It owns the exchange. The slot goes back when the node's last byte has arrived, before that byte is written to the
    client. A reply that breaks never looks whole: an event stream ends with an error event, anything else is cut.
    """

    __slots__ = (
        "_can_tell_error",
        "_error_event",
        "_exchange",
        "_first",
        "_is_event_stream",
        "_is_framed",
        "_is_over",
        "_tail",
    )

    def __init__(
        self,
        exchange: Exchange,
        first: bytes,
        *,
        is_framed: bool,
        is_event_stream: bool,
        can_tell_error: bool,
        error_event: ErrorEvent,
    ) -> None:
        self._exchange = exchange
        self._first: bytes | None = first
        self._is_framed = is_framed
        self._is_event_stream = is_event_stream
        self._can_tell_error = can_tell_error  # an event stream in plain text whose length was not announced
        self._error_event = error_event
        self._tail = b""  # the end of what went out
        self._is_over = False

    def __iter__(self) -> ReplyStream:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        exchange.sent()
        if self._is_over:
            raise StopIteration
        try:
            if self._first is None:
                piece = exchange.next_piece()
            else:
                piece, self._first = self._first, None
            if not piece:
                self._end()
                raise StopIteration
        except SchedulerError as error:
            return self._broken(error)
        except StopIteration:
            raise
        except BaseException as error:
            exchange.fail(error)  # else `close` would lay it at the client's door
            raise
        if exchange.is_node_done and exchange.let_go():
            # Somebody was granted: let that call go out before this answer's tail is written.
            gevent.sleep(0)
        if self._is_event_stream:
            self._tail = (self._tail + piece)[-64:] if len(piece) < 64 else piece[-64:]
        exchange.sending(piece)
        return piece

    def close(self) -> None:
        """Called by the WSGI server at the end, or when the client has left. Idempotent."""
        if self._has_told_end:
            self._exchange.succeed()
        self._exchange.close()

    @property
    def _has_told_end(self) -> bool:
        """True where an event stream has told its end: many clients leave then, without waiting for the last chunk."""
        return self._is_event_stream and _DONE.search(self._tail) is not None

    def _end(self) -> None:
        if not self._is_framed and self._is_event_stream and not self._has_told_end:
            raise ReplyBroken("The node closed the connection before the end of its stream.")
        self._exchange.succeed()

    def _broken(self, error: SchedulerError) -> bytes:
        exchange = self._exchange
        self._is_over = True
        has_left = isinstance(exchange.ended_by or error, ClientGone)
        if self._has_told_end and (has_left or not self._is_framed):
            exchange.succeed()  # nothing but the end of the connection was to come
            if not has_left:
                raise StopIteration
        exchange.fail(error)
        if has_left or self._has_told_end or not self._can_tell_error:
            exchange.reset_client()
            raise ReplyCut from error
        return _frame_end(self._tail) + self._error_event(exchange.ended_by or error)


def _frame_end(tail: bytes) -> bytes:
    """What ends the half frame that went out last."""
    if not tail or tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")):
        return b""
    return b"\n" if tail.endswith(b"\n") else b"\n\n"
