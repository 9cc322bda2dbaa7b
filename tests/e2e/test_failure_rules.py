"""Rules of failure that need many requests or much time, and operators whose changes are in force within a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.e2e.conftest import StartFleet, StartNode, StartServer
from tests.support.fleet import Fleet
from tests.support.raw_client import RawClient
from tests.support.server import RunningServer, eventually
from tests.support.sim_node import WaitTimeout

#: What an operator changes is in force so soon.
IN_FORCE_S = 1.0
#: What must not happen is waited for so long.
QUIET_S = 0.4


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    """Two nodes with two slots each: the model `both` is on both, each has one of its own."""
    fleet = start_fleet({"scheduler": {"health_check_interval": "1s", "slow_start": "0s", "unavailable_wait": "10s"}})
    fleet.add("gpu-01", ["both", "first"], slots=2)
    fleet.add("gpu-02", ["both", "second"], slots=2)
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    module_fleet.settle()
    for node_id in module_fleet.nodes:
        module_fleet.renew(node_id)


@pytest.fixture
def server(fleet: Fleet) -> RunningServer:
    return fleet.server


def call(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [], **fields}


def change(server: RunningServer, node_id: str, **changes: Any) -> None:
    response = server.admin("PATCH", f"/nodes/{node_id}", changes)
    assert response.status_code == 200, response.text


def nodes_of(responses: list[requests.Response]) -> Counter[str]:
    assert {response.status_code for response in responses} == {200}
    return Counter(response.headers["X-Scheduler-Node"] for response in responses)


def attempts_of(server: RunningServer, response: requests.Response) -> list[tuple[str, str]]:
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    return [(attempt["node_id"], attempt["result"]) for attempt in record["attempts"]]


# -- busy -------------------------------------------------------------------------------------


def test_an_engine_that_loads_its_model_is_hardly_called_by_a_hundred_that_wait_and_then_answers_all(
    start_server: StartServer, start_node: StartNode
) -> None:
    server, node = start_server({"scheduler": {"max_attempts": 20}}), start_node(slots=4)
    server.register("gpu-01", node.address, max_concurrent=4)
    node.fault("status", status=503, message="loading model")
    with ThreadPoolExecutor(100) as pool:
        calls = [pool.submit(server.post, call("sim")) for _ in range(100)]
        # At once up to four, which each find a free slot; then one after 1 s and one after 3 s.
        with pytest.raises(WaitTimeout):
            node.wait(arrived=7, timeout_s=4)
        assert server.get("/queue?limit=1")["waiting_total"] == 100
        node.clear_faults()
        assert {each.result().status_code for each in calls} == {200}


def test_a_busy_node_is_asked_again_as_soon_as_one_of_its_requests_ends(fleet: Fleet, server: RunningServer) -> None:
    with RawClient(server) as runner:
        runner.post(call("first", stream=True, max_tokens=10_000, sim_gap_ms=20)).read_head()
        fleet["gpu-01"].fault("status", status=503, headers={"retry-after": "30"}, times=1)
        with fleet.waiting(call("first")) as waiter:
            runner.leave()
            response = waiter.result()
    assert attempts_of(server, response) == [("gpu-01", "busy"), ("gpu-01", "completed")]
    assert float(response.headers["X-Scheduler-Queue-Ms"]) < 10_000


def test_a_reply_that_was_delivered_is_not_delivered_again_where_that_is_not_wanted(
    start_server: StartServer, start_node: StartNode
) -> None:
    server = start_server({"scheduler": {"retry_sent": False}})
    nodes = [start_node() for _ in range(3)]
    for number, node in enumerate(nodes):
        server.register(f"gpu-{number}", node.address)
        node.fault("close", phase="headers")
    response = server.post(call("sim"))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_closed")
    assert sum(node.stats()["arrived"] for node in nodes) == 1


# -- answers that speak of a node or of a caller ----------------------------------------------


def test_a_model_that_an_engine_has_lost_is_asked_of_another_until_a_probe_sees_it_again(
    fleet: Fleet, server: RunningServer
) -> None:
    lost = fleet["gpu-01"]
    lost.fault("status", status=404, message="The model `both` does not exist.", times=1)
    lost.fault("probe_status", status=500)  # a list that cannot be read says nothing of models
    responses = [server.post(call("both")) for _ in range(4)]
    assert nodes_of(responses) == {"gpu-02": 4}
    assert [("gpu-01", "no_such_model"), ("gpu-02", "completed")] in [attempts_of(server, each) for each in responses]
    assert lost.stats()["arrived"] == 1
    lost.clear_faults()
    eventually(lambda: "gpu-01" in nodes_of([server.post(call("both")) for _ in range(4)]), "it gets requests again")


def test_a_caller_whose_every_request_breaks_the_engine_takes_no_node_from_the_others(
    fleet: Fleet, server: RunningServer
) -> None:
    with ThreadPoolExecutor(8) as pool:
        bad = [pool.submit(server.post, call("both", sim_status=500)) for _ in range(60)]
        good = [pool.submit(server.post, call("both")) for _ in range(60)]
        assert {each.result().status_code for each in bad} == {500}
        assert {each.result().status_code for each in good} == {200}
    assert [node["health"] for node in server.get("/nodes")["nodes"]] == ["up", "up"]
    assert [event["kind"] for event in server.get("/events")["events"] if event["kind"] == "node.down"] == []


# -- operators --------------------------------------------------------------------------------


def test_a_limit_that_is_raised_lets_those_who_wait_start(fleet: Fleet, server: RunningServer) -> None:
    node = fleet["gpu-01"]
    change(server, "gpu-01", max_concurrent=1)
    with fleet.occupied("gpu-01", "first"), fleet.waiting(call("first")) as waiter:
        change(server, "gpu-01", max_concurrent=2)
        node.wait(running=2, timeout_s=IN_FORCE_S)
        node.open_gate()
        assert waiter.result().status_code == 200


def test_a_limit_that_is_lowered_below_what_runs_ends_nothing_and_starts_nothing(
    fleet: Fleet, server: RunningServer
) -> None:
    node = fleet["gpu-01"]
    with fleet.occupied("gpu-01", "first", count=2), fleet.waiting(call("first")) as waiter:
        change(server, "gpu-01", max_concurrent=1)
        node.release()
        node.wait(served=1)
        with pytest.raises(WaitTimeout):
            node.wait(arrived=3, timeout_s=QUIET_S)
        assert node.stats()["running"] == 1
        node.release()
        node.wait(arrived=3, timeout_s=IN_FORCE_S)
        node.open_gate()
        assert waiter.result().status_code == 200
    assert node.stats()["aborted"] == 0


@pytest.mark.parametrize("state", ["draining", "disabled"])
def test_a_node_that_is_taken_out_ends_what_it_has_and_gets_nothing_until_it_is_back(
    fleet: Fleet, server: RunningServer, state: str
) -> None:
    node = fleet["gpu-01"]
    with fleet.occupied("gpu-01", "first"):
        change(server, "gpu-01", state=state)
        assert nodes_of([server.post(call("both")) for _ in range(4)]) == {"gpu-02": 4}
        with fleet.waiting(call("first")) as waiter:
            change(server, "gpu-01", state="active")
            node.wait(arrived=2, timeout_s=IN_FORCE_S)
            node.open_gate()
            assert waiter.result().status_code == 200
    assert node.stats()["aborted"] == 0


def test_weights_divide_the_load(fleet: Fleet, server: RunningServer) -> None:
    for node_id, weight in (("gpu-01", 300), ("gpu-02", 100)):
        change(server, node_id, max_concurrent=8, weight=weight)
        fleet[node_id].close_gate()
    calls = [fleet.later(lambda: server.post(call("both"))) for _ in range(8)]
    eventually(lambda: server.get("/queue?limit=0")["running_total"] == 8, "8 running")
    for node in fleet.nodes.values():
        node.open_gate()
    assert nodes_of([each.result() for each in calls]) == {"gpu-01": 6, "gpu-02": 2}


def test_a_model_that_is_added_is_served_and_one_that_is_taken_away_is_not_found(
    fleet: Fleet, server: RunningServer
) -> None:
    assert server.post(call("new")).status_code == 404
    change(server, "gpu-01", models=["both", "new"])
    assert server.post(call("new")).headers["X-Scheduler-Node"] == "gpu-01"
    assert server.post(call("first")).status_code == 404


def test_a_node_that_moves_is_called_at_its_new_address_while_the_old_one_ends_what_it_has(
    fleet: Fleet, server: RunningServer, start_node: StartNode
) -> None:
    there = start_node(models=["both", "first"], slots=2)
    with fleet.occupied("gpu-01", "first"):
        change(server, "gpu-01", address=there.address)
        waiter = fleet.later(lambda: server.post(call("first")))
        there.wait(arrived=1, timeout_s=IN_FORCE_S)
        assert waiter.result().status_code == 200
    assert fleet["gpu-01"].stats()["arrived"] == 1


def test_a_node_that_is_removed_ends_what_it_has_and_counts_that_when_it_is_back(
    fleet: Fleet, server: RunningServer
) -> None:
    node = fleet["gpu-01"]
    with fleet.occupied("gpu-01", "first", count=2):
        assert server.admin("DELETE", "/nodes/gpu-01").status_code == 204
        assert nodes_of([server.post(call("both")) for _ in range(3)]) == {"gpu-02": 3}
        assert server.post(call("first")).status_code == 404
        server.register("gpu-01", node.address, ["both", "first"], 2)
        with fleet.waiting(call("first")) as waiter:
            with pytest.raises(WaitTimeout):
                node.wait(arrived=3, timeout_s=QUIET_S)
            node.release()
            node.wait(arrived=3, timeout_s=IN_FORCE_S)
            node.open_gate()
            assert waiter.result().status_code == 200
    assert (node.stats()["peak"], node.stats()["aborted"]) == (2, 0)
