"""Overflow: moves rows into a spool while the database takes none, and brings them back when it does."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from scheduler.adapters.spool import Spool

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
T = TypeVar("T")

AT_ONCE = 1_000  # rows put on the disk together
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0


class Overflow:
    """The spool of one writer, in a thread of its own, and the greenlet that fills it.

    `spill` moves up to so many rows into `put` and gives how many; it is called again for as long as `is_due`. All
    methods are called in the hub's thread; those that wait let the hub go on.
    """

    def __init__(
        self,
        spool: Spool,
        columns: Sequence[str],
        is_due: Callable[[], bool],
        spill: Callable[[int], int],
    ) -> None:
        self.spool = spool
        self.last_error: str | None = None  # why the last rows did not go to the disk
        self._columns = columns
        self._is_due = is_due
        self._spill = spill
        self._thread = ThreadPool(1)
        self._wake = Event()
        self._greenlet: gevent.Greenlet | None = None

    @property
    def count(self) -> int:
        """Rows that are on the disk, and not yet in the database."""
        return self.spool.count

    def start(self) -> None:
        """Set room aside, and begin to watch."""
        self._call(self.spool.reserve)
        if self.spool.problem:
            log.warning("No room is set aside for the spool %s: %s.", self.spool.file, self.spool.problem)
        self._spawn()

    def look(self) -> None:
        """To be called when rows may be due."""
        if not self._wake.is_set() and self._is_due():
            self._wake.set()

    def put(self, rows: Sequence[Row]) -> None:
        """Add rows; durable when it returns. Raises OSError, and keeps none then."""
        is_first = not self.spool.count
        try:
            self._call(self.spool.append, rows)
        except OSError as error:
            reason = error.strerror or str(error)
            if self.last_error is None:
                log.error("The spool %s takes no rows (%s); they stay in memory.", self.spool.file, reason)
            self.last_error = reason
            raise
        self.last_error = None
        if is_first:
            log.warning("Rows go to the spool %s until the database takes them.", self.spool.file)

    def bring_back(self, write: Callable[[list[Row]], None]) -> None:
        """Give all rows to `write`, in order, and empty the file. Where that is cut short, rows come twice."""
        brought, offset = 0, 0
        while self.spool.count:
            rows, offset = self._call(self.spool.read, offset, self._columns)
            if rows:
                write(rows)
                brought += len(rows)
            elif self._call(self.spool.clear_if_read, offset):
                log.warning("%d rows of the spool %s are in the database now.", brought, self.spool.file)

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the greenlet and the thread, and give the file up. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)
        with gevent.Timeout(timeout_s, False):
            self._call(self.spool.close)
            self._thread.kill()

    def _spawn(self) -> None:
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.link(self._ended)

    def _ended(self, greenlet: gevent.Greenlet) -> None:
        if self._greenlet is greenlet:  # nobody has stopped it
            log.error("The watch on the spool ended unexpectedly and is started again.")
            self._spawn()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._wake.wait()
            try:
                while self._is_due() and self._spill(AT_ONCE):
                    pause_s = FIRST_PAUSE_S
                self._wake.clear()
            except OSError:
                gevent.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except Exception:
                log.exception("The watch on the spool met an unexpected error and goes on.")
                gevent.sleep(LONGEST_PAUSE_S)

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        # Caught inside the thread: gevent prints a traceback for whatever leaves it.
        def guarded() -> tuple[Any, BaseException | None]:
            try:
                return function(*args), None
            except BaseException as error:
                return None, error

        result: T
        result, error = self._thread.apply(guarded)
        if error is not None:
            raise error
        return result


def replay(spool: Spool, columns: Sequence[str], write: Callable[[list[Row]], None]) -> int:
    """Give all rows of a spool that an ended process left to `write`, in order; how many there were."""
    overflow = Overflow(spool, columns, lambda: False, lambda most: 0)
    count, offset = 0, 0
    try:
        while True:
            rows, offset = overflow._call(spool.read, offset, columns)
            if not rows:
                spool.forget()
                return count
            write(rows)
            count += len(rows)
    finally:
        overflow._thread.kill()
