"""`POST /admin/nodes/test` on a real server: it finds what is there, and holds nobody up."""

import time
from typing import Any

import pytest

from tests.support.server import RunningServer


@pytest.fixture
def server(start_server) -> RunningServer:
    return start_server({"scheduler": {"health_check_timeout": "500ms"}})


def try_address(server: RunningServer, **body: Any) -> dict[str, Any]:
    reply = server.admin("POST", "/nodes/test", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_what_a_trial_proposes_can_be_registered_as_it_stands(server, start_node):
    node = start_node(engine="llama.cpp", models=["qwen", "bge"], slots=3, api_key="sk-node")
    assert try_address(server, address=node.address)["failed_step"] == "models"
    found = try_address(server, address=node.address + "/v1", api_key="sk-node")
    assert (found["ok"], found["engine"], found["registered_as"]) == (True, "llama.cpp", None)
    server.register("gpu-01", found["address"], found["models"], found["max_concurrent"], api_key="sk-node")
    assert server.post({"model": "bge"}).status_code == 200
    assert try_address(server, address=node.address)["registered_as"] == "gpu-01"  # with its own key


def test_a_node_that_hangs_is_given_up_in_time_and_other_calls_go_on(server, node, start_node):
    hanging = start_node()
    hanging.freeze()
    began = time.monotonic()
    with server.http.post(
        f"{server.url}/v1/chat/completions", json={"model": "sim", "stream": True, "sim_gap_ms": 20}, stream=True
    ) as stream:
        found = try_address(server, address=hanging.address)
        assert time.monotonic() - began < 3
        assert b"[DONE]" in stream.content
    assert found["failed_step"] == "health"
    assert "no end within 1 s" in found["steps"][-1]["message"]
    assert server.status()["nodes"]["total"] == 1
