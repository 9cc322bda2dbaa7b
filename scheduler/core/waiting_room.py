"""WaitingRoom: all the tickets that wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from heapq import nsmallest
from math import inf

from scheduler.core.priority import Priority
from scheduler.core.snapshot import QueueView, TicketView
from scheduler.core.ticket import Ticket
from scheduler.core.ticket_queue import TicketQueue


class WaitingRoom:
    """The tickets that wait: by id, and in one queue a model. It has bounds, and leaves it to its owner to keep them.

    `max_per_model` 0: no bound of its own for each model.
    """

    def __init__(self, max_size: int, max_per_model: int) -> None:
        self._max_size = max_size
        self._max_per_model = max_per_model
        self._tickets: dict[str, Ticket] = {}
        self._by_priority: Counter[Priority] = Counter()
        self.queues: dict[str, TicketQueue] = {}  # by model: only those where somebody waits

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """All of them as they are now, in no order; they may be removed meanwhile."""
        return iter(list(self._tickets.values()))

    def get(self, request_id: str) -> Ticket | None:
        return self._tickets.get(request_id)

    @property
    def is_full(self) -> bool:
        return len(self._tickets) >= self._max_size

    def is_full_for(self, model: str) -> bool:
        """True where no more may wait for this model."""
        return 0 < self._max_per_model <= len(self.queues.get(model, ()))

    def worst(self, model: str | None = None) -> Ticket | None:
        """The newest of the least urgent of a model, or of all: the one to go when the room is full."""
        if model is not None:
            return self.queues[model].worst() if model in self.queues else None
        worst = (queue.worst() for queue in self.queues.values())
        return max((ticket for ticket in worst if ticket is not None), key=lambda ticket: ticket.key, default=None)

    def add(self, ticket: Ticket) -> None:
        self._tickets[ticket.id] = ticket
        self._by_priority[ticket.priority] += 1
        self.queues.setdefault(ticket.model, TicketQueue()).push(ticket)

    def remove(self, ticket: Ticket) -> None:
        del self._tickets[ticket.id]
        self._by_priority[ticket.priority] -= 1
        queue = self.queues[ticket.model]
        queue.remove(ticket)
        if not queue:
            del self.queues[ticket.model]

    def move(self, ticket: Ticket, priority: Priority) -> None:
        """Give a ticket another priority, behind those who came before it."""
        queue = self.queues[ticket.model]
        queue.remove(ticket)
        self._by_priority[ticket.priority] -= 1
        ticket.priority = priority
        self._by_priority[priority] += 1
        queue.push(ticket)

    def oldest(self) -> dict[Priority, float]:
        """By priority, since when the ticket that waits longest has waited. Looks at each ticket, and sorts none."""
        oldest: dict[Priority, float] = {}
        for ticket in self._tickets.values():
            if ticket.queued_at < oldest.get(ticket.priority, inf):
                oldest[ticket.priority] = ticket.queued_at
        return oldest

    def view(self, limit: int, now: float, why: Callable[[Ticket], str]) -> QueueView:
        """The first `limit` tickets in order, and how many there are in all; `why` gives the reason of each."""
        positions: Counter[str] = Counter()
        views = []
        for ticket in nsmallest(limit, self._tickets.values(), key=lambda waiting: waiting.key):
            positions[ticket.model] += 1
            views.append(
                TicketView(
                    ticket.id,
                    ticket.model,
                    ticket.priority,
                    positions[ticket.model],
                    now - ticket.queued_at,
                    max(0.0, ticket.deadline - now),
                    why(ticket),
                )
            )
        by_priority = {priority: self._by_priority[priority] for priority in Priority}
        return QueueView(tuple(views), len(self._tickets), by_priority)
