"""EjectionWatch: what requests tell of the health of nodes."""

from __future__ import annotations

from typing import Protocol


class HealthActions(Protocol):
    """What can be done about a node's health; the health monitor."""

    def probe_now(self, node_id: str) -> None: ...

    def mark_down(self, node_id: str, reason: str) -> None: ...


class Recovering(Protocol):
    """What can be done about a node's share of the requests; the dispatcher."""

    def is_half_open(self, node_id: str) -> bool: ...

    def note_answered(self, node_id: str) -> None: ...

    def withdraw(self, node_id: str, model: str) -> None: ...


class EjectionWatch:
    """Takes a node down after `eject_after` requests in a row got no answer from it, so that a node that fails at once
    does not attract all traffic; a half-open one after the first. Answers count as life, whatever their status: a
    caller's bad input ejects nobody. A caller that leaves, or is cancelled, says nothing of a node.
    """

    def __init__(self, health: HealthActions, nodes: Recovering, eject_after: int) -> None:
        self._health = health
        self._nodes = nodes
        self._eject_after = eject_after
        self._missed: dict[str, int] = {}

    def answered(self, node_id: str, can_serve: bool) -> None:
        """It gave the first byte of an answer; `can_serve` where that was neither busy nor an error of its own."""
        if self._missed:
            self._missed.pop(node_id, None)
        if can_serve:
            self._nodes.note_answered(node_id)

    def missed(self, node_id: str, reason: str) -> None:
        """It could not be reached, or gave no answer."""
        count = self._missed.get(node_id, 0) + 1
        if self._nodes.is_half_open(node_id):
            reason = f"its first request after a recovery was not answered ({reason})"
        elif count < self._eject_after:
            self._missed[node_id] = count
            self._health.probe_now(node_id)
            return
        else:
            reason = f"{count} requests in a row without an answer ({reason})"
        self._missed.pop(node_id, None)
        self._health.mark_down(node_id, reason)

    def seems_sick(self, node_id: str) -> None:
        """It answered HTTP 5xx: a probe decides."""
        self._health.probe_now(node_id)

    def refused_key(self, node_id: str) -> None:
        """It answered 401 or 403 to our key."""
        self._health.mark_down(node_id, "auth")

    def lacks_model(self, node_id: str, model: str) -> None:
        """It answered that it does not have a model that it is registered with: a probe's list brings it back."""
        self._nodes.withdraw(node_id, model)
        self._health.probe_now(node_id)
