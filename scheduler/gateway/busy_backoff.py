"""BusyBackoff: how long a node that says it is busy is left alone."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S, MAX_S = 1.0, 30.0
#: What a node itself may ask for.
MAX_ASKED_S = 60.0


class BusyBackoff:
    """Seconds per node: what its Retry-After asks for, else 1 s doubling to 30 s until it serves again.

    Several requests that are turned away together are one occasion: only the first of them doubles the time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[str, tuple[float, float]] = {}  # by node: seconds, and until when

    def next_s(self, node_id: str, retry_after: str | None) -> float:
        """How long to leave alone a node that has just said that it is busy."""
        asked = _seconds(retry_after)
        if asked is not None:
            return min(max(asked, 0.1), MAX_ASKED_S)
        now = self._clock()
        wait_s, until = self._last.get(node_id, (FIRST_S / 2, 0.0))
        if now < until:
            return until - now
        wait_s = min(wait_s * 2, MAX_S)
        self._last[node_id] = (wait_s, now + wait_s)
        return wait_s

    def served(self, node_id: str) -> None:
        """The node has answered a request."""
        self._last.pop(node_id, None)


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = float(retry_after) if retry_after is not None else None
    except ValueError:
        return None  # a date: engines do not send one
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None
