"""The log: one line a message, whole facts, and never a query string, whoever wrote it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from gunicorn.config import Config

from scheduler.gateway.record import Attempt, RequestRecord
from scheduler.logs import GunicornLogger, configure_logging, log_node, log_request

SECRET = "sk-canary-4711"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Where the lines go; what the test did to the logging module is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("alembic", "sqlalchemy", "urllib3", "gunicorn.error", "gunicorn.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).disabled = False


def lines(out: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in out.getvalue().split("\n")[:-1]]


def finished_record(**changes) -> RequestRecord:
    facts = {
        "id": "req-1", "boot_id": "b", "model": "qwen", "priority": "high", "path": "/v1/chat/completions",
        "stream": True, "client": "10.0.0.9", "created_at": 0.0, "client_request_id": "mine", "key_name": "team-a",
        "bytes_out": 99, "outcome": "completed", "node_id": "gpu-01", "queue_ms": 3.14159, "ttfb_ms": 120.0,
        "latency_ms": 900.04, "http_status": 200, "attempts": [Attempt("gpu-01", 0.0)],
    }  # fmt: skip
    return RequestRecord(**{**facts, **changes})


def test_a_finished_request_is_one_line_with_exactly_these_facts(out):
    configure_logging("info", "json", out)
    log_request(finished_record())
    (line,) = lines(out)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info", "logger": "scheduler.request", "message": "request", "id": "req-1",
        "client_request_id": "mine", "model": "qwen", "node": "gpu-01", "priority": "high", "outcome": "completed",
        "http_status": 200, "error_code": None, "queue_ms": 3.1, "first_byte_ms": 120.0, "total_ms": 900.0,
        "attempts": 1, "key_name": "team-a", "bytes_out": 99,
    }  # fmt: skip


def test_times_are_utc_with_milliseconds(out):
    configure_logging("info", "json", out)
    logging.getLogger("t").handle(logging.makeLogRecord({"name": "t", "levelno": 20, "created": 1767225600.0625}))
    assert lines(out)[0]["ts"] == "2026-01-01T00:00:00.062Z"


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("evil", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\x85b", "a\x7fb", "\ud800"])
def test_a_callers_text_neither_breaks_the_line_nor_reaches_the_terminal(out, format, evil):
    configure_logging("info", format, out)
    log_request(finished_record(model=evil))
    logging.getLogger("scheduler.x").warning("odd model %s", evil)
    text = out.getvalue()
    assert len(text.splitlines()) == 2
    assert not set(text) & set("\x1b\r\x85\x7f\u2028")
    if format == "json":
        assert [lines(out)[0]["model"], lines(out)[1]["message"]] == [evil, f"odd model {evil}"]


def test_a_callers_text_is_cut_to_a_sane_length(out):
    configure_logging("info", "json", out)
    log_request(finished_record(model="m" * 1_000_000))
    assert len(out.getvalue()) < 1000


def test_chinese_stays_readable(out):
    configure_logging("info", "json", out)
    log_request(finished_record(model="通义千问"))
    assert "通义千问" in out.getvalue()


def test_a_node_that_goes_down_is_a_warning_with_its_reason(out):
    configure_logging("warning", "json", out)
    log_node("gpu-01", "up", "down", "connection refused")
    log_node("gpu-01", "down", "up")
    (line,) = lines(out)
    assert (line["level"], line["message"]) == ("warning", "node gpu-01 is down")
    assert (line["node"], line["from"], line["to"], line["reason"]) == ("gpu-01", "up", "down", "connection refused")


def test_extra_fields_are_kept_and_cannot_replace_ours(out):
    configure_logging("info", "json", out)
    logging.getLogger("scheduler.x").info("ready", extra={"port": 8080, "level": "fake", "big": 2**80, "odd": {1, 2}})
    (line,) = lines(out)
    assert (line["level"], line["level_"], line["port"], line["big"]) == ("info", "fake", 8080, 2**80)


def test_an_exception_stays_within_its_json_line(out):
    configure_logging("info", "json", out)
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        logging.getLogger("scheduler.x").exception("our bug")
    (line,) = lines(out)
    assert line["message"] == "our bug"
    assert line["exception"].endswith("RuntimeError: two\nlines")


def test_the_console_is_aligned_and_leaves_out_what_is_unknown(out):
    configure_logging("info", "console", out)
    log_request(finished_record())
    logging.getLogger("scheduler.node").error("hm")
    first, second = out.getvalue().splitlines()
    assert "queue_ms=3.1" in first
    assert "error_code" not in first
    assert first.index("request id=") == second.index("hm")


def test_configuring_twice_does_not_write_twice(out):
    configure_logging("info", "json", io.StringIO())
    configure_logging("info", "json", out)
    logging.getLogger("scheduler.x").info("once")
    assert len(lines(out)) == 1


@pytest.mark.parametrize(("level", "format"), [("loud", "json"), ("info", "xml")])
def test_an_unknown_level_or_format_is_refused(level, format):
    with pytest.raises(ValueError, match="no such logging level or format"):
        configure_logging(level, format)


# -- gunicorn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("target", [f"/v1/x?key={SECRET}", f'/v1/x?a="b" {SECRET}', f"/v1/x?a=b?{SECRET}"])
def test_gunicorn_never_logs_a_query_string(out, format, target):
    configure_logging("debug", format, out)
    logger = GunicornLogger(Config())
    try:
        raise RuntimeError(f"cannot serve http://gpu-01:8000{target.replace(' ', '')}")
    except RuntimeError:
        logger.exception("Error handling request %s %s", "POST", target)
    logger.debug("%s %s", "POST", target)
    logger.warning(f"Invalid request from ip=::1: Invalid HTTP request line: {'GET ' + target!r}")
    logger.warning(f"Invalid request from ip=10.0.0.9: Invalid HTTP Header: {'X-API-KEY ' + SECRET!r}")
    logger.access(None, None, {"RAW_URI": target}, None)
    text = out.getvalue()
    assert SECRET not in text
    assert "Error handling request POST /v1/x" in text
    assert "RuntimeError: cannot serve http://gpu-01:8000/v1/x" in text
    assert "Invalid request from ip=::1: Invalid HTTP request line" in text


def test_another_loggers_urls_lose_their_query_too(out):
    configure_logging("debug", "json", out)
    log = logging.getLogger("some.library")
    log.warning("GET http://gpu-01/v1/models?key=%s failed", SECRET, extra={"url": f"/x?{SECRET}"})
    log.warning("ready? yes: %d%%", 100)
    assert SECRET not in out.getvalue()
    assert [line["message"] for line in lines(out)] == ["GET http://gpu-01/v1/models failed", "ready? yes: 100%"]


def test_gunicorn_writes_through_our_handler_and_keeps_none_of_its_own(out):
    configure_logging("info", "json", out)
    logger = GunicornLogger(Config())
    logger.setup(Config())  # as a reload does
    logger.info("Listening at: %s (%s)", "http://0.0.0.0:8080", 7)
    assert [line["message"] for line in lines(out)] == ["Listening at: http://0.0.0.0:8080 (7)"]
    assert logger.error_log.handlers == []
    assert not logger.access_log_enabled
