"""The database: the Flask-SQLAlchemy object, how its engine is made, and the proof that SQLite obeys."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, Connection, Engine, MetaData, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool

from scheduler.errors import StartRefused

log = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 5000

# Execution option of connections that only read: their SQLite transactions do not ask for the write lock.
READS_ONLY = "reads_only"

# auto_vacuum must come before the first table, and before WAL writes the first page of the file.
SQLITE_PRAGMAS: tuple[tuple[str, str | int, str | int], ...] = (  # name, what is set, what must be read back
    ("auto_vacuum", "INCREMENTAL", 2),
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("busy_timeout", BUSY_TIMEOUT_MS, BUSY_TIMEOUT_MS),
    ("foreign_keys", "ON", 1),
)

# The server's own time-outs: a database call is never wrapped in a gevent time-out.
POSTGRES_OPTIONS = "-c statement_timeout=60s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"


class Base(DeclarativeBase):
    """Base of the tables; names of constraints are fixed, so that later migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base, disable_autonaming=True)

if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model


def open_database(app: Flask, path: str = "", url: str = "") -> Engine:
    """Bind `db` to the app and return its engine. `url` (SQLite or PostgreSQL) wins over `path`, a SQLite file.

    The folder of a SQLite file is created when missing. Raises StartRefused where the database cannot be opened.
    """
    where = _parse(url) if url else URL.create("sqlite", database=path)
    options: dict[str, Any] = {
        # Connections are kept by DatabaseThreads. A shared pool would put gevent's locks between real threads.
        "poolclass": NullPool,
        # Exceptions must not print what callers sent.
        "hide_parameters": True,
    }
    if where.get_backend_name() == "sqlite":
        where = where.set(database=_usable_file(where.database or ""))
        options["connect_args"] = {"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000}
    else:
        options["connect_args"] = {"options": POSTGRES_OPTIONS, "connect_timeout": 5}
    app.config["SQLALCHEMY_DATABASE_URI"] = where.render_as_string(hide_password=False)
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    db.init_app(app)
    with app.app_context():
        engine = db.engine
    if is_sqlite(engine):
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin)
    # Done here, once, so that no two threads do it at the same time later.
    db.configure_mappers()
    return engine


def check_pragmas(engine: Engine) -> dict[str, str | int]:
    """Read SQLite's pragmas back on a fresh connection; empty for PostgreSQL. Raises StartRefused where one failed.

    A file whose tables were made without incremental vacuum works, and only never shrinks: that is a warning.
    """
    if not is_sqlite(engine):
        return {}
    found: dict[str, str | int] = {}
    with engine.execution_options(**{READS_ONLY: True}).connect() as connection:
        for name, _, expected in SQLITE_PRAGMAS:
            found[name] = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            if found[name] == expected:
                continue
            if name == "auto_vacuum":
                log.warning("The file %s was made without incremental vacuum and never shrinks.", engine.url.database)
                continue
            raise StartRefused(
                f"SQLite refused {name}={expected} for {engine.url.database} (it stays {found[name]}): "
                "the file may be on a network file system; put database.path on a local disk."
            )
    return found


def is_sqlite(bind: Engine | Connection) -> bool:
    """True for SQLite, False for PostgreSQL."""
    return bind.dialect.name == "sqlite"


def sqlite_file(path: str, url: str = "") -> Path | None:
    """The SQLite file that these settings name; None for PostgreSQL. Raises StartRefused."""
    if not url:
        return Path(path).absolute()
    return Path(_parse(url).database or "").absolute() if url.startswith("sqlite") else None


def _parse(url: str) -> URL:
    try:
        where = make_url(url)
    except ArgumentError:
        # The URL itself is not repeated: it may hold a password.
        raise StartRefused("database.url is no database URL; use postgresql+psycopg://user@host/name.") from None
    backend = where.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StartRefused(f"database.url names '{backend}'; only postgresql+psycopg:// and sqlite:/// are supported.")
    if backend == "sqlite":
        return where.set(drivername="sqlite")
    if importlib.util.find_spec("psycopg") is None:
        raise StartRefused("database.url needs the PostgreSQL driver: pip install 'llm-scheduler[postgres]'.")
    return where.set(drivername="postgresql+psycopg")


def _usable_file(path: str) -> str:
    """The absolute path of a file that this process can create and write, its folder included."""
    if path in ("", ":memory:"):
        raise StartRefused("database.path must name a file: records must outlive the process.")
    file = Path(path).absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartRefused(f"The folder {file.parent} of database.path cannot be made: {error.strerror}.") from None
    if file.is_dir():
        raise StartRefused(f"database.path names a folder, not a file: {file}.")
    # SQLite writes its journal beside the file, so the folder must be writable too.
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise StartRefused(f"The folder {file.parent} of database.path is not writable for this user.")
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        raise StartRefused(f"The database {file} is not readable and writable for this user.")
    return str(file)


def _set_pragmas(dbapi_connection: Any, _record: Any) -> None:
    # sqlite3 must not begin transactions of its own: _begin does, with the lock that is wanted.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    is_empty = cursor.execute("PRAGMA page_count").fetchone() == (0,)
    for name, value, wanted in SQLITE_PRAGMAS:
        # Setting these two waits for the write lock even where nothing changes; a reader must not.
        if name == "auto_vacuum" and not is_empty:
            continue
        if name == "journal_mode" and cursor.execute("PRAGMA journal_mode").fetchone() == (wanted,):
            continue
        cursor.execute(f"PRAGMA {name}={value}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another has written in between.
    reads_only = connection.get_execution_options().get(READS_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
