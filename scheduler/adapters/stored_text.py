"""Stored text: every string that reaches a column goes through here, whoever wrote it."""

import json
from typing import Any

MAX_JSON_CHARS = 16_000


def stored_text(value: object, limit: int) -> str | None:
    """The value as text a database accepts: at most `limit` characters, no NUL, no lone surrogates. None stays None."""
    if value is None:
        return None
    words = value if isinstance(value, str) else str(value)
    if len(words) > limit:
        words = words[:limit]
    if words.isascii():
        return words.replace("\0", "\ufffd") if "\0" in words else words
    # SQLite cuts text at a NUL, PostgreSQL refuses it, and neither can encode half of a surrogate pair.
    return words.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", "\ufffd")[:limit]


def stored_name(value: object, limit: int) -> str:
    """As stored_text, for columns that are never null."""
    return stored_text("" if value is None else value, limit) or ""


def stored_json(value: Any, limit: int = MAX_JSON_CHARS) -> str | None:
    """The value as JSON in plain ASCII, whatever is in it; past `limit` a note instead. None stays None."""
    if value is None:
        return None
    words = json.dumps(value, separators=(",", ":"), default=str)
    if len(words) > limit:
        return json.dumps({"omitted": f"{len(words)} characters"})
    return words
