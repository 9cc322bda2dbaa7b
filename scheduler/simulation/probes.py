"""Probes: what gateways and operators ask an engine, answered as that engine would."""

import time
from collections.abc import Callable
from typing import Any

from scheduler.simulation.http_request import Request
from scheduler.simulation.reply import Reply
from scheduler.simulation.settings import SimulationSettings

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp", "plain": "owner"}


class Probes:
    """GET /health, /v1/models, and the page that tells one engine from another."""

    def __init__(self, settings: SimulationSettings) -> None:
        self._settings = settings
        self._created = int(time.time())
        pages: dict[str, dict[str, Callable[[], Any]]] = {
            "vllm": {"/version": lambda: {"version": "0.11.0"}},
            "sglang": {
                "/get_model_info": lambda: {"model_path": settings.models[0], "is_generation": True},
                "/get_server_info": lambda: {"version": "0.5.4", "max_running_requests": settings.slots},
            },
            "llama.cpp": {
                "/props": lambda: {"total_slots": settings.slots, "model_path": settings.models[0]},
                "/slots": lambda: [{"id": at, "is_processing": False} for at in range(settings.slots)],
            },
            "plain": {},
        }
        self._pages = pages[settings.engine]

    def is_probe(self, request: Request) -> bool:
        """True for GET and HEAD."""
        return request.method in ("GET", "HEAD")

    def answer(self, request: Request) -> Reply:
        """The engine's answer, 404 in FastAPI's shape for what it does not know."""
        path = request.path
        if path == "/health":
            if self._settings.engine == "llama.cpp":
                return Reply.of_json({"status": "ok"})
            return Reply.of_bytes(b"", "text/plain; charset=utf-8")
        if path in self._pages:
            return Reply.of_json(self._pages[path]())
        if path == "/v1/models" or path.startswith("/v1/models/"):
            key = self._settings.api_key
            if key is not None and request.header("authorization") != f"Bearer {key}":
                return Reply.of_error(401, "Unauthorized")
            return self._models(path.removeprefix("/v1/models").removeprefix("/"))
        return Reply.of_json({"detail": "Not Found"}, 404)

    def _models(self, wanted: str) -> Reply:
        owner = _OWNERS[self._settings.engine]
        listed = [
            {"id": model, "object": "model", "created": self._created, "owned_by": owner, "max_model_len": 8192}
            for model in self._settings.models
        ]
        if not wanted:
            return Reply.of_json({"object": "list", "data": listed})
        for model in listed:
            if model["id"] == wanted:
                return Reply.of_json(model)
        return Reply.of_error(404, f"The model `{wanted}` does not exist.", "model", "NotFoundError")
