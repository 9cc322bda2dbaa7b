"""A host that vanishes: its packets are dropped, and nobody sends an end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.e2e.conftest import StartNode, StartServer
from tests.support.remote_host import NotPossibleHere, RemoteHost
from tests.support.server import RunningServer

MODELS = ("here-too", "only-there")
SETTINGS = {"scheduler": {"health_check_interval": "5s", "health_check_timeout": "5s"}}


@pytest.fixture
def host() -> Iterator[RemoteHost]:
    """A host whose node thinks for a minute before it answers."""
    try:
        with RemoteHost(MODELS, ttft_ms=60_000) as host:
            yield host
    except NotPossibleHere as why:
        pytest.skip(f"needs network namespaces: {why}")


def test_a_vanished_host_is_down_within_20_s_and_its_silent_calls_end_or_move_within_30(
    start_server: StartServer, start_node: StartNode, host: RemoteHost
) -> None:
    server: RunningServer = start_server(SETTINGS)
    server.register("far", host.address, models=["here-too", "only-there"])
    with ThreadPoolExecutor(2) as callers:
        calls = {model: callers.submit(server.post, {"model": model, "messages": []}, timeout=60) for model in MODELS}
        server.wait_for_node("far", in_flight=2)
        for node_id in ("near-1", "near-2"):
            server.register(node_id, start_node(models="here-too").address, models=["here-too"])
        host.vanish()
        began = time.monotonic()
        server.wait_for_node("far", health="down")
        assert time.monotonic() - began < 20
        moved: requests.Response = calls["here-too"].result()
        ended: requests.Response = calls["only-there"].result()
        assert time.monotonic() - began < 30
    assert (moved.status_code, moved.headers["X-Scheduler-Attempts"]) == (200, "2")
    assert (ended.status_code, ended.json()["error"]["code"]) == (502, "upstream_closed")
