import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import gevent
import pytest
from gevent.event import Event
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from scheduler.adapters.recorder import COLUMNS, BatchRecorder, request_row
from scheduler.adapters.tables import REQUESTS
from scheduler.gateway.record import Attempt


@pytest.fixture
def recorder(writer):
    recorder = BatchRecorder(writer, interval_s=0.01)
    recorder.start()
    yield recorder
    recorder.stop(1)


class Switch:
    """Stands before a recorder's writes: they fail while it is off; every batch that got through is kept."""

    def __init__(self, recorder):
        self.is_on = True
        self.batches = []
        self.has_failed = Event()
        self._write = recorder._write
        recorder._write = self.write
        self._hub_watch = gevent.get_hub().loop.async_()
        self._hub_watch.start(self.has_failed.set)

    def write(self, connection, rows):
        if not self.is_on:
            self._hub_watch.send()
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
        self.batches.append([dict(zip(COLUMNS, row, strict=True)) for row in rows])
        self._write(connection, rows)


def rows_of(writer):
    query = select(REQUESTS).order_by(REQUESTS.c.seq)
    return writer.run(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


def test_a_request_that_begins_and_ends_within_one_flush_is_written_once(recorder, writer, new_record):
    switch = Switch(recorder)
    record = new_record()
    recorder.save(record)
    record.status, record.outcome = "completed", "completed"
    recorder.save(record)
    assert recorder.flush(5)
    assert [len(batch) for batch in switch.batches] == [1]
    assert [row["status"] for row in rows_of(writer)] == ["completed"]


def test_a_row_is_opened_and_later_finished_in_place(recorder, writer, new_record):
    record = new_record(attempts=[Attempt("gpu-01", 12.04)])
    recorder.save(record)
    assert recorder.flush(5)
    assert [(row["status"], row["attempts"]) for row in rows_of(writer)] == [
        ("pending", '[["gpu-01",12.0,"running",null]]')
    ]
    record.status, record.outcome, record.latency_ms = "completed", "completed", 12.5
    record.attempts[0].result, record.attempts[0].duration_ms = "completed", 400.0
    recorder.save(record)
    assert recorder.flush(5)
    assert [(row["status"], row["latency_ms"], row["attempts"]) for row in rows_of(writer)] == [
        ("completed", 12.5, '[["gpu-01",12.0,"completed",400.0]]')
    ]


def test_rows_lie_in_the_order_in_which_the_requests_came(recorder, writer, new_record):
    for number in range(1, 701):
        recorder.save(new_record(number))
    assert recorder.flush(5)
    assert [row["id"] for row in rows_of(writer)] == [f"r-{number:05}" for number in range(1, 701)]


def test_nothing_needs_a_flush_to_be_written(recorder, writer, new_record):
    recorder.save(new_record())
    with gevent.Timeout(5):
        while recorder.backlog:
            gevent.sleep(0.005)
    assert len(rows_of(writer)) == 1


def test_a_failed_batch_is_kept_and_the_newer_state_wins(recorder, writer, new_record, caplog):
    switch = Switch(recorder)
    switch.is_on = False
    first, second = new_record(1), new_record(2)
    with caplog.at_level(logging.WARNING):
        recorder.save(first)
        assert switch.has_failed.wait(5)
        first.status, first.outcome = "completed", "completed"
        recorder.save(first)
        recorder.save(second)
        assert not recorder.flush(0.01)
        assert recorder.backlog == 3
        assert "disk is full" in (recorder.last_error or "")
        switch.is_on = True
        assert recorder.flush(5)
    assert [(row["id"], row["status"]) for row in rows_of(writer)] == [("r-00001", "completed"), ("r-00002", "pending")]
    assert (recorder.lost, recorder.backlog, recorder.last_error) == (0, 0, None)
    assert recorder.last_write_ms is not None
    # Told once, however often it was tried.
    assert caplog.text.count("does not take records") == 1
    assert "takes records again" in caplog.text


def test_past_its_bound_it_puts_the_unfinished_aside_then_loses_the_oldest_finished_and_counts(
    writer, new_record, caplog
):
    recorder = BatchRecorder(writer, max_backlog=3)  # not started: the database could as well be away
    waiting = new_record(1)
    with caplog.at_level(logging.WARNING):
        recorder.save(waiting)
        for number in (2, 3, 4):
            recorder.save(new_record(number, ended="completed"))
        assert (recorder.backlog, recorder.put_aside, recorder.lost) == (3, 1, 0)
        recorder.save(new_record(5, ended="completed"))
    assert (recorder.backlog, recorder.lost) == (3, 1)
    assert "does not take records" in caplog.text
    recorder.start()
    waiting.status, waiting.outcome = "completed", "completed"
    assert recorder.flush(5)
    recorder.save(waiting)
    assert recorder.stop(5)
    assert [row["id"] for row in rows_of(writer)] == ["r-00003", "r-00004", "r-00005", "r-00001"]


def test_a_row_that_the_database_refuses_is_lost_alone(recorder, writer, new_record):
    for number in range(1, 10):
        recorder.save(new_record(number, http_status=2**70 if number == 4 else 200))
    assert recorder.flush(5)
    assert [row["id"] for row in rows_of(writer)] == [f"r-{number:05}" for number in (1, 2, 3, 5, 6, 7, 8, 9)]
    assert recorder.lost == 1


def test_a_record_that_makes_no_row_is_lost_alone(recorder, writer, new_record):
    recorder.save(new_record(1, created_at="yesterday"))
    recorder.save(new_record(2))
    assert recorder.flush(5)
    assert [row["id"] for row in rows_of(writer)] == ["r-00002"]
    assert recorder.lost == 1


def test_the_greenlet_that_writes_is_started_again_with_what_it_held(recorder, writer, new_record):
    switch = Switch(recorder)
    switch.is_on = False
    recorder.save(new_record())
    assert switch.has_failed.wait(5)
    recorder._greenlet.kill()
    switch.is_on = True
    assert recorder.flush(5)
    assert len(rows_of(writer)) == 1


def test_stopping_writes_what_is_left_and_may_be_repeated(writer, new_record):
    recorder = BatchRecorder(writer, interval_s=60)
    recorder.start()
    recorder.save(new_record())
    assert recorder.stop(5)
    assert recorder.stop(5)
    assert len(rows_of(writer)) == 1


def test_stopping_says_what_could_not_be_written(writer, new_record, caplog):
    recorder = BatchRecorder(writer, interval_s=0.01)
    Switch(recorder).is_on = False
    recorder.start()
    recorder.save(new_record())
    assert not recorder.stop(0.05)
    assert "1 records could not be written before the stop" in caplog.text


def test_the_rows_text_is_what_every_database_can_hold(new_record):
    row = dict(zip(COLUMNS, request_row(new_record(model="a\0b\ud800" + "x" * 999, prompt_tokens=2**64)), strict=True))
    assert row["model"].startswith("a\ufffdb\ufffd")
    assert len(row["model"]) == 256
    assert row["prompt_tokens"] is None


LOCKED = """
import {patch}
import sqlite3, threading, time
import gevent, gevent.threadpool
from flask import Flask
from sqlalchemy import func, select
from scheduler.adapters import migrate
from scheduler.adapters.database import open_database
from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.recorder import BatchRecorder
from scheduler.adapters.tables import REQUESTS
from scheduler.gateway.record import RequestRecord

app = Flask("test")
engine = open_database(app, path={file!r})
migrate.upgrade(app)
writer = DatabaseThreads(engine, 1)
recorder = BatchRecorder(writer)
recorder.start()

other = sqlite3.connect({file!r}, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
begun = time.monotonic()
worst_s, number = 0.0, 0
while time.monotonic() - begun < 1.5:
    recorder.save(RequestRecord(f"r-{{number:05}}", "boot", "m", "normal", "/v1/x", False, "::1", time.time()))
    number += 1
    before = time.monotonic()
    gevent.sleep(0.002)
    worst_s = max(worst_s, time.monotonic() - before)
assert recorder.backlog == number, (recorder.backlog, number)
other.execute("COMMIT")
assert recorder.flush(10)
written = writer.run(lambda c: c.execute(select(func.count()).select_from(REQUESTS)).scalar_one())
assert written == number and recorder.lost == 0, (written, number, recorder.lost)
recorder.stop()
writer.close()
print(worst_s)
"""


@pytest.mark.parametrize("patch", ["gevent.monkey; gevent.monkey.patch_all()", "gevent"])
def test_a_database_locked_for_longer_than_a_second_loses_nothing_and_does_not_block_the_hub(patch, tmp_path):
    program = LOCKED.format(patch=patch, file=str(tmp_path / "scheduler.db"))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < 0.3, "the hub stood still"


KILLED = """
import sys, time, gevent
from flask import Flask
from scheduler.adapters import migrate
from scheduler.adapters.database import open_database
from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.recorder import BatchRecorder
from scheduler.gateway.record import RequestRecord

app = Flask("test")
engine = open_database(app, path=sys.argv[1])
migrate.upgrade(app)
recorder = BatchRecorder(DatabaseThreads(engine, 1))
recorder.start()
number = 0
while True:
    recorder.save(RequestRecord(f"r-{number:09}", "boot", "m", "normal", "/v1/x", False, "::1", time.time()))
    print(number, time.time(), flush=True)
    number += 1
    gevent.sleep(0.001)
"""


def test_after_kill_9_every_request_that_was_a_moment_old_has_its_row(tmp_path):
    file = tmp_path / "scheduler.db"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(file)], stdout=subprocess.PIPE, text=True
    )
    given = [process.stdout.readline()]
    while float(given[-1].split()[1]) < float(given[0].split()[1]) + 1:
        given.append(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    killed_at = time.time()
    given += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    # The promise is 100 ms; a machine that runs other tests beside may be late.
    old = {int(line.split()[0]) for line in given if float(line.split()[1]) < killed_at - 0.4}
    database = sqlite3.connect(file)
    written = {int(id_[2:]) for (id_,) in database.execute("SELECT id FROM requests")}
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    assert old
    assert old <= written
