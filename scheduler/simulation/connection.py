"""Connection: one accepted TCP connection; it reads requests, sends bytes, and knows when its peer has left."""

import hashlib
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent import socket
from gevent.event import Event

from scheduler.simulation.http_request import MAX_HEAD_BYTES, BadRequest, Request, parse_head
from scheduler.simulation.peer_watch import PeerWatch

MAX_BODY_BYTES = 200 * 1024 * 1024

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;.*)?")
_READ_BYTES = 262_144
_BREATHE_BYTES = 4 * 1024 * 1024  # after so many bytes of one body the other connections get a turn


class PeerGone(Exception):
    """Raised in whoever works for a connection when its peer has left."""


class Connection:
    """A peer's connection. One greenlet uses it; `close` is idempotent."""

    def __init__(self, sock: socket.socket, watch: PeerWatch) -> None:
        self._socket = sock
        self._watch = watch
        self._buffer = bytearray()
        self._owner: gevent.Greenlet = gevent.getcurrent()
        self._worker: gevent.Greenlet | None = None
        self._is_closed = False
        self.has_left = False
        self.was_cut = False  # by us, see `abort`
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watch.add(sock.fileno(), self._peer_left)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Within it the peer's leaving raises PeerGone at once, in whatever the greenlet does."""
        if self.has_left:
            raise PeerGone
        outer, self._worker = self._worker, gevent.getcurrent()
        try:
            yield
        finally:
            self._worker = outer

    def abort(self) -> None:
        """Cut it with RST, from any greenlet; whoever works for it or reads from it finds its peer gone."""
        self.was_cut = True
        worker = self._worker or self._owner
        self.close(reset=True)
        worker.kill(PeerGone, block=False)

    def _peer_left(self) -> None:
        self.has_left = True
        if self._worker is not None:
            self._worker.kill(PeerGone, block=False)

    # -- reading ----------------------------------------------------------------------------------

    def read_head(self) -> Request | None:
        """The next request without its body; None where the peer has closed. Raises BadRequest, PeerGone, OSError."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadRequest("the head is too large")
            if not self._receive():
                if self._buffer:
                    raise PeerGone
                return None
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return parse_head(head)

    def read_body(self, request: Request) -> None:
        """Set the request's body and its SHA-256. Raises BadRequest, PeerGone, OSError."""
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            raise BadRequest("the body is too large")
        if (request.header("expect") or "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        digest = hashlib.sha256()
        pieces: list[bytes] = []
        for count, piece in enumerate(self._chunked_body() if length is None else self._counted_body(length), 1):
            digest.update(piece)
            pieces.append(piece)
            if count % (_BREATHE_BYTES // _READ_BYTES) == 0:
                gevent.sleep(0)
        request.body = b"".join(pieces)
        request.sha256 = digest.hexdigest()

    def _counted_body(self, length: int) -> Iterator[bytes]:
        while length > 0:
            if self._buffer:
                piece = bytes(self._buffer[:length])
                del self._buffer[:length]
            else:
                piece = self._socket.recv(min(length, _READ_BYTES))
                if not piece:
                    raise PeerGone
            length -= len(piece)
            yield piece

    def _chunked_body(self) -> Iterator[bytes]:
        total = 0
        while True:
            line = self._read_line()
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise BadRequest(f"malformed chunk size {line[:80]!r}")
            size = int(match[1], 16)
            if size == 0:
                break
            total += size
            if total > MAX_BODY_BYTES:
                raise BadRequest("the body is too large")
            yield from self._counted_body(size)
            if self._read_line():
                raise BadRequest("a chunk is longer than its size")
        while self._read_line():
            pass  # trailers

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadRequest("a line is too long")
            if not self._receive():
                raise PeerGone
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _receive(self) -> bool:
        data = self._socket.recv(_READ_BYTES)
        self._buffer += data
        return bool(data)

    # -- writing ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Hand all of it to the kernel. Raises OSError where the peer is gone."""
        self._socket.sendall(data)

    def wait(self, seconds: float | None) -> None:
        """Do nothing for so long, or (None) until the peer leaves, which raises PeerGone."""
        with self.working():
            Event().wait(seconds)

    def end(self) -> None:
        """Send FIN, still able to read."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self, *, reset: bool = False) -> None:
        """Close, with RST where `reset`. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._watch.remove(self._socket.fileno())
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "left" if self.has_left else "open"
        return f"<Connection {state}>"
