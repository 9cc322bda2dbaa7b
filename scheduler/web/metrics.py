"""`/metrics`: everything countable, for Prometheus."""

from flask import Blueprint, Response, request

from scheduler.errors import Unauthorized
from scheduler.web.auth import has_key
from scheduler.web.context import services
from scheduler.web.described import describes

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@describes("All metrics, for Prometheus", {200: "text/plain"})
def show() -> Response:
    """All metrics as text. Where `auth.metrics_key` is set, it wants that key as a bearer."""
    if not has_key(request.headers.get("Authorization"), services().metrics_keys):
        raise Unauthorized
    page = services().metrics_page
    return Response(page.text(), content_type=page.content_type)
