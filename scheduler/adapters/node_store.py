"""SqlNodeStore: keeps nodes. It is the gateway's NodeStore."""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.roster_snapshot import RosterSnapshot
from scheduler.adapters.stored_text import stored_name, stored_text
from scheduler.adapters.tables import NODES
from scheduler.adapters.upsert import Upsert
from scheduler.gateway.ports import StoredNode

log = logging.getLogger(__name__)

COLUMNS = tuple(column.name for column in NODES.columns)
CHANGING = tuple(name for name in COLUMNS if name != "id")


class SqlNodeStore:
    """Nodes in their table. Calls wait in the writer's thread, durable when they return; the hub goes on meanwhile.

    A call waits behind what the recorder is writing, and while the file is locked up to SQLite's busy time-out (5 s);
    then it raises what the database said. With a `snapshot`, the nodes are written there too, after each change.
    """

    def __init__(self, writer: DatabaseThreads, snapshot: RosterSnapshot | None = None) -> None:
        self._writer = writer
        self._snapshot = snapshot
        self._upsert = Upsert(NODES, COLUMNS, "id", CHANGING, writer.engine.dialect)

    def load(self) -> list[StoredNode]:
        """All kept nodes, deleted ones included, oldest first."""

        def work(connection: Connection) -> list[StoredNode]:
            nodes = _load(connection)
            if self._snapshot is not None:
                self._snapshot.write(nodes)
            return nodes

        return self._writer.run(work)

    def save(self, node: StoredNode) -> None:
        """Insert or replace by id; durable when it returns."""
        row = _row(node)

        def work(connection: Connection) -> None:
            self._upsert.execute(connection, [row])

        self._change(work)

    def delete(self, node_id: str) -> None:
        """Forget a node; nothing happens where it is not kept."""
        statement = delete(NODES).where(NODES.c.id == node_id)

        def work(connection: Connection) -> None:
            connection.execute(statement)

        self._change(work)

    def _change(self, work: Callable[[Connection], None]) -> None:
        self._writer.run(work)
        # After the commit: the snapshot never knows more than the database.
        if self._snapshot is not None:
            try:
                self.load()
            except Exception:
                # The change is made; only its copy is late, until the next one.
                log.warning("The snapshot of the nodes is not written.", exc_info=True)


def insert_nodes(connection: Connection, nodes: Sequence[StoredNode]) -> None:
    """Add nodes, in the connection's transaction; those that are kept already stay as they are."""
    Upsert(NODES, COLUMNS, "id", (), connection.dialect).execute(connection, [_row(node) for node in nodes])


def _load(connection: Connection) -> list[StoredNode]:
    query = select(NODES).order_by(NODES.c.created_at, NODES.c.id)
    return [_node(row) for row in connection.execute(query).all()]


def _row(node: StoredNode) -> tuple[Any, ...]:
    # JSON in plain ASCII escapes what no column could hold, and comes back as it was.
    return (
        stored_name(node.id, 64),
        stored_name(node.address, 2048),
        json.dumps(node.models),
        node.max_concurrent,
        node.weight,
        stored_text(node.api_key, 4096),
        json.dumps(node.labels),
        stored_name(node.remark, 2000),
        stored_name(node.state, 16),
        json.dumps(node.overrides),
        node.is_from_file,
        node.is_deleted,
        round(node.created_at * 1000),
        round(node.updated_at * 1000),
    )


def _node(row: Row[Any]) -> StoredNode:
    return StoredNode(
        id=row.id,
        address=row.address,
        models=json.loads(row.models),
        max_concurrent=row.max_concurrent,
        weight=row.weight,
        api_key=row.api_key,
        labels=json.loads(row.labels),
        remark=row.remark,
        state=row.state,
        overrides=json.loads(row.overrides),
        is_from_file=row.is_from_file,
        is_deleted=row.is_deleted,
        created_at=row.created_at / 1000,
        updated_at=row.updated_at / 1000,
    )
