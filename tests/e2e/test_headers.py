"""Headers: which pass between callers and nodes, which are ours, and which go neither way."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import StartFleet
from tests.simulation.wire import Wire
from tests.support.fleet import Fleet
from tests.support.scripted_node import ScriptedNode
from tests.support.server import RunningServer

BODY = b'{"model":"scripted"}'
STREAM = b"data: 1\n\ndata: [DONE]\n\n"
OURS = {"x-scheduler-request-id", "x-request-id", "x-scheduler-priority"}
DISPATCHED = {"x-scheduler-node", "x-scheduler-queue-ms", "x-scheduler-attempts"}

Pairs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def node() -> Iterator[ScriptedNode]:
    with ScriptedNode() as node:
        yield node


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet, node: ScriptedNode) -> Fleet:
    fleet = start_fleet()
    fleet.server.register("gpu-01", node.address, ["scripted"])
    return fleet


@pytest.fixture
def server(module_fleet: Fleet) -> Iterator[RunningServer]:
    yield module_fleet.server
    module_fleet.settle()


@pytest.fixture(autouse=True)
def plain_answer(node: ScriptedNode) -> None:
    node.answer = [answer("Content-Type: application/json")]


def answer(*lines: str, body: bytes = b"{}") -> bytes:
    """An answer of a node, raw."""
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, f"Content-Length: {len(body)}", "", ""]).encode("utf-8") + body


def ask(
    server: RunningServer, *lines: str, body: bytes = BODY, path: str = "/v1/chat/completions"
) -> tuple[int, Pairs]:
    """Send a request with these headers: status and headers of its answer, each line by itself, names in lower case."""
    opening = [f"POST {path} HTTP/1.1", "Host: caller.example", f"Content-Length: {len(body)}", *lines, "", ""]
    with Wire(server.port) as wire:
        wire.send("\r\n".join(opening).encode("utf-8") + body)
        status, *headers = wire.until(b"\r\n\r\n").decode("latin-1").strip().split("\r\n")
    pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in headers)]
    return int(status.split()[1]), pairs


def one(pairs: Pairs, name: str) -> str:
    """The value of a header that is there once."""
    (value,) = [value for key, value in pairs if key == name]
    return value


# -- on the way to the node -------------------------------------------------------------------

PASSING = [
    "Content-Type: application/json; charset=utf-8",
    "Accept: text/event-stream",
    "Accept-Encoding: gzip;q=0.5, identity",
    "User-Agent: a client/1.0 (it's me)",
    "OpenAI-Organization: org-1",
    "X-Stainless-Lang: python",
    "anthropic-version: 2023-06-01",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate: vendor=value",
    "X-Custom: one, two",
    "X-Umlaut: größe 谈话",
]


@pytest.mark.parametrize("line", PASSING)
def test_a_header_of_the_caller_passes(server: RunningServer, node: ScriptedNode, line: str) -> None:
    assert ask(server, line)[0] == 200

    name, _, value = line.partition(": ")
    assert node.header(name) == [value.encode().decode("latin-1")]


NOT_PASSING = [
    "Connection: keep-alive",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Trailer: X-Sum",
    "Upgrade: websocket",
    "Proxy-Authorization: Basic eDp5",
    "Proxy-Authenticate: Basic",
    "Cookie: session=caller",
    "Forwarded: for=10.0.0.1",
    "Via: 1.1 proxy",
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: internal",
    "X-Real-Ip: 10.0.0.1",
    "Authorization: Bearer caller",
    "X-Api-Key: caller",
    "X-Priority: high",
    "X-Queue-Timeout: 5",
    "X-Scheduler-Node: gpu-99",
]


@pytest.mark.parametrize("line", NOT_PASSING)
def test_a_header_that_is_not_the_nodes_business_stays_behind(
    server: RunningServer, node: ScriptedNode, line: str
) -> None:
    assert ask(server, line)[0] == 200

    assert node.header(line.partition(":")[0]) == []


def test_what_connection_names_stays_behind(server: RunningServer, node: ScriptedNode) -> None:
    status, _ = ask(server, "Connection: close, X-Hop , x-other", "X-Hop: 1", "X-Other: 2", "X-End: 3")

    assert status == 200
    assert (node.header("x-hop"), node.header("x-other"), node.header("x-end")) == ([], [], ["3"])


def test_the_node_is_called_by_its_own_name(server: RunningServer, node: ScriptedNode) -> None:
    ask(server)

    assert node.header("host") == [node.address.removeprefix("http://")]


def test_a_header_with_an_underscore_is_not_taken_for_one_with_a_dash(
    server: RunningServer, node: ScriptedNode
) -> None:
    status, pairs = ask(server, "X_Priority: critical", "X_Request_Id: forged")

    if status == 200:
        assert one(pairs, "x-scheduler-priority") == "normal"
        assert node.header("x-request-id") == [one(pairs, "x-scheduler-request-id")]
    else:
        assert status == 400


# -- the ids of a request ---------------------------------------------------------------------


@pytest.mark.parametrize("theirs", ["a", "Trace.1:2_3-4", "0" * 128])
def test_the_callers_id_is_echoed_passed_on_and_recorded(
    server: RunningServer, node: ScriptedNode, theirs: str
) -> None:
    _, pairs = ask(server, f"X-Request-Id: {theirs}")

    assert one(pairs, "x-request-id") == theirs
    assert node.header("x-request-id") == [theirs]
    record = server.record(one(pairs, "x-scheduler-request-id"))
    assert (record["client_request_id"], record["id"]) == (theirs, one(pairs, "x-scheduler-request-id"))


@pytest.mark.parametrize("theirs", ["", "with blank", "0" * 129, "ümlaut", "a/b", "a,b", '"a"', "<script>"])
def test_an_id_of_other_letters_is_replaced_by_ours(server: RunningServer, node: ScriptedNode, theirs: str) -> None:
    _, pairs = ask(server, f"X-Request-Id: {theirs}")

    ours = one(pairs, "x-scheduler-request-id")
    assert one(pairs, "x-request-id") == ours
    assert node.header("x-request-id") == [ours]
    assert server.record(ours)["client_request_id"] is None


def test_two_ids_are_none_of_ours(server: RunningServer, node: ScriptedNode) -> None:
    status, pairs = ask(server, "X-Request-Id: a", "X-Request-Id: b")

    assert status == 200
    assert one(pairs, "x-request-id") == one(pairs, "x-scheduler-request-id")


def test_the_same_id_of_a_caller_makes_two_records(server: RunningServer) -> None:
    ids = {one(ask(server, "X-Request-Id: twice")[1], "x-scheduler-request-id") for _ in range(2)}

    assert len(ids) == 2
    for request_id in ids:
        server.record(request_id)
    assert {record["id"] for record in server.get("/requests?q=twice")["requests"]} == ids


def test_our_ids_are_unique_and_may_stand_in_a_url(server: RunningServer) -> None:
    ids = [one(ask(server)[1], "x-scheduler-request-id") for _ in range(20)]

    assert len(set(ids)) == 20
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", request_id) for request_id in ids)
    assert server.record(ids[-1])["id"] == ids[-1]


# -- on the way back --------------------------------------------------------------------------

PASSING_BACK = [
    "Content-Type: application/problem+json",
    "Content-Encoding: br",
    "Content-Disposition: attachment; filename=a.wav",
    "Retry-After: 7",
    "X-Engine: vllm",
    "x-ratelimit-remaining-tokens: 5",
    "openai-processing-ms: 12",
    "ETag: W/1",
    "Cache-Control: max-age=60",
    "Vary: Accept-Encoding",
]


@pytest.mark.parametrize("line", PASSING_BACK)
def test_a_header_of_the_node_passes(server: RunningServer, node: ScriptedNode, line: str) -> None:
    node.answer = [answer(line)]

    _, pairs = ask(server)

    name, _, value = line.partition(": ")
    assert one(pairs, name.lower()) == value


NOT_PASSING_BACK = [
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Proxy-Authenticate: Basic",
    "Proxy-Authentication-Info: x",
    "Trailer: X-Sum",
    "TE: trailers",
    "Upgrade: h2c",
    "Set-Cookie: session=node",
    "Set-Cookie2: session=node",
    "Via: 1.1 inner",
    "Forwarded: for=10.0.0.9",
    "X-Forwarded-For: 10.0.0.9",
    "X-Real-Ip: 10.0.0.9",
]


@pytest.mark.parametrize("line", NOT_PASSING_BACK)
def test_a_header_of_the_node_that_is_not_the_callers_business_stays_behind(
    server: RunningServer, node: ScriptedNode, line: str
) -> None:
    node.answer = [answer(line, "X-End: 1")]

    status, pairs = ask(server)

    assert status == 200
    assert line.partition(":")[0].lower() not in dict(pairs)
    assert one(pairs, "x-end") == "1"


def test_a_header_of_the_node_beyond_ascii_passes(server: RunningServer, node: ScriptedNode) -> None:
    node.answer = [answer("X-Engine: größe 谈话")]

    assert one(ask(server)[1], "x-engine").encode("latin-1").decode() == "größe 谈话"


def test_what_the_nodes_connection_names_stays_behind(server: RunningServer, node: ScriptedNode) -> None:
    node.answer = [answer("Connection: X-Hop", "Connection: close, x-other", "X-Hop: 1", "X-Other: 2", "X-End: 3")]

    _, pairs = ask(server)

    assert {"x-hop", "x-other", "x-end"} & set(dict(pairs)) == {"x-end"}


def test_a_node_cannot_speak_for_the_scheduler(server: RunningServer, node: ScriptedNode) -> None:
    node.answer = [answer("X-Scheduler-Node: forged", "X-Scheduler-Extra: forged", "X-Request-Id: forged")]

    _, pairs = ask(server)

    assert "forged" not in dict(pairs).values()
    assert one(pairs, "x-scheduler-node") == "gpu-01"


def test_headers_with_several_lines_keep_them(server: RunningServer, node: ScriptedNode) -> None:
    node.answer = [answer("Link: </a>", "X-Between: 1", "Link: </b>")]

    _, pairs = ask(server)

    assert [value for name, value in pairs if name == "link"] == ["</a>", "</b>"]


def test_server_and_date_are_told_once(server: RunningServer, node: ScriptedNode) -> None:
    node.answer = [answer("Server: uvicorn", "Date: Thu, 01 Jan 1970 00:00:00 GMT")]

    _, pairs = ask(server)

    counted = Counter(name for name, _ in pairs)
    assert (counted["date"], counted["content-length"], counted["connection"]) == (1, 1, 1)
    assert counted["server"] <= 1
    assert "1970" not in one(pairs, "date")
    assert "uvicorn" not in str(pairs)


def test_no_header_is_told_twice(server: RunningServer, node: ScriptedNode) -> None:
    cases = {
        "an answer": ([answer("Content-Type: application/json")], 200, OURS | DISPATCHED),
        "a stream": ([answer("Content-Type: text/event-stream", "Cache-Control: x", body=STREAM)], 200, OURS),
        "an error of ours": ([b"nonsense"], 502, OURS | DISPATCHED),
    }
    for name, (said, status, expected) in cases.items():
        node.answer = said
        got, pairs = ask(server)
        assert got == status, name
        assert max(Counter(key for key, _ in pairs).values()) == 1, name
        assert expected <= set(dict(pairs)), name


# -- ours -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/chat/completions", BODY, OURS | DISPATCHED),
        ("/v1/chat/completions", b'{"model":"unknown"}', OURS),
        ("/v1/chat/completions", b"no json", OURS),
        ("/rerank", BODY, OURS | DISPATCHED),
    ],
    ids=["an answer", "a refusal", "a bad body", "an engine's own path"],
)
def test_every_answer_tells_the_ids_and_the_priority(
    server: RunningServer, path: str, body: bytes, expected: set[str]
) -> None:
    _, pairs = ask(server, "X-Priority: high", path=path, body=body)

    told = {name for name, _ in pairs if name in OURS | DISPATCHED}
    assert told == expected
    assert one(pairs, "x-scheduler-priority") == "high"


@pytest.mark.parametrize("of_the_node", [[], ["Cache-Control: max-age=60, public", "X-Accel-Buffering: yes"]])
def test_a_stream_is_neither_cached_nor_buffered(
    server: RunningServer, node: ScriptedNode, of_the_node: list[str]
) -> None:
    node.answer = [answer("Content-Type: text/event-stream; charset=utf-8", *of_the_node, body=STREAM)]

    _, pairs = ask(server)

    assert one(pairs, "content-type") == "text/event-stream; charset=utf-8"
    assert one(pairs, "cache-control") == "no-cache"
    assert one(pairs, "x-accel-buffering") == "no"


def test_an_answer_that_is_no_stream_says_nothing_of_buffers(server: RunningServer) -> None:
    _, pairs = ask(server)

    assert {"x-accel-buffering", "cache-control"} & set(dict(pairs)) == set()


def test_no_answer_invites_pages_of_other_origins(server: RunningServer) -> None:
    _, pairs = ask(server, "Origin: http://elsewhere.example")

    assert not [name for name, _ in pairs if name.startswith("access-control-")]
    response = server.http.options(
        f"{server.url}/admin/nodes",
        headers={"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"},
        timeout=10,
    )
    assert not [name for name in response.headers if name.lower().startswith("access-control-")]
