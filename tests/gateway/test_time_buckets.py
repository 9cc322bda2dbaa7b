from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from scheduler.gateway.time_buckets import STEPS, bucket_edges, find_zone, month_range, usual_step

BERLIN = ZoneInfo("Europe/Berlin")


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def hours_of(edges):
    return [(end - begin) / 3600 for begin, end in pairwise(edges)]


def test_days_are_those_of_the_zone_also_where_they_have_23_or_25_hours():
    spring = bucket_edges(at("2025-03-28T23:00"), at("2025-03-31T22:00"), "1d", BERLIN)
    assert hours_of(spring) == [24, 23, 24]
    autumn = bucket_edges(at("2025-10-24T22:00"), at("2025-10-27T23:00"), "1d", BERLIN)
    assert hours_of(autumn) == [24, 25, 24]


def test_hours_go_on_through_a_change_of_the_clock():
    edges = bucket_edges(at("2025-10-25T22:00"), at("2025-10-26T23:00"), "1h", BERLIN)
    assert hours_of(edges) == [1] * 25
    assert hours_of(bucket_edges(at("2025-03-29T23:00"), at("2025-03-30T22:00"), "6h", BERLIN)) == [6, 6, 6, 5]


def test_the_first_and_the_last_bucket_are_cut_by_the_range():
    edges = bucket_edges(at("2025-01-01T10:20"), at("2025-01-01T12:05"), "1h", UTC)
    assert edges == [at(f"2025-01-01T{time}") for time in ("10:20", "11:00", "12:00", "12:05")]
    assert bucket_edges(1.5, 2.5, "1d", UTC) == [1.5, 2.5]


def test_zones_that_are_half_an_hour_off_have_their_own_days():
    edges = bucket_edges(at("2025-01-01T00:00"), at("2025-01-02T00:00"), "1d", ZoneInfo("Asia/Kolkata"))
    assert edges[1] == at("2025-01-01T18:30")


def test_a_day_without_a_midnight_begins_when_the_clock_has_jumped():
    # In 2018 Brazil went from 23:59 on the 3rd to 01:00 on the 4th of November.
    edges = bucket_edges(at("2018-11-03T03:00"), at("2018-11-05T02:00"), "1d", ZoneInfo("America/Sao_Paulo"))
    assert hours_of(edges) == [24, 23]


def test_weeks_begin_on_monday_and_months_on_the_first():
    assert bucket_edges(at("2025-01-01"), at("2025-01-14"), "1w", UTC)[1:-1] == [at("2025-01-06"), at("2025-01-13")]
    assert bucket_edges(at("2024-11-20"), at("2025-02-02"), "1mo", UTC)[1:-1] == [
        at("2024-12-01"),
        at("2025-01-01"),
        at("2025-02-01"),
    ]
    assert month_range(2025, 3, BERLIN) == (at("2025-02-28T23:00"), at("2025-03-31T22:00"))
    assert month_range(2024, 12, UTC) == (at("2024-12-01"), at("2025-01-01"))


@pytest.mark.parametrize("step", STEPS)
def test_edges_rise_and_lie_within_the_range(step):
    start = at("2025-03-29T11:11:11")
    edges = bucket_edges(start, start + 40 * STEPS[step], step, ZoneInfo("Asia/Kathmandu"))
    assert all(begin < end for begin, end in pairwise(edges))
    assert 40 <= len(edges) - 1 <= 44


def test_the_usual_step_suits_the_range():
    assert [usual_step(hours * 3600) for hours in (1, 24, 24 * 30, 24 * 400)] == ["1m", "15m", "6h", "1w"]


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "/etc/passwd", "Europe", "", "a\0b", "x" * 5000])
def test_what_names_no_zone_is_none(name):
    assert find_zone(name) is None


def test_utc_needs_no_list_of_zones():
    assert find_zone("utc") is UTC
