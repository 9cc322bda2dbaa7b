"""Wire: a plain socket to a simulated node, for looking at bytes."""

import hashlib
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"


@dataclass
class Answer:
    """An answer taken apart; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection; a context manager."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._seen = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def leave(self, *, reset: bool = False) -> None:
        """Close, with FIN or RST."""
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def half_close(self) -> None:
        """FIN, still able to read."""
        self._socket.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> "Wire":
        self._socket.sendall(data)
        return self

    def get(self, path: str) -> "Wire":
        return self.send(f"GET {path} HTTP/1.1\r\nHost: node\r\n\r\n".encode())

    def post(self, path: str = CHAT, *headers: str, **document: Any) -> "Wire":
        """A JSON request; without a model for `sim`."""
        return self.send(self.encoded(path, *headers, **document))

    @staticmethod
    def encoded(path: str = CHAT, *headers: str, **document: Any) -> bytes:
        body = json.dumps({"model": "sim", **document}).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: node", "Content-Type: application/json", *headers]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def until(self, mark: bytes) -> bytes:
        """Everything up to a mark, the mark included. Raises EOFError."""
        while mark not in self._seen:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError(self._seen)
            self._seen += data
        before, _, self._seen = self._seen.partition(mark)
        return before + mark

    def exactly(self, size: int) -> bytes:
        while len(self._seen) < size:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError(self._seen)
            self._seen += data
        taken, self._seen = self._seen[:size], self._seen[size:]
        return taken

    def rest(self) -> bytes:
        """Everything until the node closes. Raises ConnectionResetError."""
        taken, self._seen = self._seen, b""
        while data := self._socket.recv(65536):
            taken += data
        return taken

    def is_silent(self, seconds: float) -> bool:
        """True where nothing arrives for so long, no end either."""
        self._socket.settimeout(seconds)
        try:
            self._seen += self._socket.recv(65536) or b"<end>"
        except TimeoutError:
            return not self._seen
        finally:
            self._socket.settimeout(10)
        return False

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return int(lines[0].split()[1]), {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }

    def answer(self) -> Answer:
        """The next answer, by its framing."""
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(self.chunks()))
        if "content-length" in headers:
            return Answer(status, headers, self.exactly(int(headers["content-length"])))
        return Answer(status, headers, self.rest())

    def chunk(self) -> bytes:
        """The next chunk; empty at the end. Raises ValueError for a malformed one."""
        data = self.exactly(int(self.until(b"\r\n"), 16))
        assert self.exactly(2) == b"\r\n"
        return data

    def chunks(self) -> list[bytes]:
        found = []
        while data := self.chunk():
            found.append(data)
        return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
