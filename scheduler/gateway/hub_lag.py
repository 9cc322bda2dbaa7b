"""HubLag: how late the event loop is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import gevent

from scheduler.gateway.loop import Loop

PERIOD_S = 0.1
#: The largest lag is remembered for so long.
WINDOW_S = 60.0
#: More than this delays every stream noticeably.
WORRYING_MS = 250.0


class HubLag:
    """Measures by how much a short sleep is overslept: so late is everything else too, tokens of streams included."""

    def __init__(self, clock: Callable[[], float], on_error: Callable[[BaseException], None]) -> None:
        self._clock = clock
        self._loop = Loop(self._measure, on_error)
        self._lags: deque[tuple[float, float]] = deque()  # (when, ms): those that nothing later has topped
        self.last_ms = 0.0

    @property
    def max_ms(self) -> float:
        """The largest lag of the last minute."""
        self._forget(self._clock())
        return self._lags[0][1] if self._lags else 0.0

    @property
    def is_worrying(self) -> bool:
        return self.max_ms > WORRYING_MS

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def _measure(self) -> None:
        before = self._clock()
        gevent.sleep(PERIOD_S)
        now = self._clock()
        self.last_ms = max(0.0, (now - before - PERIOD_S) * 1000)
        self._forget(now)
        while self._lags and self._lags[-1][1] <= self.last_ms:
            self._lags.pop()
        self._lags.append((now, self.last_ms))

    def _forget(self, now: float) -> None:
        while self._lags and self._lags[0][0] < now - WINDOW_S:
            self._lags.popleft()
