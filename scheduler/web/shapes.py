"""The shapes of the API's bodies, for its description: `/docs/openapi.json` is made of them.

What is answered is built in `schemas.py`; tests hold real answers against these shapes, both ways.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from scheduler.core.node import AdminState, Health
from scheduler.core.outcome import Outcome
from scheduler.core.priority import Priority
from scheduler.gateway.figures import DIMENSIONS
from scheduler.gateway.node_fields import DEFAULT_WEIGHT, MAX_CONCURRENT, MAX_WEIGHT, NODE_STATES
from scheduler.gateway.time_buckets import STEPS as TIME_STEPS


def one_of(*words: str) -> Any:
    """Marks a text that is one of some words."""
    return Field(json_schema_extra={"enum": list(words)})


STATUSES = ("pending", "processing", "completed", "failed")
PHASES = ("connecting", "waiting_first_byte", "streaming", "sending")
TRIAL_STEPS = ("url", "dns", "tcp", "tls", "health", "models", "engine")

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
IsExact = Annotated[bool, Field(description="False where the range cuts what is only kept as a whole.")]
Ms = Annotated[float, Field(description="Milliseconds.")]
PriorityName = Annotated[str, one_of(*(priority.label for priority in Priority))]
OutcomeName = Annotated[str, one_of(*(outcome.value for outcome in Outcome))]
StatusName = Annotated[str, one_of(*STATUSES)]
NodeId = Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,64}$")]
ModelNames = Annotated[list[str], Field(min_length=1, max_length=1000)]
Slots = Annotated[int, Field(ge=1, le=MAX_CONCURRENT)]
Weight = Annotated[int, Field(ge=1, le=MAX_WEIGHT)]
StateName = Annotated[str, one_of(*NODE_STATES)]


class Shape(BaseModel):
    """Base of the shapes: described, never built."""

    model_config = ConfigDict(defer_build=True)


# -- nodes ------------------------------------------------------------------------------------


class NodeRegistration(Shape):
    """A node as a server registers itself, or as an operator adds it."""

    id: NodeId
    address: str = Field(description="`http(s)://host[:port][/prefix]`; a trailing `/v1` is removed.")
    models: ModelNames
    max_concurrent: Slots
    weight: Weight = DEFAULT_WEIGHT
    api_key: str | None = Field(None, description="The key that the node wants; never shown.")
    labels: dict[str, str] = {}
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


# -- the queue --------------------------------------------------------------------------------


class Waiting(Shape):
    """A request that waits."""

    id: str
    client_request_id: str | None
    model: str
    priority: PriorityName
    position: int = Field(description="1 is next, among those that wait for the same model.")
    waited_ms: Ms
    expires_in_ms: Ms
    reason: str = Field(description="Why it waits.")
    key_name: str | None
    client: str | None


class Running(Shape):
    """A request that holds a slot, or whose answer is still being sent."""

    id: str
    client_request_id: str | None
    model: str
    priority: PriorityName
    node_id: str | None
    phase: Annotated[str, one_of(*PHASES)]
    elapsed_ms: Ms
    bytes_out: int
    stream: bool
    key_name: str | None
    client: str


class Queue(Shape):
    """Who waits, in order, and who runs."""

    waiting: list[Waiting]
    running: list[Running]
    waiting_total: int
    running_total: int


class PriorityChange(Shape):
    """The priority that a waiting request is to have."""

    priority: PriorityName


class Moved(Shape):
    """A request that has been moved."""

    id: str
    priority: PriorityName


class Cancelled(Shape):
    """A request that ends as soon as whoever serves it notices."""

    id: str
    cancelled: bool


# -- records ----------------------------------------------------------------------------------


class Attempt(Shape):
    """One delivery of a request to a node."""

    node_id: str
    start_ms: Ms
    result: str
    duration_ms: Ms | None


class Record(Shape):
    """What is known of one request."""

    id: str
    client_request_id: str | None
    model: str
    node_id: str | None
    priority: PriorityName
    status: StatusName
    outcome: OutcomeName | None
    stream: bool
    path: str
    created_at: Time
    started_at: Time | None
    first_byte_at: Time | None
    finished_at: Time | None
    queue_ms: Ms | None
    ttfb_ms: Ms | None
    latency_ms: Ms | None
    http_status: int | None
    error_code: str | None
    error_message: str | None
    attempts: list[Attempt]
    prompt_tokens: int | None
    completion_tokens: int | None
    bytes_in: int
    bytes_out: int
    client: str
    key_name: str | None


class RecordDetail(Record):
    """What is known of one request, and why it went to its node."""

    decision: str | None


class RecordPage(Shape):
    """Records, the newest first."""

    requests: list[Record]
    total: int
    total_is_estimate: bool
    limit: int
    offset: int


class _Durations(Shape):
    """Mean and percentiles of completed requests; `null` where there are none."""

    avg_latency_ms: Ms | None
    p50_latency_ms: Ms | None
    p95_latency_ms: Ms | None
    p99_latency_ms: Ms | None
    avg_ttfb_ms: Ms | None
    p50_ttfb_ms: Ms | None
    p95_ttfb_ms: Ms | None
    p99_ttfb_ms: Ms | None
    avg_queue_ms: Ms | None
    p50_queue_ms: Ms | None
    p95_queue_ms: Ms | None
    p99_queue_ms: Ms | None


class _Tokens(Shape):
    """Tokens as the engines tell them, and how many answers brought no count of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    without_usage_count: int
    without_usage_share: float


class Stats(_Durations, _Tokens):
    """Counts, durations and tokens of all requests, those that are not finished counted too."""

    total_requests: int
    pending_requests: int
    processing_count: int
    completed_count: int
    failed_count: int
    is_exact: IsExact


class Figures(_Durations, _Tokens):
    """Counts, durations and tokens of finished requests."""

    request_count: int
    completed_count: int
    failed_count: int


class ModelFigures(Figures):
    """Figures of one model."""

    model: str | None


class ModelStats(Shape):
    """Figures by model, the most asked for first."""

    models: list[ModelFigures]
    is_exact: IsExact


class Series(Shape):
    """Figures of one group, bucket by bucket; `null` where nothing ended."""

    name: str | None
    points: list[Figures | None]


class Timeseries(Shape):
    """Figures by time, and by group where one is asked for."""

    start_time: Time
    end_time: Time
    step: Annotated[str, one_of(*TIME_STEPS)]
    tz: str
    group_by: Annotated[str, one_of(*DIMENSIONS)] | None
    buckets: list[Time] = Field(description="When each bucket begins.")
    series: list[Series]
    groups_left_out: int
    is_exact: IsExact


class UsageLine(_Tokens):
    """What one key, one model, or one key with one model has used."""

    key_name: str | None = None
    model: str | None = None
    request_count: int
    completed_count: int
    failed_count: int


class Usage(Shape):
    """Who has used how much."""

    start_time: Time | None
    end_time: Time | None
    group_by: list[str]
    usage: list[UsageLine]
    is_exact: IsExact


# -- the scheduler ----------------------------------------------------------------------------


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


# -- for everybody ----------------------------------------------------------------------------


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


class Model(Shape):
    """A model in OpenAI's shape."""

    id: str
    object: Annotated[str, one_of("model")]
    created: int
    owned_by: str


class ModelList(Shape):
    """The models of all nodes that are not disabled."""

    object: Annotated[str, one_of("list")]
    data: list[Model]


class ErrorDetail(Shape):
    """One bad field or parameter."""

    param: str
    message: str


class ErrorFields(Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    details: list[ErrorDetail] = Field([], description="Every bad field of an admin call.")


class Error(Shape):
    """An error, in OpenAI's shape."""

    error: ErrorFields
