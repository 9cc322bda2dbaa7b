"""A reload by readable examples: what one process leaves to the other."""

from __future__ import annotations

import pytest

from scheduler.core.node import Health
from scheduler.errors import NoOtherNode, ShuttingDown
from tests.core.test_dispatcher import Bench, lease_of


def test_slots_used_by_another_process_are_left_free_and_used_as_they_fall_free() -> None:
    bench = Bench()
    bench.node(limit=3)
    bench.core.set_elsewhere({"http://a": 2})
    tickets = [bench.submit() for _ in range(3)]
    assert [ticket.is_waiting for ticket in tickets] == [False, True, True]
    bench.core.set_elsewhere({"http://a": 1})
    assert [ticket.is_waiting for ticket in tickets] == [False, False, True]
    bench.core.set_elsewhere({})
    assert not any(ticket.is_waiting for ticket in tickets)


def test_slots_used_by_another_process_hold_for_nodes_that_register_later() -> None:
    bench = Bench()
    bench.core.set_elsewhere({"http://a": 1})
    bench.node(limit=1)
    assert bench.submit().is_waiting


def test_the_load_that_another_process_puts_on_a_node_counts_for_the_balancer() -> None:
    bench = Bench()
    bench.node("a", limit=8)
    bench.node("b", limit=8)
    bench.core.set_elsewhere({"http://a": 4})
    assert [lease_of(bench.submit()).node.id for _ in range(4)] == ["b", "b", "b", "b"]


def test_after_a_pledge_a_node_holds_no_more_than_it_held_or_one() -> None:
    bench = Bench()
    bench.node("a", limit=4)
    bench.node("b", limit=4, models=("qwen",))
    first, second = bench.held(), bench.held()
    bench.core.pledge()
    assert bench.core.shares(keep_one=True) == {"http://a": 2, "http://b": 1}
    waiting = bench.submit()
    assert waiting.is_waiting
    first.release()
    assert not waiting.is_waiting
    second.release()
    assert bench.core.shares(keep_one=True) == {"http://a": 1, "http://b": 1}
    assert bench.submit().is_waiting


def test_a_share_given_away_is_never_used_again() -> None:
    bench = Bench()
    bench.node(limit=4)
    bench.core.pledge()
    assert bench.core.shares(keep_one=False) == {"http://a": 0}
    assert bench.core.shares(keep_one=True) == {"http://a": 0}
    with pytest.raises(ShuttingDown):
        bench.submit()


def test_a_slot_is_kept_where_somebody_waits_for_it_and_nowhere_else() -> None:
    bench = Bench()
    bench.node("a", models=("llama",))
    bench.node("b", models=("qwen",), health=Health.DOWN)
    bench.core.pledge()
    assert bench.submit(model="qwen").is_waiting
    assert bench.core.shares(keep_one=False) == {"http://a": 0, "http://b": 1}


@pytest.mark.parametrize("needs_company", [False, True])
def test_a_ticket_taken_back_does_not_wait_for_nodes_that_were_given_away(needs_company: bool) -> None:
    bench = Bench()
    for node_id in ("a", "b", "c"):
        bench.node(node_id)
    ticket = bench.submit()
    bench.core.pledge()
    bench.core.shares(keep_one=False)
    lease = lease_of(ticket)
    lease.release()
    with pytest.raises(NoOtherNode):
        bench.core.resubmit(ticket, lease.node.id, needs_company)


def test_a_removed_nodes_leases_are_told_until_they_end() -> None:
    bench = Bench()
    bench.node(limit=2)
    lease = bench.held()
    bench.core.pledge()
    bench.core.remove_node("a")
    assert bench.core.shares(keep_one=True) == {"http://a": 1}
    lease.release()
    assert bench.core.shares(keep_one=True) == {}


def test_a_node_that_comes_or_moves_after_a_pledge_is_left_to_the_successor() -> None:
    bench = Bench()
    bench.node("a", limit=2)
    lease = bench.held()
    bench.core.pledge()
    bench.node("a", limit=2, address="http://moved")
    bench.node("b", limit=2)
    with pytest.raises(ShuttingDown):
        bench.submit()
    assert bench.core.shares(keep_one=True) == {"http://moved": 0, "http://b": 0, "http://a": 1}
    lease.release()


def test_without_a_pledge_shares_bind_nobody() -> None:
    bench = Bench()
    bench.node(limit=2)
    assert bench.core.shares(keep_one=False) == {"http://a": 0}
    assert not bench.submit().is_waiting
