"""HeldBytes: the request bodies in memory, bounded."""

from __future__ import annotations

from scheduler.errors import QueueFull

#: What a caller is told to wait where bodies fill the memory: it frees itself as fast as requests end.
RETRY_AFTER_S = 5


class HeldBytes:
    """Counts the bytes of bodies that are read, wait or run; past the limit the queue counts as full."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Hold so many more bytes. Raises QueueFull, and holds none of them, where they pass the limit."""
        if self.held + size > self._limit:
            raise QueueFull("The requests that wait hold all the memory that bodies may take.", RETRY_AFTER_S)
        self.held += size

    def give_back(self, size: int) -> None:
        """Hold so many bytes less."""
        self.held -= size
