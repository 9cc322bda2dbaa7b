"""The laws of the core, read off the passages alone: neither the core nor the straight line is asked."""

from itertools import pairwise

import pytest

from scheduler.capacity.fleet import Fleet
from scheduler.capacity.replay import Passage, Replay
from scheduler.capacity.virtual_clock import VirtualClock
from scheduler.core.dispatcher import Dispatcher
from tests.capacity.random_histories import without_events
from tests.capacity.straight_line import History

SEEDS = range(60)
UNAVAILABLE_WAIT_S = 30.0


def passages_of(history: History) -> list[Passage]:
    clock = VirtualClock()
    dispatcher = Dispatcher(clock, max_queue_size=10_000, unavailable_wait_s=UNAVAILABLE_WAIT_S)
    passages = list(Replay(dispatcher, clock, Fleet(history.nodes), history.arrivals).run())
    return sorted(passages, key=lambda passage: passage.number)


def instants_between(passages: list[Passage]) -> list[float]:
    """The middle between each instant at which something happened and the next."""
    times = {p.ended_at_s for p in passages} | {p.arrival.at_s for p in passages}
    ordered = sorted(times | {p.granted_at_s for p in passages if p.granted_at_s is not None})
    return [(a + b) / 2 for a, b in pairwise(ordered)]


def waits_at(passage: Passage, at_s: float) -> bool:
    until_s = passage.ended_at_s if passage.granted_at_s is None else passage.granted_at_s
    return passage.arrival.at_s < at_s < until_s


def held_at(passages: list[Passage], node_id: str, at_s: float) -> int:
    return sum(
        p.node_id == node_id and p.granted_at_s is not None and p.granted_at_s < at_s < p.ended_at_s for p in passages
    )


@pytest.mark.parametrize("part", range(2))
def test_no_limit_is_passed_and_no_slot_is_free_while_somebody_waits_for_it(part):
    for seed in SEEDS[part::2]:
        history = without_events(seed, 60)
        passages = passages_of(history)
        for at_s in instants_between(passages):
            wanted = {p.arrival.model for p in passages if waits_at(p, at_s)}
            for node in history.nodes:
                held, limit = held_at(passages, node.spec.id, at_s), node.spec.max_concurrent
                assert held <= limit, f"seed {seed} at {at_s:g}: {node}"
                if node.state == "active" and wanted & set(node.spec.models):
                    assert held == limit, f"seed {seed} at {at_s:g}: {node} has room for {wanted}"


def test_nobody_overtakes_who_is_more_urgent_or_came_before():
    overtakings = 0
    for seed in SEEDS:
        history = without_events(seed, 120)
        passages = passages_of(history)
        models_of = {node.spec.id: node.spec.models for node in history.nodes}
        for first in passages:
            if first.granted_at_s is None or first.node_id is None:
                continue
            key = (first.arrival.priority, first.number)
            for other in passages:
                overtakings += other.number > first.number and other.arrival.priority < first.arrival.priority
                fits = other.arrival.model in models_of[first.node_id]
                if fits and (other.arrival.priority, other.number) < key and waits_at(other, first.granted_at_s):
                    pytest.fail(f"seed {seed}: {first} got the slot that was due to {other}")
    assert overtakings > 1000, "a law that nothing tries proves nothing"


def test_a_request_keeps_its_slot_for_its_service_time_and_leaves_the_queue_at_its_deadline():
    for seed in SEEDS:
        history = without_events(seed, 60)
        speeds = {node.spec.id: node.speed for node in history.nodes}
        for p in passages_of(history):
            if p.end == "completed":
                assert p.granted_at_s is not None
                assert p.node_id is not None
                assert p.ended_at_s - p.granted_at_s == p.arrival.service_s / speeds[p.node_id]
            elif p.end == "timed_out":
                assert p.ended_at_s - p.arrival.at_s == p.arrival.queue_timeout_s
            elif p.end == "no_node":  # the only one is disabled
                assert p.ended_at_s - p.arrival.at_s == UNAVAILABLE_WAIT_S
            else:
                assert p.end == "left"
                assert p.ended_at_s - p.arrival.at_s == p.arrival.gives_up_after_s
