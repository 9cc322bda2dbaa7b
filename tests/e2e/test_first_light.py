"""The smallest thing that must work: one node, one answer, one record."""

from tests.support.server import RunningServer
from tests.support.sim_node import SimNode


def test_an_answer_comes_through_and_leaves_one_finished_record(server: RunningServer, node: SimNode) -> None:
    response = server.post({"model": "sim", "messages": []})

    assert response.status_code == 200
    assert response.headers["X-Scheduler-Node"] == "gpu-01"
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert (record["status"], record["outcome"], record["node_id"]) == ("completed", "completed", "gpu-01")
    assert node.stats()["served"] == 1
