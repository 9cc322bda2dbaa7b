import logging
import os
import sqlite3
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from scheduler.adapters.database import check_pragmas, open_database
from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.errors import StartRefused


def test_the_pragmas_are_set_and_read_back(engine):
    assert check_pragmas(engine) == {
        "auto_vacuum": 2,
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 5000,
        "foreign_keys": 1,
    }


def test_a_file_without_incremental_vacuum_is_a_warning_only(app, tmp_path, caplog):
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as old:
        old.execute("CREATE TABLE something (id)")
    with caplog.at_level(logging.WARNING):
        assert check_pragmas(open_database(app, path=str(file)))["auto_vacuum"] == 0
    assert "never shrinks" in caplog.text


def test_a_pragma_that_did_not_take_stops_the_start(app, database_file, monkeypatch):
    engine = open_database(app, path=str(database_file))
    monkeypatch.setattr("scheduler.adapters.database.SQLITE_PRAGMAS", (("synchronous", "FULL", 3),))
    with pytest.raises(StartRefused, match="synchronous=3"):
        check_pragmas(engine)


def test_the_data_folder_is_made_when_missing(app, tmp_path):
    open_database(app, path=str(tmp_path / "a" / "b" / "scheduler.db"))
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_stops_the_start(app, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match=r"file/data of database\.path cannot be made"):
        open_database(app, path=str(tmp_path / "file" / "data" / "scheduler.db"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_stops_the_start(app, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StartRefused, match="not writable"):
        open_database(app, path=str(tmp_path / "scheduler.db"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root:secret@host/db", "only postgresql"),
        ("no url, but a secret", "no database URL"),
        ("sqlite:///:memory:", "must name a file"),
    ],
)
def test_a_url_that_is_of_no_use_stops_the_start_without_showing_its_password(app, url, words):
    with pytest.raises(StartRefused, match=words) as refused:
        open_database(app, url=url)
    assert "secret" not in str(refused.value)


def test_a_sqlite_url_is_as_good_as_a_path(app, tmp_path):
    engine = open_database(app, url=f"sqlite:///{tmp_path}/by-url.db")
    assert check_pragmas(engine)["journal_mode"] == "wal"


def test_errors_do_not_show_the_values_that_were_written(writer):
    def twice(connection):
        for _ in range(2):
            connection.execute(
                text("INSERT INTO boots VALUES (:id, 'home', 1, '0', 0)"), {"id": "something that a caller sent"}
            )

    with pytest.raises(IntegrityError) as refused:
        writer.run(twice)
    assert "a caller sent" not in str(refused.value)


def test_a_transaction_that_reads_first_still_writes_after_another_has_written(engine, writer):
    other = DatabaseThreads(engine, 1)

    def read_then_write(connection):
        connection.execute(text("SELECT count(*) FROM boots")).scalar_one()
        connection.execute(text("INSERT INTO boots VALUES ('a', 'home', 1, '0', 0)"))

    writer.run(read_then_write)
    other.run(lambda connection: connection.execute(text("DELETE FROM boots")))
    writer.run(read_then_write)
    other.close()


def test_a_reader_does_not_wait_for_a_writer(database_file, reader):
    writing = sqlite3.connect(database_file, isolation_level=None)
    writing.execute("BEGIN IMMEDIATE")
    assert reader.run(lambda connection: connection.execute(text("SELECT count(*) FROM nodes")).scalar_one()) == 0
    writing.close()


def test_a_connection_never_writes_into_a_file_that_was_replaced(database_file: Path, writer):
    def count(connection):
        return connection.execute(text("SELECT count(*) FROM boots")).scalar_one()

    assert writer.run(count) == 0
    aside = database_file.with_suffix(".aside")
    database_file.rename(aside)
    with pytest.raises(FileNotFoundError):
        writer.run(count)
    assert not database_file.exists()
    aside.rename(database_file)
    assert writer.run(count) == 0


def test_threads_close_twice_without_complaint(engine):
    threads = DatabaseThreads(engine, 1)
    threads.run(lambda connection: None)
    threads.close()
    threads.close()


def test_two_apps_have_two_databases(tmp_path):
    one, two = (open_database(Flask(name), path=str(tmp_path / f"{name}.db")) for name in ("one", "two"))
    assert one.url.database != two.url.database
