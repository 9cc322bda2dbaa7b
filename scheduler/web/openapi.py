"""The description of the API in OpenAPI 3.1, made of the app's routes and of what is said beside its views."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from inspect import getdoc, isclass
from typing import Any

from flask import Flask
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from scheduler.web import figure_shapes, node_shapes, record_shapes, shapes, status_shapes
from scheduler.web.described import Description, description_of
from scheduler.web.shapes import Shape

Json = dict[str, Any]

#: First parts of the paths that are described, with the group they belong to and the key they may want.
GROUPS = {
    "admin": ("Admin", "adminKey"),
    "health": ("Health", None),
    "metrics": ("Metrics", "metricsKey"),
    "v1": ("Models", "clientKey"),
}

_ABOUT = """The admin side, the health checks, the metrics and the list of models of LLM Scheduler.

Inference goes through every `POST /v1/...` whose body names a `model`: it is passed to a node byte for byte, so that
the engine's own description counts. State-changing calls need `Content-Type: application/json` and, from a browser, a
page of this server. Times are RFC 3339 UTC, durations milliseconds. Where no keys are set, none is asked for."""

_KEYS = {
    "adminKey": "A key of `auth.admin_api_keys`.",
    "clientKey": "A key of `auth.api_keys`.",
    "metricsKey": "The key `auth.metrics_key`.",
}
_REASONS = {200: "Done.", 201: "Made.", 202: "Accepted.", 204: "Done; no body.", 503: "Not now."}


def openapi(app: Flask, version: str) -> Json:
    """The description of every route of the app that belongs to a group; call it when all are registered."""
    paths: Json = {}
    for rule in app.url_map.iter_rules():
        group = GROUPS.get(rule.rule.split("/")[1])
        description = description_of(app.view_functions[rule.endpoint])
        if group is None or (description is None and group[0] == "Models"):  # those that only refuse a wrong method
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted(_methods(rule)):
            view = app.view_functions[rule.endpoint]
            paths.setdefault(path, {})[method.lower()] = _operation(rule, method, view, description, *group)
    return {
        "openapi": "3.1.0",
        "info": {"title": "LLM Scheduler", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name, _ in GROUPS.values()],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": component_schemas(),
            "responses": {"Error": {"description": "An error.", "content": _json_content(shapes.Error)}},
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": about} for name, about in _KEYS.items()
            },
        },
    }


@cache
def component_schemas() -> Json:
    """The JSON schema of every shape, by name. Made once, because it takes a while."""
    modules = (shapes, node_shapes, record_shapes, figure_shapes, status_shapes)
    found = {each for module in modules for each in vars(module).values() if isclass(each) and issubclass(each, Shape)}
    whole = sorted((each for each in found - {Shape} if each.__name__[0] != "_"), key=lambda each: each.__name__)
    _, made = models_json_schema([(each, "validation") for each in whole], ref_template="#/components/schemas/{model}")
    schemas: Json = _without_titles(made["$defs"])
    return schemas


def _operation(
    rule: Rule, method: str, view: Callable[..., Any], said: Description | None, tag: str, key: str | None
) -> Json:
    name = rule.endpoint.replace(".", "_")
    operation: Json = {"tags": [tag], "operationId": name, "summary": said.summary if said else name}
    if about := getdoc(view):
        operation["description"] = about
    parameters = [*_path_parameters(rule), *_query_parameters(said)]
    if parameters:
        operation["parameters"] = parameters
    if said is not None and said.body is not None:
        operation["requestBody"] = {"required": True, "content": _json_content(said.body)}
    answers = said.answers if said else {200: None}
    operation["responses"] = {
        **{str(status): _response(status, answer) for status, answer in answers.items()},
        "default": {"$ref": "#/components/responses/Error"},
    }
    if key is not None:
        operation["security"] = [{key: []}, {}]
    return operation


def _methods(rule: Rule) -> set[str]:
    return (rule.methods or set()) - {"HEAD", "OPTIONS"}


def _path_parameters(rule: Rule) -> Iterator[Json]:
    for name in sorted(rule.arguments):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(said: Description | None) -> Iterator[Json]:
    for param in said.query if said else ():
        about = {"description": param.text} if param.text else {}
        yield {"name": param.name, "in": "query", **about, "schema": dict(param.schema)}


def _response(status: int, answer: type[Shape] | str | None) -> Json:
    response: Json = {"description": _REASONS.get(status, "Done.")}
    if isinstance(answer, str):
        response["content"] = {answer: {"schema": {"type": "string"}}}
    elif answer is not None:
        response["content"] = _json_content(answer)
    return response


def _json_content(shape: type[Shape]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}}


def _without_titles(schema: Any) -> Any:
    """pydantic repeats each name as a title, and tells defaults of null; neither says anything."""
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: {key: _without_titles(each) for key, each in value.items()}
        if name == "properties"
        else _without_titles(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str)) and not (name == "default" and value is None)
    }
