"""Rollups hold what the rows say, each request once, whatever happens to the writes."""

import random
import sqlite3

import pytest
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from scheduler.adapters.boots import mark_interrupted
from scheduler.adapters.marks import ROWS_TO_ROLL_UP, read_mark, write_mark
from scheduler.adapters.recorder import BatchRecorder, request_row
from scheduler.adapters.rollups import (
    COLUMNS,
    FIGURES,
    FOLD_EVERY_S,
    Rollups,
    add_figures,
    read_inbox,
    roll_up_old_rows,
)
from scheduler.adapters.tables import REQUESTS, ROLLUPS
from scheduler.adapters.tally import DAY_MS, HOUR_MS, MINUTE_MS, QUARTER_MS, Facts, Tally, facts_of, fold

START = 1_700_000_000.0
OUTCOMES = ("completed", "failed", "evicted", "client_closed", "rejected")


@pytest.fixture
def recorder(writer):
    recorder = BatchRecorder(writer, interval_s=0)
    recorder.start()
    yield recorder
    recorder.stop(1)


def rollups_of(writer):
    writer.run(lambda connection: Rollups(connection.dialect).fold(connection))
    return writer.run(lambda connection: {tuple(row[:5]): row[5:] for row in connection.execute(select(ROLLUPS))})


def from_the_rows(writer):
    """What the rollups must hold: every finished row, counted in one go."""
    rows = writer.run(
        lambda connection: connection.execute(select(REQUESTS).where(REQUESTS.c.outcome.is_not(None))).mappings().all()
    )
    return fold([facts_of(row) for row in rows])


def check(writer):
    found, expected = rollups_of(writer), from_the_rows(writer)
    assert found.keys() == {tuple(key) for key in expected}
    for key, tally in expected.items():
        read = Tally()
        add_figures(read, found[tuple(key)])
        for name in FIGURES:
            assert getattr(read, name) == getattr(tally, name), (key, name)


def some(new_record, number, chance):
    ended = chance.choice(OUTCOMES)
    return new_record(
        number,
        ended=ended,
        created_at=START + chance.uniform(0, 7200),
        model=chance.choice(["llama", "qwen"]),
        priority=chance.choice(["normal", "high"]),
        key_name=chance.choice([None, "team-a", "team-b"]),
        node_id=None if ended == "rejected" else chance.choice(["gpu-01", "gpu-02"]),
        queue_ms=chance.expovariate(0.01),
        first_byte_at=START,
        ttfb_ms=chance.expovariate(0.01),
        latency_ms=chance.expovariate(0.001),
        prompt_tokens=chance.choice([None, 10, 20]),
        completion_tokens=chance.choice([None, 30]),
    )


def test_rollups_say_what_the_rows_say(recorder, writer, new_record):
    chance = random.Random(1)
    for number in range(1, 601):
        recorder.save(some(new_record, number, chance))
        if number % 90 == 0:
            assert recorder.flush(5)
    recorder.save(new_record(700))  # not yet finished: in no rollup
    assert recorder.flush(5)
    check(writer)
    total = Tally()
    for key, figures in rollups_of(writer).items():
        if key[:2] == (HOUR_MS, "outcome"):
            add_figures(total, figures)
    assert total.requests == 600
    assert {key[:2] for key in rollups_of(writer)} == {
        *(
            (step, name)
            for step in (MINUTE_MS, HOUR_MS, DAY_MS)
            for name in ("outcome", "model", "node", "priority", "key")
        ),
        *((step, "key_model") for step in (MINUTE_MS, QUARTER_MS, DAY_MS)),
    }


def test_a_batch_that_is_written_again_is_counted_once(recorder, writer, new_record):
    rows = [request_row(new_record(number, ended="completed")) for number in range(1, 300)]
    for part in (rows[:200], rows, rows):  # as after a commit of which the answer was lost
        writer.run(lambda connection, part=part: recorder._write(connection, part))
    check(writer)


def test_a_batch_that_fails_after_its_rollups_leaves_nothing(recorder, writer, new_record):
    row = request_row(new_record(1, ended="completed"))

    def write_and_fail(connection):
        recorder._write(connection, [row])
        raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))

    with pytest.raises(OperationalError):
        writer.run(write_and_fail)
    assert rollups_of(writer) == {}
    writer.run(lambda connection: recorder._write(connection, [row]))
    check(writer)


def test_a_row_is_counted_when_it_is_finished_and_not_when_it_is_opened(recorder, writer, new_record):
    record = new_record(1)
    recorder.save(record)
    assert recorder.flush(5)
    assert rollups_of(writer) == {}
    record.status, record.outcome, record.latency_ms = "completed", "completed", 12.5
    recorder.save(record)
    assert recorder.flush(5)
    recorder.save(record)
    assert recorder.flush(5)
    check(writer)


def test_requests_that_a_dead_server_left_are_counted_as_interrupted(recorder, writer, new_record, database_file):
    recorder.save(new_record(1, boot_id="gone", node_id="gpu-01"))
    recorder.save(new_record(2, boot_id="gone", ended="completed"))
    assert recorder.flush(5)
    for _ in range(2):
        writer.run(lambda connection: mark_interrupted(connection, database_file.parent, START + 60))
    check(writer)
    assert {key[3] for key in rollups_of(writer) if key[1] == "outcome"} == {"completed", "interrupted"}


def test_rows_of_a_version_without_rollups_are_counted_once(recorder, writer, new_record):
    chance = random.Random(2)
    for number in range(1, 301):
        recorder.save(some(new_record, number, chance))
    assert recorder.flush(5)

    def as_before(connection):
        connection.execute(delete(ROLLUPS))
        write_mark(connection, ROWS_TO_ROLL_UP, "200")

    writer.run(as_before)
    assert writer.run(roll_up_old_rows) == 200
    assert writer.run(roll_up_old_rows) == 0
    assert writer.run(lambda connection: read_mark(connection, ROWS_TO_ROLL_UP)) is None
    counted = sum(figures[0] for key, figures in rollups_of(writer).items() if key[:2] == (HOUR_MS, "outcome"))
    assert counted == 200


def test_models_that_callers_made_up_share_one_rollup(recorder, writer, new_record):
    for number in range(1, 50):
        recorder.save(new_record(number, ended="rejected", model=f"made-up-{number}", error_code="model_not_found"))
    assert recorder.flush(5)
    assert {key[3] for key in rollups_of(writer) if key[1] == "model"} == {""}


def test_answers_without_usage_are_told_apart_from_errors():
    facts = Facts(0, "m", "n", "normal", "completed", None, None, 1, 1.0, 1.0, 1.0, None, None)
    tally = Tally()
    for each in (
        facts,
        facts._replace(prompt_tokens=3),
        facts._replace(outcome="failed", error_code="upstream_http_500"),
        facts._replace(outcome="client_closed", error_code="client_closed"),
        facts._replace(outcome="evicted", first_byte_at=None),
        facts._replace(prompt_tokens=10**15),  # no engine means this
    ):
        tally.count(each)
    assert (tally.requests, tally.without_usage, tally.prompt_tokens) == (6, 3, 3)


def test_durations_are_those_of_completed_requests_except_by_outcome():
    facts = Facts(0, "m", "n", "normal", "completed", "k", None, 1, 5.0, 6.0, 7.0, 1, 1)
    tallies = fold([facts, facts._replace(outcome="evicted", queue_ms=9000.0)])
    sums = {(key.dimension, key.name): tally.queue_us for key, tally in tallies.items() if key.step_ms == MINUTE_MS}
    assert sums == {
        ("outcome", "completed"): 5000,
        ("outcome", "evicted"): 9_000_000,
        ("model", "m"): 5000,
        ("node", "n"): 5000,
        ("priority", "normal"): 5000,
        ("key", "k"): 5000,
        ("key_model", "k"): 0,
    }


def test_what_a_killed_server_left_in_the_inbox_is_still_counted(writer, new_record):
    clock = [0.0]
    rollups = Rollups(writer.engine.dialect, lambda: clock[0])
    facts = Facts(0, "m", "n", "normal", "completed", "k", None, 1, 5.0, 6.0, 7.0, 1, 1)
    writer.run(lambda connection: rollups.add(connection, [facts]))  # folded at once: it is the first
    writer.run(lambda connection: rollups.add(connection, [facts, facts]))
    assert writer.run(read_inbox)[1] == [facts, facts]
    clock[0] = FOLD_EVERY_S
    writer.run(lambda connection: rollups.add(connection, [facts]))
    assert writer.run(read_inbox) == (None, [])
    assert rollups_of(writer)[(HOUR_MS, "key", 0, "k", "")][0] == 4
    writer.run(lambda connection: rollups.add(connection, [facts]))
    assert rollups_of(writer)[(HOUR_MS, "key", 0, "k", "")][0] == 5  # by another writer


def test_rollups_are_found_by_their_key(writer):
    def plan(connection):
        query = Rollups(connection.dialect)._select(4)
        keys = ("?", "outcome", 0, "x", "") * 4
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", keys)]

    assert any("SEARCH rollups USING PRIMARY KEY" in line for line in writer.run(plan))
    assert len(COLUMNS) == len(ROLLUPS.columns)
