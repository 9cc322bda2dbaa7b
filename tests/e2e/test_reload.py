"""SIGHUP: new code and settings, without a request refused, cut or evicted, and without a limit exceeded."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.e2e.conftest import StartNode, StartServer
from tests.support.server import RunningServer, eventually


def hup(server: RunningServer) -> None:
    """Reload, and wait until a new worker answers."""
    before = set(server.worker_pids())
    boot = server.get("/status")["boot_id"]
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: set(server.worker_pids()) - before, "a new worker")
    eventually(lambda: server.get("/status")["boot_id"] != boot, "an answer of the new worker")


def stream_whole(server: RunningServer, tokens: int, tag: str) -> requests.Response:
    body = {"model": "sim", "stream": True, "max_tokens": tokens, "messages": [], "sim_tag": tag}
    response = server.post(body)
    assert response.status_code == 200, response.text
    return response


def test_a_reload_under_streams_and_waiting_requests_loses_nothing(
    start_server: StartServer, start_node: StartNode
) -> None:
    server = start_server({"scheduler": {"queue_timeout": "60s"}})
    nodes = {"gpu-01": 40, "gpu-02": 60}
    running = {}
    for node_id, slots in nodes.items():
        node = running[node_id] = start_node(slots=slots, tokens_per_second=20, tokens=60)
        server.register(node_id, node.address, max_concurrent=slots)
    with ThreadPoolExecutor(200) as pool:
        old = [pool.submit(stream_whole, server, 60, f"old-{n}") for n in range(150)]
        for node_id, slots in nodes.items():
            running[node_id].wait(running=slots)
        server.wait_until_waiting(50)
        hup(server)
        new = [pool.submit(stream_whole, server, 5, f"new-{n}") for n in range(50)]
        for future in [*old, *new]:
            assert future.result(timeout=60).text.endswith("data: [DONE]\n\n")
    for node_id, slots in nodes.items():
        stats = running[node_id].stats()
        assert (stats["over"], stats["peak"], stats["aborted"], stats["broken"]) == (0, slots, 0, 0), node_id
    eventually(lambda: len(server.worker_pids()) == 1, "the end of the old worker")
    records = server.get("/requests?limit=1000")["requests"]
    assert [record["outcome"] for record in records] == ["completed"] * 200


def test_the_new_worker_grants_what_the_old_one_does_not_need(start_server: StartServer, start_node: StartNode) -> None:
    server = start_server()
    node = start_node(slots=4)
    server.register("gpu-01", node.address, max_concurrent=4)
    node.close_gate()
    with ThreadPoolExecutor(8) as pool:
        old = [pool.submit(server.post, {"model": "sim", "messages": []}) for _ in range(3)]
        node.wait(running=3)
        hup(server)
        new = [pool.submit(server.post, {"model": "sim", "messages": []}) for _ in range(3)]
        node.wait(running=4)  # one of the new ones: the old worker holds the other three slots
        server.wait_until_waiting(2)
        node.release(1)
        node.wait(arrived=5)
        assert node.stats()["peak"] == 4
        node.open_gate()
        assert [future.result().status_code for future in [*old, *new]] == [200] * 6
    assert node.stats()["over"] == 0


def test_new_settings_are_in_force_after_a_reload(start_server: StartServer) -> None:
    server = start_server()
    assert server.post({"model": "nobody", "messages": []}).status_code == 404
    server.settings["auth"] = {"api_keys": ["sk-new"]}
    server.write_config()
    hup(server)
    assert server.post({"model": "nobody", "messages": []}).status_code == 401


def test_a_reload_with_a_mistake_in_the_settings_keeps_the_old_ones(start_server: StartServer) -> None:
    server = start_server({"auth": {"api_keys": ["sk-old"]}})
    server.settings["scheduler"] = {"queue_timout": "5s"}
    server.write_config()
    hup(server)
    assert server.post({"model": "nobody"}).status_code == 401
    assert server.post({"model": "nobody"}, headers={"Authorization": "Bearer sk-old"}).status_code == 404
    assert any("queue_timout" in line["message"] for line in server.log_lines)


def test_a_stop_ends_the_old_worker_of_a_reload_too(start_server: StartServer, start_node: StartNode) -> None:
    server = start_server({"server": {"shutdown_timeout": "1s"}})
    node = start_node(slots=2)
    server.register("gpu-01", node.address, max_concurrent=2)
    node.close_gate()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(server.post, {"model": "sim", "messages": []})
        node.wait(running=1)
        hup(server)
        server.terminate()
        answer = held.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert server.wait() == 0


def test_requests_sent_during_reloads_are_all_answered(start_server: StartServer, start_node: StartNode) -> None:
    server = start_server()
    node = start_node(slots=8, ttft_ms=20)
    server.register("gpu-01", node.address, max_concurrent=8)
    stop = threading.Event()
    statuses: list[int] = []

    def keep_asking() -> None:
        while not stop.is_set():
            statuses.append(server.post({"model": "sim", "messages": []}).status_code)

    with ThreadPoolExecutor(6) as pool:
        callers = [pool.submit(keep_asking) for _ in range(6)]
        for _ in range(3):
            hup(server)
            eventually(lambda: len(server.worker_pids()) == 1, "the end of the old worker")
        stop.set()
        for caller in callers:
            caller.result()
    assert len(statuses) > 50
    assert set(statuses) == {200}
    assert node.stats()["over"] == 0
