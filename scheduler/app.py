"""The Flask app, and its short way to inference."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flask import Flask

from admin_ui.blueprint import panel_blueprint
from scheduler.bootstrap import build
from scheduler.runtime import Runtime
from scheduler.settings import Loaded, config_path, load_settings
from scheduler.web.blueprints import register_blueprints
from scheduler.web.client_address import client_address
from scheduler.web.data_plane import DataPlane, is_inference

PANEL = Path(__file__).resolve().parent.parent / "admin_ui" / "dist"


class SchedulerApp(Flask):
    """One Flask app for everything: admin API, health, panel, and inference, which it answers before Flask's routing
    and contexts, because those cost as much as the rest of the gateway together.
    """

    data_plane: DataPlane
    runtime: Runtime
    trusted_proxies: int

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.trusted_proxies:
            environ["REMOTE_ADDR"] = client_address(environ, self.trusted_proxies)
        if is_inference(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            return self.data_plane(environ, start_response)
        answer: Iterable[bytes] = super().wsgi_app(environ, start_response)
        return answer


def create_app(loaded: Loaded | None = None) -> SchedulerApp:
    """The app, built from the settings; nothing runs yet. Raises ConfigError, StartRefused."""
    if loaded is None:
        loaded = load_settings(config_path(None, os.environ), os.environ)
    app = SchedulerApp("scheduler", static_folder=None)
    built = build(app, loaded)
    app.data_plane = built.data_plane
    app.runtime = built.runtime
    app.trusted_proxies = loaded.settings.server.trusted_proxies
    app.extensions["scheduler"] = built.services
    key_ring = built.key_ring
    register_blueprints(app, lambda headers: key_ring.find(headers.get("Authorization"), headers.get("x-api-key")))
    app.register_blueprint(panel_blueprint(PANEL))
    return app
