"""RequestRecord: what is known of one request, from acceptance to its end."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Attempt:
    """One delivery of a request to a node."""

    node_id: str
    start_ms: float  # after the request was created
    result: str = "running"  # completed, unreachable, closed, timeout, busy, auth, no_such_model, http_500, ...
    duration_ms: float | None = None


@dataclass(slots=True)
class RequestRecord:
    """What is known of one request. The gateway changes it; the recorder copies it.

    Times ending in `_at` are seconds since the epoch (UTC); durations ending in `_ms` come from the monotonic clock.
    Neither prompt nor answer nor key is ever in it.
    """

    id: str
    boot_id: str
    model: str
    priority: str  # Priority.label
    path: str
    stream: bool
    client: str  # address of the caller
    created_at: float
    client_request_id: str | None = None
    key_name: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    status: str = "pending"  # pending, processing, completed, failed
    outcome: str | None = None  # Outcome, once it has ended
    node_id: str | None = None
    decision: str | None = None  # why this node: a short English sentence
    started_at: float | None = None
    first_byte_at: float | None = None
    finished_at: float | None = None
    queue_ms: float | None = None
    ttfb_ms: float | None = None  # created to first body byte
    latency_ms: float | None = None  # created to finished
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    pieces: int = 0  # of the answer that went to the caller; for metrics, not kept
    attempts: list[Attempt] = field(default_factory=list)
