"""Runtime: what runs beside the requests, from the start of a worker to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import gevent
from gevent import monkey

from scheduler.adapters.boots import Boot
from scheduler.adapters.handover import Predecessor, Successor
from scheduler.core.dispatcher import Dispatcher
from scheduler.errors import ShuttingDown, StartRefused
from scheduler.gateway.live_calls import LiveCalls
from scheduler.gateway.loop import Loop

log = logging.getLogger(__name__)

#: What ending a request may take after it has been told to end.
END_S = 3.0
#: A worker that hands over keeps a slot of each node so long for requests that are still being read.
LATECOMERS_S = 30.0
SWEEP_S = 1.0
IDLE_POLL_S = 0.02


class Service(Protocol):
    """Something with greenlets or threads of its own."""

    def start(self) -> None: ...

    def stop(self) -> bool | None: ...


class Runtime:
    """Starts and stops what runs beside the requests, in order.

    A worker ends in one of two ways. `drain`: the server stops, so what waits is refused and what runs gets
    `shutdown_timeout`. Or a reload: its successor connects, and this worker accepts no more, serves what it has to its
    end with the slots it has, and tells the successor how many those are. The successor grants only the others, so
    that the limits hold and nobody is refused.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        live_calls: LiveCalls,
        services: Iterable[Service],
        writers: Iterable[Service],
        sweeps: Iterable[Callable[[], None]],
        boot: Boot,
        links_folder: Path,
        shutdown_timeout_s: float,
        begin: Callable[[], None],
        take_over: Callable[[], None],
        predecessor_gone: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._live_calls = live_calls
        self._services = list(services)
        self._writers = list(writers)
        self._sweeps = list(sweeps)
        self._boot = boot
        self._shutdown_timeout_s = shutdown_timeout_s
        self._begin = begin  # what must be done before the first request
        self._take_over = take_over  # what may be done once it is known what the predecessors still need
        self._predecessor_gone = predecessor_gone
        self._end = end  # what can be closed after the last record
        self._predecessor = Predecessor(links_folder, boot.id, self._shares, self._has_successor, self._stop_passed_on)
        self._successor = Successor(links_folder, dispatcher.set_elsewhere, predecessor_gone)
        self._sweeping = Loop(self._sweep, lambda error: log.error("a sweep failed", exc_info=error))
        self._succeeding: gevent.Greenlet | None = None
        self._started_at = time.monotonic()
        self._is_started = False
        self._handed_over_at = 0.0
        self.unplaced: Callable[[], int] = lambda: (
            0
        )  # requests that may come, are being read or answered, and hold no slot
        self.on_change: Callable[[], None] = lambda: None  # tells the worker that it is to end
        self.is_draining = False
        self.is_drained = False  # what is left now had its time

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started_at

    @property
    def placed_count(self) -> int:
        """Requests that hold a slot, or have held one and are being answered."""
        return sum(call.is_running for call in self._live_calls)

    @property
    def is_handing_over(self) -> bool:
        """True once a successor has taken over."""
        return self._predecessor.has_successor

    def is_ready(self) -> bool:
        """True while it may be sent traffic."""
        return self._is_started and not self.is_draining

    def start(self) -> None:
        """Begin; called once, in the worker, before it accepts. Raises StartRefused."""
        _check_patches()
        self._begin()
        for service in (*self._writers, *self._services):
            service.start()
        self._sweeping.start()
        self._succeeding = gevent.spawn(self._succeed)
        self._is_started = True

    def pass_on_stop(self) -> None:
        """Instead of a start: the server stops, which only a successor can tell the workers before it."""
        self._successor.connect()
        self._successor.tell_to_stop()
        self._successor.stop()
        self._end()
        self._boot.close()

    def drain(self, timeout_s: float | None = None) -> None:
        """Refuse new work and end what waits; let what runs go on up to `shutdown_timeout`, then end that too."""
        if self.is_draining:
            return
        self.is_draining = True
        self._successor.tell_to_stop()
        self._dispatcher.close()
        timeout_s = self._shutdown_timeout_s if timeout_s is None else timeout_s
        _wait_until(lambda: not len(self._live_calls) and self.unplaced() <= 0, timeout_s)
        for call in self._live_calls:
            call.end_early(ShuttingDown())
        _wait_until(lambda: not len(self._live_calls), END_S)
        self.is_drained = True

    def stop(self) -> None:
        """End everything; what was recorded is durable afterwards, or it is logged that it is not."""
        self._sweeping.stop()
        if self._succeeding is not None:
            self._succeeding.kill()
        for service in reversed(self._services):
            service.stop()
        stopped = [writer.stop() for writer in self._writers]
        self._end()
        self._predecessor.stop()
        self._successor.stop()
        if all(stopped):  # else the next start looks for requests that this one has left unfinished
            self._boot.close()

    def _succeed(self) -> None:
        """Become the successor of the workers before this one, and be ready for one of its own."""
        try:
            self._successor.connect()
            self._predecessor.start()
            self._take_over()
        except Exception:
            # Without this the worker would accept and never grant; the master starts another one.
            log.exception("this worker could not take over")
            self.is_draining = True
            self._dispatcher.close()
            self.on_change()

    def _has_successor(self) -> None:
        self._handed_over_at = time.monotonic()
        self._dispatcher.pledge()
        self.on_change()

    def _stop_passed_on(self) -> None:
        gevent.spawn(self.drain)

    def _shares(self) -> Mapping[str, int]:
        is_early = time.monotonic() - self._handed_over_at < LATECOMERS_S
        # Those who wait are counted by the dispatcher, which knows for what.
        return self._dispatcher.shares(keep_one=is_early and self.unplaced() > self._dispatcher.waiting_count)

    def _sweep(self) -> None:
        gevent.sleep(SWEEP_S)
        for sweep in self._sweeps:
            sweep()


def _wait_until(is_so: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < deadline:
        gevent.sleep(IDLE_POLL_S)


def _check_patches() -> None:
    """Blocking sockets in one greenlet would stop all of them. Raises StartRefused."""
    blocking = [name for name in ("socket", "ssl", "select", "time") if not monkey.is_module_patched(name)]
    if blocking:
        raise StartRefused(
            f"gevent has not patched {', '.join(blocking)}: start with 'llm-scheduler serve', or patch first of all in "
            "the file that gunicorn is configured with."
        )
