"""DatabaseThreads: real threads for database calls, so that none of them ever blocks the hub."""

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent.threadpool import ThreadPool
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from scheduler.adapters.database import READS_ONLY, is_sqlite

T = TypeVar("T")


class DatabaseThreads:
    """A pool of real threads of its own (gevent's default pool also looks up names), each call in one transaction.

    The caller's greenlet waits, the hub goes on. Connections stay open between calls and are replaced after any error,
    and when the SQLite file was replaced: a connection to a removed file would write into nothing. All our writes may
    be repeated, so a call that meets a connection which has died meanwhile is repeated once on a fresh one.
    """

    def __init__(self, engine: Engine, threads: int, reads_only: bool = False) -> None:
        self.engine = engine.execution_options(**{READS_ONLY: reads_only})
        self._pool = ThreadPool(threads)
        self._file = engine.url.database if is_sqlite(engine) else None
        self._idle: list[tuple[Connection, tuple[int, int] | None]] = []
        self._is_closed = False

    def run(self, work: Callable[[Connection], T]) -> T:
        """Call `work` in a thread, in a transaction that is committed when this returns. Raises what `work` raises."""
        # Caught inside the task: gevent prints a traceback for whatever leaves it.
        result: T
        result, error = self._pool.apply(self._guarded, (work,))
        if error is not None:
            raise error
        return result

    def close(self, timeout_s: float = 1.0) -> None:
        """Close the connections and end the threads; one that is stuck in the database is left behind. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        with gevent.Timeout(timeout_s, False):
            self._pool.join()
            while self._idle:
                self._pool.apply(self._discard, (self._idle.pop()[0],))
            self._pool.kill()

    # -- in the thread ----------------------------------------------------------------------------

    def _guarded(self, work: Callable[[Connection], T]) -> tuple[Any, BaseException | None]:
        try:
            return self._transact(work), None
        except BaseException as error:
            return None, error

    def _transact(self, work: Callable[[Connection], T]) -> T:
        while True:
            connection, identity, is_reused = self._connection()
            try:
                with connection.begin():
                    result = work(connection)
            except BaseException as error:
                self._discard(connection)
                if is_reused and isinstance(error, DBAPIError) and error.connection_invalidated:
                    continue
                raise
            self._idle.append((connection, identity))
            return result

    def _connection(self) -> tuple[Connection, tuple[int, int] | None, bool]:
        # Raises FileNotFoundError where the file has gone; connecting would put an empty one in its place.
        identity = self._identity()
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was quicker
                connection, known = self._idle.pop()
                if known == identity:
                    return connection, identity, True
                self._discard(connection)
        return self.engine.connect(), identity, False

    def _identity(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        found = os.stat(self._file)
        return found.st_dev, found.st_ino

    @staticmethod
    def _discard(connection: Connection) -> None:
        with contextlib.suppress(Exception):
            connection.close()
