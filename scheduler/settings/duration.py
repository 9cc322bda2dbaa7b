"""Durations and sizes: `1h30m` is 5400.0 seconds, `100MB` is 100,000,000 bytes. Both can be written back."""

import math
import re
from decimal import Decimal
from typing import Any

_SECONDS = {"d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_DECIMAL = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_BINARY = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_BYTES = _DECIMAL | _BINARY
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")

DURATION_REMEDY = "write a duration such as 500ms, 30s, 5m, 1h30m or 7d"
SIZE_REMEDY = "write a size such as 65536, 100MB (1000 x 1000 bytes), 100MiB (1024 x 1024 bytes) or 2GB"


def parse_duration(value: Any) -> float:
    """Seconds in `value`: a number of seconds, or a text of parts from the greatest unit to the smallest.

    Raises ValueError with the value and the remedy.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{value} is no duration; {DURATION_REMEDY}")
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _PART.findall(text)
    units = [unit for _, unit in parts]
    ordered = [unit for unit in _SECONDS if unit in units]
    if not parts or "".join(number + unit for number, unit in parts) != text or units != ordered:
        raise ValueError(f"{_shown(value)} is no duration; {DURATION_REMEDY}")
    return float(sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0)))


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as `seconds` (milliseconds are the finest part)."""
    left = round(seconds * 1000)
    if not left:
        return "0s" if seconds == 0 else f"{seconds:.9f}".rstrip("0") + "s"
    parts = []
    for unit, size in _SECONDS.items():
        count, left = divmod(left, int(size * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(value: Any) -> int:
    """Bytes in `value`: a whole number, or a number with a unit (KB is 1000, KiB is 1024, and so on).

    Raises ValueError with the value and the remedy.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    text = value.strip() if isinstance(value, str) else ""
    if re.fullmatch(r"[0-9]{1,15}", text):
        return int(text)
    match = _SIZE.fullmatch(text)
    unit = {name.lower(): size for name, size in _BYTES.items()}.get(match[2].lower()) if match else None
    size = Decimal(match[1]) * unit if match and unit else Decimal("0.5")
    if size != int(size):
        raise ValueError(f"{_shown(value)} is no size in whole bytes; {SIZE_REMEDY}")
    return int(size)


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads back as `size_bytes`; decimal units where both would do."""
    texts = [f"{size_bytes // size}{unit}" for unit, size in _BYTES.items() if size > 1 and size_bytes % size == 0]
    return min([str(size_bytes), *texts], key=len) if size_bytes else "0"


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
