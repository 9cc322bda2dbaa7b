"""Upsert: many rows in one statement."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Dialect, Table

# A few fixed sizes, so that the driver finds its prepared statement again.
CHUNK_SIZES = (256, 64, 16, 4, 1)


class Upsert:
    """`INSERT .. VALUES (..), (..) ON CONFLICT (key) DO UPDATE`, or `DO NOTHING` where nothing is ever changed.

    One statement a chunk, not `executemany`: SQLite releases the interpreter's lock at every step, and beside a busy
    hub each return to it can cost the five milliseconds of the switch interval. A chunk is one step. Rows are tuples in
    the order of `columns`, already in the types of the database; no key may be in one call twice.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[str],
        key: str | Sequence[str],
        changing: Sequence[str],
        dialect: Dialect,
    ) -> None:
        quote = dialect.identifier_preparer.quote
        mark = "?" if dialect.paramstyle == "qmark" else "%s"
        self._values = "(" + ",".join(mark for _ in columns) + ")"
        self._head = f"INSERT INTO {quote(table.name)} ({','.join(quote(name) for name in columns)}) VALUES "
        # Columns that never change are left out: SQLite rewrites the indexes of every column that is named here.
        changes = ",".join(f"{quote(name)}=excluded.{quote(name)}" for name in changing)
        unique = ",".join(quote(name) for name in ([key] if isinstance(key, str) else key))
        self._tail = f" ON CONFLICT ({unique}) DO " + (f"UPDATE SET {changes}" if changing else "NOTHING")
        self._statements = {size: self._head + ",".join([self._values] * size) + self._tail for size in CHUNK_SIZES}

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write the rows in the connection's transaction."""
        begin = 0
        for size in CHUNK_SIZES:
            while len(rows) - begin >= size:
                chunk = rows[begin : begin + size]
                connection.exec_driver_sql(self._statements[size], tuple(chain.from_iterable(chunk)))
                begin += size
