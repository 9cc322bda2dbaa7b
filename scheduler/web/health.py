"""`/health`: for probes and load balancers. No key, no secrets, no database."""

from flask import Blueprint, Response, jsonify

from scheduler.web.context import services
from scheduler.web.schemas import node_counts_json

blueprint = Blueprint("health", __name__, url_prefix="/health")


@blueprint.get("")
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
def live() -> Response:
    return jsonify({"status": "live"})


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """503 while it must not be sent traffic: not yet started, or draining. Ill nodes do not matter."""
    if services().is_ready():
        return jsonify({"status": "ready"}), 200
    return jsonify({"status": "not_ready"}), 503
