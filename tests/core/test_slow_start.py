"""Half-open nodes and slow start, by readable examples."""

from __future__ import annotations

import pytest

from scheduler.core.node import Health
from scheduler.core.slow_start import MIN_STEP_S
from tests.core.test_dispatcher import Bench, lease_of


def recovered(limit: int = 4, slow_start_s: float | None = 15.0) -> Bench:
    """A bench whose node was up, went down and is back."""
    bench = Bench(slow_start_s=slow_start_s)
    bench.node(limit=limit)
    bench.core.set_health("a", Health.DOWN)
    bench.core.set_health("a", Health.UP)
    return bench


def test_a_recovered_node_gets_one_request_until_it_has_answered_one() -> None:
    bench = recovered()
    first, second = bench.submit(), bench.submit()
    assert second.is_waiting
    assert bench.core.is_half_open("a")
    bench.pass_time(60)
    assert second.is_waiting
    lease_of(first).release()  # it ended without an answer: its slot is used, and no other
    third = bench.submit()
    assert not second.is_waiting
    assert third.is_waiting


def test_after_the_first_answer_it_gets_ever_more_up_to_its_limit() -> None:
    bench = recovered(limit=4, slow_start_s=15.0)
    tickets = [bench.submit() for _ in range(5)]
    bench.core.note_answered("a")
    running = []
    for _ in range(4):
        running.append(sum(not ticket.is_waiting for ticket in tickets))
        bench.pass_time(5.0)
    assert running == [1, 2, 3, 4]
    assert bench.core.node("a").ceiling is None
    assert len(bench.core.timetable) == 1  # nothing but the deadline of the one that waits


def test_slow_start_of_zero_ends_with_the_first_answer() -> None:
    bench = recovered(limit=2, slow_start_s=0.0)
    first, second = bench.submit(), bench.submit()
    bench.core.note_answered("a")
    assert not first.is_waiting
    assert not second.is_waiting


def test_without_slow_start_a_recovered_node_gets_its_limit_at_once() -> None:
    bench = recovered(limit=2, slow_start_s=None)
    assert not any(bench.submit().is_waiting for _ in range(2))


def test_a_new_node_and_one_at_a_new_address_start_with_their_whole_limit() -> None:
    bench = Bench(slow_start_s=15.0)
    bench.node(limit=2, health=Health.DOWN)
    bench.core.set_health("a", Health.UP)
    assert bench.core.node("a").ceiling is None
    for health in (Health.UNKNOWN, Health.DOWN, Health.UP):  # as when it moves
        bench.core.set_health("a", health)
    assert bench.core.node("a").ceiling is None


def test_a_node_that_goes_down_again_starts_again() -> None:
    bench = recovered(limit=3, slow_start_s=10.0)
    bench.core.note_answered("a")
    bench.pass_time(5.0)
    assert bench.core.node("a").ceiling == 2
    bench.core.set_health("a", Health.DOWN)
    assert bench.core.node("a").ceiling is None
    bench.core.set_health("a", Health.UP)
    assert bench.core.is_half_open("a")


def test_a_limit_raised_meanwhile_is_what_it_grows_to() -> None:
    bench = recovered(limit=1, slow_start_s=10.0)
    bench.core.note_answered("a")
    bench.pass_time(5.0)
    bench.node(limit=11, health=Health.UNKNOWN)
    assert bench.core.node("a").ceiling == 6


def test_a_large_limit_grows_in_steps_that_cost_little() -> None:
    bench = recovered(limit=1000, slow_start_s=10.0)
    bench.core.note_answered("a")
    steps = 0
    while (due := bench.core.timetable.next_due) is not None:
        assert due >= bench.now + MIN_STEP_S * 0.99 or due == pytest.approx(10.0)
        bench.pass_time(due - bench.now)
        steps += 1
    assert steps <= 101


def test_whoever_waits_is_told_of_the_recovery() -> None:
    bench = recovered(limit=4)
    bench.submit(), bench.submit()
    assert bench.core.queue().waiting[0].reason == "node a at limit, a recovering: 1 of 4 slots"
