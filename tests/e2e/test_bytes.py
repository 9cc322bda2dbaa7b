"""Bytes: bodies and answers go through as they are, and what is no usable body is refused."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import requests

from tests.e2e.conftest import StartFleet
from tests.simulation.wire import Answer, Wire, sha256
from tests.support.fleet import Fleet
from tests.support.scripted_node import ScriptedNode
from tests.support.server import RunningServer
from tests.support.sim_node import SimNode

CHAT = "/v1/chat/completions"
MB = 1000 * 1000


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedNode]:
    with ScriptedNode() as node:
        yield node


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet, scripted: ScriptedNode) -> Fleet:
    """The defaults, which let 100 MB in."""
    fleet = start_fleet({"scheduler": {"eject_after": 1000}})
    # The node itself has a model more, which nobody can reach: whoever reads the wrong field asks for that.
    fleet.add("gpu-01", ["sim"], sim={"models": ["sim", "decoy"]})
    fleet.server.register("scripted", scripted.address, ["scripted"])
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    module_fleet.settle()


@pytest.fixture
def server(fleet: Fleet) -> RunningServer:
    return fleet.server


@pytest.fixture
def node(fleet: Fleet) -> SimNode:
    return fleet["gpu-01"]


LIMIT = 1000


@pytest.fixture(scope="module")
def module_strict(start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet({"server": {"max_body": LIMIT, "read_timeout": "0.3s"}})
    fleet.add("gpu-01")
    return fleet


@pytest.fixture
def strict(module_strict: Fleet) -> Iterator[Fleet]:
    """Lets 1,000 bytes in, and waits 0.3 s for more of them."""
    yield module_strict
    module_strict.settle()


def head(*lines: str, path: str = CHAT) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: server", "Content-Type: application/json", *lines, "", ""]
    ).encode("latin-1")


def sent(server: RunningServer, *pieces: bytes, end: bool = False) -> Answer:
    """What is answered to these bytes, and to the end of the connection where `end`."""
    with Wire(server.port) as wire:
        wire.send(b"".join(pieces))
        if end:
            wire.half_close()
        return wire.answer()


def chunked(body: bytes, size: int = 7) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def refusal(answer: Answer) -> tuple[int, str]:
    """Status and code of an answer in OpenAI's shape."""
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    return answer.status, answer.json["error"]["code"]


# -- bodies on their way to the node ----------------------------------------------------------

ODD_JSON = {
    "key order and blanks": b'\r\n{ "z" : 1 ,\t"model":"sim" , "a":[ ] }\n ',
    "a key twice": b'{"model":"decoy","temperature":1,"temperature":2,"model":"sim"}',
    "an escaped key and value": rb'{"\u006dode\u006C":"\u0073im"}',
    "escapes": rb'{"model":"sim","prompt":"\/\b\f\n\r\t\"\\ \u0000\u001f\u2028 \ud83d\ude00"}',
    "half a surrogate pair": rb'{"model":"sim","prompt":"cut off \ud83d"}',
    "the other half": rb'{"prompt":"\uDE00 is cut off, \uD83D\uDE00 is not","model":"sim"}',
    "numbers beyond floats": b'{"model":"sim","a":1E400,"b":-1e-400,"c":-0,"d":-0.0,"e":1.0,"f":1E+2}',
    "huge integers": b'{"model":"sim","a":' + b"9" * 4000 + b',"b":-18446744073709551616}',
    "unicode": '{"model":"sim","prompt":"中文 ß \u2028\u2029\ufeff\U0001f600 e\u0301"}'.encode(),
    "delete and friends": b'{"model":"sim","prompt":"\x7f\xc2\x80\xc2\x85"}',
    "deep nesting": b'{"model":"sim","a":' + b"[" * 500 + b"]" * 500 + b"}",
    "an object in the model's place of another": b'{"a":{"model":"decoy"},"model":"sim","b":[{"model":"decoy"}]}',
    "many keys": b'{"model":"sim",' + b",".join(b'"k%d":%d' % (at, at) for at in range(20_000)) + b"}",
}


@pytest.mark.parametrize("body", ODD_JSON.values(), ids=ODD_JSON.keys())
def test_json_arrives_as_it_was_written(server: RunningServer, node: SimNode, body: bytes) -> None:
    response = server.post(body)

    assert response.status_code == 200, response.text
    (arrival,) = node.arrivals()
    assert (arrival["sha256"], arrival["bytes"]) == (sha256(body), len(body))


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "text/plain", "Application/JSON", "", None], ids=str
)
def test_a_json_body_passes_with_whatever_type_it_came(
    server: RunningServer, node: SimNode, content_type: str | None
) -> None:
    body = b'{"model":"sim"}'
    lines = [f"POST {CHAT} HTTP/1.1", "Host: server", f"Content-Length: {len(body)}"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")

    sent(server, "\r\n".join([*lines, "", ""]).encode(), body)

    (arrival,) = node.arrivals()
    assert arrival["sha256"] == sha256(body)
    assert arrival["headers"].get("content-type", "") == (content_type or "")


NO_JSON = {
    "nothing": b"",
    "a byte order mark": b'\xef\xbb\xbf{"model":"sim"}',
    "UTF-16": '{"model":"sim"}'.encode("utf-16"),
    "latin-1": b'{"model":"sim","prompt":"\xe4"}',
    "a list": b'[{"model":"sim"}]',
    "a text": b'"sim"',
    "a comma too many": b'{"model":"sim",}',
    "two objects": b'{"model":"sim"}{"model":"sim"}',
    "no end": b'{"model":"sim"',
    "no number": b'{"model":"sim","a":NaN}',
    "a bare line end in a text": b'{"model":"sim","a":"\n"}',
    "a form": b"model=sim",
    "nesting without end": b'{"model":"sim","a":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
def test_what_is_no_json_object_is_refused(server: RunningServer, node: SimNode, body: bytes) -> None:
    response = server.post(body)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
    assert node.stats()["arrived"] == 0


BOUNDARY = "----a-boundary"
BINARY = bytes(range(256)) * 40


def form(*parts: tuple[str, bytes], boundary: str = BOUNDARY, preamble: bytes = b"") -> bytes:
    """A multipart form of (what follows `form-data; `, content)."""
    mark = b"--" + boundary.encode()
    body = b"".join(
        mark + b"\r\nContent-Disposition: form-data; " + of.encode() + b"\r\n\r\n" + content + b"\r\n"
        for of, content in parts
    )
    return preamble + body + mark + b"--\r\n"


def file(content: bytes, filename: str = "talk.wav") -> tuple[str, bytes]:
    return f'name="file"; filename="{filename}"\r\nContent-Type: audio/wav', content


MODEL = ('name="model"', b"sim")
FAKE_PART = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\ndecoy\r\n'
FORMS = {
    "the model first": form(MODEL, file(BINARY)),
    "the model last": form(file(BINARY), MODEL),
    "the model in the middle": form(('name="language"', b"de"), MODEL, file(BINARY)),
    "no quotes": form(("name=model", b"sim"), file(BINARY)),
    "a header before": form(('name="model"\r\nContent-Type: text/plain; charset=utf-8', b"sim"), file(BINARY)),
    "a preamble": form(file(BINARY), MODEL, preamble=b"not of the form\r\n"),
    "a boundary within a line": form(MODEL, file(b"RIFF--" + BOUNDARY.encode() + FAKE_PART)),
    "a boundary that is cut short": form(MODEL, file(b"RIFF\r\n--" + BOUNDARY[:-1].encode() + FAKE_PART)),
    "a boundary after a bare line feed": form(MODEL, file(b"RIFF\n--" + BOUNDARY.encode() + FAKE_PART)),
    "a part in the file": form(MODEL, file(b"--another" + FAKE_PART + b"--another--")),
    "a file named model": form(MODEL, file(b"decoy", 'model"; name=\\"model')),
    "a name within the filename": form(MODEL, ('name="file"; filename="a; name=model"', b"decoy")),
    "the filename first": form(('filename="a.wav"; name="file"', BINARY), ('x=y; name="model"', b"sim")),
    "a boundary that goes on": form(MODEL, file(b"RIFF\r\n--" + BOUNDARY.encode() + b"x" + FAKE_PART)),
    "a filename in utf-8": form(file(BINARY, "Gespräch 谈话.wav"), MODEL),
    "line ends in the file": form(file(b"\r\n\r\n" * 100), MODEL),
    "an empty file": form(file(b""), MODEL),
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS.keys())
def test_a_form_arrives_as_it_was_written(server: RunningServer, node: SimNode, body: bytes) -> None:
    content_type = f"multipart/form-data; boundary={BOUNDARY}"

    response = server.post(body, "/v1/audio/transcriptions", {"Content-Type": content_type})

    assert response.status_code == 200, response.text
    (arrival,) = node.arrivals()
    assert (arrival["sha256"], arrival["bytes"]) == (sha256(body), len(body))
    assert arrival["headers"]["content-type"] == content_type
    assert server.record(response.headers["X-Scheduler-Request-Id"])["model"] == "sim"


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        (f"multipart/form-data; boundary={BOUNDARY}", form(file(BINARY)), "missing_required_parameter"),
        (f"multipart/form-data; boundary={BOUNDARY}", form(MODEL)[:-30], "malformed_body"),
        (f"multipart/form-data; boundary={BOUNDARY}", b"", "malformed_body"),
        ("multipart/form-data", form(MODEL), "malformed_body"),
    ],
    ids=["without a model", "cut off", "empty", "without a boundary"],
)
def test_a_form_that_cannot_be_read_is_refused(
    server: RunningServer, node: SimNode, content_type: str, body: bytes, code: str
) -> None:
    response = server.post(body, "/v1/audio/transcriptions", {"Content-Type": content_type})

    assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    assert node.stats()["arrived"] == 0


@pytest.mark.parametrize("hostile", [b"content-disposition:", b'; a="\\""', b"; \t", b";a=", b" name="], ids=repr)
def test_the_head_of_a_part_costs_no_more_than_its_length(server: RunningServer, hostile: bytes) -> None:
    body = form(("a=b" + (hostile * 50_000).decode(), b"sim"))
    content_type = f"multipart/form-data; boundary={BOUNDARY}"

    response = server.post(body, "/v1/audio/transcriptions", {"Content-Type": content_type}, timeout=10)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "missing_required_parameter")


@pytest.mark.parametrize("size", [1, 7, 65_536])
def test_a_chunked_body_arrives_whole_and_with_its_length(server: RunningServer, node: SimNode, size: int) -> None:
    body = json.dumps({"model": "sim", "prompt": "x" * 3000}).encode()

    answer = sent(server, head("Transfer-Encoding: chunked"), chunked(body, size))

    assert answer.status == 200
    (arrival,) = node.arrivals()
    assert arrival["sha256"] == sha256(body)
    assert arrival["headers"]["content-length"] == str(len(body))
    assert "transfer-encoding" not in arrival["headers"]


def test_a_large_body_arrives_whole(server: RunningServer, node: SimNode) -> None:
    body = b'{"model":"sim","prompt":"' + b"0123456789abcdef" * (20 * MB // 16) + b'"}'

    assert server.post(body).status_code == 200

    (arrival,) = node.arrivals()
    assert (arrival["sha256"], arrival["bytes"]) == (sha256(body), len(body))


def test_a_client_that_waits_to_be_told_to_continue_is_told(server: RunningServer, node: SimNode) -> None:
    body = b'{"model":"sim"}'
    with Wire(server.port) as wire:
        wire.send(head("Expect: 100-continue", f"Content-Length: {len(body)}"))
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        wire.send(body)
        assert wire.answer().status == 200
    (arrival,) = node.arrivals()
    assert "expect" not in arrival["headers"]


def test_the_path_and_the_query_reach_the_node_as_they_were_written(server: RunningServer, node: SimNode) -> None:
    target = "/v1/a%2Fb%20c/%C3%A4/+;x=1?key=query-canary&a=%26&b=a+b&c=?"

    answer = sent(server, head("Content-Length: 15", path=target), b'{"model":"sim"}')

    assert answer.status == 200
    (arrival,) = node.arrivals()
    assert arrival["target"] == target
    assert "query-canary" not in server.log
    record = server.record(answer.headers["x-scheduler-request-id"])
    assert record["path"] == target.partition("?")[0]
    assert "query-canary" not in json.dumps(record)


@pytest.mark.parametrize(
    "path", ["/v1/../admin/nodes", "/v1/%2e%2e/admin", "/v1/./chat/completions", "/v1/a/%2E%2e%2fadmin", "/v1/x/.."]
)
def test_a_path_that_climbs_is_refused(server: RunningServer, node: SimNode, path: str) -> None:
    answer = sent(server, head("Content-Length: 15", path=path), b'{"model":"sim"}')

    assert refusal(answer) == (400, "invalid_path")
    assert node.stats()["arrived"] == 0


@pytest.mark.parametrize(
    ("target", "arrives_as"),
    [
        ("http://server/v1/embeddings?a=b", "/v1/embeddings?a=b"),
        ("x:/v1/://server/internal/path", "/v1/://server/internal/path"),
        ("http://server/v1/embeddings#://server/internal/path", "/v1/embeddings"),
        ("/v1/embeddings#/internal/path?a=b", "/v1/embeddings"),
    ],
)
def test_a_target_in_absolute_form_leads_to_no_other_path(
    server: RunningServer, node: SimNode, target: str, arrives_as: str
) -> None:
    answer = sent(server, head("Content-Length: 15", path=target), b'{"model":"sim"}')

    assert answer.status == 200
    (arrival,) = node.arrivals()
    assert arrival["target"] == arrives_as


def test_a_path_that_the_node_would_not_see_as_one_is_refused(server: RunningServer, node: SimNode) -> None:
    answer = sent(server, head("Content-Length: 15", path="x:%2Fv1/a://b"), b'{"model":"sim"}')

    assert refusal(answer) == (400, "invalid_path")
    assert node.stats()["arrived"] == 0


def test_two_requests_on_one_connection_are_answered_in_order(server: RunningServer, node: SimNode) -> None:
    first, second = b'{"model":"sim","sim_tag":"a"}', b'{"model":"sim","sim_tag":"b"}'
    with Wire(server.port) as wire:
        wire.send(head(f"Content-Length: {len(first)}") + first + head("Transfer-Encoding: chunked") + chunked(second))
        answers = [wire.answer(), wire.answer()]

    assert [answer.headers["x-sim-body-sha256"] for answer in answers] == [sha256(first), sha256(second)]
    assert node.tags() == ["a", "b"]


# -- bodies that are refused ------------------------------------------------------------------


def body_of(size: int) -> bytes:
    frame = b'{"model":"sim","prompt":""}'
    return frame[:-2] + b"x" * (size - len(frame)) + b'"}'


@pytest.mark.parametrize("frame", [lambda body: body, chunked], ids=["with its length", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_the_limit_of_a_body_is_exact(strict: Fleet, frame: Callable[[bytes], bytes], size: int, status: int) -> None:
    body = body_of(size)
    framing = "Transfer-Encoding: chunked" if frame is chunked else f"Content-Length: {size}"

    answer = sent(strict.server, head(framing), frame(body))

    assert answer.status == status
    assert strict["gpu-01"].stats()["arrived"] == (1 if status == 200 else 0)
    if status == 413:
        assert refusal(answer) == (413, "request_too_large")
        assert str(LIMIT) in answer.json["error"]["message"]


def upload(port: int, opening: bytes, pieces: Iterable[bytes]) -> tuple[Answer, int]:
    """Send as a client does that reads while it writes: the answer, and how many bytes had gone by then."""
    gone = 0
    with Wire(port) as wire:

        def write() -> None:
            nonlocal gone
            wire.send(opening)
            try:
                for piece in pieces:
                    wire.send(piece)
                    gone += len(piece)
            except OSError:
                return  # the server has heard enough

        writer = threading.Thread(target=write)
        writer.start()
        try:
            return wire.answer(), gone
        finally:
            wire.leave()
            writer.join()


def test_a_chunked_body_of_126_mb_is_refused(server: RunningServer, node: SimNode) -> None:
    chunk = b"%x\r\n%b\r\n" % (MB, b"x" * MB)

    answer, gone = upload(server.port, head("Transfer-Encoding: chunked"), [chunk] * 126)

    assert refusal(answer) == (413, "request_too_large")
    assert gone >= 100 * MB
    assert node.stats()["arrived"] == 0


def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(server: RunningServer, node: SimNode) -> None:
    answer = sent(server, head(f"Content-Length: {126 * MB}"))

    assert refusal(answer) == (413, "request_too_large")
    assert node.stats()["arrived"] == 0


def test_a_client_that_sends_all_of_a_body_too_large_still_gets_the_answer(server: RunningServer) -> None:
    """Most clients read nothing before they have written everything."""
    with requests.Session() as session:
        session.trust_env = False
        response = session.post(f"{server.url}{CHAT}", data=bytes(101 * MB), timeout=30)

    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


MALFORMED_CHUNKS = {
    "no size": b"xyz\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-5\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than its size": b'2\r\n{"model":"sim"}\r\n0\r\n\r\n',
    "an empty size": b"\r\n{}\r\n",
    "a size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", MALFORMED_CHUNKS.values(), ids=MALFORMED_CHUNKS.keys())
def test_malformed_chunks_are_refused_and_end_the_connection(server: RunningServer, node: SimNode, body: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(head("Transfer-Encoding: chunked") + body)
        assert refusal(wire.answer()) == (400, "malformed_body")
        # What follows cannot be told from the rest of the body.
        wire.send(head("Content-Length: 15") + b'{"model":"sim"}')
        assert read_to_the_end(wire) == b""
    assert node.stats()["arrived"] == 0


def read_to_the_end(wire: Wire) -> bytes:
    try:
        return wire.rest()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("framing", "body", "codes"),
    [
        ("Content-Length: 100", b'{"model":"sim"}', {"body_incomplete"}),
        ("Transfer-Encoding: chunked", b'50\r\n{"model":"sim"}', {"body_incomplete", "malformed_body"}),
        ("Transfer-Encoding: chunked", b'f\r\n{"model":"sim"}\r\n', {"body_incomplete", "malformed_body"}),
    ],
    ids=["with its length", "within a chunk", "without the last chunk"],
)
def test_a_body_that_ends_too_early_is_refused(
    server: RunningServer, node: SimNode, framing: str, body: bytes, codes: set[str]
) -> None:
    status, code = refusal(sent(server, head(framing), body, end=True))

    assert status == 400
    assert code in codes
    assert node.stats()["arrived"] == 0


@pytest.mark.parametrize(
    ("framing", "body"),
    [("Content-Length: 100", b'{"model"'), ("Transfer-Encoding: chunked", b"5\r\n{")],
    ids=["with its length", "chunked"],
)
def test_a_body_that_makes_no_progress_is_given_up(strict: Fleet, framing: str, body: bytes) -> None:
    with Wire(strict.server.port) as wire:
        wire.send(head(framing) + body)
        answer = wire.answer()

    assert refusal(answer) == (408, "request_timeout")
    assert answer.headers["x-should-retry"] == "false"


def test_a_body_that_comes_slowly_but_comes_is_taken(strict: Fleet) -> None:
    body = body_of(60)
    with Wire(strict.server.port) as wire:
        wire.send(head(f"Content-Length: {len(body)}"))
        for byte in range(0, len(body), 10):
            # Longer in all than the longest pause that is allowed.
            assert wire.is_silent(0.1)
            wire.send(body[byte : byte + 10])
        assert wire.answer().status == 200


@pytest.mark.parametrize(
    "framing", ["Transfer-Encoding: gzip", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity"]
)
def test_other_transfer_codings_than_chunked_are_refused(server: RunningServer, node: SimNode, framing: str) -> None:
    answer = sent(server, head(framing), chunked(b'{"model":"sim"}'))

    assert refusal(answer)[0] in (400, 501)
    assert node.stats()["arrived"] == 0


def test_a_refused_request_leaves_nothing_of_its_body_for_the_next(server: RunningServer, node: SimNode) -> None:
    """Whoever sends a request within a body must not have it served."""
    hidden = head("Content-Length: 15") + b'{"model":"sim"}'
    with Wire(server.port) as wire:
        wire.send(head(f"Content-Length: {len(hidden)}", path="/v1/../x") + hidden)
        assert refusal(wire.answer()) == (400, "invalid_path")
        assert b"x-sim-body" not in read_to_the_end_of_what_follows(wire)
    assert node.stats()["arrived"] == 0


def read_to_the_end_of_what_follows(wire: Wire) -> bytes:
    """What comes without being asked for; the server may keep the connection."""
    return b"" if wire.is_silent(0.2) else read_to_the_end(wire)


# -- answers on their way back ----------------------------------------------------------------


def direct(node: SimNode, body: bytes, path: str = "/v1/embeddings", **headers: str) -> tuple[dict[str, str], bytes]:
    """What the node itself answers, undecoded."""
    return raw(f"{node.address}{path}", body, headers)


def through(server: RunningServer, body: bytes, path: str = "/v1/embeddings", **headers: str) -> Any:
    return raw(f"{server.url}{path}", body, headers)


def raw(url: str, body: bytes, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers.clear()
        response = session.post(url, data=body, headers=headers, stream=True, timeout=10)
        found = b"".join(response.raw.stream(65536, decode_content=False))
        return {name.lower(): value for name, value in response.headers.items()}, found


EMBED = json.dumps({"model": "sim", "input": [f"text {at}" for at in range(100)]}).encode()
HARMLESS = {
    "bytes one at a time": {"kind": "drip", "part": "body", "ms": 0, "bytes": 97},
    "a head in drops": {"kind": "drip", "part": "head", "ms": 1, "bytes": 5},
    "the end of the connection as framing": {"kind": "eof_framed"},
    "interim answers": {"kind": "interim", "statuses": [100, 102, 103]},
    "an answer of nobody behind it": {"kind": "extra_bytes"},
    "a connection closed afterwards": {"kind": "close_after"},
}


@pytest.mark.parametrize("fault", HARMLESS.values(), ids=HARMLESS.keys())
def test_an_answer_comes_back_as_the_node_sent_it(server: RunningServer, node: SimNode, fault: dict[str, Any]) -> None:
    _, expected = direct(node, EMBED)
    node.fault(**fault)

    answers = [through(server, EMBED)[1] for _ in range(3)]

    assert [sha256(answer) for answer in answers] == [sha256(expected)] * 3


def test_a_connection_on_which_something_came_unasked_is_not_used_again(server: RunningServer, node: SimNode) -> None:
    _, expected = direct(node, EMBED)
    node.fault("extra_bytes", ms=1)
    for _ in range(3):
        assert through(server, EMBED)[1] == expected
        time.sleep(0.05)  # for what nobody asked for, which nobody can be told of


def test_a_compressed_answer_passes_undecoded(server: RunningServer, node: SimNode) -> None:
    node.fault("compressed")
    _, expected = direct(node, EMBED)

    headers, answer = through(server, EMBED, **{"Accept-Encoding": "gzip, br"})

    assert headers["content-encoding"] == "gzip"
    assert headers["content-length"] == str(len(expected))
    assert sha256(answer) == sha256(expected)
    assert node.arrivals()[-1]["headers"]["accept-encoding"] == "gzip, br"


def test_a_caller_that_accepts_no_coding_asks_the_node_for_none(server: RunningServer, node: SimNode) -> None:
    sent(server, head("Content-Length: 15"), b'{"model":"sim"}')

    assert "accept-encoding" not in node.arrivals()[-1]["headers"]


@pytest.mark.parametrize("status", [200, 201, 400, 404, 409, 413, 422, 499, 500, 501, 505])
def test_an_answer_keeps_its_status_and_its_bytes(server: RunningServer, node: SimNode, status: int) -> None:
    body = '{"detail" : "the engine\\u0027s own words \x7f ü",  "code":1E400}'
    node.fault("status", status=status, body=body, headers={"content-type": "application/vnd.engine+json"})

    response = server.post({"model": "sim"})

    assert (response.status_code, response.content) == (status, body.encode())
    assert response.headers["Content-Type"] == "application/vnd.engine+json"


def answer_of(server: RunningServer, scripted: ScriptedNode, *answer: bytes) -> Answer:
    """What a caller gets when the node says exactly this."""
    scripted.answer = answer
    return sent(server, head("Content-Length: 20"), b'{"model":"scripted"}')


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
STREAMS = {
    "as engines write it": [b'data: {"a": 1}\n\n', b'data: {"a": 2}\n\n', b"data: [DONE]\n\n"],
    "events in pieces": [b"da", b'ta: {"a"', b': "\xe4', b'\xbd\xa0"}\n', b"\n", b"data: [DO", b"NE]\n", b"\n"],
    "carriage returns": [b"event: delta\r\ndata: 1\r\n\r\n", b"data: 2\r\rdata: [DONE]\r\n\r\n"],
    "comments, ids and times": [
        b": ping\n\n",
        b"id: 7\nretry: 10\ndata: x\n\n",
        b"event: ping\n\n",
        b"data: [DONE]\n\n",
    ],
    "no blank line at the end": [b"data: 1\n\ndata: [DONE]"],
    "no end mark": [b"data: 1\n\n"],
    "no valid text": [bytes(range(256)), b"\n\n"],
    "a byte order mark": [b"\xef\xbb\xbfdata: 1\n\n"],
    "an error of the engine": [b"data: 1\n\n", b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'],
}


@pytest.mark.parametrize("pieces", STREAMS.values(), ids=STREAMS.keys())
@pytest.mark.parametrize("framing", ["chunked", "by length"])
def test_a_stream_comes_back_as_the_node_sent_it(
    server: RunningServer, scripted: ScriptedNode, pieces: list[bytes], framing: str
) -> None:
    whole = b"".join(pieces)
    if framing == "chunked":
        chunks = [b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        answer = answer_of(
            server, scripted, STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\nX-Trailer: 1\r\n\r\n"
        )
    else:
        answer = answer_of(server, scripted, STREAM_HEAD + b"Content-Length: %d\r\n\r\n" % len(whole), *pieces)

    assert answer.body == whole
    record = server.record(answer.headers["x-scheduler-request-id"])
    assert (record["outcome"], record["bytes_out"]) == ("completed", len(whole))


def test_a_stream_framed_by_the_end_of_the_connection_is_whole_with_its_end_mark(
    server: RunningServer, scripted: ScriptedNode
) -> None:
    whole = b"data: 1\n\ndata: [DONE]\n\n"

    answer = answer_of(server, scripted, STREAM_HEAD + b"Connection: close\r\n\r\n", whole)

    assert answer.body == whole


def test_a_stream_framed_by_the_end_of_the_connection_is_broken_without_its_end_mark(
    server: RunningServer, scripted: ScriptedNode
) -> None:
    answer = answer_of(server, scripted, STREAM_HEAD + b"Connection: close\r\n\r\n", b"data: 1\n\ndata: {")

    assert answer.body.startswith(b"data: 1\n\ndata: {\n\ndata: ")
    assert json.loads(answer.body.split(b"data: ")[-1])["error"]["code"] == "upstream_closed"
    assert b"[DONE]" not in answer.body
    record = server.record(answer.headers["x-scheduler-request-id"])
    assert (record["outcome"], record["error_code"], record["http_status"]) == ("failed", "upstream_closed", 200)


def test_a_stream_whose_text_says_done_has_not_told_its_end(server: RunningServer, scripted: ScriptedNode) -> None:
    said = b'data: {"text":"it ends with [DONE]"}\n\n'

    answer = answer_of(server, scripted, STREAM_HEAD + b"Connection: close\r\n\r\n", said)

    assert answer.body.startswith(said + b"data: ")
    assert json.loads(answer.body.split(b"data: ")[-1])["error"]["code"] == "upstream_closed"
    assert server.record(answer.headers["x-scheduler-request-id"])["outcome"] == "failed"


def cut(server: RunningServer, body: bytes = b'{"model":"scripted"}', path: str = CHAT) -> bool:
    """True where the answer to this ends with a reset, so that it cannot look whole."""
    with Wire(server.port) as wire:
        wire.send(head(f"Content-Length: {len(body)}", path=path) + body)
        assert wire.head()[0] == 200
        try:
            wire.rest()
        except ConnectionResetError:
            return True
    return False


def test_a_stream_of_an_announced_length_that_breaks_is_cut(server: RunningServer, scripted: ScriptedNode) -> None:
    scripted.answer = [STREAM_HEAD + b"Content-Length: 100\r\n\r\n", b"data: 1\n\n"]

    assert cut(server)


def test_a_caller_of_the_old_protocol_gets_a_stream_that_ends_with_its_connection(
    server: RunningServer, scripted: ScriptedNode
) -> None:
    scripted.answer = [STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"]
    with Wire(server.port) as wire:
        wire.send(b'POST /v1/x HTTP/1.0\r\nContent-Length: 20\r\n\r\n{"model":"scripted"}')
        answer = wire.answer()

    assert "transfer-encoding" not in answer.headers
    assert answer.body == b"data: 1\n\n"


@pytest.mark.parametrize("status", [b"600 Later", b"999 Never", b"000 Nothing", b"1000 Much"])
def test_a_status_that_is_none_is_no_answer(server: RunningServer, scripted: ScriptedNode, status: bytes) -> None:
    answer = answer_of(server, scripted, b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    assert refusal(answer) == (502, "upstream_protocol_error")


def test_binary_that_is_no_stream_comes_back_with_its_type(server: RunningServer, scripted: ScriptedNode) -> None:
    sound = bytes(range(256)) * 1000
    opening = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: %d\r\n\r\n" % len(sound)

    answer = answer_of(server, scripted, opening, sound)

    assert answer.headers["content-type"] == "audio/mpeg"
    assert sha256(answer.body) == sha256(sound)


@pytest.mark.parametrize(
    "opening",
    [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
    ids=["204", "an empty body"],
)
def test_an_answer_without_a_body_has_none(server: RunningServer, scripted: ScriptedNode, opening: bytes) -> None:
    scripted.answer = [opening]
    with Wire(server.port) as wire:
        wire.send(head("Content-Length: 20", "Connection: close") + b'{"model":"scripted"}')
        status, headers = wire.head()
        assert status == int(opening.split()[1])
        assert read_to_the_end(wire) == b""
    assert server.record(headers["x-scheduler-request-id"])["outcome"] == "completed"


def test_the_node_gets_one_host_and_one_length(server: RunningServer, scripted: ScriptedNode) -> None:
    answer_of(server, scripted, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    assert scripted.request_lines[0] == f"POST {CHAT} HTTP/1.1"
    assert scripted.header("host") == [scripted.address.removeprefix("http://")]
    assert scripted.header("content-length") == ["20"]
    assert scripted.bodies[-1] == b'{"model":"scripted"}'


def test_a_huge_answer_comes_back_whole(server: RunningServer, node: SimNode) -> None:
    body = json.dumps({"model": "sim", "sim_bytes": 20 * MB}).encode()

    headers, answer = through(server, body, CHAT)

    assert len(answer) == 20 * MB == int(headers["content-length"])
    assert answer.count(b"x") > 19 * MB


def test_an_answer_that_breaks_is_cut_with_a_reset(server: RunningServer, node: SimNode) -> None:
    node.fault("reset", phase="stream", after_chunks=1)

    assert cut(server, EMBED, "/v1/embeddings")
