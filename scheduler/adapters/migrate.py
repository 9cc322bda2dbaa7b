"""Migrate: brings the tables up to this program's version, once, under a lock."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import flask_migrate
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DBAPIError

import scheduler
from scheduler.adapters.backup import back_up_before
from scheduler.adapters.database import db, is_sqlite
from scheduler.adapters.tables import NodeRow, RequestRow
from scheduler.errors import BackupFailed, StartRefused

log = logging.getLogger(__name__)

FOLDER = Path(scheduler.__file__).parent / "migrations"
ADVISORY_LOCK = 0x11A5C4ED  # any number, as long as it stays


def install(app: Flask) -> None:
    """Make `flask db ...` work for the app; to be called after open_database. Idempotent."""
    if "migrate" not in app.extensions:
        flask_migrate.Migrate(app, db, directory=str(FOLDER))


def upgrade(app: Flask, with_backup: bool = True) -> str:
    """Bring the database to this program's revision and return that; others wait meanwhile. Raises StartRefused.

    A SQLite file that has something in it is backed up first.
    """
    install(app)
    with app.app_context():
        config = app.extensions["migrate"].migrate.get_config()
        try:
            with _only_one(db.engine):
                before = check_revision(db.engine)
                head = _scripts(config).get_current_head() or ""
                if before is not None and before != head and with_backup:
                    _back_up(db.engine, head)
                if before != head:
                    command.upgrade(config, "head")
        except DBAPIError as error:
            raise StartRefused(f"The database {_name(db.engine)} cannot be used: {error.orig}.") from error
    return head


def check_revision(engine: Engine) -> str | None:
    """The database's revision, None where it is empty. Raises StartRefused where this program does not know it."""
    known = {script.revision for script in _scripts(_config()).walk_revisions()}
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
        if found is None:
            ours = {NodeRow.__tablename__, RequestRow.__tablename__}
            if taken := sorted(ours.intersection(inspect(connection).get_table_names())):
                raise StartRefused(
                    f"The database {_name(engine)} already has a table '{taken[0]}' that this program has not made: "
                    "give it a database of its own."
                )
    if found is not None and found not in known:
        raise StartRefused(
            f"The database {_name(engine)} is at revision {found}, which version {scheduler.__version__} does not "
            "know: it was used by a newer version; install that one, or restore a backup."
        )
    return found


def _back_up(engine: Engine, head: str) -> None:
    if not is_sqlite(engine):
        log.warning("The tables are brought to revision %s; PostgreSQL is not backed up here, use pg_dump.", head)
        return
    try:
        made = back_up_before(Path(engine.url.database or ""), head)
    except BackupFailed as error:
        raise StartRefused(
            f"The tables are not brought to revision {head}, because there is no backup: {error} "
            "Without one: llm-scheduler db upgrade --no-backup."
        ) from None
    log.warning("The tables are brought to revision %s; %s is a backup of before.", head, made.file)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def _scripts(config: Config) -> ScriptDirectory:
    return ScriptDirectory.from_config(config)


def _name(engine: Engine) -> str:
    return engine.url.database or "" if is_sqlite(engine) else engine.url.render_as_string(hide_password=True)


@contextlib.contextmanager
def _only_one(engine: Engine) -> Iterator[None]:
    """Wait until no other process migrates, and keep the others out."""
    if not is_sqlite(engine):
        with engine.connect() as connection:
            # The transaction keeps the lock, and gives it back however it ends.
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
            yield
        return
    descriptor = os.open(f"{engine.url.database}.migrate.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
