"""Fleet: the nodes of a simulation, and what happens to them meanwhile."""

from dataclasses import dataclass
from enum import StrEnum

from scheduler.core.node import AdminState, NodeSpec


@dataclass(frozen=True, slots=True)
class FleetNode:
    """A node; on one of `speed` 2 every request takes half its service time."""

    spec: NodeSpec
    state: AdminState = AdminState.ACTIVE
    speed: float = 1.0


class Action(StrEnum):
    """What may happen to a node."""

    DRAIN = "drain"
    ACTIVATE = "activate"
    DISABLE = "disable"
    DOWN = "down"  # the probes say so; what runs there goes on
    UP = "up"
    LIMIT = "limit"
    WEIGHT = "weight"
    REMOVE = "remove"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """Something that happens to a node at `at_s`; `number` is the new limit or weight, `node` the one added."""

    at_s: float
    action: Action
    node_id: str
    number: int = 0
    node: FleetNode | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes at the beginning, all of them up, and what happens to them; events of one instant in this order."""

    nodes: tuple[FleetNode, ...]
    events: tuple[FleetEvent, ...] = ()
