"""NodeDetail: a node as operators see it."""

from collections.abc import Collection
from dataclasses import dataclass

from scheduler.core.explanation import recovering
from scheduler.core.snapshot import NodeView

#: As many of the models that an engine lists are told.
MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class NodeDetail:
    """A registered node at one instant: what is kept of it, and how it is. Its key is never in it.

    Times are seconds since the epoch. `overrides` names the fields an operator has set; they survive re-registration.
    """

    id: str
    address: str
    models: tuple[str, ...]
    max_concurrent: int
    weight: int
    labels: dict[str, str]
    remark: str
    has_api_key: bool
    state: str  # active, draining, disabled
    health: str  # unknown, up, down
    health_reason: str | None  # why it is down, or that it recovers
    in_flight: int
    last_check_at: float | None
    since: float  # of the last change of state or health
    created_at: float
    updated_at: float
    overrides: tuple[str, ...]
    address_note: str | None = None  # what was cut off the address that has just been given
    warnings: tuple[str, ...] = ()  # what an operator should look into


def recovery_text(view: NodeView) -> str | None:
    """How far a node is that was down and gets its load back; None where it has its whole limit."""
    return None if view.ceiling is None else recovering(view.ceiling, view.spec.max_concurrent)


def model_warnings(registered: Collection[str], listed: Collection[str] | None) -> tuple[str, ...]:
    """One line for each registered model that the engine does not list; none where it has no list (None)."""
    if listed is None:
        return ()
    names = ", ".join(list(listed)[:MOST_LISTED]) or "nothing"
    more = f" and {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
    return tuple(
        f"registered model {model} is not listed by the engine; it lists: {names}{more}"
        for model in registered
        if model not in listed
    )
