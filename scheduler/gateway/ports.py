"""The ports: what the gateway needs from the outside world. Adapters implement them without inheriting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scheduler.gateway.figures import Grouped, Totals, Usage
from scheduler.gateway.record import RequestRecord

# -- node transport ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeTarget:
    """Where a node is and the key it wants from us."""

    id: str
    address: str  # http(s)://host[:port][/prefix], no trailing slash
    api_key: str | None = field(default=None, repr=False)


class Upstream(Protocol):
    """An answer of a node, headers read, body still to come. One greenlet reads; any greenlet may abort."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """As the node sent them, order and case kept."""

    @property
    def content_length(self) -> int | None: ...

    @property
    def is_finished(self) -> bool:
        """True once the last byte of the body has arrived (it may still be in the piece just returned)."""

    @property
    def is_framed(self) -> bool:
        """False where the end of the connection is the only end of the body."""

    def read(self) -> bytes:
        """What has arrived of the body, in one piece; b"" at its end. Raises NodeError."""

    def close(self) -> None:
        """Give the connection back to its pool where the body is finished, close it otherwise. Idempotent."""


class Delivery(Protocol):
    """One call on its way to a node. `abort` may come from any greenlet, at any instant, in any phase."""

    @property
    def is_connected(self) -> bool:
        """True once there is a connection to write the call to."""

    @property
    def is_written(self) -> bool:
        """True once the whole call has been handed to that connection."""

    def send(self) -> Upstream:
        """Connect, write the call, read status and headers. Raises NodeError."""

    def abort(self, error: Exception) -> None:
        """End it now: whoever connects, writes or reads gets `error` raised. Idempotent; the first error stays."""

    def close(self) -> None:
        """As Upstream.close, in any phase. Idempotent."""


class Forwarder(Protocol):
    """Sends calls to nodes."""

    def prepare(self, target: NodeTarget, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Delivery:
        """A delivery that has not begun: nothing is connected yet."""

    def forget(self, address: str) -> None:
        """Close the idle connections to an address (its node was removed or moved)."""


# -- the client -------------------------------------------------------------------------------


class ClientConnection(Protocol):
    """The caller's connection, as far as the gateway may know it."""

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once, from the hub, when the client has left (half-close included). It must not block."""

    def unwatch(self) -> None:
        """Stop watching; must be called before the request returns. Idempotent."""

    def progress(self) -> int:
        """A number that grows whenever the client has taken more bytes of the answer."""

    def reset_on_close(self) -> None:
        """Let the end of the connection, whoever closes it, be a reset: what was sent cannot look whole."""

    def cut(self) -> None:
        """End the connection now, with a reset: a blocked write ends with an error."""


# -- nodes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe has found. `reason` says in a few words why not: `timeout`, `HTTP 503`, `auth`."""

    is_up: bool
    reason: str | None = None
    models: tuple[str, ...] | None = None  # what /v1/models listed, where it was asked


class Prober(Protocol):
    """Asks a node whether it can serve."""

    def probe(self, target: NodeTarget, check_key: bool = False) -> ProbeResult:
        """One probe under its own total deadline. Never raises for what a node does.

        `check_key`: the node has refused our key (or our having none), so it is up only where it accepts it now.
        """


@dataclass(frozen=True, slots=True)
class ExamStep:
    """One step of trying an address: `url`, `dns`, `tcp`, `tls`, `health`, `models` or `engine`."""

    name: str
    is_ok: bool
    message: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class NodeFindings:
    """What an examination has found. A step that fails may be the last; `engine` is `unknown` where none is known."""

    steps: tuple[ExamStep, ...]
    models: tuple[str, ...] = ()
    engine: str = "unknown"  # vllm, sglang, llama.cpp
    engine_version: str | None = None
    max_concurrent: int | None = None  # how many requests the engine says it runs at once
    notes: tuple[str, ...] = ()


class NodeExaminer(Protocol):
    """Tries a node that need not be registered, step by step."""

    def examine(self, target: NodeTarget) -> NodeFindings:
        """All steps from `dns` on, under one total deadline. Changes nothing, never raises for what a node does."""


@dataclass(slots=True)
class StoredNode:
    """A node as it is kept: what was registered, and what an operator has set since (`overrides`)."""

    id: str
    address: str
    models: list[str]
    max_concurrent: int
    weight: int
    api_key: str | None
    labels: dict[str, str]
    remark: str
    state: str  # active, draining, disabled
    overrides: dict[str, Any]
    is_from_file: bool  # came from config.yaml
    is_deleted: bool  # a node of the file that an operator has removed: it stays away
    created_at: float
    updated_at: float


class NodeStore(Protocol):
    """Keeps nodes. Calls may take long: never make them while holding a slot's fate."""

    def load(self) -> list[StoredNode]:
        """All kept nodes, deleted ones included."""

    def save(self, node: StoredNode) -> None:
        """Insert or replace by id; durable when it returns."""

    def delete(self, node_id: str) -> None:
        """Forget a node; nothing happens where it is not kept."""


# -- records ----------------------------------------------------------------------------------


class Recorder(Protocol):
    """Keeps records, off the hot path."""

    def save(self, record: RequestRecord) -> None:
        """Take the record as it is now, to be written soon. Never blocks, never raises, and is cheap."""


class MetricsPage(Protocol):
    """All metrics, for whoever scrapes them."""

    @property
    def content_type(self) -> str: ...

    def text(self) -> bytes:
        """All metrics as they are now. May let other greenlets run meanwhile."""


@dataclass(frozen=True, slots=True)
class Event:
    """Who changed what: a line of the audit trail."""

    at: float  # seconds since the epoch
    kind: str  # node.registered, node.changed, node.removed, node.up, node.down, request.cancelled, ...
    subject: str  # node id or request id
    actor: str  # address of the operator, or "scheduler"
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    note: str | None = None


class EventLog(Protocol):
    """Keeps events, off the hot path."""

    def add(self, event: Event) -> None:
        """Take the event, to be written soon. Never blocks, never raises."""


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which records are asked for; None means any."""

    status: str | None = None
    outcome: str | None = None
    model: str | None = None
    node_id: str | None = None
    priority: str | None = None
    key_name: str | None = None
    stream: bool | None = None
    error_code: str | None = None
    start_time: float | None = None  # created at or after, seconds since the epoch
    end_time: float | None = None  # created before
    min_latency_ms: float | None = None
    q: str | None = None  # our id or the caller's id, exact or prefix


@dataclass(frozen=True, slots=True)
class RequestPage:
    """A page of records, newest first, as plain dictionaries with the contract's fields (times in epoch seconds)."""

    requests: list[dict[str, Any]]
    total: int
    total_is_estimate: bool


class RequestLog(Protocol):
    """Reads records; every call runs outside the hub."""

    def page(self, wanted: RequestFilter, limit: int, offset: int) -> RequestPage:
        """Records that match, newest first."""

    def batches(self, wanted: RequestFilter) -> Iterator[list[dict[str, Any]]]:
        """All records that match, newest first, some at a time; the first batch may be empty."""

    def get(self, request_id: str) -> dict[str, Any] | None:
        """One record with its attempts, or None."""

    def events(self, limit: int, offset: int) -> Iterator[Event]:
        """Events, newest first."""


class Statistics(Protocol):
    """Figures of ranges of time, by when requests were created; also of requests whose records are gone."""

    def totals(self, start_time: float | None, end_time: float | None) -> Totals:
        """Of all requests of a range; None leaves it open."""

    def grouped(self, edges: Sequence[float | None], group_by: str | None) -> Grouped:
        """Of each range between two edges, by one of DIMENSIONS, or all together under the name None."""

    def usage(self, start_time: float | None, end_time: float | None) -> tuple[list[Usage], bool]:
        """What each key has used of each model, and whether that is exact."""


@dataclass(frozen=True, slots=True)
class DatabaseSize:
    """How much is kept."""

    bytes: int | None  # on disk
    rows_estimate: int  # requests
    oldest_at: float | None  # when the oldest of them was created, seconds since the epoch


@dataclass(frozen=True, slots=True)
class CleanupState:
    """What the clean-up of old records does."""

    is_enabled: bool
    held: str | None  # why nothing is deleted for the time being
    is_running: bool
    last_at: float | None  # seconds since the epoch
    deleted: int  # requests, since the start


class Cleanup(Protocol):
    """Lets old records go."""

    def matching(self, before: float) -> int:
        """How many requests were created before."""

    def ask(self, before: float) -> None:
        """Have them deleted, soon; says too that the clock is right."""

    def state(self) -> CleanupState: ...

    def size(self) -> DatabaseSize:
        """How large the database is."""
