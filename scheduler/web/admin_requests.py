"""`/admin/requests`: what happened to requests."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from flask import Blueprint, Response, jsonify

from scheduler.core.outcome import Outcome
from scheduler.core.priority import Priority
from scheduler.errors import UnknownRequest
from scheduler.gateway.ports import RequestFilter
from scheduler.web.context import services
from scheduler.web.csv_text import BYTE_ORDER_MARK, CONTENT_TYPE, csv_lines
from scheduler.web.described import choice, describes, flag, number, text, time, whole
from scheduler.web.query import Query
from scheduler.web.record_shapes import STATUSES, RecordDetail, RecordPage
from scheduler.web.schemas import RECORD_FIELDS, record_json

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
    wanted = _filter(query)
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


@blueprint.get("/requests.csv")
@describes("The same as CSV, all of them", {200: "text/csv"}, query=FILTERS)
def export() -> Response:
    """All that match, sent while it is read: neither the text nor the records are ever held whole."""
    query = Query()
    wanted = _filter(query)
    query.done()
    batches = services().request_log.batches(wanted)
    first = next(batches)  # read now, so that what fails at once is still told as an error

    def lines() -> Iterator[str]:
        yield BYTE_ORDER_MARK + csv_lines([RECORD_FIELDS])
        for batch in chain([first], batches):
            yield csv_lines(map(_csv_row, batch))

    reply = Response(lines(), content_type=CONTENT_TYPE)
    reply.headers["Content-Disposition"] = 'attachment; filename="requests.csv"'
    reply.headers["X-Accel-Buffering"] = "no"
    return reply


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


def _filter(query: Query) -> RequestFilter:
    return RequestFilter(
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


def _csv_row(record: dict[str, Any]) -> list[Any]:
    shown = record_json(record)
    shown["attempts"] = " ".join(f"{attempt['node_id']}:{attempt['result']}" for attempt in shown["attempts"])
    return list(shown.values())
