"""What a simulated node counts, and how a test steers it without sleeping."""

import threading
from urllib.error import HTTPError

import pytest

from tests.simulation.wire import CHAT
from tests.support.sim_node import WaitTimeout


def test_requests_past_the_slots_are_served_and_counted(node, connect):
    node.close_gate()
    wires = [connect().post() for _ in range(3)]
    stats = node.wait(running=3)
    assert (stats["slots"], stats["over"], stats["peak"]) == (2, 1, 3)
    node.open_gate()
    assert [wire.answer().status for wire in wires] == [200, 200, 200]
    stats = node.wait(running=0)
    assert (stats["arrived"], stats["served"], stats["aborted"]) == (3, 3, 0)


def test_the_gate_lets_go_in_order_of_arrival(node, connect):
    node.close_gate()
    wires = []
    for number in range(3):
        wires.append(connect().post(sim_tag=number))
        node.wait(arrived=number + 1)
    assert wires[0].is_silent(0.02)
    node.release(2)
    assert [wire.answer().status for wire in wires[:2]] == [200, 200]
    assert wires[2].is_silent(0.02)
    node.release()
    assert wires[2].answer().status == 200
    assert node.tags() == [0, 1, 2]


def test_what_is_released_beforehand_goes_to_who_comes_next(node, wire):
    node.close_gate()
    node.release(1)
    assert wire.post().answer().status == 200
    assert wire.post().is_silent(0.02)


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
@pytest.mark.parametrize("phase", ["gate", "prefill", "headers", "stream"])
def test_a_peer_that_leaves_is_noticed_in_every_phase(node, wire, phase, how):
    if phase == "gate":
        node.close_gate()
    if phase == "headers":
        node.fault("hang", phase="body")
    wire.post(
        stream=phase in ("headers", "stream"),
        max_tokens=9,
        sim_ttft_ms=60_000 * (phase == "prefill"),
        sim_gap_ms=60_000,
    )
    node.wait(running=1)
    if phase == "stream":
        wire.until(b"t0")
    elif phase == "headers":
        wire.head()
    if how == "half":
        wire.half_close()
    else:
        wire.leave(reset=how == "rst")
    stats = node.wait(aborted=1, running=0, timeout_s=1)
    assert stats["served"] == 0
    assert node.arrivals()[0]["outcome"] == "aborted"


def test_a_peer_that_stops_reading_keeps_its_request_running_until_it_leaves(node, wire):
    wire.post(sim_bytes=50_000_000)
    wire.until(b"\r\n\r\n")
    assert node.stats()["running"] == 1
    wire.leave()
    node.wait(aborted=1, running=0, timeout_s=1)


def test_a_pipelined_request_does_not_hide_that_its_sender_left(node, wire):
    node.close_gate()
    wire.post().post()
    node.wait(running=1)
    wire.leave()
    node.wait(aborted=1, running=0, timeout_s=1)


def test_an_arrival_is_told_with_everything_that_came(node, wire):
    wire.post("/v1/completions?a=b", "X-Request-Id: r-1", "x-test-tag: first", "X-Twice: 1", "X-Twice: 2").answer()
    (arrival,) = node.arrivals()
    expected = {"n": 1, "path": "/v1/completions", "target": "/v1/completions?a=b", "model": "sim", "tag": "first"}
    assert arrival.items() >= {**expected, "request_id": "r-1", "outcome": "served", "status": 200}.items()
    assert arrival["headers"]["x-twice"] == "1, 2"
    assert ["X-Request-Id", "r-1"] in arrival["header_lines"]
    assert 0 <= arrival["at_ms"] <= arrival["ended_ms"]


def test_probes_and_control_calls_are_no_inference(node, wire):
    wire.get("/health").answer()
    wire.get("/v1/models").answer()
    assert wire.get("/sim/stats").answer().json["probes"] == 2
    stats = node.stats()
    assert (stats["arrived"], stats["probes"], stats["connections_total"]) == (0, 2, 0)


def test_connections_are_counted_while_they_are_open(node, connect):
    wires = [connect(), connect()]
    node.wait(connections_open=2)
    wires[0].leave()
    wires[1].leave(reset=True)
    assert node.wait(connections_open=0)["connections_total"] == 2


def test_the_pause_between_a_freed_slot_and_the_next_request_is_measured(node, connect):
    node.close_gate()
    wires = [connect(), connect()]
    for wire in wires:
        wire.post()
    node.wait(running=2)
    node.release(1)
    node.wait(served=1)
    assert node.stats()["handoff_gap_ms"]["count"] == 0
    connect().post()
    stats = node.wait(arrived=3)
    assert stats["handoff_gap_ms"]["count"] == 1
    assert 0 < stats["handoff_gap_ms"]["mean"] == stats["handoff_gap_ms"]["max"] < stats["clock_ms"]
    assert 0 < stats["busy_ms"] < 2 * stats["clock_ms"]


def test_a_reset_forgets_everything_but_what_still_runs(node, connect):
    node.close_gate()
    connect().post()
    node.wait(running=1)
    node.fault("status")
    node.reset()
    stats = node.wait(running=0)
    assert (stats["arrived"], stats["served"], stats["peak"]) == (0, 0, 1)
    assert node.faults() == []
    assert connect().post().answer().status == 200


def test_waiting_ends_when_the_counter_gets_there(node, connect):
    found = []
    waiter = threading.Thread(target=lambda: found.append(node.wait(arrived=2, served=2)["served"]))
    waiter.start()
    connect().post().answer()
    connect().post().answer()
    waiter.join(10)
    assert found == [2]


def test_waiting_in_vain_says_what_there_is_instead(node):
    with pytest.raises(WaitTimeout, match='"arrived":0'):
        node.wait(arrived=1, timeout_s=0.01)


def test_a_mistaken_command_is_told(node):
    with pytest.raises(ValueError, match="KeyError"):
        node.wait(nonsense=1)
    with pytest.raises(ValueError, match="unknown kind 'nonsense'"):
        node.fault("nonsense")
    with pytest.raises(ValueError, match="no parameter chunks"):
        node.fault("close", chunks=1)
    with pytest.raises(ValueError, match="phase must be one of"):
        node.fault("close", phase="nonsense")
    with pytest.raises(HTTPError, match="404"):
        node._call("GET", "/sim/nonsense")


def test_streams_keep_their_pace(node, wire):
    wire.post(CHAT, stream=True, max_tokens=11, sim_gap_ms=10).answer()
    (arrival,) = node.arrivals()
    assert arrival["ended_ms"] - arrival["at_ms"] >= 99
