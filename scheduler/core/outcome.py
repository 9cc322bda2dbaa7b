"""Outcome: how a request ended."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended; the same word in record, log, metric and panel."""

    COMPLETED = "completed"  # the answer was relayed to its end, with a status under 400
    FAILED = "failed"  # a node or we failed, or the engine answered an error
    REJECTED = "rejected"  # refused before it was in the queue
    EVICTED = "evicted"  # left the queue without a slot: deadline, pushed out, shutdown
    CANCELLED = "cancelled"  # an administrator ended it
    CLIENT_CLOSED = "client_closed"  # the client left, or stopped reading
    INTERRUPTED = "interrupted"  # the process died, or was stopped, while it ran

    @property
    def status(self) -> str:
        """The record's `status` for this end: `completed` or `failed`."""
        return "completed" if self is Outcome.COMPLETED else "failed"
