"""`/admin/requests`: what happened to requests."""

from flask import Blueprint, Response, jsonify

from scheduler.core.outcome import Outcome
from scheduler.core.priority import Priority
from scheduler.errors import UnknownRequest
from scheduler.gateway.ports import RequestFilter
from scheduler.web.context import services
from scheduler.web.described import choice, describes, flag, number, text, time, whole
from scheduler.web.query import Query
from scheduler.web.schemas import record_json
from scheduler.web.shapes import STATUSES, RecordDetail, RecordPage

blueprint = Blueprint("requests", __name__)

MAX_OFFSET = 10**9
OUTCOMES = [outcome.value for outcome in Outcome]
PRIORITIES = [priority.label for priority in Priority]
FILTERS = (
    choice("status", STATUSES),
    choice("outcome", OUTCOMES),
    *(text(name) for name in ("model", "node_id")),
    choice("priority", PRIORITIES),
    text("key_name"),
    flag("stream"),
    text("error_code"),
    time("start_time", "Created at or after."),
    time("end_time", "Created before."),
    number("min_latency_ms"),
    text("q", "Our id or the caller's, whole or how it begins."),
)


@blueprint.get("/requests")
@describes(
    "Records, the newest first",
    {200: RecordPage},
    query=[
        *FILTERS,
        whole("limit", default=100, least=1, most=1000),
        whole("offset", default=0, least=0, most=MAX_OFFSET),
    ],
)
def list_page() -> Response:
    query = Query()
    wanted = RequestFilter(
        status=query.choice("status", STATUSES),
        outcome=query.choice("outcome", OUTCOMES),
        model=query.text("model"),
        node_id=query.text("node_id"),
        priority=query.choice("priority", PRIORITIES),
        key_name=query.text("key_name"),
        stream=query.flag("stream"),
        error_code=query.text("error_code"),
        start_time=query.time("start_time"),
        end_time=query.time("end_time"),
        min_latency_ms=query.duration_ms("min_latency_ms"),
        q=query.text("q"),
    )
    limit = query.whole("limit", default=100, least=1, most=1000)
    offset = query.whole("offset", default=0, least=0, most=MAX_OFFSET)
    query.done()
    page = services().request_log.page(wanted, limit, offset)
    return jsonify(
        {
            "requests": [record_json(record) for record in page.requests],
            "total": page.total,
            "total_is_estimate": page.total_is_estimate,
            "limit": limit,
            "offset": offset,
        }
    )


@blueprint.get("/requests/<request_id>")
@describes("One record", {200: RecordDetail})
def show(request_id: str) -> Response:
    """What waits or runs is shown as it is now: the log may be a moment behind, or not have it yet."""
    try:
        return jsonify(record_json(services().live_calls.get(request_id).record, with_decision=True))
    except UnknownRequest:
        found = services().request_log.get(request_id)
        if found is None:
            raise
        return jsonify(record_json(found, with_decision=True))
