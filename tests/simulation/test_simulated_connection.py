"""How a simulated node speaks HTTP/1.1: keep-alive, both framings, and no mercy for malformed requests."""

import pytest

from tests.simulation.wire import CHAT, Wire, sha256


def test_a_connection_serves_many_requests(node, wire):
    for _ in range(3):
        assert wire.post().answer().status == 200
    assert node.stats()["connections_total"] == 1


def test_requests_that_arrive_together_are_answered_in_order(wire):
    wire.send(Wire.encoded(CHAT, max_tokens=1) + Wire.encoded(CHAT, max_tokens=2))
    assert [wire.answer().json["usage"]["completion_tokens"] for _ in range(2)] == [1, 2]


def test_connection_close_is_obeyed(wire):
    answer = wire.post(CHAT, "Connection: close").answer()
    assert answer.headers["connection"] == "close"
    assert wire.rest() == b""


def test_an_old_client_gets_a_stream_without_chunks(wire):
    request = Wire.encoded(CHAT, stream=True).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = wire.send(request).answer()
    assert "transfer-encoding" not in answer.headers
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_a_chunked_body_is_put_together(node, wire):
    wire.send(b"POST /v1/x HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.send(b'4\r\n{"mo\r\n').send(b'd;name=value\r\ndel":"other"}\r\n').send(b"0\r\nTrailer: x\r\n\r\n")
    assert wire.answer().json["sha256"] == sha256(b'{"model":"other"}')
    assert node.arrivals()[0]["model"] == "other"


def test_a_large_body_arrives_whole(wire):
    body = bytes(range(256)) * 4096 * 30
    wire.send(f"POST /v1/x HTTP/1.1\r\nHost: n\r\nContent-Length: {len(body)}\r\n\r\n".encode()).send(body)
    assert wire.answer().json == {"path": "/v1/x", "bytes": len(body), "sha256": sha256(body)}


def test_expect_continue_is_answered(wire):
    wire.send(b"POST /v1/x HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert wire.head()[0] == 100
    assert wire.send(b"{}").answer().status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /health\r\n\r\n",
        b"GET  /health HTTP/1.1\r\nHost: n\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: n\r\nHost: m\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: n\r\nno colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: n\r\nX : y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: n\r\nX: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: n\r\nX: a\r\n folded\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: n\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/x HTTP/1.1\r\nHost: n\r\nContent-Length: +1\r\n\r\na",
        b"POST /v1/x HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"GET /" + b"x" * 70_000,
    ],
)
def test_a_malformed_request_is_refused_and_counted(node, wire, request_bytes):
    wire.send(request_bytes)
    assert wire.head()[0] == 400
    assert node.stats()["bad_requests"] == 1
    assert node.stats()["arrived"] == 0


def test_a_request_whose_sender_leaves_early_is_counted_as_incomplete(node, wire):
    wire.send(Wire.encoded()[:-1]).leave()
    assert node.wait(incomplete=1)["arrived"] == 0


def test_a_thousand_connections_are_served_at_once(node, connect):
    node.close_gate()
    wires = [connect().post(stream=True) for _ in range(1000)]
    stats = node.wait(running=1000)
    assert (stats["peak"], stats["connections_open"]) == (1000, 1000)
    node.open_gate()
    assert all(wire.answer().body.endswith(b"data: [DONE]\n\n") for wire in wires)
    assert node.stats()["served"] == 1000
