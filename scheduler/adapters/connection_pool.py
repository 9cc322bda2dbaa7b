"""ConnectionPool: idle keep-alive connections to nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from scheduler.adapters.node_connection import NodeConnection

#: uvicorn (vLLM, SGLang) closes a connection after 5 s of idleness; one that is about to be closed dies under a POST.
MAX_IDLE_S = 2.0
#: Idle connections kept for one node.
MAX_IDLE = 256


class ConnectionPool:
    """Idle connections by node address, the one used last first. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._idle: dict[str, deque[tuple[float, NodeConnection]]] = {}

    def __len__(self) -> int:
        return sum(len(idle) for idle in self._idle.values())

    def take(self, address: str) -> NodeConnection | None:
        """An idle connection that is safe to use again, or None."""
        idle = self._idle.get(address)
        oldest = self._clock() - MAX_IDLE_S
        while idle:
            since, connection = idle.pop()
            if since >= oldest and connection.is_quiet():
                return connection
            connection.close()
        return None

    def give(self, address: str, connection: NodeConnection) -> None:
        """Keep a connection whose last exchange has ended exactly."""
        connection.was_used = True
        idle = self._idle.setdefault(address, deque())
        idle.append((self._clock(), connection))
        if len(idle) > MAX_IDLE:
            idle.popleft()[1].close()

    def sweep(self) -> None:
        """Close what has been idle for too long; called every second or so."""
        oldest = self._clock() - MAX_IDLE_S
        for address, idle in list(self._idle.items()):
            while idle and idle[0][0] < oldest:
                idle.popleft()[1].close()
            if not idle:
                del self._idle[address]

    def forget(self, address: str) -> None:
        """Close all idle connections to an address."""
        for _, connection in self._idle.pop(address, ()):
            connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        for address in list(self._idle):
            self.forget(address)
