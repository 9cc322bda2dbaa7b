"""The error families. They know facts, never an HTTP status: web/error_handlers.py translates."""

from collections.abc import Sequence


class SchedulerError(Exception):
    """Base of every error this project raises on purpose."""


# -- what the caller sent ---------------------------------------------------------------------


class BadCall(SchedulerError):
    """Raised when a call cannot be understood; `code` and `param` name what is wrong."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class BodyTooLarge(SchedulerError):
    """Raised when a body passes `server.max_body`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than {limit_bytes} bytes (server.max_body).")
        self.limit_bytes = limit_bytes


class BodyTimeout(SchedulerError):
    """Raised when a body makes no progress for `server.read_timeout`."""


class Unauthorized(SchedulerError):
    """Raised when a key is missing or wrong."""


class ClientGone(SchedulerError):
    """Raised when the client has left, or has stopped reading for too long."""


# -- admission: before a slot is held ---------------------------------------------------------


class AdmissionError(SchedulerError):
    """Base of the reasons why a ticket got no lease. `retry_after_s` is None where waiting would not help."""

    retry_after_s: int | None = None


class UnknownModel(AdmissionError):
    """Raised when no registered node has the model."""

    def __init__(self, model: str, known: Sequence[str]) -> None:
        names = ", ".join(known[:10]) if known else "none"
        super().__init__(f"The model '{model}' is on no registered node. Registered models: {names}.")
        self.model = model


class QueueFull(AdmissionError):
    """Raised when the queue is full, or when a more urgent arrival has pushed the ticket out of it."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueTimeout(AdmissionError):
    """Raised when a ticket is still waiting at its deadline."""

    def __init__(self, waited_s: float, retry_after_s: int) -> None:
        super().__init__(f"The request waited {waited_s:.1f} s for a free slot, which is its queue time-out.")
        self.waited_s = waited_s
        self.retry_after_s = retry_after_s


class NoHealthyNode(AdmissionError):
    """Raised when every node of the model has been down or disabled for longer than `unavailable_wait`."""

    def __init__(self, model: str, retry_after_s: int) -> None:
        super().__init__(f"Every node of the model '{model}' is down or disabled.")
        self.model = model
        self.retry_after_s = retry_after_s


class NoOtherNode(AdmissionError):
    """Raised when a ticket that was taken back from a node has no other node to go to."""

    def __init__(self) -> None:
        super().__init__("No other node can take the request.")


class ShuttingDown(AdmissionError):
    """Raised when the server no longer takes new work, or ends what still runs."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")
        self.retry_after_s = 5


class Cancelled(AdmissionError):
    """Raised when an administrator has cancelled the request."""

    def __init__(self) -> None:
        super().__init__("The request was cancelled by an administrator.")


class CoordinationUnavailable(AdmissionError):
    """Raised when the state that several workers share is out of reach."""

    def __init__(self) -> None:
        super().__init__("The shared state of the scheduler is out of reach.")
        self.retry_after_s = 5


# -- the node: while a slot is held -----------------------------------------------------------


class NodeError(SchedulerError):
    """Base of what a node can do wrong. `node_id` is for the record; messages to callers do not need it."""

    def __init__(self, message: str, node_id: str = "") -> None:
        super().__init__(message)
        self.node_id = node_id


class NodeUnreachable(NodeError):
    """Raised when the call could not be written: no connection, or it broke before the last byte of the call."""


class NodeClosed(NodeError):
    """Raised when the node closed after it had the call and before the first byte of the answer's body."""


class NodeProtocolError(NodeError):
    """Raised when what the node sent is no usable HTTP answer."""


class NodeTimeout(NodeError):
    """Raised when the node is silent, or busy with one call, past a clock; `clock` names the setting."""

    def __init__(self, clock: str, node_id: str = "") -> None:
        super().__init__(f"The node did not answer in time ({clock}).", node_id)
        self.clock = clock


class NodeAuthError(NodeError):
    """Raised when a node refuses our key (401 or 403)."""


class ReplyBroken(NodeError):
    """Raised when a reply broke after its first body byte."""


# -- operators --------------------------------------------------------------------------------


class UnknownNode(SchedulerError):
    """Raised when an operator names a node that is not registered."""

    def __init__(self, node_id: str) -> None:
        super().__init__(f"There is no node '{node_id}'.")
        self.node_id = node_id


class NodeConflict(SchedulerError):
    """Raised when an address is already registered under another id."""

    def __init__(self, address: str, other_id: str) -> None:
        super().__init__(f"The address {address} is already registered as node '{other_id}'.")
        self.address = address
        self.other_id = other_id


class UnknownRequest(SchedulerError):
    """Raised when an operator names a request that neither waits nor runs, or is not in the records."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"There is no such request: '{request_id}'.")
        self.request_id = request_id


class InvalidFields(SchedulerError):
    """Raised with every bad field of an admin body at once; `details` is [(param, message)]."""

    def __init__(self, details: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{param}: {message}" for param, message in details))
        self.details = list(details)


class ConfigError(SchedulerError):
    """Raised with every mistake in the settings at once, each naming place, value and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class StartRefused(SchedulerError):
    """Raised when the server must not start, with the one line that says why."""


class BackupFailed(SchedulerError):
    """Raised when there is no verified backup, with the one line that says why."""
