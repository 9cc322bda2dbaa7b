"""WriteBehind: takes things on the hot path, writes them to the database a little later, loses nothing silently."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import gevent
from gevent.event import Event
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from scheduler.adapters.database_threads import DatabaseThreads

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Row = tuple[Any, ...]

SLICE = 100  # rows made between two looks at the hub: under a millisecond
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
COMPLAIN_EVERY_S = 10.0


class WriteBehind(Generic[Item]):
    """A supervised greenlet that hands what was given to it, in batches, to the one writer thread.

    While the database is locked or away, the batch at hand is kept and tried again for ever, in order; what is given
    meanwhile waits behind it, up to `max_backlog` items. What has to go then is counted in `lost` and logged. Rows that
    the database refuses for what is in them are found by halving the batch, and lost alone.

    Subclasses keep the waiting items (`_waiting`, `_take`) and know their rows (`_row`, `_write`). Those that put rows
    elsewhere meanwhile say how many are on their way (`_apart`) and bring them back (`_bring_back`). All methods are
    called in the hub's thread; none but `flush` and `stop` waits.
    """

    name = "items"

    def __init__(
        self,
        writer: DatabaseThreads,
        interval_s: float,
        max_backlog: int,
        max_batch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost = 0
        self.last_write_ms: float | None = None  # duration of the last write, commit included
        self.last_error: str | None = None  # None while the database takes what it is given
        self.max_backlog = max_backlog
        self._writer = writer
        self._interval_s = interval_s
        self._max_batch = max_batch
        self._clock = clock
        self._greenlet: gevent.Greenlet | None = None
        self._wake = Event()
        self._hurry = Event()
        self._progress = Event()
        self._given = 0
        self._durable = 0
        self._taken: Sequence[Item] = ()  # taken, not yet durable; survives the greenlet
        self._taken_is_all_up_to: int | None = None
        self._trying_since: float | None = None  # None while nothing waits for the database
        self._failing_since: float | None = None
        self._complained_at: float | None = None
        self._lost_told = 0

    # -- subclasses -------------------------------------------------------------------------------

    def _waiting(self) -> int:
        """How many items wait to be taken."""
        raise NotImplementedError

    def _take(self, most: int) -> Sequence[Item]:
        """Remove and return the items that come next."""
        raise NotImplementedError

    def _row(self, item: Item) -> Row:
        """The item as a row, in the types of the database."""
        raise NotImplementedError

    def _write(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Write the rows, in the thread; writing them again must be harmless."""
        raise NotImplementedError

    def _apart(self) -> int:
        """How many items are neither waiting nor taken, and only in memory."""
        return 0

    def _elsewhere(self) -> int:
        """How many rows were put elsewhere, for `_bring_back`."""
        return 0

    def _bring_back(self) -> None:
        """Write what was put elsewhere, by `_write_rows`; called after each batch."""

    def _keep(self) -> None:
        """Called by `stop` where the database has not taken everything: put it elsewhere, for the next start."""

    # -- outside ----------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """How many items are in memory only."""
        return self._waiting() + len(self._taken) + self._apart()

    @property
    def away_s(self) -> float:
        """For how long the database has not taken what it was given; 0 while it does."""
        return 0.0 if self._trying_since is None else self._clock() - self._trying_since

    def start(self) -> None:
        """Begin to write. What was given before is kept."""
        if self._greenlet is None:
            self._spawn()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything given so far is durable. False where that takes longer than `timeout_s`."""
        wanted = self._given
        deadline = self._clock() + timeout_s
        self._hurry.set()
        try:
            while self._durable < wanted:
                left_s = deadline - self._clock()
                if left_s <= 0:
                    return False
                self._progress.clear()
                self._progress.wait(left_s)
            return True
        finally:
            self._hurry.clear()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Flush, then end the greenlet. False, and a warning, where something could not be written. Idempotent."""
        if self._greenlet is None:
            return self.backlog == 0
        is_flushed = self.flush(timeout_s)
        greenlet, self._greenlet = self._greenlet, None
        greenlet.kill(block=False)
        if not is_flushed:
            left = self.backlog + self._elsewhere()
            self._keep()
            log.error(
                "%d %s could not be written before the stop; %d of them are kept for the next start.",
                left,
                self.name,
                self._elsewhere(),
            )
        return is_flushed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} backlog={self.backlog} lost={self.lost} {self.last_error or 'ok'}>"

    # -- the greenlet -----------------------------------------------------------------------------

    def _give(self) -> None:
        """To be called by subclasses for each item given."""
        self._given += 1
        self._wake.set()

    def _lose(self, count: int = 1) -> None:
        self.lost += count
        self._complain()

    def _spawn(self) -> None:
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.link(self._respawn)

    def _respawn(self, ended: gevent.Greenlet) -> None:
        # Whoever killed it did not mean us, unless `stop` did.
        if self._greenlet is ended:
            log.error("The writer of %s ended unexpectedly and is started again.", self.name)
            self._spawn()

    def _run(self) -> None:
        while True:
            try:
                if not self._taken:
                    if not self._waiting() and not self._elsewhere():
                        self._wake.wait()
                    # Let a moment's worth gather: what begins and ends within it is written once.
                    self._hurry.wait(self._interval_s)
                    self._wake.clear()
                self._write_all()
            except Exception:
                log.exception("The writer of %s met an unexpected error and goes on.", self.name)
                gevent.sleep(LONGEST_PAUSE_S)

    def _write_all(self) -> None:
        while True:
            if not self._taken:
                self._taken = self._take(self._max_batch)
                self._taken_is_all_up_to = None if self._waiting() or self._apart() else self._given
            self._write_rows(self._rows(self._taken))
            self._taken = ()
            # After the batch: it may hold rows as they were before what was put elsewhere.
            self._bring_back()
            if not self.backlog and not self._elsewhere():
                self._taken_is_all_up_to = self._given
            if self._taken_is_all_up_to is not None:
                self._durable = self._taken_is_all_up_to
                self._progress.set()
            if not self._waiting():
                return

    def _rows(self, items: Sequence[Item]) -> list[Row]:
        rows: list[Row] = []
        for number, item in enumerate(items, start=1):
            try:
                rows.append(self._row(item))
            except Exception as error:
                self._report(error)
                self._lose()
            if number % SLICE == 0:
                gevent.sleep(0)
        return rows

    def _write_rows(self, rows: list[Row]) -> None:
        """Write the rows, however long that takes; those that the database refuses are lost."""
        pause_s = FIRST_PAUSE_S
        while rows:
            begun = self._clock()
            if self._trying_since is None:
                self._trying_since = begun
            try:
                self._writer.run(lambda connection: self._write(connection, rows))
            except (IntegrityError, DataError, OverflowError, UnicodeError) as error:
                self._report(error)
                self._write_what_can_be(rows)
                return
            except Exception as error:
                self._report(error)
                gevent.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self.last_write_ms = (self._clock() - begun) * 1000
                self._trying_since = None
                self._recovered()
                return

    def _write_what_can_be(self, rows: list[Row]) -> None:
        """Halve the batch until the rows that the database refuses stand alone, and lose those."""
        if len(rows) == 1:
            self._trying_since = None
            self._lose()
            return
        middle = len(rows) // 2
        for part in (rows[:middle], rows[middle:]):
            self._write_rows(part)

    # -- telling ----------------------------------------------------------------------------------

    def _report(self, error: Exception) -> None:
        # The driver's own words: SQLAlchemy's repeat the statement, which is long.
        words = str(getattr(error, "orig", None) or error)[:300]
        self.last_error = f"{type(error).__name__}: {words}"
        if self._failing_since is None:
            self._failing_since = self._clock()
        self._complain()

    def _recovered(self) -> None:
        if self._failing_since is None:
            return
        away_s = self._clock() - self._failing_since
        log.warning("The database takes %s again after %.1f s; %d were lost.", self.name, away_s, self.lost)
        self._failing_since = self._complained_at = self.last_error = None
        self._lost_told = self.lost

    def _complain(self) -> None:
        now = self._clock()
        if self._complained_at is not None and now - self._complained_at < COMPLAIN_EVERY_S:
            return
        self._complained_at = now
        log.warning(
            "The database does not take %s (%s): %d are kept in memory, %d were lost since the last report.",
            self.name,
            self.last_error or "backlog full",
            self.backlog,
            self.lost - self._lost_told,
        )
        self._lost_told = self.lost
