import pytest

from scheduler.core.drain_rate import MAX_RETRY_S, MIN_RETRY_S, DrainRate


def steady(per_second: float, seconds: int = 300) -> DrainRate:
    rate = DrainRate()
    for i in range(int(seconds * per_second)):
        rate.note(i / per_second)
    return rate


def test_before_the_first_grant_the_rate_is_zero_and_the_advice_the_longest() -> None:
    assert DrainRate().per_second(0.0) == 0.0
    assert DrainRate().retry_after_s(1, 0.0) == MAX_RETRY_S


@pytest.mark.parametrize("per_second", [0.5, 2, 20])
def test_a_steady_stream_of_grants_is_measured(per_second: float) -> None:
    assert steady(per_second).per_second(300.0) == pytest.approx(per_second, rel=0.05)


def test_the_rate_halves_in_a_half_life_without_grants() -> None:
    rate = steady(4)
    assert rate.per_second(330.0) == pytest.approx(rate.per_second(300.0) / 2)


def test_the_advice_is_the_time_to_drain_the_queue_in_whole_seconds() -> None:
    assert steady(4).retry_after_s(40, 300.0) in (10, 11)


def test_the_advice_stays_within_what_clients_can_use() -> None:
    rate = steady(4)
    assert rate.retry_after_s(0, 300.0) == MIN_RETRY_S
    assert rate.retry_after_s(1_000_000, 300.0) == MAX_RETRY_S


def test_a_clock_that_stands_still_is_no_trouble() -> None:
    rate = DrainRate()
    rate.note(5.0)
    rate.note(5.0)
    assert rate.per_second(5.0) > 0
