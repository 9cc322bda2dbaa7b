"""Requests that nodes die of, by readable examples."""

from __future__ import annotations

import pytest

from scheduler.core.node import AdminState, Health
from scheduler.errors import NoOtherNode
from tests.core.test_dispatcher import Bench, error_of, lease_of


def test_a_request_that_killed_a_node_goes_where_another_node_is_left() -> None:
    bench = Bench()
    for node_id in ("a", "b", "c"):
        bench.node(node_id)
    ticket = bench.submit()
    lease_of(ticket).release()
    bench.core.resubmit(ticket, exclude="a", needs_company=True)
    assert lease_of(ticket).node.id in ("b", "c")


@pytest.mark.parametrize("other", ["down", "draining", "missing", "withdrawn"])
def test_a_request_that_killed_a_node_never_goes_to_the_last_one(other: str) -> None:
    bench = Bench()
    bench.node("a")
    ticket = bench.submit()
    bench.node("b")
    if other != "missing":
        bench.node("c", health=Health.DOWN if other == "down" else Health.UP)
    if other == "draining":
        bench.core.set_state("c", AdminState.DRAINING)
    if other == "withdrawn":
        bench.core.withdraw("c", "llama")
    lease_of(ticket).release()
    with pytest.raises(NoOtherNode):
        bench.core.resubmit(ticket, exclude="a", needs_company=True)


def test_a_request_that_killed_a_node_ends_when_company_goes_while_it_waits() -> None:
    bench = Bench()
    bench.node("a")
    ticket = bench.submit()
    bench.node("b")
    bench.node("c")
    busy = bench.held(), bench.held()
    lease_of(ticket).release()
    bench.core.resubmit(ticket, exclude="a", needs_company=True)
    assert ticket.is_waiting
    bench.core.set_health("c", Health.DOWN)
    assert error_of(ticket) is NoOtherNode
    for lease in busy:
        lease.release()
