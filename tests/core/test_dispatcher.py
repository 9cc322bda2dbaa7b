"""Readable examples of each law; test_laws.py has the random histories."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.lease import Lease
from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket, TicketState
from scheduler.errors import (
    AdmissionError,
    Cancelled,
    NoHealthyNode,
    NoOtherNode,
    QueueFull,
    QueueTimeout,
    ShuttingDown,
    UnknownModel,
    UnknownNode,
    UnknownRequest,
)


class Bench:
    """A dispatcher with a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.core = Dispatcher(lambda: self.now, **settings)
        self.count = 0

    def node(
        self,
        node_id: str = "a",
        limit: int = 1,
        models: tuple[str, ...] = ("llama",),
        *,
        health: Health = Health.UP,
        state: AdminState = AdminState.ACTIVE,
        address: str = "",
    ) -> None:
        self.core.put_node(NodeSpec(node_id, address or f"http://{node_id}", models, limit), state)
        if health is not Health.UNKNOWN:
            self.core.set_health(node_id, health)

    def submit(self, priority: Priority = Priority.NORMAL, model: str = "llama", patience: float = 120) -> Ticket:
        self.count += 1
        ticket = Ticket(f"t{self.count}", model, priority, self.now + patience)
        self.core.submit(ticket)
        return ticket

    def held(self, model: str = "llama") -> Lease:
        return lease_of(self.submit(model=model))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick()


def lease_of(ticket: Ticket) -> Lease:
    assert ticket.lease is not None
    return ticket.lease


def error_of(ticket: Ticket) -> type[AdmissionError]:
    assert ticket.state is TicketState.ENDED
    assert ticket.error is not None
    return type(ticket.error)


# -- law 1: strict ----------------------------------------------------------------------------


def test_a_node_never_gets_more_than_its_limit() -> None:
    bench = Bench()
    bench.node(limit=2)
    assert [bench.submit().is_waiting for _ in range(3)] == [False, False, True]


def test_leases_from_before_a_smaller_limit_keep_counting() -> None:
    bench = Bench()
    bench.node(limit=3)
    first, second, third = (bench.held() for _ in range(3))
    bench.node(limit=1)
    waiting = bench.submit()
    first.release()
    second.release()
    assert waiting.is_waiting
    third.release()
    assert lease_of(waiting).node.max_concurrent == 1


@pytest.mark.parametrize(("node_id", "address"), [("a", "http://a"), ("a", "http://moved"), ("renamed", "http://a")])
def test_leases_of_a_removed_node_keep_counting_when_it_comes_back(node_id: str, address: str) -> None:
    bench = Bench()
    bench.node(address="http://a")
    lease = bench.held()
    bench.core.remove_node("a")
    bench.node(node_id, address=address)
    waiting = bench.submit()
    assert waiting.is_waiting
    assert bench.core.node(node_id).in_flight == 1
    lease.release()
    assert lease_of(waiting).node.id == node_id


def test_what_runs_at_an_address_counts_against_whoever_moves_there() -> None:
    bench = Bench()
    bench.node("a", limit=2)
    first, second = bench.held(), bench.held()
    bench.node("a", limit=2, address="http://elsewhere")
    bench.node("b", limit=2, address="http://a")
    assert (bench.core.node("a").in_flight, bench.core.node("b").in_flight) == (0, 2)
    assert {bench.held().node.address for _ in range(2)} == {"http://elsewhere"}
    waiting = bench.submit()
    assert waiting.is_waiting
    first.release()
    assert lease_of(waiting).node.id == "b"
    second.release()
    assert bench.core.node("b").in_flight == 1


def test_a_node_whose_address_another_one_takes_has_room_at_once() -> None:
    bench = Bench()
    bench.node("a")
    bench.held()
    bench.node("a", address="http://elsewhere")
    waiting = bench.submit()
    assert waiting.is_waiting
    bench.node("b", address="http://a")
    assert lease_of(waiting).node.id == "a"


def test_what_a_removed_node_runs_at_two_addresses_counts_at_both() -> None:
    bench = Bench()
    bench.node("a", limit=2)
    bench.held()
    bench.node("a", limit=2, address="http://elsewhere")
    bench.held()
    bench.core.remove_node("a")
    bench.node("b", address="http://a")
    bench.node("c", address="http://elsewhere")
    assert bench.submit().is_waiting
    assert (bench.core.node("b").in_flight, bench.core.node("c").in_flight) == (1, 1)


# -- law 2: nothing leaks ---------------------------------------------------------------------


def test_a_lease_is_released_once_however_often_it_is_asked_to() -> None:
    bench = Bench()
    bench.node(limit=2)
    lease, _ = bench.held(), bench.held()
    lease.release()
    lease.release()
    assert bench.core.in_flight_count == 1


def test_an_abandoned_ticket_leaves_the_queue_or_gives_its_slot_back() -> None:
    bench = Bench()
    bench.node()
    running, waiting = bench.submit(), bench.submit()
    for ticket in (waiting, running, running, waiting):
        bench.core.abandon(ticket)
    assert (bench.core.in_flight_count, bench.core.waiting_count) == (0, 0)


def test_a_ticket_that_was_never_submitted_can_be_abandoned() -> None:
    Bench().core.abandon(Ticket("t", "llama", Priority.NORMAL, 1.0))


# -- law 3: work-conserving -------------------------------------------------------------------


def test_a_raised_limit_is_used_at_once() -> None:
    bench = Bench()
    bench.node()
    bench.held()
    first, second = bench.submit(), bench.submit()
    bench.node(limit=3)
    assert not first.is_waiting
    assert not second.is_waiting


def test_a_node_that_comes_up_takes_what_waits() -> None:
    bench = Bench()
    bench.node(limit=2, health=Health.UNKNOWN)
    tickets = [bench.submit() for _ in range(3)]
    bench.core.set_health("a", Health.UP)
    assert [ticket.is_waiting for ticket in tickets] == [False, False, True]


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
def test_a_node_gets_nothing_new_until_it_is_active_again(state: AdminState) -> None:
    bench = Bench()
    bench.node(limit=2)
    running = bench.held()
    bench.core.set_state("a", state)
    waiting = bench.submit()
    assert waiting.is_waiting
    assert not running.is_released
    bench.core.set_state("a", AdminState.ACTIVE)
    assert not waiting.is_waiting


def test_a_busy_nodes_slots_are_kept_back_for_a_while() -> None:
    bench = Bench()
    bench.node(limit=2)
    bench.held().release(hold_back_s=5)
    waiting = bench.submit()
    bench.pass_time(4.9)
    assert waiting.is_waiting
    bench.pass_time(0.1)
    assert not waiting.is_waiting


def test_a_busy_nodes_slots_are_free_again_when_another_of_its_leases_ends() -> None:
    bench = Bench()
    bench.node(limit=2)
    busy, other = bench.held(), bench.held()
    busy.release(hold_back_s=5)
    first, second = bench.submit(), bench.submit()
    assert first.is_waiting
    assert other.release() is True
    assert not first.is_waiting
    assert not second.is_waiting


# -- law 4: no head-of-line blocking ----------------------------------------------------------


def test_a_saturated_model_does_not_delay_another() -> None:
    bench = Bench()
    bench.node("a", models=("llama",))
    bench.node("b", models=("qwen",))
    bench.held()
    assert bench.submit(Priority.CRITICAL).is_waiting
    assert not bench.submit(Priority.LOW, model="qwen").is_waiting


def test_a_node_of_several_models_takes_the_best_ticket_of_all() -> None:
    bench = Bench()
    bench.node(models=("llama", "qwen"))
    lease = bench.held()
    normal, urgent = bench.submit(), bench.submit(Priority.HIGH, model="qwen")
    lease.release()
    assert not urgent.is_waiting
    assert normal.is_waiting


# -- law 5: priority, then order of arrival ---------------------------------------------------


def test_a_freed_slot_goes_to_the_most_urgent_ticket_that_fits() -> None:
    bench = Bench()
    bench.node("a", models=("llama",))
    bench.node("b", models=("qwen",))
    llama, _ = bench.held(), bench.held("qwen")
    bench.submit(Priority.CRITICAL, model="qwen")
    low, high = bench.submit(Priority.LOW), bench.submit(Priority.HIGH)
    llama.release()
    assert not high.is_waiting
    assert low.is_waiting


def test_equals_are_served_first_come_first_served() -> None:
    bench = Bench()
    bench.node()
    lease = bench.held()
    first, second = bench.submit(), bench.submit()
    lease.release()
    assert not first.is_waiting
    assert second.is_waiting


def test_a_newcomer_at_the_instant_of_release_overtakes_nobody() -> None:
    bench = Bench()
    bench.node()
    lease = bench.held()
    waiting = bench.submit()
    lease.release()
    newcomer = bench.submit(Priority.CRITICAL)
    assert not waiting.is_waiting
    assert newcomer.is_waiting


def test_a_retried_ticket_keeps_its_place() -> None:
    bench = Bench()
    bench.node("a")
    bench.node("b")
    first, other = bench.submit(), bench.held()
    later = bench.submit()
    lease_of(first).release(hold_back_s=60)
    bench.core.resubmit(first)
    other.release()
    assert lease_of(first).node.id == "b"
    assert later.is_waiting


def test_a_retried_ticket_does_not_go_to_the_node_it_was_taken_back_from() -> None:
    bench = Bench()
    bench.node("a")
    bench.node("b")
    ticket, other = bench.submit(), bench.held()
    failed = lease_of(ticket).node.id
    lease_of(ticket).release()
    bench.core.resubmit(ticket, exclude=failed)
    assert ticket.is_waiting
    other.release()
    assert lease_of(ticket).node.id == other.node.id


def test_a_retried_ticket_ends_when_no_other_node_is_left() -> None:
    bench = Bench()
    bench.node("a")
    ticket = bench.submit()
    lease_of(ticket).release()
    with pytest.raises(NoOtherNode, match="No other node"):
        bench.core.resubmit(ticket, exclude="a")


@pytest.mark.parametrize("what", ["removed", "down", "disabled", "another model"])
def test_a_retried_ticket_that_waits_ends_with_its_last_way(what: str) -> None:
    bench = Bench()
    bench.node("a")
    bench.node("b")
    ticket, _ = bench.submit(), bench.held()
    lease_of(ticket).release()
    bench.core.resubmit(ticket, exclude="a")
    assert ticket.is_waiting
    if what == "removed":
        bench.core.remove_node("b")
    elif what == "down":
        bench.core.set_health("b", Health.DOWN)
    elif what == "disabled":
        bench.core.set_state("b", AdminState.DISABLED)
    else:
        bench.node("b", models=("qwen",))
    assert error_of(ticket) is NoOtherNode


def test_a_retried_ticket_waits_for_a_node_that_drains_or_is_not_yet_probed() -> None:
    bench = Bench()
    bench.node("a")
    bench.node("b")
    ticket, _ = bench.submit(), bench.held()
    lease_of(ticket).release()
    bench.core.resubmit(ticket, exclude="a")
    bench.core.set_state("b", AdminState.DRAINING)
    assert ticket.is_waiting
    bench.core.set_state("b", AdminState.ACTIVE)
    bench.core.set_health("b", Health.UNKNOWN)
    assert ticket.is_waiting


def test_a_changed_priority_keeps_the_order_of_arrival() -> None:
    bench = Bench()
    bench.node()
    lease = bench.held()
    first, high = bench.submit(), bench.submit(Priority.HIGH)
    bench.core.change_priority(first.id, Priority.HIGH)
    lease.release()
    assert not first.is_waiting
    assert high.is_waiting


# -- law 6: bounded and honest ----------------------------------------------------------------


def test_a_full_queue_refuses_an_equal() -> None:
    bench = Bench(max_queue_size=1)
    bench.node()
    bench.held()
    bench.submit()
    with pytest.raises(QueueFull) as refused:
        bench.submit()
    assert refused.value.retry_after_s == 60


def test_a_more_urgent_arrival_pushes_out_the_newest_of_the_least_urgent() -> None:
    bench = Bench(max_queue_size=3)
    bench.node()
    bench.held()
    normal, old, new = bench.submit(), bench.submit(Priority.LOW), bench.submit(Priority.LOW)
    urgent = bench.submit(Priority.HIGH)
    assert error_of(new) is QueueFull
    assert all(ticket.is_waiting for ticket in (normal, old, urgent))


def test_a_full_queue_of_one_model_leaves_room_for_the_others() -> None:
    bench = Bench(max_queue_per_model=1)
    bench.node(models=("llama", "qwen"))
    bench.held()
    bench.submit()
    with pytest.raises(QueueFull, match="model 'llama'"):
        bench.submit()
    assert bench.submit(model="qwen").is_waiting


def test_a_ticket_leaves_at_its_deadline_and_not_before() -> None:
    bench = Bench()
    bench.node()
    bench.held()
    ticket = bench.submit(patience=10)
    bench.pass_time(9.999)
    assert ticket.is_waiting
    bench.pass_time(0.001)
    assert error_of(ticket) is QueueTimeout


def test_a_deadline_is_not_restarted_by_a_retry() -> None:
    bench = Bench()
    bench.node()
    ticket = bench.submit(patience=10)
    bench.pass_time(10)
    lease_of(ticket).release()
    with pytest.raises(QueueTimeout):
        bench.core.resubmit(ticket)


def test_a_ticket_that_comes_at_its_deadline_pushes_nobody_out() -> None:
    bench = Bench(max_queue_size=1)
    bench.node()
    bench.held()
    waiting = bench.submit(Priority.LOW)
    with pytest.raises(QueueTimeout):
        bench.submit(Priority.CRITICAL, patience=0)
    assert waiting.is_waiting


def test_a_slot_freed_late_does_not_go_to_a_ticket_past_its_deadline() -> None:
    bench = Bench()
    bench.node("a", limit=2)
    busy, lease = bench.held(), bench.held()
    busy.release(hold_back_s=3)
    bench.node("a", limit=1)
    ticket = bench.submit(patience=5)
    bench.now = 6.0  # the loop was blocked: neither timer has run
    lease.release()
    assert error_of(ticket) is QueueTimeout


def test_nobody_waits_longer_than_unavailable_wait_while_all_nodes_are_down() -> None:
    bench = Bench(unavailable_wait_s=30, probe_interval_s=7)
    bench.node(health=Health.DOWN)
    ticket = bench.submit()
    bench.pass_time(29)
    assert ticket.is_waiting
    bench.pass_time(1)
    assert error_of(ticket) is NoHealthyNode
    assert ticket.error is not None
    assert ticket.error.retry_after_s == 7


@pytest.mark.parametrize(("health", "state"), [(Health.UNKNOWN, AdminState.ACTIVE), (Health.UP, AdminState.DRAINING)])
def test_a_node_that_may_come_is_waited_for_until_the_deadline(health: Health, state: AdminState) -> None:
    bench = Bench(unavailable_wait_s=30)
    bench.node(health=health, state=state)
    ticket = bench.submit(patience=100)
    bench.pass_time(99)
    assert ticket.is_waiting


def test_who_waited_already_when_the_nodes_went_down_keeps_the_deadline() -> None:
    bench = Bench(unavailable_wait_s=30)
    bench.node()
    bench.held()
    ticket = bench.submit(patience=100)
    bench.core.set_health("a", Health.DOWN)
    bench.pass_time(99)
    assert ticket.is_waiting


def test_orphans_wait_unavailable_wait_for_a_node_to_be_registered() -> None:
    bench = Bench(unavailable_wait_s=30)
    bench.node()
    bench.held()
    ticket = bench.submit()
    bench.core.remove_node("a")
    bench.pass_time(29)
    assert ticket.is_waiting
    bench.pass_time(1)
    assert error_of(ticket) is UnknownModel


def test_a_second_gap_without_a_node_is_waited_for_in_full() -> None:
    bench = Bench(unavailable_wait_s=30)
    bench.node()
    bench.held()
    ticket = bench.submit()
    bench.core.remove_node("a")
    bench.node()
    bench.pass_time(20)
    bench.core.remove_node("a")
    bench.pass_time(29)
    assert ticket.is_waiting
    bench.pass_time(1)
    assert error_of(ticket) is UnknownModel


def test_an_unknown_model_is_refused_with_those_that_are_known() -> None:
    bench = Bench()
    bench.node(models=("llama", "qwen"))
    with pytest.raises(UnknownModel, match="llama, qwen"):
        bench.submit(model="gpt")


def test_a_cancelled_ticket_ends_and_is_unknown_afterwards() -> None:
    bench = Bench()
    bench.node()
    bench.held()
    ticket = bench.submit()
    bench.core.cancel(ticket.id)
    assert error_of(ticket) is Cancelled
    with pytest.raises(UnknownRequest):
        bench.core.cancel(ticket.id)


def test_a_closed_dispatcher_ends_who_waits_and_lets_run_who_runs() -> None:
    bench = Bench()
    bench.node()
    lease = bench.held()
    waiting = bench.submit()
    bench.core.close()
    assert error_of(waiting) is ShuttingDown
    assert not lease.is_released
    with pytest.raises(ShuttingDown):
        bench.submit()


# -- law 8: explainable -----------------------------------------------------------------------


def test_a_snapshot_tells_who_waits_since_when_and_why() -> None:
    bench = Bench()
    bench.node(models=("llama", "qwen"))
    bench.held()
    bench.submit(model="qwen", patience=10)
    bench.pass_time(4)
    bench.submit(Priority.HIGH)
    queue = bench.core.queue()
    assert [(view.id, view.position, view.waited_s, view.expires_in_s) for view in queue.waiting] == [
        ("t3", 1, 0, 120),
        ("t2", 1, 4, 6),
    ]
    assert {view.reason for view in queue.waiting} == {"node a at limit"}
    assert queue.by_priority == {Priority.CRITICAL: 0, Priority.HIGH: 1, Priority.NORMAL: 1, Priority.LOW: 0}


def test_a_long_queue_is_shown_in_part_and_counted_in_full() -> None:
    bench = Bench()
    bench.node()
    for _ in range(6):
        bench.submit()
    queue = bench.core.queue(limit=2)
    assert ([view.id for view in queue.waiting], queue.total) == (["t2", "t3"], 5)


def test_repr_shows_the_state_that_matters() -> None:
    bench = Bench()
    bench.node("gpu-01", limit=2)
    ticket, other = bench.submit(), bench.held()
    waiting = bench.submit(Priority.HIGH)
    other.release(hold_back_s=1)
    assert repr(bench.core) == "<Dispatcher 1 nodes, 1 held, 1 waiting>"
    assert repr(waiting) == "<Ticket t3 llama high #2 waiting>"
    assert repr(ticket.lease) == "<Lease t1 on gpu-01 held>"
    assert repr(lease_of(ticket).holder) == "<Node gpu-01 1/2 up active>"


def test_models_of_disabled_nodes_are_not_listed_but_those_of_nodes_that_are_down_are() -> None:
    bench = Bench()
    bench.node("a", models=("llama",), health=Health.DOWN)
    bench.node("b", models=("qwen",), state=AdminState.DISABLED)
    assert bench.core.models() == ["llama"]


def test_operators_are_told_of_nodes_that_do_not_exist() -> None:
    bench = Bench()
    for question in (bench.core.remove_node, bench.core.node):
        with pytest.raises(UnknownNode):
            question("nowhere")
    bench.core.set_health("nowhere", Health.UP)  # a late probe of a removed node is no error


def test_a_node_that_was_busy_gets_one_request_until_that_is_answered() -> None:
    bench = Bench()
    bench.node("a", limit=4)
    first = bench.held()
    waiting = [bench.submit() for _ in range(3)]
    assert not any(ticket.is_waiting for ticket in waiting)
    for lease in [lease_of(ticket) for ticket in waiting]:
        lease.release(hold_back_s=5)
    first.release(hold_back_s=5)
    waiting = [bench.submit() for _ in range(4)]
    assert all(ticket.is_waiting for ticket in waiting)
    bench.pass_time(5)
    assert [ticket.is_waiting for ticket in waiting] == [False, True, True, True]
    bench.core.note_answered("a")
    assert not any(ticket.is_waiting for ticket in waiting)


def test_a_node_that_is_still_busy_is_left_alone_again_after_one_request() -> None:
    bench = Bench()
    bench.node("a", limit=4)
    bench.held().release(hold_back_s=5)
    waiting = [bench.submit() for _ in range(3)]
    bench.pass_time(5)
    lease_of(waiting[0]).release(hold_back_s=10)
    bench.pass_time(9)
    assert all(ticket.is_waiting for ticket in waiting[1:])
    bench.pass_time(1)
    assert [ticket.is_waiting for ticket in waiting[1:]] == [False, True]
