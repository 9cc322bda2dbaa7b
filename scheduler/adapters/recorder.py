"""BatchRecorder: keeps request records, off the hot path. It is the gateway's Recorder."""

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from sqlalchemy import Connection

from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.overflow import AT_ONCE, Overflow, replay
from scheduler.adapters.rollups import Rollups
from scheduler.adapters.spool import Spool
from scheduler.adapters.stored_text import stored_name, stored_text
from scheduler.adapters.tables import REQUESTS
from scheduler.adapters.tally import Facts
from scheduler.adapters.upsert import Upsert
from scheduler.adapters.write_behind import WriteBehind
from scheduler.gateway.record import Attempt, RequestRecord

MAX_BIGINT = 2**63 - 1
KEEP_S = 5.0  # what the spool gets at a stop

_to_json = json.JSONEncoder(separators=(",", ":")).encode

FIXED = ("id", "boot_id", "client_request_id", "model", "key_name", "path", "stream", "client", "created_at")
CHANGING = (
    "priority",
    "status",
    "outcome",
    "node_id",
    "decision",
    "started_at",
    "first_byte_at",
    "finished_at",
    "queue_ms",
    "ttfb_ms",
    "latency_ms",
    "http_status",
    "error_code",
    "error_message",
    "prompt_tokens",
    "completion_tokens",
    "bytes_in",
    "bytes_out",
    "attempts",
)
COLUMNS = FIXED + CHANGING

_ID, _OUTCOME = COLUMNS.index("id"), COLUMNS.index("outcome")
_FACTS = itemgetter(*(COLUMNS.index(name) for name in Facts._fields))


class BatchRecorder(WriteBehind[RequestRecord]):
    """Keeps the latest state of every record that changed; every `interval_s` one batch of them goes to the writer.

    A record that begins and ends within one interval is written once. Past `max_backlog` the oldest unfinished record
    is put aside first (its end will bring it back whole, so nothing is lost yet), then the oldest finished one goes:
    that one is lost, counted and logged. `save` keeps a reference: the row is made when its batch is, from the record
    as it is then.

    With a `spool`, finished records go there once the database has taken nothing for `spill_after_s` and more than
    `spill_above` wait, the oldest first; they come back before newer ones are written. What a stop cannot write goes
    there too.
    """

    name = "records"

    def __init__(
        self,
        writer: DatabaseThreads,
        interval_s: float = 0.05,
        max_backlog: int = 100_000,
        max_batch: int = 2_000,
        spool: Spool | None = None,
        spill_after_s: float = 5.0,
        spill_above: int = 5_000,
    ) -> None:
        super().__init__(writer, interval_s, max_backlog, max_batch)
        self.spill_after_s = spill_after_s
        self.spill_above = spill_above
        self.overflow = Overflow(spool, COLUMNS, self._is_spill_due, self._spill) if spool is not None else None
        self._spilling: Sequence[RequestRecord] = ()
        self._spill_turn = BoundedSemaphore(1)
        self.put_aside = 0  # unfinished records that had to make room
        self._unfinished: dict[str, RequestRecord] = {}
        self._finished: dict[str, RequestRecord] = {}
        self._upsert = Upsert(REQUESTS, COLUMNS, "id", CHANGING, writer.engine.dialect)
        self._rollups = Rollups(writer.engine.dialect)

    def save(self, record: RequestRecord) -> None:
        """Take the record as it is now, to be written soon. Never blocks, never raises."""
        if record.outcome is None:
            self._unfinished[record.id] = record
        else:
            self._unfinished.pop(record.id, None)
            self._finished[record.id] = record
        if len(self._unfinished) + len(self._finished) + len(self._taken) + len(self._spilling) > self.max_backlog:
            self._make_room()
        self._give()
        if self._trying_since is not None and self.overflow is not None:
            self.overflow.look()

    def start(self) -> None:
        """Begin to write. What was given before is kept."""
        if self.overflow is not None and self._greenlet is None:
            self.overflow.start()
        super().start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """As of every WriteBehind; what the database does not take by then goes to the spool."""
        is_flushed = super().stop(timeout_s)
        if self.overflow is not None:
            self.overflow.stop()
        return is_flushed

    def replay(self, spool: Spool) -> int:
        """Write what an ended process left in its spool, however long that takes; how many rows there were."""
        return replay(spool, COLUMNS, self._write_rows)

    def _make_room(self) -> None:
        if self._unfinished:
            del self._unfinished[next(iter(self._unfinished))]
            self.put_aside += 1
            self._complain()
        elif self._finished:
            del self._finished[next(iter(self._finished))]
            self._lose()

    def _waiting(self) -> int:
        return len(self._unfinished) + len(self._finished)

    def _take(self, most: int) -> Sequence[RequestRecord]:
        taken: list[RequestRecord] = []
        # Unfinished ones first: they are the older ones, and rows then lie in the order of arrival.
        for kept in (self._unfinished, self._finished):
            ids = list(islice(kept, most - len(taken)))
            taken += [kept.pop(id_) for id_ in ids]
        return taken

    def _apart(self) -> int:
        return len(self._spilling)

    def _elsewhere(self) -> int:
        return self.overflow.count if self.overflow is not None else 0

    def _bring_back(self) -> None:
        if self.overflow is not None and self.overflow.count:
            self.overflow.bring_back(self._write_rows)

    def _is_spill_due(self) -> bool:
        return bool(self._finished) and self.away_s >= self.spill_after_s and self.backlog > self.spill_above

    def _spill(self, most: int) -> int:
        """Move the oldest finished records to the spool, one call at a time. Raises OSError, and keeps them then."""
        assert self.overflow is not None
        with self._spill_turn:
            records = [self._finished.pop(id_) for id_ in list(islice(self._finished, most))]
            self._spilling = records
            is_kept = False
            try:
                if records:
                    self.overflow.put(self._rows(records))
                is_kept = True
            finally:
                self._spilling = ()
                if not is_kept:  # to the front
                    self._finished = {record.id: record for record in records} | self._finished
                # Should the database be back already, nothing else may wake the writer.
                self._wake.set()
        return len(records)

    def _keep(self) -> None:
        if self.overflow is None:
            return
        # Unfinished ones too: they are found again, and marked interrupted.
        self._finished = {record.id: record for record in (*self._taken, *self._unfinished.values())} | self._finished
        self._taken = ()
        self._unfinished.clear()
        with suppress(OSError), gevent.Timeout(KEEP_S, False):
            while self._spill(AT_ONCE):
                pass

    def _row(self, item: RequestRecord) -> tuple[Any, ...]:
        return request_row(item)

    def _write(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        finished = [row for row in rows if row[_OUTCOME] is not None]
        if finished:
            self._rollups.take_turn(connection)
            # A batch whose commit went through unheard is written again: what it finished is counted already.
            counted = self._rollups.finished_among(connection, [row[_ID] for row in finished])
            finished = [row for row in finished if row[_ID] not in counted]
        self._upsert.execute(connection, rows)
        self._rollups.add(connection, [Facts(*_FACTS(row)) for row in finished])


def request_row(record: RequestRecord) -> tuple[Any, ...]:
    """The record as a row of `requests`, in the order of COLUMNS. Raises where a field is no value of its type."""
    return (
        stored_name(record.id, 128),
        record.boot_id,  # this, priority, status and outcome are our own words
        stored_text(record.client_request_id, 128),
        stored_name(record.model, 256),
        stored_text(record.key_name, 128),
        stored_name(record.path, 512),
        bool(record.stream),
        stored_name(record.client, 128),
        _epoch_ms(record.created_at) or 0,
        str(record.priority),
        str(record.status),
        None if record.outcome is None else str(record.outcome),
        stored_text(record.node_id, 64),
        stored_text(record.decision, 512),
        _epoch_ms(record.started_at),
        _epoch_ms(record.first_byte_at),
        _epoch_ms(record.finished_at),
        record.queue_ms,
        record.ttfb_ms,
        record.latency_ms,
        record.http_status,
        stored_text(record.error_code, 64),
        stored_text(record.error_message, 2000),
        _count(record.prompt_tokens),
        _count(record.completion_tokens),
        _count(record.bytes_in) or 0,
        _count(record.bytes_out) or 0,
        _attempts(record.attempts) if record.attempts else None,
    )


def _epoch_ms(at: float | None) -> int | None:
    return None if at is None else round(at * 1000)


def _count(number: int | None) -> int | None:
    # Token counts come from the engine's own words; one that no column can hold is not worth the row.
    return None if number is None or not -1 < number <= MAX_BIGINT else int(number)


def _attempts(attempts: Sequence[Attempt]) -> str:
    return _to_json(
        [
            (
                stored_text(each.node_id, 64),
                round(each.start_ms, 1),
                stored_text(each.result, 64),
                None if each.duration_ms is None else round(each.duration_ms, 1),
            )
            for each in attempts[:100]
        ]
    )
