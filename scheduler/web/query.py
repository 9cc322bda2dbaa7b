"""Query: the checked parameters of a GET, with every mistake told at once."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo

from flask import request

from scheduler.errors import InvalidFields
from scheduler.gateway.time_buckets import find_zone


class Query:
    """Takes parameters one by one; `done` raises InvalidFields with all that were bad, unknown ones included."""

    def __init__(self) -> None:
        self._given = {name: value for name, value in request.args.items() if value != ""}
        self._faults: list[tuple[str, str]] = []

    def text(self, name: str) -> str | None:
        return self._given.pop(name, None)

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """One of the allowed words."""
        value = self.text(name)
        if value is None or value in allowed:
            return value
        self.refuse(name, f"must be one of {', '.join(allowed)}")
        return None

    def flag(self, name: str) -> bool | None:
        """`true` or `false`, also 1 or 0."""
        value = self.choice(name, ("true", "false", "1", "0"))
        return None if value is None else value in ("true", "1")

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdecimal() or len(value) > 12 or not least <= int(value) <= most:
            self.refuse(name, f"must be a whole number from {least} to {most}")
            return default
        return int(value)

    def duration_ms(self, name: str) -> float | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            duration_ms = float(value)
        except ValueError:
            duration_ms = -1.0
        if not 0 <= duration_ms < 1e12:
            self.refuse(name, "must be a number of milliseconds")
            return None
        return duration_ms

    def time(self, name: str) -> float | None:
        """RFC 3339, as seconds since the epoch; without an offset it is UTC."""
        value = self.text(name)
        if value is None:
            return None
        try:
            # A `+` that was not escaped has become a space.
            moment = datetime.fromisoformat(value.replace(" ", "+") if "T" in value else value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.refuse(name, "must be a time like 2026-11-22T08:00:00Z")
            return None

    def zone(self, name: str) -> tuple[str, tzinfo]:
        """A time zone by its IANA name; UTC where none is given."""
        value = self.text(name) or "UTC"
        zone = find_zone(value)
        if zone is None:
            self.refuse(name, "must be the name of a time zone, like Asia/Shanghai")
        return value, zone or UTC

    def choices(self, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
        """Some of the allowed words, with commas between them; all of them where none is given."""
        value = self.text(name)
        if value is None:
            return tuple(allowed)
        words = tuple(word.strip() for word in value.split(","))
        if not set(words) <= set(allowed) or len(set(words)) < len(words):
            self.refuse(name, f"must be one or more of {', '.join(allowed)}, each once")
            return tuple(allowed)
        return words

    def month(self, name: str) -> tuple[int, int] | None:
        """`2026-11` as year and month."""
        value = self.text(name)
        found = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", value or "")
        if value is not None and (found is None or not 1970 < int(found[1]) < 9999):
            self.refuse(name, "must be a month like 2026-11")
            return None
        return (int(found[1]), int(found[2])) if found else None

    def span(self) -> tuple[float | None, float | None]:
        """`start_time` and `end_time`, which must be in this order."""
        start, end = self.time("start_time"), self.time("end_time")
        if start is not None and end is not None and start >= end:
            self.refuse("end_time", "must be later than start_time")
        return start, end

    def done(self) -> None:
        """Raises InvalidFields."""
        faults = self._faults + [(name, "unknown parameter") for name in self._given]
        if faults:
            raise InvalidFields(faults)

    def refuse(self, name: str, message: str) -> None:
        """Say what is wrong with a parameter; `done` tells it."""
        self._faults.append((name, message))
