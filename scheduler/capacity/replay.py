"""Replay: arrivals pass through the scheduler's own core in virtual time."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import IntEnum, StrEnum
from itertools import count
from typing import NamedTuple

from scheduler.capacity.arrivals import Arrival
from scheduler.capacity.fleet import Action, Fleet, FleetEvent, FleetNode
from scheduler.capacity.slot_use import SlotUse
from scheduler.capacity.virtual_clock import VirtualClock
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.lease import Lease
from scheduler.core.node import AdminState, Health
from scheduler.core.ticket import Ticket
from scheduler.errors import AdmissionError, Cancelled, QueueFull, QueueTimeout, SchedulerError


class End(StrEnum):
    """How a simulated request ended."""

    COMPLETED = "completed"
    REJECTED = "rejected"  # the queue was full when it came
    PUSHED_OUT = "pushed_out"  # a more urgent one took its place in the full queue
    TIMED_OUT = "timed_out"  # got no slot before its deadline
    NO_NODE = "no_node"  # no node has its model, or none was up for too long
    LEFT = "left"  # the client went, while it waited or ran


class Passage(NamedTuple):
    """The way of one request. `number` counts arrivals from 0; `granted_at_s` and `node_id`: when and where it ran."""

    number: int
    arrival: Arrival
    end: End
    ended_at_s: float
    granted_at_s: float | None
    node_id: str | None


class _Visit(Ticket):
    """A ticket that reports in a list when it is settled: nobody waits for it."""

    __slots__ = ("arrival", "has_waited", "number", "reports")

    def __init__(self, number: int, arrival: Arrival, reports: list[_Visit]) -> None:
        super().__init__(str(number), arrival.model, arrival.priority, arrival.at_s + arrival.queue_timeout_s)
        self.number = number
        self.arrival = arrival
        self.reports = reports
        self.has_waited = False

    def settle(self, lease: Lease | None, error: SchedulerError | None) -> None:
        super().settle(lease, error)
        self.reports.append(self)


class _Kind(IntEnum):
    """What happens first where several things happen at one instant; before them the core's own timers, after them
    the arrivals.
    """

    FINISH = 0
    FLEET = 1
    LEAVE = 2


class Replay:
    """One simulation; `run` it once and look at the other attributes afterwards.

    `dispatcher` has no nodes yet and reads `clock`. `arrivals` are in order of time. It ends when every request has.
    """

    def __init__(self, dispatcher: Dispatcher, clock: VirtualClock, fleet: Fleet, arrivals: Iterable[Arrival]) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._arrivals = arrivals
        self._planned: list[tuple[float, int, int, FleetEvent | _Visit]] = []  # a heap
        self._serial = count()
        self._settled: list[_Visit] = []
        self._waiting: Counter[str] = Counter()
        self._speeds: dict[str, float] = {}
        self.uses: dict[str, SlotUse] = {}  # by node
        self.max_waiting = 0
        self.max_waiting_by_model: Counter[str] = Counter()
        for node in fleet.nodes:
            self._put(node)
        for event in fleet.events:
            self._plan(event.at_s, _Kind.FLEET, event)

    def run(self) -> Iterator[Passage]:
        """Every request's passage, in the order in which they end. Raises UnknownNode where an event names none."""
        clock, dispatcher, planned = self._clock, self._dispatcher, self._planned
        numbered = enumerate(self._arrivals)
        number, coming = next(numbered, (0, None))
        while coming is not None or planned or dispatcher.waiting_count:
            due_s = dispatcher.timetable.next_due
            planned_s = planned[0][0] if planned else math.inf
            coming_s = coming.at_s if coming is not None else math.inf
            if due_s is not None and due_s <= planned_s and due_s <= coming_s:
                clock.advance_to(max(due_s, clock()))
                dispatcher.tick()
            elif planned_s <= coming_s:
                clock.advance_to(planned_s)
                _, kind, _, subject = heapq.heappop(planned)
                if isinstance(subject, FleetEvent):
                    self._happen(subject)
                elif passage := self._finish(subject) if kind == _Kind.FINISH else self._leave(subject):
                    yield passage
            else:
                assert coming is not None, "only an arrival is left"
                clock.advance_to(coming_s)
                if passage := self._arrive(number, coming):
                    yield passage
                number, coming = next(numbered, (0, None))
                if coming is None:
                    self._stop_counting(coming_s)
            if self._settled:
                yield from self._settle()

    # -- requests -----------------------------------------------------------------------------

    def _arrive(self, number: int, arrival: Arrival) -> Passage | None:
        visit = _Visit(number, arrival, self._settled)
        try:
            self._dispatcher.submit(visit)
        except AdmissionError as error:
            end = End.REJECTED if isinstance(error, QueueFull) else _end_of(error)
            return Passage(number, arrival, end, arrival.at_s, None, None)
        if visit.is_waiting:
            visit.has_waited = True
            waiting = self._waiting[arrival.model] = self._waiting[arrival.model] + 1
            if waiting > self.max_waiting_by_model[arrival.model]:
                self.max_waiting_by_model[arrival.model] = waiting
            self.max_waiting = max(self.max_waiting, self._dispatcher.waiting_count)
        if arrival.gives_up_after_s is not None:
            self._plan(arrival.at_s + arrival.gives_up_after_s, _Kind.LEAVE, visit)
        return None

    def _settle(self) -> Iterator[Passage]:
        """Those who have got a slot begin their work; those who have got an error are gone."""
        now_s = self._clock()
        settled, self._settled[:] = list(self._settled), []
        for visit in settled:
            self._waiting[visit.model] -= visit.has_waited
            if visit.lease is None:
                assert visit.error is not None, "a ticket is settled with a lease or an error"
                yield Passage(visit.number, visit.arrival, _end_of(visit.error), now_s, None, None)
                continue
            node_id = visit.lease.node.id
            self.uses[node_id].take(now_s)
            self._plan(now_s + visit.arrival.service_s / self._speeds[node_id], _Kind.FINISH, visit)

    def _finish(self, visit: _Visit) -> Passage | None:
        """Its work is done, unless its client has left meanwhile."""
        assert visit.lease is not None, "only who has a slot works"
        if visit.lease.is_released:
            return None
        self._dispatcher.note_answered(visit.lease.node.id)  # one that was down may get more from now on
        return self._give_back(visit, visit.lease, End.COMPLETED)

    def _leave(self, visit: _Visit) -> Passage | None:
        """The client goes, unless its request has ended before."""
        if visit.lease is None:
            if visit.is_waiting:
                self._dispatcher.abandon(visit)  # it is settled, and told there
            return None
        return None if visit.lease.is_released else self._give_back(visit, visit.lease, End.LEFT)

    def _give_back(self, visit: _Visit, lease: Lease, end: End) -> Passage:
        now_s = self._clock()
        lease.release()
        self.uses[lease.node.id].give_back(now_s)
        return Passage(visit.number, visit.arrival, end, now_s, lease.granted_at, lease.node.id)

    def _plan(self, at_s: float, kind: _Kind, subject: FleetEvent | _Visit) -> None:
        heapq.heappush(self._planned, (at_s, kind, next(self._serial), subject))

    # -- nodes --------------------------------------------------------------------------------

    def _happen(self, event: FleetEvent) -> None:
        """An event of the fleet. Raises UnknownNode where its node is not registered at that time."""
        dispatcher, node_id, action = self._dispatcher, event.node_id, event.action
        if action is Action.ADD:
            assert event.node is not None, "what is added is given"
            self._put(event.node)
            return
        view = dispatcher.node(node_id)
        if action is Action.REMOVE:
            dispatcher.remove_node(node_id)
            self.uses[node_id].note_spec(None, self._clock())
        elif action in _STATES:
            dispatcher.set_state(node_id, _STATES[action])
        elif action in _HEALTHS:
            dispatcher.set_health(node_id, _HEALTHS[action], "the simulation says so")
        else:
            old = view.spec
            is_limit = action is Action.LIMIT
            spec = replace(old, max_concurrent=event.number) if is_limit else replace(old, weight=event.number)
            dispatcher.put_node(spec, view.state)
            self.uses[node_id].note_spec(spec, self._clock())

    def _put(self, node: FleetNode) -> None:
        """A node comes, and is up at once."""
        node_id = node.spec.id
        self._speeds[node_id] = node.speed
        self.uses.setdefault(node_id, SlotUse(node_id)).note_spec(node.spec, self._clock())
        self._dispatcher.put_node(node.spec, node.state)
        self._dispatcher.set_health(node_id, Health.UP)

    def _stop_counting(self, now_s: float) -> None:
        for use in self.uses.values():
            use.stop(now_s)


_STATES = {
    Action.DRAIN: AdminState.DRAINING,
    Action.ACTIVATE: AdminState.ACTIVE,
    Action.DISABLE: AdminState.DISABLED,
}
_HEALTHS = {Action.DOWN: Health.DOWN, Action.UP: Health.UP}


def _end_of(error: SchedulerError) -> End:
    """How a ticket ended that waited, or that could not even do that."""
    if isinstance(error, QueueTimeout):
        return End.TIMED_OUT
    if isinstance(error, QueueFull):
        return End.PUSHED_OUT
    return End.LEFT if isinstance(error, Cancelled) else End.NO_NODE
