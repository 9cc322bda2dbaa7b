"""GET /metrics of a real server: it agrees with what was sent, and tells nothing of what was in it."""

from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import RunningServer, eventually

CANARY = "canary-7f3a91"


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: RunningServer) -> Samples:
    """Every sample by name and labels, without the prefix."""
    response = server.http.get(f"{server.url}/metrics", headers={"Authorization": "Bearer sk-metrics"}, timeout=20)
    assert response.status_code == 200, response.text
    assert CANARY not in response.text
    return {
        (sample.name.removeprefix("llm_scheduler_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all series of a name that have these labels."""
    return sum(value for (each, had), value in samples.items() if each == name and labels.items() <= set(had))


def test_the_figures_agree_with_what_was_sent_and_hold_nothing_of_it(start_server, start_node):
    server = start_server(
        {"auth": {"metrics_key": "sk-metrics", "api_keys": [{"name": "team-a", "key": f"sk-{CANARY}"}]}}
    )
    node = start_node(slots=2)
    server.register("gpu-01", node.address, max_concurrent=2)
    ours = {"Authorization": f"Bearer sk-{CANARY}"}
    prompt = [{"role": "user", "content": CANARY}]

    def post(body: object, **headers: str) -> requests.Response:
        return server.post(body, headers={**ours, **headers})

    for _ in range(3):
        assert post({"model": "sim", "messages": prompt}).status_code == 200
    for _ in range(2):
        body = {"model": "sim", "messages": prompt, "stream": True, "stream_options": {"include_usage": True}}
        assert "[DONE]" in post(body, **{"X-Priority": "high"}).text
    assert post({"model": CANARY, "messages": prompt}).status_code == 404
    assert post(CANARY.encode()).status_code == 400
    assert server.post({"model": "sim"}, headers={"Authorization": f"Bearer {CANARY}"}).status_code == 401

    # The last answer is out before it is counted.
    def all_counted() -> Samples | None:
        samples = scrape(server)
        return samples if total(samples, "requests_total") == 6 else None

    found = eventually(all_counted, "6 requests in /metrics")
    done = {"model": "sim", "outcome": "completed", "status": "2xx"}
    assert total(found, "requests_total", **done, priority="normal") == 3
    assert total(found, "requests_total", **done, priority="high") == 2
    assert total(found, "requests_total", model="other", outcome="rejected", status="4xx") == 1
    assert total(found, "rejections_total", model="other", reason="model_not_found") == 1
    assert total(found, "unread_refusals_total", reason="invalid_json") == 1
    assert total(found, "unread_refusals_total", reason="invalid_api_key") == 1
    assert total(found, "attempts_total", node="gpu-01", result="completed") == 5
    for name in ("request_duration_seconds_count", "time_to_first_byte_seconds_count", "queue_wait_seconds_count"):
        assert total(found, name, model="sim") == 5
    assert total(found, "inter_token_gap_seconds_count", model="sim") == 2

    def all_written() -> list[dict[str, Any]] | None:
        found = server.get("/requests?model=sim")["requests"]
        return found if [record["outcome"] for record in found] == ["completed"] * 5 else None

    records = eventually(all_written, "5 finished records")
    for kind in ("prompt", "completion"):
        counted = total(found, f"{kind}_tokens_total", model="sim", key="team-a")
        assert counted == sum(record[f"{kind}_tokens"] or 0 for record in records) > 0
    latency_s = sum(record["latency_ms"] for record in records) / 1000
    assert abs(total(found, "request_duration_seconds_sum", model="sim") - latency_s) < 0.01

    assert total(found, "node_capacity", node="gpu-01") == 2
    assert total(found, "node_health", node="gpu-01", health="up") == 1
    assert total(found, "node_in_flight") == total(found, "held_body_bytes") == total(found, "in_flight") == 0
    assert total(found, "recorder_lost_total") == 0
    assert total(found, "database_bytes") > 0


def test_a_scrape_without_its_key_is_refused_and_answered_as_an_error_of_ours(start_server):
    server = start_server({"auth": {"metrics_key": "sk-metrics"}})
    response = server.http.get(f"{server.url}/metrics", timeout=20)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
