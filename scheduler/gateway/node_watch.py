"""EjectionWatch: what requests tell of the health of nodes."""

from __future__ import annotations

from typing import Protocol


class HealthActions(Protocol):
    """What can be done about a node; the health monitor."""

    def probe_now(self, node_id: str) -> None: ...

    def mark_down(self, node_id: str, reason: str) -> None: ...


class EjectionWatch:
    """Takes a node down after `eject_after` requests in a row got no answer from it, so that a node that fails at once
    does not attract all traffic. Answers count as life, whatever their status: a caller's bad input ejects nobody.
    """

    def __init__(self, health: HealthActions, eject_after: int) -> None:
        self._health = health
        self._eject_after = eject_after
        self._missed: dict[str, int] = {}

    def answered(self, node_id: str) -> None:
        """It gave the first byte of an answer."""
        if self._missed:
            self._missed.pop(node_id, None)

    def missed(self, node_id: str, reason: str) -> None:
        """It could not be reached, or gave no answer."""
        count = self._missed.get(node_id, 0) + 1
        if count < self._eject_after:
            self._missed[node_id] = count
            self._health.probe_now(node_id)
            return
        self._missed.pop(node_id, None)
        self._health.mark_down(node_id, f"{count} requests in a row without an answer ({reason})")

    def seems_sick(self, node_id: str) -> None:
        """It answered HTTP 5xx: a probe decides."""
        self._health.probe_now(node_id)

    def refused_key(self, node_id: str) -> None:
        """It answered 401 or 403 to our key."""
        self._health.mark_down(node_id, "auth")
