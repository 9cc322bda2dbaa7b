"""Why a ticket waits, in words an operator can act on."""

from collections.abc import Sequence

from scheduler.core.node import AdminState, Health, Node
from scheduler.core.ticket import Ticket


def why_it_waits(ticket: Ticket, nodes: Sequence[Node], now: float) -> str:
    """The reason why none of its model's registered `nodes` has taken a waiting ticket at `now`."""
    if not nodes:
        return "no node is registered for this model any more"
    serving = [node for node in nodes if node.serves(ticket.model) and node.spec.id not in ticket.excluded]
    if not serving:
        return "no node can serve: " + ", ".join(_why_not(node, ticket) for node in nodes[:5])
    busy = [node.withheld_until - now for node in serving if node.withheld_until is not None]
    if len(busy) == len(serving):
        return f"{_all(serving)} said busy, next try in {max(0.0, min(busy)):.0f} s"
    parts = [f"{_all([node for node in serving if node.withheld_until is None])} at limit"]
    parts += [f"{len(busy)} busy"] if busy else []
    parts += [f"{node.spec.id} {recovering(node.ceiling, node.slots.limit)}" for node in serving if node.ceiling][:5]
    return ", ".join(parts)


def recovering(ceiling: int, limit: int) -> str:
    """How far a node is that was down and gets its load back."""
    return f"recovering: {ceiling} of {limit} slots"


def _all(nodes: Sequence[Node]) -> str:
    return f"node {nodes[0].spec.id}" if len(nodes) == 1 else f"all {len(nodes)} nodes"


def _why_not(node: Node, ticket: Ticket) -> str:
    if node.state is not AdminState.ACTIVE:
        return f"{node.spec.id} is {node.state}"
    if node.health is Health.DOWN:
        return f"{node.spec.id} is down ({node.health_reason or 'no reason given'})"
    if node.health is Health.UNKNOWN:
        return f"{node.spec.id} is not probed yet"
    if ticket.model in node.withdrawn:
        return f"{node.spec.id} says that it does not have the model"
    return f"{node.spec.id} has failed this request"
