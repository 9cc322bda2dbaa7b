"""Snapshots: what the dispatcher knows at one instant, as frozen values."""

from dataclasses import dataclass

from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node at one instant."""

    spec: NodeSpec
    state: AdminState
    health: Health
    health_reason: str | None
    in_flight: int
    since: float  # clock of the last change of state or health
    withheld_for_s: float | None  # the node said that it is busy: no new request for so long
    ceiling: int | None  # it recovers, and gets no more than so many at once for now
    withdrawn: frozenset[str]  # models it was registered with and has said not to have


@dataclass(frozen=True, slots=True)
class TicketView:
    """A waiting ticket at one instant."""

    id: str
    model: str
    priority: Priority
    position: int  # 1 is next, among those that wait for the same model
    waited_s: float
    expires_in_s: float
    reason: str  # why it waits


@dataclass(frozen=True, slots=True)
class QueueView:
    """The waiting tickets at one instant."""

    waiting: tuple[TicketView, ...]  # the first ones, in order
    total: int
    by_priority: dict[Priority, int]
