"""Ageing: tickets that wait long become more urgent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.core.timetable import Timetable
from scheduler.core.waiting_room import WaitingRoom


class Ageing:
    """Raises a waiting ticket by one level for each `interval_s` it waits, never to critical; 0: nobody ages.

    Its sequence stays, so it comes before those of its new level that arrived later.
    """

    def __init__(self, interval_s: float, timetable: Timetable, clock: Callable[[], float], room: WaitingRoom) -> None:
        self._interval_s = interval_s
        self._timetable = timetable
        self._clock = clock
        self._room = room

    def begin(self, ticket: Ticket, now: float) -> None:
        """It waits from now on, or has got its present priority just now."""
        self.end(ticket)
        if self._interval_s and ticket.priority > Priority.HIGH:
            ticket.rise = self._timetable.add(now + self._interval_s, partial(self._rise, ticket))

    def end(self, ticket: Ticket) -> None:
        """It waits no longer."""
        if ticket.rise is not None:
            self._timetable.cancel(ticket.rise)
            ticket.rise = None

    def _rise(self, ticket: Ticket) -> None:
        # Nobody can be granted by it: if a slot were free for this ticket, it would not wait.
        self._room.move(ticket, Priority(ticket.priority - 1))
        self.begin(ticket, self._clock())
