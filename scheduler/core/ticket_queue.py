"""TicketQueue: the tickets that wait for one model."""

from bisect import insort
from collections.abc import Iterator, Sequence

from scheduler.core.lazy_heap import LazyHeap
from scheduler.core.node import Node
from scheduler.core.ticket import Ticket


class TicketQueue:
    """The tickets that wait for one model, the most urgent first, first come first served among equals.

    Tickets that may not go to every node are kept apart: there are few, and the head of the others then fits every
    free node, so that finding the best ticket for a slot needs no search.
    """

    __slots__ = ("_choosy", "_open", "_worst")

    def __init__(self) -> None:
        self._open: LazyHeap[Ticket] = LazyHeap()
        self._choosy: list[Ticket] = []
        self._worst: LazyHeap[Ticket] = LazyHeap()

    def __len__(self) -> int:
        return len(self._worst)

    def __iter__(self) -> Iterator[Ticket]:
        """All tickets in order, for snapshots."""
        return iter(sorted([*self._open, *self._choosy], key=lambda ticket: ticket.key))

    @property
    def choosy(self) -> Sequence[Ticket]:
        """The tickets that may not go to every node, in order."""
        return self._choosy

    def push(self, ticket: Ticket) -> None:
        """Let a ticket wait at the place its key gives it."""
        key = ticket.key
        if ticket.excluded or ticket.needs_company:
            insort(self._choosy, ticket, key=lambda waiting: waiting.key)
        else:
            ticket.entry = self._open.push(key, ticket)
        ticket.worst_entry = self._worst.push((-key.priority, -key.sequence), ticket)

    def remove(self, ticket: Ticket) -> None:
        """Take out a ticket that waits here."""
        if ticket.entry is not None:
            self._open.discard(ticket.entry)
            ticket.entry = None
        else:
            self._choosy.remove(ticket)
        if ticket.worst_entry is not None:
            self._worst.discard(ticket.worst_entry)
            ticket.worst_entry = None

    def best(self, free: Sequence[Node]) -> Ticket | None:
        """The first ticket that one of these nodes, all serving the model with room, may take; left in place."""
        head = self._open.first()
        for ticket in self._choosy:
            if head is not None and head.key < ticket.key:
                break
            if any(node.spec.id not in ticket.excluded for node in free):
                return ticket
        return head

    def worst(self) -> Ticket | None:
        """The newest of the least urgent: the one to go when the queue is full."""
        return self._worst.first()
