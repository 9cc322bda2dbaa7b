import sqlite3
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from scheduler.adapters import migrate
from scheduler.adapters.database import db, open_database
from scheduler.errors import StartRefused

HEAD = "0002"


def test_an_empty_database_gets_all_tables(app, database_file):
    engine = open_database(app, path=str(database_file))
    assert migrate.check_revision(engine) is None
    assert migrate.upgrade(app) == HEAD
    assert migrate.check_revision(engine) == HEAD
    assert {"nodes", "requests", "events", "boots", "rollups", "rollup_inbox", "marks"} <= set(
        inspect(engine).get_table_names()
    )


def test_upgrading_again_does_nothing(app, engine):
    assert migrate.upgrade(app) == migrate.upgrade(app) == HEAD


def test_the_migrations_make_exactly_the_tables_of_the_models(engine, tmp_path):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []
    modelled = create_engine(f"sqlite:///{tmp_path}/modelled.db")
    db.metadata.create_all(modelled)
    assert indexes_of(modelled) == indexes_of(engine)
    modelled.dispose()


def indexes_of(engine):
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'index'").all()
    return {name: sql for name, sql in found if sql is not None}


def test_a_database_of_a_newer_version_is_refused(app, engine, database_file):
    with sqlite3.connect(database_file) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartRefused, match=r"revision 9999, which version .* newer version"):
        migrate.upgrade(app)


def test_a_database_of_another_program_is_refused(app, tmp_path):
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE requests (url)")
    open_database(app, path=str(file))
    with pytest.raises(StartRefused, match="already has a table 'requests'"):
        migrate.upgrade(app)


def test_a_file_that_is_no_database_is_refused(app, tmp_path):
    file = tmp_path / "text.db"
    file.write_text("not a database, " * 100)
    open_database(app, path=str(file))
    with pytest.raises(StartRefused, match="cannot be used: file is not a database"):
        migrate.upgrade(app)


def test_several_processes_may_start_at_once(tmp_path):
    program = (
        "import sys; from flask import Flask; from scheduler.adapters import migrate;"
        "from scheduler.adapters.database import open_database;"
        "app = Flask('test'); open_database(app, path=sys.argv[1]); print(migrate.upgrade(app))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data" / "scheduler.db")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [out.strip() for out, _ in ends] == [HEAD] * 4, ends


def test_the_flask_command_uses_the_same_migrations(app, database_file):
    open_database(app, path=str(database_file))
    migrate.install(app)
    result = app.test_cli_runner().invoke(args=["db", "upgrade"])
    assert result.exit_code == 0, result.output
    assert migrate.upgrade(app) == HEAD


def test_a_migration_that_fails_leaves_nothing_behind(app, database_file, monkeypatch):
    engine = open_database(app, path=str(database_file))

    def fail(*args, **kwargs):
        raise RuntimeError("power cut")

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(RuntimeError):
        migrate.upgrade(app)
    monkeypatch.undo()
    assert inspect(engine).get_table_names() == []
    assert migrate.upgrade(app) == HEAD
