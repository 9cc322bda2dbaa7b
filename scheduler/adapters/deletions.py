"""Deletions: the small steps in which old rows go, each in a transaction of its own. They return how many rows went."""

from collections.abc import Callable

from sqlalchemy import ColumnElement, Connection, Table, delete, func, select

from scheduler.adapters.database import is_sqlite
from scheduler.adapters.marks import MINUTES_GONE_BEFORE, ROWS_GONE_BEFORE, time_mark, write_mark
from scheduler.adapters.tables import EVENTS, REQUESTS, ROLLUPS
from scheduler.adapters.tally import DAY_MS, HOUR_MS, MINUTE_MS, STEPS_MS

STEP_ROWS = 500
STEP_PAGES = 256  # a megabyte
#: Free pages that stay in the file: new rows want them soon, and a page that moves has to be written.
SPARE_SHARE = 0.05

Step = Callable[[Connection], int]


def requests_before(before_ms: int) -> Step:
    """Deletes the oldest requests that were created before."""

    def step(connection: Connection) -> int:
        return _delete_requests(connection, STEP_ROWS, REQUESTS.c.created_at < before_ms)

    return step


def oldest_requests(most: int) -> Step:
    """Deletes the oldest requests, `most` in all."""
    left = most

    def step(connection: Connection) -> int:
        nonlocal left
        gone = _delete_requests(connection, min(STEP_ROWS, left)) if left else 0
        left -= gone
        return gone

    return step


def events_before(before_ms: int) -> Step:
    """Deletes the oldest events that happened before."""
    return lambda connection: _delete_oldest(connection, EVENTS, EVENTS.c.at, STEP_ROWS, EVENTS.c.at < before_ms)[0]


def rollups_before(before_ms: int, minutes: bool) -> Step:
    """Deletes rollups that begin before, those of minutes or all longer ones."""
    # Whole hours and days, so that what a longer one is put together from is either all there or all gone.
    before_ms -= before_ms % (HOUR_MS if minutes else DAY_MS)

    def step(connection: Connection) -> int:
        if minutes and time_mark(connection, MINUTES_GONE_BEFORE) < before_ms:
            # Said first: from now on nobody reads what is about to go.
            write_mark(connection, MINUTES_GONE_BEFORE, str(before_ms))
        for dimension, steps_ms in STEPS_MS.items():
            for step_ms in steps_ms:
                if (step_ms == MINUTE_MS) is not minutes:
                    continue
                these = (ROLLUPS.c.step_ms == step_ms, ROLLUPS.c.dimension == dimension)
                first = connection.execute(select(func.min(ROLLUPS.c.at)).where(*these)).scalar()
                if first is not None and first < before_ms:
                    until = min(first + 10 * step_ms, before_ms)
                    return connection.execute(delete(ROLLUPS).where(*these, ROLLUPS.c.at < until)).rowcount
        return 0

    return step


def free_pages(connection: Connection) -> int:
    """Gives free pages of a SQLite file back to the disk; returns how many, 0 where few are free."""
    if not is_sqlite(connection):
        return 0
    free, pages = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("freelist_count", "page_count")
    )
    if free <= max(pages * SPARE_SHARE, STEP_PAGES):
        return 0
    # Each step of the statement frees one page, so it must be read to its end, though it has no columns.
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA incremental_vacuum({STEP_PAGES})")
    cursor.fetchall()
    cursor.close()
    return int(free - connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())


def _delete_requests(connection: Connection, most: int, *conditions: ColumnElement[bool]) -> int:
    gone, last_ms = _delete_oldest(connection, REQUESTS, REQUESTS.c.created_at, most, *conditions)
    if last_ms is not None and last_ms >= time_mark(connection, ROWS_GONE_BEFORE):
        write_mark(connection, ROWS_GONE_BEFORE, str(last_ms + 1))
    return gone


def _delete_oldest(
    connection: Connection, table: Table, at: ColumnElement[int], most: int, *conditions: ColumnElement[bool]
) -> tuple[int, int | None]:
    """How many went, and when the newest of them was."""
    found = connection.execute(select(table.c.seq, at).where(*conditions).order_by(at, table.c.seq).limit(most)).all()
    if not found:
        return 0, None
    connection.execute(delete(table).where(table.c.seq.in_([seq for seq, _ in found])))
    return len(found), found[-1][1]
