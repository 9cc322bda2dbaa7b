"""Lease: a slot held by one ticket."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.core.dispatcher import Dispatcher
    from scheduler.core.node import Node, NodeSpec


class Lease:
    """A slot held by one ticket; released exactly once, however often `release` is called."""

    __slots__ = ("_dispatcher", "considered", "granted_at", "holder", "is_released", "node", "ticket_id")

    def __init__(
        self, dispatcher: Dispatcher, holder: Node, ticket_id: str, granted_at: float, considered: int
    ) -> None:
        self._dispatcher = dispatcher
        self.holder = holder  # the dispatcher's own node; others read `node`
        self.node: NodeSpec = holder.spec  # as it was when the slot was granted
        self.ticket_id = ticket_id
        self.granted_at = granted_at
        self.considered = considered  # how many nodes could have taken the ticket
        self.is_released = False

    def __repr__(self) -> str:
        return f"<Lease {self.ticket_id} on {self.node.id} {'released' if self.is_released else 'held'}>"

    def release(self, hold_back_s: float | None = None) -> bool:
        """Give the slot back; True where another ticket was granted by it.

        `hold_back_s`: the node said that it is busy, so its free slots are kept back that long, or until another of its
        leases ends.
        """
        return self._dispatcher.release(self, hold_back_s)
