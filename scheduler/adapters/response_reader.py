"""ResponseReader: one HTTP response, read with httptools as its bytes arrive."""

from __future__ import annotations

import httptools

#: Bounds of a response's head: what goes past them is no usable answer.
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
_TOO_LARGE = f"its headers are larger than {MAX_HEAD_BYTES} bytes"


class BadResponse(Exception):
    """Raised when what arrived is no HTTP response that can be passed on; says why, without quoting it."""


class ResponseReader:
    """One response, fed with what arrives; interim (1xx) responses are skipped.

    llhttp, under httptools, is strict by default: bad header bytes, differing or doubled Content-Length, Content-Length
    with Transfer-Encoding and malformed chunks are errors. What it lets pass and we do not: other transfer codings
    than chunked, a switch of protocol, heads without bound.
    """

    __slots__ = (
        "_header_bytes",
        "_is_interim",
        "_parser",
        "_pieces",
        "content_length",
        "has_surplus",
        "head_bytes",
        "headers",
        "is_chunked",
        "is_finished",
        "is_head_complete",
        "is_keep_alive",
        "is_started",
        "status",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._is_interim = False
        self._header_bytes = 0
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.head_bytes = 0
        self.content_length: int | None = None
        self.is_chunked = False
        self.is_started = False  # any byte has arrived
        self.is_head_complete = False
        self.is_keep_alive = False
        self.is_finished = False  # the last byte of the body has arrived
        self.has_surplus = False  # bytes arrived beyond the end: the connection cannot be used again

    @property
    def is_framed(self) -> bool:
        """False where the end of the connection is the only end of the body."""
        return self.is_chunked or self.content_length is not None or self.status in (204, 304)

    def feed(self, data: bytes) -> None:
        """Take what has arrived. Raises BadResponse."""
        self.is_started = True
        if not self.is_head_complete:
            self.head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.is_finished:
                self.has_surplus = True
                return
            raise BadResponse(_why(error)) from None
        if not self.is_head_complete and self.head_bytes > MAX_HEAD_BYTES:
            raise BadResponse(_TOO_LARGE)

    def take(self) -> bytes:
        """What has arrived of the body since the last call, in one piece."""
        pieces = self._pieces
        if not pieces:
            return b""
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    # -- called by httptools ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.is_finished:
            self.has_surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_head_complete:
            return  # a trailer, or a header beyond the end
        if len(self.headers) >= MAX_HEADERS:
            raise BadResponse(f"it has more than {MAX_HEADERS} headers")
        # Counted here too: a head that came in the same piece as its end would pass the check in `feed`.
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > MAX_HEAD_BYTES:
            raise BadResponse(_TOO_LARGE)
        self.headers.append((name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")))

    def on_headers_complete(self) -> None:
        if self.is_finished:
            return
        status = self._parser.get_status_code()
        if status == 101 or not 100 <= status <= 599:
            raise BadResponse(f"its status is {status}")
        self._is_interim = status < 200
        if self._is_interim:
            self.headers.clear()
            return
        self.status = status
        for name, value in self.headers:
            lower = name.lower()
            if lower == "content-length":
                self.content_length = int(value)
            elif lower == "transfer-encoding":
                if value.strip().lower() != "chunked":
                    raise BadResponse("it has a transfer coding other than chunked")
                self.is_chunked = True
        self.is_keep_alive = self._parser.should_keep_alive()
        self.is_head_complete = True

    def on_body(self, data: bytes) -> None:
        if data and not self.is_finished:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
        else:
            self.is_finished = True


def _why(error: BaseException) -> str:
    """A short reason; httptools wraps what a callback raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BadResponse):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httptools.HttpParserUpgrade):
        return "it switches protocols"
    return f"it is no well-formed HTTP ({str(error)[:100]})"
