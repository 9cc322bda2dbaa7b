"""Logging: one line a message on stderr, as JSON or for people, free of query strings.

`configure_logging` is called once a process, before gunicorn starts. Other modules log by `logging.getLogger(__name__)`
with facts as `extra`; requests and node transitions go through `log_request` and `log_node`.
Prompts, keys, headers and query strings are never handed to a logger; what gunicorn would write of them is cut here.
"""

import json
import logging
import re
import sys
import time
from typing import Any, TextIO

import msgspec
from gunicorn.glogging import Logger as _GunicornLogger

from scheduler.gateway.record import RequestRecord

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("json", "console")

REQUEST_LOGGER = logging.getLogger("scheduler.request")
NODE_LOGGER = logging.getLogger("scheduler.node")

# What a caller may choose freely (a model name, an id) is cut to this many characters in a request's line.
_CALLER_TEXT_LIMIT = 256

# Loggers that say at `info` what only their developers want to know.
_TALKATIVE = ("alembic", "sqlalchemy", "urllib3")

_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "fields", "taskName"}

# Control characters, and the two separators that some readers take for line ends.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_NEWLINE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_QUERY = re.compile(r"\?\S+")
_QUOTATION = re.compile(r""": |['"]""")


def configure_logging(level: str, format: str, stream: TextIO | None = None) -> None:
    """Send every logger's lines to `stream` (stderr) from `level` on, as `json` or `console`. May be called again."""
    if level not in LEVELS or format not in FORMATS:
        raise ValueError(f"no such logging level or format: {level!r}, {format!r}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    handler.addFilter(QueryFilter())
    handler.name = "llm-scheduler"
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.name == handler.name]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING))
    # A DeprecationWarning printed raw would break a reader of JSON lines.
    logging.captureWarnings(True)


# -- what the scheduler says ------------------------------------------------------------------


def log_request(record: RequestRecord) -> None:
    """Write the line of a finished request. On the hot path: no look at the call stack, no formatting of times."""
    if not REQUEST_LOGGER.isEnabledFor(logging.INFO):
        return
    client_request_id = record.client_request_id
    _emit(
        REQUEST_LOGGER,
        logging.INFO,
        "request",
        {
            "id": record.id,
            "client_request_id": client_request_id and client_request_id[:_CALLER_TEXT_LIMIT],
            "model": record.model[:_CALLER_TEXT_LIMIT],
            "node": record.node_id,
            "priority": record.priority,
            "outcome": record.outcome,
            "http_status": record.http_status,
            "error_code": record.error_code,
            "queue_ms": _rounded(record.queue_ms),
            "first_byte_ms": _rounded(record.ttfb_ms),
            "total_ms": _rounded(record.latency_ms),
            "attempts": len(record.attempts),
            "key_name": record.key_name,
            "bytes_out": record.bytes_out,
        },
    )


def log_node(node_id: str, before: str, after: str, reason: str | None = None) -> None:
    """Write that a node's health or admin state has changed; a node that went down is a warning."""
    level = logging.WARNING if after == "down" else logging.INFO
    if NODE_LOGGER.isEnabledFor(level):
        fields = {"node": node_id, "from": before, "to": after, "reason": reason}
        _emit(NODE_LOGGER, level, f"node {node_id} is {after}", fields)


def _emit(logger: logging.Logger, level: int, message: str, fields: dict[str, Any]) -> None:
    record = logging.LogRecord(logger.name, level, "", 0, message, None, None)
    record.fields = fields
    logger.handle(record)


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 1)


# -- how it looks -----------------------------------------------------------------------------


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, the extra fields, and `exception` where there was one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            # A field must not pass itself off as one of ours.
            line[f"{name}_" if name in line else name] = value
        exception = _exception_text(self, record)
        if exception:
            line["exception"] = exception
        return _CONTROL.sub(_json_escape, _encode(line))


class ConsoleFormatter(logging.Formatter):
    """For people: local time, level, logger, message, fields as name=value; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        head = f"{clock}.{int(record.created * 1000) % 1000:03d} {record.levelname:<8}{record.name:<18} "
        words = [record.getMessage()]
        words += [f"{name}={value}" for name, value in _fields(record).items() if value is not None]
        # Escaped: a caller's model name must neither start a line of its own nor steer a terminal.
        line = head + _CONTROL.sub(_visible, " ".join(words))
        exception = _exception_text(self, record)
        if exception:
            line += "\n    " + _CONTROL_BUT_NEWLINE.sub(_visible, exception).replace("\n", "\n    ")
        return line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The facts of a record: those of `_emit`, or what came in by `extra`."""
    fields: dict[str, Any] | None = getattr(record, "fields", None)
    if fields is not None:
        return fields
    return {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}


def _exception_text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    parts = [record.exc_text, formatter.formatStack(record.stack_info) if record.stack_info else None]
    return "\n".join(part for part in parts if part)


def _rfc3339(seconds: float) -> str:
    millis = int(seconds * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(millis // 1000))}.{millis % 1000:03d}Z"


def _encode(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except (ValueError, TypeError, msgspec.MsgspecError):
        # Half a surrogate pair, a number beyond 64 bits, a mapping with odd keys: slower, but never lost.
        return json.dumps(line, default=str, skipkeys=True)


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _visible(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


# -- what gunicorn says -----------------------------------------------------------------------


class QueryFilter(logging.Filter):
    """Cuts query strings out of messages, fields and tracebacks, and what gunicorn quotes of malformed requests."""

    _quoting = "Invalid request from ip="

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true; changes the record where it must."""
        if getattr(record, "fields", None) is not None:
            return True  # from log_request or log_node, which are handed no URL
        is_gunicorn = record.name.startswith("gunicorn")
        if is_gunicorn and isinstance(record.args, tuple):
            # The whole argument is the request target here, so that blanks and quotes in the query do not matter.
            record.args = tuple(_before_query(arg) if isinstance(arg, str) else arg for arg in record.args)
        message = record.getMessage()
        cut = _QUERY.sub("", message) if "?" in message else message
        if is_gunicorn and message.startswith(self._quoting):
            cut = _without_quotation(message)
        if cut is not message:
            record.msg, record.args = cut, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = _QUERY.sub("", record.exc_text)
        for name, value in vars(record).items():
            if name not in _STANDARD_ATTRIBUTES and isinstance(value, str) and "?" in value:
                setattr(record, name, _QUERY.sub("", value))
        return True


def _before_query(target: str) -> str:
    return target.partition("?")[0]


def _without_quotation(message: str) -> str:
    """Keeps `Invalid request from ip=10.0.0.1: Invalid HTTP header name`, drops the header that follows."""
    address, _, detail = message.partition(": ")
    return f"{address}: {_QUOTATION.split(detail, maxsplit=1)[0]}"


class GunicornLogger(_GunicornLogger):  # type: ignore[misc]
    """gunicorn's loggers without handlers of their own: `configure_logging` decides. There is no access log."""

    def setup(self, cfg: Any) -> None:
        """Called by gunicorn at start and at each reload."""
        self.cfg = cfg
        self._access_log_enabled = False
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)
        self.access_log.disabled = True

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing: each request has its own line, and gunicorn's would carry the query string."""

    def reopen_files(self) -> None:
        """Nothing: there are no files."""
