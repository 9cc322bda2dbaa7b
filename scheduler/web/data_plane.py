"""DataPlane: the WSGI side of inference. Parse, one call, shape."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from http.client import responses as reason_phrases
from typing import Any
from urllib.parse import unquote, urlsplit

from scheduler.errors import BadCall, ClientGone, SchedulerError
from scheduler.gateway.call import InferenceCall, read_model
from scheduler.gateway.caller import KeyRing
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.kept_alive import KeptAliveStream, PendingReply
from scheduler.gateway.passing_headers import request_headers
from scheduler.gateway.ports import ClientConnection
from scheduler.gateway.reply import Reply, ReplyCut
from scheduler.web.body_reader import BodyReader
from scheduler.web.error_handlers import ErrorAnswer, describe

log = logging.getLogger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Headers = list[tuple[str, str]]

#: The engines' own paths outside /v1.
ENGINE_PATHS = frozenset({"/tokenize", "/detokenize", "/rerank", "/score", "/pooling", "/classify"})

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{0,9})?", re.ASCII)
_STREAM_HEADERS = [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]


def is_inference(method: str, path: str) -> bool:
    """True for what goes through the queue to a node."""
    return method == "POST" and (path.startswith("/v1/") or path in ENGINE_PATHS)


class DataPlane:
    """Answers inference requests. It is the outermost layer that knows of a request, and so it owns the exchange until
    that has moved into the stream it returns, whose `close` the server calls.

    `client_of` gives the caller's connection from the WSGI environment; `note_unread` is told the error code of each
    request that is refused before its model is known.
    """

    def __init__(
        self,
        gateway: Gateway,
        key_ring: KeyRing,
        body_reader: BodyReader,
        next_id: Callable[[], str],
        client_of: Callable[[dict[str, Any]], ClientConnection],
        queue_timeout_s: float,
        queue_timeout_max_s: float,
        sse_keepalive_s: float = 0.0,
        note_unread: Callable[[str], None] = lambda code: None,
    ) -> None:
        self._gateway = gateway
        self._key_ring = key_ring
        self._body_reader = body_reader
        self._next_id = next_id
        self._client_of = client_of
        self._queue_timeout_s = queue_timeout_s
        self._queue_timeout_max_s = queue_timeout_max_s
        self._sse_keepalive_s = sse_keepalive_s
        self._note_unread = note_unread

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        request_id = self._next_id()
        asked_id = environ.get("HTTP_X_REQUEST_ID", "")
        client_request_id = asked_id if _REQUEST_ID.fullmatch(asked_id) else None
        ours: Headers = [("X-Scheduler-Request-Id", request_id), ("X-Request-Id", client_request_id or request_id)]
        try:
            call = self._read_call(environ, request_id, client_request_id, ours)
        except Exception as error:
            return self._refuse_unread(error, request_id, ours, environ, start_response)
        exchange = self._gateway.accept(call, self._client_of(environ), request_id)
        try:
            try:
                if self._sse_keepalive_s and call.stream:
                    return self._keep_alive(exchange, ours, start_response)
                reply = self._gateway.serve(exchange)
            except Exception as error:
                return self._refuse(exchange, error, ours, start_response)
            return self._answer(reply, exchange, ours, start_response)
        except BaseException as error:
            # Whatever happens here, a bad header of a node in start_response included, nothing stays held.
            exchange.fail(error)
            raise

    def _answer(
        self, reply: Reply, exchange: Exchange, ours: Headers, start_response: StartResponse
    ) -> Iterable[bytes]:
        start_response(_status_line(reply.status), _reply_headers(reply, exchange, ours))
        return reply.stream

    def _keep_alive(self, exchange: Exchange, ours: Headers, start_response: StartResponse) -> Iterable[bytes]:
        """As ever where the reply comes soon; a stream that waits longer begins with comments."""
        # What a node might compress could not follow comments in plain text.
        exchange.call.headers = {k: v for k, v in exchange.call.headers.items() if k.lower() != "accept-encoding"}
        pending = PendingReply(lambda: self._gateway.serve(exchange))
        try:
            reply = pending.wait(self._sse_keepalive_s)
            if reply is not None:
                return self._answer(reply, exchange, ours, start_response)
            start_response("200 OK", [("Content-Type", "text/event-stream"), *ours, *_STREAM_HEADERS])
        except BaseException:
            # The greenlet that serves must not go on without an owner; where it has failed itself, nothing changes.
            exchange.end_early(ClientGone("The request was ended."))
            raise
        return KeptAliveStream(exchange, pending, self._sse_keepalive_s, error_event)

    def _read_call(
        self, environ: dict[str, Any], request_id: str, client_request_id: str | None, ours: Headers
    ) -> InferenceCall:
        caller = self._key_ring.find(environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_X_API_KEY"))
        priority = caller.priority_for(environ.get("HTTP_X_PRIORITY"))
        ours.append(("X-Scheduler-Priority", priority.label))
        path, query = _target(environ)
        body = self._body_reader.read(environ)
        try:
            model, stream = read_model(environ.get("CONTENT_TYPE", ""), body)
            headers = request_headers(_headers(environ), environ.get("HTTP_CONNECTION"))
            headers["X-Request-Id"] = client_request_id or request_id
            return InferenceCall(
                path,
                query,
                headers,
                body,
                model,
                stream,
                priority,
                self._queue_timeout(environ.get("HTTP_X_QUEUE_TIMEOUT")),
                client_request_id,
                caller.name,
                environ.get("REMOTE_ADDR") or "local",
            )
        except BaseException:
            self._body_reader.drop(body)
            raise

    def _queue_timeout(self, asked: str | None) -> float:
        """Seconds a request may wait: what it asks, within bounds; what is no number is no wish."""
        if not asked or not _SECONDS.fullmatch(asked.strip()):
            return self._queue_timeout_s
        return min(float(asked), self._queue_timeout_max_s)

    def _refuse(
        self, exchange: Exchange, error: Exception, ours: Headers, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer a request that got no reply of a node."""
        exchange.fail(error)
        error = exchange.ended_by or error
        if isinstance(error, ClientGone):
            raise ReplyCut from error
        if not isinstance(error, SchedulerError):
            log.error("unforeseen error", exc_info=error, extra={"id": exchange.record.id})
        return _answer(describe(error, exchange.record.id), _with_dispatch(ours, exchange), start_response)

    def _refuse_unread(
        self,
        error: Exception,
        request_id: str,
        ours: Headers,
        environ: dict[str, Any],
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """Answer a request whose model is not known: it leaves a line in the log and a figure, and no record."""
        answer = describe(error, request_id)
        self._note_unread(answer.code)
        if isinstance(error, ClientGone):
            raise ReplyCut from error
        level, cause = logging.INFO, None
        if not isinstance(error, SchedulerError):
            level, cause = logging.ERROR, error
        facts = {"id": request_id, "http_status": answer.status, "error_code": answer.code}
        log.log(
            level, "request refused", exc_info=cause, extra={**facts, "client": environ.get("REMOTE_ADDR") or "local"}
        )
        return _answer(answer, ours, start_response)


def error_event(error: BaseException) -> bytes:
    """The event that tells the reader of a stream that it broke; it makes OpenAI's clients raise."""
    return b"data: " + json.dumps(describe(error).body, ensure_ascii=False).encode() + b"\n\n"


def _answer(answer: ErrorAnswer, ours: Headers, start_response: StartResponse) -> Iterable[bytes]:
    body = json.dumps(answer.body, ensure_ascii=False).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(_status_line(answer.status), [*headers, *answer.headers.items(), *ours])
    return [body]


def _reply_headers(reply: Reply, exchange: Exchange, ours: Headers) -> Headers:
    headers = [*reply.headers, *_with_dispatch(ours, exchange)]
    return headers + _STREAM_HEADERS if reply.is_event_stream else headers


def _with_dispatch(ours: Headers, exchange: Exchange) -> Headers:
    """Our headers, with what is known once a request was dispatched."""
    record = exchange.record
    if not record.attempts:
        return ours
    # The priority may have been changed since the request was read.
    priority = [(name, record.priority if name == "X-Scheduler-Priority" else value) for name, value in ours]
    return [
        *priority,
        ("X-Scheduler-Node", record.node_id or ""),
        ("X-Scheduler-Queue-Ms", f"{record.queue_ms or 0:.0f}"),
        ("X-Scheduler-Attempts", str(len(record.attempts))),
    ]


def _status_line(status: int) -> str:
    return f"{status} {reason_phrases.get(status, 'Status')}"


def _target(environ: dict[str, Any]) -> tuple[str, str]:
    """Path and query as they came in, percent signs and all."""
    target = environ.get("RAW_URI", "").partition("#")[0]
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        # The absolute form that proxies use. Taken apart as the server below does it: a path that it calls inference
        # must not be another one at the node.
        path = urlsplit(path).path
    if not path.startswith("/") or not {".", ".."}.isdisjoint(unquote(path).split("/")):
        # The node might resolve it to a path that callers may not reach.
        raise BadCall("The path must begin with '/' and have no '.' or '..' as a segment.", "invalid_path")
    return path, query


def _headers(environ: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The request's headers, as far as WSGI tells them."""
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            yield name[5:].replace("_", "-").title(), value
    if content_type := environ.get("CONTENT_TYPE"):
        yield "Content-Type", content_type
