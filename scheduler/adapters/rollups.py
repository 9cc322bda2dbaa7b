"""Rollups: figures by minute and by hour, which hold each finished request exactly once.

The transaction that finishes rows puts their facts into an inbox. Every second the inbox is folded into the rollups, in
one transaction that empties it too: each rollup is then read and written once a second, and not for every batch. Who
reads figures adds what is still in the inbox, so that they are never behind the rows.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy import Connection, Dialect, delete, insert, select

from scheduler.adapters.marks import ROWS_TO_ROLL_UP, clear_mark, read_mark
from scheduler.adapters.tables import REQUESTS, ROLLUP_INBOX, ROLLUPS
from scheduler.adapters.tally import Facts, RollupKey, Tally, facts_of, fold
from scheduler.adapters.upsert import CHUNK_SIZES, Upsert

KEY_COLUMNS = RollupKey._fields
FIGURES = (
    *("requests", "completed", "prompt_tokens", "completion_tokens", "without_usage"),
    *("queue_us", "ttfb_us", "latency_us", "queue", "ttfb", "latency"),
)
COLUMNS = KEY_COLUMNS + FIGURES

ADVISORY_LOCK = 0x11A5C4EE  # any number, as long as it stays
AT_ONCE = 5_000  # rows between two writings of a catch-up
FOLD_EVERY_S = 1.0

_to_json = json.JSONEncoder(separators=(",", ":")).encode

_PUT = insert(ROLLUP_INBOX)
_INBOX = select(ROLLUP_INBOX).order_by(ROLLUP_INBOX.c.seq)


class Rollups:
    """Counts finished requests.

    Each finished request must be given once: in the transaction that writes its row as finished for the first time. A
    transaction that is repeated finds the row finished, and gives it no more. On PostgreSQL writers take turns, from
    the look at the rows to the commit; SQLite has one writer at a time anyway.
    """

    def __init__(self, dialect: Dialect, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._folded_at = -FOLD_EVERY_S
        self._is_postgres = dialect.name == "postgresql"
        self._mark = "%s" if self._is_postgres else "?"
        self._upsert = Upsert(ROLLUPS, COLUMNS, KEY_COLUMNS, FIGURES, dialect)

    def take_turn(self, connection: Connection) -> None:
        """To be called before looking which rows are finished already."""
        if self._is_postgres:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")

    def finished_among(self, connection: Connection, ids: Sequence[str]) -> set[str]:
        """Which of the requests have finished rows, and so are counted."""
        found: set[str] = set()
        for chunk in _chunks(ids):
            marks = ",".join([self._mark] * len(chunk))
            query = f"SELECT id FROM requests WHERE outcome IS NOT NULL AND id IN ({marks})"
            found.update(connection.exec_driver_sql(query, tuple(chunk)).scalars())
        return found

    def add(self, connection: Connection, finished: Sequence[Facts]) -> None:
        """Count requests, in the connection's transaction."""
        if not finished:
            return
        connection.execute(_PUT, {"facts": _to_json(finished)})
        if self._clock() - self._folded_at >= FOLD_EVERY_S:
            self.fold(connection)

    def fold(self, connection: Connection) -> None:
        """Move what is in the inbox into the rollups."""
        self.take_turn(connection)
        self._folded_at = self._clock()
        last, waiting = read_inbox(connection)
        if last is not None:
            self.add_at_once(connection, waiting)
            connection.execute(delete(ROLLUP_INBOX).where(ROLLUP_INBOX.c.seq <= last))

    def add_at_once(self, connection: Connection, finished: Iterable[Facts]) -> None:
        """Add requests to the rollups themselves."""
        tallies = fold(finished)
        for chunk in _chunks(list(tallies)):
            for row in connection.exec_driver_sql(self._select(len(chunk)), tuple(chain.from_iterable(chunk))):
                add_figures(tallies[RollupKey(*row[:5])], row[5:])
        self._upsert.execute(connection, [(*key, *_figures(tally)) for key, tally in tallies.items()])

    def _select(self, count: int) -> str:
        wanted = ",".join([f"({','.join([self._mark] * len(KEY_COLUMNS))})"] * count)
        if self._is_postgres:
            return f"SELECT {','.join(COLUMNS)} FROM rollups WHERE ({','.join(KEY_COLUMNS)}) IN ({wanted})"
        # SQLite would read the whole table for that; so the order of reading is said.
        is_it = " AND ".join(f"{name}=wanted.column{number}" for number, name in enumerate(KEY_COLUMNS, start=1))
        return f"SELECT {','.join(COLUMNS)} FROM (VALUES {wanted}) wanted CROSS JOIN rollups ON {is_it}"


def read_inbox(connection: Connection) -> tuple[int | None, list[Facts]]:
    """What is not yet in the rollups, and the number of the last piece; None where the inbox is empty."""
    pieces = connection.execute(_INBOX).all()
    found = [Facts(*each) for piece in pieces for each in json.loads(piece.facts)]
    return (pieces[-1].seq if pieces else None), found


def add_figures(tally: Tally, figures: Sequence[Any]) -> None:
    """Add the figures of a rollup, in the order of FIGURES, to a tally."""
    tally.requests += figures[0]
    tally.completed += figures[1]
    tally.prompt_tokens += figures[2]
    tally.completion_tokens += figures[3]
    tally.without_usage += figures[4]
    tally.queue_us += figures[5]
    tally.ttfb_us += figures[6]
    tally.latency_us += figures[7]
    tally.queue.merge_packed(figures[8])
    tally.ttfb.merge_packed(figures[9])
    tally.latency.merge_packed(figures[10])


def roll_up_old_rows(connection: Connection) -> int:
    """Count the rows of a version that kept no rollups; once, before any writer. Returns how many there were."""
    last = read_mark(connection, ROWS_TO_ROLL_UP)
    if last is None:
        return 0
    rollups = Rollups(connection.dialect)
    rollups.take_turn(connection)
    columns = REQUESTS.c
    query = (
        select(columns.seq, *(columns[name] for name in Facts._fields))
        .where(columns.seq <= int(last), columns.outcome.is_not(None))
        .order_by(columns.seq)
        .limit(AT_ONCE)
    )
    counted, after = 0, -1
    while rows := connection.execute(query.where(columns.seq > after)).mappings().all():
        rollups.add_at_once(connection, [facts_of(row) for row in rows])
        counted, after = counted + len(rows), rows[-1]["seq"]
    clear_mark(connection, ROWS_TO_ROLL_UP)
    return counted


def _figures(tally: Tally) -> tuple[Any, ...]:
    return (
        tally.requests,
        tally.completed,
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.without_usage,
        tally.queue_us,
        tally.ttfb_us,
        tally.latency_us,
        tally.queue.pack(),
        tally.ttfb.pack(),
        tally.latency.pack(),
    )


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """In a few fixed sizes, so that the driver finds its prepared statement again."""
    left = iter(items)
    count = len(items)
    for size in CHUNK_SIZES:
        while count >= size:
            yield list(islice(left, size))
            count -= size
