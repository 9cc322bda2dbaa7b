"""Runtime: what runs beside the requests, from the start of a worker to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import gevent

from scheduler.adapters.boots import Boot, GranterLock
from scheduler.core.dispatcher import Dispatcher
from scheduler.errors import ShuttingDown
from scheduler.gateway.live_calls import LiveCalls

log = logging.getLogger(__name__)

#: How often a worker looks whether the one before it still grants.
GRANTER_POLL_S = 0.1
#: What ending a request may take after it has been told to end.
END_S = 3.0
FLUSH_S = 5.0
SWEEP_S = 1.0


class Service(Protocol):
    """Something with greenlets or threads of its own."""

    def start(self) -> None: ...

    def stop(self) -> bool | None: ...


class Runtime:
    """Starts and stops what runs beside the requests, in order, and drains the worker before it ends.

    Only one process may grant on a data folder. After a reload the new worker takes requests at once and lets them
    wait; it learns of healthy nodes, and so begins to grant, when the old one has given back its last lease.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        live_calls: LiveCalls,
        services: Iterable[Service],
        take_over: Callable[[], None],
        writers: Iterable[Service],
        sweeps: Iterable[Callable[[], None]],
        granter: GranterLock,
        boot: Boot,
        shutdown_timeout_s: float,
        begin: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._live_calls = live_calls
        self._services = list(services)
        self._take_over = take_over  # called when this process alone may grant
        self._writers = list(writers)
        self._sweeps = list(sweeps)
        self._granter = granter
        self._boot = boot
        self._shutdown_timeout_s = shutdown_timeout_s
        self._begin = begin  # what must be done before the first request
        self._end = end  # what can be closed after the last record
        self._greenlets: list[gevent.Greenlet] = []
        self._started_at = time.monotonic()
        self._is_started = False
        self.is_draining = False

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started_at

    def is_ready(self) -> bool:
        """True while it may be sent traffic."""
        return self._is_started and not self.is_draining

    def start(self) -> None:
        """Begin; called once, in the worker, before it accepts."""
        self._begin()
        for service in (*self._writers, *self._services):
            service.start()
        self._greenlets = [gevent.spawn(self._become_granter), gevent.spawn(self._sweep)]
        self._is_started = True

    def drain(self, timeout_s: float | None = None) -> None:
        """Refuse new work and end what waits; let what runs go on up to `shutdown_timeout`, then end that too."""
        if self.is_draining:
            return
        self.is_draining = True
        self._dispatcher.close()
        self._wait_until_idle(self._shutdown_timeout_s if timeout_s is None else timeout_s)
        for call in self._live_calls:
            call.end_early(ShuttingDown())
        self._wait_until_idle(END_S)

    def stop(self) -> None:
        """End everything; what was recorded is durable afterwards, or it is logged that it is not."""
        gevent.killall(self._greenlets)
        for service in reversed(self._services):
            service.stop()
        stopped = [writer.stop() for writer in self._writers]
        self._end()
        self._granter.release()
        if all(stopped):  # else the next start looks for requests that this one has left unfinished
            self._boot.close()

    def _wait_until_idle(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self._live_calls) and time.monotonic() < deadline:
            gevent.sleep(0.02)

    def _become_granter(self) -> None:
        while not self._granter.try_acquire():
            gevent.sleep(GRANTER_POLL_S)
        self._take_over()

    def _sweep(self) -> None:
        while True:
            gevent.sleep(SWEEP_S)
            for sweep in self._sweeps:
                try:
                    sweep()
                except Exception:
                    log.exception("a sweep failed")
