"""How long a busy node is left alone."""

from scheduler.gateway.busy_backoff import BusyBackoff


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_doubles_from_one_second_to_thirty_until_the_node_serves_again() -> None:
    clock = Clock()
    backoff = BusyBackoff(clock)
    waits = []
    for _ in range(7):
        waits.append(backoff.next_s("gpu-01", None))
        clock.now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    backoff.served("gpu-01")
    assert backoff.next_s("gpu-01", None) == 1


def test_requests_that_are_turned_away_together_double_it_once() -> None:
    clock = Clock()
    backoff = BusyBackoff(clock)
    assert [backoff.next_s("gpu-01", None) for _ in range(4)] == [1, 1, 1, 1]
    clock.now += 0.25
    assert backoff.next_s("gpu-01", None) == 0.75
    clock.now += 0.75
    assert backoff.next_s("gpu-01", None) == 2


def test_a_node_may_ask_for_its_own_time_within_bounds() -> None:
    backoff = BusyBackoff(Clock())
    assert [backoff.next_s("gpu-01", asked) for asked in ("5", "0", "3600", "Mon, 1 Jan", "-1", "nan")] == [
        5,
        0.1,
        60,
        1,
        1,
        1,
    ]
