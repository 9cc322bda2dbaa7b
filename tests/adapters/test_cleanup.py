"""Old records go in small steps, figures stay, the file shrinks, and a wrong clock deletes nothing."""

import os

import gevent
import pytest
from sqlalchemy import func, select

from scheduler.adapters.cleanup import DAY_MS, MINUTE_DAYS, Limits, SqlCleanup
from scheduler.adapters.clock_guard import ClockGuard
from scheduler.adapters.deletions import STEP_ROWS
from scheduler.adapters.event_log import BatchEventLog
from scheduler.adapters.recorder import BatchRecorder
from scheduler.adapters.rollups import Rollups
from scheduler.adapters.statistics import SqlStatistics
from scheduler.adapters.tables import EVENTS, REQUESTS, ROLLUPS
from scheduler.adapters.tally import HOUR_MS, MINUTE_MS, QUARTER_MS
from scheduler.gateway.ports import Event

START = 1_700_000_000.0
DAY = 86400.0


class Clocks:
    """A wall clock that can be set, and a machine that has run since."""

    def __init__(self):
        self.wall = START
        self.up = 1000.0

    def pass_by(self, seconds):
        self.wall += seconds
        self.up += seconds


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def keep(writer):
    recorder = BatchRecorder(writer, interval_s=0)
    recorder.start()

    def keep(*records):
        for record in records:
            recorder.save(record)
        assert recorder.flush(30)

    yield keep
    recorder.stop()


@pytest.fixture
def make(writer, reader, clocks):
    def make(retention_days=7, max_rows=0, rollup_days=400, is_enabled=True, machine="machine-1", interval_s=0.01):
        return SqlCleanup(
            writer,
            reader,
            Limits(retention_days, max_rows, rollup_days),
            ClockGuard(lambda: clocks.wall, lambda: clocks.up, machine),
            is_enabled,
            interval_s,
            wall_clock=lambda: clocks.wall,
        )

    return make


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("scheduler.adapters.cleanup.LEAST_PAUSE_S", 0)
    monkeypatch.setattr("scheduler.adapters.cleanup.REST", 0)


def count(writer, table=REQUESTS, *conditions):
    return writer.run(
        lambda connection: connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    )


def aged(new_record, number, days, **fields):
    return new_record(number, ended="completed", created_at=START - days * DAY, **fields)


def test_what_is_older_than_the_retention_goes_and_its_figures_stay(make, writer, reader, keep, new_record):
    keep(*(aged(new_record, number, number / 100) for number in range(1, 1501)))
    before = SqlStatistics(reader).totals(None, None).figures
    assert make(retention_days=7).clean() == 800
    assert count(writer) == 700
    assert count(writer, REQUESTS, REQUESTS.c.created_at < (START - 7 * DAY) * 1000) == 0
    assert SqlStatistics(reader).totals(None, None).figures == before
    assert make(retention_days=7).clean() == 0


def test_no_step_takes_more_than_some_hundred_rows(make, writer, keep, new_record, monkeypatch):
    keep(*(aged(new_record, number, 30) for number in range(1, 1301)))
    cleanup, steps = make(), []
    run = writer.run

    def counted(work):
        result = run(work)
        steps.append(result)
        return result

    monkeypatch.setattr(writer, "run", counted)
    assert cleanup.clean() == 1300
    assert steps[:4] == [STEP_ROWS, STEP_ROWS, 300, 0]


def test_records_are_written_between_the_steps(make, writer, keep, new_record):
    keep(*(aged(new_record, number, 30) for number in range(1, 3001)))
    cleaning = gevent.spawn(make().clean)
    keep(new_record(5000))
    assert not cleaning.ready()
    assert cleaning.get(timeout=30) == 3000
    assert count(writer) == 1


def test_the_oldest_beyond_the_number_of_rows_go(make, writer, keep, new_record):
    keep(*(aged(new_record, number, 6 - number / 1000) for number in range(1, 1101)))
    assert make(max_rows=300).clean() == 800
    left = writer.run(lambda connection: connection.execute(select(func.min(REQUESTS.c.id))).scalar())
    assert (count(writer), left) == (300, "r-00801")


def test_rollups_live_longer_and_those_of_minutes_less(make, writer, keep, new_record):
    keep(*(aged(new_record, number, number) for number in range(1, 101)))
    writer.run(lambda connection: Rollups(connection.dialect).fold(connection))
    make(retention_days=7, rollup_days=50).clean()
    for step_ms, days in ((MINUTE_MS, MINUTE_DAYS), (HOUR_MS, 50), (QUARTER_MS, 50)):
        kept = writer.run(
            lambda connection, step_ms=step_ms: connection.execute(
                select(func.min(ROLLUPS.c.at), func.count(ROLLUPS.c.at.distinct())).where(ROLLUPS.c.step_ms == step_ms)
            ).one()
        )
        assert kept[0] >= round(START * 1000) - days * DAY_MS - HOUR_MS
        assert kept[1] in (days, days - 1)


def test_figures_are_right_on_both_sides_of_what_has_gone(make, reader, keep, new_record):
    keep(*(aged(new_record, number, number / 40 + 0.0001) for number in range(1, 801)))
    statistics = SqlStatistics(reader)
    ranges = [(START - 15.5 * DAY + 7, START), (START - 3.21 * DAY, START - 0.5), (START - 19 * DAY, START - 9 * DAY)]
    before = [statistics.totals(*each) for each in ranges]
    assert all(each.is_exact for each in before)
    make(retention_days=5).clean()
    after = [statistics.totals(*each) for each in ranges]
    assert after[1] == before[1]
    assert not after[0].is_exact
    assert abs(after[0].figures.requests - before[0].figures.requests) <= 2


def test_the_file_shrinks(make, writer, keep, new_record, database_file):
    keep(*(aged(new_record, number, 30, error_message="x" * 1900) for number in range(1, 4001)))
    keep(*(new_record(number, ended="completed") for number in range(4001, 4100)))
    writer.run(lambda connection: None)
    make().clean()
    pages, free = (
        writer.run(lambda connection, name=name: connection.exec_driver_sql(f"PRAGMA {name}").scalar())
        for name in ("page_count", "freelist_count")
    )
    assert free <= max(256, pages * 0.05)
    assert pages < 800
    with writer.engine.connect() as connection:
        connection.rollback()
        connection.connection.dbapi_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert os.path.getsize(database_file) < 4_000_000


def test_events_are_kept_for_180_days(make, writer):
    events = BatchEventLog(writer, interval_s=0)
    events.start()
    for days in (1, 179, 181, 400):
        events.add(Event(START - days * DAY, "node.up", "gpu-01", "scheduler"))
    assert events.stop()
    make().clean()
    assert count(writer, EVENTS) == 2


@pytest.mark.parametrize("hours", [-2, 2, 24 * 365])
def test_a_clock_that_is_set_deletes_nothing_until_that_is_confirmed(make, writer, keep, new_record, clocks, hours):
    keep(aged(new_record, 1, 30))
    cleanup = make()
    clocks.wall -= 30 * DAY  # nothing is old yet
    cleanup.step()
    clocks.wall += 30 * DAY + hours * 3600
    cleanup.step()
    assert f"{'forward' if hours > -720 else 'back'} by" in (cleanup.state().held or "")
    assert count(writer) == 1
    make().step()  # a restart confirms nothing
    assert count(writer) == 1
    cleanup.ask(clocks.wall - 3650 * DAY)
    cleanup.step()
    assert (cleanup.state().held, count(writer)) == (None, 0)


def test_a_clock_that_is_set_right_again_is_believed_again(make, clocks):
    cleanup = make()
    cleanup.step()
    clocks.wall += 7200
    cleanup.step()
    assert cleanup.state().held
    clocks.wall -= 7200
    cleanup.step()
    assert cleanup.state().held is None


def test_time_that_passes_and_small_corrections_are_no_jump(make, clocks):
    cleanup = make()
    for _ in range(10):
        cleanup.step()
        clocks.pass_by(30 * DAY)
        clocks.wall += 1800
    assert cleanup.state().held is None


def test_a_server_that_was_down_while_the_machine_ran_cleans(make, writer, keep, new_record, clocks):
    keep(aged(new_record, 1, 0))
    make().step()
    clocks.pass_by(10 * DAY)
    cleanup = make()
    cleanup.step()
    assert (cleanup.state().held, count(writer)) == (None, 0)


@pytest.mark.parametrize(("hours", "is_held"), [(0.5, False), (2, True), (-2, True)])
def test_after_a_restart_of_the_machine_the_newest_record_tells(make, keep, new_record, clocks, hours, is_held):
    make().step()
    clocks.pass_by(60)
    keep(new_record(1, created_at=clocks.wall))
    clocks.wall += hours * 3600
    clocks.up = 5.0
    cleanup = make(machine="machine-2")
    cleanup.step()
    assert (cleanup.state().held is not None) is is_held


def test_nothing_goes_by_itself_where_that_is_switched_off(make, writer, keep, new_record):
    keep(*(aged(new_record, number, 30) for number in range(1, 10)))
    cleanup = make(is_enabled=False)
    cleanup.step()
    assert count(writer) == 9
    assert cleanup.matching(START - 7 * DAY) == 9
    cleanup.ask(START - 7 * DAY)
    cleanup.step()
    assert (count(writer), cleanup.state().deleted) == (0, 9)


def test_the_size_is_told(make, keep, new_record, database_file):
    assert (make().size().rows_estimate, make().size().oldest_at) == (0, None)
    keep(*(aged(new_record, number, 3) for number in range(1, 50)))
    size = make().size()
    assert (size.rows_estimate, size.oldest_at) == (49, START - 3 * DAY)
    assert (size.bytes or 0) >= os.path.getsize(database_file)
