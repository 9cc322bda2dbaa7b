"""Ids of requests: unique over restarts and processes, in order of time, and cheap."""

from collections.abc import Callable
from itertools import count


def request_ids(boot_id: str, wall_clock: Callable[[], float]) -> Callable[[], str]:
    """A function that gives a new id each time: time in ms, this boot, and a counter, in hexadecimal digits."""
    boot = boot_id.rpartition("-")[2]
    numbers = count(1)
    return lambda: f"{int(wall_clock() * 1000):011x}-{boot}-{next(numbers):06x}"
