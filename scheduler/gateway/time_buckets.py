"""Time buckets: the edges between which figures are told, by the clock and the calendar of a time zone."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400

#: Steps, with about how many seconds each is. Days and longer are those of the time zone: 23 or 25 hours, too.
STEPS = {
    "1m": MINUTE_S,
    "5m": 5 * MINUTE_S,
    "15m": 15 * MINUTE_S,
    "30m": 30 * MINUTE_S,
    "1h": HOUR_S,
    "3h": 3 * HOUR_S,
    "6h": 6 * HOUR_S,
    "12h": 12 * HOUR_S,
    "1d": DAY_S,
    "1w": 7 * DAY_S,
    "1mo": 30 * DAY_S,
}


def find_zone(name: str) -> tzinfo | None:
    """The time zone of an IANA name; None where there is none of that name."""
    if name.upper() in ("UTC", "Z"):
        return UTC  # also where the machine has no time zones installed
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # a path, a folder, an unknown name
        return None


def usual_step(duration_s: float) -> str:
    """A step that cuts the range into a number of buckets that a chart can show."""
    return next((step for step, step_s in STEPS.items() if duration_s <= 120 * step_s), "1mo")


def bucket_edges(start: float, end: float, step: str, zone: tzinfo) -> list[float]:
    """`start`, the begins of all buckets between, and `end`, in seconds since the epoch.

    Buckets of less than a day count from the local midnight, each as long as any other, except the last of a day.
    """
    inner = _days(start, end, step, zone) if STEPS[step] >= DAY_S else _parts_of_days(start, end, step, zone)
    return [start, *(edge for edge in inner if start < edge < end), end]


def month_range(year: int, month: int, zone: tzinfo) -> tuple[float, float]:
    """The begin and the end of a month."""
    first = date(year, month, 1)
    return _midnight(first, zone), _midnight(_next_month(first), zone)


def _days(start: float, end: float, step: str, zone: tzinfo) -> Iterator[float]:
    day = datetime.fromtimestamp(start, zone).date()
    if step == "1w":
        day -= timedelta(days=day.weekday())
    elif step == "1mo":
        day = day.replace(day=1)
    while (edge := _midnight(day, zone)) < end:
        yield edge
        day = _next_month(day) if step == "1mo" else day + timedelta(days=7 if step == "1w" else 1)


def _parts_of_days(start: float, end: float, step: str, zone: tzinfo) -> Iterator[float]:
    step_s = STEPS[step]
    day = datetime.fromtimestamp(start, zone).date()
    while (midnight := _midnight(day, zone)) < end:
        day += timedelta(days=1)
        next_midnight = _midnight(day, zone)
        yield from (midnight + step_s * number for number in range(int((next_midnight - midnight - 1) // step_s) + 1))


def _midnight(day: date, zone: tzinfo) -> float:
    # Where the clock goes from 23:59 to 01:00, this is the instant at which it does.
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)
