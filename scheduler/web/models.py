"""`/v1/models`: what can be asked for, in OpenAI's shape."""

from collections.abc import Callable

from flask import Blueprint, Response, jsonify, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import MethodNotAllowed

from scheduler.errors import UnknownModel
from scheduler.web.context import services
from scheduler.web.described import describes
from scheduler.web.schemas import model_json
from scheduler.web.shapes import Model, ModelList

#: Lets a client's headers pass, or raises Unauthorized.
ClientCheck = Callable[[Headers], object]


def models_blueprint(check_client: ClientCheck) -> Blueprint:
    """The blueprint, guarded by the keys of clients."""
    blueprint = Blueprint("models", __name__, url_prefix="/v1/models")
    blueprint.before_request(lambda: _guard(check_client))
    blueprint.get("")(list_all)
    # Names have slashes in them: Qwen/Qwen2.5-7B-Instruct.
    blueprint.get("/<path:model>")(show)
    return blueprint


def refuse_other_methods(**_: str) -> Response:
    """Everything below /v1 takes POST, which never comes here. Raises MethodNotAllowed."""
    raise MethodNotAllowed(["POST"])


@describes("The models of all nodes that are not disabled", {200: ModelList})
def list_all() -> Response:
    created = _created_at()
    models = services().dispatcher.models()
    return jsonify({"object": "list", "data": [model_json(model, created.get(model, 0.0)) for model in models]})


@describes("One model", {200: Model})
def show(model: str) -> Response:
    """Raises UnknownModel, which names those that are there."""
    models = services().dispatcher.models()
    if model not in models:
        raise UnknownModel(model, models)
    return jsonify(model_json(model, _created_at().get(model, 0.0)))


def _guard(check_client: ClientCheck) -> None:
    check_client(request.headers)


def _created_at() -> dict[str, float]:
    """When each model's first node was registered, in seconds since the epoch."""
    found: dict[str, float] = {}
    for node in services().roster.list():
        for model in node.models:
            found[model] = min(node.created_at, found.get(model, node.created_at))
    return found
