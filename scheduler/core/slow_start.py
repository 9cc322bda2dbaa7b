"""SlowStart: how a node that was down gets its load back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from scheduler.core.node import Health, Node
from scheduler.core.timetable import Timetable

#: A ceiling grows at most so often, in seconds.
MIN_STEP_S = 0.1


class SlowStart:
    """Lets a node that was up, went down and is back take one request, until one was answered (*half-open*); then ever
    more, from one to its limit over `slow_start_s` seconds.

    A node that is new, or lives at a new address, starts with its whole limit. `slow_start_s` None: every node does.
    """

    def __init__(
        self, slow_start_s: float | None, timetable: Timetable, clock: Callable[[], float], match: Callable[..., object]
    ) -> None:
        self._slow_start_s = slow_start_s
        self._timetable = timetable
        self._clock = clock
        self._match: Callable[[Sequence[Node]], object] = match  # called when a ceiling has grown by itself

    def note_health(self, node: Node, health: Health) -> None:
        """Its health is about to become `health`."""
        if health is Health.UP:
            if node.health is Health.DOWN and node.was_up and self._slow_start_s is not None:
                node.ceiling = 1
            node.was_up = True
            return
        self.end(node)
        if health is Health.UNKNOWN:
            node.was_up = False

    def note_answered(self, node: Node, now: float) -> None:
        """It has answered a request."""
        if node.is_half_open:
            node.answered_at = now
            self.grow(node, now)

    def grow(self, node: Node, now: float) -> None:
        """Set the ceiling that the time since the first answer, and the limit, give."""
        if node.answered_at is None or self._slow_start_s is None:
            return
        began_at = node.answered_at
        ends_at = began_at + self._slow_start_s
        self.end(node)
        if now >= ends_at:
            return
        per_slot_s = self._slow_start_s / max(1, node.slots.limit - 1)
        node.answered_at = began_at
        node.ceiling = 1 + int((now - began_at) / per_slot_s + 1e-9)  # what is due now must not round to one less
        due = min(ends_at, max(began_at + node.ceiling * per_slot_s, now + MIN_STEP_S))
        node.growth = self._timetable.add(due, partial(self._grow_and_match, node))

    def end(self, node: Node) -> None:
        """It recovers no longer: its limit is all that holds."""
        if node.growth is not None:
            self._timetable.cancel(node.growth)
        node.ceiling = node.answered_at = node.growth = None

    def _grow_and_match(self, node: Node) -> None:
        self.grow(node, self._clock())
        self._match([node])
