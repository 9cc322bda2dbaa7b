"""preparation: makes the database fit to be used, in gunicorn's master, before any worker."""

from __future__ import annotations

from pathlib import Path

from flask import Flask
from sqlalchemy.exc import DatabaseError

from scheduler.adapters.damage import is_damage, move_aside, set_aside_if_damaged, succeed_damaged
from scheduler.adapters.database import check_pragmas, open_database
from scheduler.adapters.migrate import upgrade
from scheduler.adapters.rollups import roll_up_old_rows
from scheduler.bootstrap import roster_snapshot
from scheduler.errors import StartRefused
from scheduler.settings import Settings


def prepare_database(settings: Settings, is_start: bool = False) -> None:
    """Bring the tables up to date; once, before any worker. Raises StartRefused.

    At a start, when nobody has it open, a damaged SQLite file is replaced by a new one with the nodes of the snapshot.
    """
    database, snapshot = settings.database, roster_snapshot(settings)
    file = Path(database.path).absolute()
    try:
        if is_start and snapshot is not None:
            set_aside_if_damaged(file, snapshot)
        try:
            _prepare(settings)
        except (StartRefused, DatabaseError) as error:
            reason = error.__cause__ or error
            if not is_start or snapshot is None or not is_damage(reason):
                raise
            move_aside(file, str(reason))
            _prepare(settings)
    except OSError as error:
        raise StartRefused(f"The damaged database {file} cannot be moved aside: {error.strerror}.") from None


def _prepare(settings: Settings) -> None:
    app = Flask("scheduler")
    engine = open_database(app, settings.database.path, settings.database.url)
    snapshot = roster_snapshot(settings)
    try:
        upgrade(app)
        check_pragmas(engine)
        with engine.begin() as connection:
            roll_up_old_rows(connection)
            if snapshot is not None:
                succeed_damaged(connection, Path(settings.database.path).absolute(), snapshot)
    finally:
        engine.dispose()
