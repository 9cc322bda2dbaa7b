"""The official Node.js client of OpenAI in front of two nodes: one run of it, and what each of its calls gave."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartFleet
from tests.support.fleet import Fleet

KEY = "sk-test-of-the-node-client"
TEXT = "t0 t1 t2 t3 "

FOLDER = Path(__file__).resolve().parents[1] / "openai_node"
OLDEST_NODE = 22

Results = dict[str, dict[str, Any]]


def node_binary() -> str:
    """Node.js, new enough and with the package installed. Without it tests are skipped; on CI they fail."""
    root = FOLDER.parents[1]
    found = shutil.which("node", path=f"{root / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    problem = None
    if found is None:
        problem = "Node.js is not installed"
    elif not (FOLDER / "node_modules/openai").is_dir():
        problem = "the openai npm package is not installed"
    else:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
            problem = f"Node.js {version.strip()} is older than {OLDEST_NODE}"
    if problem is None and found is not None:
        return found
    message = f"{problem}; scripts/setup-test.sh installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def binary() -> str:
    return node_binary()


@pytest.fixture(scope="module")
def fleet(binary: str, start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet(
        {
            "scheduler": {"max_queue_per_model": 1, "eject_after": 1000},
            "auth": {"api_keys": [{"name": "node", "key": KEY}]},
        }
    )
    options = {"tokens": 4}
    fleet.add("gpu-01", ["chat", "embed", "breaks", "fails-once"], sim=options)
    fleet.add("gpu-02", ["chat", "whisper"], sim=options)
    fleet.add("gpu-03", ["busy"], slots=1)
    fleet.add("gpu-04", ["full"], slots=1)
    fleet["gpu-01"].fault("reset", model="breaks", phase="stream", after_chunks=3, path="/v1/chat/completions")
    fleet["gpu-01"].fault("short_body", model="breaks", path="/v1/embeddings")
    fleet["gpu-01"].fault("status", model="fails-once", status=500, times=1)
    return fleet


@pytest.fixture(scope="module")
def results(binary: str, fleet: Fleet) -> Results:
    """What each call of run.mjs gave, while one model's only slot is taken and another's queue is full."""
    headers = {"Authorization": f"Bearer {KEY}"}
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    with (
        fleet.occupied("gpu-03", "busy", KEY),
        fleet.occupied("gpu-04", "full", KEY),
        fleet.waiting({"model": "full"}, headers=headers),
    ):
        run = subprocess.run(
            [binary, "run.mjs", f"{fleet.server.url}/v1", KEY],
            cwd=FOLDER,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
    fleet.server.wait_until_idle()
    assert run.returncode == 0, run.stderr
    found: Results = json.loads(run.stdout)
    return found


def value(results: Results, name: str) -> Any:
    assert "value" in results[name], results[name]
    return results[name]["value"]


def error(results: Results, name: str) -> dict[str, Any]:
    assert "error" in results[name], results[name]
    found: dict[str, Any] = results[name]["error"]
    return found


def test_the_models_are_listed_and_retrieved(results: Results) -> None:
    assert value(results, "models") == ["breaks", "busy", "chat", "embed", "fails-once", "full", "whisper"]
    assert value(results, "model")["id"] == "embed"


def test_a_chat_is_answered_and_tells_its_id_and_node(results: Results) -> None:
    answer = value(results, "chat")

    assert answer["data"]["choices"][0]["message"]["content"] == TEXT
    assert answer["requestId"]
    assert answer["node"] in ("gpu-01", "gpu-02")


def test_a_chat_is_streamed_token_by_token_and_ends_with_its_usage(results: Results) -> None:
    *chunks, last = value(results, "stream")

    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "t0 ", "t1 ", "t2 ", "t3 ", None]
    assert last["usage"]["completion_tokens"] == 4


def test_a_completion_is_answered(results: Results) -> None:
    assert value(results, "completion")["choices"][0]["text"] == TEXT


@pytest.mark.parametrize("name", ["floats", "embedding"])
def test_embeddings_arrive_as_numbers(results: Results, name: str) -> None:
    (item,) = value(results, name)["data"]

    assert item["embedding"] == pytest.approx([(3 + at) / 1000 for at in range(8)], abs=1e-6)


def test_an_audio_file_is_transcribed(results: Results, fleet: Fleet) -> None:
    (arrival,) = [arrival for arrival in fleet["gpu-02"].arrivals() if arrival["model"] == "whisper"]

    assert value(results, "transcription")["text"] == "t0 t1 t2 "
    assert value(results, "transcription")["sha256"] == arrival["sha256"]


def test_many_calls_at_once_are_all_answered(results: Results) -> None:
    assert value(results, "many") == [TEXT] * 8


def test_an_unknown_model_is_not_found(results: Results) -> None:
    for name in ("unknownModel", "unknownModelRetrieved"):
        found = error(results, name)
        assert (found["class"], found["status"], found["code"]) == ("NotFoundError", 404, "model_not_found")
        assert found["param"] == "model"
    assert error(results, "unknownModel")["requestId"] == "node-mine-1"


def test_a_wrong_key_is_an_authentication_error(results: Results) -> None:
    found = error(results, "wrongKey")

    assert (found["class"], found["status"], found["code"]) == ("AuthenticationError", 401, "invalid_api_key")
    assert found["requestId"]


def test_a_call_without_a_model_is_a_bad_request(results: Results) -> None:
    found = error(results, "noModel")

    assert (found["class"], found["status"]) == ("BadRequestError", 400)
    assert (found["code"], found["param"]) == ("missing_required_parameter", "model")


def test_a_full_queue_is_a_rate_limit_error(results: Results) -> None:
    found = error(results, "queueFull")

    assert (found["class"], found["status"], found["code"]) == ("RateLimitError", 429, "queue_full")
    assert found["type"] == "rate_limit_error"
    assert 1 <= int(found["retryAfter"]) <= 60
    assert found["requestId"]


def test_waiting_too_long_is_an_error_that_is_not_repeated(results: Results, fleet: Fleet) -> None:
    found = error(results, "queueTimeout")

    assert (found["class"], found["status"], found["code"]) == ("InternalServerError", 503, "queue_timeout")
    assert len(fleet.records("node-too-long")) == 1


def test_a_stream_that_breaks_is_an_error_after_what_came_before(results: Results) -> None:
    found = value(results, "brokenStream")

    assert found["got"] == ["", "t0 ", "t1 "]
    assert found["isAPIError"]
    assert found["code"] == "upstream_closed"


def test_an_answer_that_breaks_is_an_error(results: Results) -> None:
    assert error(results, "brokenAnswer")["message"]


def test_a_failure_of_the_engine_is_repeated(results: Results) -> None:
    assert value(results, "repeated")["choices"][0]["message"]["content"] == TEXT
