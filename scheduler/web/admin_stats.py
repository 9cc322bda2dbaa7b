"""`/admin/stats`: figures of all requests, also of those whose records are gone."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import tzinfo

from flask import Blueprint, Response, jsonify

from scheduler.gateway.figures import DIMENSIONS, Figures, Usage
from scheduler.gateway.time_buckets import DAY_S, STEPS, bucket_edges, month_range, usual_step
from scheduler.web.context import services
from scheduler.web.csv_text import BYTE_ORDER_MARK, CONTENT_TYPE, csv_lines
from scheduler.web.described import choice, describes, text
from scheduler.web.described import time as moment
from scheduler.web.figure_shapes import ModelStats, Stats, Timeseries
from scheduler.web.figure_shapes import Usage as UsageShape
from scheduler.web.figures_json import figures_json, totals_json, usage_json
from scheduler.web.query import Query
from scheduler.web.schemas import Json, time_json

blueprint = Blueprint("stats", __name__)

MOST_BUCKETS = 500
#: Buckets times groups. JSON is made in one go, and meanwhile no stream moves.
MOST_POINTS = 2_000
MOST_GROUPS = 20
USAGE_GROUPS = ("key", "model")

SPAN = (moment("start_time"), moment("end_time"))
ZONE = text("tz", "Name of the time zone whose days and months count; UTC where it is left out.")
USAGE = (
    ZONE,
    text("month", "A month like 2026-11, instead of a range."),
    *SPAN,
    text("group_by", "key, model or both."),
)

Ranges = Sequence[Mapping[str | None, Figures]]


@blueprint.get("/stats")
@describes("Counts, durations and tokens", {200: Stats}, query=SPAN)
def totals() -> Response:
    query = Query()
    start_time, end_time = query.span()
    query.done()
    return jsonify(totals_json(services().statistics.totals(start_time, end_time)))


@blueprint.get("/stats/models")
@describes("Figures by model", {200: ModelStats}, query=SPAN)
def by_model() -> Response:
    query = Query()
    start_time, end_time = query.span()
    query.done()
    found = services().statistics.grouped([start_time, end_time], "model")
    most_first = sorted(found.ranges[0].items(), key=lambda item: (-item[1].requests, item[0] or ""))
    models = [{"model": model, **figures_json(figures)} for model, figures in most_first]
    return jsonify({"models": models, "is_exact": found.is_exact})


@blueprint.get("/stats/timeseries")
@describes(
    "Figures by time",
    {200: Timeseries},
    query=[ZONE, *SPAN, choice("step", list(STEPS)), choice("group_by", DIMENSIONS)],
)
def timeseries() -> Response:
    query = Query()
    zone_name, zone = query.zone("tz")
    start, end = query.span()
    end = time.time() if end is None else end
    start = end - DAY_S if start is None else start
    step = query.choice("step", list(STEPS)) or usual_step(end - start)
    group_by = query.choice("group_by", DIMENSIONS)
    edges = [start, end]
    if start < end:
        edges = _edges(query, start, end, step, zone)
    elif start >= time.time():
        query.refuse("start_time", "must be in the past")
    query.done()
    found = services().statistics.grouped(edges, group_by)
    named = [None] if group_by is None else _greatest(found.ranges, len(edges) - 1)
    series: list[Json] = [
        {"name": name, "points": [_point(figures.get(name)) for figures in found.ranges]} for name in named
    ]
    return jsonify(
        {
            "start_time": time_json(start),
            "end_time": time_json(end),
            "step": step,
            "tz": zone_name,
            "group_by": group_by,
            "buckets": [time_json(edge) for edge in edges[:-1]],
            "series": series,
            "groups_left_out": 0 if group_by is None else len(_requests_by_name(found.ranges)) - len(series),
            "is_exact": found.is_exact,
        }
    )


@blueprint.get("/stats/usage")
@describes("Requests and tokens by key and model", {200: UsageShape}, query=USAGE)
def usage() -> Response:
    start, end, group_by, lines, is_exact = _usage()
    return jsonify(
        {
            "start_time": time_json(start),
            "end_time": time_json(end),
            "group_by": list(group_by),
            "usage": [usage_json(line, group_by) for line in lines],
            "is_exact": is_exact,
        }
    )


@blueprint.get("/stats/usage.csv")
@describes("The same as CSV", {200: "text/csv"}, query=USAGE)
def usage_csv() -> Response:
    _, _, group_by, lines, _ = _usage()
    header = list(usage_json(Usage(None, None, 0, 0, 0, 0, 0), group_by))
    rows = [list(usage_json(line, group_by).values()) for line in lines]
    reply = Response(BYTE_ORDER_MARK + csv_lines([header, *rows]), content_type=CONTENT_TYPE)
    reply.headers["Content-Disposition"] = 'attachment; filename="usage.csv"'
    return reply


def _edges(query: Query, start: float, end: float, step: str, zone: tzinfo) -> list[float]:
    if (end - start) / STEPS[step] <= MOST_BUCKETS:
        edges = bucket_edges(start, end, step, zone)
        if len(edges) <= MOST_BUCKETS + 1:
            return edges
    query.refuse("step", f"cuts the range into more than {MOST_BUCKETS} buckets: take a longer one, or a shorter range")
    return [start, end]


def _requests_by_name(ranges: Ranges) -> Counter[str | None]:
    counts: Counter[str | None] = Counter()
    for figures in ranges:
        for name, found in figures.items():
            counts[name] += found.requests
    return counts


def _greatest(ranges: Ranges, buckets: int) -> list[str | None]:
    """The groups with the most requests, as many as an answer may hold."""
    most = max(3, min(MOST_GROUPS, MOST_POINTS // buckets))
    return [name for name, _ in _requests_by_name(ranges).most_common(most)]


def _point(figures: Figures | None) -> Json | None:
    return None if figures is None else figures_json(figures)


def _usage() -> tuple[float | None, float | None, tuple[str, ...], list[Usage], bool]:
    query = Query()
    _, zone = query.zone("tz")
    month = query.month("month")
    start, end = query.span()
    if month is not None:
        if start is not None or end is not None:
            query.refuse("month", "cannot stand beside start_time or end_time")
        start, end = month_range(*month, zone)
    group_by = query.choices("group_by", USAGE_GROUPS)
    query.done()
    lines, is_exact = services().statistics.usage(start, end)
    together: dict[tuple[str | None, str | None], Usage] = {}
    for line in lines:
        key_name = line.key_name if "key" in group_by else None
        model = line.model if "model" in group_by else None
        known = together.get((key_name, model)) or Usage(key_name, model, 0, 0, 0, 0, 0)
        together[key_name, model] = replace(
            known,
            requests=known.requests + line.requests,
            completed=known.completed + line.completed,
            prompt_tokens=known.prompt_tokens + line.prompt_tokens,
            completion_tokens=known.completion_tokens + line.completion_tokens,
            without_usage=known.without_usage + line.without_usage,
        )
    return start, end, group_by, list(together.values()), is_exact
