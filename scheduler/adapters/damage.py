"""Damage: finds out whether a SQLite file is damaged, and moves it aside, so that the server can come up."""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from gevent.monkey import get_original
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from scheduler.adapters.event_log import COLUMNS as EVENT_COLUMNS
from scheduler.adapters.event_log import event_row
from scheduler.adapters.marks import read_mark, write_mark
from scheduler.adapters.node_store import insert_nodes
from scheduler.adapters.roster_snapshot import RosterSnapshot
from scheduler.adapters.tables import EVENTS, NODES
from scheduler.adapters.upsert import Upsert
from scheduler.gateway.ports import Event

log = logging.getLogger(__name__)

#: A large file is read only as far as this allows: a start must not take minutes. What is found later stops nothing.
CHECK_S = 5.0
#: SQLite's files beside the database.
COMPANIONS = ("-wal", "-shm", "-journal")
DAMAGED = ".damaged-"
SEEN = "damage_seen"  # the mark: the file of which this database has said that it is its successor

_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def find_damage(file: Path, limit_s: float = CHECK_S) -> str | None:
    """What is wrong with the file; None where nothing was found within `limit_s`, or it could not be read at all."""
    if not file.exists():
        return None
    try:
        with (
            contextlib.closing(sqlite3.connect(file, check_same_thread=False)) as connection,
            interrupted_after(connection, limit_s),
        ):
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return str(error)
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            log.info("No damage was found in %s within %.0f s; the rest is not checked.", file, limit_s)
        return None
    return None if found == "ok" else str(found).replace("\n", " ")[:300]


def set_aside_if_damaged(file: Path, snapshot: RosterSnapshot) -> bool:
    """Look at the file and move it aside where it is damaged; True then. Raises OSError. Nobody may have it open."""
    reason = find_damage(file)
    if reason is None and snapshot.file.exists() and _is_empty(file):
        reason = "it is empty, and was not"
    if reason is None:
        return False
    move_aside(file, reason)
    return True


def _is_empty(file: Path) -> bool:
    return file.exists() and not file.stat().st_size and not Path(f"{file}-wal").exists()


def is_damage(error: BaseException) -> bool:
    """True for what SQLite says of a damaged file, also where SQLAlchemy has wrapped it."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return (getattr(original, "sqlite_errorcode", 0) & 0xFF) in _CODES


def move_aside(file: Path, reason: str) -> Path:
    """Rename the file and what belongs to it; where it is now. Raises OSError. Nobody may have it open."""
    aside = file.with_name(f"{file.name}{DAMAGED}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    log.error("The database %s is damaged (%s). It is moved aside to %s.", file, reason, aside)
    # The write-ahead log first: a new file must never meet the old one's.
    for companion in (*COMPANIONS, ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{file}{companion}").rename(f"{aside}{companion}")
    return aside


def moved_aside(file: Path) -> list[Path]:
    """Damaged databases that still lie beside the file, oldest first."""
    found = file.parent.glob(f"{file.name}{DAMAGED}*")
    return sorted(each for each in found if not each.name.endswith(COMPANIONS))


def succeed_damaged(connection: Connection, file: Path, snapshot: RosterSnapshot) -> None:
    """Give a database that follows a damaged one the nodes of the snapshot, and write down why; once."""
    damaged = moved_aside(file)
    if not damaged or read_mark(connection, SEEN) == damaged[-1].name:
        return
    note = f"The damaged database was moved aside to {damaged[-1]}; its records are not in this one."
    try:
        nodes = snapshot.read()
    except ValueError as error:
        nodes = []
        note += f" The snapshot {snapshot.file} of the nodes cannot be used: {error}."
    if connection.execute(select(func.count()).select_from(NODES)).scalar_one():
        nodes = []  # a backup was put in its place
    insert_nodes(connection, nodes)
    note += f" {sum(not node.is_deleted for node in nodes)} nodes come from {snapshot.file.name}."
    event = Event(time.time(), "database.damaged", file.name, "scheduler", note=note)
    Upsert(EVENTS, EVENT_COLUMNS, "uid", (), connection.dialect).execute(
        connection, [event_row(damaged[-1].name[-32:], event)]
    )
    write_mark(connection, SEEN, damaged[-1].name)
    log.error("%s", note)


def damage_warnings(file: Path) -> list[str]:
    """What an operator must know, until the damaged file has been taken away."""
    return [
        f"A damaged database was moved aside to {each}; the records of before are only there. "
        "Save it or delete it, and this warning ends."
        for each in moved_aside(file)
    ]


@contextlib.contextmanager
def interrupted_after(connection: sqlite3.Connection, limit_s: float) -> Iterator[None]:
    """End the block's statement with SQLITE_INTERRUPT after `limit_s`; the connection is for any thread."""
    # A real thread, patched or not: a greenlet would not run while SQLite does.
    new_lock = get_original("_thread", "allocate_lock")
    is_done, has_left = new_lock(), new_lock()
    is_done.acquire()
    has_left.acquire()

    def watch() -> None:
        wait_s = limit_s
        while not is_done.acquire(timeout=wait_s):
            connection.interrupt()  # of no effect between two statements, so again
            wait_s = 0.05
        has_left.release()

    get_original("_thread", "start_new_thread")(watch, ())
    try:
        yield
    finally:
        is_done.release()
        has_left.acquire()
