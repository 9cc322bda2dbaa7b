"""The contract's table of errors, row by row, as callers see it and as the records keep it."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.e2e.conftest import StartFleet, StartNode, StartServer
from tests.simulation.wire import Answer, Wire
from tests.support.fleet import Fleet
from tests.support.server import RunningServer, free_port
from tests.support.sim_node import SimNode

CHAT = "/v1/chat/completions"
BAD, LIMIT, SERVER = "invalid_request_error", "rate_limit_error", "server_error"
PROBE_INTERVAL_S = 20

SETTINGS = {
    "server": {"max_body": 2000, "read_timeout": "0.2s"},
    "scheduler": {
        "max_queue_size": 2,
        "unavailable_wait": "0.2s",
        "request_timeout": "0.5s",
        "idle_timeout": "0.3s",
        "connect_timeout": "0.3s",
        "health_check_interval": f"{PROBE_INTERVAL_S}s",
        "eject_after": 1000,
    },
}


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet(SETTINGS)
    fleet.add("gpu-01", ["sim"], slots=1)
    fleet.add("gpu-02", ["pair"], slots=1)
    fleet.add("gpu-03", ["pair"], slots=1)
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    module_fleet.settle()


@pytest.fixture
def server(fleet: Fleet) -> RunningServer:
    return fleet.server


@pytest.fixture
def node(fleet: Fleet) -> SimNode:
    """The only node of the model `sim`, with one slot."""
    return fleet["gpu-01"]


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    status: int
    type: str
    code: str
    param: str | None = None
    retry_after: range | None = None
    should_retry: str | None = None


def check(response: requests.Response, row: Row) -> str:
    """Compare an answer with its row; our id of the request."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    headers = response.headers
    assert (response.status_code, error["type"], error["code"], error["param"]) == (
        row.status,
        row.type,
        row.code,
        row.param,
    )
    assert headers["Content-Type"] == "application/json"
    assert headers.get("x-should-retry") == row.should_retry
    if row.retry_after is None:
        assert "Retry-After" not in headers
    else:
        assert int(headers["Retry-After"]) in row.retry_after
    assert headers.get("WWW-Authenticate") == ("Bearer" if row.status == 401 else None)
    assert headers["X-Request-Id"] == headers["X-Scheduler-Request-Id"]
    return headers["X-Scheduler-Request-Id"]


def check_record(fleet: Fleet, request_id: str, **expected: Any) -> dict[str, Any]:
    """There is exactly one record of the request, and it says so; the record."""
    record = fleet.server.record(request_id)
    assert len(fleet.records(request_id)) == 1
    assert {name: record[name] for name in expected} == expected
    assert record["status"] == ("completed" if record["outcome"] == "completed" else "failed")
    return record


def check_refused_unread(fleet: Fleet, request_id: str, row: Row) -> None:
    """A request whose model is not known leaves a line in the log, and no record."""
    (line,) = [line for line in fleet.server.log_lines if line.get("id") == request_id]
    assert (line["http_status"], line["error_code"]) == (row.status, row.code)
    assert fleet.records(request_id) == []


# -- refused before the model is known --------------------------------------------------------

INVALID_JSON = Row(400, BAD, "invalid_json")
NO_MODEL = Row(400, BAD, "missing_required_parameter", "model")


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'"sim"', b"null"], ids=repr)
def test_a_body_that_is_no_json_object(fleet: Fleet, body: bytes) -> None:
    check_refused_unread(fleet, check(fleet.server.post(body), INVALID_JSON), INVALID_JSON)


@pytest.mark.parametrize("model", [..., None, "", "  ", 5, ["sim"], {"sim": 1}, True, "x" * 300, "a\nb"], ids=repr)
def test_a_model_that_is_missing_empty_or_no_text(fleet: Fleet, model: Any) -> None:
    body = {"messages": []} if model is ... else {"model": model}

    check_refused_unread(fleet, check(fleet.server.post(body), NO_MODEL), NO_MODEL)


def test_a_body_over_the_limit(fleet: Fleet) -> None:
    row = Row(413, BAD, "request_too_large")

    check_refused_unread(fleet, check(fleet.server.post({"model": "sim", "x": "y" * 3000}), row), row)


def wired(server: RunningServer, data: bytes, *, end: bool = False) -> requests.Response:
    """What is answered to these bytes, as a response of requests."""
    with Wire(server.port) as wire:
        wire.send(data)
        if end:
            wire.half_close()
        return as_response(wire.answer())


def as_response(answer: Answer) -> requests.Response:
    response = requests.Response()
    response.status_code, response._content = answer.status, answer.body
    response.headers.update(answer.headers)
    return response


def test_a_body_that_makes_no_progress(fleet: Fleet) -> None:
    row = Row(408, BAD, "request_timeout", should_retry="false")

    response = wired(fleet.server, b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")

    check_refused_unread(fleet, check(response, row), row)


def test_a_body_that_is_too_short(fleet: Fleet) -> None:
    row = Row(400, BAD, "body_incomplete")

    response = wired(fleet.server, b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", end=True)

    check_refused_unread(fleet, check(response, row), row)


def test_a_body_in_malformed_chunks(fleet: Fleet) -> None:
    row = Row(400, BAD, "malformed_body")

    response = wired(fleet.server, b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

    check_refused_unread(fleet, check(response, row), row)


# -- refused by the queue ---------------------------------------------------------------------


def test_a_model_that_no_node_has(fleet: Fleet) -> None:
    response = fleet.server.post({"model": "gpt-4"})

    request_id = check(response, Row(404, BAD, "model_not_found", "model"))
    assert "pair, sim" in response.json()["error"]["message"]
    record = check_record(
        fleet, request_id, outcome="rejected", error_code="model_not_found", http_status=404, node_id=None
    )
    assert (record["model"], record["attempts"]) == ("gpt-4", [])


def test_the_message_lists_ten_models_at_most(fleet: Fleet) -> None:
    nodes = [f"m-{at:02d}" for at in range(12)]
    added = fleet.server.admin(
        "POST",
        "/nodes",
        {"id": "many", "address": f"http://127.0.0.1:{free_port()}", "models": nodes, "max_concurrent": 1},
    )
    assert added.status_code == 201
    try:
        message = fleet.server.post({"model": "gpt-4"}).json()["error"]["message"]
    finally:
        assert fleet.server.admin("DELETE", "/nodes/many").status_code == 204

    assert re.findall(r"m-\d\d", message) == nodes[:10]


FULL = Row(429, LIMIT, "queue_full", retry_after=range(1, 61))


def test_a_full_queue(fleet: Fleet) -> None:
    body = {"model": "sim"}
    with fleet.occupied("gpu-01"), fleet.waiting(body), fleet.waiting(body):
        request_id = check(fleet.server.post(body), FULL)

    check_record(fleet, request_id, outcome="rejected", error_code="queue_full", http_status=429, attempts=[])


def test_a_full_queue_pushes_the_least_urgent_out_for_a_more_urgent(fleet: Fleet) -> None:
    body, urgent = {"model": "sim"}, {"headers": {"X-Priority": "high"}}
    with fleet.occupied("gpu-01"), fleet.waiting(body) as older, fleet.waiting(body) as newer:
        call = fleet.later(lambda: fleet.server.post(body, **urgent))
        request_id = check(newer.result(), FULL)
        check_record(fleet, request_id, outcome="evicted", error_code="queue_full", http_status=429)
        assert not older.done()
    assert (older.result().status_code, call.result().status_code) == (200, 200)


def test_waiting_longer_than_the_queue_timeout(fleet: Fleet) -> None:
    with fleet.occupied("gpu-01"):
        response = fleet.server.post({"model": "sim"}, headers={"X-Queue-Timeout": "0.05"})

    request_id = check(response, Row(503, SERVER, "queue_timeout", retry_after=range(1, 61), should_retry="false"))
    record = check_record(fleet, request_id, outcome="evicted", error_code="queue_timeout", http_status=503)
    assert record["latency_ms"] == pytest.approx(50, abs=200)
    assert (record["started_at"], record["attempts"]) == (None, [])


@pytest.mark.parametrize("state", ["down", "disabled"])
def test_no_node_of_the_model_is_up(fleet: Fleet, state: str) -> None:
    server = fleet.server
    body = {"id": "lost", "address": f"http://127.0.0.1:{free_port()}", "models": ["lost"], "max_concurrent": 1}
    server.admin("POST", "/nodes", body)
    try:
        server.wait_for_node("lost", health="down")
        if state == "disabled":
            server.admin("PATCH", "/nodes/lost", {"state": "disabled"})
        request_id = check(
            server.post({"model": "lost"}),
            Row(503, SERVER, "no_healthy_node", retry_after=range(PROBE_INTERVAL_S, PROBE_INTERVAL_S + 1)),
        )
    finally:
        server.admin("DELETE", "/nodes/lost")
    record = check_record(fleet, request_id, outcome="evicted", error_code="no_healthy_node", http_status=503)
    assert record["latency_ms"] >= 200


# -- failures of the node ---------------------------------------------------------------------


def check_dispatched(response: requests.Response, node_id: str = "gpu-01", attempts: int = 1) -> None:
    assert response.headers["X-Scheduler-Node"] == node_id
    assert response.headers["X-Scheduler-Attempts"] == str(attempts)
    assert float(response.headers["X-Scheduler-Queue-Ms"]) >= 0
    assert response.headers["X-Scheduler-Priority"] == "normal"


def test_a_node_that_cannot_be_reached(fleet: Fleet, node: SimNode) -> None:
    node.refuse()

    response = fleet.server.post({"model": "sim"})

    request_id = check(response, Row(502, SERVER, "upstream_unreachable", retry_after=range(5, 6)))
    check_dispatched(response)
    record = check_record(fleet, request_id, outcome="failed", error_code="upstream_unreachable", http_status=502)
    assert [(attempt["node_id"], attempt["result"]) for attempt in record["attempts"]] == [("gpu-01", "unreachable")]


def test_no_node_of_two_can_be_reached(fleet: Fleet) -> None:
    fleet["gpu-02"].refuse()
    fleet["gpu-03"].refuse()

    response = fleet.server.post({"model": "pair"})

    request_id = check(response, Row(502, SERVER, "upstream_unreachable", retry_after=range(5, 6)))
    record = check_record(fleet, request_id, outcome="failed", error_code="upstream_unreachable", http_status=502)
    assert sorted(attempt["node_id"] for attempt in record["attempts"]) == ["gpu-02", "gpu-03"]
    assert response.headers["X-Scheduler-Attempts"] == "2"


CLOSED = Row(502, SERVER, "upstream_closed", should_retry="false")


@pytest.mark.parametrize("kind", ["close", "reset"])
@pytest.mark.parametrize("phase", ["headers", "body"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_node_that_closes_before_the_first_byte(
    fleet: Fleet, node: SimNode, kind: str, phase: str, stream: bool
) -> None:
    node.fault(kind, phase=phase)

    response = fleet.server.post({"model": "sim", "stream": stream})

    request_id = check(response, CLOSED)
    check_dispatched(response)
    record = check_record(fleet, request_id, outcome="failed", error_code="upstream_closed", http_status=502)
    assert [attempt["result"] for attempt in record["attempts"]] == ["closed"]


PROTOCOL = Row(502, SERVER, "upstream_protocol_error", should_retry="false")
UNUSABLE: dict[str, dict[str, Any]] = {
    "no HTTP": {"kind": "garbage"},
    "a redirect": {"kind": "redirect"},
    "a permanent redirect": {"kind": "redirect", "status": 301},
    "a malformed chunk": {"kind": "bad_chunk", "after_chunks": 0},
    **{
        variant: {"kind": "bad_headers", "variant": variant}
        for variant in (
            *("control_char", "bare_cr", "cl_and_te", "many", "huge", "duplicate_length"),
            *("negative_length", "te_unknown", "no_colon", "obs_fold"),
        )
    },
}


@pytest.mark.parametrize("fault", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_node_whose_answer_is_unusable(fleet: Fleet, node: SimNode, fault: dict[str, Any]) -> None:
    node.fault(**fault)

    response = fleet.server.post({"model": "sim"}, allow_redirects=False)

    request_id = check(response, PROTOCOL)
    check_dispatched(response)
    record = check_record(fleet, request_id, outcome="failed", error_code="upstream_protocol_error", http_status=502)
    assert [attempt["result"] for attempt in record["attempts"]] == ["protocol_error"]
    assert node.stats()["arrived"] == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_node_that_refuses_our_key(fleet: Fleet, node: SimNode, status: int) -> None:
    node.fault("status", status=status, times=1)

    response = fleet.server.post({"model": "sim"})

    request_id = check(response, Row(502, SERVER, "upstream_auth_error", should_retry="false"))
    record = check_record(fleet, request_id, outcome="failed", error_code="upstream_auth_error", http_status=502)
    assert [attempt["result"] for attempt in record["attempts"]] == ["auth"]
    assert any(
        line.get("node") == "gpu-01" and line.get("to") == "down" and line.get("reason") == "auth"
        for line in fleet.server.log_lines
    )


TIMEOUT = Row(504, SERVER, "upstream_timeout", should_retry="false")


@pytest.mark.parametrize("phase", ["headers", "body"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_node_that_is_silent(fleet: Fleet, node: SimNode, phase: str, stream: bool) -> None:
    node.fault("hang", phase=phase)

    response = fleet.server.post({"model": "sim", "stream": stream})

    request_id = check(response, TIMEOUT)
    check_dispatched(response)
    record = check_record(fleet, request_id, outcome="failed", error_code="upstream_timeout", http_status=504)
    assert [attempt["result"] for attempt in record["attempts"]] == ["timeout"]
    node.wait(running=0)


# -- ended from outside -----------------------------------------------------------------------

CANCELLED = Row(503, SERVER, "cancelled", should_retry="false")


def test_a_waiting_request_that_an_administrator_cancels(fleet: Fleet) -> None:
    with fleet.occupied("gpu-01"), fleet.waiting({"model": "sim"}) as waiter:
        (ticket,) = fleet.server.get("/queue")["waiting"]
        assert fleet.server.admin("DELETE", f"/requests/{ticket['id']}").status_code == 202
        assert check(waiter.result(), CANCELLED) == ticket["id"]
    check_record(fleet, ticket["id"], outcome="cancelled", error_code="cancelled", http_status=503, attempts=[])


def test_a_running_request_that_an_administrator_cancels(fleet: Fleet, node: SimNode) -> None:
    node.fault("hang", phase="headers")
    caller = fleet.later(lambda: fleet.server.post({"model": "sim"}))
    node.wait(running=1)
    (running,) = fleet.server.get("/queue")["running"]

    assert fleet.server.admin("DELETE", f"/requests/{running['id']}").status_code == 202

    assert check(caller.result(), CANCELLED) == running["id"]
    check_dispatched(caller.result())
    check_record(fleet, running["id"], outcome="cancelled", error_code="cancelled", http_status=503)
    node.wait(running=0)


def test_a_client_that_leaves(fleet: Fleet, node: SimNode) -> None:
    node.close_gate()
    with Wire(fleet.server.port) as wire:
        wire.send(Wire.encoded(CHAT, "X-Request-Id: leaver"))
        node.wait(running=1)
    node.wait(running=0, aborted=1)

    record = check_record(fleet, "leaver", outcome="client_closed", error_code="client_closed", http_status=499)
    assert record["bytes_out"] == 0


def test_a_server_that_shuts_down(start_server: StartServer, start_node: StartNode, tmp_path: Any) -> None:
    server, node = start_server(), start_node(slots=1)
    server.register("gpu-01", node.address, max_concurrent=1)
    node.close_gate()
    with Wire(server.port) as running, Wire(server.port) as waiting:
        running.send(Wire.encoded())
        node.wait(running=1)
        waiting.send(Wire.encoded())
        server.wait_until_waiting(1)

        server.terminate()

        check(as_response(waiting.answer()), Row(503, SERVER, "shutting_down", retry_after=range(5, 6)))
        node.open_gate()
        assert running.answer().status == 200
    assert server.wait() == 0


# -- what engines say -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 422, 500, 502])
def test_an_error_of_the_engine_passes_and_is_recorded_as_its_own(fleet: Fleet, node: SimNode, status: int) -> None:
    said = '{"error": "in the engine\'s own words"}'
    node.fault("status", status=status, body=said, headers={"Content-Type": "application/json"})

    response = fleet.server.post({"model": "sim"})

    assert (response.status_code, response.text) == (status, said)
    assert "x-should-retry" not in response.headers
    check_dispatched(response)
    request_id = response.headers["X-Scheduler-Request-Id"]
    check_record(fleet, request_id, outcome="failed", error_code=f"upstream_http_{status}", http_status=status)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_node_that_stays_busy_has_the_last_word(fleet: Fleet, node: SimNode, status: int) -> None:
    said = '{"error": "try again"}'
    node.fault("status", status=status, body=said, headers={"Retry-After": "0.1", "Content-Type": "application/json"})

    response = fleet.server.post({"model": "sim"})

    assert (response.status_code, response.text) == (status, said)
    assert response.headers["Retry-After"] == "0.1"
    check_dispatched(response, attempts=3)
    record = check_record(
        fleet,
        response.headers["X-Scheduler-Request-Id"],
        outcome="failed",
        error_code=f"upstream_http_{status}",
        http_status=status,
    )
    assert [attempt["result"] for attempt in record["attempts"][:2]] == ["busy", "busy"]


def test_a_model_that_the_engine_has_lost_is_answered_by_the_engine(fleet: Fleet, node: SimNode) -> None:
    said = '{"error":{"message":"The model `sim` does not exist."}}'
    node.fault("status", status=404, body=said, headers={"Content-Type": "application/json"})

    response = fleet.server.post({"model": "sim"})

    assert (response.status_code, response.text) == (404, said)
    request_id = response.headers["X-Scheduler-Request-Id"]
    check_record(fleet, request_id, outcome="failed", error_code="upstream_http_404", http_status=404)
    fleet.renew("gpu-01")  # it gets nothing more for a model it is known to lack


# -- replies that break after their first byte ------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [("reset", "upstream_closed"), ("close", "upstream_closed"), ("hang", "upstream_timeout")],
)
def test_a_stream_that_breaks_ends_with_an_error_event(fleet: Fleet, node: SimNode, fault: str, code: str) -> None:
    node.fault(fault, phase="stream", after_chunks=2, partial_bytes=9)

    response = fleet.server.post({"model": "sim", "stream": True})

    assert response.status_code == 200
    *frames, last, rest = response.content.split(b"\n\n")
    assert rest == b""
    assert len(frames) == 3
    assert frames[2] == b'data: {"i'
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (SERVER, code)
    assert b"[DONE]" not in response.content
    check_record(fleet, response.headers["X-Scheduler-Request-Id"], outcome="failed", error_code=code, http_status=200)


def test_a_stream_whose_framing_breaks_ends_with_an_error_event(fleet: Fleet, node: SimNode) -> None:
    node.fault("bad_chunk", after_chunks=3)

    # A pause before each token, so that what comes first is not read together with what is malformed.
    response = fleet.server.post({"model": "sim", "stream": True, "sim_gap_ms": 50})

    assert response.status_code == 200
    assert json.loads(response.content.split(b"data: ")[-1])["error"]["code"] == "upstream_closed"
    check_record(fleet, response.headers["X-Scheduler-Request-Id"], outcome="failed", http_status=200)


def check_cut(fleet: Fleet, name: str, body: Mapping[str, Any]) -> None:
    with pytest.raises(requests.RequestException):
        fleet.server.post(dict(body), headers={"X-Request-Id": name})
    check_record(fleet, name, outcome="failed", error_code="upstream_closed", http_status=200)


def test_an_answer_that_is_shorter_than_announced_is_cut(fleet: Fleet, node: SimNode) -> None:
    node.fault("short_body")

    check_cut(fleet, "short", {"model": "sim"})


def test_a_compressed_stream_that_breaks_is_cut_for_nothing_can_be_added_to_it(fleet: Fleet, node: SimNode) -> None:
    node.fault("compressed")
    node.fault("close", phase="stream", after_chunks=2)

    check_cut(fleet, "compressed", {"model": "sim", "stream": True})


# -- requests that are no inference -----------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 405, "method_not_allowed"),
        ("GET", "/v1/chat?key=canary", 405, "method_not_allowed"),
        ("POST", "/nowhere", 405, "method_not_allowed"),
        ("GET", "/v1/models/gpt-4", 404, "model_not_found"),
        ("DELETE", "/v1/models/sim", 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/admin/nowhere", 404, "not_found"),
        ("GET", "/admin/nodes/nobody", 404, "node_not_found"),
        ("GET", "/admin/requests/nobody", 404, "request_not_found"),
        ("DELETE", "/admin/requests/nobody", 404, "request_not_found"),
        ("PUT", "/admin/nodes", 405, "method_not_allowed"),
        ("DELETE", "/admin/status", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_are_not_there(
    server: RunningServer, method: str, path: str, status: int, code: str
) -> None:
    response = server.http.request(method, server.url + path, json={} if method != "GET" else None, timeout=10)

    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (response.status_code, error["type"], error["code"]) == (status, BAD, code)
    assert ("Allow" in response.headers) is (status == 405)
    assert response.headers["X-Request-Id"] == response.headers["X-Scheduler-Request-Id"]
    assert "canary" not in response.text


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_inference_takes_post_alone(server: RunningServer, method: str) -> None:
    response = server.http.request(method, server.url + CHAT, timeout=10)

    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (405, BAD, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


def test_bad_fields_of_an_admin_body_are_all_told_at_once(server: RunningServer) -> None:
    response = server.admin("POST", "/nodes", {"id": "a b", "address": "ftp://x", "models": [], "max_concurrent": 0})

    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (400, BAD, "invalid_fields")
    assert {detail["param"] for detail in error["details"]} == {"id", "address", "models", "max_concurrent"}


MALFORMED: Mapping[str, tuple[bytes, set[int]]] = {
    "no request line": (b"hello?canary\r\n\r\n", {400}),
    "no version": (b"GET /?canary\r\n\r\n", {400}),
    "a version of the future": (b"GET / HTTP/9.9\r\nHost: a\r\nX: canary\r\n\r\n", {400, 505}),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost: a\r\ncanary\r\n\r\n", {400}),
    "a blank before the colon": (b"GET / HTTP/1.1\r\nHost: a\r\ncanary : x\r\n\r\n", {400}),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n canary\r\n\r\n", {400}),
    "a control character": (b"GET / HTTP/1.1\r\nHost: a\r\nX: canary\x00\r\n\r\n", {400}),
    "two lengths": (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", {400}),
    "a negative length": (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}", {400}),
    "a length and chunks": (
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400},
    ),
    "a long request line": (b"GET /?canary" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {414}),
    "a long header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: canary" + b"x" * 9000 + b"\r\n\r\n", {431}),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: canary\r\n" * 200 + b"\r\n", {431}),
}


@pytest.mark.parametrize(("data", "statuses"), MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_http_is_answered_in_the_same_shape(server: RunningServer, data: bytes, statuses: set[int]) -> None:
    with Wire(server.port) as wire:
        wire.send(data)
        answer = wire.answer()

    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (BAD, "malformed_request")
    assert answer.status in statuses
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == "close"
    assert b"canary" not in answer.body
    assert "canary" not in server.log
