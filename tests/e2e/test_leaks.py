"""After many requests that fail alike the worker has no more descriptors, threads and memory than before."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.raw_client import RawClient
from tests.support.server import RunningServer, eventually

COUNT = int(os.environ.get("LEAK_REQUESTS", 100))  # a phase
CALLERS = 24
SLOTS = 16
#: What may stay for a while: a kept connection a slot, and the caller's own that the server has not closed yet.
KEPT = SLOTS + 2
#: What they may leave in the memory of a worker: buffers that grow once, records not yet written.
GROWTH_KB = 20_000

SETTINGS = {
    "server": {"read_timeout": "1s", "write_timeout": "1s"},
    "scheduler": {
        "eject_after": 1000,
        "health_check_fall": 1000,
        "health_check_interval": "60s",
        "request_timeout": "1s",
        "idle_timeout": "1s",
        "max_queue_size": 200,
    },
}

CALL: dict[str, Any] = {"model": "sim", "messages": []}
STREAM = {**CALL, "stream": True}
LONG_STREAM = {**STREAM, "max_tokens": 1000, "sim_gap_ms": 5}


class Worker:
    """What the kernel knows of the server's worker."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def descriptors(self) -> Counter[str]:
        """How many of each kind are open."""
        kinds: Counter[str] = Counter()
        for descriptor in (self._folder / "fd").iterdir():
            try:
                kinds[os.readlink(descriptor).partition(":")[0]] += 1
            except FileNotFoundError:
                continue  # closed meanwhile
        return kinds

    def figure(self, name: str) -> int:
        """A number of /proc/PID/status."""
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet(SETTINGS)
    fleet.add("gpu-01", slots=SLOTS)
    with ThreadPoolExecutor(CALLERS) as pool:  # what is made once is made now
        list(pool.map(lambda _: fleet.server.post(CALL), range(COUNT)))
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    module_fleet.settle()
    assert module_fleet.server.post(CALL).status_code == 200  # and what the node has missed is forgotten


@pytest.fixture
def server(fleet: Fleet) -> RunningServer:
    return fleet.server


@pytest.fixture(scope="module")
def worker(module_fleet: Fleet) -> Worker:
    return Worker(module_fleet.server.worker_pids()[0])


@pytest.fixture(scope="module")
def fresh(module_fleet: Fleet, worker: Worker) -> int:
    """How many descriptors the worker has when no connection is open but the one that asks."""
    module_fleet["gpu-01"].refuse(reset_connections=True)
    module_fleet["gpu-01"].accept()
    seen: list[int] = []

    def is_at_rest() -> bool:
        module_fleet.server.status()
        seen.append(worker.descriptors().total())
        return len(seen) > 30 and len(set(seen[-30:])) == 1

    eventually(is_at_rest, "the same descriptors for a while")
    return seen[-1]


def ask(body: dict[str, Any], **headers: str) -> Callable[[RunningServer], None]:
    """A caller who takes what comes, be it half an answer."""

    def asks(server: RunningServer) -> None:
        with RawClient(server) as client:
            client.post(body, headers={"Connection": "close", **headers})
            client.read_to_end()

    return asks


def leave(body: dict[str, Any], how: str, *, wait_for: bytes = b"", only_bytes: int | None = None) -> Any:
    """A caller who leaves: at once, or when the answer has come so far."""

    def leaves(server: RunningServer) -> None:
        with RawClient(server) as client:
            client.post(body, only_bytes=only_bytes)
            if wait_for:
                client.read_head().read_until(wait_for)
            client.leave(how)

    return leaves


def cancelled(server: RunningServer) -> None:
    """A caller whose stream an administrator ends."""
    with RawClient(server) as client, requests.Session() as session:
        client.post(LONG_STREAM, headers={"Connection": "close"}).read_head()
        session.trust_env = False
        our_id = client.headers["x-scheduler-request-id"]
        assert session.delete(f"{server.url}/admin/requests/{our_id}", json={}).status_code == 202
        client.read_to_end()


PHASES: dict[str, tuple[dict[str, Any] | None, Callable[[RunningServer], None]]] = {
    "answered": (None, ask(CALL)),
    "streamed": (None, ask(STREAM)),
    "refused-by-the-engine": ({"kind": "status", "status": 500}, ask(CALL)),
    "refused-connection": ({"kind": "refuse"}, ask(CALL)),
    "reset-while-it-is-written": ({"kind": "reset", "phase": "head"}, ask(CALL)),
    "closed-before-the-answer": ({"kind": "close", "phase": "headers"}, ask(CALL)),
    "closed-before-the-first-byte": ({"kind": "close", "phase": "body"}, ask(STREAM)),
    "broken-stream": ({"kind": "reset", "phase": "stream", "after_chunks": 2}, ask(STREAM)),
    "broken-answer": ({"kind": "short_body"}, ask(CALL)),
    "no-http": ({"kind": "garbage"}, ask(CALL)),
    "silent-node": ({"kind": "hang", "phase": "headers"}, ask(CALL)),
    "stream-that-falls-silent": ({"kind": "hang", "phase": "stream", "after_chunks": 2}, ask(STREAM)),
    "busy-node": (
        {"kind": "status", "status": 503, "headers": {"retry-after": "0.1"}},
        ask(CALL, **{"X-Queue-Timeout": "0.1"}),
    ),
    "no-time-to-wait": ({"kind": "hang", "phase": "headers"}, ask(CALL, **{"X-Queue-Timeout": "0.05"})),
    "unknown-model": (None, ask({**CALL, "model": "nobody"})),
    "cancelled-stream": (None, cancelled),
    "client-leaves-at-once": ({"kind": "hang", "phase": "headers"}, leave(CALL, "close")),
    "client-resets-at-once": ({"kind": "hang", "phase": "headers"}, leave(CALL, "reset")),
    "client-leaves-a-stream": (None, leave(LONG_STREAM, "close", wait_for=b"t3 ")),
    "client-resets-a-stream": (None, leave(LONG_STREAM, "reset", wait_for=b"t3 ")),
    "client-leaves-in-its-body": (None, leave(CALL, "close", only_bytes=5)),
    "client-leaves-a-large-answer": (None, leave({**CALL, "sim_bytes": 1_000_000}, "reset", wait_for=b"id")),
}

SLOW = ("silent-node", "stream-that-falls-silent")  # each request takes as long as its clock


@pytest.mark.parametrize("phase", PHASES)
def test_many_requests_leave_nothing_open(
    fleet: Fleet, server: RunningServer, worker: Worker, fresh: int, phase: str
) -> None:
    fault, caller = PHASES[phase]
    node = fleet["gpu-01"]
    if fault is not None:
        node.fault(**fault)
    memory_kb, threads = worker.figure("VmRSS"), worker.figure("Threads")

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda _: caller(server), range(COUNT // 2 if phase in SLOW else COUNT)))
    node.clear_faults()
    server.wait_until_idle()

    def is_back() -> bool:
        return worker.descriptors().total() <= fresh + KEPT

    eventually(is_back, f"{fresh} descriptors and few more than that, instead of {worker.descriptors()}")
    assert worker.figure("Threads") <= threads + 2
    assert worker.figure("VmRSS") < memory_kb + GROWTH_KB
    for status in ("pending", "processing"):
        unfinished = f"/requests?status={status}&limit=1"
        eventually(lambda unfinished=unfinished: server.get(unfinished)["total"] == 0, "the end of every record")


def test_when_all_is_over_the_worker_is_as_it_was(
    fleet: Fleet, server: RunningServer, worker: Worker, fresh: int
) -> None:
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda _: server.post(CALL), range(COUNT)))
    server.wait_until_idle()
    fleet["gpu-01"].wait(connections_open=0, timeout_s=20)  # kept ones are closed when nobody needs them
    eventually(lambda: worker.descriptors().total() <= fresh, f"{fresh} descriptors, not {worker.descriptors()}")
