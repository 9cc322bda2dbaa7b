"""RawClient: a caller on a bare socket, which can leave, stall and look at every byte."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Mapping
from datetime import datetime
from itertools import count
from types import TracebackType
from typing import Any

from tests.support.server import PATIENCE_S, RunningServer

_numbers = count(1)
_RESET = struct.pack("ii", 1, 0)


class RawClient:
    """One connection with one request. `id` is the X-Request-Id it sends, so that its record can be found.

    `receive_buffer` makes the kernel take so little that a client that does not read is felt at once.
    """

    def __init__(self, server: RunningServer, *, receive_buffer: int | None = None) -> None:
        self.id = f"raw-{next(_numbers)}"
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""  # as it came, chunk sizes and all
        self._server = server
        self._seen = b""
        self._sock = socket.socket()
        self._sock.settimeout(PATIENCE_S)
        if receive_buffer is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._sock.connect(("127.0.0.1", server.port))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sock.close()

    # -- what it sends ------------------------------------------------------------------------

    def post(
        self,
        body: Mapping[str, Any],
        *,
        version: str = "1.1",
        headers: Mapping[str, str] | None = None,
        only_bytes: int | None = None,
    ) -> RawClient:
        """Send a call, or only the first bytes of its body."""
        data = json.dumps(body).encode()
        lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: test", "Content-Type: application/json"]
        lines += [f"X-Request-Id: {self.id}", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data[:only_bytes])
        return self

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    # -- how it leaves ------------------------------------------------------------------------

    def leave(self, how: str = "close") -> None:
        """close (FIN), reset (RST) or half-close (FIN, still able to read)."""
        if how == "half-close":
            self._sock.shutdown(socket.SHUT_WR)
            return
        if how == "reset":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()

    # -- what it gets -------------------------------------------------------------------------

    def read_head(self) -> RawClient:
        """Read status and headers."""
        while b"\r\n\r\n" not in self._seen:
            data = self._sock.recv(65536)
            assert data, f"the connection ended in the head: {self._seen!r}"
            self._seen += data
        head, _, self.body = self._seen.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return self

    def read_until(self, wanted: bytes) -> RawClient:
        """Read on until the body has these bytes."""
        while wanted not in self.body:
            assert self.read_some(), f"the reply ended without {wanted!r}: {self.body[-500:]!r}"
        return self

    def read_some(self, limit: int = 65536) -> bytes:
        """Some bytes of the body; b"" at the end of the connection. Raises ConnectionResetError."""
        data = self._sock.recv(limit)
        self.body += data
        return data

    def read_whole(self) -> RawClient:
        """Read on until the body is whole; the connection may stay."""
        while not self.is_whole:
            assert self.read_some(), f"the reply ended before its end: {self.body[-500:]!r}"
        return self

    def read_to_end(self) -> str:
        """Read on to the end of the connection, which this names: `end`, or `reset`."""
        try:
            while self.read_some():
                pass
        except ConnectionResetError:
            return "reset"
        return "end"

    @property
    def is_whole(self) -> bool:
        """True where a client that knows HTTP would take the body for complete, if the connection ended cleanly now."""
        if self.headers.get("transfer-encoding") == "chunked":
            return re.search(rb"(^|\r\n)0\r\n\r\n$", self.body) is not None
        if (length := self.headers.get("content-length")) is not None:
            return len(self.body) >= int(length)
        return True

    @property
    def text(self) -> str:
        """The body without its chunks, as far as they are whole."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.body.decode()
        rest, pieces = self.body, []
        while match := re.match(rb"([0-9A-Fa-f]+)\r\n", rest):
            size = int(match[1], 16)
            pieces.append(rest[match.end() : match.end() + size])
            rest = rest[match.end() + size + 2 :]
        return b"".join(pieces).decode()

    # -- what became of it --------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """Its finished record."""
        return self._server.record(self.id)

    def is_waiting(self) -> bool:
        """True while it waits in the queue."""
        waiting = self._server.get("/queue")["waiting"]
        return any(ticket["client_request_id"] == self.id for ticket in waiting)

    def phase(self) -> str | None:
        """How far its request is; None where it does not run."""
        running = self._server.get("/queue")["running"]
        return next((run["phase"] for run in running if run["client_request_id"] == self.id), None)


def seconds(at: str) -> float:
    """A time of a record as seconds since the epoch."""
    return datetime.fromisoformat(at).timestamp()
