"""NodeDetail: a node as operators see it."""

from dataclasses import dataclass


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
    health_reason: str | None
    in_flight: int
    last_check_at: float | None
    since: float  # of the last change of state or health
    created_at: float
    updated_at: float
    overrides: tuple[str, ...]
    address_note: str | None = None  # what was cut off the address that has just been given
