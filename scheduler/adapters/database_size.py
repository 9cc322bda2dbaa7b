"""The size of a database on disk."""

import os

from sqlalchemy import Engine


def database_bytes(engine: Engine) -> int | None:
    """Bytes of SQLite's file and its write-ahead log; None for other databases, and in memory."""
    file = engine.url.database
    if engine.dialect.name != "sqlite" or not file or file == ":memory:":
        return None
    return sum(_size(name) for name in (file, f"{file}-wal"))


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except OSError:
        return 0
