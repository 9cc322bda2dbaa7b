"""Journal: what a simulated node has seen; its counters are the oracle of the tests."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gevent.event import Event

from scheduler.simulation.http_request import Request

_KEPT_ARRIVALS = 20_000


@dataclass(slots=True, eq=False)
class Arrival:
    """An inference request whose last body byte has been read."""

    n: int  # 1, 2, ... in order of arrival
    at_s: float
    request: Request
    epoch: int
    size: int
    outcome: str = "running"  # then served, aborted (the peer left) or broken (cut short by a fault)
    status: int | None = None
    ended_at_s: float | None = None


class Journal:
    """Counts. An arrival is running until its last byte went to the kernel, or its peer was seen gone."""

    def __init__(self, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = slots
        self._clock = clock
        self._epoch = 0
        self.running = 0
        self.connections_open = 0
        self._waiters: list[tuple[dict[str, int], Event]] = []
        self._start()

    def __repr__(self) -> str:
        return f"<Journal {self.running}/{self.slots} arrived={self.arrived} served={self.served}>"

    def _start(self) -> None:
        self._begun_at_s = self._changed_at_s = self._clock()
        self.peak = self.running
        self.over = self.arrived = self.served = self.aborted = self.broken = 0
        self.probes = self.bad_requests = self.incomplete = 0
        self.connections_total = self.connections_open
        self._busy_s = 0.0
        self._freed_at_s: deque[float] = deque(maxlen=10_000)
        self._handoffs = 0
        self._handoff_sum_s = self._handoff_max_s = 0.0
        self._arrivals: deque[Arrival] = deque(maxlen=_KEPT_ARRIVALS)

    def reset(self) -> None:
        """Begin anew; requests that run go on counting as running and in no other counter."""
        self._epoch += 1
        self._start()
        self._tell()

    # -- what happens -----------------------------------------------------------------------------

    def arrive(self, request: Request) -> Arrival:
        """Take up a request that has been read completely."""
        now = self._advance()
        if self._freed_at_s:
            gap_s = now - self._freed_at_s.popleft()
            self._handoffs += 1
            self._handoff_sum_s += gap_s
            self._handoff_max_s = max(self._handoff_max_s, gap_s)
        self.arrived += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        if self.running > self.slots:
            self.over += 1
        arrival = Arrival(self.arrived, now, request, self._epoch, len(request.body))
        self._arrivals.append(arrival)
        self._tell()
        return arrival

    def finish(self, arrival: Arrival, outcome: str, status: int | None) -> None:
        """End an arrival: served, aborted or broken. Further calls change nothing."""
        if arrival.outcome != "running":
            return
        now = self._advance()
        if self.running == self.slots:
            self._freed_at_s.append(now)
        self.running -= 1
        arrival.outcome, arrival.status, arrival.ended_at_s = outcome, status, now
        arrival.request.forget_body()
        if arrival.epoch == self._epoch:
            setattr(self, outcome, getattr(self, outcome) + 1)
        self._tell()

    def connection_opened(self) -> None:
        """Count a connection."""
        self.connections_open += 1
        self.connections_total += 1
        self._tell()

    def connection_closed(self) -> None:
        """Count its end."""
        self.connections_open -= 1
        self._tell()

    def connection_was_for_control(self) -> None:
        """Take a connection out of the count: it carries /sim/*."""
        self.connections_open -= 1
        self.connections_total -= 1
        self._tell()

    def count(self, what: str) -> None:
        """Count one of `probes`, `bad_requests` (no valid HTTP), `incomplete` (the peer left before its last byte)."""
        setattr(self, what, getattr(self, what) + 1)
        self._tell()

    def _advance(self) -> float:
        now = self._clock()
        self._busy_s += self.running * (now - self._changed_at_s)
        self._changed_at_s = now
        return now

    # -- what is told -----------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """All counters; `busy_ms` is the sum over all requests of the time they ran."""
        now = self._advance()
        mean_s = self._handoff_sum_s / self._handoffs if self._handoffs else 0.0
        names = (
            "running peak over arrived served aborted broken probes bad_requests incomplete "
            "connections_open connections_total slots"
        )
        return {
            **{name: getattr(self, name) for name in names.split()},
            "busy_ms": round(self._busy_s * 1000, 3),
            "clock_ms": round((now - self._begun_at_s) * 1000, 3),
            "handoff_gap_ms": {
                "mean": round(mean_s * 1000, 3),
                "max": round(self._handoff_max_s * 1000, 3),
                "count": self._handoffs,
            },
        }

    def arrivals(self) -> list[dict[str, Any]]:
        """The arrivals in order, times in milliseconds since the last reset."""
        return [self._told(arrival) for arrival in self._arrivals]

    def _told(self, arrival: Arrival) -> dict[str, Any]:
        request, ended_at_s = arrival.request, arrival.ended_at_s
        headers: dict[str, str] = {}
        for name, value in request.headers:
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return {
            "n": arrival.n,
            "at_ms": round((arrival.at_s - self._begun_at_s) * 1000, 3),
            "ended_ms": None if ended_at_s is None else round((ended_at_s - self._begun_at_s) * 1000, 3),
            "path": request.path,
            "target": request.target,
            "model": request.model,
            "tag": request.tag,
            "request_id": request.header("x-request-id"),
            "headers": headers,
            "header_lines": request.headers,
            "bytes": arrival.size,
            "sha256": request.sha256,
            "outcome": arrival.outcome,
            "status": arrival.status,
        }

    # -- waiting for it ---------------------------------------------------------------------------

    def wait(self, wanted: dict[str, int], timeout_s: float) -> bool:
        """Wait until each counter is at least so large (0: exactly 0). False after `timeout_s`. Raises KeyError."""
        known = self.stats()
        for name in wanted:
            if not isinstance(known[name], int):
                raise KeyError(name)
        if self._holds(wanted):
            return True
        waiter = (wanted, Event())
        self._waiters.append(waiter)
        try:
            return bool(waiter[1].wait(timeout_s))
        finally:
            self._waiters.remove(waiter)

    def _holds(self, wanted: dict[str, int]) -> bool:
        return all(
            getattr(self, name) == 0 if value == 0 else getattr(self, name) >= value for name, value in wanted.items()
        )

    def _tell(self) -> None:
        for wanted, told in self._waiters:
            if self._holds(wanted):
                told.set()
