"""The official Python client of OpenAI in front of two nodes: what it gets, what it raises, what it repeats."""

import asyncio
import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.server import RunningServer, eventually
from tests.support.sim_node import SimNode

KEY = "sk-test-of-the-python-client"
QUESTION = [{"role": "user", "content": "How are you?"}]
TEXT = "t0 t1 t2 t3 "


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet(
        {
            "scheduler": {"max_queue_size": 1, "eject_after": 1000},
            "auth": {"api_keys": [{"name": "python", "key": KEY}]},
        }
    )
    options = {"tokens": 4}
    fleet.add("gpu-01", ["chat", "embed"], sim=options)
    fleet.add("gpu-02", ["chat", "whisper"], sim=options)
    fleet.add("gpu-03", ["single", "org/model v1:中文"], slots=1, sim=options)
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    module_fleet.settle()


@pytest.fixture
def server(fleet: Fleet) -> RunningServer:
    return fleet.server


@pytest.fixture
def single(fleet: Fleet) -> SimNode:
    """The only node of the model `single`, with one slot."""
    return fleet["gpu-03"]


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    """The client as a user makes it, but without retries: most tests look at the first answer."""
    with httpx2.Client(trust_env=False) as http:
        yield OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, http_client=http)


# -- what it gets -----------------------------------------------------------------------------


def test_the_models_of_all_nodes_are_listed_once(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chat", "embed", "org/model v1:中文", "single", "whisper"]


def test_a_model_can_be_retrieved(client: OpenAI) -> None:
    model = client.models.retrieve("embed")

    assert (model.id, model.object) == ("embed", "model")


def test_a_model_with_a_slash_and_more_in_its_name_can_be_retrieved_and_asked(client: OpenAI) -> None:
    name = "org/model v1:中文"

    assert client.models.retrieve(name).id == name
    assert client.chat.completions.create(model=name, messages=QUESTION).choices[0].message.content == TEXT


def test_a_model_that_nobody_has_is_not_retrieved(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")

    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_a_chat_is_answered_with_its_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=QUESTION)

    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 4)


def test_the_raw_answer_tells_where_it_came_from(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="chat", messages=QUESTION)

    assert raw.headers["x-scheduler-node"] in ("gpu-01", "gpu-02")
    assert raw.headers["x-scheduler-priority"] == "normal"
    assert raw.headers["x-scheduler-attempts"] == "1"
    assert float(raw.headers["x-scheduler-queue-ms"]) >= 0
    assert raw.request_id == raw.headers["x-scheduler-request-id"]


def test_both_nodes_of_a_model_get_chats(client: OpenAI, fleet: Fleet) -> None:
    for _ in range(4):
        client.chat.completions.create(model="chat", messages=QUESTION)

    assert (fleet["gpu-01"].stats()["served"], fleet["gpu-02"].stats()["served"]) == (2, 2)


def test_a_chat_is_streamed_token_by_token(client: OpenAI) -> None:
    with client.chat.completions.create(model="chat", messages=QUESTION, stream=True) as stream:
        chunks = list(stream)

    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "t0 ", "t1 ", "t2 ", "t3 ", None]
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_ends_with_its_usage_where_that_is_asked_for(client: OpenAI, server: RunningServer) -> None:
    stream = client.chat.completions.create(
        model="chat",
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"X-Request-Id": "with-usage"},
    )
    *_, last = stream

    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (6, 4)
    record = server.record("with-usage")
    assert (record["prompt_tokens"], record["completion_tokens"], record["stream"]) == (6, 4, True)


def test_a_completion_is_answered(client: OpenAI) -> None:
    answer = client.completions.create(model="chat", prompt="Once upon a time")

    assert answer.choices[0].text == TEXT


def test_a_completion_is_streamed(client: OpenAI) -> None:
    chunks = list(client.completions.create(model="chat", prompt="Once upon a time", stream=True))

    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT


@pytest.mark.parametrize("options", [{"encoding_format": "float"}, {}], ids=["floats", "the default, base64"])
def test_embeddings_arrive_as_numbers(client: OpenAI, fleet: Fleet, options: dict[str, Any]) -> None:
    answer = client.embeddings.create(model="embed", input=["one", "three"], **options)

    vectors = [item.embedding for item in answer.data]
    assert [len(vector) for vector in vectors] == [8, 8]
    assert vectors[0] == pytest.approx([(3 + at) / 1000 for at in range(8)], abs=1e-6)
    assert fleet["gpu-01"].stats()["served"] == 1


def test_embeddings_travel_as_base64_by_default(client: OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(model="embed", input="one")

    travelled = json.loads(raw.content)["data"][0]["embedding"]
    assert struct.unpack("<8f", base64.b64decode(travelled))[1] == pytest.approx(0.004)


def test_an_audio_file_is_transcribed_by_the_node_that_has_the_model(client: OpenAI, fleet: Fleet) -> None:
    sound = bytes(range(256)) * 500

    answer = client.audio.transcriptions.create(model="whisper", file=("talk.wav", sound))

    assert answer.text == "t0 t1 t2 "
    (arrival,) = fleet["gpu-02"].arrivals()
    assert arrival["path"] == "/v1/audio/transcriptions"
    assert arrival["bytes"] > len(sound)
    assert answer.to_dict()["sha256"] == arrival["sha256"]


def test_the_asynchronous_client_is_answered_many_times_at_once(server: RunningServer) -> None:
    async def ask() -> list[str | None]:
        async with httpx2.AsyncClient(trust_env=False) as http:
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, http_client=http)
            calls = [client.chat.completions.create(model="chat", messages=QUESTION) for _ in range(8)]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [TEXT] * 8


# -- what it raises ---------------------------------------------------------------------------


def chat(client: OpenAI, model: str = "single", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=QUESTION, **options)


def test_an_unknown_model_raises_not_found_and_names_what_there_is(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, "gpt-4")

    error = caught.value
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert error.type == "invalid_request_error"
    assert "chat, embed, org/model v1:中文, single, whisper" in error.message
    assert error.request_id == error.response.headers["x-scheduler-request-id"]


def test_a_wrong_key_raises_authentication_error(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        chat(client.with_options(api_key="sk-wrong"))

    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.request_id


def test_a_request_without_a_model_raises_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, "")

    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "model")
    assert caught.value.request_id


def test_a_bad_request_of_the_engine_is_raised_in_its_own_words(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, extra_body={"max_tokens": "many"})

    assert "max_tokens must be a number of 0 or more" in caught.value.message
    assert caught.value.response.headers["x-scheduler-node"] == "gpu-03"


def test_the_callers_own_id_is_the_id_of_the_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, "gpt-4", extra_headers={"X-Request-Id": "mine-1"})

    assert caught.value.request_id == "mine-1"


def test_a_full_queue_raises_rate_limit_error_with_the_time_to_wait(client: OpenAI, fleet: Fleet) -> None:
    full = fleet.occupied("gpu-03", "single", KEY), fleet.waiting({"model": "single"}, headers=auth())
    with full[0], full[1], pytest.raises(openai.RateLimitError) as caught:
        chat(client)

    error = caught.value
    assert (error.status_code, error.code, error.type) == (429, "queue_full", "rate_limit_error")
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    assert "x-should-retry" not in error.response.headers
    assert error.request_id


def test_waiting_too_long_raises_once_however_many_retries_are_allowed(client: OpenAI, fleet: Fleet) -> None:
    patient = client.with_options(max_retries=5)
    with fleet.occupied("gpu-03", "single", KEY), pytest.raises(openai.InternalServerError) as caught:
        chat(patient, extra_headers={"X-Request-Id": "too-long", "X-Queue-Timeout": "0.1"})

    assert (caught.value.status_code, caught.value.code) == (503, "queue_timeout")
    assert caught.value.response.headers["x-should-retry"] == "false"
    fleet.server.record("too-long")
    assert len(fleet.records("too-long")) == 1


def test_a_stream_that_breaks_raises_instead_of_ending(client: OpenAI, single: SimNode, server: RunningServer) -> None:
    single.fault("reset", phase="stream", after_chunks=3)
    got: list[str | None] = []

    def read() -> None:
        for chunk in chat(client, stream=True, extra_headers={"X-Request-Id": "broken"}):
            got.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError) as caught:
        read()

    assert got == ["", "t0 ", "t1 "]
    assert caught.value.code == "upstream_closed"
    record = server.record("broken")
    assert (record["outcome"], record["error_code"]) == ("failed", "upstream_closed")


def test_a_stream_that_breaks_within_an_event_raises_too(client: OpenAI, single: SimNode) -> None:
    single.fault("reset", phase="stream", after_chunks=3, partial_bytes=20)

    # The half event reaches the client as it is, and that is no JSON.
    with pytest.raises((openai.APIError, ValueError)):
        list(chat(client, stream=True))


def test_an_answer_that_breaks_raises_instead_of_looking_whole(client: OpenAI, single: SimNode) -> None:
    single.fault("short_body")

    with pytest.raises(openai.APIError):
        chat(client, extra_body={"sim_bytes": 100_000})


# -- what it repeats --------------------------------------------------------------------------


def auth() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


def test_a_failure_of_the_engine_is_repeated_by_the_client(client: OpenAI, single: SimNode, fleet: Fleet) -> None:
    single.fault("status", status=500, times=1)

    answer = chat(client.with_options(max_retries=1), extra_headers={"X-Request-Id": "again"})

    assert answer.choices[0].message.content == TEXT
    assert single.stats()["arrived"] == 2
    eventually(lambda: len([r for r in fleet.records("again") if r["outcome"]]) == 2, "both records")
    outcomes = [(record["outcome"], record["error_code"]) for record in fleet.records("again")]
    assert outcomes == [("completed", None), ("failed", "upstream_http_500")]


def test_a_node_that_may_have_worked_on_a_request_gets_it_no_second_time(client: OpenAI, single: SimNode) -> None:
    single.fault("close", phase="body")

    with pytest.raises(openai.InternalServerError) as caught:
        chat(client.with_options(max_retries=3))

    assert caught.value.code == "upstream_closed"
    assert single.stats()["arrived"] == 1


def test_a_full_queue_is_tried_again_when_the_server_said(client: OpenAI, single: SimNode, fleet: Fleet) -> None:
    server = fleet.server
    repeat(100, lambda: server.post({"model": "single"}, headers=auth()), fleet)  # so that the queue is seen to drain
    with fleet.occupied("gpu-03", "single", KEY), fleet.waiting({"model": "single"}, headers=auth()):
        again = client.with_options(max_retries=1)
        call = fleet.later(lambda: chat(again, extra_headers={"X-Request-Id": "full"}))  # type: ignore[arg-type]
        record = server.record("full")
        assert record["error_code"] == "queue_full"

    assert call.result().choices[0].message.content == TEXT  # type: ignore[attr-defined]


def repeat(count: int, call: Callable[[], Any], fleet: Fleet) -> None:
    """Two callers for one slot, so that one of them always waits."""
    callers = [fleet.later(lambda: [call() for _ in range(count // 2)][-1]) for _ in range(2)]
    for caller in callers:
        assert caller.result().status_code == 200
