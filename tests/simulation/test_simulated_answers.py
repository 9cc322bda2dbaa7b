"""What a simulated node answers: valid, deterministic, and in the shapes of real engines."""

import json

import openai
import pytest

from tests.simulation.wire import CHAT, Wire, sha256
from tests.support.sim_node import SimNode


def events(body: bytes) -> list[str]:
    return [frame.removeprefix("data: ") for frame in body.decode().split("\n\n") if frame]


def test_a_chat_call_is_answered_with_text_and_usage(wire):
    answer = wire.post(messages=[{"role": "user", "content": "hi"}], max_tokens=4).answer()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["object"] == "chat.completion"
    assert answer.json["choices"][0]["message"] == {"role": "assistant", "content": "t0 t1 t2 t3 "}
    assert answer.json["usage"]["completion_tokens"] == 4


def test_a_stream_brings_role_tokens_finish_usage_and_done_in_this_order(wire):
    answer = wire.post(stream=True, stream_options={"include_usage": True}).answer()
    assert answer.headers["content-type"].startswith("text/event-stream")
    *frames, done = events(answer.body)
    role, *tokens, finish, usage = map(json.loads, frames)
    assert done == "[DONE]"
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert [token["choices"][0]["delta"]["content"] for token in tokens] == ["t0 ", "t1 ", "t2 "]
    assert finish["choices"][0]["finish_reason"] == "length"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 3)


def test_each_event_of_a_stream_is_one_chunk(wire):
    wire.post(stream=True)
    wire.head()
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in wire.chunks())


def test_the_headers_of_a_stream_come_before_the_time_to_first_token(node, wire):
    wire.post(stream=True, sim_ttft_ms=60_000)
    status, _ = wire.head()
    assert status == 200
    assert wire.is_silent(0.05)


def test_text_completions_are_answered_whole_and_as_a_stream(wire):
    assert wire.post("/v1/completions", prompt="hi").answer().json["choices"][0]["text"] == "t0 t1 t2 "
    frames = events(wire.post("/v1/completions", prompt="hi", stream=True).answer().body)
    assert "".join(json.loads(frame)["choices"][0]["text"] for frame in frames[:-1]) == "t0 t1 t2 "


def test_the_openai_client_understands_every_answer(node):
    with openai.OpenAI(base_url=f"{node.address}/v1", api_key="any") as client:
        assert [model.id for model in client.models.list()] == ["sim", "other"]
        assert client.models.retrieve("other").id == "other"
        messages = [{"role": "user", "content": "hi"}]
        whole = client.chat.completions.create(model="sim", messages=messages)
        assert whole.choices[0].message.content == "t0 t1 t2 "
        stream = client.chat.completions.create(model="sim", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "t0 t1 t2 "
        vectors = client.embeddings.create(model="sim", input=["a", "bcd"], dimensions=3).data
        assert [len(vector.embedding) for vector in vectors] == [3, 3]
        assert vectors[1].embedding == pytest.approx([0.003, 0.004, 0.005])
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="nobody", messages=messages)
        assert client.audio.transcriptions.create(model="sim", file=("a.wav", b"RIFF")).text == "t0 t1 t2 "


def test_the_model_of_a_multipart_form_is_read(node, wire):
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n--b--\r\n'
    head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: n\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    answer = wire.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body).answer()
    assert answer.json["sha256"] == answer.headers["x-sim-body-sha256"] == sha256(body)
    assert answer.json["bytes"] == len(body)
    assert node.arrivals()[0]["model"] == "other"


@pytest.mark.parametrize(
    ("path", "document", "expected"),
    [
        ("/tokenize", {"prompt": "a b c"}, {"count": 3}),
        ("/detokenize", {"tokens": [1, 2]}, {"prompt": "t1 t2 "}),
        ("/rerank", {"query": "q", "documents": ["a", "b"]}, {"model": "sim"}),
        ("/score", {"text_1": "q", "text_2": ["a", "b"]}, {"object": "list"}),
        ("/pooling", {"input": "a"}, {"object": "list"}),
        ("/classify", {"input": "a"}, {"object": "list"}),
        ("/v1/embeddings", {"input": "a"}, {"object": "list"}),
        ("/v1/anything/else", {"x": 1}, {"path": "/v1/anything/else"}),
    ],
)
def test_every_other_inference_path_has_an_answer(wire, path, document, expected):
    answer = wire.post(path, **document).answer()
    assert answer.status == 200
    assert answer.json.items() >= expected.items()


def test_the_digest_of_the_received_body_is_told(wire):
    request = Wire.encoded(CHAT, messages="ü")
    answer = wire.send(request).answer()
    assert answer.headers["x-sim-body-sha256"] == sha256(request.partition(b"\r\n\r\n")[2])


def test_a_body_that_is_no_json_object_is_refused_as_an_engine_does(wire):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    assert wire.send(head + b"[]").answer().status == 400


def test_body_fields_override_the_answer(wire):
    answer = wire.post(sim_status=418).answer()
    assert (answer.status, answer.json["error"]["code"]) == (418, 418)
    assert len(wire.post(sim_bytes=100_000).answer().body) == 100_000
    frames = events(wire.post(stream=True, sim_bytes=1000).answer().body)[1:-2]
    assert sum(len(json.loads(frame)["choices"][0]["delta"]["content"]) for frame in frames) == 1000
    assert wire.post(max_tokens="many").answer().status == 400


def test_what_it_does_not_know_is_404_and_a_wrong_method_405(wire):
    assert wire.get("/nothing").answer().status == 404
    assert wire.post("/health").answer().status == 405


def test_head_is_answered_without_a_body(wire):
    wire.send(b"HEAD /v1/models HTTP/1.1\r\nHost: n\r\n\r\n")
    status, headers = wire.head()
    assert status == 200
    assert int(headers["content-length"]) > 0
    assert wire.get("/health").answer().status == 200


def test_with_a_key_only_health_is_open():
    with SimNode(api_key="secret") as node, Wire(node.port) as wire:
        assert wire.get("/health").answer().status == 200
        assert wire.get("/v1/models").answer().status == 401
        assert wire.post().answer().status == 401
        assert wire.post(CHAT, "Authorization: Bearer secret").answer().status == 200


@pytest.mark.parametrize(
    ("engine", "page", "owner"),
    [
        ("vllm", "/version", "vllm"),
        ("sglang", "/get_model_info", "sglang"),
        ("llama.cpp", "/props", "llamacpp"),
        ("plain", None, "owner"),
    ],
)
def test_an_engine_has_its_own_page_and_none_of_the_others(engine, page, owner):
    with SimNode(engine=engine) as node, Wire(node.port) as wire:
        for each in ("/version", "/get_model_info", "/props"):
            assert wire.get(each).answer().status == (200 if each == page else 404)
        assert wire.get("/v1/models").answer().json["data"][0]["owned_by"] == owner
