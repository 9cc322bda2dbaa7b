"""Every n-th call to the outside world fails, or something happens during it: nothing stays held, and the request has
exactly one end. For n = 1, 2, 3, ... until the request no longer sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

import gevent
import pytest

from scheduler.core.outcome import Outcome
from scheduler.errors import NodeClosed, NodeError, NodeProtocolError, NodeTimeout, NodeUnreachable, ReplyBroken
from tests.support.gateway_fakes import A_MOMENT, Answer, MemoryWorld

EVENT_STREAM = (("Content-Type", "text/event-stream"),)
FRAMES = (b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n', b'data: {"n": 3}\n\n', b"data: [DONE]\n\n")

JSON = Answer(pieces=(b'{"id": ', b'"1"', b"}"))
STREAM = Answer(headers=EVENT_STREAM, pieces=FRAMES)
UNFRAMED_STREAM = Answer(headers=EVENT_STREAM, pieces=FRAMES, is_framed=False)
REFUSES = Answer(error=NodeUnreachable("refused"))
CLOSES = Answer(error=NodeClosed("closed"))
HANGS_UP = Answer(headers=EVENT_STREAM, pieces=FRAMES[:2], breaks=ReplyBroken("broke"))
COMPRESSED = Answer(headers=(*EVENT_STREAM, ("Content-Encoding", "gzip")), pieces=(b"\x1f\x8b", b"..."))
BUSY = Answer(503, pieces=(b'{"busy"', b": true}"))
WRONG_KEY = Answer(401)
NO_MODEL = Answer(404, pieces=(b'{"error": "The model does not exist"}',))
SICK = Answer(500, pieces=(b'{"error": "out of memory"}',))

SCENARIOS: dict[str, Callable[[], MemoryWorld]] = {
    "json": lambda: MemoryWorld({"gpu-01": [JSON]}),
    "stream": lambda: MemoryWorld({"gpu-01": [STREAM]}, stream=True),
    "stream-without-framing": lambda: MemoryWorld({"gpu-01": [UNFRAMED_STREAM]}, stream=True),
    "stream-that-breaks": lambda: MemoryWorld({"gpu-01": [HANGS_UP]}, stream=True),
    "error-of-the-engine": lambda: MemoryWorld({"gpu-01": [SICK]}),
    "waits-for-a-slot": lambda: MemoryWorld({"gpu-01": [JSON]}, occupied_moments=2),
    "second-node-after-a-refusal": lambda: MemoryWorld({"gpu-01": [REFUSES], "gpu-02": [STREAM]}, stream=True),
    "second-node-after-a-death": lambda: MemoryWorld({"gpu-01": [CLOSES], "gpu-02": [JSON], "gpu-03": [JSON]}),
    "second-node-after-a-refused-key": lambda: MemoryWorld({"gpu-01": [WRONG_KEY], "gpu-02": [JSON]}),
    "second-node-after-a-lost-model": lambda: MemoryWorld({"gpu-01": [NO_MODEL], "gpu-02": [JSON]}),
    "the-same-node-when-it-is-less-busy": lambda: MemoryWorld({"gpu-01": [BUSY, JSON]}),
    "kept-answer-of-a-busy-node": lambda: MemoryWorld({"gpu-01": [BUSY]}),
    "kept-answer-of-a-lost-model": lambda: MemoryWorld({"gpu-01": [NO_MODEL]}),
    "nobody-can-be-reached": lambda: MemoryWorld({"gpu-01": [REFUSES], "gpu-02": [REFUSES]}),
    "read-ahead-of-a-slow-client": lambda: MemoryWorld({"gpu-01": [STREAM]}, stream=True, stall_s=0.06),
    "read-ahead-of-json": lambda: MemoryWorld({"gpu-01": [JSON]}, stall_s=0.06),
    "read-ahead-of-a-stream-that-breaks": lambda: MemoryWorld({"gpu-01": [HANGS_UP]}, stream=True, stall_s=0.06),
    "read-ahead-of-a-client-that-hardly-reads": lambda: MemoryWorld({"gpu-01": [STREAM]}, stream=True, stall_s=2.0),
    "comments-while-it-waits": lambda: MemoryWorld(
        {"gpu-01": [STREAM]}, stream=True, keepalive_s=0.0005, occupied_moments=2
    ),
    "compressed-answer-after-comments": lambda: MemoryWorld(
        {"gpu-01": [COMPRESSED]}, stream=True, keepalive_s=0.0005, occupied_moments=2
    ),
}

NODE_ERRORS: dict[str, Callable[[], NodeError]] = {
    "unreachable": lambda: NodeUnreachable("struck"),
    "closed": lambda: NodeClosed("struck"),
    "no-protocol": lambda: NodeProtocolError("struck"),
    "silent": lambda: NodeTimeout("request_timeout"),
    "broken": lambda: ReplyBroken("struck"),
}
BUGS: dict[str, Callable[[], BaseException]] = {
    "os-error": lambda: OSError(9, "struck"),
    "runtime-error": lambda: RuntimeError("struck"),
    "greenlet-exit": lambda: gevent.GreenletExit("struck"),
}
EVENTS: dict[str, Callable[[MemoryWorld], None]] = {
    "client-leaves": lambda world: world.client.leave(),
    "client-resets": lambda world: world.client.leave(with_reset=True),
    "cancelled": MemoryWorld.cancel,
    "server-stops": MemoryWorld.shut_down,
    "greenlet-killed": MemoryWorld.kill,
    "nodes-removed": MemoryWorld.remove_nodes,
    "an-hour-passes": lambda world: world.pass_time(3601),
}


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The failures injected here are logged, hundreds of them, each with its traceback."""
    with caplog.at_level(logging.CRITICAL, logger="scheduler"):
        yield


def raise_it(error: Callable[[], BaseException], name: str) -> None:
    if name != A_MOMENT:  # nobody is called then
        raise error()


def runs(scenario: str, strike: Callable[[MemoryWorld, str], None], *, goes_on: bool = False) -> Iterator[MemoryWorld]:
    """The request once for each n, each time with another call struck, and seen to its end."""
    n = 1
    while True:
        world = SCENARIOS[scenario]()
        world.calls.at, world.calls.goes_on = n, goes_on
        world.calls.strike = partial(strike, world)
        world.run()
        if world.calls.count < n:
            return
        yield world
        n += 1


def check(world: MemoryWorld) -> None:
    """Nothing is left behind, there is exactly one end, and nothing looks whole that is not."""
    calls = world.calls
    struck = f"call {calls.at}, {calls.names[calls.at - 1]!r}, of {calls.names}; {world.ending}"
    assert world.leftovers() == {}, struck
    assert dict(world.recorder.finished) == {world.ID: 1}, struck
    record = world.recorder.records[world.ID]
    assert record.outcome in {outcome.value for outcome in Outcome}, struck
    assert record.status == ("completed" if record.outcome == "completed" else "failed"), struck
    assert (record.error_code is None) == (record.outcome == "completed"), struck
    assert all(attempt.duration_ms is not None for attempt in record.attempts), struck
    received, ending = world.client.received, world.ending
    if ending.error is not None or world.client.has_left or "content-encoding" in ending.headers:
        return
    if ending.is_event_stream:
        told = (b"[DONE]" in received) + (b'"error"' in received)
        assert told == 1, f"{received!r}; {struck}"
    elif ending.status == 200:
        assert received in (JSON.body, Answer().body), f"{received!r}; {struck}"
        assert record.outcome == "completed", struck
    else:
        assert received, struck
    if record.outcome == "completed":
        assert ending.status == 200, struck
        assert not ending.is_event_stream or b"[DONE]" in received, struck


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_left_alone_every_request_has_one_end(scenario: str) -> None:
    world = SCENARIOS[scenario]()
    world.run()
    check(world)
    assert world.ending.error is None
    assert world.calls.count > 5


@pytest.mark.parametrize("kind", [*NODE_ERRORS, *BUGS])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whichever_call_fails_nothing_stays_held(scenario: str, kind: str) -> None:
    error = {**NODE_ERRORS, **BUGS}[kind]
    for world in runs(scenario, lambda world, name: raise_it(error, name)):
        check(world)


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whatever_happens_during_a_call_nothing_stays_held(scenario: str, kind: str) -> None:
    for world in runs(scenario, lambda world, name: EVENTS[kind](world)):
        check(world)
        assert world.errors == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_greenlet_that_is_killed_again_and_again_gives_everything_back(scenario: str) -> None:
    for world in runs(scenario, lambda world, name: world.kill(), goes_on=True):
        check(world)


@pytest.mark.parametrize("first", ["client-leaves", "cancelled", "an-hour-passes"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_after_another_end_changes_nothing(scenario: str, first: str) -> None:
    """A second end may come at any of the calls that the first one causes."""

    def strike(world: MemoryWorld, name: str) -> None:
        if world.calls.count == world.calls.at:
            EVENTS[first](world)
        else:
            world.kill()

    for world in runs(scenario, strike, goes_on=True):
        check(world)
