"""SqlRequestLog: reads records and events. It is the gateway's RequestLog."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal, select, text, tuple_, union
from sqlalchemy.sql.expression import and_

from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.tables import EVENTS, NOT_COMPLETED, NOT_NORMAL, OUTCOME_NOT_COMPLETED, REQUESTS
from scheduler.gateway.ports import Event, RequestFilter, RequestPage

EXACT_TOTAL = 100_000  # counted exactly up to here, estimated beyond
MOST_FOUND = 10_000  # rows that a search for an id looks at
BATCH = 100  # records that are turned into text at once: few milliseconds
LAST_CHARACTER = "\U0010ffff"

TIMES = ("created_at", "started_at", "first_byte_at", "finished_at")
FIELDS = (
    *("id", "client_request_id", "model", "node_id", "priority", "status", "outcome", "stream", "path"),
    *TIMES,
    *("queue_ms", "ttfb_ms", "latency_ms", "http_status", "error_code", "error_message", "attempts"),
    *("prompt_tokens", "completion_tokens", "bytes_in", "bytes_out", "client", "key_name"),
)


class SqlRequestLog:
    """Every call runs in the reader's threads, never in the hub, and sees what is durable: at most a moment old."""

    def __init__(self, reader: DatabaseThreads, exact_total: int = EXACT_TOTAL) -> None:
        self._reader = reader
        self._exact_total = exact_total

    def page(self, wanted: RequestFilter, limit: int, offset: int) -> RequestPage:
        """Records that match, newest first, with the contract's fields; times in epoch seconds."""
        conditions = _conditions(wanted)
        # The rows to skip are skipped in the index; only those of the page are read whole.
        numbers = (
            _matching(REQUESTS.c.seq, conditions)
            .order_by(REQUESTS.c.created_at.desc(), REQUESTS.c.seq.desc())
            .limit(limit)
            .offset(offset)
        )
        rows = (
            select(*(REQUESTS.c[name] for name in FIELDS))
            .where(REQUESTS.c.seq.in_(numbers))
            .order_by(REQUESTS.c.created_at.desc(), REQUESTS.c.seq.desc())
        )

        def work(connection: Connection) -> RequestPage:
            found = [_request(row) for row in connection.execute(rows).mappings()]
            is_cut = bool(wanted.q) and _is_cut(connection, wanted.q)
            if 0 < len(found) < limit:
                # The last page: the total is known without counting.
                return RequestPage(found, offset + len(found), is_cut)
            total, is_estimate = self._total(connection, conditions)
            return RequestPage(found, total, is_estimate or is_cut)

        return self._reader.run(work)

    def batches(self, wanted: RequestFilter) -> Iterator[list[dict[str, Any]]]:
        """All records that match and were there at the begin, newest first, BATCH at a time; nothing is held between.

        Each batch goes on after the last record of the one before, so that none is told twice while rows come and go.
        """
        last_seq = self._reader.run(lambda connection: connection.execute(select(func.max(REQUESTS.c.seq))).scalar())
        order = tuple_(REQUESTS.c.created_at, REQUESTS.c.seq)
        query = (
            _matching(REQUESTS.c.seq, [*_conditions(wanted), REQUESTS.c.seq <= (last_seq or 0)])
            .add_columns(*(REQUESTS.c[name] for name in FIELDS))
            .order_by(REQUESTS.c.created_at.desc(), REQUESTS.c.seq.desc())
            .limit(BATCH)
        )

        def read(after: tuple[int, int] | None) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
            here = query if after is None else query.where(order < tuple_(*map(literal, after)))
            rows = self._reader.run(lambda connection: connection.execute(here).mappings().all())
            last = (rows[-1]["created_at"], rows[-1]["seq"]) if len(rows) == BATCH else None
            return [_request({name: row[name] for name in FIELDS}) for row in rows], last

        found, after = read(None)
        yield found
        while after is not None:
            found, after = read(after)
            yield found

    def get(self, request_id: str) -> dict[str, Any] | None:
        """One record with its attempts and the decision, or None."""
        query = select(*(REQUESTS.c[name] for name in FIELDS), REQUESTS.c.decision).where(REQUESTS.c.id == request_id)
        row = self._reader.run(lambda connection: connection.execute(query).mappings().first())
        return None if row is None else _request(row)

    def events(self, limit: int, offset: int) -> Iterator[Event]:
        """Events, newest first."""
        query = select(EVENTS).order_by(EVENTS.c.at.desc(), EVENTS.c.seq.desc()).limit(limit).offset(offset)
        return iter([_event(row) for row in self._reader.run(lambda connection: connection.execute(query).all())])

    def _total(self, connection: Connection, conditions: list[ColumnElement[bool]]) -> tuple[int, bool]:
        """How many rows match, and whether that is an estimate.

        The newest `exact_total` matches are counted. Where there are more, their density in time is taken for the whole
        time from the oldest match to the newest.
        """
        newest_first = _matching(REQUESTS.c.created_at, conditions).order_by(REQUESTS.c.created_at.desc())
        counted = newest_first.limit(self._exact_total + 1).subquery()
        count, since, newest = connection.execute(
            select(func.count(), func.min(counted.c.created_at), func.max(counted.c.created_at))
        ).one()
        if count <= self._exact_total:
            return count, False
        oldest_first = _matching(REQUESTS.c.created_at, conditions).order_by(REQUESTS.c.created_at)
        oldest = connection.execute(oldest_first.limit(1)).scalar_one()
        share = (newest - since) / max(newest - oldest, 1)
        return max(count, round(count / share)) if share > 0 else count, True


def _matching(column: ColumnElement[Any], conditions: list[ColumnElement[bool]]) -> Select[Any]:
    return select(column).where(and_(True, *conditions))


def _conditions(wanted: RequestFilter) -> list[ColumnElement[bool]]:
    columns = REQUESTS.c
    found: list[ColumnElement[bool]] = []
    for name in ("status", "outcome", "model", "node_id", "priority", "key_name", "stream", "error_code"):
        value = getattr(wanted, name)
        if value is not None:
            found.append(columns[name] == value)
    # Said in the words of the partial indexes, or they would not be used.
    if wanted.status not in (None, "completed"):
        found.append(text(NOT_COMPLETED))  # type: ignore[arg-type]
    if wanted.outcome not in (None, "completed"):
        found.append(text(OUTCOME_NOT_COMPLETED))  # type: ignore[arg-type]
    if wanted.priority not in (None, "normal"):
        found.append(text(NOT_NORMAL))  # type: ignore[arg-type]
    if wanted.start_time is not None:
        found.append(columns.created_at >= round(wanted.start_time * 1000))
    if wanted.end_time is not None:
        found.append(columns.created_at < round(wanted.end_time * 1000))
    if wanted.min_latency_ms is not None:
        found.append(columns.latency_ms >= wanted.min_latency_ms)
    if wanted.q:
        found.append(columns.seq.in_(_numbers_of(wanted.q)))
    return found


def _numbers_of(prefix: str) -> Select[Any]:
    """The rows whose id, or the caller's id, begins with the prefix: two ranges, each read from its index."""
    ranges = []
    for column in (REQUESTS.c.id, REQUESTS.c.client_request_id):
        within = select(REQUESTS.c.seq).where(column >= prefix, column < prefix + LAST_CHARACTER)
        # Every id may begin with the same letters. Ours sort by time, so what is kept are the newest.
        newest = within.order_by(column.desc()).limit(MOST_FOUND).subquery()
        ranges.append(select(newest.c.seq))
    both = union(*ranges).subquery()
    return select(both.c.seq)


def _is_cut(connection: Connection, prefix: str | None) -> bool:
    """True where more rows begin with the prefix than were looked at."""
    numbers = _numbers_of(prefix or "").subquery()
    return connection.execute(select(func.count()).select_from(numbers)).scalar_one() >= MOST_FOUND


def _request(row: Mapping[Any, Any]) -> dict[str, Any]:
    fields = dict(row)
    for name in TIMES:
        if fields[name] is not None:
            fields[name] /= 1000
    fields["attempts"] = [
        {"node_id": node_id, "start_ms": start_ms, "result": result, "duration_ms": duration_ms}
        for node_id, start_ms, result, duration_ms in json.loads(fields["attempts"] or "[]")
    ]
    return fields


def _event(row: Row[Any]) -> Event:
    return Event(
        at=row.at / 1000,
        kind=row.kind,
        subject=row.subject,
        actor=row.actor,
        before=None if row.before is None else json.loads(row.before),
        after=None if row.after is None else json.loads(row.after),
        note=row.note,
    )
