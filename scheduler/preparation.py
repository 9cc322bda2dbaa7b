"""preparation: makes the database fit to be used, in gunicorn's master, before any worker."""

from __future__ import annotations

from pathlib import Path

from flask import Flask
from sqlalchemy.exc import DatabaseError

from scheduler.adapters.damage import is_damage, move_aside, set_aside_if_damaged, succeed_damaged
from scheduler.adapters.database import check_pragmas, open_database, sqlite_file
from scheduler.adapters.migrate import upgrade
from scheduler.adapters.rollups import roll_up_old_rows
from scheduler.adapters.roster_snapshot import RosterSnapshot
from scheduler.bootstrap import roster_snapshot
from scheduler.errors import StartRefused
from scheduler.settings import Settings


def prepare_database(settings: Settings, is_start: bool = False) -> None:
    """Bring the tables up to date; once, before any worker. Raises StartRefused.

    At a start, when nobody has it open, a damaged SQLite file is replaced by a new one with the nodes of the snapshot.
    """
    snapshot = roster_snapshot(settings)
    file = sqlite_file(settings.database.path, settings.database.url)
    if file is None or snapshot is None or not is_start:
        _prepare(settings, file, snapshot)
        return
    try:
        set_aside_if_damaged(file, snapshot)
        try:
            _prepare(settings, file, snapshot)
        except (StartRefused, DatabaseError) as error:
            reason = error.__cause__ or error
            if not is_damage(reason):
                raise
            move_aside(file, str(getattr(reason, "orig", reason)))
            _prepare(settings, file, snapshot)
    except OSError as error:
        raise StartRefused(f"The damaged database {file} cannot be moved aside: {error.strerror}.") from None


def _prepare(settings: Settings, file: Path | None, snapshot: RosterSnapshot | None) -> None:
    app = Flask("scheduler")
    engine = open_database(app, settings.database.path, settings.database.url)
    try:
        upgrade(app)
        check_pragmas(engine)
        with engine.begin() as connection:
            roll_up_old_rows(connection)
            if file is not None and snapshot is not None:
                succeed_damaged(connection, file, snapshot)
    finally:
        engine.dispose()
