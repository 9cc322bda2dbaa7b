"""ScriptedNode: a node that says exactly the bytes it is told to, and keeps exactly the bytes it was sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

_HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"


class ScriptedNode:
    """A context manager. Probes find it healthy; each POST gets the answer that was set last, then the end of the
    connection. An answer is raw bytes, status line and all, in as many writes as it has pieces.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.answer: Sequence[bytes] = ()
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self._thread = threading.Thread(target=self._accept, name="scripted node", daemon=True)

    def __enter__(self) -> ScriptedNode:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    @property
    def request_lines(self) -> list[str]:
        """The head of the last POST, line by line."""
        return self.heads[-1].decode("latin-1").split("\r\n")

    def header(self, name: str) -> list[str]:
        """All values the last POST had for a header."""
        pairs = [line.partition(":") for line in self.request_lines[1:]]
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                try:
                    self._serve(connection)
                except OSError:
                    continue  # the peer has left

    def _serve(self, connection: socket.socket) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            data = connection.recv(65536)
            if not data:
                return
            seen += data
        head, _, body = seen.partition(b"\r\n\r\n")
        if head.startswith(b"GET "):
            connection.sendall(_HEALTHY)
            return
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
        )
        while len(body) < length:
            body += connection.recv(65536)
        self.heads.append(head)
        self.bodies.append(body)
        for piece in self.answer:
            connection.sendall(piece)
