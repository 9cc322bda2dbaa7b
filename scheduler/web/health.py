"""`/health`: for probes and load balancers. No key, no secrets, no database."""

from flask import Blueprint, Response, jsonify

from scheduler.web.context import services
from scheduler.web.described import describes
from scheduler.web.schemas import node_counts_json
from scheduler.web.status_shapes import Alive, HealthSummary, Readiness

blueprint = Blueprint("health", __name__, url_prefix="/health")


@blueprint.get("")
@describes("A summary", {200: HealthSummary})
def summary() -> Response:
    """`degraded` where there are nodes and none is up; always 200, for the process answers."""
    found = services()
    nodes = node_counts_json(found.dispatcher.nodes())
    is_ready = found.is_ready()
    status = "ok" if nodes["up"] or not nodes["total"] else "degraded"
    return jsonify(
        {
            "status": status if is_ready else "not_ready",
            "version": found.version,
            "uptime_s": round(found.uptime_s(), 1),
            "nodes": {"total": nodes["total"], "up": nodes["up"]},
            "queue_size": found.dispatcher.waiting_count,
            "in_flight": found.dispatcher.in_flight_count,
        }
    )


@blueprint.get("/live")
@describes("Whether the process answers", {200: Alive})
def live() -> Response:
    return jsonify({"status": "live"})


@blueprint.get("/ready")
@describes("Whether it may be sent traffic", {200: Readiness, 503: Readiness})
def ready() -> tuple[Response, int]:
    """503 while it must not be sent traffic: not yet started, or draining. Ill nodes do not matter."""
    if services().is_ready():
        return jsonify({"status": "ready"}), 200
    return jsonify({"status": "not_ready"}), 503
