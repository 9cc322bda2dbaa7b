"""`/admin/requests/cleanup`: lets old records go now."""

import re
import time
from typing import Any

from flask import Blueprint, Response, jsonify, request

from scheduler.errors import InvalidFields
from scheduler.gateway.ports import Event
from scheduler.web.context import services
from scheduler.web.described import describes
from scheduler.web.json_body import json_object
from scheduler.web.record_shapes import CleanupAnswer, CleanupOrder
from scheduler.web.schemas import time_json

blueprint = Blueprint("cleanup", __name__)

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])")


@blueprint.post("/requests/cleanup")
@describes("Delete old records", {200: CleanupAnswer, 202: CleanupAnswer}, body=CleanupOrder)
def clean() -> tuple[Response, int]:
    """202: they go in small steps, which may take minutes. It says too that the clock is right."""
    older_than_s, is_dry_run = _order(json_object())
    before = time.time() - older_than_s
    cleanup = services().cleanup
    matching = cleanup.matching(before)
    answer: dict[str, Any] = {"before": time_json(before), "matching": matching, "dry_run": is_dry_run}
    if is_dry_run:
        return jsonify({**answer, "held": cleanup.state().held}), 200
    cleanup.ask(before)
    told = {"before": answer["before"], "matching": matching}
    services().event_log.add(
        Event(time.time(), "requests.cleanup", "requests", request.remote_addr or "unknown", after=told)
    )
    return jsonify({**answer, "held": None}), 202


def _order(body: dict[str, Any]) -> tuple[float, bool]:
    faults = [(name, "unknown field") for name in body if name not in ("older_than", "dry_run")]
    older_than, is_dry_run = body.get("older_than"), body.get("dry_run", False)
    found = _DURATION.fullmatch(older_than) if isinstance(older_than, str) else None
    if found is None:
        faults.append(("older_than", "must be a duration such as 36h or 7d"))
    if not isinstance(is_dry_run, bool):
        faults.append(("dry_run", "must be true or false"))
    if faults or found is None:
        raise InvalidFields(faults)
    return float(found[1]) * _UNITS_S[found[2]], is_dry_run
