"""The shapes of what tells how the scheduler itself is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from scheduler.web.figure_shapes import Stats
from scheduler.web.shapes import Ms, Shape, Time, one_of


class RecentStats(Stats):
    """The figures of the recent past."""

    window_s: int


class NodeCounts(Shape):
    """Nodes by health, and by admin state: two axes."""

    total: int
    up: int
    down: int
    unknown: int
    draining: int
    disabled: int


class SlotCounts(Shape):
    """Slots of the nodes that are not disabled."""

    used: int
    total: int


class HubLagMs(Shape):
    """How late the event loop is, in milliseconds: at the last look, and at most in the last minute."""

    last: Ms
    max: Ms


class CleanupStatus(Shape):
    """What the clean-up of old records does."""

    is_enabled: bool
    held: str | None = Field(description="Why nothing is deleted for the time being.")
    is_running: bool
    last_at: Time | None
    deleted_count: int = Field(description="Records, since the start.")


class DatabaseStatus(Shape):
    """How much is kept."""

    bytes: int | None
    rows_estimate: int
    oldest_at: Time | None
    cleanup: CleanupStatus


class Status(Shape):
    """Everything a dashboard needs."""

    version: str
    boot_id: str
    hub_lag_ms: HubLagMs
    uptime_s: float
    is_ready: bool
    queue_size: int
    queue_by_priority: dict[str, int]
    nodes: NodeCounts
    slots: SlotCounts
    models: list[str]
    recent: RecentStats | None = Field(description="`null` while the database does not answer.")
    database: DatabaseStatus | None = Field(description="`null` while the database does not answer.")
    warnings: list[str]


class Setting(Shape):
    """One setting; secrets are masked."""

    key: str
    value: Any
    source: str


class Config(Shape):
    """The effective settings."""

    file: str | None
    settings: list[Setting]
    warnings: list[str]


class Event(Shape):
    """A line of the audit trail."""

    at: Time
    kind: str
    subject: str
    actor: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    note: str | None


class EventPage(Shape):
    """Events, the newest first."""

    events: list[Event]
    limit: int
    offset: int


class NodeTotals(Shape):
    """How many nodes there are, and how many of them are up."""

    total: int
    up: int


class HealthSummary(Shape):
    """`degraded`: there are nodes, and none is up."""

    status: Annotated[str, one_of("ok", "degraded", "not_ready")]
    version: str
    uptime_s: float
    nodes: NodeTotals
    queue_size: int
    in_flight: int


class Alive(Shape):
    """The process answers."""

    status: Annotated[str, one_of("live")]


class Readiness(Shape):
    """Whether it may be sent traffic."""

    status: Annotated[str, one_of("ready", "not_ready")]
