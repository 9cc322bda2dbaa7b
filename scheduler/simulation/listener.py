"""Listener: a port that can refuse connections and take them again."""

from collections.abc import Callable
from typing import Any

from gevent import socket
from gevent.server import StreamServer

_BACKLOG = 4096


class Listener:
    """Accepts connections on one port; while it refuses, the port stays reserved, so that nobody else can get it."""

    def __init__(self, host: str, port: int, handle: Callable[..., None], spawn: Callable[..., Any]) -> None:
        self.host = host
        self._handle = handle
        self._spawn = spawn
        self._server: StreamServer | None = None
        # A socket that is bound and does not listen: connections are refused, and the number is ours.
        self._reservation = self._bind(port)
        self.port: int = self._reservation.getsockname()[1]

    def __repr__(self) -> str:
        return f"<Listener {self.host}:{self.port} {'open' if self.is_open else 'refusing'}>"

    @property
    def is_open(self) -> bool:
        """True while connections are accepted."""
        return self._server is not None

    def open(self) -> None:
        """Accept connections. Idempotent. Raises OSError where another process listens on the port."""
        if self._server is None:
            listening = self._bind(self.port)
            listening.listen(_BACKLOG)
            self._server = StreamServer(listening, self._handle, spawn=self._spawn)
            self._server.start()

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Stop for good. Idempotent."""
        self.refuse()
        self._reservation.close()

    def _bind(self, port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self.host, port))
        return bound
