"""/admin/status, /admin/config, /admin/events, /health and /v1/models."""

import pytest

from scheduler.core.node import Health
from tests.web.conftest import GPU_1, Site


def test_status_has_what_the_dashboard_needs(site):
    site.roster.register(GPU_1, "op")
    site.roster.register({**GPU_1, "id": "gpu-2", "address": "http://10.0.0.2:8000", "state": "draining"}, "op")
    site.roster.register({**GPU_1, "id": "gpu-3", "address": "http://10.0.0.3:8000", "state": "disabled"}, "op")
    site.dispatcher.set_health("gpu-1", Health.UP)
    site.dispatcher.set_health("gpu-2", Health.DOWN, "timeout")
    site.warnings = ["The admin side is open."]
    status = site.get("/admin/status").json
    assert status["nodes"] == {"total": 3, "up": 1, "down": 1, "unknown": 1, "draining": 1, "disabled": 1}
    assert status["slots"] == {"used": 0, "total": 8}
    assert list(status["queue_by_priority"].items()) == [("critical", 0), ("high", 0), ("normal", 0), ("low", 0)]
    assert (status["version"], status["uptime_s"], status["queue_size"]) == ("0.1.0", 12.3, 0)
    assert status["recent"]["total_requests"] == 0
    assert status["warnings"] == ["The admin side is open."]


def test_status_answers_without_the_database(site):
    site.statistics.is_broken = True
    status = site.get("/admin/status").json
    assert status["recent"] is None
    assert "database" in status["warnings"][0]


def test_the_settings_and_the_events_are_shown(site):
    assert site.get("/admin/config").json["server"]["port"] == {"value": 8080, "source": "default"}
    site.roster.register(GPU_1, "10.0.0.9")
    site.roster.remove("gpu-1", "10.0.0.9")
    events = site.get("/admin/events?limit=1").json["events"]
    assert [(event["kind"], event["actor"], event["subject"]) for event in events] == [
        ("node.removed", "10.0.0.9", "gpu-1")
    ]
    assert events[0]["at"] == "2023-11-14T22:30:00.000Z"


def test_health_tells_alive_from_ready(site):
    assert site.get("/health/live").json == {"status": "live"}
    assert site.get("/health/ready").status_code == 200
    assert site.get("/health").json["status"] == "ok"
    site.roster.register(GPU_1, "op")
    assert site.get("/health").json["status"] == "degraded"
    assert site.get("/health/ready").status_code == 200  # ill nodes do not make it unready
    site.is_ready = False
    assert site.get("/health/ready").status_code == 503
    assert site.get("/health/live").status_code == 200


def test_models_are_those_of_the_nodes_that_are_not_disabled(site):
    site.roster.register({**GPU_1, "models": ["Qwen/Qwen2.5-7B", "bge"]}, "op")
    node = {**GPU_1, "id": "gpu-2", "address": "http://10.0.0.2:1", "models": ["gone"], "state": "disabled"}
    site.roster.register(node, "op")
    site.dispatcher.set_health("gpu-1", Health.DOWN)
    listed = site.get("/v1/models").json
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["Qwen/Qwen2.5-7B", "bge"]
    one = site.get("/v1/models/Qwen/Qwen2.5-7B").json
    assert one == {
        "id": "Qwen/Qwen2.5-7B", "object": "model", "created": 1_700_001_000, "owned_by": "llm-scheduler",
    }  # fmt: skip
    reply = site.get("/v1/models/gone")
    assert (reply.status_code, reply.json["error"]["code"]) == (404, "model_not_found")
    assert "bge" in reply.json["error"]["message"]


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer sk-client"}, {"x-api-key": "sk-client"}])
def test_models_want_a_clients_key(headers):
    site = Site(admin_keys=(b"sk-admin",), client_keys=(b"sk-client",))
    assert site.get("/v1/models").json["error"]["code"] == "invalid_api_key"
    assert site.get("/v1/models/x", headers={"Authorization": "Bearer sk-admin"}).status_code == 401
    assert site.get("/v1/models", headers=headers).status_code == 200
