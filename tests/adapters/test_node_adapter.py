"""The transport to the nodes, against real sockets: what it sends, how it reads, when it lets go."""

from __future__ import annotations

import contextlib
import gc
import os
import socket as socket_names
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent import ssl as gevent_ssl
from gevent.event import Event
from gevent.pool import Group

from scheduler.adapters import connection_pool
from scheduler.adapters.address_book import AddressBook, Origin
from scheduler.adapters.forwarder import HttpDelivery, HttpForwarder, HttpUpstream
from scheduler.errors import (
    ClientGone,
    NodeClosed,
    NodeError,
    NodeProtocolError,
    NodeUnreachable,
    ReplyBroken,
    SchedulerError,
)
from scheduler.gateway.ports import NodeTarget
from tests.support.sim_node import SimNode

PATIENCE_S = 5.0

COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
UNFRAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello world"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


class Visit:
    """One connection to a scripted node, as the script sees it."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._buffer = b""

    def read_call(self) -> tuple[bytes, bytes]:
        """Head and body of the next call."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(self._buffer) < length:
            self._buffer += self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return head, body

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def reset(self) -> None:
        """End it with RST."""
        self._sock.setsockopt(socket_names.SOL_SOCKET, socket_names.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def until_peer_leaves(self) -> None:
        with contextlib.suppress(OSError):
            while self._sock.recv(65536):
                pass

    def _receive(self) -> bytes:
        data: bytes = self._sock.recv(65536)
        if not data:
            raise EOFError
        return data


Script = Callable[[Visit], None]


class ScriptedNode:
    """A listening socket; the n-th connection follows the n-th script, those beyond the last one. Then it is closed."""

    def __init__(self, *scripts: Script, host: str = "127.0.0.1", tls: Any = None) -> None:
        family = socket_names.AF_INET6 if ":" in host else socket_names.AF_INET
        self._sock = socket.socket(family, socket_names.SOCK_STREAM)
        self._sock.bind((host, 0))
        self._sock.listen(16)
        self._scripts = scripts
        self._tls = tls
        self._greenlets = Group()
        self.port: int = self._sock.getsockname()[1]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.visits = 0
        self.open = 0
        self._greenlets.spawn(self._accept)

    def __enter__(self) -> ScriptedNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._greenlets.kill()
        self._sock.close()

    def _accept(self) -> None:
        while True:
            sock, _ = self._sock.accept()
            script = self._scripts[min(self.visits, len(self._scripts) - 1)]
            self.visits += 1
            self._greenlets.spawn(self._serve, sock, script)

    def _serve(self, sock: Any, script: Script) -> None:
        self.open += 1
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                sock.do_handshake()
            script(Visit(sock))
        except (EOFError, OSError):
            pass
        finally:
            self.open -= 1
            sock.close()


def answer(*pieces: bytes, keep_open: bool = False) -> Script:
    """Read the call, then send the pieces one by one, each seen by itself; then close."""

    def script(visit: Visit) -> None:
        visit.read_call()
        for piece in pieces:
            visit.send(piece)
            gevent.sleep(0.002)
        if keep_open:
            visit.until_peer_leaves()

    return script


def serve_calls(visit: Visit) -> None:
    """A node that keeps its connections."""
    while True:
        visit.read_call()
        visit.send(COUNTED)


class Desk:
    """A forwarder with a clock that only moves when told."""

    def __init__(self, ca_file: str | None = None) -> None:
        self.now = 1000.0
        self.book = AddressBook()
        self.forwarder = HttpForwarder(self.book, lambda: self.now, ca_file)

    @property
    def idle(self) -> int:
        return len(self.forwarder._adapter.pool)

    def prepare(self, address: str, body: bytes = b"{}", **headers: str) -> HttpDelivery:
        sent = {"Content-Type": "application/json", **headers}
        return self.forwarder.prepare(NodeTarget("gpu-1", address), "/v1/chat/completions", "", sent, body)

    def call(self, address: str, body: bytes = b"{}") -> tuple[int, bytes]:
        """One call to its end; status and body."""
        delivery = self.prepare(address, body)
        try:
            with gevent.Timeout(PATIENCE_S):
                upstream = delivery.send()
                return upstream.status, read_all(upstream)
        finally:
            delivery.close()


def read_all(upstream: HttpUpstream) -> bytes:
    body = b""
    while piece := upstream.read():
        body += piece
    return body


def what_it_raises(work: Callable[[], object]) -> SchedulerError | None:
    """For another greenlet: one that raises would print its traceback."""
    try:
        work()
    except SchedulerError as error:
        return error
    return None


def wait_until(check: Callable[[], bool]) -> None:
    with gevent.Timeout(PATIENCE_S):
        while not check():
            gevent.sleep(0.002)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _greenlets() -> int:
    gc.collect()
    return sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in gc.get_objects())


def _held() -> tuple[int, int, int]:
    return gevent.get_hub().loop.activecnt, _greenlets(), _descriptors()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.forwarder.close()


@pytest.fixture(scope="module", autouse=True)
def only_what_is_new() -> Iterator[None]:
    """What is there already need not be looked through for greenlets after each test."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """No watcher, greenlet or descriptor may outlive its test."""
    socket.getaddrinfo("127.0.0.1", 1)  # the resolver's threads come to stay
    gevent.sleep(0)
    before = _held()
    yield
    deadline = time.monotonic() + PATIENCE_S
    while (now := _held()) != before and time.monotonic() < deadline:
        gevent.sleep(0.01)
    assert now == before, "watchers, greenlets, descriptors"


# -- what is sent -----------------------------------------------------------------------------


def test_the_call_goes_out_byte_for_byte(desk: Desk) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def script(visit: Visit) -> None:
        seen.append(visit.read_call())
        visit.send(COUNTED)

    body = bytes(range(256)) * 3
    with ScriptedNode(script) as node:
        target = NodeTarget("gpu-1", node.address + "/prefix", "sk-node")
        headers = {"Content-Type": "application/json", "X-Request-Id": "r-1", "Accept-Encoding": "gzip"}
        delivery = desk.forwarder.prepare(target, "/v1/a%20b", "x=1&y=%2F", headers, body)
        assert not delivery.is_connected
        assert read_all(delivery.send()) == b"hello world"
        assert (delivery.is_connected, delivery.is_written) == (True, True)
        delivery.close()
    head, sent = seen[0]
    assert sent == body
    assert head.decode().split("\r\n") == [
        "POST /prefix/v1/a%20b?x=1&y=%2F HTTP/1.1",
        f"Host: 127.0.0.1:{node.port}",
        "Content-Type: application/json",
        "X-Request-Id: r-1",
        "Accept-Encoding: gzip",
        "Authorization: Bearer sk-node",
        f"Content-Length: {len(body)}",
    ]


def test_a_large_call_arrives_whole(desk: Desk) -> None:
    with SimNode(slots=1) as node:
        body = b'{"model": "sim", "pad": "' + b"x" * 9_000_000 + b'"}'
        assert desk.call(node.address, body)[0] == 200
        assert node.arrivals()[0]["bytes"] == len(body)


# -- how it is read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [COUNTED, CHUNKED, UNFRAMED, INTERIM + COUNTED, INTERIM + CHUNKED],
    ids=["content-length", "chunked", "unframed", "interim", "interim, chunked"],
)
def test_a_cut_at_any_byte_gives_the_same_body(desk: Desk, wire: bytes) -> None:
    for cut in range(1, len(wire)):
        with ScriptedNode(answer(wire[:cut], wire[cut:])) as node:
            assert desk.call(node.address) == (200, b"hello world"), f"cut at {cut}"


@pytest.mark.parametrize("wire", [COUNTED, CHUNKED], ids=["content-length", "chunked"])
def test_the_end_is_known_with_the_last_byte(desk: Desk, wire: bytes) -> None:
    for cut in range(1, len(wire)):
        with ScriptedNode(answer(wire[:cut], wire[cut:], keep_open=True)) as node:
            delivery = desk.prepare(node.address)
            upstream = delivery.send()
            with gevent.Timeout(PATIENCE_S):
                # The node keeps the connection: a reader that asked it once more would wait for ever.
                while not upstream.is_finished:
                    upstream.read()
            delivery.close()
            desk.forwarder.forget(node.address)


def test_a_call_that_is_being_answered_is_held_no_longer(desk: Desk) -> None:
    with ScriptedNode(answer(CHUNKED[:60], CHUNKED[60:])) as node:
        delivery = desk.prepare(node.address, b"a" * 100_000)
        with contextlib.closing(delivery):
            upstream = delivery.send()
            assert len(delivery._request.body or b"") == 0
            assert read_all(upstream) == b"hello world"


def test_what_has_arrived_is_handed_out_at_once(desk: Desk) -> None:
    go_on = Event()

    def script(visit: Visit) -> None:
        visit.read_call()
        visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for letter in (b"a", b"b"):
            visit.send(b"1\r\n" + letter + b"\r\n")
            go_on.wait()
            go_on.clear()
        visit.send(b"0\r\n\r\n")

    with ScriptedNode(script) as node, gevent.Timeout(PATIENCE_S):
        delivery = desk.prepare(node.address)
        upstream = delivery.send()
        for letter in (b"a", b"b"):
            assert upstream.read() == letter
            assert not upstream.is_finished
            go_on.set()
        assert (upstream.read(), upstream.is_finished) == (b"", True)
        delivery.close()


def test_many_chunks_that_have_arrived_are_one_piece(desk: Desk) -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n"
    with ScriptedNode(answer(wire)) as node, gevent.Timeout(PATIENCE_S):
        delivery = desk.prepare(node.address)
        upstream = delivery.send()
        assert (upstream.read(), upstream.is_finished) == (b"x" * 100, True)
        delivery.close()


def test_a_body_is_never_decoded(desk: Desk) -> None:
    wire = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip"
    with ScriptedNode(answer(wire)) as node:
        assert desk.call(node.address) == (200, b"not gzip")


def test_redirects_are_not_followed_and_cookies_not_kept(desk: Desk) -> None:
    heads: list[bytes] = []

    def script(visit: Visit) -> None:
        while True:
            heads.append(visit.read_call()[0])
            visit.send(b"HTTP/1.1 307 Go\r\nLocation: /x\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    with ScriptedNode(script) as node:
        assert [desk.call(node.address), desk.call(node.address)] == [(307, b"")] * 2
    assert len(heads) == 2
    assert b"ookie" not in heads[1]


@pytest.mark.parametrize(
    "wire",
    [
        b"\x16\x03\x01 no HTTP\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x01b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Huge: " + b"h" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nXYZ\r\n",
    ],
)
def test_no_usable_answer_is_an_error_of_the_protocol(desk: Desk, wire: bytes) -> None:
    with ScriptedNode(answer(wire, keep_open=True)) as node, pytest.raises(NodeProtocolError):
        desk.call(node.address)
    assert desk.idle == 0


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", NodeClosed),
        (b"HTTP/1.1 200 OK\r\nContent-Le", NodeClosed),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", NodeClosed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", NodeClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", NodeClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", NodeClosed),
        (COUNTED[:-1], ReplyBroken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", ReplyBroken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ReplyBroken),
        (CHUNKED[:-2], ReplyBroken),
    ],
)
def test_an_answer_cut_short_is_told_from_a_whole_one(
    desk: Desk, sent: bytes, error: type[NodeError], end: str
) -> None:
    def script(visit: Visit) -> None:
        visit.read_call()
        visit.send(sent)
        gevent.sleep(0.01)  # RST would take what has not been read yet
        if end == "reset":
            visit.reset()

    with ScriptedNode(script) as node, pytest.raises(error):
        desk.call(node.address)
    assert desk.idle == 0


def test_a_malformed_chunk_in_the_middle_breaks_the_reply(desk: Desk) -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with ScriptedNode(answer(wire, b"XYZ\r\n", keep_open=True)) as node, pytest.raises(ReplyBroken):
        desk.call(node.address)


def test_a_reply_without_framing_ends_with_its_connection_but_not_with_a_reset(desk: Desk) -> None:
    with ScriptedNode(answer(UNFRAMED)) as node:
        delivery = desk.prepare(node.address)
        upstream = delivery.send()
        assert (upstream.read(), upstream.is_finished, upstream.is_framed) == (b"hello world", False, False)
        assert (upstream.read(), upstream.is_finished) == (b"", True)
        delivery.close()

    def script(visit: Visit) -> None:
        visit.read_call()
        visit.send(UNFRAMED)
        gevent.sleep(0.01)
        visit.reset()

    with ScriptedNode(script) as node, pytest.raises(ReplyBroken):
        desk.call(node.address)


def test_a_broken_reply_that_is_read_on_stays_broken(desk: Desk) -> None:
    with ScriptedNode(answer(COUNTED[:-1])) as node:
        delivery = desk.prepare(node.address)
        upstream = delivery.send()
        upstream.read()
        for _ in range(2):
            with pytest.raises(ReplyBroken):
                upstream.read()
        delivery.close()


# -- abort ------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """The address of a listener that takes no more connections: a SYN is dropped, as by a firewall."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket_names.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket_names.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _does_not_read(visit: Visit) -> None:
    gevent.sleep(PATIENCE_S)


def _silent(visit: Visit) -> None:
    visit.read_call()
    visit.until_peer_leaves()


HEAD_ONLY = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", keep_open=True)
HALF = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", keep_open=True)


@contextlib.contextmanager
def node_that_stops(phase: str, tls: Any = None) -> Iterator[str]:
    """An address where a call gets so far and no further."""
    if phase == "connecting":
        with full_backlog() as address:
            yield address
        return
    script = {
        "handshake": _does_not_read,
        "writing": _does_not_read,
        "waiting for headers": _silent,
        "waiting for the first byte": HEAD_ONLY,
        "in the body": HALF,
    }[phase]
    with ScriptedNode(script, tls=None if phase == "handshake" else tls) as node:
        yield node.address


PHASES = ["connecting", "writing", "waiting for headers", "waiting for the first byte", "in the body"]


def _abort_takes_s(desk: Desk, phase: str, address: str) -> float:
    """Abort a call in that phase, and check all but the time: how long it took to get the error."""
    error = ClientGone("it left")
    delivery = desk.prepare(address, b"x" * (30_000_000 if phase == "writing" else 2))

    def work() -> None:
        upstream = delivery.send()
        while upstream.read():
            pass

    worker = gevent.spawn(what_it_raises, work)
    gevent.sleep(0.05)
    assert not worker.ready(), f"the call did not stop while {phase}: {worker.value!r}"
    began = time.monotonic()
    delivery.abort(error)
    delivery.abort(ClientGone("again"))  # the first error stays
    with gevent.Timeout(PATIENCE_S):
        raised = worker.get()
    took_s = time.monotonic() - began
    assert raised is error
    delivery.close()
    delivery.close()
    assert desk.idle == 0
    return took_s


@pytest.mark.parametrize("phase", PHASES)
def test_an_abort_ends_a_call_at_once_in_every_phase(desk: Desk, phase: str) -> None:
    with node_that_stops(phase) as address:
        times = [_abort_takes_s(desk, phase, address) for _ in range(3)]
    # The best of three: the machine may be busy with other things.
    assert min(times) < 0.05


def test_an_abort_in_the_hub_does_not_block(desk: Desk) -> None:
    with ScriptedNode(_silent) as node:
        delivery = desk.prepare(node.address)
        worker = gevent.spawn(what_it_raises, delivery.send)
        gevent.sleep(0.02)
        gevent.get_hub().loop.run_callback(delivery.abort, ClientGone("it left"))
        assert isinstance(worker.get(timeout=PATIENCE_S), ClientGone)


def test_a_call_that_was_aborted_before_it_began_connects_to_nobody(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        delivery = desk.prepare(node.address)
        delivery.abort(ClientGone("it left"))
        with pytest.raises(ClientGone):
            delivery.send()
        gevent.sleep(0.01)
        assert node.visits == 0


def test_a_pooled_connection_is_not_used_by_an_aborted_call(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        desk.call(node.address)
        delivery = desk.prepare(node.address)
        delivery.abort(ClientGone("it left"))
        with pytest.raises(ClientGone):
            delivery.send()
        delivery.close()
        assert desk.call(node.address) == (200, b"hello world")


def test_a_late_abort_does_not_touch_the_next_call_on_the_connection(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        first = desk.prepare(node.address)
        read_all(first.send())
        first.close()
        second = desk.prepare(node.address)
        upstream = second.send()
        first.abort(ClientGone("it left"))
        assert read_all(upstream) == b"hello world"
        second.close()
        assert node.visits == 1


def test_a_reply_closed_in_its_middle_closes_its_connection(desk: Desk) -> None:
    with ScriptedNode(HALF) as node:
        delivery = desk.prepare(node.address)
        upstream = delivery.send()
        assert upstream.read() == b"hello"
        delivery.close()
        wait_until(lambda: node.open == 0)
        assert desk.idle == 0
        with pytest.raises(ReplyBroken):
            upstream.read()


# -- keep-alive -------------------------------------------------------------------------------


def test_a_connection_is_used_again(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        for _ in range(5):
            assert desk.call(node.address) == (200, b"hello world")
            assert desk.idle == 1
        assert node.visits == 1


def test_a_connection_is_used_again_only_within_two_seconds(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        desk.call(node.address)
        desk.now += 1.9
        desk.call(node.address)
        assert node.visits == 1
        desk.now += 2.1
        desk.call(node.address)
        assert node.visits == 2
        wait_until(lambda: node.open == 1)


@pytest.mark.parametrize(
    "wire",
    [
        COUNTED + b"x",
        COUNTED + COUNTED,
        CHUNKED + b"HTTP/1.1 200 OK\r\n",
        COUNTED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1),
        b"HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    ],
)
def test_a_connection_that_did_not_end_exactly_is_not_used_again(desk: Desk, wire: bytes) -> None:
    with ScriptedNode(answer(wire, keep_open=True)) as node:
        assert desk.call(node.address) == (200, b"hello world")
        assert desk.idle == 0
        wait_until(lambda: node.open == 0)


@pytest.mark.parametrize("late", [b"x", COUNTED])
def test_a_connection_with_unasked_bytes_is_not_used_again(desk: Desk, late: bytes) -> None:
    with ScriptedNode(answer(COUNTED, late, keep_open=True), serve_calls) as node:
        desk.call(node.address)
        gevent.sleep(0.02)
        assert desk.idle == 1
        assert desk.call(node.address) == (200, b"hello world")
        assert node.visits == 2


def test_a_connection_that_the_node_has_closed_is_not_used_again(desk: Desk) -> None:
    with ScriptedNode(answer(COUNTED), serve_calls) as node:
        desk.call(node.address)
        wait_until(lambda: node.open == 0)
        assert desk.call(node.address) == (200, b"hello world")
        assert node.visits == 2


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_reused_connection_that_dies_without_a_byte_is_replaced_by_a_fresh_one(desk: Desk, end: str) -> None:
    calls: list[bytes] = []

    def dies(visit: Visit) -> None:
        visit.read_call()
        visit.send(COUNTED)
        calls.append(visit.read_call()[1])
        if end == "reset":
            visit.reset()

    def serves(visit: Visit) -> None:
        calls.append(visit.read_call()[1])
        visit.send(COUNTED)

    with ScriptedNode(dies, serves) as node:
        desk.call(node.address)
        assert desk.call(node.address, b'{"n": 2}') == (200, b"hello world")
        assert (node.visits, calls) == (2, [b'{"n": 2}'] * 2)


def test_a_fresh_connection_that_dies_is_not_replaced(desk: Desk) -> None:
    with ScriptedNode(answer()) as node:
        with pytest.raises(NodeClosed):
            desk.call(node.address)
        assert node.visits == 1


def test_the_connection_that_replaces_a_dead_one_is_not_replaced_again(desk: Desk) -> None:
    def dies(visit: Visit) -> None:
        visit.read_call()
        visit.send(COUNTED)
        visit.read_call()

    with ScriptedNode(dies, answer(), serve_calls) as node:
        desk.call(node.address)
        with pytest.raises(NodeClosed):
            desk.call(node.address)
        assert node.visits == 2


def test_a_reused_connection_that_dies_after_a_byte_of_the_answer_is_not_replaced(desk: Desk) -> None:
    def dies(visit: Visit) -> None:
        visit.read_call()
        visit.send(COUNTED)
        visit.read_call()
        visit.send(b"H")
        gevent.sleep(0.01)

    with ScriptedNode(dies, serve_calls) as node:
        desk.call(node.address)
        with pytest.raises(NodeClosed):
            desk.call(node.address)
        assert node.visits == 1


def test_an_abort_on_a_reused_connection_sends_the_call_nowhere_else(desk: Desk) -> None:
    def then_silent(visit: Visit) -> None:
        visit.read_call()
        visit.send(COUNTED)
        visit.until_peer_leaves()

    with ScriptedNode(then_silent, serve_calls) as node:
        desk.call(node.address)
        delivery = desk.prepare(node.address)
        worker = gevent.spawn(what_it_raises, delivery.send)
        gevent.sleep(0.02)
        delivery.abort(ClientGone("it left"))
        assert isinstance(worker.get(timeout=PATIENCE_S), ClientGone)
        assert node.visits == 1


def test_concurrent_calls_have_connections_of_their_own(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        deliveries = [desk.prepare(node.address) for _ in range(3)]
        upstreams = [delivery.send() for delivery in deliveries]
        assert node.visits == 3
        assert [read_all(upstream) for upstream in upstreams] == [b"hello world"] * 3
        for delivery in deliveries:
            delivery.close()
        assert desk.idle == 3


def test_the_sweep_closes_what_has_been_idle_for_too_long(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        desk.call(node.address)
        desk.now += 1.9
        desk.forwarder.sweep()
        assert desk.idle == 1
        desk.now += 0.2
        desk.forwarder.sweep()
        assert desk.idle == 0
        wait_until(lambda: node.open == 0)


def test_a_forgotten_address_keeps_no_connection_and_others_keep_theirs(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as gone, ScriptedNode(serve_calls) as stays:
        desk.call(gone.address)
        desk.call(stays.address)
        desk.forwarder.forget(gone.address)
        assert desk.idle == 1
        wait_until(lambda: (gone.open, stays.open) == (0, 1))
        assert desk.call(gone.address) == (200, b"hello world")


def test_only_so_many_idle_connections_are_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_pool, "MAX_IDLE", 2)
    with ScriptedNode(serve_calls) as node:
        deliveries = [desk.prepare(node.address) for _ in range(4)]
        for delivery in deliveries:
            read_all(delivery.send())
        for delivery in deliveries:
            delivery.close()
        assert desk.idle == 2
        wait_until(lambda: node.open == 2)


# -- early answers ----------------------------------------------------------------------------


def test_an_answer_that_comes_before_the_call_is_written_passes(desk: Desk) -> None:
    def script(visit: Visit) -> None:
        visit.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")

    with ScriptedNode(script) as node:  # closing with unread bytes makes it a reset
        for _ in range(5):
            assert desk.call(node.address, b"x" * 30_000_000) == (413, b"too large")
        assert desk.idle == 0


def test_an_answer_that_comes_before_the_call_is_written_passes_also_without_a_reset(desk: Desk) -> None:
    with SimNode(slots=1) as node:
        node.fault("early_status", status=413, linger_ms=50)
        status, body = desk.call(node.address, b'{"model": "sim", "pad": "' + b"x" * 30_000_000 + b'"}')
        assert status == 413
        assert b"too large" in body


def test_a_node_that_closes_while_the_call_is_written_did_not_get_it(desk: Desk) -> None:
    def script(visit: Visit) -> None:
        gevent.sleep(0.02)
        visit.reset()

    with ScriptedNode(script) as node:
        delivery = desk.prepare(node.address, b"x" * 30_000_000)
        with pytest.raises(NodeUnreachable):
            delivery.send()
        assert not delivery.is_written
        delivery.close()


# -- where it connects ------------------------------------------------------------------------


def test_a_refused_connection_is_a_node_out_of_reach(desk: Desk) -> None:
    with socket_names.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NodeUnreachable, match="refused"):
            desk.call(f"http://127.0.0.1:{taken.getsockname()[1]}")


def test_an_unknown_name_is_a_node_out_of_reach(desk: Desk) -> None:
    with pytest.raises(NodeUnreachable, match=r"does-not-exist\.invalid was not found"):
        desk.call("http://does-not-exist.invalid:8000")


def test_a_name_is_looked_up_once_and_again_when_refreshed(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        origin = desk.book.origin(f"http://localhost:{node.port}")
        rows = desk.book.rows(origin)
        assert desk.book.rows(origin) is rows
        assert desk.book.refresh(origin) is not rows
        assert desk.call(f"http://localhost:{node.port}") == (200, b"hello world")


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254:80",
        "http://[fe80::1]:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://224.0.0.1:80",
        "http://0.0.0.0:80",
        "http://[::]:80",
        "http://2852039166:80",  # 169.254.169.254 as one number
    ],
)
def test_addresses_that_no_node_can_have_are_refused_where_the_name_leads_to_them(desk: Desk, address: str) -> None:
    with pytest.raises(NodeUnreachable):
        desk.book.rows(desk.book.origin(address))


def test_the_next_address_of_a_name_is_tried_where_one_refuses(desk: Desk) -> None:
    with ScriptedNode(serve_calls) as node:
        origin = desk.book.origin(node.address)
        row = desk.book.rows(origin)[0]
        dead = (*row[:4], ("127.0.0.2", node.port))
        desk.book._rows[origin.host, origin.port] = [dead, row]
        assert desk.call(node.address) == (200, b"hello world")


def _has_ipv6() -> bool:
    try:
        with socket_names.socket(socket_names.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_a_node_may_have_an_ipv6_address(desk: Desk) -> None:
    heads: list[bytes] = []

    def script(visit: Visit) -> None:
        heads.append(visit.read_call()[0])
        visit.send(COUNTED)

    with ScriptedNode(script, host="::1") as node:
        assert desk.call(node.address) == (200, b"hello world")
        assert b"Host: [::1]:%d" % node.port in heads[0]


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("http://gpu", Origin(False, "gpu", 80, "", "gpu")),
        ("https://gpu", Origin(True, "gpu", 443, "", "gpu")),
        ("https://GPU:8443/a/b", Origin(True, "gpu", 8443, "/a/b", "gpu:8443")),
        ("http://[::1]:8000", Origin(False, "::1", 8000, "", "[::1]:8000")),
    ],
)
def test_an_address_is_taken_apart(address: str, origin: Origin) -> None:
    assert Origin.parse(address) == origin


# -- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and node.pem + node.key for `localhost`, signed by it."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Our own CA"],
        ["req", *key, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=localhost"],
        [
            *("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", "node.pem", "-days", "2", "-extfile", "extensions"),
        ],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def node_tls(certificates: Path) -> Any:
    context = gevent_ssl.SSLContext(gevent_ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "node.pem", certificates / "node.key")
    return context


@pytest.fixture
def tls_desk(certificates: Path) -> Iterator[Desk]:
    desk = Desk(str(certificates / "ca.pem"))
    yield desk
    desk.forwarder.close()


def test_a_node_behind_a_private_ca_is_trusted_by_its_file_and_keeps_its_connections(
    tls_desk: Desk, node_tls: Any
) -> None:
    with ScriptedNode(serve_calls, tls=node_tls) as node:
        for _ in range(3):
            assert tls_desk.call(f"https://localhost:{node.port}") == (200, b"hello world")
        assert node.visits == 1


def test_large_calls_and_answers_pass_through_tls(tls_desk: Desk, node_tls: Any) -> None:
    size = 3_000_000
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    with ScriptedNode(answer(wire), tls=node_tls) as node:
        assert tls_desk.call(f"https://localhost:{node.port}", b"y" * size) == (200, b"x" * size)


def test_an_idle_tls_connection_that_the_node_has_closed_is_not_used_again(tls_desk: Desk, node_tls: Any) -> None:
    with ScriptedNode(answer(COUNTED), serve_calls, tls=node_tls) as node:
        tls_desk.call(f"https://localhost:{node.port}")
        wait_until(lambda: node.open == 0)
        assert tls_desk.call(f"https://localhost:{node.port}") == (200, b"hello world")
        assert node.visits == 2


@pytest.mark.parametrize(
    ("host", "knows_ca", "reason"),
    [("127.0.0.1", True, "CERTIFICATE_VERIFY_FAILED"), ("localhost", False, "CERTIFICATE_VERIFY_FAILED")],
    ids=["another host name", "an unknown CA"],
)
def test_a_node_that_is_not_who_it_should_be_gets_no_call(
    tls_desk: Desk, desk: Desk, node_tls: Any, host: str, knows_ca: bool, reason: str
) -> None:
    calls: list[bytes] = []
    with ScriptedNode(lambda visit: calls.append(visit.read_call()[1]), tls=node_tls) as node:
        with pytest.raises(NodeUnreachable, match=reason):
            (tls_desk if knows_ca else desk).call(f"https://{host}:{node.port}")
        assert calls == []


def test_a_node_without_tls_is_out_of_reach_by_https(tls_desk: Desk) -> None:
    with (
        ScriptedNode(lambda visit: visit.send(COUNTED)) as node,
        pytest.raises(NodeUnreachable, match="TLS failed"),
    ):
        tls_desk.call(f"https://localhost:{node.port}")


@pytest.mark.parametrize("phase", ["handshake", *PHASES])
def test_an_abort_ends_a_call_at_once_in_every_phase_of_tls(tls_desk: Desk, node_tls: Any, phase: str) -> None:
    with node_that_stops(phase, node_tls) as address:
        secure = address.replace("http://127.0.0.1", "https://localhost")
        times = [_abort_takes_s(tls_desk, phase, secure) for _ in range(3)]
    assert min(times) < 0.05


@pytest.mark.parametrize(("sent", "error"), [(b"", NodeClosed), (COUNTED[:-1], ReplyBroken)])
def test_an_answer_cut_short_is_told_from_a_whole_one_through_tls(
    tls_desk: Desk, node_tls: Any, sent: bytes, error: type[NodeError]
) -> None:
    with ScriptedNode(answer(sent), tls=node_tls) as node, pytest.raises(error):
        tls_desk.call(f"https://localhost:{node.port}")
