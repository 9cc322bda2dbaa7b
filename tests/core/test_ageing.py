"""Ageing, by readable examples."""

from scheduler.core.priority import Priority
from tests.core.test_dispatcher import Bench, lease_of


def test_a_waiting_ticket_rises_one_level_in_each_interval_and_never_to_critical() -> None:
    bench = Bench(aging_s=10.0)
    bench.node()
    bench.held()
    low = bench.submit(Priority.LOW)
    seen = []
    for _ in range(4):
        seen.append(low.priority.label)
        bench.pass_time(10.0)
    assert seen == ["low", "normal", "high", "high"]


def test_a_risen_ticket_keeps_its_place_of_arrival() -> None:
    bench = Bench(aging_s=10.0)
    bench.node()
    lease = bench.held()
    low = bench.submit(Priority.LOW)
    normal, critical = bench.submit(), bench.submit(Priority.CRITICAL)
    bench.pass_time(5.0)
    bench.core.change_priority(normal.id, Priority.NORMAL)  # its interval begins anew
    bench.pass_time(5.0)
    order = []
    for _ in range(3):
        lease.release()
        (granted,) = [t for t in (low, normal, critical) if t.lease is not None and not t.lease.is_released]
        order.append(granted)
        lease = lease_of(granted)
    assert order == [critical, low, normal]
