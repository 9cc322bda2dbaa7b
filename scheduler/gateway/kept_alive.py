"""KeptAliveStream: an event stream whose client hears something while it waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent

from scheduler.errors import ClientGone, NodeProtocolError
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.reply import ErrorEvent, Reply

#: A comment: every client of event streams skips it.
COMMENT = b": keep-alive\n\n"


class PendingReply:
    """A reply that is waited for in a greenlet of its own."""

    def __init__(self, serve: Callable[[], Reply]) -> None:
        self._greenlet = gevent.spawn(_outcome, serve)

    def wait(self, timeout_s: float) -> Reply | None:
        """The reply, or None where it has not come in time. Raises what serving raised."""
        self._greenlet.join(timeout_s)
        if not self._greenlet.ready():
            return None
        outcome = self._greenlet.value
        if isinstance(outcome, Reply):
            return outcome
        raise outcome if isinstance(outcome, BaseException) else ClientGone("The request was ended.")


class KeptAliveStream:
    """For front proxies that cut silence: the status is 200 already, comments go out until the reply comes.

    What can no longer be said by a status is said by an error event: that serving failed, that the engine refused, or
    that its answer is no event stream in plain text, which alone can follow the comments.
    """

    def __init__(self, exchange: Exchange, pending: PendingReply, interval_s: float, error_event: ErrorEvent) -> None:
        self._exchange = exchange
        self._pending = pending
        self._interval_s = interval_s
        self._error_event = error_event
        self._has_begun = False  # the first comment goes out at once
        self._reply: Reply | None = None
        self._is_over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._reply is not None:
            return next(self._reply.stream)
        if self._is_over:
            raise StopIteration
        if not self._has_begun:
            self._has_begun = True
            return COMMENT
        try:
            self._reply = self._pending.wait(self._interval_s)
            if self._reply is None:
                return COMMENT
            self._refuse_other_answers(self._reply)
        except Exception as error:
            self._is_over, self._reply = True, None
            self._exchange.fail(error)
            return self._error_event(self._exchange.ended_by or error)
        return next(self._reply.stream)

    def close(self) -> None:
        """Called by the WSGI server at the end, or when the client has left. Idempotent."""
        self._exchange.end_early(ClientGone("The client closed the connection."))
        if self._reply is not None:
            self._reply.stream.close()
        self._exchange.close()

    def _refuse_other_answers(self, reply: Reply) -> None:
        if reply.status >= 400:
            raise NodeProtocolError(f"The node answered HTTP {reply.status}.")
        if not reply.is_event_stream:
            raise NodeProtocolError("The node answered a stream request with something else than an event stream.")
        if any(name.lower() == "content-encoding" and value.lower() != "identity" for name, value in reply.headers):
            raise NodeProtocolError("The node compressed its answer without being asked to.")


def _outcome(serve: Callable[[], Reply]) -> Reply | Exception:
    """The reply, or the error: gevent would print a traceback for an error that leaves a greenlet."""
    try:
        return serve()
    except Exception as error:
        return error
