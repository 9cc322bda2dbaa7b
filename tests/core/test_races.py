"""Grants, kills, time-outs and cancels in the same turn of the loop, with real greenlets; and the dispatcher pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import gevent
import greenlet
import pytest
from gevent.event import Event
from hypothesis import HealthCheck, given, settings

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.dispatcher_pool import DispatcherPool
from scheduler.core.lease import Lease
from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.errors import AdmissionError, Cancelled, QueueTimeout, UnknownRequest
from tests.core.histories import History, check_history, histories

FAR = 1e6


class Gateway:
    """What a view does with a ticket: wait, hold the lease for a while, and abandon it whatever happens."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.served: list[str] = []
        self.ended: dict[str, BaseException] = {}
        self.may_finish = Event()

    def serve(self, ticket: Ticket, is_slow_to_end: bool = False) -> None:
        try:
            self.dispatcher.submit(ticket)
            ticket.wait()
            self.served.append(ticket.id)
            self.may_finish.wait()
        except (AdmissionError, gevent.Timeout, gevent.GreenletExit) as error:
            self.ended[ticket.id] = error
        finally:
            self.dispatcher.abandon(ticket)
            if is_slow_to_end:
                with suppress(gevent.Timeout, gevent.GreenletExit):
                    gevent.sleep(0)  # a switch point: a second kill may strike here


def make_dispatcher(limit: int = 1, clock: Callable[[], float] = lambda: 0.0, **settings: Any) -> Dispatcher:
    dispatcher = Dispatcher(clock, **settings)
    dispatcher.put_node(NodeSpec("gpu-01", "http://gpu-01", ("llama",), limit), AdminState.ACTIVE)
    dispatcher.set_health("gpu-01", Health.UP)
    return dispatcher


names = (f"t{i}" for i in count())


def a_ticket(priority: Priority = Priority.NORMAL, deadline: float = FAR) -> Ticket:
    return Ticket(next(names), "llama", priority, deadline)


def held(dispatcher: Dispatcher) -> Lease:
    """A lease that keeps the only slot."""
    ticket = a_ticket()
    dispatcher.submit(ticket)
    assert ticket.lease is not None
    return ticket.lease


# -- the same turn of the loop ----------------------------------------------------------------

STRIKES = ("grant", "kill", "time out", "cancel", "expire", "kill twice")
#: What happens in one turn, in every order, and how many tickets wait: 6 * 5 * 2 * 5 = 300 interleavings.
INTERLEAVINGS = [
    (first, second, is_slow_to_end, waiting)
    for first in STRIKES
    for second in STRIKES
    if first != second
    for is_slow_to_end in (False, True)
    for waiting in (1, 2, 3, 5, 8)
]


@pytest.mark.parametrize(("first", "second"), sorted({case[:2] for case in INTERLEAVINGS}))
def test_whatever_strikes_in_the_same_turn_no_slot_and_no_ticket_is_left(first: str, second: str) -> None:
    cases = [case for case in INTERLEAVINGS if case[:2] == (first, second)]
    assert len(cases) == 10
    for case in cases:
        check_interleaving(*case)


def check_interleaving(first: str, second: str, is_slow_to_end: bool, waiting: int) -> None:
    now = 0.0
    dispatcher = make_dispatcher(clock=lambda: now)
    gateway = Gateway(dispatcher)
    lease = held(dispatcher)
    time_out = gevent.Timeout()
    tickets = [a_ticket(deadline=10.0) if i == 0 else a_ticket() for i in range(waiting)]
    greenlets = [gevent.spawn(gateway.serve, ticket, is_slow_to_end) for ticket in tickets]
    gevent.idle()
    assert dispatcher.waiting_count == waiting

    def strike(what: str) -> None:
        nonlocal now
        if what == "grant":
            lease.release()
        elif what == "kill":
            greenlets[0].kill(block=False)
        elif what == "kill twice":
            greenlets[0].kill(block=False)
            gevent.get_hub().loop.run_callback(lambda: greenlets[0].kill(block=False))
        elif what == "time out":
            greenlets[0].kill(time_out, block=False)
        elif what == "cancel":
            try:
                dispatcher.cancel(tickets[0].id)
            except UnknownRequest:
                assert not tickets[0].is_waiting
        else:
            now = 10.0
            dispatcher.tick()

    # Both in this turn: no greenlet runs between them.
    strike(first)
    strike(second)
    assert dispatcher.in_flight_count <= 1
    lease.release()
    gateway.may_finish.set()
    gevent.joinall(greenlets, timeout=5, raise_error=True)
    assert all(greenlet.dead for greenlet in greenlets)
    assert (dispatcher.in_flight_count, dispatcher.waiting_count, len(dispatcher.timetable)) == (0, 0, 0)
    # The others were served, in order, whatever has struck the first one.
    assert [name for name in gateway.served if name != tickets[0].id] == [ticket.id for ticket in tickets[1:]]


def test_there_are_300_interleavings() -> None:
    assert len(INTERLEAVINGS) == 300


def test_a_waiter_killed_after_its_grant_gives_the_slot_to_the_next() -> None:
    dispatcher = make_dispatcher()
    gateway = Gateway(dispatcher)
    lease = held(dispatcher)
    first, second = a_ticket(), a_ticket()
    unlucky, lucky = gevent.spawn(gateway.serve, first), gevent.spawn(gateway.serve, second)
    gevent.idle()
    unlucky.kill(block=False)
    lease.release()
    assert first.lease is not None
    gevent.idle()
    assert gateway.served == [second.id]
    gateway.may_finish.set()
    gevent.joinall([unlucky, lucky], raise_error=True)
    assert dispatcher.in_flight_count == 0


def test_a_time_out_around_the_wait_leaves_nothing_behind() -> None:
    dispatcher = make_dispatcher()
    lease = held(dispatcher)
    ticket = a_ticket()
    dispatcher.submit(ticket)
    try:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
            ticket.wait()
    finally:
        dispatcher.abandon(ticket)
    assert dispatcher.waiting_count == 0
    lease.release()
    assert dispatcher.in_flight_count == 0


# -- the pool ---------------------------------------------------------------------------------


class Errors(list[BaseException]):
    def __init__(self) -> None:
        super().__init__()
        self.has_come = Event()

    def note(self, error: BaseException) -> None:
        self.append(error)
        self.has_come.set()


@pytest.fixture
def start_pool() -> Iterator[Callable[..., tuple[DispatcherPool, Errors]]]:
    pools: list[DispatcherPool] = []

    def start(
        dispatcher: Dispatcher, worker_count: int = 2, clock: Callable[[], float] = time.monotonic
    ) -> tuple[DispatcherPool, Errors]:
        errors = Errors()
        pool = DispatcherPool(dispatcher, clock, worker_count, errors.note)
        pool.start()
        pools.append(pool)
        return pool, errors

    yield start
    for pool in pools:
        pool.stop()


class Posting:
    """A dispatcher whose every event is carried by the workers of a pool, one after the other."""

    def __init__(self, worker_count: int, clock: Callable[[], float], **settings: Any) -> None:
        self.dispatcher = Dispatcher(clock, **settings)
        self.pool = DispatcherPool(self.dispatcher, clock, worker_count, self.note)
        self.errors: list[BaseException] = []
        self.pool.start()

    def note(self, error: BaseException) -> None:
        self.errors.append(error)

    def __repr__(self) -> str:
        return repr(self.dispatcher)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.dispatcher, name)
        if name not in {"submit", "resubmit", "cancel", "abandon", "tick", "put_node", "set_state", "set_health"}:
            return attribute

        def call(*args: Any) -> Any:
            answer = gevent.event.AsyncResult()

            def event() -> None:
                try:
                    answer.set(attribute(*args))
                except Exception as error:
                    answer.set_exception(error)

            self.pool.post(event)
            return answer.get(timeout=10)

        return call


@pytest.mark.parametrize("worker_count", [1, 100])
def test_any_number_of_workers_obeys_the_laws(worker_count: int) -> None:
    @given(history=histories())
    @settings(max_examples=60, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
    def check(history: History) -> None:
        built: list[Posting] = []

        def make(clock: Callable[[], float], **settings: Any) -> Posting:
            built.append(Posting(worker_count, clock, **settings))
            return built[0]

        try:
            check_history(make, history)
            assert built[0].errors == []
        finally:
            built[0].pool.stop()

    check()


def test_events_posted_at_once_give_the_same_grants_with_1_and_100_workers(
    start_pool: Callable[..., tuple[DispatcherPool, Errors]],
) -> None:
    grants = []
    for worker_count in (1, 100):
        dispatcher = make_dispatcher(limit=20)
        pool, errors = start_pool(dispatcher, worker_count, lambda: 0.0)
        leases = [held(dispatcher) for _ in range(20)]
        tickets = [Ticket(f"w{i}", "llama", Priority(i % 4), FAR) for i in range(60)]
        for ticket in tickets:
            dispatcher.submit(ticket)
        done = Event()
        for lease in leases:
            pool.post(lease.release)
        pool.post(lambda dispatcher=dispatcher: dispatcher.cancel("w59"))
        pool.post(done.set)
        assert done.wait(timeout=5)
        assert errors == []
        grants.append([ticket.id for ticket in tickets if ticket.lease is not None])
    assert grants[0] == grants[1]
    assert len(grants[0]) == 20


def test_a_ticket_is_woken_at_its_deadline_by_the_pool(
    start_pool: Callable[..., tuple[DispatcherPool, Errors]],
) -> None:
    dispatcher = make_dispatcher(clock=time.monotonic)
    start_pool(dispatcher)
    held(dispatcher)
    ticket = a_ticket(deadline=time.monotonic() + 0.03)
    dispatcher.submit(ticket)
    with pytest.raises(QueueTimeout) as late, gevent.Timeout(5):
        ticket.wait()
    assert time.monotonic() >= ticket.deadline
    assert 0.03 <= late.value.waited_s < 1


def test_a_deadline_earlier_than_all_others_wakes_the_time_keeper(
    start_pool: Callable[..., tuple[DispatcherPool, Errors]],
) -> None:
    dispatcher = make_dispatcher(clock=time.monotonic)
    start_pool(dispatcher)
    held(dispatcher)
    patient = a_ticket(deadline=time.monotonic() + 1000)
    dispatcher.submit(patient)
    gevent.idle()  # the time keeper now sleeps until the far deadline
    hasty = a_ticket(deadline=time.monotonic() + 0.02)
    dispatcher.submit(hasty)
    with pytest.raises(QueueTimeout), gevent.Timeout(5):
        hasty.wait()
    assert patient.is_waiting


def test_a_withheld_slot_is_granted_by_the_pool_when_its_time_has_come(
    start_pool: Callable[..., tuple[DispatcherPool, Errors]],
) -> None:
    dispatcher = make_dispatcher(clock=time.monotonic)
    start_pool(dispatcher)
    lease = held(dispatcher)
    ticket = a_ticket(deadline=time.monotonic() + 1000)
    dispatcher.submit(ticket)
    lease.release(hold_back_s=0.02)
    assert ticket.is_waiting
    with gevent.Timeout(5):
        assert ticket.wait().node.id == "gpu-01"


@pytest.mark.parametrize("worker_count", [1, 100])
def test_an_event_that_raises_does_not_kill_the_workers(
    worker_count: int, start_pool: Callable[..., tuple[DispatcherPool, Errors]]
) -> None:
    pool, errors = start_pool(make_dispatcher(), worker_count, lambda: 0.0)

    def fails() -> None:
        raise RuntimeError("on purpose")

    for _ in range(2 * worker_count):
        pool.post(fails)
    done = Event()
    pool.post(done.set)
    assert done.wait(timeout=5)
    assert [str(error) for error in errors] == ["on purpose"] * (2 * worker_count)


def test_a_timer_that_raises_does_not_stop_the_time_keeper(
    start_pool: Callable[..., tuple[DispatcherPool, Errors]],
) -> None:
    dispatcher = make_dispatcher(clock=time.monotonic)
    _, errors = start_pool(dispatcher)

    def fails() -> None:
        raise RuntimeError("on purpose")

    done = Event()
    dispatcher.timetable.add(time.monotonic(), fails)
    dispatcher.timetable.add(time.monotonic() + 0.001, done.set)
    assert done.wait(timeout=5)
    assert [str(error) for error in errors] == ["on purpose"]


def test_a_stopped_pool_leaves_no_greenlet_behind() -> None:
    pool = DispatcherPool(make_dispatcher(), lambda: 0.0, 10, pytest.fail)
    pool.start()
    gevent.idle()
    pool.stop()
    assert len(pool._pool) == 0


def test_ten_thousand_waiting_tickets_wake_nobody(
    start_pool: Callable[..., tuple[DispatcherPool, Errors]],
) -> None:
    looks = count()

    def clock() -> float:
        next(looks)
        return time.monotonic()

    dispatcher = make_dispatcher(clock=clock)
    start_pool(dispatcher, 10, clock)
    held(dispatcher)
    gateway = Gateway(dispatcher)
    deadline = time.monotonic() + 1000
    waiters = [gevent.spawn(gateway.serve, a_ticket(deadline=deadline + i)) for i in range(10_000)]
    gevent.idle()
    assert dispatcher.waiting_count == 10_000

    switches: list[tuple[Any, Any]] = []
    looks_before = next(looks)
    former = greenlet.settrace(lambda event, args: switches.append(args))
    try:
        gevent.sleep(0.2)
    finally:
        greenlet.settrace(former)
    assert next(looks) == looks_before + 1, "nobody has looked at the clock"
    assert len(switches) == 2, "to the loop, and back to the test"

    dispatcher.close()
    gevent.joinall(waiters, timeout=30, raise_error=True)
    assert dispatcher.waiting_count == 0
    assert len(gateway.ended) == 10_000


def test_an_administrator_cancels_a_waiter() -> None:
    dispatcher = make_dispatcher()
    gateway = Gateway(dispatcher)
    held(dispatcher)
    ticket = a_ticket()
    waiter = gevent.spawn(gateway.serve, ticket)
    gevent.idle()
    dispatcher.cancel(ticket.id)
    waiter.join(timeout=5)
    assert isinstance(gateway.ended[ticket.id], Cancelled)
