"""Planted faults: each must be found by the very check that proves the laws, within a bounded number of histories."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from scheduler.core import lazy_heap, slot_sharing
from scheduler.core.ageing import Ageing
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.lazy_heap import LazyHeap
from scheduler.core.lease import Lease
from scheduler.core.node import AdminState, Health, Node, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.slot_sharing import SlotSharing
from scheduler.core.slots import Slots
from scheduler.core.slow_start import SlowStart
from scheduler.core.ticket import QueueKey, Ticket
from scheduler.core.ticket_queue import TicketQueue
from scheduler.errors import AdmissionError, Cancelled
from tests.core.histories import History, MakeDispatcher, check_history, histories

#: Generously: what is drawn depends on what else is imported, and a fault that is found early costs no more for it.
MOST_HISTORIES = 8_000

#: Plants a fault, and says what to build then.
Plant = Callable[[pytest.MonkeyPatch], MakeDispatcher]
FAULTS: list[Plant] = []


def fault(plant: Plant) -> Plant:
    FAULTS.append(plant)
    return plant


def find(make_dispatcher: MakeDispatcher, most: int = MOST_HISTORIES) -> None:
    """Raises AssertionError at the first history in which a law is broken. Always the same histories."""

    @seed(20_000)
    @settings(
        max_examples=most,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(history=histories())
    def some_history(history: History) -> None:
        check_history(make_dispatcher, history)

    some_history()


@pytest.fixture(autouse=True)
def _heaps_compacted_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_heap, "MIN_DEAD", 2)


# -- slots ------------------------------------------------------------------------------------


@fault
def a_double_release_gives_two_slots(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def release(self, lease: Lease, hold_back_s: float | None = None) -> bool:
            lease.is_released = False
            return super().release(lease, hold_back_s)

    return Faulty


@fault
def a_limit_is_off_by_one(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    init = Slots.__init__
    patch.setattr(Slots, "__init__", lambda slots, limit: init(slots, limit + 1))
    return Dispatcher


@fault
def a_limit_of_one_too_few_is_used(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    limit = Node.effective_limit.fget  # type: ignore[attr-defined]
    patch.setattr(Node, "effective_limit", property(lambda node: min(limit(node), max(1, node.slots.limit - 1))))
    return Dispatcher


@fault
def a_resize_forgets_held_leases(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Slots, "resize", lambda slots, limit, inherited=0: slots.__init__(limit))
    return Dispatcher


@fault
def a_resize_forgets_its_debt(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    resize = Slots.resize

    def without_debt(slots: Slots, limit: int, inherited: int = 0) -> None:
        resize(slots, limit, inherited)
        slots.debt = 0

    patch.setattr(Slots, "resize", without_debt)
    return Dispatcher


@fault
def a_removed_nodes_leases_are_forgotten_on_re_adding(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Dispatcher, "_inherit", lambda dispatcher, node: None)
    return Dispatcher


@fault
def a_former_node_at_the_same_address_is_forgotten(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def _inherit(self, node: Node) -> None:
            others = [former for former in self._retired if former.spec.id != node.spec.id]
            self._retired = [former for former in self._retired if former not in others]
            super()._inherit(node)
            self._retired += others

    return Faulty


@fault
def a_grant_is_counted_on_the_wrong_node(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def _grant(self, ticket: Ticket, free: Sequence[Node], now: float) -> None:
            super()._grant(ticket, free, now)
            lease = ticket.lease
            others = [node for node in free if lease is not None and node is not lease.holder]
            if lease is not None and others:
                lease.holder.slots.give_back()
                others[0].slots.take()

    return Faulty


@fault
def an_abandoned_grant_keeps_its_slot(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def abandon(self, ticket: Ticket) -> None:
            if ticket.is_waiting:
                super().abandon(ticket)

    return Faulty


# -- order ------------------------------------------------------------------------------------


@fault
def last_in_first_out(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Ticket, "key", property(lambda ticket: QueueKey(ticket.priority, -ticket.sequence)))
    return Dispatcher


@fault
def priority_is_ignored(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Ticket, "key", property(lambda ticket: QueueKey(0, ticket.sequence)))
    return Dispatcher


@fault
def a_retried_ticket_goes_to_the_back(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def resubmit(self, ticket: Ticket, exclude: str | None = None, needs_company: bool = False) -> None:
            ticket.sequence = next(self._sequence)
            super().resubmit(ticket, exclude, needs_company)

    return Faulty


@fault
def a_newcomer_overtakes_at_the_instant_of_release(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        """Matches a freed slot in the next turn, as a dispatcher greenlet that is woken would."""

        def release(self, lease: Lease, hold_back_s: float | None = None) -> bool:
            match, self._match = self._match, lambda nodes: False  # type: ignore[method-assign]
            try:
                return super().release(lease, hold_back_s)
            finally:
                self._match = match  # type: ignore[method-assign]

        def submit(self, ticket: Ticket) -> None:
            super().submit(ticket)
            self._match(list(self._nodes.values()))

    return Faulty


@fault
def a_changed_priority_costs_the_place(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def change_priority(self, request_id: str, priority: Priority) -> None:
            ticket = self._waiting.get(request_id)
            super().change_priority(request_id, priority)
            if ticket is not None:
                queue = self._waiting.queues[ticket.model]
                queue.remove(ticket)
                ticket.sequence = next(self._sequence)
                queue.push(ticket)

    return Faulty


@fault
def the_first_ticket_blocks_all_models(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def _match(self, nodes: Sequence[Node]) -> bool:
            first = min(self._waiting, key=lambda ticket: ticket.key, default=None)
            return super()._match([node for node in nodes if first is not None and first.model in node.spec.models])

    return Faulty


@fault
def a_compaction_loses_a_ticket(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    discard = LazyHeap.discard

    def lossy(heap: LazyHeap[object], entry: lazy_heap.Entry[object]) -> None:
        before = heap._queue
        discard(heap, entry)
        if heap._queue is not before and heap._queue.qsize() > 1:
            heap._queue.get_nowait()

    patch.setattr(LazyHeap, "discard", lossy)
    return Dispatcher


# -- a reload ---------------------------------------------------------------------------------


@fault
def what_another_process_uses_is_forgotten_for_nodes_that_come_later(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(SlotSharing, "adopt", lambda sharing, node: None)
    return Dispatcher


@fault
def slots_that_another_process_gives_back_are_not_matched(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def set_elsewhere(self, counts: Mapping[str, int]) -> None:
            self._sharing.set_elsewhere(counts, self._nodes.values())

    return Faulty


@fault
def a_pledge_is_forgotten(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(SlotSharing, "pledge", lambda sharing, nodes: None)
    return Dispatcher


@fault
def a_share_that_was_given_away_is_used_again(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    def told_and_forgotten(sharing: SlotSharing, nodes: Collection[Node], *rest: Any) -> dict[str, int]:
        before = [(node, node.pledge) for node in nodes]
        shares = tell(sharing, nodes, *rest)
        for node, pledge in before:
            node.pledge = pledge
        return shares

    tell = SlotSharing.shares
    patch.setattr(SlotSharing, "shares", told_and_forgotten)
    return Dispatcher


@fault
def leases_from_before_a_move_are_told_at_the_new_address(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(slot_sharing, "_is_at_home", lambda lease, node: True)
    return Dispatcher


# -- ill nodes --------------------------------------------------------------------------------


@fault
def a_node_gets_its_whole_limit_as_soon_as_it_is_back(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    return lambda clock, slow_start_s, **settings: Dispatcher(clock, **settings)


@fault
def a_new_node_starts_slowly_too(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    note_health = SlowStart.note_health

    def as_if_it_had_been_up(slow_start: SlowStart, node: Node, health: Health) -> None:
        node.was_up = True
        note_health(slow_start, node, health)

    patch.setattr(SlowStart, "note_health", as_if_it_had_been_up)
    return Dispatcher


@fault
def a_half_open_node_stays_so(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(SlowStart, "note_answered", lambda slow_start, node, now: None)
    return Dispatcher


@fault
def a_recovering_node_grows_unnoticed(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(SlowStart, "_grow_and_match", lambda slow_start, node: slow_start.grow(node, slow_start._clock()))
    return Dispatcher


@fault
def a_withdrawn_model_is_still_sent_to_the_node(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Dispatcher, "withdraw", lambda dispatcher, node_id, model: None)
    return Dispatcher


@fault
def a_withdrawn_model_takes_the_others_with_it(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def withdraw(self, node_id: str, model: str) -> None:
            for other in self._nodes[node_id].spec.models if node_id in self._nodes else ():
                super().withdraw(node_id, other)

    return Faulty


@fault
def a_model_that_is_listed_again_wakes_nobody(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def note_models(self, node_id: str, listed: Collection[str] | None) -> None:
            self._match = lambda nodes: False  # type: ignore[method-assign]
            try:
                super().note_models(node_id, listed)
            finally:
                del self._match

    return Faulty


@fault
def a_poisonous_request_goes_to_the_last_node(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def resubmit(self, ticket: Ticket, exclude: str | None = None, needs_company: bool = False) -> None:
            super().resubmit(ticket, exclude)

    return Faulty


@fault
def company_that_goes_while_a_poisonous_request_waits_is_not_missed(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def _end_stranded(self, models: Iterable[str]) -> None:
            kept = [ticket for ticket in self._waiting if ticket.needs_company]
            for ticket in kept:
                ticket.needs_company = False
            super()._end_stranded(models)
            for ticket in kept:
                ticket.needs_company = True

    return Faulty


@fault
def a_draining_node_that_is_down_is_given_up(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    is_lost = property(lambda node: node.state is AdminState.DISABLED or node.health is Health.DOWN)
    patch.setattr(Node, "is_lost", is_lost)
    return Dispatcher


# -- ageing -----------------------------------------------------------------------------------


@fault
def nobody_ages(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    return lambda clock, aging_s, **settings: Dispatcher(clock, **settings)


@fault
def the_aged_become_critical(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    def begin(ageing: Ageing, ticket: Ticket, now: float) -> None:
        ageing.end(ticket)
        if ageing._interval_s and ticket.priority > Priority.CRITICAL:
            ticket.rise = ageing._timetable.add(now + ageing._interval_s, lambda: ageing._rise(ticket))

    patch.setattr(Ageing, "begin", begin)
    return Dispatcher


@fault
def a_risen_ticket_goes_behind_its_new_equals(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            move = self._waiting.move

            def to_the_end(ticket: Ticket, priority: Priority) -> None:
                if ticket.rise is not None and ticket.rise.item is None:  # its timer has just run
                    ticket.sequence = next(self._sequence)
                    self._waiting.queues[ticket.model].remove(ticket)
                    self._waiting.queues[ticket.model].push(ticket)
                move(ticket, priority)

            self._waiting.move = to_the_end  # type: ignore[method-assign]

    return Faulty


# -- the match --------------------------------------------------------------------------------


@fault
def a_release_does_not_match(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def release(self, lease: Lease, hold_back_s: float | None = None) -> bool:
            self._match = lambda nodes: False  # type: ignore[method-assign]
            try:
                return super().release(lease, hold_back_s)
            finally:
                del self._match

    return Faulty


@fault
def a_raised_limit_is_used_by_newcomers_only(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def put_node(self, *args: object) -> None:
            self._match = lambda nodes: False  # type: ignore[method-assign]
            try:
                super().put_node(*args)  # type: ignore[arg-type]
            finally:
                del self._match

    return Faulty


@fault
def a_node_that_comes_up_grants_one_ticket_only(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def set_health(self, node_id: str, health: Health, reason: str | None = None) -> None:
            node = self._nodes.get(node_id)
            if node is not None and health is Health.UP:
                limit, held = node.slots.limit, node.slots.held
                node.slots.resize(min(limit, held + 1))
                super().set_health(node_id, health, reason)
                node.slots.resize(limit)
            else:
                super().set_health(node_id, health, reason)

    return Faulty


@fault
def an_excluded_node_is_used_again(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Node, "can_take", lambda node, ticket: node.has_room)
    patch.setattr(TicketQueue, "best", lambda queue, free: next(iter(queue), None))
    return Dispatcher


@fault
def a_ticket_that_may_not_go_to_a_node_blocks_the_others(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    def head_only(queue: TicketQueue, free: Sequence[Node]) -> Ticket | None:
        head = next(iter(queue), None)
        return head if head is not None and any(node.can_take(head) for node in free) else None

    patch.setattr(TicketQueue, "best", head_only)
    return Dispatcher


@fault
def a_withheld_node_gets_requests(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Node, "has_room", property(lambda node: node.is_serving and node.slots.held < node.effective_limit))
    return Dispatcher


@fault
def a_withheld_node_is_never_tried_again(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def _withhold(self, node: Node, until: float) -> None:
            super()._withhold(node, until)
            if node.recheck is not None:
                self.timetable.cancel(node.recheck)

    return Faulty


@fault
def a_draining_node_gets_requests(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Node, "is_serving", property(lambda node: not node.is_lost and node.health is Health.UP))
    return Dispatcher


@fault
def a_node_that_is_down_gets_requests(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Node, "is_serving", property(lambda node: node.state == "active"))
    return Dispatcher


@fault
def a_dropped_model_is_still_sent_to_the_node(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def put_node(self, spec: NodeSpec, *args: object) -> None:
            node = self._nodes.get(spec.id)
            dropped = [model for model in node.spec.models if model not in spec.models] if node is not None else []
            super().put_node(spec, *args)  # type: ignore[arg-type]
            for model in dropped:
                self._serving.setdefault(model, []).append(self._nodes[spec.id])

        def _forget_models(self, node: Node) -> None:
            for nodes in self._serving.values():
                nodes[:] = [other for other in nodes if other is not node]
            self._serving = {model: nodes for model, nodes in self._serving.items() if nodes}

    return Faulty


@fault
def weights_are_ignored(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    return lambda clock, **settings: Dispatcher(
        clock, balance=lambda nodes: min(nodes, key=lambda node: node.slots.held), **settings
    )


# -- how tickets end --------------------------------------------------------------------------


@fault
def a_cancelled_ticket_stays_in_the_queue(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def cancel(self, request_id: str, error: AdmissionError | None = None) -> None:
            ticket = self._waiting.get(request_id)
            if ticket is None:
                super().cancel(request_id, error)
            else:
                ticket.settle(None, error or Cancelled())

    return Faulty


@fault
def a_deadline_is_ignored(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Dispatcher, "_expire", lambda dispatcher, ticket: None)
    return Dispatcher


@fault
def a_deadline_is_noticed_one_tick_late(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def _place(self, ticket: Ticket, nodes: Sequence[Node], now: float) -> None:
            ticket.deadline += 1
            super()._place(ticket, nodes, now)
            ticket.deadline -= 1

    return Faulty


@fault
def a_deadline_starts_again_at_a_retry(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def resubmit(self, ticket: Ticket, exclude: str | None = None, needs_company: bool = False) -> None:
            ticket.deadline = self._clock() + (ticket.deadline - ticket.queued_at)
            super().resubmit(ticket, exclude, needs_company)

    return Faulty


@fault
def a_granted_ticket_still_has_its_deadline(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def _leave(self, ticket: Ticket) -> None:
            ticket.timers = ()
            super()._leave(ticket)

    return Faulty


@fault
def the_push_out_takes_the_oldest(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    def oldest(queue: TicketQueue) -> Ticket | None:
        return max(queue, key=lambda ticket: (ticket.priority, -ticket.sequence), default=None)

    patch.setattr(TicketQueue, "worst", oldest)
    return Dispatcher


@fault
def a_full_queue_refuses_the_urgent_too(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(TicketQueue, "worst", lambda queue: None)
    return Dispatcher


@fault
def one_too_many_may_wait(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    return lambda clock, max_queue_size, **settings: Dispatcher(clock, max_queue_size=max_queue_size + 1, **settings)


@fault
def nobody_gives_up_while_all_nodes_are_down(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Dispatcher, "_give_up", lambda dispatcher, ticket: None)
    return Dispatcher


@fault
def a_stranded_ticket_waits_on(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Dispatcher, "_end_stranded", lambda dispatcher, models: None)
    return Dispatcher


@fault
def orphans_wait_on(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    patch.setattr(Dispatcher, "_mark_orphans", lambda dispatcher, models, now: None)
    return Dispatcher


@fault
def the_waiting_are_forgotten_at_the_close(patch: pytest.MonkeyPatch) -> MakeDispatcher:
    class Faulty(Dispatcher):
        def close(self) -> None:
            self._is_closed = True

    return Faulty


# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = plant(monkeypatch)
    with pytest.raises(AssertionError) as caught:
        find(faulty)
    assert any("What had happened:" in note for note in getattr(caught.value, "__notes__", ()))


def test_without_a_fault_the_same_histories_pass() -> None:
    find(Dispatcher, most=100)
