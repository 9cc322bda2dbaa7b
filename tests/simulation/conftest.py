"""One simulated node for all tests of this folder, as new before each of them."""

from collections.abc import Callable, Iterator

import pytest

from tests.simulation.wire import Wire
from tests.support.sim_node import SimNode


@pytest.fixture(scope="package")
def shared_node() -> Iterator[SimNode]:
    with SimNode(models=["sim", "other"], slots=2, tokens=3) as node:
        yield node


@pytest.fixture
def node(shared_node: SimNode) -> Iterator[SimNode]:
    """Afterwards no request may still run and no connection may be open."""
    shared_node.reset()
    yield shared_node
    shared_node.reset()
    shared_node.wait(running=0, connections_open=0)


@pytest.fixture
def connect(node: SimNode) -> Iterator[Callable[[], Wire]]:
    """Connections to the node, closed after the test."""
    wires = []

    def connected() -> Wire:
        wires.append(Wire(node.port))
        return wires[-1]

    yield connected
    for wire in wires:
        wire.leave()


@pytest.fixture
def wire(connect: Callable[[], Wire]) -> Wire:
    return connect()
