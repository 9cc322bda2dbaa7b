"""Clocks: how long anything about a call may take, and the sweep that sees to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gevent

from scheduler.gateway.loop import Loop


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds, named as the settings."""

    connect_timeout_s: float = 5.0
    request_timeout_s: float = 300.0
    idle_timeout_s: float = 300.0
    stream_timeout_s: float = 3600.0
    write_timeout_s: float = 60.0


class Clocked(Protocol):
    """What has clocks: an exchange that holds a slot, or whose answer is still being sent."""

    def check_clocks(self, now: float) -> None:
        """End it where one of its clocks has run out. Never blocks."""


class ClockSweep:
    """Looks at every dispatched exchange a few times a second: one greenlet instead of a timer a request.

    All clocks are totals kept here, so that a peer that drips bytes resets none. Requests that wait in the queue are
    not among them: their deadlines are the core's.
    """

    PERIOD_S = 0.1

    def __init__(self, clock: Callable[[], float], on_error: Callable[[BaseException], None]) -> None:
        self._clock = clock
        self._on_error = on_error
        self._exchanges: set[Clocked] = set()
        self._loop = Loop(self._wait_and_sweep, on_error)

    def __len__(self) -> int:
        return len(self._exchanges)

    def add(self, exchange: Clocked) -> None:
        self._exchanges.add(exchange)

    def remove(self, exchange: Clocked) -> None:
        self._exchanges.discard(exchange)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def sweep(self) -> None:
        """Look at every exchange once."""
        now = self._clock()
        for exchange in list(self._exchanges):
            try:
                exchange.check_clocks(now)
            except Exception as error:
                # One exchange that cannot be checked must not stop the clocks of all others.
                self._on_error(error)

    def _wait_and_sweep(self) -> None:
        gevent.sleep(self.PERIOD_S)
        self.sweep()
