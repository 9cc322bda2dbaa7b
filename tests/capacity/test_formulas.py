"""The simulation against what queueing theory has known for a hundred years."""

import math

import pytest

from scheduler.capacity.arrivals import Load, ServiceTime, Shape, random_arrivals
from scheduler.capacity.fleet import Fleet, FleetNode
from scheduler.capacity.replay import Replay
from scheduler.capacity.report import Report, report_on
from scheduler.capacity.virtual_clock import VirtualClock
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import NodeSpec
from scheduler.core.priority import Priority

REQUESTS = 12_000


def simulated(slots: list[int], rate_per_s: float, shape: Shape, shares: dict[Priority, float]) -> Report:
    clock = VirtualClock()
    fleet = Fleet(tuple(FleetNode(NodeSpec(f"n{i}", f"sim://n{i}", ("m",), n)) for i, n in enumerate(slots)))
    load = Load("m", rate_per_s, ServiceTime(1.0, shape), shares, queue_timeout_s=1e9)
    arrivals = random_arrivals([load], REQUESTS / rate_per_s, seed=3)
    return report_on(Replay(Dispatcher(clock, max_queue_size=10**6), clock, fleet, arrivals))


def erlang_c(slots: int, offered: float) -> float:
    """The part of all requests that has to wait (A. K. Erlang, 1917)."""
    waiting = offered**slots / math.factorial(slots) * slots / (slots - offered)
    return waiting / (sum(offered**n / math.factorial(n) for n in range(slots)) + waiting)


@pytest.mark.parametrize("slots", [[6], [2, 4]])
def test_the_mean_wait_is_that_of_erlang(slots):
    """However the slots are spread over nodes: they serve one queue."""
    report = simulated(slots, 4.8, Shape.EXPONENTIAL, {Priority.NORMAL: 1})
    expected_s = erlang_c(6, 4.8) / (6 - 4.8)
    assert report.total.waits.mean_s == pytest.approx(expected_s, rel=0.15)
    assert sum(node.use * n for node, n in zip(report.nodes, slots, strict=True)) == pytest.approx(4.8, rel=0.03)


def test_constant_service_times_halve_the_wait():
    """Pollaczek and Khinchine: with one slot, the mean wait is rho / (1 - rho) / 2 where service times are constant."""
    report = simulated([1], 0.7, Shape.CONSTANT, {Priority.NORMAL: 1})
    assert report.total.waits.mean_s == pytest.approx(0.7 / 0.3 / 2, rel=0.15)


def test_priorities_wait_as_cobham_says():
    """A. Cobham, 1954: with one slot and exponential times, W0 / (1 - load above) / (1 - load above and own)."""
    report = simulated([1], 0.7, Shape.EXPONENTIAL, {Priority.CRITICAL: 3, Priority.NORMAL: 4})
    critical, normal, *_ = (line.waits.mean_s for line in report.lines)
    assert critical == pytest.approx(0.7 / (1 - 0.3), rel=0.15)
    assert normal == pytest.approx(0.7 / (1 - 0.3) / (1 - 0.7), rel=0.15)
