"""`sse_keepalive`: a waiting stream hears comments, and errors come as events."""

import json
from collections.abc import Iterator

import pytest
import requests

from tests.support.server import RunningServer
from tests.support.sim_node import SimNode

STREAM = {"model": "sim", "stream": True, "messages": [], "max_tokens": 2}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, SimNode]]:
    settings = {"scheduler": {"sse_keepalive": "100ms"}}
    with RunningServer(tmp_path_factory.mktemp("keepalive"), settings) as server, SimNode(slots=1) as node:
        server.register("gpu-01", node.address, max_concurrent=1)
        yield server, node
        server.wait_until_idle()


def begin(server: RunningServer, body: dict) -> requests.Response:
    response = server.post(body, stream=True, headers={"Accept-Encoding": "gzip"})
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return response


def test_a_stream_that_waits_hears_comments_and_then_its_answer(fleet: tuple[RunningServer, SimNode]) -> None:
    server, node = fleet
    node.reset()
    node.close_gate()
    response = begin(server, STREAM)
    lines = response.iter_lines()
    assert [next(lines) for _ in range(4)] == [b": keep-alive", b""] * 2
    node.open_gate()
    answer = [line for line in lines if line and not line.startswith(b":")]
    assert answer[-1] == b"data: [DONE]"
    assert server.record(response.headers["X-Scheduler-Request-Id"])["outcome"] == "completed"


def test_a_quick_answer_hears_none(fleet: tuple[RunningServer, SimNode]) -> None:
    server, node = fleet
    node.reset()
    assert b"keep-alive" not in server.post(STREAM).content


@pytest.mark.parametrize(("status", "code"), [(500, "upstream_protocol_error"), (400, "upstream_protocol_error")])
def test_a_late_error_of_the_engine_is_an_event(fleet: tuple[RunningServer, SimNode], status: int, code: str) -> None:
    server, node = fleet
    node.reset()
    node.close_gate()
    node.fault("status", status=status)
    response = begin(server, STREAM)
    lines = response.iter_lines()
    assert next(lines) == b": keep-alive"
    node.open_gate()
    (event,) = [line for line in lines if line.startswith(b"data: ")]
    assert json.loads(event[6:])["error"]["code"] == code
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert (record["outcome"], record["error_code"]) == ("failed", code)


def test_a_queue_time_out_is_an_event(fleet: tuple[RunningServer, SimNode]) -> None:
    server, node = fleet
    node.reset()
    node.close_gate()
    running = begin(server, STREAM)
    node.wait(running=1)
    late = server.post(STREAM, headers={"X-Queue-Timeout": "0.3"})
    assert late.status_code == 200
    assert b'"code": "queue_timeout"' in late.content
    assert b"[DONE]" not in late.content
    assert server.record(late.headers["X-Scheduler-Request-Id"])["outcome"] == "evicted"
    node.open_gate()
    assert running.content.endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_while_it_hears_comments_frees_its_slot(fleet: tuple[RunningServer, SimNode]) -> None:
    server, node = fleet
    node.reset()
    node.close_gate()
    response = begin(server, STREAM)
    node.wait(running=1)
    assert next(response.iter_lines()) == b": keep-alive"
    response.close()
    node.wait(aborted=1)
    record = server.record(response.headers["X-Scheduler-Request-Id"])
    assert (record["outcome"], record["http_status"]) == ("client_closed", 499)
    node.open_gate()
