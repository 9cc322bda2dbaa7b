"""Records that go to the disk while the database takes none, and come back."""

import errno
import logging
from types import SimpleNamespace

import gevent
import pytest
from sqlalchemy import func, select

from scheduler.adapters.boots import begin_boot, mark_interrupted
from scheduler.adapters.recorder import COLUMNS, BatchRecorder, request_row
from scheduler.adapters.spool import RESERVED_BYTES, Spool, dead_spools
from scheduler.adapters.tables import ROLLUP_INBOX, ROLLUPS
from scheduler.gateway.record import Attempt
from tests.adapters.conftest import START
from tests.adapters.test_recorder import Switch, rows_of


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool" / "boot-1.jsonl", COLUMNS)


@pytest.fixture
def recorder(writer, spool):
    recorder = BatchRecorder(writer, interval_s=0.01, spool=spool, spill_after_s=0.0, spill_above=10)
    recorder.start()
    yield recorder
    recorder.stop(1)


@pytest.fixture
def away(recorder, new_record):
    """The database takes nothing any more, and the recorder has met that with record 1."""
    switch = Switch(recorder)
    switch.is_on = False
    recorder.save(new_record(1))
    assert switch.has_failed.wait(5)
    return switch


def until(check):
    with gevent.Timeout(5):
        while not check():
            gevent.sleep(0.005)


def counted(writer):
    """Requests in the rollups, by outcome, those of the inbox included."""

    def count(connection):
        inbox = connection.execute(select(func.count()).select_from(ROLLUP_INBOX)).scalar_one()
        rows = connection.execute(
            select(ROLLUPS.c.name, func.sum(ROLLUPS.c.requests))
            .where(ROLLUPS.c.dimension == "outcome", ROLLUPS.c.step_ms == 60_000)
            .group_by(ROLLUPS.c.name)
        )
        return inbox, {name: int(total) for name, total in rows}

    return writer.run(count)


def test_past_a_bound_finished_rows_go_to_the_disk_and_come_back_in_order_when_the_database_does(
    recorder, away, writer, new_record, caplog
):
    with caplog.at_level(logging.WARNING):
        for number in range(2, 2_502):
            recorder.save(new_record(number, ended="completed"))
        until(lambda: recorder.backlog <= 10)
        assert recorder.overflow.count >= 2_490
        away.is_on = True
        assert recorder.flush(5)
    assert [row["id"] for row in rows_of(writer)] == [f"r-{number:05}" for number in range(1, 2_502)]
    assert (recorder.lost, recorder.backlog, recorder.overflow.count) == (0, 0, 0)
    assert "Rows go to the spool" in caplog.text
    assert "are in the database now" in caplog.text


def test_within_the_bound_nothing_goes_to_the_disk(recorder, away, new_record):
    for number in range(2, 11):
        recorder.save(new_record(number, ended="completed"))
    gevent.sleep(0.05)
    assert (recorder.overflow.count, recorder.backlog) == (0, 10)
    away.is_on = True


def test_the_end_of_a_record_wins_over_its_beginning_that_the_database_had_refused(recorder, away, writer, new_record):
    recorder.save(new_record(1, ended="completed"))
    for number in range(2, 50):
        recorder.save(new_record(number, ended="completed"))
    until(lambda: recorder.overflow.count >= 39)
    away.is_on = True
    assert recorder.flush(5)
    assert {row["status"] for row in rows_of(writer)} == {"completed"}


def test_what_even_the_spool_does_not_take_stays_in_memory_then_is_lost_and_counted(
    recorder, away, writer, new_record, monkeypatch, caplog
):
    recorder.max_backlog = 100

    def full(rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recorder.overflow.spool, "append", full)
    with caplog.at_level(logging.WARNING):
        for number in range(2, 202):
            recorder.save(new_record(number, ended="completed"))
        until(lambda: recorder.overflow.last_error)
        for number in range(202, 302):
            recorder.save(new_record(number, ended="completed"))
    assert (recorder.lost, recorder.backlog, recorder.overflow.count) == (201, 100, 0)
    assert recorder.overflow.last_error == "No space left on device"
    assert caplog.text.count("takes no rows (No space left on device)") == 1
    away.is_on = True
    assert recorder.flush(5)
    assert [row["id"] for row in rows_of(writer)] == ["r-00001", *(f"r-{number:05}" for number in range(203, 302))]


def test_what_a_stop_cannot_write_is_there_at_the_next_start_and_is_counted_once(
    recorder, away, writer, new_record, tmp_path, caplog
):
    for number in range(2, 31):
        recorder.save(new_record(number, ended="completed"))
    assert not recorder.stop(0.05)
    assert "30 of them are kept for the next start" in caplog.text
    later = BatchRecorder(writer)
    for _ in range(2):  # cut short after the rows and before the file was removed: it is done again
        with dead_spools(tmp_path / "spool", COLUMNS) as [spool]:
            assert later.replay(spool) == 30
            spool.count = 1
    begin_boot(tmp_path).close()
    writer.run(lambda connection: mark_interrupted(connection, tmp_path, START))
    outcomes = {row["id"]: row["outcome"] for row in rows_of(writer)}
    assert outcomes.pop("r-00001") == "interrupted"
    assert list(outcomes.values()) == 29 * ["completed"]
    writer.run(lambda connection: later._rollups.fold(connection))
    assert counted(writer) == (0, {"completed": 29, "interrupted": 1})


def test_rows_that_come_while_others_are_brought_back_are_kept_too(recorder, away, writer, new_record):
    for number in range(2, 100):
        recorder.save(new_record(number, ended="completed"))
    until(lambda: recorder.overflow.count)
    spool = recorder.overflow.spool
    read, reads = spool.read, []

    def read_while_more_come(offset, columns):
        reads.append(offset)
        if len(reads) == 1:
            spool.append([request_row(new_record(100, ended="completed"))])
        return read(offset, columns)

    spool.read = read_while_more_come
    away.is_on = True
    assert recorder.flush(5)
    assert len(rows_of(writer)) == 100


def test_a_database_that_hangs_without_an_error_counts_as_away(writer, spool, new_record):
    recorder = BatchRecorder(writer, interval_s=0.01, spool=spool, spill_after_s=0.0, spill_above=10)
    answer = gevent.event.Event()
    recorder._writer = SimpleNamespace(run=lambda work: answer.wait() and writer.run(work), engine=writer.engine)
    recorder.start()
    recorder.save(new_record(1))
    until(lambda: recorder.away_s > 0)
    for number in range(2, 50):
        recorder.save(new_record(number, ended="completed"))
    until(lambda: recorder.overflow.count)
    answer.set()
    assert recorder.stop(5)
    assert len(rows_of(writer)) == 49


NASTY = "\0nul \ud800 half \U0001f600 whole " + "x" * 1_000_000
TEXTS = ("id", "client_request_id", "model", "key_name", "path", "client", "node_id", "decision", "error_code")


@pytest.mark.parametrize("goes_to_the_disk", [False, True])
def test_whatever_text_a_field_holds_its_row_is_kept_on_both_ways(writer, spool, new_record, goes_to_the_disk):
    recorder = BatchRecorder(writer, interval_s=0.01, spool=spool, spill_after_s=0.0, spill_above=0)
    switch = Switch(recorder)
    switch.is_on = not goes_to_the_disk
    recorder.start()
    recorder.save(new_record(1))
    if goes_to_the_disk:
        assert switch.has_failed.wait(5)
    fields = dict.fromkeys((*TEXTS, "error_message"), NASTY)
    recorder.save(new_record(2, ended="completed", attempts=[Attempt(NASTY, 1.0, NASTY)], **fields))
    if goes_to_the_disk:
        until(lambda: recorder.overflow.count == 1)
        assert spool.file.stat().st_blocks * 512 <= RESERVED_BYTES
    switch.is_on = True
    assert recorder.stop(5)
    assert recorder.lost == 0
    [_, row] = rows_of(writer)
    for name in (*TEXTS, "error_message"):
        assert row[name].startswith("\ufffdnul \ufffd"), name
        assert " half \U0001f600 whole x" in row[name], name
        assert len(row[name]) <= 2000
