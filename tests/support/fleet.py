"""Fleet: one server and the simulated nodes behind it, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests

from tests.support.server import RunningServer, eventually
from tests.support.sim_node import SimNode


class Fleet:
    """A context manager. `settle` makes it fit for the next test; it fails where the last one left something behind."""

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.server = RunningServer(folder, settings)
        self.nodes: dict[str, SimNode] = {}
        self._registrations: dict[str, Callable[[], None]] = {}
        self._stack = ExitStack()
        self._callers = ThreadPoolExecutor(64, "caller")

    def __enter__(self) -> Fleet:
        self._stack.enter_context(self._callers)
        # Killed, not stopped: the time a clean end takes belongs to the tests that look at it.
        self._stack.callback(self.server.http.close)
        self._stack.callback(self.server.kill)
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Whoever still waits at a gate would keep the server from stopping.
        for node in self.nodes.values():
            if node.is_running:
                node.open_gate()
        self._stack.close()

    def __getitem__(self, node_id: str) -> SimNode:
        return self.nodes[node_id]

    def add(
        self,
        node_id: str,
        models: Sequence[str] = ("sim",),
        slots: int = 4,
        *,
        sim: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> SimNode:
        """Start a node with so many slots and register it; `sim` are further options of the node itself."""
        options = {"models": list(models), "slots": slots, **(sim or {})}
        node = self.nodes[node_id] = self._stack.enter_context(SimNode(**options))
        self._registrations[node_id] = partial(self.server.register, node_id, node.address, models, slots, **fields)
        self._registrations[node_id]()
        return node

    def settle(self) -> None:
        """No faults, gates open, nothing held, counters at 0, every node up."""
        for node in self.nodes.values():
            node.reset()
        self.server.wait_until_idle()
        health = {node["id"]: node["health"] for node in self.server.get("/nodes")["nodes"]}
        for node_id, node in self.nodes.items():
            if node.wait(running=0)["peak"]:
                node.reset()  # it was still at work
            if health[node_id] != "up":
                self.renew(node_id)

    def renew(self, node_id: str) -> None:
        """Register the node anew, so that nothing is remembered against it: it is probed at once, has all its models,
        and need not recover."""
        assert self.server.admin("DELETE", f"/nodes/{node_id}").status_code == 204
        self._registrations[node_id]()

    def later(self, call: Callable[[], requests.Response]) -> Future[requests.Response]:
        """Make a call in a thread of its own."""
        return self._callers.submit(call)

    @contextmanager
    def occupied(
        self, node_id: str, model: str = "sim", key: str | None = None, count: int = 1
    ) -> Iterator[list[Future[requests.Response]]]:
        """So many requests run on the node, which answers none, until the block ends; then all of them are answered."""
        node = self[node_id]
        arrived = node.stats()["arrived"]
        node.close_gate()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        runners = [self.later(lambda: self.server.post({"model": model}, headers=headers)) for _ in range(count)]
        try:
            node.wait(arrived=arrived + count)
            yield runners
        finally:
            node.open_gate()
            for runner in runners:
                assert runner.result().status_code == 200, runner.result().text

    @contextmanager
    def waiting(self, body: Mapping[str, Any], **options: Any) -> Iterator[Future[requests.Response]]:
        """One request that waits in the queue; it must have been answered when the block ends, or soon after."""
        before = self.server.get("/queue?limit=0")["waiting_total"]
        waiter = self.later(lambda: self.server.post(dict(body), **options))
        eventually(lambda: self.server.get("/queue?limit=0")["waiting_total"] == before + 1, "one more waiting")
        yield waiter

    def records(self, request_id: str) -> list[dict[str, Any]]:
        """The records with this id, ours or the caller's, newest first."""
        found: list[dict[str, Any]] = self.server.get(f"/requests?q={request_id}")["requests"]
        return found
