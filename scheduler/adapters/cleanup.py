"""SqlCleanup: lets old records go, in small steps that nobody notices. It is the gateway's Cleanup."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.event import Event
from sqlalchemy import Connection, func, select

from scheduler.adapters import deletions
from scheduler.adapters.clock_guard import ClockGuard
from scheduler.adapters.database import is_sqlite
from scheduler.adapters.database_size import database_bytes
from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.tables import REQUESTS
from scheduler.gateway.ports import CleanupState, DatabaseSize

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
MINUTE_DAYS = 8  # rollups of minutes
EVENT_DAYS = 180
#: How often the clock is looked at.
LOOK_S = 60.0
#: Of the writer's time, a third at most goes into cleaning.
REST = 2.0
LEAST_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept."""

    retention_days: int
    max_rows: int  # 0: no limit
    rollup_days: int


class SqlCleanup:
    """`step` is called for ever, by one greenlet: it waits until something is due, and does it.

    Everything is deleted through the one writer, 500 rows a transaction, so that no record waits for long. Nothing is
    deleted by itself while the clock is not believed; asking for a clean-up says that it is right.
    """

    def __init__(
        self,
        writer: DatabaseThreads,
        reader: DatabaseThreads,
        limits: Limits,
        guard: ClockGuard,
        is_enabled: bool,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._limits = limits
        self._guard = guard
        self._is_enabled = is_enabled
        self._interval_s = interval_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._cleaned_at: float | None = None  # of the monotonic clock; None: never
        self._asked = Event()
        self._asked_before: float | None = None
        self._is_running = False
        self._last_at: float | None = None
        self._deleted = 0

    def step(self) -> None:
        """Wait until it is time to look, and clean where that is due."""
        self._asked.wait(min(LOOK_S, self._interval_s))
        self._asked.clear()
        before, self._asked_before = self._asked_before, None
        if before is not None:
            self._work([deletions.requests_before(round(before * 1000))])
        if self._is_enabled:
            was = self._guard.doubt
            doubt = self._writer.run(self._guard.look)
            if doubt is not None and was is None:
                log.warning("Nothing is deleted: %s. 'llm-scheduler requests cleanup' says that it is right.", doubt)
            if doubt is None and (self._cleaned_at is None or self._clock() - self._cleaned_at >= self._interval_s):
                self.clean()

    def clean(self) -> int:
        """Delete what is older than the limits say, and return how many requests that were."""
        now_ms = round(self._wall_clock() * 1000)
        requests = [deletions.requests_before(now_ms - self._limits.retention_days * DAY_MS)]
        gone = self._work(requests)
        if excess := self._excess():
            gone += self._work([deletions.oldest_requests(excess)])
        minute_days = min(MINUTE_DAYS, self._limits.rollup_days)
        for step in (
            deletions.rollups_before(now_ms - minute_days * DAY_MS, minutes=True),
            deletions.rollups_before(now_ms - self._limits.rollup_days * DAY_MS, minutes=False),
            deletions.events_before(now_ms - EVENT_DAYS * DAY_MS),
        ):
            self._repeat(step)
        self._repeat(deletions.free_pages)
        self._cleaned_at = self._clock()
        return gone

    # -- the gateway's Cleanup --------------------------------------------------------------------

    def matching(self, before: float) -> int:
        """How many requests were created before; seconds since the epoch."""
        query = select(func.count()).select_from(REQUESTS).where(REQUESTS.c.created_at < round(before * 1000))
        return self._reader.run(lambda connection: connection.execute(query).scalar_one())

    def ask(self, before: float) -> None:
        """Say that the clock is right, and have the requests that were created before deleted, soon."""
        self._writer.run(self._guard.confirm)
        self._asked_before = before if self._asked_before is None else max(before, self._asked_before)
        self._asked.set()

    def state(self) -> CleanupState:
        return CleanupState(self._is_enabled, self._guard.doubt, self._is_running, self._last_at, self._deleted)

    def size(self) -> DatabaseSize:
        """How large the database is; rows estimated, nothing is counted."""
        on_disk = database_bytes(self._reader.engine)

        def work(connection: Connection) -> DatabaseSize:
            oldest_ms = connection.execute(select(func.min(REQUESTS.c.created_at))).scalar()
            size = on_disk
            if size is None:
                size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar()
            return DatabaseSize(size, _rows_estimate(connection), oldest_ms and oldest_ms / 1000)

        return self._reader.run(work)

    # -- steps ------------------------------------------------------------------------------------

    def _work(self, steps: list[deletions.Step]) -> int:
        self._is_running = True
        try:
            gone = sum(map(self._repeat, steps))
            self._deleted += gone
            if gone:
                self._repeat(deletions.free_pages)
                log.info("%d old requests were deleted", gone)
            self._last_at = self._wall_clock()
            return gone
        finally:
            self._is_running = False

    def _repeat(self, step: deletions.Step) -> int:
        """Make the step until there is nothing left for it, with pauses; returns the sum."""
        total = 0
        while True:
            begun = self._clock()
            gone = self._writer.run(step)
            if not gone:
                return total
            total += gone
            gevent.sleep(max(LEAST_PAUSE_S, REST * (self._clock() - begun)))

    def _excess(self) -> int:
        """How many requests there are beyond `max_rows`."""
        most = self._limits.max_rows
        if not most:
            return 0
        query = select(func.count()).select_from(REQUESTS)
        return max(0, self._reader.run(lambda connection: connection.execute(query).scalar_one()) - most)


def _rows_estimate(connection: Connection) -> int:
    if not is_sqlite(connection):
        known = connection.exec_driver_sql("SELECT reltuples FROM pg_class WHERE oid = 'requests'::regclass").scalar()
        if known is not None and known >= 0:
            return int(known)
    # Rows go from the oldest on, so that hardly a number between is missing.
    first, last = (connection.execute(select(end(REQUESTS.c.seq))).scalar() for end in (func.min, func.max))
    return 0 if first is None or last is None else last - first + 1
