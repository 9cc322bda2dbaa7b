"""SlotSharing: two processes share the nodes' slots for the time of a reload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from scheduler.core.lease import Lease
from scheduler.core.node import Node


class SlotSharing:
    """What the other process of a reload leaves of each node's slots.

    The successor is told what its predecessor still uses (`set_elsewhere`) and keeps that free. The predecessor
    pledges: from then on it uses no more slots of a node than it has just told, and that figure only ever shrinks.
    Slots are told by address, because that is what both processes know of an engine.
    """

    def __init__(self) -> None:
        self._elsewhere: Mapping[str, int] = {}
        self._has_pledged = False

    def adopt(self, node: Node) -> None:
        """A node has come, or has moved to its present address."""
        node.elsewhere = self._elsewhere.get(node.spec.address, 0)
        if self._has_pledged:
            node.pledge = 0  # nothing was told of it, so nothing of it may be used

    def set_elsewhere(self, counts: Mapping[str, int], nodes: Iterable[Node]) -> None:
        """So many slots of each address are used by another process; of those not named, none."""
        self._elsewhere = dict(counts)
        for node in nodes:
            node.elsewhere = self._elsewhere.get(node.spec.address, 0)

    def pledge(self, nodes: Iterable[Node]) -> None:
        """From now on no node may hold more than now, or one where it holds none."""
        self._has_pledged = True
        for node in nodes:
            _shrink(node, max(1, _held_at_home(node)))

    def shares(
        self, nodes: Collection[Node], retired: Iterable[Node], keeps_one: Callable[[Node], bool]
    ) -> dict[str, int]:
        """By address, how many slots this process uses or, where it `keeps_one`, may use. What is told binds it."""
        shares: Counter[str] = Counter()
        for node in nodes:
            home = _held_at_home(node)
            share = max(home, 1) if node.pledge != 0 and keeps_one(node) else home
            if self._has_pledged:
                _shrink(node, share)
            shares[node.spec.address] += share
            shares.update(lease.node.address for lease in node.leases if not _is_at_home(lease, node))
        for node in retired:
            shares.update(lease.node.address for lease in node.leases)
        return dict(shares)


def _held_at_home(node: Node) -> int:
    return sum(_is_at_home(lease, node) for lease in node.leases)


def _is_at_home(lease: Lease, node: Node) -> bool:
    """True where it runs at the node's present address; from before a move, it does not."""
    return lease.node.address == node.spec.address


def _shrink(node: Node, cap: int) -> None:
    node.pledge = cap if node.pledge is None else min(node.pledge, cap)
