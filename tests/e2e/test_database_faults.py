"""What becomes of requests and their records when the database is locked, its disk is full, or all is killed."""

import json
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager

import pytest

from tests.support.load import Load
from tests.support.server import eventually

#: The promise is 100 ms; a machine that runs other tests beside may be late.
MOMENT_S = 0.25


def database_file(server):
    return server.folder / "data" / "scheduler.db"


def ask(file, query):
    with closing(sqlite3.connect(file)) as database:
        return database.execute(query).fetchall()


def ids(file):
    return [id_ for (id_,) in ask(file, "SELECT id FROM requests WHERE outcome = 'completed'")]


def assert_counted_once(file):
    """Each finished row is in the figures exactly once; those that are not yet folded are in the inbox."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN")
        (rows,) = database.execute("SELECT count(*) FROM requests WHERE outcome IS NOT NULL").fetchone()
        (counted,) = database.execute(
            "SELECT coalesce(sum(requests), 0) FROM rollups WHERE dimension = 'outcome' AND step_ms = 60000"
        ).fetchone()
        inbox = [json.loads(facts) for (facts,) in database.execute("SELECT facts FROM rollup_inbox")]
    assert counted + sum(len(facts) for facts in inbox) == rows


@contextmanager
def locked(file):
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def wait_for_all(server, load, file=None):
    file = file or database_file(server)
    eventually(lambda: set(load.acknowledged) <= set(ids(file)), "the rows of all that was acknowledged", 30)


@pytest.mark.parametrize("lock_s", [6, pytest.param(60, marks=pytest.mark.soak)])
def test_while_the_database_is_locked_requests_go_on_and_their_rows_arrive_afterwards(server, node, lock_s):
    with Load(server) as load:
        eventually(lambda: len(load.acknowledged) > 20, "some load")
        with locked(database_file(server)):
            before = len(load.acknowledged)
            eventually(lambda: not server.status()["recent"] or server.status()["warnings"], "an answer")
            time.sleep(lock_s)  # what is shown is that time passes
            assert len(load.acknowledged) > before + 20 * lock_s
            assert any("takes no records" in warning for warning in server.status()["warnings"])
    assert (load.refused, load.slowest_s < 2) == ([], True), load
    wait_for_all(server, load)
    assert not any("takes no" in warning or "lost" in warning for warning in server.status()["warnings"])
    assert_counted_once(database_file(server))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_after_each_kill_9_every_request_that_was_a_moment_old_has_its_row_and_is_counted_once(server, node, kills):
    file = database_file(server)
    with Load(server) as load:
        for _ in range(kills):
            before = set(load.acknowledged)  # the last moment of these may have been lost
            eventually(lambda before=before: len(load.acknowledged) > len(before) + 200, "some load")
            killed_at = time.monotonic()
            server.kill()
            old = {id_ for id_, at in list(load.acknowledged.items()) if at < killed_at - MOMENT_S} - before
            assert ask(file, "PRAGMA integrity_check") == [("ok",)]
            assert old
            assert old <= {id_ for (id_,) in ask(file, "SELECT id FROM requests")}
            server.start()
    server.wait_until_idle()
    eventually(lambda: not ask(file, "SELECT id FROM requests WHERE outcome IS NULL"), "the end of all rows")
    assert len(ids(file)) == len(set(ids(file)))
    assert_counted_once(file)


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 16 MB of its own."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1024**2, 4096):
            try:
                while True:
                    file.write(b"\1" * size)
            except OSError:
                continue
    return filler


def test_a_full_disk_loses_no_record_neither_while_it_lasts_nor_by_a_stop(start_server, start_node, small_disk):
    file = small_disk / "scheduler.db"
    server = start_server({"database": {"path": str(file)}})
    server.register("gpu-01", start_node(slots=4).address)
    [spool] = (small_disk / "spool").iterdir()
    assert spool.stat().st_size > 10**6, "no room was set aside"
    with Load(server) as load:
        filler = fill(small_disk)
        eventually(lambda: any("takes no records" in words for words in server.status()["warnings"]), "a warning")
        known = len(load.acknowledged)
        eventually(lambda: len(load.acknowledged) > known + 200, "requests that go on")
        filler.unlink()
        eventually(lambda: not any("takes no" in words for words in server.status()["warnings"]), "the end of it")
        filler = fill(small_disk)
        known = len(load.acknowledged)
        eventually(lambda: len(load.acknowledged) > known + 200, "requests that go on")
    assert load.refused == []
    assert server.stop() == 0
    assert len(set(load.acknowledged) - set(ids(file))) >= 1, "the disk was not full"
    assert spool.exists()
    filler.unlink()
    server.start()
    wait_for_all(server, load, file)
    eventually(lambda: not spool.exists(), "the end of the spool that was brought back")
    assert_counted_once(file)
    assert not any("lost" in warning for warning in server.status()["warnings"])


PROMPT, KEY, NODE_KEY = "canary-prompt-5d1f", "sk-canary-caller-77aa", "sk-canary-node-c09e"


def test_prompts_and_keys_are_in_no_file_and_the_nodes_keys_only_where_the_nodes_are(start_server, start_node):
    server = start_server({"auth": {"api_keys": [{"name": "team", "key": KEY}]}})
    node = start_node(slots=4)
    server.register("gpu-01", node.address, api_key=NODE_KEY)
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"model": "sim", "messages": [{"role": "user", "content": PROMPT}]}
    assert server.post(body, headers=headers, path=f"/v1/chat/completions?q={PROMPT}").status_code == 200
    assert server.post({**body, "stream": True}, headers=headers).status_code == 200
    assert server.post({**body, "model": "none"}, headers=headers).status_code == 404
    assert server.post(json.dumps(body).encode()[:-9], headers=headers).status_code == 400
    assert server.post(body, headers={"Authorization": f"Bearer {KEY}x"}).status_code == 401
    with locked(database_file(server)):  # so that the rows go to the spool
        assert server.post(body, headers=headers).status_code == 200
        assert server.stop() == 0
    spools = list((server.folder / "data" / "spool").iterdir())
    assert spools
    holders = {PROMPT: set(), KEY: set(), NODE_KEY: set()}
    for file in server.folder.rglob("*"):
        if file.is_file() and file.name != "config.yaml":
            for canary in holders:
                if canary.encode() in file.read_bytes():
                    holders[canary].add(file.name)
    assert holders.pop(NODE_KEY) <= {"scheduler.db", "scheduler.db-wal", "roster.json"}
    assert holders == {PROMPT: set(), KEY: set()}
