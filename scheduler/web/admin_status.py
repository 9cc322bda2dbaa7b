"""`/admin/status`, `/admin/config` and `/admin/events`: the scheduler itself."""

import logging
import time
from typing import Any

from flask import Blueprint, Response, jsonify

from scheduler.core.node import AdminState
from scheduler.web.context import services
from scheduler.web.described import describes, whole
from scheduler.web.figures_json import totals_json
from scheduler.web.query import Query
from scheduler.web.schemas import by_priority_json, database_json, event_json, node_counts_json
from scheduler.web.status_shapes import Config, EventPage, Status

log = logging.getLogger(__name__)

blueprint = Blueprint("status", __name__)

#: The recent past of the dashboard, in seconds.
RECENT_S = 300


@blueprint.get("/status")
@describes("The state of everything", {200: Status})
def status() -> Response:
    """Everything the dashboard needs in one call; it answers without the database too."""
    found = services()
    nodes = found.dispatcher.nodes()
    queue = found.dispatcher.queue(limit=0)
    (recent, warnings), database = _recent(), _database()
    return jsonify(
        {
            "version": found.version,
            "boot_id": found.boot_id,
            "hub_lag_ms": {"last": round(found.hub_lag.last_ms, 1), "max": round(found.hub_lag.max_ms, 1)},
            "uptime_s": round(found.uptime_s(), 1),
            "is_ready": found.is_ready(),
            "queue_size": queue.total,
            "queue_by_priority": by_priority_json(queue.by_priority),
            "nodes": node_counts_json(nodes),
            "slots": {
                "used": found.dispatcher.in_flight_count,
                "total": sum(node.spec.max_concurrent for node in nodes if node.state is not AdminState.DISABLED),
            },
            "models": found.dispatcher.models(),
            "recent": recent,
            "database": database,
            "warnings": [*found.warnings(), *warnings],
        }
    )


@blueprint.get("/config")
@describes("The effective settings, with their sources", {200: Config})
def config() -> Response:
    return jsonify(services().settings_view())


@blueprint.get("/events")
@describes(
    "Who changed what, the newest first",
    {200: EventPage},
    query=[
        whole("limit", default=100, least=1, most=1000),
        whole("offset", default=0, least=0, most=10**9),
    ],
)
def events() -> Response:
    query = Query()
    limit = query.whole("limit", default=100, least=1, most=1000)
    offset = query.whole("offset", default=0, least=0, most=10**9)
    query.done()
    found = [event_json(event) for event in services().request_log.events(limit, offset)]
    return jsonify({"events": found, "limit": limit, "offset": offset})


def _recent() -> tuple[dict[str, Any] | None, list[str]]:
    """Counts of the recent past, and what to warn of where they cannot be had."""
    try:
        totals = services().statistics.totals(time.time() - RECENT_S, None)
    except Exception:
        # The dashboard is wanted most when something is broken.
        log.warning("the records could not be read for /admin/status", exc_info=True)
        return None, ["The records cannot be read at the moment: the database does not answer."]
    return {"window_s": RECENT_S, **totals_json(totals)}, []


def _database() -> dict[str, Any] | None:
    """How much is kept and what the clean-up does; None while the database does not answer."""
    cleanup = services().cleanup
    try:
        return database_json(cleanup.size(), cleanup.state())
    except Exception:
        log.warning("the size of the database could not be read for /admin/status", exc_info=True)
        return None
