"""Figures of any range agree with what the rows say, and are told in few reads."""

import math
import random

import pytest
from sqlalchemy import delete, select

from scheduler.adapters.marks import MINUTES_GONE_BEFORE, ROWS_GONE_BEFORE, write_mark
from scheduler.adapters.recorder import BatchRecorder
from scheduler.adapters.rollups import Rollups
from scheduler.adapters.sketch import RELATIVE_ERROR
from scheduler.adapters.statistics import SqlStatistics
from scheduler.adapters.tables import REQUESTS, ROLLUPS
from scheduler.adapters.tally import MINUTE_MS
from scheduler.gateway.figures import Durations, Figures, Usage

START = 1_700_000_000.0  # 22:13:20
HOUR = 1_699_999_200.0  # 22:00:00, the hour that START is in


@pytest.fixture
def keep(writer):
    recorder = BatchRecorder(writer, interval_s=0)
    recorder.start()

    def keep(*records):
        for record in records:
            recorder.save(record)
        assert recorder.flush(10)

    yield keep
    recorder.stop()


@pytest.fixture
def statistics(reader):
    return SqlStatistics(reader)


@pytest.fixture
def many(keep, new_record):
    """800 requests over six hours, in batches, so that some are in the inbox and some are not."""
    chance = random.Random(5)
    records = []
    for number in range(1, 801):
        ended = chance.choice(["completed", "completed", "completed", "failed", "evicted"])
        records.append(
            new_record(
                number,
                ended=ended,
                created_at=round(HOUR + chance.uniform(0, 6 * 3600), 3),
                model=chance.choice(["llama", "qwen"]),
                key_name=chance.choice([None, "team-a", "team-b"]),
                node_id=chance.choice(["gpu-01", "gpu-02"]) if ended != "evicted" else None,
                queue_ms=chance.expovariate(0.01),
                first_byte_at=START,
                ttfb_ms=chance.lognormvariate(5, 1),
                latency_ms=chance.lognormvariate(7, 1),
                prompt_tokens=chance.choice([None, 10, 20]),
                completion_tokens=chance.choice([None, 30]),
            )
        )
    for begin in range(0, 800, 150):
        keep(*records[begin : begin + 150])
    return records


def check_durations(found, durations):
    durations = sorted(durations)
    if not durations:
        assert found == Durations()
        return
    assert found.mean_ms == pytest.approx(sum(durations) / len(durations), abs=0.001)
    for share, told in ((0.5, found.p50_ms), (0.95, found.p95_ms), (0.99, found.p99_ms)):
        exact = durations[math.ceil(share * len(durations)) - 1]
        assert told == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001, abs=0.05)


def check(figures, records, measured=None):
    """The figures are those of the records; durations those of the `measured`, else of the completed."""
    assert figures.requests == len(records)
    completed = [record for record in records if record.status == "completed"]
    assert figures.completed == len(completed)
    assert figures.prompt_tokens == sum(record.prompt_tokens or 0 for record in records)
    assert figures.completion_tokens == sum(record.completion_tokens or 0 for record in records)
    measured = completed if measured is None else measured
    check_durations(figures.queue, [record.queue_ms for record in measured])
    check_durations(figures.ttfb, [record.ttfb_ms for record in measured])
    check_durations(figures.latency, [record.latency_ms for record in measured])


def fold(connection):
    """What is still in the inbox knows its very time."""
    Rollups(connection.dialect).fold(connection)


def within(records, start, end):
    return [record for record in records if start <= record.created_at < end]


RANGES = [
    (HOUR, HOUR + 6 * 3600),
    (HOUR + 3600, HOUR + 7200),
    (HOUR + 60, HOUR + 5 * 3600 + 600),
    (HOUR + 61.5, HOUR + 5 * 3600 + 601.234),
    (HOUR + 1000, HOUR + 1300),
    (HOUR + 1000.1, HOUR + 1019.9),
    (HOUR + 3599.999, HOUR + 3600.001),
    (HOUR - 86400, HOUR + 86400),
]


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_totals_of_any_range_are_those_of_its_rows(statistics, many, start, end):
    found = statistics.totals(start, end)
    check(found.figures, within(many, start, end))
    assert (found.pending, found.processing, found.is_exact) == (0, 0, True)


def test_a_range_may_be_open(statistics, many):
    check(statistics.totals(None, None).figures, many)
    check(statistics.totals(HOUR + 777.7, None).figures, within(many, HOUR + 777.7, 2**40))
    check(statistics.totals(None, HOUR + 777.7).figures, within(many, 0, HOUR + 777.7))


@pytest.mark.parametrize("dimension", ["model", "node", "priority", "outcome", "key"])
def test_groups_are_those_of_the_rows(statistics, many, dimension):
    field = {"node": "node_id", "key": "key_name"}.get(dimension, dimension)
    edges = [HOUR + 100.5, HOUR + 3600, HOUR + 7260, HOUR + 7261.25, HOUR + 5 * 3600]
    found = statistics.grouped(edges, dimension)
    assert found.is_exact
    for start, end, groups in zip(edges[:-1], edges[1:], found.ranges, strict=True):
        records = within(many, start, end)
        assert groups.keys() == {getattr(record, field) for record in records}
        for name, figures in groups.items():
            of_group = [record for record in records if getattr(record, field) == name]
            check(figures, of_group, measured=of_group if dimension == "outcome" else None)


def test_ungrouped_ranges_add_up_to_the_whole(statistics, many):
    edges = [HOUR + 300 * number for number in range(73)]
    found = statistics.grouped(edges, None)
    assert sum(groups[None].requests for groups in found.ranges if groups) == 800
    for start, end, groups in zip(edges[:-1], edges[1:], found.ranges, strict=True):
        check(groups.get(None, Figures()), within(many, start, end))


def test_unfinished_requests_are_counted_as_they_are(statistics, keep, new_record):
    keep(new_record(1), new_record(2, status="processing"), new_record(3, ended="completed"))
    found = statistics.totals(START, START + 60)
    assert (found.pending, found.processing, found.figures.requests) == (1, 1, 1)
    assert statistics.totals(START + 1000, None).pending == 0


def usage_of(records):
    expected = {}
    for record in records:
        known = expected.get((record.key_name or "", record.model), Usage(record.key_name, record.model, 0, 0, 0, 0, 0))
        expected[record.key_name or "", record.model] = Usage(
            record.key_name,
            record.model,
            known.requests + 1,
            known.completed + (record.status == "completed"),
            known.prompt_tokens + (record.prompt_tokens or 0),
            known.completion_tokens + (record.completion_tokens or 0),
            known.without_usage + (record.prompt_tokens is None and record.completion_tokens is None),
        )
    return [expected[key] for key in sorted(expected)]


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_usage_is_that_of_the_rows(statistics, many, start, end):
    assert statistics.usage(start, end) == (usage_of(within(many, start, end)), True)


def test_figures_stay_when_the_rows_have_gone(statistics, writer, many):
    def forget(connection):
        connection.execute(delete(REQUESTS))
        write_mark(connection, ROWS_GONE_BEFORE, str(round((HOUR + 6 * 3600) * 1000)))

    writer.run(fold)
    writer.run(forget)
    check(statistics.totals(HOUR, HOUR + 6 * 3600).figures, many)
    found = statistics.totals(HOUR + 60, HOUR + 7260)
    check(found.figures, within(many, HOUR + 60, HOUR + 7260))
    assert found.is_exact
    assert statistics.usage(HOUR, HOUR + 900 * 5)[0] == usage_of(within(many, HOUR, HOUR + 900 * 5))
    # A minute of which the rows are gone belongs to where it begins.
    cut = statistics.totals(HOUR + 61.5, HOUR + 7261.5)
    check(cut.figures, within(many, HOUR + 120, HOUR + 7320))
    assert not cut.is_exact


def test_hours_and_quarters_stay_when_the_minutes_have_gone(statistics, writer, many):
    def forget(connection):
        connection.execute(delete(REQUESTS))
        connection.execute(delete(ROLLUPS).where(ROLLUPS.c.step_ms == MINUTE_MS))
        for name in (ROWS_GONE_BEFORE, MINUTES_GONE_BEFORE):
            write_mark(connection, name, str(round((HOUR + 6 * 3600) * 1000)))

    writer.run(fold)
    writer.run(forget)
    check(statistics.totals(HOUR, HOUR + 6 * 3600).figures, many)
    cut = statistics.totals(HOUR + 60, HOUR + 7260)
    check(cut.figures, within(many, HOUR + 3600, HOUR + 3 * 3600))
    assert not cut.is_exact
    # Local days of any zone begin with a quarter.
    assert statistics.usage(HOUR + 900, HOUR + 8100) == (usage_of(within(many, HOUR + 900, HOUR + 8100)), True)
    assert statistics.usage(HOUR + 60, HOUR + 8100) == (usage_of(within(many, HOUR + 900, HOUR + 8100)), False)


def test_an_empty_database_has_figures_of_nothing(statistics):
    assert statistics.totals(None, None).figures == Figures()
    assert statistics.totals(0.5, 0.75).is_exact
    assert statistics.usage(None, None) == ([], True)
    assert statistics.grouped([0.0, 1.0], "model").ranges == [{}]


def test_ranges_read_rollups_in_one_piece(writer):
    def plan(connection):
        query = select(ROLLUPS).where(
            ROLLUPS.c.step_ms == 1, ROLLUPS.c.dimension == "key", ROLLUPS.c.at >= 1, ROLLUPS.c.at < 2
        )
        compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")]

    assert writer.run(plan) == ["SEARCH rollups USING PRIMARY KEY (step_ms=? AND dimension=? AND at>? AND at<?)"]
