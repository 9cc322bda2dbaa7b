"""Waiting for nodes that will be back, by readable examples."""

from __future__ import annotations

import pytest

from scheduler.core.node import AdminState, Health
from tests.core.test_dispatcher import Bench


@pytest.mark.parametrize("why", ["draining", "loading", "not probed"])
def test_nodes_that_will_be_back_refuse_nobody_before_his_deadline(why: str) -> None:
    bench = Bench(unavailable_wait_s=30.0)
    bench.node(health=Health.UNKNOWN if why == "not probed" else Health.UP)
    if why == "draining":
        bench.core.set_state("a", AdminState.DRAINING)
        bench.core.set_health("a", Health.DOWN, "connection refused")  # it restarts
    elif why == "loading":
        bench.core.set_health("a", Health.DOWN, "loading")
    ticket = bench.submit(patience=120)
    bench.pass_time(119.0)
    assert ticket.is_waiting
    bench.core.set_health("a", Health.UP)
    bench.core.set_state("a", AdminState.ACTIVE)
    assert not ticket.is_waiting
