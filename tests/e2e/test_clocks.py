"""The clocks of a call: each is a total, ends the call as the contract says, and gives everything back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.raw_client import RawClient
from tests.support.server import RunningServer, eventually
from tests.support.sim_node import SimNode

CONNECT_S, REQUEST_S, IDLE_S, STREAM_S, READ_S = 0.4, 1.0, 0.6, 1.6, 0.5
#: The clocks are looked at ten times a second; the rest is for machines that do other things too.
LATE_S = 1.0

CALL = {"model": "sim", "messages": []}
STREAM = {**CALL, "stream": True}

SETTINGS = {
    "server": {"read_timeout": f"{READ_S}s"},
    "scheduler": {
        "connect_timeout": f"{CONNECT_S}s",
        "request_timeout": f"{REQUEST_S}s",
        "idle_timeout": f"{IDLE_S}s",
        "stream_timeout": f"{STREAM_S}s",
        "eject_after": 1000,
        "health_check_fall": 1000,
    },
}


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet(SETTINGS)
    fleet.add("gpu-01", slots=1)
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


def assert_timed_out(record: dict[str, Any], clock: str, after_s: float) -> None:
    assert (record["status"], record["outcome"], record["error_code"]) == ("failed", "failed", "upstream_timeout")
    assert clock in record["error_message"]
    assert after_s * 1000 <= record["latency_ms"] < (after_s + LATE_S) * 1000


def assert_error_event(client: RawClient, code: str) -> None:
    """The stream ended in order, with an error event and without [DONE]."""
    assert client.is_whole
    assert b"[DONE]" not in client.body
    last = client.text.rstrip().rpartition("\n\n")[2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == code


# -- until the first byte ---------------------------------------------------------------------


class LosingNode:
    """Answers its probes, until it loses every SYN from `lose_syns` on, as behind a firewall."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._listener = self._stack.enter_context(socket.socket())
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_losing = threading.Event()
        self._thread = threading.Thread(target=self._answer_probes, daemon=True)
        self._thread.start()

    def __enter__(self) -> LosingNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.lose_syns()
        self._stack.close()

    def _answer_probes(self) -> None:
        while not self._is_losing.is_set():
            connection, _ = self._listener.accept()
            with connection:
                if connection.recv(65536):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def lose_syns(self) -> None:
        if self._is_losing.is_set():
            return
        self._is_losing.set()
        with socket.socket() as last:
            last.connect(self._listener.getsockname())
        self._thread.join()
        for _ in range(4):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(self._listener.getsockname())


@pytest.mark.parametrize("call", [{"stream": False}, {"stream": True}], ids=["answer", "stream"])
def test_a_node_that_loses_every_syn_is_given_up_after_connect_timeout(
    server: RunningServer, call: dict[str, Any]
) -> None:
    with LosingNode() as losing:
        server.register("gpu-lost", losing.address, ["lost"], 1)
        try:
            losing.lose_syns()
            began = time.monotonic()
            response = server.post({**CALL, **call, "model": "lost"})
            assert CONNECT_S <= time.monotonic() - began < CONNECT_S + LATE_S
            assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")
            assert (response.headers["Retry-After"], response.headers["X-Scheduler-Attempts"]) == ("5", "1")
            record = server.record(response.headers["X-Scheduler-Request-Id"])
            assert (record["outcome"], record["error_code"]) == ("failed", "upstream_unreachable")
            assert [attempt["result"] for attempt in record["attempts"]] == ["unreachable"]
            server.wait_until_idle()
        finally:
            server.admin("DELETE", "/nodes/gpu-lost")


@pytest.mark.parametrize("call", [CALL, STREAM], ids=["answer", "stream"])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "hang", "phase": "headers"},
        {"kind": "hang", "phase": "body"},
        {"kind": "drip", "part": "head", "ms": 50},
        {"kind": "interim", "statuses": [103] * 100, "ms": 50},
    ],
    ids=["silent", "headers only", "dripping headers", "interim answers"],
)
def test_without_a_first_byte_a_call_ends_after_request_timeout(
    server: RunningServer, node: SimNode, call: dict[str, Any], fault: dict[str, Any]
) -> None:
    node.fault(**fault)
    response = server.post(call)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
    assert response.headers["x-should-retry"] == "false"
    assert "Retry-After" not in response.headers
    assert_timed_out(server.record(response.headers["X-Scheduler-Request-Id"]), "request_timeout", REQUEST_S)
    node.wait(aborted=1, running=0)
    assert node.stats()["arrived"] == 1  # it is not tried again


def test_a_call_that_the_node_does_not_read_ends_after_request_timeout(server: RunningServer, node: SimNode) -> None:
    node.fault("hang", phase="head")
    response = server.post({**CALL, "pad": "x" * 20_000_000})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
    assert_timed_out(server.record(response.headers["X-Scheduler-Request-Id"]), "request_timeout", REQUEST_S)
    assert server.is_idle()


# -- after the first byte ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [{"kind": "drip", "part": "body", "ms": 20}, {"kind": "hang", "phase": "stream", "after_chunks": 1}],
    ids=["dripping", "silent"],
)
def test_an_answer_that_takes_too_long_is_cut_after_request_timeout(
    server: RunningServer, node: SimNode, fault: dict[str, Any]
) -> None:
    node.fault(**fault)
    with RawClient(server) as client:
        assert client.post({**CALL, "max_tokens": 1000}).read_head().status == 200
        assert client.read_to_end() == "reset"
        assert not client.is_whole
        assert_timed_out(client.record(), "request_timeout", REQUEST_S)
    node.wait(aborted=1)


def test_a_stream_that_falls_silent_ends_after_idle_timeout(server: RunningServer, node: SimNode) -> None:
    node.fault("hang", phase="stream", after_chunks=3)
    with RawClient(server) as client:
        client.post(STREAM, headers={"Connection": "close"}).read_head()
        assert client.read_to_end() == "end"
        assert_error_event(client, "upstream_timeout")
        record = client.record()
        assert_timed_out(record, "idle_timeout", IDLE_S)
        assert record["http_status"] == 200
    node.wait(aborted=1)


def test_a_stream_with_pauses_shorter_than_idle_timeout_goes_on(server: RunningServer, node: SimNode) -> None:
    response = server.post({**STREAM, "max_tokens": 3, "sim_gap_ms": 1000 * IDLE_S * 0.6})
    assert response.text.endswith("data: [DONE]\n\n")
    assert server.record(response.headers["X-Scheduler-Request-Id"])["outcome"] == "completed"


def test_a_stream_whose_tokens_flow_ends_after_stream_timeout(server: RunningServer, node: SimNode) -> None:
    with RawClient(server) as client:
        client.post({**STREAM, "max_tokens": 10_000, "sim_gap_ms": 20}, headers={"Connection": "close"}).read_head()
        assert client.read_to_end() == "end"
        assert_error_event(client, "upstream_timeout")
        assert client.body.count(b'"content"') > STREAM_S / 0.02 / 4
        assert_timed_out(client.record(), "stream_timeout", STREAM_S)
    node.wait(aborted=1)


def test_the_wait_in_the_queue_is_no_part_of_request_timeout(server: RunningServer, node: SimNode) -> None:
    node.close_gate()
    with RawClient(server) as first, RawClient(server) as second:
        first.post({**STREAM})
        node.wait(running=1)
        second.post({**CALL, "sim_ttft_ms": 1000 * REQUEST_S * 0.6})
        eventually(second.is_waiting, "waiting")
        eventually(lambda: server.get("/queue")["waiting"][0]["waited_ms"] > 1000 * REQUEST_S * 0.6, "a long wait")
        node.open_gate()
        assert second.read_head().status == 200
        record = second.record()
        assert record["outcome"] == "completed"
        assert record["latency_ms"] > 1000 * REQUEST_S


# -- before a slot ----------------------------------------------------------------------------


def test_a_body_that_makes_no_progress_ends_after_read_timeout(server: RunningServer, node: SimNode) -> None:
    began = time.monotonic()
    with RawClient(server) as client:
        client.post({**CALL, "pad": "x" * 1000}, only_bytes=500)
        assert client.read_head().status == 408
        assert READ_S <= time.monotonic() - began < READ_S + LATE_S
        assert client.headers["x-should-retry"] == "false"
        assert json.loads(client.read_whole().body)["error"]["code"] == "request_timeout"
        assert client.read_to_end() == "end"  # what would follow could be the rest of the body
    assert node.stats()["arrived"] == 0
    assert server.get(f"/requests?q={client.id}")["total"] == 0


def test_a_body_that_makes_progress_may_take_longer_than_read_timeout(server: RunningServer, node: SimNode) -> None:
    body = json.dumps(CALL).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    with RawClient(server) as client:
        client.send(head.encode())
        for at in range(0, len(body), 8):
            time.sleep(READ_S / 2)  # slowness is what is tested
            client.send(body[at : at + 8])
        assert client.read_head().status == 200


def test_a_request_waits_as_long_as_its_x_queue_timeout_and_no_longer(
    fleet: Fleet, server: RunningServer, node: SimNode
) -> None:
    # The runner at the gate would be given up after request_timeout.
    for queue_timeout_s in (0.2, 0.5):
        with fleet.occupied("gpu-01"):
            response = server.post(CALL, headers={"X-Queue-Timeout": f"{queue_timeout_s}"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_timeout")
        assert response.headers["x-should-retry"] == "false"
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        record = server.record(response.headers["X-Scheduler-Request-Id"])
        assert (record["outcome"], record["error_code"], record["node_id"]) == ("evicted", "queue_timeout", None)
        assert queue_timeout_s * 1000 <= record["latency_ms"] < (queue_timeout_s + LATE_S) * 1000
