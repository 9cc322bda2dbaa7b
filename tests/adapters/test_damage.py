import sqlite3
import time
from contextlib import closing

import pytest
from sqlalchemy import select

from scheduler.adapters import migrate
from scheduler.adapters.damage import (
    damage_warnings,
    find_damage,
    interrupted_after,
    moved_aside,
    set_aside_if_damaged,
    succeed_damaged,
)
from scheduler.adapters.database import open_database
from scheduler.adapters.node_store import SqlNodeStore
from scheduler.adapters.roster_snapshot import RosterSnapshot
from scheduler.adapters.tables import EVENTS, NODES
from tests.adapters.test_node_store import new_node


@pytest.fixture
def snapshot(tmp_path):
    return RosterSnapshot(tmp_path / "roster.json")


@pytest.fixture
def filled_file(tmp_path):
    file = tmp_path / "filled.db"
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE lines (number INTEGER PRIMARY KEY, line)")
        database.executemany("INSERT INTO lines (line) VALUES (?)", [("x" * 100,)] * 50_000)
        database.execute("CREATE INDEX by_line ON lines (line)")
    database.close()
    return file


def scratch(file, offset, size=4096):
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(b"\xa5" * size)


def test_a_sound_file_and_one_that_is_not_there_show_no_damage(filled_file, tmp_path):
    assert find_damage(filled_file) is None
    assert find_damage(tmp_path / "none.db") is None


@pytest.mark.parametrize("offset", [0, 4096, 400_000])
def test_a_file_with_a_scratched_page_shows_damage(filled_file, offset):
    scratch(filled_file, offset)
    assert find_damage(filled_file)


def test_a_file_that_was_cut_shows_damage(filled_file):
    with filled_file.open("r+b") as opened:
        opened.truncate(200_000)
    assert find_damage(filled_file)


def test_a_locked_file_shows_no_damage(filled_file):
    other = sqlite3.connect(filled_file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert find_damage(filled_file) is None
    other.close()


def test_a_long_look_is_cut_short(filled_file):
    begun = time.monotonic()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with closing(sqlite3.connect(filled_file, check_same_thread=False)) as database:
        with pytest.raises(sqlite3.OperationalError, match="interrupted"), interrupted_after(database, 0.05):
            database.execute(endless).fetchone()
        # And a short one is not disturbed afterwards.
        with interrupted_after(database, 0.05):
            pass
        assert database.execute("SELECT count(*) FROM lines").fetchone() == (50_000,)
    assert time.monotonic() - begun < 5


def test_a_damaged_file_is_moved_aside_with_what_belongs_to_it(filled_file, snapshot):
    scratch(filled_file, 0)
    filled_file.with_name("filled.db-wal").write_bytes(b"log")
    assert damage_warnings(filled_file) == []
    assert set_aside_if_damaged(filled_file, snapshot)
    [aside] = moved_aside(filled_file)
    assert aside.name.startswith("filled.db.damaged-2")
    assert not list(filled_file.parent.glob("filled.db-*"))
    assert [str(aside) in warning for warning in damage_warnings(filled_file)] == [True]
    assert not set_aside_if_damaged(filled_file, snapshot)


def test_a_file_that_has_become_empty_is_damaged_only_where_there_were_nodes(tmp_path, snapshot):
    file = tmp_path / "empty.db"
    file.touch()
    assert not set_aside_if_damaged(file, snapshot)
    snapshot.write([])
    assert set_aside_if_damaged(file, snapshot)


def test_the_snapshot_follows_each_change_of_the_nodes_and_is_for_its_owner_only(writer, snapshot):
    store = SqlNodeStore(writer, snapshot)
    first, second = new_node(id="gpu-01", api_key="sk-node"), new_node(id="gpu-02", is_deleted=True)
    store.save(first)
    store.save(second)
    assert snapshot.read() == store.load() == [first, second]
    assert snapshot.file.stat().st_mode & 0o777 == 0o600
    store.delete("gpu-01")
    assert snapshot.read() == [second]
    snapshot.file.unlink()
    store.load()
    assert snapshot.read() == [second]


def test_a_snapshot_that_cannot_be_written_does_not_stop_a_change(writer, tmp_path, caplog):
    store = SqlNodeStore(writer, RosterSnapshot(tmp_path / "missing" / "roster.json"))
    store.save(new_node(id="gpu-01"))
    assert [node.id for node in store.load()] == ["gpu-01"]
    assert "is not written: No such file or directory" in caplog.text


@pytest.mark.parametrize("words", ["", "[]", '{"format": 2}', '{"format": 1, "nodes": [{"id": "gpu-01"}]}'])
def test_a_file_that_is_no_snapshot_is_refused(snapshot, words):
    snapshot.file.write_text(words)
    with pytest.raises(ValueError):
        snapshot.read()


def test_a_new_database_gets_the_nodes_and_the_event_once(app, database_file, snapshot, caplog):
    snapshot.write([new_node(id="gpu-01", api_key="sk-node"), new_node(id="gpu-02", is_deleted=True)])
    database_file.parent.mkdir()
    database_file.write_bytes(b"not a database, " * 1000)
    assert set_aside_if_damaged(database_file, snapshot)
    engine = open_database(app, path=str(database_file))
    migrate.upgrade(app)
    for _ in range(2):
        with engine.begin() as connection:
            succeed_damaged(connection, database_file, snapshot)
            connection.exec_driver_sql("DELETE FROM nodes WHERE id = 'gpu-02'")
    with engine.connect() as connection:
        assert connection.execute(select(NODES.c.id, NODES.c.api_key)).all() == [("gpu-01", "sk-node")]
        [event] = connection.execute(select(EVENTS.c.kind, EVENTS.c.note)).all()
    assert event.kind == "database.damaged"
    assert "1 nodes come from roster.json" in event.note
    assert event.note in caplog.text


def test_without_a_usable_snapshot_it_says_so(app, database_file, snapshot):
    snapshot.file.write_text("{")
    database_file.parent.mkdir()
    database_file.write_bytes(b"not a database, " * 1000)
    assert set_aside_if_damaged(database_file, snapshot)
    engine = open_database(app, path=str(database_file))
    migrate.upgrade(app)
    with engine.begin() as connection:
        succeed_damaged(connection, database_file, snapshot)
        [note] = connection.execute(select(EVENTS.c.note)).scalars()
    assert "roster.json of the nodes cannot be used" in note
