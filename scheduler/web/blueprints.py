"""All blueprints of the API, registered on an app."""

from flask import Blueprint, Flask, Response

from scheduler.web import (
    admin_cleanup,
    admin_nodes,
    admin_queue,
    admin_requests,
    admin_stats,
    admin_status,
    health,
    metrics,
)
from scheduler.web.auth import AdminGuard
from scheduler.web.data_plane import ENGINE_PATHS
from scheduler.web.docs import docs_blueprint
from scheduler.web.error_handlers import install_error_handlers
from scheduler.web.models import ClientCheck, models_blueprint, refuse_other_methods
from scheduler.web.openapi import component_schemas, openapi


def register_blueprints(app: Flask, check_client: ClientCheck) -> None:
    """Mount the admin side behind its guard, the health checks, and the list of models behind `check_client`."""
    app.register_blueprint(_admin_blueprint())
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    app.register_blueprint(models_blueprint(check_client))
    for rule in ("/v1/<path:_>", *sorted(ENGINE_PATHS)):
        app.add_url_rule(rule, rule, refuse_other_methods, methods=["GET", "PUT", "PATCH", "DELETE"])
    app.register_blueprint(docs_blueprint(lambda: openapi(app, app.extensions["scheduler"].version)))
    component_schemas()  # made now: later it would hold up streams
    install_error_handlers(app)
    # Fields in the contract's order; names in the words of whoever gave them.
    app.json.sort_keys = app.json.ensure_ascii = False  # type: ignore[attr-defined]


def _admin_blueprint() -> Blueprint:
    admin = Blueprint("admin", __name__, url_prefix="/admin")
    admin.before_request(AdminGuard().check)
    admin.after_request(_forbid_caching)
    for module in (admin_cleanup, admin_nodes, admin_queue, admin_requests, admin_stats, admin_status):
        admin.register_blueprint(module.blueprint)
    return admin


def _forbid_caching(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
