"""`/admin/requests`: what happened to requests."""

from flask import Blueprint, Response, jsonify

from scheduler.core.outcome import Outcome
from scheduler.core.priority import Priority
from scheduler.errors import UnknownRequest
from scheduler.gateway.ports import RequestFilter
from scheduler.web.context import services
from scheduler.web.query import Query
from scheduler.web.schemas import record_json

blueprint = Blueprint("requests", __name__)

STATUSES = ("pending", "processing", "completed", "failed")
MAX_OFFSET = 10**9


@blueprint.get("/requests")
def list_page() -> Response:
    query = Query()
    wanted = RequestFilter(
        status=query.choice("status", STATUSES),
        outcome=query.choice("outcome", [outcome.value for outcome in Outcome]),
        model=query.text("model"),
        node_id=query.text("node_id"),
        priority=query.choice("priority", [priority.label for priority in Priority]),
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
def show(request_id: str) -> Response:
    """What waits or runs is shown as it is now: the log may be a moment behind, or not have it yet."""
    try:
        return jsonify(record_json(services().live_calls.get(request_id).record, with_decision=True))
    except UnknownRequest:
        found = services().request_log.get(request_id)
        if found is None:
            raise
        return jsonify(record_json(found, with_decision=True))
