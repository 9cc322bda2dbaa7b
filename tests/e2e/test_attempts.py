"""Attempts: when a request goes to another node, when it waits again, and what a broken reply looks like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.e2e.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.raw_client import RawClient
from tests.support.server import RunningServer, eventually

NODES = ("gpu-01", "gpu-02", "gpu-03")
EJECT_AFTER = 6

SETTINGS = {
    "scheduler": {
        "eject_after": EJECT_AFTER,
        "health_check_fall": 1000,  # these nodes go down by what requests find, not by probes
        "health_check_interval": "60s",
        "max_attempts": 3,
    },
}


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    """Three nodes: the model `one` is on the first, `two` on two of them, `three` on all; each has one of its own."""
    fleet = start_fleet(SETTINGS)
    fleet.add("gpu-01", ["one", "two", "three", "gpu-01"])
    fleet.add("gpu-02", ["two", "three", "gpu-02"])
    fleet.add("gpu-03", ["three", "gpu-03"])
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    # A node that is at `eject_after` would take the next test's misses with it: an answer clears them.
    for node_id, node in module_fleet.nodes.items():
        node.reset()
        if module_fleet.server.get(f"/nodes/{node_id}")["health"] == "up":
            eventually(lambda model=node_id: module_fleet.server.post(call(model)).status_code == 200, "an answer")
    module_fleet.settle()


@pytest.fixture
def server(fleet: Fleet) -> RunningServer:
    return fleet.server


def call(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [], **fields}


def stream(model: str, **fields: Any) -> dict[str, Any]:
    return call(model, stream=True, **fields)


def put_first(fleet: Fleet, first: str) -> None:
    """Let the next request go to this node, over a fresh connection: among equals, the one whose turn was longest ago
    is next.
    """
    for node_id in (first, *(other for other in NODES if other != first)):
        assert fleet.server.post(call(node_id)).status_code == 200
    for node in fleet.nodes.values():
        node.refuse(reset_connections=True)
        node.reset()


def code_of(response: requests.Response) -> str:
    return str(response.json()["error"]["code"])


def attempts_of(server: RunningServer, response: requests.Response) -> list[tuple[str, str]]:
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert response.headers["X-Scheduler-Attempts"] == str(len(record["attempts"]))
    return [(attempt["node_id"], attempt["result"]) for attempt in record["attempts"]]


def arrivals(fleet: Fleet) -> list[int]:
    return [node.stats()["arrived"] for node in fleet.nodes.values()]


# -- nobody there -----------------------------------------------------------------------------


def test_a_request_whose_node_refuses_the_connection_goes_to_another(fleet: Fleet, server: RunningServer) -> None:
    put_first(fleet, "gpu-01")
    fleet["gpu-01"].refuse()
    response = server.post(call("two"))
    assert (response.status_code, response.headers["X-Scheduler-Node"]) == (200, "gpu-02")
    assert attempts_of(server, response) == [("gpu-01", "unreachable"), ("gpu-02", "completed")]


def test_a_request_is_tried_on_every_node_that_can_be_reached_or_not(fleet: Fleet, server: RunningServer) -> None:
    put_first(fleet, "gpu-01")
    fleet["gpu-01"].refuse()
    fleet["gpu-02"].refuse()
    response = server.post(call("three"))
    assert (response.status_code, response.headers["X-Scheduler-Node"]) == (200, "gpu-03")
    assert [node for node, _ in attempts_of(server, response)] == list(NODES)


@pytest.mark.parametrize("model", ["one", "two", "three"])
def test_where_no_node_can_be_reached_the_caller_may_try_again(fleet: Fleet, server: RunningServer, model: str) -> None:
    for node in fleet.nodes.values():
        node.refuse()
    response = server.post(call(model))
    assert (response.status_code, code_of(response)) == (502, "upstream_unreachable")
    assert response.headers["Retry-After"] == "5"
    assert "x-should-retry" not in response.headers
    tried = attempts_of(server, response)
    assert {result for _, result in tried} == {"unreachable"}
    assert len({node for node, _ in tried}) == len(tried) == {"one": 1, "two": 2, "three": 3}[model]


def test_a_reset_while_the_call_is_written_counts_as_not_reached(fleet: Fleet, server: RunningServer) -> None:
    put_first(fleet, "gpu-01")
    fleet["gpu-01"].fault("reset", phase="head", times=1)
    response = server.post(call("two", pad="x" * 20_000_000))
    assert response.status_code == 200
    assert attempts_of(server, response) == [("gpu-01", "unreachable"), ("gpu-02", "completed")]


# -- closed after it had the call -------------------------------------------------------------


@pytest.mark.parametrize("phase", ["headers", "body"])
@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_call_that_a_node_took_to_its_grave_is_given_to_one_more_node(
    fleet: Fleet, server: RunningServer, kind: str, phase: str
) -> None:
    put_first(fleet, "gpu-01")
    fleet["gpu-01"].fault(kind, phase=phase)
    response = server.post(stream("three"))
    assert (response.status_code, response.headers["X-Scheduler-Node"]) == (200, "gpu-02")
    assert response.text.endswith("data: [DONE]\n\n")
    assert attempts_of(server, response) == [("gpu-01", "closed"), ("gpu-02", "completed")]


def test_a_poisonous_call_takes_two_nodes_at_most(fleet: Fleet, server: RunningServer) -> None:
    put_first(fleet, "gpu-01")
    for node in fleet.nodes.values():
        node.fault("close", phase="headers")
    response = server.post(call("three"))
    assert (response.status_code, code_of(response)) == (502, "upstream_closed")
    assert response.headers["x-should-retry"] == "false"
    assert [result for _, result in attempts_of(server, response)] == ["closed", "closed"]
    assert sum(arrivals(fleet)) == 2


@pytest.mark.parametrize("model", ["one", "two"])
def test_a_poisonous_call_never_reaches_the_last_healthy_node(fleet: Fleet, server: RunningServer, model: str) -> None:
    put_first(fleet, "gpu-01")
    fleet["gpu-01"].fault("close", phase="headers")
    response = server.post(call(model))
    assert (response.status_code, code_of(response)) == (502, "upstream_closed")
    assert attempts_of(server, response) == [("gpu-01", "closed")]
    assert arrivals(fleet) == [1, 0, 0]
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert (record["outcome"], record["error_code"], record["http_status"]) == ("failed", "upstream_closed", 502)


@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_reused_connection_that_dies_and_is_replaced_counts_as_one_attempt(
    fleet: Fleet, server: RunningServer, kind: str
) -> None:
    assert server.post(call("one")).status_code == 200
    fleet["gpu-01"].fault(kind, phase="headers", times=1)
    response = server.post(call("one"))
    assert response.status_code == 200
    assert attempts_of(server, response) == [("gpu-01", "completed")]


# -- no usable answer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "redirect"},
        {"kind": "redirect", "status": 301},
        {"kind": "garbage"},
        {"kind": "garbage", "hold": True},
        *({"kind": "bad_headers", "variant": variant} for variant in ("control_char", "bare_cr", "cl_and_te", "many")),
        *({"kind": "bad_headers", "variant": variant} for variant in ("huge", "duplicate_length", "negative_length")),
        *({"kind": "bad_headers", "variant": variant} for variant in ("te_unknown", "no_colon", "obs_fold")),
        {"kind": "bad_chunk", "after_chunks": 0},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
def test_an_answer_that_cannot_be_passed_on_is_an_error_of_the_node(
    fleet: Fleet, server: RunningServer, fault: dict[str, Any]
) -> None:
    fleet["gpu-01"].fault(**fault)
    response = server.post(call("one"))
    assert (response.status_code, code_of(response)) == (502, "upstream_protocol_error")
    assert response.headers["x-should-retry"] == "false"
    assert "location" not in response.headers
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert (record["outcome"], record["error_code"]) == ("failed", "upstream_protocol_error")
    assert [attempt["result"] for attempt in record["attempts"]] == ["protocol_error"]


def test_interim_answers_are_skipped(fleet: Fleet, server: RunningServer) -> None:
    fleet["gpu-01"].fault("interim", statuses=[100, 102, 103])
    assert server.post(call("one")).status_code == 200


# -- busy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_answer_sends_the_request_to_another_node(fleet: Fleet, server: RunningServer, status: int) -> None:
    put_first(fleet, "gpu-01")
    fleet["gpu-01"].fault("status", status=status, times=1, headers={"retry-after": "0.1"})
    response = server.post(call("two"))
    assert (response.status_code, response.headers["X-Scheduler-Node"]) == (200, "gpu-02")
    assert attempts_of(server, response) == [("gpu-01", "busy"), ("gpu-02", "completed")]
    assert server.get("/nodes/gpu-01")["health"] == "up"


@pytest.mark.parametrize("retry_after", [None, "0.3"])
def test_a_busy_node_that_is_the_only_one_is_asked_again_after_a_while(
    fleet: Fleet, server: RunningServer, retry_after: str | None
) -> None:
    fleet["gpu-01"].fault("status", status=503, times=1, headers={"retry-after": retry_after} if retry_after else {})
    response = server.post(call("one"))
    assert response.status_code == 200
    assert attempts_of(server, response) == [("gpu-01", "busy"), ("gpu-01", "completed")]
    first, second = (arrival["at_ms"] for arrival in fleet["gpu-01"].arrivals())
    assert second - first >= (300 if retry_after else 1000)


def test_the_last_busy_answer_passes_untouched_when_the_attempts_are_spent(fleet: Fleet, server: RunningServer) -> None:
    said = {"error": {"message": "overloaded", "type": "engine", "param": None, "code": "kv_cache_full"}}
    fleet["gpu-01"].fault("status", status=503, headers={"retry-after": "0.1", "x-engine": "e"}, body=said)
    response = server.post(call("one"))
    assert (response.status_code, response.json()) == (503, said)
    assert (response.headers["retry-after"], response.headers["x-engine"]) == ("0.1", "e")
    assert [result for _, result in attempts_of(server, response)] == ["busy", "busy", "busy"]
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert (record["outcome"], record["error_code"], record["http_status"]) == ("failed", "upstream_http_503", 503)
    assert arrivals(fleet) == [3, 0, 0]


def test_the_last_busy_answer_passes_when_the_wait_is_spent(fleet: Fleet, server: RunningServer) -> None:
    fleet["gpu-01"].fault("status", status=429, headers={"retry-after": "2"}, body={"busy": True})
    response = server.post(call("one"), headers={"X-Queue-Timeout": "0.4"})
    assert (response.status_code, response.json()) == (429, {"busy": True})
    assert [result for _, result in attempts_of(server, response)] == ["busy"]


def test_a_busy_node_is_not_hammered_by_those_who_wait(fleet: Fleet, server: RunningServer) -> None:
    node = fleet["gpu-01"]
    node.fault("status", status=503, times=1, headers={"retry-after": "0.5"})
    first = fleet.later(lambda: server.post(call("one")))
    node.wait(arrived=1)
    eventually(lambda: server.get("/queue")["waiting_total"] == 1, "it waits again")
    with fleet.waiting(call("one")) as second, fleet.waiting(call("one")) as third:
        assert [waiter.result().status_code for waiter in (first, second, third)] == [200, 200, 200]
    times = [arrival["at_ms"] for arrival in node.arrivals()]
    assert len(times) == 4
    assert times[1] - times[0] >= 500
    assert node.arrivals()[1]["request_id"] == first.result().headers["X-Request-Id"]  # it has kept its place


# -- our key refused --------------------------------------------------------------------------


def test_a_node_that_refuses_our_key_is_down_until_it_takes_it(fleet: Fleet, server: RunningServer) -> None:
    keyed = fleet.add("gpu-09", ["two"], sim={"api_key": "right"}, api_key="wrong")
    try:
        for node_id in ("gpu-01", "gpu-02"):
            assert server.post(call(node_id)).status_code == 200
        response = server.post(call("two"))
        assert response.status_code == 200
        assert attempts_of(server, response)[0] == ("gpu-09", "auth")
        assert response.headers["X-Scheduler-Node"] in ("gpu-01", "gpu-02")
        down = server.wait_for_node("gpu-09", health="down")
        assert down["health_reason"] == "auth"
        assert keyed.stats()["arrived"] == 1

        server.admin("PATCH", "/nodes/gpu-09", {"api_key": "right"})
        server.wait_for_node("gpu-09", health="up")
        nodes = {server.post(call("two")).headers["X-Scheduler-Node"] for _ in range(3)}
        assert "gpu-09" in nodes
    finally:
        server.admin("DELETE", "/nodes/gpu-09")
        fleet.nodes.pop("gpu-09").close()


def test_where_every_node_refuses_our_key_the_caller_is_told_so_and_not_to_mind_his_own(
    fleet: Fleet, server: RunningServer
) -> None:
    fleet.add("gpu-08", ["locked"], sim={"api_key": "right"}, api_key="wrong")
    try:
        response = server.post(call("locked"))
        assert (response.status_code, code_of(response)) == (502, "upstream_auth_error")
        assert response.headers["x-should-retry"] == "false"
        assert attempts_of(server, response) == [("gpu-08", "auth")]
    finally:
        server.admin("DELETE", "/nodes/gpu-08")
        fleet.nodes.pop("gpu-08").close()


# -- replies that break -----------------------------------------------------------------------

BREAKS = [
    {"kind": "close", "phase": "stream", "after_chunks": 3},
    {"kind": "close", "phase": "stream", "after_chunks": 3, "partial_bytes": 20},
    {"kind": "reset", "phase": "stream", "after_chunks": 3},
    {"kind": "reset", "phase": "stream", "after_chunks": 3, "partial_bytes": 20},
    {"kind": "bad_chunk", "after_chunks": 3},
]


def name_of(fault: dict[str, Any]) -> str:
    return f"{fault['kind']}{'-in-a-frame' if fault.get('partial_bytes') else ''}"


@pytest.mark.parametrize("fault", BREAKS, ids=name_of)
def test_a_stream_that_breaks_ends_with_an_error_event_and_without_done(
    fleet: Fleet, server: RunningServer, fault: dict[str, Any]
) -> None:
    fleet["gpu-01"].fault(**fault)
    response = server.post(stream("one", sim_gap_ms=5))
    assert (response.status_code, response.headers["X-Scheduler-Attempts"]) == (200, "1")
    *frames, last, rest = response.text.split("\n\n")
    assert rest == ""  # the error ends with a blank line like every other frame
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_closed"
    whole, half = (frames[:-1], frames[-1]) if fault.get("partial_bytes") else (frames, None)
    assert whole
    assert all("choices" in json.loads(frame.removeprefix("data: ")) for frame in whole)
    assert half is None or (half.startswith("data: {") and not half.endswith("}"))
    assert "[DONE]" not in response.text
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert (record["status"], record["outcome"], record["error_code"]) == ("failed", "failed", "upstream_closed")
    assert record["http_status"] == 200


def test_a_stream_that_ends_with_its_connection_is_broken_without_done_and_whole_with_it(
    fleet: Fleet, server: RunningServer
) -> None:
    fleet["gpu-01"].fault("eof_framed", done=False, times=1)
    fleet["gpu-01"].fault("eof_framed", done=True, times=1)
    seen = []
    for _ in range(2):
        response = server.post(stream("one"))
        seen.append(("[DONE]" in response.text, '"error"' in response.text))
        record = server.record(response.headers["X-Scheduler-Request-Id"])
        assert record["outcome"] == ("completed" if seen[-1][0] else "failed")
    assert sorted(seen) == [(False, True), (True, False)]


def test_a_framed_stream_without_done_is_whole_as_the_node_sent_it(fleet: Fleet, server: RunningServer) -> None:
    fleet["gpu-01"].fault("no_done")
    response = server.post(stream("one"))
    assert "error" not in response.text
    assert server.record(response.headers["X-Scheduler-Request-Id"])["outcome"] == "completed"


CUTS = [
    (call("one"), {"kind": "short_body"}),
    (call("one"), {"kind": "close", "phase": "stream", "after_chunks": 1}),
    (call("one"), {"kind": "reset", "phase": "stream", "after_chunks": 1}),
    (call("one"), {"kind": "bad_chunk", "after_chunks": 1}),
    (stream("one"), {"kind": "short_body"}),  # its length is announced: nothing can be added
]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("body", "fault"), CUTS, ids=[f"{'stream' if 'stream' in body else 'json'}-{fault['kind']}" for body, fault in CUTS]
)
def test_any_other_reply_that_breaks_is_cut_and_never_looks_whole(
    fleet: Fleet, server: RunningServer, body: dict[str, Any], fault: dict[str, Any], version: str
) -> None:
    fleet["gpu-01"].fault(**fault)
    fleet["gpu-01"].fault("drip", ms=20, bytes=100_000)  # a pause before each piece: the first is under way by then
    with RawClient(server) as client:
        assert client.post(body, version=version).read_head().status == 200
        assert client.read_to_end() == "reset"
        if version == "1.1":
            assert not client.is_whole
        assert b"[DONE]" not in client.body or "content-length" in client.headers
        record = client.record()
    assert (record["status"], record["outcome"], record["error_code"]) == ("failed", "failed", "upstream_closed")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_reply_without_framing_that_breaks_is_cut(fleet: Fleet, server: RunningServer, version: str) -> None:
    fleet["gpu-01"].fault("eof_framed")
    fleet["gpu-01"].fault("reset", phase="stream", after_chunks=1)
    with RawClient(server) as client:
        assert client.post(call("one"), version=version).read_head().status == 200
        assert client.read_to_end() == "reset"
        assert client.record()["outcome"] == "failed"


def test_a_compressed_stream_that_breaks_is_cut(fleet: Fleet, server: RunningServer) -> None:
    fleet["gpu-01"].fault("compressed")
    fleet["gpu-01"].fault("close", phase="stream", after_chunks=3)
    with RawClient(server) as client:
        client.post(stream("one", sim_gap_ms=5)).read_head()
        assert client.headers["content-encoding"] == "gzip"
        assert client.read_to_end() == "reset"
        assert not client.is_whole
        assert client.record()["error_code"] == "upstream_closed"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_replies_that_do_not_break_end_cleanly(fleet: Fleet, server: RunningServer, version: str) -> None:
    for body in (call("one"), stream("one")):
        with RawClient(server) as client:
            client.post(body, version=version, headers={"Connection": "close"}).read_head()
            assert client.read_to_end() == "end"
            assert client.is_whole
            assert client.record()["outcome"] == "completed"


# -- what it does to the node -----------------------------------------------------------------


def test_a_node_without_answers_is_ejected_after_so_many_in_a_row(fleet: Fleet, server: RunningServer) -> None:
    node = fleet["gpu-03"]
    node.fault("close", phase="headers")
    for _ in range(EJECT_AFTER - 1):
        assert server.post(call("gpu-03")).status_code == 502
    assert server.get("/nodes/gpu-03")["health"] == "up"
    node.clear_faults()
    assert server.post(call("gpu-03")).status_code == 200  # an answer, and the counting begins anew
    node.fault("close", phase="headers")
    for _ in range(EJECT_AFTER):
        assert server.get("/nodes/gpu-03")["health"] == "up"
        assert server.post(call("gpu-03")).status_code == 502
    down = server.get("/nodes/gpu-03")
    assert down["health"] == "down"
    assert f"{EJECT_AFTER} requests in a row" in down["health_reason"]
    assert server.post(call("three")).headers["X-Scheduler-Node"] != "gpu-03"


@pytest.mark.parametrize("status", [400, 404, 422, 500, 502, 504])
def test_answers_of_an_engine_pass_through_and_eject_nobody(fleet: Fleet, server: RunningServer, status: int) -> None:
    said = {"error": {"message": "no", "type": "engine", "param": None, "code": status}}
    fleet["gpu-01"].fault("status", status=status, body=said, headers={"x-engine": "e"})
    for _ in range(EJECT_AFTER + 1):
        response = server.post(call("two" if status >= 500 else "one"))
        if response.headers["X-Scheduler-Node"] == "gpu-01":
            assert (response.status_code, response.json(), response.headers["x-engine"]) == (status, said, "e")
            record = server.record(response.headers["X-Scheduler-Request-Id"])
            assert (record["status"], record["outcome"]) == ("failed", "failed")
            assert (record["error_code"], len(record["attempts"])) == (f"upstream_http_{status}", 1)
    assert server.get("/nodes/gpu-01")["health"] == "up"
    assert fleet["gpu-01"].stats()["arrived"] >= 3


def test_http_5xx_leads_to_a_probe(fleet: Fleet, server: RunningServer) -> None:
    node = fleet["gpu-01"]

    # At most one probe a second: the one that the test before may have caused has to be over.
    def is_probed() -> bool:
        assert server.post(call("one", sim_status=500)).status_code == 500
        return bool(node.stats()["probes"])

    eventually(is_probed, "a probe")
