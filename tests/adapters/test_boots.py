import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import select

from scheduler.adapters.boots import GranterLock, begin_boot, mark_interrupted, register_boot
from scheduler.adapters.recorder import BatchRecorder
from scheduler.adapters.tables import BOOTS, REQUESTS
from scheduler.errors import StartRefused

BEGIN_AND_WAIT = """
import sys
from scheduler.adapters.boots import GranterLock, begin_boot
boot = begin_boot(sys.argv[1])
granter = GranterLock(sys.argv[1])
granter.acquire()
print(boot.id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data_dir(database_file):
    return database_file.parent


@pytest.fixture
def other_server(data_dir):
    """A server process that has begun a boot and holds the granter's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN_AND_WAIT, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.boot_id = process.stdout.readline().strip()
    yield process
    process.communicate()


def rows_by_id(writer):
    found = writer.run(lambda connection: connection.execute(select(REQUESTS)).mappings().all())
    return {row["id"]: row for row in found}


def lock_files(data_dir):
    return {file.stem for file in (data_dir / "boots").glob("*.lock")}


@pytest.fixture
def keep(writer):
    recorder = BatchRecorder(writer, interval_s=0)
    recorder.start()

    def keep(*records):
        for record in records:
            recorder.save(record)
        assert recorder.flush(5)

    yield keep
    recorder.stop()


def test_unfinished_rows_of_a_killed_server_are_marked_and_those_of_a_living_one_are_not(
    other_server, data_dir, writer, keep, new_record
):
    own = begin_boot(data_dir)
    keep(
        new_record(1, boot_id=other_server.boot_id),
        new_record(2, boot_id=other_server.boot_id, status="processing"),
        new_record(3, boot_id=other_server.boot_id, ended="completed"),
        new_record(4, boot_id=own.id),
        new_record(5, boot_id="gone-long-ago"),
    )
    assert writer.run(lambda connection: mark_interrupted(connection, data_dir, 1800000000.0)) == 1
    assert rows_by_id(writer)["r-00005"]["status"] == "failed"
    assert lock_files(data_dir) == {own.id, other_server.boot_id}

    other_server.send_signal(signal.SIGKILL)
    other_server.wait()
    assert writer.run(lambda connection: mark_interrupted(connection, data_dir, 1800000001.0)) == 2
    rows = rows_by_id(writer)
    for id_ in ("r-00001", "r-00002"):
        row = rows[id_]
        assert (row["status"], row["outcome"], row["error_code"]) == ("failed", "interrupted", "interrupted")
        assert row["finished_at"] == 1800000001000
        assert row["latency_ms"] is None
    assert rows["r-00003"]["status"] == "completed"
    assert rows["r-00004"]["status"] == "pending"
    assert lock_files(data_dir) == {own.id}
    assert writer.run(lambda connection: mark_interrupted(connection, data_dir, 1800000002.0)) == 0
    own.close()


def test_a_boot_that_has_ended_leaves_no_lock_file(data_dir):
    boot = begin_boot(data_dir)
    assert lock_files(data_dir) == {boot.id}
    boot.close()
    boot.close()
    assert lock_files(data_dir) == set()


def test_a_boot_is_written_down_once(data_dir, writer):
    boot = begin_boot(data_dir)
    for _ in range(2):
        writer.run(lambda connection: register_boot(connection, boot, "1.2.3"))
    rows = writer.run(lambda connection: connection.execute(select(BOOTS)).all())
    assert [(row.id, row.pid, row.version) for row in rows] == [(boot.id, os.getpid(), "1.2.3")]
    boot.close()


def test_boots_of_one_data_folder_share_its_name(data_dir):
    one, two = begin_boot(data_dir), begin_boot(data_dir)
    assert one.home == two.home
    assert one.id != two.id
    one.close()
    two.close()


def test_a_data_folder_that_cannot_be_written_stops_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match="cannot be written"):
        begin_boot(tmp_path / "file")
    with pytest.raises(StartRefused, match="cannot be written"):
        GranterLock(tmp_path / "file").acquire()


def test_a_second_granter_is_refused_by_name(other_server, data_dir):
    lock = GranterLock(data_dir)
    with pytest.raises(StartRefused, match=f"is in use by process {other_server.pid}: ") as refused:
        lock.acquire()
    assert "\n" not in str(refused.value)
    assert not lock.is_held


def test_the_lock_is_free_after_its_holder_was_killed(other_server, data_dir):
    other_server.send_signal(signal.SIGKILL)
    other_server.wait()
    lock = GranterLock(data_dir)
    lock.acquire()
    assert lock.holder_pid() == os.getpid()
    lock.release()


def test_a_released_lock_can_be_taken_by_another_and_again(data_dir):
    one, two = GranterLock(data_dir), GranterLock(data_dir)
    assert one.try_acquire()
    assert one.try_acquire()
    assert not two.try_acquire()
    one.release()
    one.release()
    assert two.try_acquire()
    assert two.is_held
    assert not one.is_held
    two.release()
