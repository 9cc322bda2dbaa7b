"""Slots: a node's places for concurrent requests."""

from gevent.lock import BoundedSemaphore


class Slots:
    """A node's places, over a gevent BoundedSemaphore that is only ever taken without blocking.

    A BoundedSemaphore cannot grow or shrink, so a resize swaps it and takes again what is held. What is held beyond the
    new limit is *debt*: that many releases give nothing back.
    """

    __slots__ = ("_semaphore", "debt", "held", "limit")

    def __init__(self, limit: int) -> None:
        self._semaphore = BoundedSemaphore(limit)
        self.limit = limit
        self.held = 0
        self.debt = 0

    def __repr__(self) -> str:
        return f"<Slots {self.held}/{self.limit}>"

    def take(self) -> bool:
        """Take a place without waiting; False where none is free."""
        if not self._semaphore.acquire(blocking=False):
            return False
        self.held += 1
        return True

    def give_back(self) -> None:
        """Give a place back. Raises ValueError where more is given back than was taken."""
        if self.debt:
            self.debt -= 1
        else:
            self._semaphore.release()
        self.held -= 1

    def resize(self, limit: int, inherited: int = 0) -> None:
        """Set a new limit; `inherited` places held elsewhere count here from now on (negative: elsewhere).

        Nothing that is held is lost.
        """
        self.held += inherited
        self.limit = limit
        self.debt = max(0, self.held - limit)
        self._semaphore = BoundedSemaphore(limit)
        for _ in range(self.held - self.debt):
            self._semaphore.acquire(blocking=False)
