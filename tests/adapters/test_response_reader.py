"""The response reader: the same answer however its bytes are cut, its end known with its last byte."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from scheduler.adapters.response_reader import MAX_HEAD_BYTES, MAX_HEADERS, BadResponse, ResponseReader


@dataclass(frozen=True)
class Answer:
    """Bytes on the wire, and what they mean."""

    wire: bytes
    body: bytes
    status: int = 200
    is_keep_alive: bool = True
    is_framed: bool = True


COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
FANCY_CHUNKS = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
    b"05;ext=1\r\nhello\r\n6;a=b\r\n world\r\n000\r\nX-Trailer: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"

ANSWERS = {
    "content-length": Answer(COUNTED, b"hello world"),
    "chunked": Answer(CHUNKED, b"hello world"),
    "chunked with extensions and a trailer": Answer(FANCY_CHUNKS, b"hello world"),
    "an empty body": Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "no content": Answer(b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", b"", 204),
    "interim answers first": Answer(INTERIM + COUNTED, b"hello world"),
    "interim answers before chunks": Answer(INTERIM + CHUNKED, b"hello world"),
    "close": Answer(
        b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbad!", b"bad!", 500, is_keep_alive=False
    ),
    "an old node": Answer(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", is_keep_alive=False),
}


def _after(*pieces: bytes) -> ResponseReader:
    reader = ResponseReader()
    for piece in filter(None, pieces):
        reader.feed(piece)
    return reader


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_cut_at_any_byte_gives_the_same_answer(answer: Answer) -> None:
    for cut in range(1, len(answer.wire)):
        reader = _after(answer.wire[:cut])
        assert not reader.is_finished, f"finished at byte {cut} of {len(answer.wire)}"
        early = reader.take()
        reader.feed(answer.wire[cut:])
        assert (reader.status, early + reader.take()) == (answer.status, answer.body)
        assert (reader.is_finished, reader.is_keep_alive) == (True, answer.is_keep_alive)
        assert reader.is_framed
        assert not reader.has_surplus


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_byte_by_byte_is_no_different(answer: Answer) -> None:
    reader, body = ResponseReader(), b""
    for at in range(len(answer.wire)):
        assert not reader.is_finished
        reader.feed(answer.wire[at : at + 1])
        body += reader.take()
    assert (reader.status, body, reader.is_finished) == (answer.status, answer.body, True)


def test_without_framing_only_the_end_of_the_connection_ends_the_body() -> None:
    reader = _after(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello")
    assert (reader.is_head_complete, reader.is_framed, reader.is_keep_alive) == (True, False, False)
    reader.feed(b" world")
    assert (reader.take(), reader.is_finished) == (b"hello world", False)


def test_headers_keep_their_order_case_and_bytes() -> None:
    reader = _after(b"HTTP/1.1 200 OK\r\nX-B: \xe4\r\nx-a: 1\r\nX-B:  two words \r\nContent-Length: 0\r\n\r\n")
    assert reader.headers == [("X-B", "ä"), ("x-a", "1"), ("X-B", "two words"), ("Content-Length", "0")]


def test_headers_of_interim_answers_and_trailers_are_not_those_of_the_answer() -> None:
    reader = _after(INTERIM + FANCY_CHUNKS)
    assert reader.headers == [("transfer-encoding", "Chunked")]


@pytest.mark.parametrize("surplus", [b"x", COUNTED, b"\x00\x01", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("wire", [COUNTED, CHUNKED], ids=["content-length", "chunked"])
def test_bytes_beyond_the_end_are_noted_and_change_nothing(wire: bytes, surplus: bytes) -> None:
    reader = _after(wire + surplus)
    assert (reader.is_finished, reader.has_surplus) == (True, True)
    assert (reader.status, reader.take(), len(reader.headers)) == (200, b"hello world", 1)


BAD = {
    "no HTTP": b"\x16\x03\x01 this is not HTTP\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "a switch without headers": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "a control character": b"HTTP/1.1 200 OK\r\nX-Bad: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "a bare CR": b"HTTP/1.1 200 OK\r\nX-Bad: a\rb\r\nContent-Length: 0\r\n\r\n",
    "a zero byte": b"HTTP/1.1 200 OK\r\nX-Bad: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "a line without a colon": b"HTTP/1.1 200 OK\r\nthis line has none\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings the other way": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "a hexadecimal length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "an empty length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
    "an endless length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
    "a second coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two codings in two lines": CHUNKED.replace(b"Transfer", b"Transfer-Encoding: gzip\r\nTransfer", 1),
    "a chunk size that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nXYZ\r\nnonsense\r\n",
    "a negative chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "an endless chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
    "a chunk longer than its size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * (MAX_HEADERS + 1) + b"Content-Length: 0\r\n\r\n",
    "a huge header": b"HTTP/1.1 200 OK\r\nX-Huge: " + b"h" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
    "headers too large together": b"HTTP/1.1 200 OK\r\n"
    + (b"X-Large: " + b"h" * 8000 + b"\r\n") * 9
    + b"Content-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("wire", BAD.values(), ids=BAD)
def test_a_bad_answer_is_refused_wherever_it_is_cut(wire: bytes) -> None:
    step = max(1, len(wire) // 150)
    for cut in range(0, len(wire), step):
        with pytest.raises(BadResponse):
            _after(wire[:cut], wire[cut:])


@pytest.mark.parametrize("endless", [b"X-More: 1\r\n", b"X", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_head_without_end_is_refused_within_its_bound(endless: bytes) -> None:
    begin = b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
    with pytest.raises(BadResponse):
        _after(begin, *[endless] * (2 * MAX_HEAD_BYTES // len(endless)))


def test_a_head_of_the_largest_size_passes() -> None:
    value = b"h" * (MAX_HEAD_BYTES - 200)
    reader = _after(b"HTTP/1.1 200 OK\r\nX-Large: " + value + b"\r\nContent-Length: 0\r\n\r\n")
    assert (reader.is_finished, len(reader.headers)) == (True, 2)


def test_a_large_body_in_the_same_read_as_the_head_is_no_large_head() -> None:
    size = 4 * MAX_HEAD_BYTES
    reader = _after(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    assert (reader.is_finished, len(reader.take())) == (True, size)


def test_the_reason_for_a_refusal_quotes_nothing_of_the_answer() -> None:
    with pytest.raises(BadResponse) as caught:
        _after(b"HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n")
    assert "secret" not in str(caught.value)
