"""The shapes of `/admin/nodes`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scheduler.core.node import AdminState, Health
from scheduler.gateway.node_fields import DEFAULT_WEIGHT, MAX_CONCURRENT, MAX_WEIGHT, NODE_STATES
from scheduler.web.shapes import Ms, Shape, Time, one_of

TRIAL_STEPS = ("url", "dns", "tcp", "tls", "health", "models", "engine")

NodeId = Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,64}$")]
ModelNames = Annotated[list[str], Field(min_length=1, max_length=1000)]
Slots = Annotated[int, Field(ge=1, le=MAX_CONCURRENT)]
Weight = Annotated[int, Field(ge=1, le=MAX_WEIGHT)]
StateName = Annotated[str, one_of(*NODE_STATES)]


class NodeRegistration(Shape):
    """A node as a server registers itself, or as an operator adds it."""

    id: NodeId
    address: str = Field(description="`http(s)://host[:port][/prefix]`; a trailing `/v1` is removed.")
    models: ModelNames
    max_concurrent: Slots
    weight: Weight = DEFAULT_WEIGHT
    api_key: str | None = Field(None, description="The key that the node wants; never shown.")
    labels: dict[str, str] = Field(default_factory=dict)
    remark: str = ""
    state: StateName = Field("active", description="Counts at the first registration only.")


class NodeChanges(Shape):
    """Fields to set; `null` goes back to what was registered."""

    address: str | None = None
    models: ModelNames | None = None
    max_concurrent: Slots | None = None
    weight: Weight | None = None
    api_key: str | None = None
    labels: dict[str, str] | None = None
    remark: str | None = None
    state: StateName | None = None


class Node(Shape):
    """A node as registered, without its key, and how it is."""

    id: str
    address: str
    models: list[str]
    max_concurrent: int
    weight: int
    labels: dict[str, str]
    remark: str
    has_api_key: bool
    state: Annotated[str, one_of(*AdminState)] = Field(description="What the operator wants.")
    health: Annotated[str, one_of(*Health)] = Field(description="What the probes say.")
    health_reason: str | None
    in_flight: int = Field(description="Slots that are held.")
    last_check_at: Time | None
    since: Time = Field(description="Of the last change of state or health.")
    created_at: Time
    updated_at: Time
    overrides: list[str] = Field(description="The fields that PATCH has set.")
    warnings: list[str]
    address_note: str | None = Field(None, description="What was cut off the address that has just been given.")


class NodeList(Shape):
    """In order of registration."""

    nodes: list[Node]


class TrialRequest(Shape):
    """The address to try, and the key that the node wants."""

    address: str
    api_key: str | None = None


class TrialStep(Shape):
    """One step of a trial."""

    name: Annotated[str, one_of(*TRIAL_STEPS)]
    ok: bool
    message: str
    duration_ms: Ms


class Trial(Shape):
    """How the trial of an address went, and what it proposes."""

    ok: bool
    failed_step: str | None
    address: str | None
    address_note: str | None
    steps: list[TrialStep]
    engine: str
    engine_version: str | None
    models: list[str]
    max_concurrent: int | None
    notes: list[str]
    registered_as: str | None
    registered_models: dict[str, list[str]]
