"""BodyReader: reads a request body under its limits, which the server under us does not keep."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from scheduler.errors import BadCall, BodyTimeout, BodyTooLarge, ClientGone, SchedulerError

_PIECE_BYTES = 256 * 1024


class BodyReader:
    """Reads bodies whole: at most `max_body` bytes, no pause over `read_timeout_s`, exactly as long as announced.

    `hold` is asked for each piece that is kept and `let_go` told of what is dropped again; `is_parse_error` knows the
    server's own errors for malformed bodies, and `yield_turn` lets others run.
    """

    def __init__(
        self,
        max_body: int,
        read_timeout_s: float,
        hold: Callable[[int], None],
        let_go: Callable[[int], None],
        is_parse_error: Callable[[BaseException], bool],
        yield_turn: Callable[[], None],
    ) -> None:
        self._max_body = max_body
        self._read_timeout_s = read_timeout_s
        self._hold = hold
        self._let_go = let_go
        self._is_parse_error = is_parse_error
        self._yield_turn = yield_turn

    def read(self, environ: dict[str, Any]) -> bytes:
        """The body. Raises BadCall, BodyTooLarge, BodyTimeout, QueueFull or ClientGone; then none of it is held."""
        announced = _announced(environ)
        if announced is not None and announced > self._max_body:
            raise BodyTooLarge(self._max_body)
        sock = environ.get("gunicorn.socket")
        if sock is None:
            return self._read_all(environ["wsgi.input"], announced)
        sock.settimeout(self._read_timeout_s)
        try:
            return self._read_all(environ["wsgi.input"], announced)
        finally:
            sock.settimeout(None)

    def drop(self, body: bytes) -> None:
        """A body that was read is not needed after all."""
        self._let_go(len(body))

    def _read_all(self, stream: Any, announced: int | None) -> bytes:
        pieces: list[bytes] = []
        size = 0
        limit = self._max_body if announced is None else announced
        try:
            while size <= limit:
                # One byte beyond the limit is asked for, so that a body of any framing is known to be too long.
                piece = stream.read(min(_PIECE_BYTES, limit + 1 - size))
                if not piece:
                    break
                self._hold(len(piece))
                size += len(piece)
                pieces.append(piece)
                if len(piece) == _PIECE_BYTES:
                    self._yield_turn()  # a fast upload must not stall the streams
            if size > self._max_body:
                raise BodyTooLarge(self._max_body)
            if announced is not None and size < announced:
                message = f"The body ended after {size} of the {announced} bytes its Content-Length announces."
                raise BadCall(message, "body_incomplete")
        except BaseException as error:
            self._let_go(size)
            if isinstance(error, SchedulerError):
                raise
            raise self._ours(error) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _ours(self, error: BaseException) -> BaseException:
        """The server's error for an unreadable body, as ours."""
        if isinstance(error, TimeoutError):
            return BodyTimeout(f"The request body made no progress for {self._read_timeout_s:g} s.")
        if self._is_parse_error(error):
            return BadCall("The request body is not framed as its headers say.", "malformed_body")
        if isinstance(error, OSError):
            if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                return ClientGone("The client closed the connection while it sent its body.")
            return BadCall("The request body ended too early.", "body_incomplete")
        return error


def _announced(environ: dict[str, Any]) -> int | None:
    """The Content-Length, which the server has checked; None for a chunked body, 0 where there is none."""
    coding = environ.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if coding == "chunked":
        return None
    if coding:
        raise BadCall("The only transfer coding understood is chunked.", "malformed_body")
    return int(environ.get("CONTENT_LENGTH") or 0)
