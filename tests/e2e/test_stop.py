"""Stop, crash and reload, with streams running and requests waiting."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests

from tests.e2e.conftest import StartNode, StartServer
from tests.support.raw_client import RawClient, seconds
from tests.support.server import RunningServer, eventually
from tests.support.sim_node import SimNode

CALL = {"model": "sim", "messages": []}
STREAM = {**CALL, "stream": True}
ENDLESS = {**STREAM, "max_tokens": 100_000, "sim_gap_ms": 20}

#: The promise for those who wait is 0.5 s; the rest is for machines that do other things too.
REFUSED_S = 1.0


@contextmanager
def running(server: RunningServer, *bodies: dict[str, Any]) -> Iterator[list[RawClient]]:
    """Clients whose streams have begun."""
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server)).post(body) for body in bodies]
        for client in clients:
            client.read_head().read_until(b"t0 ")
        yield clients


@contextmanager
def waiting(server: RunningServer, count: int) -> Iterator[list[RawClient]]:
    """Clients whose requests wait in the queue."""
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server)).post(CALL) for _ in range(count)]
        server.wait_until_waiting(count)
        yield clients


def start(start_server: StartServer, node: SimNode, slots: int, **scheduling: Any) -> RunningServer:
    server = start_server({"server": scheduling, "scheduler": {"health_check_interval": "1s"}})
    server.register("gpu-01", node.address, max_concurrent=slots)
    return server


def is_ready(server: RunningServer) -> bool:
    try:
        return requests.get(f"{server.url}/health/ready", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def listens(server: RunningServer) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", server.port)) == 0


def error_code(client: RawClient) -> str:
    """Of the error event that ended a stream."""
    last = client.text.rstrip().rpartition("\n\n")[2]
    return str(json.loads(last.removeprefix("data: "))["error"]["code"])


def outcomes(clients: list[RawClient]) -> set[tuple[str, str, str]]:
    records = [client.record() for client in clients]
    return {(record["status"], record["outcome"], record["error_code"]) for record in records}


# -- SIGTERM ----------------------------------------------------------------------------------


def test_a_stop_refuses_who_waits_lets_streams_end_and_exits_with_0(
    start_server: StartServer, start_node: StartNode
) -> None:
    node = start_node(slots=2)
    server = start(start_server, node, 2, shutdown_timeout="20s")
    brief = {**STREAM, "max_tokens": 60, "sim_gap_ms": 20}
    with running(server, brief, brief) as streams, waiting(server, 5) as queued:
        began = time.time()
        server.terminate()
        for client in queued:
            client.read_head().read_whole()
            assert time.time() - began < REFUSED_S
            assert (client.status, client.headers["retry-after"]) == (503, "5")
            assert json.loads(client.body)["error"]["code"] == "shutting_down"
        for client in streams:
            client.read_until(b"[DONE]")
            assert client.read_to_end() == "end"
            assert client.is_whole
        assert server.wait() == 0
        assert time.time() - began < 10
        assert node.stats()["served"] == 2

        server.start()
        assert outcomes(streams) == {("completed", "completed", None)}
        assert outcomes(queued) == {("failed", "evicted", "shutting_down")}
        assert server.get("/stats")["processing_count"] == server.get("/stats")["pending_requests"] == 0


def test_a_stop_ends_what_still_runs_after_shutdown_timeout(start_server: StartServer, start_node: StartNode) -> None:
    node = start_node(slots=4)
    server = start(start_server, node, 4, shutdown_timeout="1s")
    with running(server, ENDLESS, ENDLESS) as streams, RawClient(server) as silent, RawClient(server) as half:
        node.fault("hang", phase="headers", match="silent", times=1)
        node.fault("hang", phase="stream", match="half", after_chunks=1, times=1)
        silent.post({**CALL, "pad": "silent"})
        half.post({**CALL, "pad": "half"}).read_head()
        node.wait(running=4)
        began = time.time()
        server.terminate()
        for client in streams:
            assert client.read_to_end() == "end"
            assert client.is_whole
            assert error_code(client) == "shutting_down"
            assert b"[DONE]" not in client.body
        assert 1.0 <= time.time() - began < 4.0
        assert silent.read_head().status == 503
        assert json.loads(silent.read_whole().body)["error"]["code"] == "shutting_down"
        assert half.read_to_end() == "reset"
        node.wait(running=0, aborted=4)
        assert server.wait() == 0
        assert time.time() - began < 6.0

        server.start()
        everybody = [*streams, silent, half]
        assert outcomes(everybody) == {("failed", "interrupted", "shutting_down")}
        for client in everybody:
            assert began <= seconds(client.record()["finished_at"]) < began + 4.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_waits_for_nobody(
    start_server: StartServer, start_node: StartNode, number: signal.Signals
) -> None:
    node = start_node(slots=1)
    server = start(start_server, node, 1)
    with running(server, ENDLESS) as streams, waiting(server, 2) as queued:
        began = time.time()
        os.kill(server.pid, number)
        assert streams[0].read_to_end() == "end"
        assert error_code(streams[0]) == "shutting_down"
        for client in queued:
            assert client.read_head().status == 503
        assert server.wait() == 0
        assert time.time() - began < 4.0

        server.start()
        assert outcomes(streams) == {("failed", "interrupted", "shutting_down")}
        assert outcomes(queued) == {("failed", "evicted", "shutting_down")}


def test_during_a_stop_it_is_not_ready_and_takes_nothing_new(start_server: StartServer, start_node: StartNode) -> None:
    server = start(start_server, start_node(slots=1), 1, shutdown_timeout="3s")
    with running(server, ENDLESS):
        assert is_ready(server)
        server.terminate()
        eventually(lambda: not is_ready(server), "not ready")
        assert server.process is not None
        assert server.process.poll() is None
        with pytest.raises(requests.ConnectionError):
            server.post(CALL)
        assert server.wait() == 0


def test_idle_connections_do_not_delay_a_stop(start_server: StartServer, start_node: StartNode) -> None:
    server = start(start_server, start_node(slots=1), 1)
    with ExitStack() as stack:
        fresh = [stack.enter_context(RawClient(server)) for _ in range(20)]  # have sent nothing yet
        used = [stack.enter_context(RawClient(server)).post(CALL).read_head() for _ in range(20)]
        assert {client.status for client in used} == {200}
        began = time.time()
        server.terminate()
        assert server.wait() == 0
        assert time.time() - began < 5.0  # one second for those that may be about to send; keep-alive would be ten
        for client in fresh + used:
            assert client.read_to_end() == "end"


def test_a_body_that_comes_slowly_delays_a_stop_no_longer_than_what_runs(
    start_server: StartServer, start_node: StartNode
) -> None:
    server = start(start_server, start_node(slots=1), 1, shutdown_timeout="1s")
    with RawClient(server) as client:
        client.post(CALL, only_bytes=10)
        time.sleep(0.2)  # it is being read
        began = time.time()
        server.terminate()
        assert server.wait() == 0
        assert 1.0 <= time.time() - began < 8.0  # gunicorn would kill the worker after 11
        assert client.read_to_end() in ("end", "reset")


def test_a_stop_before_any_request_is_clean_and_leaves_no_pid_file(start_server: StartServer) -> None:
    server = start_server()
    server.terminate()
    assert server.wait() == 0
    assert not (server.folder / "data" / "scheduler.pid").exists()
    assert [line for line in server.log_lines if line["level"] == "error"] == []


# -- kill -9 ----------------------------------------------------------------------------------


def test_after_a_crash_nodes_are_back_and_unfinished_requests_are_interrupted(
    start_server: StartServer, start_node: StartNode
) -> None:
    node = start_node(slots=2)
    server = start(start_server, node, 2)
    done = server.post(CALL).headers["X-Scheduler-Request-Id"]
    server.record(done)
    with running(server, ENDLESS, ENDLESS) as streams, waiting(server, 3) as queued:
        time.sleep(0.2)  # every request older than 0.1 s has its row
        server.kill()
        node.wait(running=0)
        for client in streams:
            client.read_to_end()
            assert not client.is_whole

        server.start()
        assert outcomes([*streams, *queued]) == {("failed", "interrupted", "interrupted")}
        assert server.record(done)["outcome"] == "completed"
        assert server.get("/requests")["total"] == 6
    server.wait_for_node("gpu-01", health="up", max_concurrent=2, state="active")
    assert server.post(CALL).status_code == 200
    server.wait_until_idle()


def test_a_worker_that_is_killed_is_replaced_and_grants_again(start_server: StartServer, start_node: StartNode) -> None:
    node = start_node(slots=2)
    server = start(start_server, node, 2)
    (worker,) = server.worker_pids()
    with running(server, ENDLESS, ENDLESS) as streams, waiting(server, 1) as queued:
        time.sleep(0.2)  # every request older than 0.1 s has its row
        os.kill(worker, signal.SIGKILL)
        node.wait(running=0)
        eventually(lambda: is_ready(server) and worker not in server.worker_pids(), "another worker")
        server.wait_for_node("gpu-01", health="up")
        assert server.post(CALL).status_code == 200
        assert outcomes([*streams, *queued]) == {("failed", "interrupted", "interrupted")}
    assert node.stats()["peak"] == 2
    assert server.pid != worker


# -- one server a folder ----------------------------------------------------------------------


def test_a_second_server_on_the_same_folder_is_refused_in_one_line(
    start_server: StartServer, start_node: StartNode
) -> None:
    first = start(start_server, start_node(slots=1), 1)
    second = RunningServer(first.folder, {"server": {"pid_file": "./data/second.pid"}})
    second.log_path = first.folder / "second.log"
    try:
        second.launch()
        assert second.wait() == 1
    finally:
        second.http.close()
    assert second.log.count("\n") == 1, second.log
    assert f"{first.folder}/data is in use by process {first.pid}: stop that server first" in second.log
    assert first.post(CALL).status_code == 200


# -- HUP --------------------------------------------------------------------------------------


def reload(server: RunningServer) -> None:
    """HUP, and wait until another worker answers."""
    before = set(server.worker_pids())
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: set(server.worker_pids()) - before, "a new worker")


def test_who_waits_for_one_model_keeps_no_slots_of_others_through_a_reload(
    start_server: StartServer, start_node: StartNode
) -> None:
    server = start(start_server, start_node(slots=1), 1)
    other = {"id": "gpu-02", "address": "http://127.0.0.1:9", "models": ["other"], "max_concurrent": 1}
    assert server.admin("POST", "/nodes", other).status_code == 201
    with RawClient(server) as client:
        client.post({"model": "other"})
        server.wait_until_waiting(1)
        reload(server)
        eventually(lambda: "a successor has taken over" in server.log, "the new worker's turn")
        assert server.post(CALL, timeout=10).status_code == 200


def test_a_request_that_comes_on_a_new_connection_is_served_by_the_worker_that_ends(
    start_server: StartServer, start_node: StartNode
) -> None:
    server = start(start_server, start_node(slots=1), 1)
    (old,) = server.worker_pids()
    statuses = []
    os.kill(server.pid, signal.SIGHUP)
    while old in server.worker_pids():
        with RawClient(server) as client:
            time.sleep(0.3)  # what a client takes to send, perhaps
            statuses.append(client.post(CALL).read_head().status)
    assert set(statuses) == {200}


def test_a_reload_cuts_no_stream_refuses_nobody_and_keeps_the_limits(
    start_server: StartServer, start_node: StartNode
) -> None:
    node = start_node(slots=2)
    server = start(start_server, node, 2, shutdown_timeout="20s")
    brief = {**STREAM, "max_tokens": 100, "sim_gap_ms": 20}
    with running(server, brief, brief) as streams, waiting(server, 3) as queued, ThreadPoolExecutor(8) as callers:
        (old,) = server.worker_pids()
        reload(server)
        later = [callers.submit(server.post, CALL) for _ in range(8)]
        for client in streams:
            client.read_whole()
            assert b"[DONE]" in client.body
        for client in queued:
            assert client.read_head().status == 200
        assert {call.result().status_code for call in later} == {200}
        eventually(lambda: old not in server.worker_pids(), "the end of the old worker")
        assert outcomes([*streams, *queued]) == {("completed", "completed", None)}
    assert node.stats()["peak"] == 2
    assert node.stats()["over"] == 0
    assert node.stats()["served"] == 13
    assert server.post(CALL).status_code == 200
