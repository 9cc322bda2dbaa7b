"""Nodes that go and come back, with requests waiting for them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.conftest import StartNode, StartServer
from tests.support.server import RunningServer

BODY = {"model": "sim", "messages": []}


def test_the_only_node_can_be_drained_restarted_and_activated_without_failing_anybody(
    start_server: StartServer, start_node: StartNode
) -> None:
    # A refusal for lack of a node would come at once.
    settings = {"unavailable_wait": "0s", "slow_start": "0s", "health_check_interval": "500ms", "health_check_fall": 1}
    server: RunningServer = start_server({"scheduler": settings})
    node = start_node(slots=2)
    server.register("gpu-01", node.address, max_concurrent=2)
    with ThreadPoolExecutor(8) as callers:
        assert server.admin("PATCH", "/nodes/gpu-01", {"state": "draining"}).status_code == 200
        node.kill()
        server.wait_for_node("gpu-01", health="down")
        calls = [callers.submit(server.post, BODY) for _ in range(8)]
        server.wait_until_waiting(8)
        node.start()
        server.wait_for_node("gpu-01", health="up")
        assert server.admin("PATCH", "/nodes/gpu-01", {"state": "active"}).status_code == 200
        assert {call.result().status_code for call in calls} == {200}
    assert node.stats()["peak"] <= 2


def test_a_node_that_was_down_gets_its_first_request_within_five_seconds_of_being_ready_and_one_at_first(
    start_server: StartServer, start_node: StartNode
) -> None:
    server: RunningServer = start_server({"scheduler": {"eject_after": 1, "slow_start": "2s", "health_check_rise": 2}})
    node = start_node(slots=4)
    server.register("gpu-01", node.address, max_concurrent=4)
    node.refuse()
    assert server.post(BODY).status_code == 502
    server.wait_for_node("gpu-01", health="down")
    with ThreadPoolExecutor(4) as callers:
        calls = [callers.submit(server.post, BODY) for _ in range(4)]
        server.wait_until_waiting(4)
        node.close_gate()
        node.accept()
        began = time.monotonic()
        node.wait(running=1)
        assert time.monotonic() - began < 5
        server.wait_until_waiting(3)
        shown = server.get("/nodes/gpu-01")
        assert (shown["health_reason"], shown["in_flight"]) == ("recovering: 1 of 4 slots", 1)
        assert "gpu-01 recovering: 1 of 4 slots" in server.get("/queue")["waiting"][0]["reason"]
        node.release()
        server.wait_until_waiting(0)  # it has answered one, and grows
        node.open_gate()
        assert {call.result().status_code for call in calls} == {200}
    server.wait_for_node("gpu-01", health_reason=None)
