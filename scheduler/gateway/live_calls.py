"""LiveCalls: the requests that wait or run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from scheduler.core.priority import Priority
from scheduler.errors import SchedulerError, UnknownRequest
from scheduler.gateway.record import RequestRecord


@dataclass(frozen=True, slots=True)
class RunningView:
    """A running request at one instant."""

    id: str
    client_request_id: str | None
    model: str
    priority: str
    node_id: str | None
    phase: str  # connecting, waiting_first_byte, streaming, sending
    elapsed_ms: float
    bytes_out: int
    stream: bool
    key_name: str | None
    client: str


class LiveCall(Protocol):
    """One request that waits or runs, as others may see it."""

    record: RequestRecord

    def change_priority(self, priority: Priority) -> None:
        """Move it to another priority while it waits. Raises UnknownRequest where it does not."""

    def end_early(self, error: SchedulerError) -> None:
        """End it with an error, in whatever phase. Idempotent, never blocks."""

    @property
    def is_running(self) -> bool:
        """True while it holds a slot or its answer is still being sent; False while it waits."""

    @property
    def last_piece_at(self) -> float:
        """When the node it is at has last sent a piece of its answer; 0.0 where it has sent none."""

    @property
    def phase(self) -> str: ...

    @property
    def elapsed_ms(self) -> float: ...

    def cancel(self) -> None:
        """End it on behalf of an administrator, in whatever phase. Idempotent, never blocks."""


class LiveCalls:
    """The requests that wait or run in this process, by id, in order of arrival."""

    def __init__(self) -> None:
        self._calls: dict[str, LiveCall] = {}
        self._delivered_at: dict[str, float] = {}  # by node: the last piece of the calls that have ended

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[LiveCall]:
        return iter(list(self._calls.values()))

    def add(self, call: LiveCall) -> None:
        self._calls[call.record.id] = call

    def remove(self, call: LiveCall) -> None:
        self._calls.pop(call.record.id, None)
        node_id = call.record.node_id
        if node_id is not None and call.last_piece_at > self._delivered_at.get(node_id, 0.0):
            self._delivered_at[node_id] = call.last_piece_at

    def get(self, request_id: str) -> LiveCall:
        """The call with our id. Raises UnknownRequest."""
        call = self._calls.get(request_id)
        if call is None:
            raise UnknownRequest(request_id)
        return call

    def delivered_since(self, node_id: str, at: float) -> bool:
        """True where a node has sent any byte of an answer at `at`, on the exchanges' clock, or later."""
        return self._delivered_at.get(node_id, 0.0) >= at or any(
            call.last_piece_at >= at for call in self._calls.values() if call.record.node_id == node_id
        )

    def running(self, limit: int) -> tuple[list[RunningView], int]:
        """The first `limit` running requests, oldest first, and how many run in all."""
        running = [call for call in self._calls.values() if call.is_running]
        views = [
            RunningView(
                record.id,
                record.client_request_id,
                record.model,
                record.priority,
                record.node_id,
                call.phase,
                call.elapsed_ms,
                record.bytes_out,
                record.stream,
                record.key_name,
                record.client,
            )
            for call in running[:limit]
            for record in (call.record,)
        ]
        return views, len(running)
