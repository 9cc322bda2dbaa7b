"""The replay against the straight line, on thousands of random histories."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from scheduler.capacity.arrivals import Arrival
from scheduler.capacity.fleet import Action, Fleet, FleetEvent, FleetNode
from scheduler.capacity.replay import End, Replay
from scheduler.capacity.virtual_clock import VirtualClock
from scheduler.core.balancer import least_loaded
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import NodeSpec
from scheduler.core.priority import Priority
from scheduler.errors import UnknownNode
from tests.capacity.random_histories import random_history
from tests.capacity.straight_line import Fate, History, StraightLine

MakeDispatcher = Callable[..., Dispatcher]


def replayed(history: History, make_dispatcher: MakeDispatcher = Dispatcher) -> list[Fate]:
    clock = VirtualClock()
    dispatcher = make_dispatcher(
        clock,
        max_queue_size=history.max_queue_size,
        max_queue_per_model=history.max_queue_per_model,
        unavailable_wait_s=history.unavailable_wait,
    )
    replay = Replay(dispatcher, clock, Fleet(history.nodes, history.events), history.arrivals)
    fates = [(p.number, p.end.value, p.ended_at_s, p.granted_at_s, p.node_id) for p in replay.run()]
    assert (dispatcher.in_flight_count, dispatcher.waiting_count) == (0, 0)
    assert all(use.held == 0 for use in replay.uses.values())
    return fates


def check(history: History, make_dispatcher: MakeDispatcher = Dispatcher) -> Counter[str]:
    """Raises AssertionError where replay and straight line differ; how often each end came."""
    fates = replayed(history, make_dispatcher)
    expected = StraightLine(history, {fate[0]: fate[4] for fate in fates if fate[4] is not None}).run()
    # Those that end at one instant are in no order.
    by_number = {fate[0]: fate for fate in expected}
    assert len(fates) == len(expected) == len(history.arrivals)
    for fate in fates:
        assert fate == by_number[fate[0]]
    assert [fate[2] for fate in fates] == sorted(fate[2] for fate in fates), "not in the order of time"
    return Counter(fate[1] for fate in fates)


def check_seed(seed: int, make_dispatcher: MakeDispatcher = Dispatcher) -> Counter[str]:
    """The same, and a failure tells the shortest beginning of the history that fails too."""
    history = random_history(seed)
    try:
        return check(history, make_dispatcher)
    except AssertionError:
        for size in range(1, len(history.arrivals) + 1):
            beginning = replace(history, arrivals=history.arrivals[:size])
            try:
                check(beginning, make_dispatcher)
            except AssertionError as error:
                error.add_note(f"seed {seed}, the first {size} arrivals: {beginning}")
                raise
        raise


@pytest.mark.parametrize("part", range(5))
def test_replay_and_straight_line_agree_on_every_grant_and_end(part):
    ends = Counter[str]()
    for seed in range(part * 440, (part + 1) * 440):
        ends += check_seed(seed)
    assert all(ends[end.value] >= 100 for end in End), f"too little happened: {ends}"


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_replay_and_straight_line_agree_in_very_many_histories(part):
    for seed in range(10_000 + part * 4_000, 10_000 + (part + 1) * 4_000):
        check_seed(seed)


class FirstOfAll(Dispatcher):
    """Forgets the load: the first node that has room takes it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options, balance=lambda nodes: nodes[0])


class Forgetful(Dispatcher):
    """Matches nobody when a limit is raised, a node is activated or comes up."""

    def _match(self, nodes):
        return super()._match(nodes) if len(nodes) == 1 and nodes[0].slots.held else False


class LastComeFirst(Dispatcher):
    """Counts arrivals backwards."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._sequence = iter(range(10**6, 0, -1))


class OneTooMany(Dispatcher):
    """Grants one slot more than the limit."""

    def put_node(self, spec, state):
        super().put_node(replace(spec, max_concurrent=spec.max_concurrent + 1), state)


class Deaf(Dispatcher):
    """Keeps who has left in the queue, until the deadline."""

    def abandon(self, ticket):
        if not ticket.is_waiting:
            super().abandon(ticket)


@pytest.mark.parametrize("faulty", [FirstOfAll, Forgetful, LastComeFirst, OneTooMany, Deaf])
def test_a_faulty_dispatcher_is_caught(faulty):
    def check_many() -> None:
        for seed in range(1, 200):
            check_seed(seed, faulty)

    with pytest.raises(AssertionError) as failure:
        check_many()
    assert "the first" in failure.value.__notes__[-1]


# -- what the histories cannot show -----------------------------------------------------------


def node(node_id: str = "gpu-01", limit: int = 1, speed: float = 1.0) -> FleetNode:
    return FleetNode(NodeSpec(node_id, f"http://{node_id}", ("llama",), limit), speed=speed)


def arrival(at_s: float, service_s: float = 10.0, gives_up_after_s: float | None = None) -> Arrival:
    return Arrival(at_s, "llama", Priority.NORMAL, service_s, 120.0, gives_up_after_s)


def replay_of(fleet: Fleet, *arrivals: Arrival) -> Replay:
    clock = VirtualClock()
    return Replay(Dispatcher(clock), clock, fleet, arrivals)


def test_a_request_takes_half_as_long_on_a_node_of_speed_two():
    (passage,) = replay_of(Fleet((node(speed=2.0),)), arrival(5.0)).run()
    assert (passage.end, passage.granted_at_s, passage.ended_at_s) == (End.COMPLETED, 5.0, 10.0)


def test_a_client_that_leaves_a_running_request_frees_its_slot():
    passages = list(replay_of(Fleet((node(),)), arrival(0.0, gives_up_after_s=4.0), arrival(1.0)).run())
    assert [(p.number, p.end, p.granted_at_s, p.ended_at_s) for p in passages] == [
        (0, End.LEFT, 0.0, 4.0),
        (1, End.COMPLETED, 4.0, 14.0),
    ]


def test_slot_use_counts_until_the_last_arrival():
    replay = replay_of(Fleet((node(limit=2),)), arrival(0.0, 10.0), arrival(20.0, 1000.0))
    list(replay.run())
    use = replay.uses["gpu-01"]
    assert (use.share, use.peak, use.granted) == (10.0 / 40.0, 1, 2)
    assert repr(use) == "<SlotUse gpu-01 0/2 25%>"


def test_a_node_that_comes_later_has_no_slots_before():
    events = (FleetEvent(10.0, Action.ADD, "gpu-02", node=node("gpu-02")),)
    replay = replay_of(Fleet((node(),), events), arrival(0.0, 20.0), arrival(1.0, 5.0), arrival(20.0))
    passages = list(replay.run())
    assert [(p.number, p.node_id, p.granted_at_s) for p in passages[:2]] == [(1, "gpu-02", 10.0), (0, "gpu-01", 0.0)]
    assert replay.uses["gpu-02"].share == 0.5
    assert (replay.max_waiting, replay.max_waiting_by_model) == (1, {"llama": 1})


def test_a_node_that_comes_back_gets_one_request_until_it_has_answered():
    events = (FleetEvent(1.0, Action.DOWN, "gpu-01"), FleetEvent(2.0, Action.UP, "gpu-01"))
    clock = VirtualClock()
    dispatcher = Dispatcher(clock, slow_start_s=0.0)
    arrivals = [arrival(1.0 + i / 10) for i in range(3)]
    passages = list(Replay(dispatcher, clock, Fleet((node(limit=3),), events), arrivals).run())
    assert [p.granted_at_s for p in passages] == [2.0, 12.0, 12.0]


def test_an_event_of_a_node_that_is_not_there_is_an_error():
    with pytest.raises(UnknownNode, match="gpu-09"):
        list(replay_of(Fleet((node(),), (FleetEvent(1.0, Action.DRAIN, "gpu-09"),)), arrival(0.0)).run())


def test_arrivals_out_of_order_are_an_error():
    with pytest.raises(ValueError, match="it is 5 s already; what is to happen at 4 s comes too late"):
        list(replay_of(Fleet((node(limit=2),)), arrival(5.0), arrival(4.0)).run())


def test_the_order_among_equal_nodes_is_that_of_the_balancer():
    random = Random(4)
    arrivals = [arrival(float(i), random.choice((0.5, 3.0))) for i in range(50)]
    fleet = Fleet((node("a", 5), node("b", 5)))
    clock = VirtualClock()
    replay = Replay(Dispatcher(clock, balance=least_loaded), clock, fleet, arrivals)
    assert {p.node_id for p in replay.run()} == {"a", "b"}
    assert abs(replay.uses["a"].granted - replay.uses["b"].granted) <= 2
