"""The one table that translates our errors to HTTP, and the handlers that answer with it."""

import logging
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from scheduler import errors
from scheduler.errors import SchedulerError

log = logging.getLogger(__name__)

#: Where a request's ids stand in its WSGI environment; whoever comes first makes them.
REQUEST_ID = "scheduler.request_id"

_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

INVALID_REQUEST = "invalid_request_error"
RATE_LIMIT = "rate_limit_error"
SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of the table: how one kind of error looks from outside."""

    status: int
    type: str
    code: str
    param: str | None = None
    retry_after_s: int | None = None  # where the error itself does not say
    should_retry: bool | None = None  # None: clients decide
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "The request could not be served."  # where the error itself has none


#: The contract's table of errors, and what operators can do wrong. The nearest base class counts.
TABLE: dict[type[SchedulerError], Answer] = {
    errors.BadCall: Answer(400, INVALID_REQUEST, "invalid_request"),  # its own code and param
    errors.Unauthorized: Answer(
        401,
        INVALID_REQUEST,
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
        message="The API key is missing or wrong.",
    ),
    errors.UnknownModel: Answer(404, INVALID_REQUEST, "model_not_found", param="model"),
    errors.BodyTimeout: Answer(408, INVALID_REQUEST, "request_timeout", should_retry=False),
    errors.BodyTooLarge: Answer(413, INVALID_REQUEST, "request_too_large"),
    errors.QueueFull: Answer(429, RATE_LIMIT, "queue_full"),
    errors.QueueTimeout: Answer(503, SERVER_ERROR, "queue_timeout", should_retry=False),
    errors.NoHealthyNode: Answer(503, SERVER_ERROR, "no_healthy_node"),
    errors.NoOtherNode: Answer(502, SERVER_ERROR, "upstream_unreachable", retry_after_s=5),
    errors.NodeUnreachable: Answer(502, SERVER_ERROR, "upstream_unreachable", retry_after_s=5),
    errors.NodeClosed: Answer(502, SERVER_ERROR, "upstream_closed", should_retry=False),
    errors.ReplyBroken: Answer(502, SERVER_ERROR, "upstream_closed", should_retry=False),
    errors.NodeProtocolError: Answer(502, SERVER_ERROR, "upstream_protocol_error", should_retry=False),
    errors.NodeAuthError: Answer(502, SERVER_ERROR, "upstream_auth_error", should_retry=False),
    errors.NodeTimeout: Answer(504, SERVER_ERROR, "upstream_timeout", should_retry=False),
    errors.ShuttingDown: Answer(503, SERVER_ERROR, "shutting_down"),
    errors.Cancelled: Answer(503, SERVER_ERROR, "cancelled", should_retry=False),
    errors.CoordinationUnavailable: Answer(503, SERVER_ERROR, "coordination_unavailable"),
    errors.ClientGone: Answer(499, INVALID_REQUEST, "client_closed"),  # in the record only
    errors.InvalidFields: Answer(400, INVALID_REQUEST, "invalid_fields"),
    errors.UnknownNode: Answer(404, INVALID_REQUEST, "node_not_found"),
    errors.UnknownRequest: Answer(404, INVALID_REQUEST, "request_not_found"),
    errors.NodeConflict: Answer(409, INVALID_REQUEST, "address_in_use", param="address"),
}

_HTTP_CODES = {
    400: "invalid_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """How one error is answered. `headers` has Retry-After, x-should-retry and WWW-Authenticate where they belong."""

    status: int
    type: str
    code: str
    param: str | None
    message: str
    retry_after_s: int | None = None
    should_retry: bool | None = None
    headers: dict[str, str] = field(default_factory=dict)
    details: list[tuple[str, str]] | None = None  # every bad field: (param, message)

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's shape."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.details is not None:
            error["details"] = [{"param": param, "message": message} for param, message in self.details]
        return {"error": error}


def describe(error: BaseException, request_id: str = "") -> ErrorAnswer:
    """How any error is answered; needs no request context. What we did not foresee says nothing but the request id."""
    row = next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), None)
    if row is None:
        return _internal_error(request_id)
    retry_after_s = getattr(error, "retry_after_s", None) or row.retry_after_s
    headers = dict(row.headers)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if row.should_retry is not None:
        headers["x-should-retry"] = str(row.should_retry).lower()
    return ErrorAnswer(
        status=row.status,
        type=row.type,
        code=getattr(error, "code", row.code),
        param=getattr(error, "param", row.param),
        message=str(error) or row.message,
        retry_after_s=retry_after_s,
        should_retry=row.should_retry,
        headers=headers,
        details=getattr(error, "details", None),
    )


def request_id() -> str:
    """Our id of the current request, made where it has none yet."""
    found: str = request.environ.setdefault(REQUEST_ID, f"req_{secrets.token_hex(16)}")
    return found


def install_error_handlers(app: Flask) -> None:
    """Let every error of the app be answered as JSON, and every answer carry the request's ids."""
    app.register_error_handler(SchedulerError, _answer_ours)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_bug)
    app.after_request(_add_request_ids)


def _answer_ours(error: SchedulerError) -> Response:
    answer = describe(error, request_id())
    if answer.code == "internal_error":
        log.exception("unforeseen error", exc_info=error, extra={"id": request_id()})
    return _respond(answer)


def _answer_http(error: HTTPException) -> Response:
    if error.response is not None:  # abort(response): somebody has already said it all
        return error.response  # type: ignore[return-value]
    status = error.code or 500
    if status >= 500:
        return _answer_bug(error)
    message = error.description or error.name
    if status == 404:
        message = f"There is nothing at {request.path}."
    elif status == 405:
        message = f"{request.method} is not allowed at {request.path}."
    answer = ErrorAnswer(status, INVALID_REQUEST, _HTTP_CODES.get(status, "invalid_request"), None, message)
    response = _respond(answer)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _answer_bug(error: Exception) -> Response:
    log.error("unforeseen error", exc_info=error, extra={"id": request_id(), "path": request.path})
    return _respond(_internal_error(request_id()))


def _respond(answer: ErrorAnswer) -> Response:
    response = jsonify(answer.body)
    response.status_code = answer.status
    response.headers.update(answer.headers)
    return response


def _add_request_ids(response: Response) -> Response:
    headers = response.headers
    if "X-Scheduler-Request-Id" not in headers:
        headers["X-Scheduler-Request-Id"] = request_id()
    if "X-Request-Id" not in headers:
        theirs = request.headers.get("X-Request-Id", "")
        headers["X-Request-Id"] = theirs if _CLIENT_REQUEST_ID.fullmatch(theirs) else request_id()
    return response


def _internal_error(request_id: str) -> ErrorAnswer:
    message = f"Internal error. Request id: {request_id}" if request_id else "Internal error."
    return ErrorAnswer(500, SERVER_ERROR, "internal_error", None, message)
