"""`/admin/nodes`: registers, tries, shows, changes and removes nodes."""

from flask import Blueprint, Response, jsonify, request

from scheduler.web.context import services
from scheduler.web.described import describes
from scheduler.web.json_body import json_object
from scheduler.web.node_shapes import Node, NodeChanges, NodeList, NodeRegistration, Trial, TrialRequest
from scheduler.web.schemas import node_json, trial_json

blueprint = Blueprint("nodes", __name__, url_prefix="/nodes")


@blueprint.post("")
@describes("Register a node, or update it", {201: Node, 200: Node}, body=NodeRegistration)
def register() -> tuple[Response, int]:
    """201 where the node is new, 200 where its registration was updated."""
    detail, is_new = services().roster.register(json_object(), actor())
    return jsonify(node_json(detail)), 201 if is_new else 200


@blueprint.post("/test")
@describes("Try an address before it is registered", {200: Trial}, body=TrialRequest)
def test() -> Response:
    """200 however the trial goes: what it says is in the body."""
    return jsonify(trial_json(services().node_trial.run(json_object())))


@blueprint.get("")
@describes("All nodes", {200: NodeList})
def list_all() -> Response:
    return jsonify({"nodes": [node_json(detail) for detail in services().roster.list()]})


@blueprint.get("/<node_id>")
@describes("One node", {200: Node})
def show(node_id: str) -> Response:
    return jsonify(node_json(services().roster.get(node_id)))


@blueprint.patch("/<node_id>")
@describes("Change a node", {200: Node}, body=NodeChanges)
def change(node_id: str) -> Response:
    return jsonify(node_json(services().roster.change(node_id, json_object(), actor())))


@blueprint.delete("/<node_id>")
@describes("Forget a node", {204: None})
def remove(node_id: str) -> tuple[str, int]:
    """What runs there goes on."""
    services().roster.remove(node_id, actor())
    return "", 204


def actor() -> str:
    """Who does it: the operator's address, for the audit trail."""
    return request.remote_addr or "unknown"
