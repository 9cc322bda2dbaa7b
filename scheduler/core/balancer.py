"""The balancer: the choice among the nodes that could take a ticket."""

from collections.abc import Callable, Sequence

from scheduler.core.node import Node

#: Chooses one of at least one node.
Balance = Callable[[Sequence[Node]], Node]


def least_loaded(nodes: Sequence[Node]) -> Node:
    """The node with the fewest requests in flight per weight; among equals the one granted longest ago."""
    return min(nodes, key=lambda node: ((node.slots.held + node.elsewhere) / node.spec.weight, node.grant_order))
