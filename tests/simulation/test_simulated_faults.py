"""Each fault, as its bytes look on the wire."""

import re
import zlib
from pathlib import Path

import pytest

import scheduler.simulation
from scheduler.simulation.faults import KINDS
from tests.simulation.wire import CHAT, Wire

TWO_EVENTS = rb'data: \{.*"role".*\}\n\ndata: \{.*"t0 ".*\}\n\n'


def is_refused(node):
    try:
        Wire(node.port).leave()
    except ConnectionRefusedError:
        return True
    return False


def test_the_readme_lists_every_kind():
    readme = Path(scheduler.simulation.__file__).with_name("README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in readme.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(KINDS)


# -- which requests are hit -----------------------------------------------------------------------


def test_a_fault_hits_so_many_requests_and_then_no_more(node, wire):
    node.fault("status", times=2)
    assert [wire.post().answer().status for _ in range(3)] == [503, 503, 200]
    assert node.faults()[0]["hits"] == 2


def test_faults_of_one_kind_hit_one_after_the_other(node, wire):
    node.fault("status", status=500, times=1)
    node.fault("status", status=502, times=1)
    assert [wire.post().answer().status for _ in range(3)] == [500, 502, 200]


@pytest.mark.parametrize("chosen", [{"path": "/v1/completions"}, {"model": "other"}, {"match": "needle"}])
def test_a_fault_hits_only_what_its_filter_fits(node, wire, chosen):
    node.fault("status", **chosen)
    assert wire.post().answer().status == 200
    hit = wire.post("/v1/completions", model="other", prompt="hay needle hay").answer()
    assert hit.status == 503


def test_probes_are_hit_only_where_the_path_names_them(node, wire):
    node.fault("status", status=500)
    assert wire.get("/health").answer().status == 200
    node.fault("status", status=500, path="/health")
    assert wire.get("/health").answer().status == 500


def test_cleared_faults_hit_nobody(node, wire):
    node.fault("status")
    node.clear_faults()
    assert wire.post().answer().status == 200


# -- no connection --------------------------------------------------------------------------------


def test_refuse_closes_the_port_until_the_faults_are_cleared(node, wire):
    assert wire.post().answer().status == 200
    node.fault("refuse")
    assert is_refused(node)
    assert wire.post().answer().status == 200  # connections that exist go on
    node.clear_faults()
    assert not is_refused(node)


def test_refusing_may_cut_the_connections_that_exist(node, connect):
    idle, busy = connect(), connect()
    node.close_gate()
    busy.post()
    node.wait(connections_open=2, running=1)
    node.refuse(reset_connections=True)
    for wire in (idle, busy):
        with pytest.raises(ConnectionResetError):
            wire.rest()
    assert node.arrivals()[0]["outcome"] == "broken"
    node.accept()
    node.open_gate()
    assert connect().post().answer().status == 200


# -- reset, close, hang in every phase ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("phase", ["head", "headers", "body", "stream"])
def test_the_connection_is_ended_in_every_phase(node, connect, kind, phase):
    node.fault(kind, phase=phase, times=1)
    wire = connect()
    if phase == "head":
        wire.send(Wire.encoded()[:-1])  # the body is not there yet
    else:
        wire.post(stream=True)
    found = b""
    if phase in ("body", "stream"):
        found = wire.until(b"\r\n\r\n")
    if phase == "stream":
        assert b'"role"' in wire.chunk()
    if kind == "reset":
        with pytest.raises(ConnectionResetError):
            wire.rest()
    else:
        assert wire.rest() == b""
    assert found.startswith(b"HTTP/1.1 200" if phase in ("body", "stream") else b"")
    stats = node.wait(running=0, connections_open=0)
    assert stats["broken"] == stats["arrived"] == (phase in ("headers", "body", "stream"))
    assert connect().post().answer().status == 200


def test_the_connection_is_ended_as_soon_as_it_is_accepted(node, connect):
    node.fault("reset", phase="accept", times=1)
    with pytest.raises(ConnectionResetError):
        connect().rest()  # it may even be the connecting that fails
    node.fault("close", phase="accept", times=1)
    assert connect().rest() == b""
    assert node.stats()["arrived"] == 0
    assert connect().post().answer().status == 200


def test_a_stream_can_be_cut_within_an_event(node, wire):
    node.fault("close", phase="stream", after_chunks=2, partial_bytes=9)
    wire.post(stream=True)
    wire.head()
    assert wire.chunk() + wire.chunk()
    assert wire.chunk() == b'data: {"i'
    assert wire.rest() == b""


def test_a_json_answer_can_be_cut_in_its_middle(node, wire):
    node.fault("close", phase="stream")
    wire.post()
    _, headers = wire.head()
    assert 0 < len(wire.rest()) < int(headers["content-length"])


@pytest.mark.parametrize("phase", ["accept", "head", "headers", "body", "stream"])
def test_a_node_can_go_silent_in_every_phase(node, connect, phase):
    node.fault("hang", phase=phase)
    wire = connect()
    if phase == "head":
        wire.send(Wire.encoded()[:-1])
    else:
        wire.post(stream=True)
    if phase in ("body", "stream"):
        assert wire.head()[0] == 200
    if phase == "stream":
        wire.chunk()
    assert wire.is_silent(0.05)
    wire.leave()
    stats = node.wait(running=0, connections_open=0, timeout_s=1)
    assert stats["aborted"] == (phase in ("headers", "body", "stream"))


def test_the_silence_may_have_an_end(node, wire):
    node.fault("hang", phase="stream", ms=20)
    assert wire.post(stream=True).answer().body.endswith(b"[DONE]\n\n")


# -- other answers --------------------------------------------------------------------------------


def test_status_answers_as_a_failing_engine(node, wire):
    node.fault("status", status=429, headers={"Retry-After": 7}, message="busy")
    answer = wire.post().answer()
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert answer.json["error"] == {"message": "busy", "type": "TooManyRequestsError", "param": None, "code": 429}
    assert "x-sim-body-sha256" in answer.headers


@pytest.mark.parametrize(("body", "expected"), [("<p>no</p>", b"<p>no</p>"), ({"a": 1}, b'{"a":1}'), ("", b"")])
def test_status_may_bring_any_body(node, wire, body, expected):
    node.fault("status", status=500, body=body)
    assert wire.post().answer().body == expected


def test_redirect_points_elsewhere(node, wire):
    node.fault("redirect", location="http://10.0.0.1/")
    answer = wire.post().answer()
    assert (answer.status, answer.headers["location"]) == (307, "http://10.0.0.1/")


def test_early_status_answers_before_the_body_is_read(node, wire):
    node.fault("early_status", linger_ms=60_000)
    wire.send(b"POST /v1/x HTTP/1.1\r\nHost: n\r\nContent-Length: 1000000\r\n\r\nhalf")
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert wire.rest() == b""
    assert node.stats()["arrived"] == 0


def test_interim_answers_come_before_the_final_one(node, wire):
    node.fault("interim", statuses=[103, 100, 102])
    wire.post()
    assert [wire.head()[0] for _ in range(3)] == [103, 100, 102]
    assert wire.answer().status == 200


def test_set_cookie_sends_a_cookie(node, wire):
    node.fault("set_cookie", value="a=b")
    assert wire.post().answer().headers["set-cookie"] == "a=b"


def test_slow_probes_are_slow_and_nothing_else_is(node, connect):
    node.fault("slow_probe", ms=60_000)
    for path in ("/health", "/v1/models"):
        assert connect().get(path).is_silent(0.03)
    assert connect().post().answer().status == 200


def test_probe_status_fails_probes_and_nothing_else(node, wire):
    node.fault("probe_status", status=500, path="/v1/models")
    assert wire.get("/v1/models").answer().status == 500
    assert wire.get("/health").answer().status == 200
    assert wire.post().answer().status == 200


# -- unusable answers -----------------------------------------------------------------------------


def test_garbage_is_no_http(node, connect):
    node.fault("garbage", times=1)
    assert connect().post().rest().startswith(b"\x16\x03\x01")
    node.fault("garbage", data="SSH-2.0\r\n", hold=True)
    held = connect().post()
    assert held.until(b"\r\n") == b"SSH-2.0\r\n"
    assert held.is_silent(0.03)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("control_char", rb"\r\nx-bad: a\x01b\r\n"),
        ("bare_cr", rb"\r\nx-bad: a\rb\r\n"),
        ("cl_and_te", rb"\r\ntransfer-encoding: chunked\r\n(.*\r\n)*content-length: \d+\r\n"),
        ("many", rb"(x-many-\d+: \d+\r\n){200}"),
        ("huge", rb"\r\nx-huge: h{100000}\r\n"),
        ("duplicate_length", rb"\r\ncontent-length: (\d+)\r\ncontent-length: (?!\1\r)\d+\r\n"),
        ("negative_length", rb"\r\ncontent-length: -1\r\n"),
        ("te_unknown", rb"\r\ntransfer-encoding: gzip\r\n"),
        ("no_colon", rb"\r\nthis line has no colon\r\n"),
        ("obs_fold", rb"\r\nx-folded: a\r\n b\r\n"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_headers_are_sent_as_they_should_not_be(node, wire, variant, expected, stream):
    node.fault("bad_headers", variant=variant)
    head = wire.post(stream=stream).until(b"\r\n\r\n")
    assert re.search(expected, head)
    assert len(re.findall(b"content-length|transfer-encoding", head)) == (
        2 if variant in ("cl_and_te", "duplicate_length") else 1
    )


@pytest.mark.parametrize("stream", [False, True])
def test_short_body_ends_before_its_length(node, wire, stream):
    node.fault("short_body", missing=7)
    wire.post(stream=stream)
    _, headers = wire.head()
    assert len(wire.rest()) == int(headers["content-length"]) - 7
    assert node.wait(running=0)["broken"] == 1


def test_bad_chunk_spoils_a_stream_in_its_middle(node, wire):
    node.fault("bad_chunk", after_chunks=2, size="-5")
    wire.post(stream=True)
    wire.head()
    assert re.fullmatch(TWO_EVENTS, wire.chunk() + wire.chunk())
    assert wire.rest() == b"-5\r\nnonsense\r\n"


# -- unusual answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [True, False])
def test_eof_framed_answers_end_with_their_connection(node, wire, done):
    node.fault("eof_framed", done=done)
    answer = wire.post(stream=True).answer()
    assert not {"content-length", "transfer-encoding"} & set(answer.headers)
    assert answer.headers["connection"] == "close"
    assert answer.body.endswith(b"[DONE]\n\n") is done
    assert node.wait(running=0)["served"] == 1


def test_no_done_ends_a_stream_properly_without_its_last_event(node, wire):
    node.fault("no_done")
    assert b"[DONE]" not in wire.post(stream=True).answer().body
    assert wire.post().answer().status == 200


def test_inject_puts_bytes_into_a_stream(node, wire):
    node.fault("inject", after_chunks=2, data=": comment\n\n")
    wire.post(stream=True)
    wire.head()
    assert wire.chunks()[2] == b": comment\n\n"


@pytest.mark.parametrize("part", ["head", "body"])
def test_drip_sends_bytes_one_at_a_time(node, wire, part):
    node.fault("drip", part=part, ms=1, bytes=2)
    assert wire.post().answer().json["object"] == "chat.completion"
    (arrival,) = node.arrivals()
    assert arrival["ended_ms"] - arrival["at_ms"] >= 50


def test_compressed_answers_are_gzip(node, wire):
    node.fault("compressed")
    whole = wire.post().answer()
    assert whole.headers["content-encoding"] == "gzip"
    assert b'"t0 t1 t2 "' in zlib.decompress(whole.body, wbits=31)
    wire.post(stream=True)
    wire.head()
    unpacker = zlib.decompressobj(wbits=31)
    events = [unpacker.decompress(chunk) for chunk in wire.chunks()]
    assert events[0].startswith(b"data: ")
    assert b"".join(events).endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ms", [0, 20])
def test_extra_bytes_follow_the_end_of_an_answer(node, wire, stream, ms):
    node.fault("extra_bytes", data="HTTP/1.1 200 OK\r\n\r\nforged", ms=ms)
    assert wire.post(stream=stream).answer().status == 200
    assert wire.until(b"forged") == b"HTTP/1.1 200 OK\r\n\r\nforged"


def test_close_after_ends_an_idle_connection_without_a_word(node, wire):
    node.fault("close_after", ms=20)
    answer = wire.post().answer()
    assert "connection" not in answer.headers
    assert wire.rest() == b""
    assert node.stats()["served"] == 1


def test_faults_of_different_kinds_hit_together(node, wire):
    node.fault("interim")
    node.fault("set_cookie")
    node.fault("close", phase="stream")
    wire.post(CHAT, stream=True)
    assert wire.head()[0] == 103
    assert "set-cookie" in wire.head()[1]
    assert wire.chunk()
    assert wire.rest() == b""
