"""BatchEventLog: keeps the audit trail, off the hot path. It is the gateway's EventLog."""

import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.stored_text import stored_json, stored_name, stored_text
from scheduler.adapters.tables import EVENTS
from scheduler.adapters.upsert import Upsert
from scheduler.adapters.write_behind import WriteBehind
from scheduler.gateway.ports import Event

COLUMNS = ("uid", "at", "kind", "subject", "actor", "before", "after", "note")


class BatchEventLog(WriteBehind[tuple[str, Event]]):
    """Events in the order given, through the writer thread of the records. Past `max_backlog` the oldest go."""

    name = "events"

    def __init__(
        self,
        writer: DatabaseThreads,
        interval_s: float = 0.05,
        max_backlog: int = 10_000,
        max_batch: int = 500,
    ) -> None:
        super().__init__(writer, interval_s, max_backlog, max_batch)
        self._events: deque[tuple[str, Event]] = deque()
        self._upsert = Upsert(EVENTS, COLUMNS, "uid", (), writer.engine.dialect)

    def add(self, event: Event) -> None:
        """Take the event, to be written soon. Never blocks, never raises."""
        # Named now, so that a batch that is written twice is kept once.
        self._events.append((uuid.uuid4().hex, event))
        if self.backlog > self.max_backlog:
            self._events.popleft()
            self._lose()
        self._give()

    def _waiting(self) -> int:
        return len(self._events)

    def _take(self, most: int) -> Sequence[tuple[str, Event]]:
        return [self._events.popleft() for _ in range(min(most, len(self._events)))]

    def _row(self, item: tuple[str, Event]) -> tuple[Any, ...]:
        return event_row(*item)

    def _write(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        self._upsert.execute(connection, rows)


def event_row(uid: str, event: Event) -> tuple[Any, ...]:
    """The event as a row of `events`, in the order of COLUMNS."""
    return (
        uid,
        round(event.at * 1000),
        stored_name(event.kind, 64),
        stored_name(event.subject, 128),
        stored_name(event.actor, 128),
        stored_json(event.before),
        stored_json(event.after),
        stored_text(event.note, 2000),
    )
