"""Marks: a few facts about the database itself, by name, kept in it."""

from sqlalchemy import Connection, delete, select

from scheduler.adapters.tables import MARKS
from scheduler.adapters.upsert import Upsert

ROWS_TO_ROLL_UP = "rows_to_roll_up"  # rows up to this number were finished by a version that kept no rollups
ROWS_GONE_BEFORE = "rows_gone_before"  # requests created before (epoch ms) may have been deleted
MINUTES_GONE_BEFORE = "minutes_gone_before"  # likewise rollups of minutes
CLOCK = "clock"  # the wall clock as it was last trusted, as JSON


def read_mark(connection: Connection, name: str) -> str | None:
    """What is kept under the name."""
    return connection.execute(select(MARKS.c.value).where(MARKS.c.name == name)).scalar_one_or_none()


def write_mark(connection: Connection, name: str, value: str) -> None:
    """Keep something, in the connection's transaction."""
    Upsert(MARKS, ("name", "value"), "name", ("value",), connection.dialect).execute(connection, [(name, value)])


def clear_mark(connection: Connection, name: str) -> None:
    """Forget it. Idempotent."""
    connection.execute(delete(MARKS).where(MARKS.c.name == name))


def time_mark(connection: Connection, name: str) -> int:
    """A mark that is a time, in epoch milliseconds; 0 where there is none."""
    return int(read_mark(connection, name) or 0)
