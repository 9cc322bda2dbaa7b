"""Query: the checked parameters of a GET, with every mistake told at once."""

from collections.abc import Sequence
from datetime import UTC, datetime

from flask import request

from scheduler.errors import InvalidFields


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
        self._refuse(name, f"must be one of {', '.join(allowed)}")
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
            self._refuse(name, f"must be a whole number from {least} to {most}")
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
            self._refuse(name, "must be a number of milliseconds")
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
            self._refuse(name, "must be a time like 2026-11-22T08:00:00Z")
            return None

    def done(self) -> None:
        """Raises InvalidFields."""
        faults = self._faults + [(name, "unknown parameter") for name in self._given]
        if faults:
            raise InvalidFields(faults)

    def _refuse(self, name: str, message: str) -> None:
        self._faults.append((name, message))
