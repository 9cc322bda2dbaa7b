"""/admin/nodes, as an operator's script sees it."""

import pytest

from tests.web.conftest import GPU_1


def test_a_node_is_registered_shown_changed_and_removed(site):
    reply = site.send("POST", "/admin/nodes", {**GPU_1, "api_key": "sk-secret", "remark": "机房 A"})
    assert reply.status_code == 201
    assert reply.json == {
        "id": "gpu-1",
        "address": "http://10.0.0.1:8000",
        "models": ["qwen"],
        "max_concurrent": 4,
        "weight": 100,
        "labels": {},
        "remark": "机房 A",
        "has_api_key": True,
        "state": "active",
        "health": "unknown",
        "health_reason": None,
        "in_flight": 0,
        "last_check_at": None,
        "since": "2023-11-14T22:30:00.000Z",
        "created_at": "2023-11-14T22:30:00.000Z",
        "updated_at": "2023-11-14T22:30:00.000Z",
        "overrides": [],
        "warnings": [],
    }
    assert site.send("POST", "/admin/nodes", GPU_1).status_code == 200
    assert [node["id"] for node in site.get("/admin/nodes").json["nodes"]] == ["gpu-1"]
    reply = site.send("PATCH", "/admin/nodes/gpu-1", {"state": "draining", "max_concurrent": 2})
    assert (reply.status_code, reply.json["state"], reply.json["overrides"]) == (200, "draining", ["max_concurrent"])
    assert site.dispatcher.node("gpu-1").spec.max_concurrent == 2
    assert site.get("/admin/nodes/gpu-1").json == reply.json
    assert site.client.delete("/admin/nodes/gpu-1").status_code == 204
    assert site.get("/admin/nodes/gpu-1").json["error"]["code"] == "node_not_found"
    assert [event.actor for event in site.events.events] == ["127.0.0.1"] * 4


def test_every_bad_field_is_told_at_once(site):
    reply = site.send("POST", "/admin/nodes", {"id": "a b", "models": "qwen", "max_concurrent": 0, "wieght": 1})
    assert reply.status_code == 400
    assert reply.json["error"]["code"] == "invalid_fields"
    assert [detail["param"] for detail in reply.json["error"]["details"]] == [
        "id",
        "address",
        "models",
        "max_concurrent",
        "wieght",
    ]


def test_an_address_of_another_node_is_a_conflict(site):
    site.send("POST", "/admin/nodes", GPU_1)
    reply = site.send("POST", "/admin/nodes", {**GPU_1, "id": "gpu-2"})
    assert (reply.status_code, reply.json["error"]["code"]) == (409, "address_in_use")


def test_a_cut_address_is_noted(site):
    reply = site.send("POST", "/admin/nodes", {**GPU_1, "address": "http://10.0.0.1:8000/v1"})
    assert reply.json["address"] == "http://10.0.0.1:8000"
    assert "/v1" in reply.json["address_note"]
    assert "address_note" not in site.get("/admin/nodes/gpu-1").json


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_said_so(site, body):
    for method, path in (("POST", "/admin/nodes"), ("PATCH", "/admin/nodes/gpu-1"), ("PATCH", "/admin/queue/x")):
        reply = site.client.open(path, method=method, data=body, content_type="application/json")
        assert (reply.status_code, reply.json["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_node_that_is_not_there_is_404(site, method):
    reply = site.send(method, "/admin/nodes/nobody", {} if method == "PATCH" else None)
    assert (reply.status_code, reply.json["error"]["code"]) == (404, "node_not_found")
