"""Ticket: a request that wants a slot."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from gevent.event import Event

from scheduler.core.priority import Priority
from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from scheduler.core.lazy_heap import Entry
    from scheduler.core.lease import Lease
    from scheduler.core.timetable import Action


class QueueKey(NamedTuple):
    """The order of the queue: the smaller key goes first."""

    priority: int
    sequence: int


class TicketState(Enum):
    """Where a ticket is in its life."""

    NEW = auto()  # not submitted, or taken back from a node to try another
    WAITING = auto()
    GRANTED = auto()
    ENDED = auto()  # left without a lease


class Ticket:
    """A request that wants a slot. Only the dispatcher changes it; `state` changes without a switch point.

    `deadline` is on the dispatcher's clock. `excluded` are nodes it may not go to any more. `needs_company`: a node has
    died of it, perhaps, so it must not go to the last one.
    """

    __slots__ = (
        "_settled",
        "deadline",
        "entry",
        "error",
        "excluded",
        "id",
        "lease",
        "model",
        "needs_company",
        "priority",
        "queued_at",
        "rise",
        "sequence",
        "state",
        "timers",
        "worst_entry",
    )

    def __init__(self, id: str, model: str, priority: Priority, deadline: float) -> None:
        self.id = id
        self.model = model
        self.priority = priority
        self.deadline = deadline
        self.state = TicketState.NEW
        self.sequence = -1  # given by the dispatcher at the first submit, kept for good
        self.queued_at = 0.0
        self.excluded: frozenset[str] = frozenset()
        self.needs_company = False
        self.lease: Lease | None = None
        self.error: SchedulerError | None = None
        self.entry: Entry[Ticket] | None = None
        self.worst_entry: Entry[Ticket] | None = None
        self.timers: tuple[Entry[Action], ...] = ()
        self.rise: Entry[Action] | None = None  # the timer that makes it more urgent
        self._settled: Event | None = None

    def __repr__(self) -> str:
        return f"<Ticket {self.id} {self.model} {self.priority.label} #{self.sequence} {self.state.name.lower()}>"

    @property
    def key(self) -> QueueKey:
        """Its place in the queue."""
        return QueueKey(self.priority, self.sequence)

    @property
    def is_waiting(self) -> bool:
        return self.state is TicketState.WAITING

    def wait(self) -> Lease:
        """Block this greenlet until the ticket is settled; the lease, or the error it ended with raised.

        Whoever is interrupted here must still hand the ticket to `Dispatcher.abandon`: the grant may have come in the
        same turn of the loop.
        """
        if self.state is TicketState.WAITING:
            self._settled = Event()
            self._settled.wait()
        if self.error is not None:
            raise self.error
        assert self.lease is not None, "a ticket is waited for after it has been submitted"
        return self.lease

    def settle(self, lease: Lease | None, error: SchedulerError | None) -> None:
        """Called by the dispatcher alone: end the wait with a lease or an error."""
        self.lease, self.error = lease, error
        self.state = TicketState.GRANTED if lease is not None else TicketState.ENDED
        if self._settled is not None:
            self._settled.set()
            self._settled = None
