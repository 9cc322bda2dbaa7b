"""DrainRate: how fast tickets leave the queue for a node."""

import math

#: Bounds of Retry-After, in seconds: OpenAI's clients misbehave beyond a minute.
MIN_RETRY_S, MAX_RETRY_S = 1, 60


class DrainRate:
    """Grants per second to tickets that had to wait, averaged with exponential decay over `half_life_s`."""

    __slots__ = ("_decay", "_last", "_weight")

    def __init__(self, half_life_s: float = 30.0) -> None:
        self._decay = math.log(2) / half_life_s
        self._weight = 0.0
        self._last = 0.0

    def note(self, now: float) -> None:
        """A waiting ticket has been granted."""
        self._weight = self._weight * math.exp(-self._decay * max(0.0, now - self._last)) + 1.0
        self._last = now

    def per_second(self, now: float) -> float:
        """Grants per second; 0.0 where nothing has been granted."""
        return self._weight * self._decay * math.exp(-self._decay * max(0.0, now - self._last))

    def retry_after_s(self, waiting: int, now: float) -> int:
        """Whole seconds until a queue of `waiting` should have drained, within what clients can use."""
        rate = self.per_second(now)
        if rate * MAX_RETRY_S <= waiting:
            return MAX_RETRY_S
        return max(MIN_RETRY_S, math.ceil(waiting / rate))
