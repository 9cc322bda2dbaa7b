"""ClockGuard: whether the wall clock may be believed when it says how old something is."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select

from scheduler.adapters.marks import CLOCK, read_mark, write_mark
from scheduler.adapters.tables import REQUESTS

#: A clock that is off by more, in either direction, was set; less is what clocks are corrected by.
MOST_S = 3600.0

_MACHINE = Path("/proc/sys/kernel/random/boot_id")


def time_since_boot() -> float:
    """Seconds since the machine started, also while it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def machine_boot() -> str:
    """The name of this run of the machine's kernel; empty where it has none."""
    try:
        return _MACHINE.read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class _Reading:
    wall: float  # seconds since the epoch
    uptime: float
    machine: str


class ClockGuard:
    """Compares the wall clock with the time since the machine's start; after a restart of the machine, with the newest
    record and with the last time that the clock was trusted.

    The last trusted reading is kept in the database, so that a restart confirms nothing. A clock that is set right
    again is trusted again.
    """

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = time_since_boot,
        machine: str | None = None,
    ) -> None:
        self._wall_clock = wall_clock
        self._uptime = uptime
        self._machine = machine_boot() if machine is None else machine
        self.doubt: str | None = None  # why the clock is not believed, as of the last look

    def look(self, connection: Connection) -> str | None:
        """Find out whether the clock is to be believed, and keep the reading if so. Returns `doubt`."""
        now = self._reading()
        off_s, since = self._difference(connection, now)
        if abs(off_s) <= MOST_S:
            self.doubt = None
            self._keep(connection, now)
        else:
            direction = "forward" if off_s > 0 else "back"
            self.doubt = f"the clock seems to have been set {direction} by {abs(off_s) / 3600:.1f} h {since}"
        return self.doubt

    def confirm(self, connection: Connection) -> None:
        """Believe the clock as it is."""
        self.doubt = None
        self._keep(connection, self._reading())

    def _difference(self, connection: Connection, now: _Reading) -> tuple[float, str]:
        kept = read_mark(connection, CLOCK)
        trusted = _Reading(**json.loads(kept)) if kept else None
        if trusted is not None and self._machine and trusted.machine == self._machine:
            return (now.wall - trusted.wall) - (now.uptime - trusted.uptime), "while this machine ran"
        newest_ms = connection.execute(select(func.max(REQUESTS.c.created_at))).scalar()
        known = [at for at in (newest_ms and newest_ms / 1000, trusted and trusted.wall) if at]
        return (now.wall - max(known), "since the last record") if known else (0.0, "")

    def _keep(self, connection: Connection, reading: _Reading) -> None:
        write_mark(connection, CLOCK, json.dumps(asdict(reading)))

    def _reading(self) -> _Reading:
        return _Reading(self._wall_clock(), self._uptime(), self._machine)
