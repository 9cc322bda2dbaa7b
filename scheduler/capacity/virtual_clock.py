"""VirtualClock: time that passes only when it is told to."""


class VirtualClock:
    """Seconds since the beginning of a simulation; called like any clock of the core."""

    __slots__ = ("_now_s",)

    def __init__(self) -> None:
        self._now_s = 0.0

    def __repr__(self) -> str:
        return f"<VirtualClock {self._now_s:g} s>"

    def __call__(self) -> float:
        return self._now_s

    def advance_to(self, at_s: float) -> None:
        """It is `at_s` now. Raises ValueError where that has passed: the core's time never runs backwards."""
        if at_s < self._now_s:
            raise ValueError(f"it is {self._now_s:g} s already; what is to happen at {at_s:g} s comes too late")
        self._now_s = at_s
