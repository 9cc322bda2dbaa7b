"""DispatcherPool: the greenlets for events that have no greenlet of their own."""

from collections.abc import Callable

from gevent.event import Event
from gevent.pool import Pool
from gevent.queue import Queue

from scheduler.core.dispatcher import Dispatcher


class DispatcherPool:
    """`worker_count` greenlets that carry events to the dispatcher, and one that keeps its time.

    A release or an arrival is matched by the greenlet that caused it; timers and health changes are posted here. The
    workers only match: they do no I/O, hold no ticket, and any number of them obeys the same laws.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        worker_count: int,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._events: Queue[Callable[[], None]] = Queue()
        self._sooner = Event()
        self._pool = Pool(worker_count + 1)
        self._worker_count = worker_count
        self._on_error = on_error
        dispatcher.timetable.on_sooner = self._sooner.set

    def start(self) -> None:
        for _ in range(self._worker_count):
            self._pool.spawn(self._work)
        self._pool.spawn(self._keep_time)

    def stop(self) -> None:
        """End the greenlets. What was posted and not done is lost."""
        self._pool.kill()

    def post(self, event: Callable[[], None]) -> None:
        """Let a worker call `event`, soon. Never blocks."""
        self._events.put_nowait(event)

    def _work(self) -> None:
        while True:
            event = self._events.get()
            try:
                event()
            except Exception as error:
                # A worker that died would be missed by nobody until the last one is gone.
                self._on_error(error)

    def _keep_time(self) -> None:
        while True:
            self._sooner.clear()
            due = self._dispatcher.timetable.next_due
            wait_s = None if due is None else due - self._clock()
            if wait_s is not None and wait_s <= 0:
                self._dispatch_due()
            else:
                self._sooner.wait(wait_s)

    def _dispatch_due(self) -> None:
        try:
            self._dispatcher.tick()
        except Exception as error:
            self._on_error(error)
