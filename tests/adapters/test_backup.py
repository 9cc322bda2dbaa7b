import sqlite3
import threading

import pytest

from scheduler.adapters import backup, migrate
from scheduler.adapters.backup import back_up, back_up_before
from scheduler.adapters.database import open_database
from scheduler.errors import BackupFailed, StartRefused


@pytest.fixture
def source(engine, database_file):
    engine.dispose()
    with sqlite3.connect(database_file) as database:
        database.executemany("INSERT INTO boots VALUES (?, 'home', 1, '1.0', 0)", [(f"b-{n}",) for n in range(1000)])
    database.close()
    return database_file


def count(file):
    with sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (found,) = database.execute("SELECT count(*) FROM boots").fetchone()
    database.close()
    return found


def test_a_backup_is_one_whole_file_for_its_owner_only(source, tmp_path):
    made = back_up(source, tmp_path / "copy.db")
    assert (count(made.file), made.rows["boots"]) == (1000, 1000)
    assert made.size_bytes == made.file.stat().st_size
    assert made.file.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name != "data"] == ["copy.db"]


def test_writers_go_on_during_a_backup_and_the_copy_is_of_one_moment(source, tmp_path):
    is_done = threading.Event()
    written = 1000

    def write():
        nonlocal written
        with sqlite3.connect(source, isolation_level=None, timeout=30) as database:
            while not is_done.is_set():
                written += 1
                database.execute("INSERT INTO boots VALUES (?, 'home', 1, '1.0', 0)", (f"b-{written}",))
        database.close()

    writer = threading.Thread(target=write)
    writer.start()
    before, made = written - 1, back_up(source, tmp_path / "copy.db")
    is_done.set()
    writer.join()
    assert before <= count(made.file) == made.rows["boots"] <= written


def test_a_file_that_exists_is_replaced_only_by_force(source, tmp_path):
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(BackupFailed, match="exists already"):
        back_up(source, target)
    assert target.read_text() == "precious"
    back_up(source, target, force=True)
    assert count(target) == 1000


def test_the_database_itself_is_never_a_target(source, tmp_path):
    (tmp_path / "alias.db").symlink_to(source)
    for target in (source, tmp_path / "alias.db"):
        with pytest.raises(BackupFailed, match="the database itself"):
            back_up(source, target, force=True)


def test_what_cannot_be_is_said_in_one_line(source, tmp_path, monkeypatch):
    with pytest.raises(BackupFailed, match="There is no database"):
        back_up(tmp_path / "none.db", tmp_path / "copy.db")
    with pytest.raises(BackupFailed, match="No such file or directory"):
        back_up(source, tmp_path / "missing" / "copy.db")
    with pytest.raises(BackupFailed, match="is a folder"):
        back_up(source, tmp_path)
    found = iter(({"boots": 1000}, {"boots": 999}))
    monkeypatch.setattr(backup, "_count", lambda connection: next(found))
    with pytest.raises(BackupFailed, match="not as many rows"):
        back_up(source, tmp_path / "copy.db")
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


def test_a_damaged_database_gives_no_backup(source, tmp_path):
    with source.open("r+b") as opened:
        opened.seek(8192)
        opened.write(b"\xa5" * 40_000)
    with pytest.raises(BackupFailed):
        back_up(source, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_of_the_backups_before_migrations_the_last_three_are_kept(source, monkeypatch):
    for second in range(5):
        monkeypatch.setattr("time.strftime", lambda *_, second=second: f"20260101T00000{second}Z")
        back_up_before(source, "0009")
    names = sorted(file.name for file in source.parent.glob("scheduler.db.before-*"))
    assert names == [f"scheduler.db.before-20260101T00000{second}Z-0009" for second in (2, 3, 4)]


@pytest.fixture
def old_file(tmp_path):
    """A database of the first version, with a boot in it."""
    from flask import Flask

    file = tmp_path / "old.db"
    app = Flask("old")
    open_database(app, path=str(file))
    migrate.install(app)
    with app.app_context():
        migrate.command.upgrade(app.extensions["migrate"].migrate.get_config(), "0001")
    with sqlite3.connect(file) as database:
        database.execute("INSERT INTO boots VALUES ('b-1', 'home', 1, '1.0', 0)")
    database.close()
    return file


def test_a_migration_is_preceded_by_a_backup_of_what_was(app, old_file):
    open_database(app, path=str(old_file))
    head = migrate.upgrade(app)
    migrate.upgrade(app)
    [copy] = old_file.parent.glob("old.db.before-*")
    assert copy.name.endswith(head)
    with sqlite3.connect(copy) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        assert database.execute("SELECT id FROM boots").fetchall() == [("b-1",)]
    database.close()


def test_without_a_backup_nothing_is_migrated_unless_asked_for(app, old_file, monkeypatch):
    def fail(source, revision):
        raise BackupFailed("The disk is full.")

    monkeypatch.setattr(migrate, "back_up_before", fail)
    engine = open_database(app, path=str(old_file))
    with pytest.raises(StartRefused, match=r"there is no backup: The disk is full.*--no-backup"):
        migrate.upgrade(app)
    assert migrate.check_revision(engine) == "0001"
    assert migrate.upgrade(app, with_backup=False) != "0001"
