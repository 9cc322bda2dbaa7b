"""200 concurrent callers of mixed priorities on 4 + 8 slots: the order in which they get them, and no slot too many."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

import pytest

from tests.e2e.conftest import StartFleet
from tests.simulation.wire import Wire
from tests.support.fleet import Fleet
from tests.support.server import eventually

CALLERS = 200
SLOTS = {"gpu-01": 4, "gpu-02": 8}
PRIORITIES = ("critical", "high", "normal", "low")
QUEUE_TIMEOUT_S = 100


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet({"scheduler": {"queue_timeout": f"{QUEUE_TIMEOUT_S}s"}})
    for node_id, slots in SLOTS.items():
        fleet.add(node_id, slots=slots)
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    module_fleet.settle()


class Crowd:
    """Callers that have sent their request, one after the other, each on a connection of its own."""

    def __init__(self, fleet: Fleet, stack: ExitStack) -> None:
        self._fleet = fleet
        self._stack = stack
        self.wires: dict[str, Wire] = {}

    def send(self, tag: str, priority: str = "normal", stream: bool = False) -> None:
        body = json.dumps({"model": "sim", "stream": stream}).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: server", "Content-Type: application/json"]
        lines += [f"X-Priority: {priority}", f"X-Request-Id: {tag}", f"X-Test-Tag: {tag}", "Connection: close"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
        wire = self.wires[tag] = self._stack.enter_context(Wire(self._fleet.server.port))
        wire.send(head + body)

    def statuses(self) -> Counter[int]:
        """What all of them were answered."""
        return Counter(wire.answer().status for wire in self.wires.values())


@contextmanager
def taken_slots(fleet: Fleet) -> Iterator[Crowd]:
    """All slots of both nodes are held by callers whose nodes answer nothing while their gates are closed."""
    with ExitStack() as stack:
        crowd = Crowd(fleet, stack)
        for node_id in SLOTS:
            fleet[node_id].close_gate()
        for at in range(sum(SLOTS.values())):
            crowd.send(f"first-{at}")
        for node_id, slots in SLOTS.items():
            fleet[node_id].wait(running=slots)
        yield crowd


def wait_for(fleet: Fleet, count: int) -> None:
    eventually(lambda: fleet.server.get("/queue?limit=0")["waiting_total"] == count, f"{count} waiting")


def mixed(seed: int) -> list[tuple[str, str]]:
    """As many callers of each priority, in a random order of arrival: (tag, priority)."""
    priorities = [*PRIORITIES] * (CALLERS // len(PRIORITIES))
    random.Random(seed).shuffle(priorities)
    return [(f"{priority}-{at:03d}", priority) for at, priority in enumerate(priorities)]


def in_order(callers: list[tuple[str, str]]) -> list[str]:
    """The tags as they ought to be served: sorting keeps the order of arrival within a priority."""
    return [tag for tag, priority in sorted(callers, key=lambda caller: PRIORITIES.index(caller[1]))]


def test_freed_slots_go_to_the_most_urgent_and_then_to_who_came_first(fleet: Fleet) -> None:
    callers = mixed(seed=1)
    with taken_slots(fleet) as crowd:
        for already, (tag, priority) in enumerate(callers):
            crowd.send(tag, priority)
            wait_for(fleet, already + 1)

        check_the_queue_view(fleet, callers)

        # One slot falls free at a time, here and there, so that the order of the arrivals is the order of the grants.
        served: list[str] = []
        ids = list(SLOTS)
        arrived = dict(SLOTS)
        for at in range(CALLERS):
            node_id = ids[at % 3 % 2]
            fleet[node_id].release(1)
            arrived[node_id] += 1
            fleet[node_id].wait(arrived=arrived[node_id])
            served.append(fleet[node_id].tags()[-1] or "")
        assert served == in_order(callers)
        assert fleet.server.get("/queue?limit=0")["waiting_total"] == 0

        for node_id in SLOTS:
            fleet[node_id].open_gate()
        assert crowd.statuses() == {200: CALLERS + sum(SLOTS.values())}
    for node_id, slots in SLOTS.items():
        counters = fleet[node_id].stats()
        assert (counters["peak"], counters["over"], counters["aborted"]) == (slots, 0, 0)


def check_the_queue_view(fleet: Fleet, callers: list[tuple[str, str]]) -> None:
    queue = fleet.server.get(f"/queue?limit={CALLERS * 2}")
    waiting: list[dict[str, Any]] = queue["waiting"]
    assert [ticket["client_request_id"] for ticket in waiting] == in_order(callers)
    assert [ticket["position"] for ticket in waiting] == list(range(1, CALLERS + 1))
    assert [name for name, _ in groupby(ticket["priority"] for ticket in waiting)] == list(PRIORITIES)
    assert {ticket["reason"] for ticket in waiting} == {"all 2 nodes at limit"}
    assert {(ticket["model"], ticket["client"], ticket["key_name"]) for ticket in waiting} == {
        ("sim", "127.0.0.1", None)
    }
    for ticket in waiting:
        assert ticket["waited_ms"] + ticket["expires_in_ms"] == pytest.approx(QUEUE_TIMEOUT_S * 1000, abs=2)
    assert (queue["waiting_total"], queue["running_total"]) == (CALLERS, sum(SLOTS.values()))
    assert Counter(running["node_id"] for running in queue["running"]) == SLOTS
    assert {running["phase"] for running in queue["running"]} == {"waiting_first_byte"}
    assert fleet.server.status()["queue_by_priority"] == dict.fromkeys(PRIORITIES, CALLERS // len(PRIORITIES))
    assert len(fleet.server.get("/queue?limit=10")["waiting"]) == 10


def test_when_all_slots_fall_free_at_once_no_node_gets_more_than_its_own(fleet: Fleet) -> None:
    callers = mixed(seed=2)
    with taken_slots(fleet) as crowd:
        for at, (tag, priority) in enumerate(callers):
            crowd.send(tag, priority, stream=at % 2 == 0)
        wait_for(fleet, CALLERS)

        for node_id in SLOTS:
            fleet[node_id].open_gate()
        assert crowd.statuses() == {200: CALLERS + sum(SLOTS.values())}

    for node_id, slots in SLOTS.items():
        counters = fleet[node_id].stats()
        assert (counters["peak"], counters["over"], counters["aborted"], counters["broken"]) == (slots, 0, 0, 0)
    tags = [tag for node_id in SLOTS for tag in fleet[node_id].tags()]
    assert len(tags) == len(set(tags)) == CALLERS + sum(SLOTS.values())
    eventually(lambda: fleet.server.get("/requests?outcome=completed&limit=1")["total"] >= len(tags), "all records")


def test_callers_of_another_model_do_not_wait_behind_the_crowd(fleet: Fleet) -> None:
    if "gpu-03" not in fleet.nodes:
        fleet.add("gpu-03", ["other"], slots=1)
    with taken_slots(fleet) as crowd:
        for at in range(20):
            crowd.send(f"waits-{at}", "critical")
        wait_for(fleet, 20)

        assert fleet.server.post({"model": "other"}, headers={"X-Priority": "low"}).status_code == 200

        assert fleet.server.get("/queue?limit=0")["waiting_total"] == 20
        for node_id in SLOTS:
            fleet[node_id].open_gate()
        assert crowd.statuses() == {200: 20 + sum(SLOTS.values())}


def test_a_request_moved_to_another_priority_is_served_by_that(fleet: Fleet) -> None:
    with taken_slots(fleet) as crowd:
        for already, (tag, priority) in enumerate([("a", "high"), ("b", "normal"), ("c", "low")]):
            crowd.send(tag, priority)
            wait_for(fleet, already + 1)
        by_tag = {ticket["client_request_id"]: ticket["id"] for ticket in fleet.server.get("/queue")["waiting"]}

        assert fleet.server.admin("PATCH", f"/queue/{by_tag['c']}", {"priority": "critical"}).status_code == 200

        waiting = fleet.server.get("/queue")["waiting"]
        assert [ticket["client_request_id"] for ticket in waiting] == ["c", "a", "b"]
        node = fleet["gpu-02"]
        for arrived, tag in enumerate(["c", "a", "b"], SLOTS["gpu-02"] + 1):
            node.release(1)
            node.wait(arrived=arrived)
            assert node.tags()[-1] == tag
        for node_id in SLOTS:
            fleet[node_id].open_gate()
        assert crowd.statuses() == {200: 3 + sum(SLOTS.values())}
