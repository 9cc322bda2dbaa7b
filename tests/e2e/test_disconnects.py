"""Clients that leave or stop reading: nobody holds a slot for nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.raw_client import RawClient, seconds
from tests.support.server import RunningServer, eventually
from tests.support.sim_node import SimNode

#: The promise is 1 s; the rest is for machines that do other things too.
NOTICED_S = 1.5
WRITE_TIMEOUT_S = 1.0

CALL = {"model": "sim", "messages": []}
STREAM = {**CALL, "stream": True}
WAYS = ["close", "reset", "half-close"]

SETTINGS = {
    "server": {"write_timeout": f"{WRITE_TIMEOUT_S}s", "read_timeout": "10s"},
    "scheduler": {"eject_after": 1000, "connect_timeout": "60s"},
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
    """The only node, with one slot."""
    return fleet["gpu-01"]


def assert_noticed(client: RawClient, left_at: float, **expected: Any) -> None:
    """The record says that the client closed, and was finished soon after it had left."""
    record = client.record()
    assert (record["status"], record["outcome"], record["error_code"]) == ("failed", "client_closed", "client_closed")
    assert seconds(record["finished_at"]) - left_at < NOTICED_S
    assert {name: record[name] for name in expected} == expected


# -- leaving ----------------------------------------------------------------------------------


def silent_before_headers(node: SimNode, client: RawClient) -> None:
    node.fault("hang", phase="headers", times=1)
    client.post(CALL)
    node.wait(running=1)


def silent_stream_before_headers(node: SimNode, client: RawClient) -> None:
    node.fault("hang", phase="headers", times=1)
    client.post(STREAM)
    node.wait(running=1)


def headers_and_no_body(node: SimNode, client: RawClient) -> None:
    node.fault("hang", phase="body", times=1)
    client.post(STREAM)
    node.wait(running=1)
    eventually(lambda: client.phase() == "waiting_first_byte", "waiting for the first byte")


def flowing_stream(node: SimNode, client: RawClient) -> None:
    client.post({**STREAM, "max_tokens": 10_000, "sim_gap_ms": 20}).read_head().read_until(b"t3 ")


def silent_stream(node: SimNode, client: RawClient) -> None:
    node.fault("hang", phase="stream", after_chunks=3, times=1)
    client.post(STREAM).read_head().read_until(b"t1 ")


def half_an_answer(node: SimNode, client: RawClient) -> None:
    node.fault("hang", phase="stream", after_chunks=1, times=1)
    client.post(CALL).read_head().read_until(b'"id"')


Phase = Callable[[SimNode, RawClient], None]

SILENT: list[Phase] = [silent_before_headers, silent_stream_before_headers, headers_and_no_body]
SENDING: list[Phase] = [flowing_stream, silent_stream, half_an_answer]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", SILENT + SENDING, ids=lambda phase: phase.__name__)
def test_a_client_that_leaves_frees_node_and_slot_for_who_waits(
    fleet: Fleet, server: RunningServer, node: SimNode, phase: Phase, way: str
) -> None:
    with RawClient(server) as client:
        phase(node, client)
        with fleet.waiting(CALL) as waiter:
            assert node.stats()["running"] == 1
            left_at = time.time()
            client.leave(way)
            node.wait(aborted=1, timeout_s=NOTICED_S)  # the node's connection is closed
            node.wait(arrived=2, timeout_s=NOTICED_S)  # and the slot has gone to the next
            assert waiter.result().status_code == 200
            assert_noticed(client, left_at, http_status=499 if phase in SILENT else 200, node_id="gpu-01")
    arrivals = node.arrivals()
    assert arrivals[0]["outcome"] == "aborted"
    # The node hears of both in one turn of its loop, in whatever order.
    assert arrivals[0]["ended_ms"] - arrivals[1]["at_ms"] < 20


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_the_queue_leaves_no_place_behind(
    fleet: Fleet, server: RunningServer, node: SimNode, way: str
) -> None:
    with fleet.occupied("gpu-01"), RawClient(server) as client:
        client.post(CALL)
        eventually(client.is_waiting, "waiting")
        left_at = time.time()
        client.leave(way)
        server.wait_until_waiting(0)
        assert_noticed(client, left_at, http_status=499, node_id=None, started_at=None)
    assert node.stats()["arrived"] == 1


@pytest.mark.parametrize("way", ["close", "reset"])
def test_a_client_that_leaves_while_it_sends_its_body_holds_nothing(
    server: RunningServer, node: SimNode, way: str
) -> None:
    with RawClient(server) as client:
        client.post({**CALL, "pad": "x" * 100_000}, only_bytes=50_000)
        client.leave(way)
    server.wait_until_idle()
    assert server.post(CALL).status_code == 200
    assert node.stats()["arrived"] == 1
    assert server.get(f"/requests?q={client.id}")["requests"] == []


def test_a_client_that_leaves_while_its_call_is_written_to_the_node_frees_the_slot(
    fleet: Fleet, server: RunningServer, node: SimNode
) -> None:
    node.fault("hang", phase="head", times=1)  # it reads no further than the head
    with RawClient(server) as client:
        client.post({**CALL, "pad": "x" * 20_000_000})
        eventually(lambda: client.phase() == "connecting", "the call being written")
        with fleet.waiting(CALL) as waiter:
            left_at = time.time()
            client.leave()
            node.wait(arrived=1, timeout_s=NOTICED_S)
            assert waiter.result().status_code == 200
        assert_noticed(client, left_at, http_status=499)


def test_bytes_of_a_next_request_do_not_count_as_leaving(server: RunningServer, node: SimNode) -> None:
    node.close_gate()
    with RawClient(server) as client, RawClient(server) as queued:
        for each in (client, queued):
            each.post(CALL)
        node.wait(running=1)
        eventually(lambda: client.is_waiting() or queued.is_waiting(), "one waiting")
        for each in (client, queued):
            each.send(b"GET /health/live HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        node.open_gate()
        for each in (client, queued):
            assert each.read_head().status == 200
            assert each.read_to_end() == "end"
            assert each.body.count(b"HTTP/1.1 200 OK") == 1  # that of the next request
            assert each.record()["outcome"] == "completed"
    assert node.stats()["aborted"] == 0


def test_a_hundred_clients_that_leave_at_once_leave_nothing(server: RunningServer, node: SimNode) -> None:
    node.close_gate()
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server)).post(CALL) for _ in range(100)]
        server.wait_until_waiting(99)
        left_at = time.time()
        for number, client in enumerate(clients):
            client.leave(WAYS[number % 2])
        server.wait_until_idle()
        for client in clients:
            assert_noticed(client, left_at)
    assert node.wait(running=0)["served"] == 0
    node.open_gate()
    assert server.post(CALL).status_code == 200


# -- reading slowly, or not at all -------------------------------------------------------------

#: More than the kernel and the read-ahead hold for a client that reads nothing.
LARGE = 30_000_000
SMALL_BUFFER = 8192


@pytest.mark.parametrize("call", [CALL, {**STREAM, "max_tokens": 3000}], ids=["answer", "stream"])
def test_a_client_that_stops_reading_is_cut_after_write_timeout(
    fleet: Fleet, server: RunningServer, node: SimNode, call: dict[str, Any]
) -> None:
    with RawClient(server, receive_buffer=SMALL_BUFFER) as client:
        client.post({**call, "sim_bytes": LARGE}).read_head()
        with fleet.waiting(CALL) as waiter:
            node.wait(aborted=1, timeout_s=WRITE_TIMEOUT_S + 2 * NOTICED_S)
            assert waiter.result().status_code == 200
        record = client.record()
        assert (record["outcome"], record["error_code"]) == ("client_closed", "client_closed")
        assert "write_timeout" in record["error_message"]
        assert WRITE_TIMEOUT_S * 1000 <= record["latency_ms"] < (WRITE_TIMEOUT_S + 2 * NOTICED_S) * 1000
        assert client.read_to_end() == "reset"
        assert not client.is_whole


def sent_to_who_reads_nothing(server: RunningServer, node: SimNode) -> int:
    """How many bytes of an answer leave for a client that takes none: what the kernel keeps for it."""

    def sent() -> int:
        runs: list[dict[str, Any]] = server.get("/queue")["running"]
        return int(runs[0]["bytes_out"])

    with RawClient(server, receive_buffer=SMALL_BUFFER) as client:
        client.post({**CALL, "sim_bytes": LARGE}).read_head()
        seen = [0]
        while len(seen) < 6 or len(set(seen[-5:])) > 1:
            seen.append(sent())
            time.sleep(0.05)
    node.wait(running=0)
    server.wait_until_idle()
    return seen[-1]


def test_a_client_that_takes_nothing_does_not_hold_the_slot_for_most_of_a_megabyte(
    server: RunningServer, node: SimNode
) -> None:
    size = sent_to_who_reads_nothing(server, node) + 800_000
    node.reset()
    with RawClient(server, receive_buffer=SMALL_BUFFER) as client:
        client.post({**CALL, "sim_bytes": size}).read_head()
        node.wait(served=1)
        eventually(lambda: server.status()["slots"]["used"] == 0, "the slot free", timeout_s=NOTICED_S)
        assert server.post(CALL).status_code == 200  # served while the first is still being sent
        assert client.phase() == "sending"
        while len(client.body) < size:
            client.read_some()
        record = client.record()
        assert (record["outcome"], record["bytes_out"]) == ("completed", size)


def test_a_client_that_reads_slowly_but_makes_progress_is_not_cut(server: RunningServer, node: SimNode) -> None:
    size, began = 6_000_000, time.monotonic()
    with RawClient(server, receive_buffer=65536) as client:
        client.post({**CALL, "sim_bytes": size}).read_head()
        while len(client.body) < size:
            client.read_some()
            # Slowness is what is tested: three write time-outs for the whole.
            time.sleep(max(0.0, began + 3 * WRITE_TIMEOUT_S * len(client.body) / size - time.monotonic()))
        record = client.record()
        assert (record["outcome"], record["bytes_out"]) == ("completed", size)
        assert record["latency_ms"] > WRITE_TIMEOUT_S * 1000


def test_a_client_that_leaves_while_it_stalls_is_noticed(fleet: Fleet, server: RunningServer, node: SimNode) -> None:
    with RawClient(server, receive_buffer=SMALL_BUFFER) as client:
        client.post({**CALL, "sim_bytes": LARGE}).read_head()
        with fleet.waiting(CALL) as waiter:
            left_at = time.time()
            client.leave()
            node.wait(aborted=1, timeout_s=NOTICED_S)
            assert waiter.result().status_code == 200
        assert_noticed(client, left_at, http_status=200)
