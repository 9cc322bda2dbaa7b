"""`/docs`: the description of the API, and a page to read it on. No key, no secrets, nothing from elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, send_from_directory

FOLDER = Path(__file__).resolve().parent / "docs_page"

#: The page needs its own script, its own style and the description; nothing else could be loaded.
SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}


def docs_blueprint(description: Callable[[], dict[str, Any]]) -> Blueprint:
    """The page, its files, and what `description` gives."""
    blueprint = Blueprint("docs", __name__, url_prefix="/docs")

    @blueprint.get("")
    def page() -> Response:
        return send_from_directory(FOLDER, "index.html")

    @blueprint.get("/<any('page.js', 'page.css'):name>")
    def file(name: str) -> Response:
        return send_from_directory(FOLDER, name)

    @blueprint.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(description())

    @blueprint.after_request
    def secure(response: Response) -> Response:
        response.headers.update(SECURITY_HEADERS)
        return response

    return blueprint
