"""`/admin/queue`: who waits and who runs; cancels them, and moves those that wait."""

import time
from typing import Any

from flask import Blueprint, Response, jsonify, request

from scheduler.core.priority import Priority
from scheduler.errors import InvalidFields
from scheduler.gateway.ports import Event
from scheduler.web.context import services
from scheduler.web.described import describes, whole
from scheduler.web.json_body import json_object
from scheduler.web.query import Query
from scheduler.web.record_shapes import Cancelled, Moved, PriorityChange, Queue
from scheduler.web.schemas import queue_json

blueprint = Blueprint("queue", __name__)

MAX_SHOWN = 10_000


@blueprint.get("/queue")
@describes(
    "Who waits and who runs",
    {200: Queue},
    query=[whole("limit", default=200, least=0, most=MAX_SHOWN, about="For each of the two lists.")],
)
def show() -> Response:
    query = Query()
    limit = query.whole("limit", default=200, least=0, most=MAX_SHOWN)
    query.done()
    calls = services().live_calls
    running, running_total = calls.running(limit)
    return jsonify(queue_json(services().dispatcher.queue(limit), running, running_total, calls))


@blueprint.patch("/queue/<request_id>")
@describes("Change the priority of a waiting request", {200: Moved}, body=PriorityChange)
def change_priority(request_id: str) -> Response:
    """Moves a waiting request; one that runs is not found."""
    priority = _priority(json_object())
    call = services().live_calls.get(request_id)
    was = call.record.priority
    call.change_priority(priority)
    _note("request.priority_changed", request_id, {"priority": was}, {"priority": priority.label})
    return jsonify({"id": request_id, "priority": priority.label})


@blueprint.delete("/requests/<request_id>")
@describes("Cancel a waiting or running request", {202: Cancelled})
def cancel(request_id: str) -> tuple[Response, int]:
    """202: it ends as soon as whoever serves it notices."""
    services().live_calls.get(request_id).cancel()
    _note("request.cancelled", request_id)
    return jsonify({"id": request_id, "cancelled": True}), 202


def _priority(body: dict[str, Any]) -> Priority:
    faults = [(name, "unknown field") for name in body if name != "priority"]
    name = body.get("priority")
    found = Priority.__members__.get(name.upper()) if isinstance(name, str) else None
    if found is None:
        faults.insert(0, ("priority", "must be one of critical, high, normal, low"))
    if faults or found is None:
        raise InvalidFields(faults)
    return found


def _note(
    kind: str, request_id: str, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None
) -> None:
    services().event_log.add(
        Event(time.time(), kind, request_id, request.remote_addr or "unknown", before=before, after=after)
    )
