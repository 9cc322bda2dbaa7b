"""The tables. Times are epoch milliseconds (BIGINT), durations milliseconds (float), both sortable on every database.

Sized for ten million requests: every index is led by a filter of the request list and followed by `created_at`, so that
"newest first" is read from the index, whatever is asked for. SQLite ends each index with the row number `seq`, which
makes the order `created_at, seq` total and free; PostgreSQL sorts the few ties of a millisecond.

Indexes for what is rare (failures, waiting requests, priorities other than normal) are partial: the ordinary completed
request pays for five indexes, not for ten. A query must repeat the predicate of a partial index to use it; that is
written in request_log.py and boots.py.

A rollup is kept for each outcome, model, node, priority, key, and key with model, not for each combination of all of
them: that would be nearly as many as requests, and a figure over a month would have to add them up.
"""

from typing import cast

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, Table, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from scheduler.adapters.database import Model

RowNumber = BigInteger().with_variant(Integer, "sqlite")

# The order of characters must be the order of bytes, or a range over a prefix would not be that prefix.
Identifier = String(128).with_variant(String(128, collation="C"), "postgresql")


class NodeRow(Model):
    """A node as it was registered, and what an operator has set since. JSON is text: it is read whole."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    address: Mapped[str] = mapped_column(String(2048))
    models: Mapped[str] = mapped_column(Text)
    max_concurrent: Mapped[int] = mapped_column(Integer)
    weight: Mapped[int] = mapped_column(Integer)
    api_key: Mapped[str | None] = mapped_column(Text)
    labels: Mapped[str] = mapped_column(Text)
    remark: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    overrides: Mapped[str] = mapped_column(Text)
    is_from_file: Mapped[bool]
    is_deleted: Mapped[bool]
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)


class RequestRow(Model):
    """One request. `seq` is the order of first writing and breaks ties of `created_at`; `id` is the public key.

    The attempts are a JSON column and no table of their own: they are only ever read together with their request,
    nearly every request has exactly one, and a second table would double rows and indexes for ten million requests.
    Figures by node come from rollups, which the writer feeds from the record and not from this column.
    """

    __tablename__ = "requests"

    seq: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Identifier, unique=True)
    boot_id: Mapped[str] = mapped_column(String(64))
    client_request_id: Mapped[str | None] = mapped_column(Identifier)
    model: Mapped[str] = mapped_column(String(256))
    key_name: Mapped[str | None] = mapped_column(String(128))
    path: Mapped[str] = mapped_column(String(512))
    stream: Mapped[bool]
    client: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str | None] = mapped_column(String(16))
    node_id: Mapped[str | None] = mapped_column(String(64))
    decision: Mapped[str | None] = mapped_column(String(512))
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    first_byte_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    queue_ms: Mapped[float | None]
    ttfb_ms: Mapped[float | None]
    latency_ms: Mapped[float | None]
    http_status: Mapped[int | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(String(2000))
    prompt_tokens: Mapped[int | None] = mapped_column(BigInteger)
    completion_tokens: Mapped[int | None] = mapped_column(BigInteger)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    bytes_out: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[str | None] = mapped_column(Text)  # [[node_id, start_ms, result, duration_ms], ...]


# Each speaks of a column of its own index: otherwise SQLite would look into the table to check it.
NOT_COMPLETED = "status <> 'completed'"
OUTCOME_NOT_COMPLETED = "outcome <> 'completed'"
NOT_NORMAL = "priority <> 'normal'"


REQUESTS = cast(Table, RequestRow.__table__)


def _index(*columns: str, where: str | None = None) -> Index:
    name = "ix_requests_" + "_".join(columns)
    if where is None:
        return Index(name, *(REQUESTS.c[column] for column in columns))
    predicate = text(where)
    return Index(
        name,
        *(REQUESTS.c[column] for column in columns),
        sqlite_where=predicate,
        postgresql_where=predicate,
    )


REQUEST_INDEXES = (
    _index("created_at"),
    _index("model", "created_at"),
    _index("node_id", "created_at"),
    _index("key_name", "created_at", where="key_name IS NOT NULL"),
    _index("client_request_id", where="client_request_id IS NOT NULL"),
    _index("status", "created_at", where=NOT_COMPLETED),
    _index("outcome", "created_at", where=OUTCOME_NOT_COMPLETED),
    _index("error_code", "created_at", where="error_code IS NOT NULL"),
    _index("priority", "created_at", where=NOT_NORMAL),
)


class EventRow(Model):
    """A line of the audit trail. `uid` makes a repeated write harmless."""

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    uid: Mapped[str] = mapped_column(String(32), unique=True)
    at: Mapped[int] = mapped_column(BigInteger, index=True)
    kind: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128))
    actor: Mapped[str] = mapped_column(String(128))
    before: Mapped[str | None] = mapped_column(Text)
    after: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(String(2000))


class BootRow(Model):
    """A server process that has begun. `home` names its data folder: only there can be seen whether it still lives."""

    __tablename__ = "boots"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    home: Mapped[str] = mapped_column(String(64))
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[int] = mapped_column(BigInteger)


class RollupRow(Model):
    """Figures of the requests that were created within `step_ms` from `at` on, and are finished; see tally.py.

    On SQLite the rows lie in the order of the key: a range of time of one dimension is read in one piece.
    """

    __tablename__ = "rollups"
    __table_args__ = ({"sqlite_with_rowid": False},)

    step_ms: Mapped[int] = mapped_column(Integer, primary_key=True)
    dimension: Mapped[str] = mapped_column(String(16), primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(256), primary_key=True)
    model: Mapped[str] = mapped_column(String(256), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    completed: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    without_usage: Mapped[int] = mapped_column(BigInteger)
    queue_us: Mapped[int] = mapped_column(BigInteger)
    ttfb_us: Mapped[int] = mapped_column(BigInteger)
    latency_us: Mapped[int] = mapped_column(BigInteger)
    queue: Mapped[bytes | None] = mapped_column(LargeBinary)
    ttfb: Mapped[bytes | None] = mapped_column(LargeBinary)
    latency: Mapped[bytes | None] = mapped_column(LargeBinary)


class RollupInboxRow(Model):
    """Finished requests that the rollups do not yet hold, a JSON list of facts for each batch."""

    __tablename__ = "rollup_inbox"

    seq: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    facts: Mapped[str] = mapped_column(Text)


class MarkRow(Model):
    """A fact about the database itself; see marks.py."""

    __tablename__ = "marks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


NODES = cast(Table, NodeRow.__table__)
EVENTS = cast(Table, EventRow.__table__)
BOOTS = cast(Table, BootRow.__table__)
ROLLUPS = cast(Table, RollupRow.__table__)
ROLLUP_INBOX = cast(Table, RollupInboxRow.__table__)
MARKS = cast(Table, MarkRow.__table__)
