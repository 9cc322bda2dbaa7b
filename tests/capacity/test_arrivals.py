"""Arrivals, random and recorded, and the figures of a report."""

import json
import statistics
from itertools import islice
from random import Random

import pytest

from scheduler.capacity.arrivals import Load, ServiceTime, Shape, random_arrivals
from scheduler.capacity.recorded_arrivals import read_records, recorded_arrivals
from scheduler.capacity.report import Waits
from scheduler.core.priority import Priority

SHARES = {Priority.CRITICAL: 1.0, Priority.NORMAL: 8.0, Priority.LOW: 1.0}


def load(model: str = "llama", rate_per_s: float = 5.0) -> Load:
    return Load(model, rate_per_s, ServiceTime(2.0), SHARES)


@pytest.mark.parametrize(("shape", "deviation_s"), [("constant", 0.0), ("exponential", 3.0), ("lognormal", 1.5)])
def test_service_times_have_the_mean_and_the_spread_they_should_have(shape, deviation_s):
    random, service = Random(1), ServiceTime(3.0, Shape(shape), spread=0.5)
    times_s = [service.draw(random) for _ in range(20_000)]
    assert statistics.fmean(times_s) == pytest.approx(3.0, rel=0.03)
    assert statistics.pstdev(times_s) == pytest.approx(deviation_s, rel=0.05)


def test_random_arrivals_come_at_their_rate_with_their_shares():
    arrivals = list(random_arrivals([load(), load("qwen", 1.0)], 2000.0, seed=1))
    assert [a.at_s for a in arrivals] == sorted(a.at_s for a in arrivals)
    assert sum(a.model == "llama" for a in arrivals) == pytest.approx(10_000, rel=0.03)
    assert sum(a.model == "qwen" for a in arrivals) == pytest.approx(2_000, rel=0.07)
    assert sum(a.priority is Priority.CRITICAL for a in arrivals) == pytest.approx(1_200, rel=0.1)
    assert max(a.at_s for a in arrivals) < 2000.0


def test_a_seed_gives_one_model_the_same_requests_whatever_else_comes():
    alone = list(random_arrivals([load()], 60.0, seed=7))
    beside = [a for a in random_arrivals([load("qwen"), load()], 60.0, seed=7) if a.model == "llama"]
    assert alone == beside != list(random_arrivals([load()], 60.0, seed=8))


def test_twice_the_rate_brings_the_same_requests_in_half_the_time():
    slow, fast = (islice(random_arrivals([load(rate_per_s=rate)], 1e9, seed=7), 50) for rate in (1.0, 2.0))
    for a, b in zip(slow, fast, strict=True):
        assert (a.at_s, a.priority, a.service_s) == (pytest.approx(2 * b.at_s), b.priority, b.service_s)


# -- records ----------------------------------------------------------------------------------


def record(number: int, second: float, **fields: object) -> dict[str, object]:
    known = {
        "id": f"req-{number}",
        "model": "llama",
        "priority": "normal",
        "outcome": "completed",
        "created_at": f"2026-11-22T08:00:{second:06.3f}Z",
        "started_at": f"2026-11-22T08:00:{second + 1:06.3f}Z",
        "queue_ms": 1000.0,
        "latency_ms": 3500.0,
    }
    return known | fields


def replayed(records: list[dict[str, object]], **options: object):
    return recorded_arrivals(records, queue_timeout_s=120.0, seed=1, **options)


def test_a_record_becomes_an_arrival_and_the_first_comes_at_once():
    (first, second) = replayed([record(2, 12.5, priority="critical"), record(1, 10.0)]).arrivals
    assert (first.at_s, first.priority, first.service_s) == (0.0, Priority.NORMAL, 2.5)
    assert (second.at_s, second.priority, second.queue_timeout_s) == (2.5, Priority.CRITICAL, 120.0)


def test_scale_lets_them_come_faster():
    assert [a.at_s for a in replayed([record(1, 0), record(2, 10)], scale=4.0).arrivals] == [0.0, 2.5]


def test_a_record_on_two_pages_counts_once():
    assert len(replayed([record(1, 0), record(2, 1), record(1, 0)]).arrivals) == 2


def test_who_got_no_slot_gets_the_service_time_of_another():
    never = {"started_at": None, "outcome": "evicted", "latency_ms": 120_000.0, "queue_ms": 120_000.0}
    recording = replayed([record(1, 0), record(2, 1, **never), record(3, 2, latency_ms=None)])
    assert recording.guessed == 2
    assert [a.service_s for a in recording.arrivals] == [2.5, 2.5, 2.5]


def test_where_no_service_time_is_known_one_has_to_be_said():
    nothing = [record(1, 0, started_at=None)]
    with pytest.raises(ValueError, match="no request for 'llama' ran to an end"):
        replayed(nothing)
    fallback = ServiceTime(4.0, Shape.CONSTANT)
    assert replayed(nothing, fallback=fallback).arrivals[0].service_s == 4.0


def test_a_client_that_left_the_queue_leaves_here_too():
    left = record(1, 0, started_at=None, outcome="client_closed", latency_ms=5000.0)
    assert [a.gives_up_after_s for a in replayed([left, record(2, 1)]).arrivals] == [5.0, None]
    assert [a.gives_up_after_s for a in replayed([left, record(2, 1)], gives_up_after_s=60.0).arrivals] == [5.0, 60.0]


def test_records_are_read_from_json_and_from_csv():
    rows = [record(1, 0), record(2, 1, started_at=None, queue_ms=None)]
    as_csv = ",".join(rows[0]) + "\r\n" + "".join(
        ",".join("" if value is None else str(value) for value in row.values()) + "\r\n" for row in rows
    )  # fmt: skip
    texts = [json.dumps({"requests": rows, "total": 2}), json.dumps(rows), as_csv, "\ufeff" + as_csv]
    assert len({replayed([dict(row) for row in read_records(text)]) for text in texts}) == 1


@pytest.mark.parametrize("text", ['{"error": {}}', "[1]", "{"])
def test_what_holds_no_records_is_refused(text):
    with pytest.raises(ValueError):
        read_records(text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"created_at": "yesterday"}, "record 1: created_at is 'yesterday', not a time like"),
        ({"model": None}, "record 1: has no model"),
        ({"latency_ms": "soon"}, "record 1: could not convert"),
    ],
)
def test_a_bad_record_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        replayed([record(1, 0, **fields)])


def test_a_record_without_a_column_is_named():
    with pytest.raises(ValueError, match="record 1: has no 'created_at'"):
        replayed([{"model": "llama"}])


# -- figures ----------------------------------------------------------------------------------


def test_percentiles_are_waits_that_were_waited():
    assert Waits.of([float(n) for n in range(100, 0, -1)]) == Waits(50.5, 50.0, 95.0, 99.0, 100.0)
    assert Waits.of([float(n) for n in range(1, 21)]).p95_s == 19.0
    assert Waits.of([3.0]) == Waits(3.0, 3.0, 3.0, 3.0, 3.0)
    assert Waits.of([]).max_s is None
