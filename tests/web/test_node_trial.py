"""`POST /admin/nodes/test`: what it says of an address, what it proposes, and that it changes nothing."""

import pytest

from scheduler.gateway.ports import ExamStep, NodeFindings
from tests.web.conftest import GPU_1, Site

ALL = tuple(ExamStep(name, True, "fine", 1.26) for name in ("dns", "tcp", "health", "models", "engine"))


def try_address(site: Site, **body: object) -> dict:
    reply = site.send("POST", "/admin/nodes/test", body)
    assert reply.status_code == 200, reply.json
    return reply.json


def test_a_good_address_is_answered_with_its_steps_and_a_proposal(site):
    site.examiner.findings = NodeFindings(ALL, ("qwen", "bge"), "sglang", "0.5.4", 32, ("a note",))
    answer = try_address(site, address="HTTP://10.0.0.1:8000/v1", api_key="sk-node")
    assert answer["steps"][0] == {"name": "url", "ok": True, "message": "http://10.0.0.1:8000", "duration_ms": 0.0}
    assert answer["steps"][1] == {"name": "dns", "ok": True, "message": "fine", "duration_ms": 1.3}
    del answer["steps"]
    assert "/v1" in answer.pop("address_note")
    assert answer == {
        "ok": True,
        "failed_step": None,
        "address": "http://10.0.0.1:8000",
        "engine": "sglang",
        "engine_version": "0.5.4",
        "models": ["qwen", "bge"],
        "max_concurrent": 32,
        "notes": ["a note"],
        "registered_as": None,
        "registered_models": {},
    }
    (target,) = site.examiner.targets
    assert (target.address, target.api_key) == ("http://10.0.0.1:8000", "sk-node")


def test_nothing_is_changed(site):
    try_address(site, address="http://10.0.0.1:8000")
    assert site.roster.list() == []
    assert site.events.events == []


@pytest.mark.parametrize(
    "address",
    ["", "10.0.0.1:8000", "http://169.254.169.254", "http://[fe80::1]", "http://0.0.0.0", "ftp://a", "http://u:p@a"],
)
def test_what_is_no_address_fails_at_its_first_step_and_is_not_tried(site, address):
    answer = try_address(site, address=address)
    assert (answer["ok"], answer["failed_step"], answer["address"]) == (False, "url", None)
    assert [step["name"] for step in answer["steps"]] == ["url"]
    assert site.examiner.targets == []


def test_the_first_step_that_failed_is_named_and_the_kind_of_engine_decides_nothing(site):
    bad = [ExamStep(name, False, "no", 1.0) for name in ("health", "models", "engine")]
    site.examiner.findings = NodeFindings((*ALL[:2], *bad))
    assert try_address(site, address="http://a")["failed_step"] == "health"
    site.examiner.findings = NodeFindings((*ALL[:4], bad[2]))
    assert try_address(site, address="http://a")["ok"]


def test_what_is_registered_already_is_told_and_its_key_is_used(site):
    site.send("POST", "/admin/nodes", {**GPU_1, "api_key": "sk-of-the-node"})
    site.examiner.findings = NodeFindings(ALL, ("qwen", "new"))
    answer = try_address(site, address="http://10.0.0.1:8000/")
    assert (answer["registered_as"], answer["registered_models"]) == ("gpu-1", {"qwen": ["gpu-1"]})
    assert answer["notes"] == ["The key of node 'gpu-1' was used."]
    try_address(site, address="http://10.0.0.1:8000", api_key="sk-other")
    try_address(site, address="http://10.0.0.1:8000", api_key="")
    other = try_address(site, address="http://10.0.0.2:8000")
    assert [target.api_key for target in site.examiner.targets] == ["sk-of-the-node", "sk-other", None, None]
    assert (other["registered_as"], other["registered_models"]) == (None, {"qwen": ["gpu-1"]})
    assert "sk-of-the-node" not in str(answer)


def test_only_what_could_be_registered_is_proposed(site):
    site.examiner.findings = NodeFindings(ALL, ("qwen", " spaced ", "x" * 300, "\x1b[31m"), max_concurrent=10**9)
    answer = try_address(site, address="http://a")
    assert (answer["models"], answer["max_concurrent"]) == (["qwen"], None)
    assert len(answer["notes"]) == 3


@pytest.mark.parametrize(
    ("body", "params"),
    [
        ({}, ["address"]),
        ({"address": None}, ["address"]),
        ({"address": 8000, "api_key": 7, "adress": "x", "models": []}, ["address", "api_key", "adress", "models"]),
        ({"address": "http://a", "api_key": "has spaces"}, ["api_key"]),
    ],
)
def test_a_bad_body_is_told_with_every_mistake(site, body, params):
    reply = site.send("POST", "/admin/nodes/test", body)
    assert (reply.status_code, reply.json["error"]["code"]) == (400, "invalid_fields")
    assert [detail["param"] for detail in reply.json["error"]["details"]] == params


def test_a_node_may_be_called_test(site):
    site.send("POST", "/admin/nodes", {**GPU_1, "id": "test"})
    assert site.get("/admin/nodes/test").json["id"] == "test"


def test_it_asks_for_an_admin_key():
    site = Site(admin_keys=(b"sk-admin",))
    assert site.send("POST", "/admin/nodes/test", {"address": "http://a"}).status_code == 401
    assert site.examiner.targets == []
