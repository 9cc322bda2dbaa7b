"""A real server in front of real nodes, and the check that nothing stays behind."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet
from tests.support.server import RunningServer
from tests.support.sim_node import SimNode

StartServer = Callable[..., RunningServer]
StartNode = Callable[..., SimNode]
StartFleet = Callable[..., Fleet]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers with given settings; after the test nothing may wait or hold a slot in any that still runs."""
    with ExitStack() as stack:
        servers: list[RunningServer] = []

        def start(settings: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> RunningServer:
            folder = tmp_path / f"server-{len(servers)}"
            folder.mkdir()
            server = RunningServer(folder, settings, environ)
            servers.append(server)
            return stack.enter_context(server)

        yield start
        for server in servers:
            if server.process is not None and server.process.poll() is None:
                server.wait_until_idle()


@pytest.fixture
def start_node() -> Iterator[StartNode]:
    """Starts simulated nodes, which end with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(SimNode(**options))


@pytest.fixture
def server(start_server: StartServer) -> RunningServer:
    """A server with the defaults."""
    return start_server()


@pytest.fixture
def node(server: RunningServer, start_node: StartNode) -> SimNode:
    """A simulated node with four slots, registered as gpu-01 and up."""
    node = start_node(slots=4)
    server.register("gpu-01", node.address, max_concurrent=4)
    return node


@pytest.fixture(scope="module")
def start_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFleet]:
    """Starts a server with given settings that all tests of a module share; each test leaves it by `Fleet.settle`."""
    with ExitStack() as stack:
        yield lambda settings=None: stack.enter_context(Fleet(tmp_path_factory.mktemp("fleet"), settings))
