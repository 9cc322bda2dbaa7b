"""The shapes of `/admin/queue` and `/admin/requests`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scheduler.core.outcome import Outcome
from scheduler.web.shapes import Ms, PriorityName, Shape, Time, one_of

STATUSES = ("pending", "processing", "completed", "failed")
PHASES = ("connecting", "waiting_first_byte", "streaming", "sending")

OutcomeName = Annotated[str, one_of(*(outcome.value for outcome in Outcome))]
StatusName = Annotated[str, one_of(*STATUSES)]


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


class CleanupOrder(Shape):
    """Which records are to go."""

    older_than: str = Field(description="How old, such as `36h` or `7d`; `s`, `m`, `h` or `d`.")
    dry_run: bool = Field(default=False, description="Only say how many there are.")


class CleanupAnswer(Shape):
    """How many records are about to go, or would."""

    before: Time
    matching: int
    dry_run: bool
    held: str | None = Field(description="Why nothing is deleted by itself for the time being.")
