"""Node: a GPU server as the dispatcher sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from scheduler.core.slots import Slots

if TYPE_CHECKING:
    from scheduler.core.lazy_heap import Entry
    from scheduler.core.lease import Lease
    from scheduler.core.ticket import Ticket
    from scheduler.core.timetable import Action


#: The reason of a node that is down because its engine still loads a model: it will be up without anybody's help.
LOADING = "loading"


class AdminState(StrEnum):
    """What the operator wants of a node."""

    ACTIVE = "active"
    DRAINING = "draining"  # runs what it has, takes nothing new, will come back
    DISABLED = "disabled"  # taken out


class Health(StrEnum):
    """What the probes say of a node."""

    UNKNOWN = "unknown"  # not probed yet
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What a node is: where it lives, what it serves and how much it can bear."""

    id: str
    address: str
    models: tuple[str, ...]
    max_concurrent: int
    weight: int = 100


class Node:
    """A registered node with its slots. Only the dispatcher changes it."""

    __slots__ = (
        "answered_at",
        "ceiling",
        "elsewhere",
        "grant_order",
        "growth",
        "health",
        "health_reason",
        "leases",
        "offers",
        "pledge",
        "recheck",
        "since",
        "slots",
        "spec",
        "state",
        "trial_limit",
        "was_up",
        "withdrawn",
        "withheld_until",
    )

    def __init__(self, spec: NodeSpec, state: AdminState, since: float) -> None:
        self.spec = spec
        self.state = state
        self.health = Health.UNKNOWN
        self.health_reason: str | None = None
        self.since = since  # clock of the last change of state or health
        self.slots = Slots(spec.max_concurrent)
        self.leases: set[Lease] = set()
        self.withdrawn: frozenset[str] = frozenset()  # models it was registered with and has said not to have
        self.offers = frozenset(spec.models)  # its models, less those
        self.was_up = False  # at this address
        self.ceiling: int | None = None  # while it recovers: no more than that
        self.answered_at: float | None = None  # while it recovers: the first answer; None: half-open
        self.growth: Entry[Action] | None = None  # the timer that lifts the ceiling
        self.elsewhere = 0  # slots that another process uses, during a reload
        self.pledge: int | None = None  # what this process, which is to end, may use at most
        self.grant_order = 0  # rotates ties: the node granted longest ago comes first
        self.withheld_until: float | None = None  # busy: its free slots are kept back until then
        self.recheck: Entry[Action] | None = None  # the timer that ends the withholding
        self.trial_limit: int | None = None  # after it: one request more, to see whether it is still busy

    def __repr__(self) -> str:
        return f"<Node {self.spec.id} {self.slots.held}/{self.slots.limit} {self.health} {self.state}>"

    @property
    def is_serving(self) -> bool:
        """True where it may get requests at all, room or not."""
        return self.state is AdminState.ACTIVE and self.health is Health.UP

    @property
    def is_lost(self) -> bool:
        """True where nothing says that it will come back soon: disabled, or down and neither draining nor loading."""
        if self.state is not AdminState.ACTIVE:
            return self.state is AdminState.DISABLED
        return self.health is Health.DOWN and self.health_reason != LOADING

    @property
    def is_half_open(self) -> bool:
        """True while it has recovered and answered no request since."""
        return self.ceiling is not None and self.answered_at is None

    def serves(self, model: str) -> bool:
        """True where it may get requests for this model, room or not."""
        return self.is_serving and model in self.offers

    def has_lost(self, model: str) -> bool:
        """True where nothing says that it will soon serve this model, which it was registered with."""
        return self.is_lost or model in self.withdrawn

    def set_models(self, spec: NodeSpec, withdrawn: frozenset[str]) -> None:
        """Take over what it is registered with, and which of those models it has said not to have."""
        self.spec = spec
        self.withdrawn = withdrawn & frozenset(spec.models)
        self.offers = frozenset(spec.models) - withdrawn

    @property
    def effective_limit(self) -> int:
        """How many slots may be held here now."""
        limit = self.slots.limit - self.elsewhere
        if self.ceiling is not None and self.ceiling < limit:
            limit = self.ceiling
        if self.pledge is not None and self.pledge < limit:
            limit = self.pledge
        if self.trial_limit is not None and self.trial_limit < limit:
            limit = self.trial_limit
        return limit

    @property
    def has_room(self) -> bool:
        """True while it can take one more request of some model."""
        return self.is_serving and self.withheld_until is None and self.slots.held < self.effective_limit

    def can_take(self, ticket: Ticket) -> bool:
        """True where `ticket` could be granted a slot here now."""
        return self.has_room and ticket.model in self.offers and self.spec.id not in ticket.excluded
