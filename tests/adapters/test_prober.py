"""The prober: what it asks, what it makes of the answers, and that nothing can hold it."""

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import requests
import responses

from scheduler.adapters.prober import MAX_BODY, HttpProber
from scheduler.gateway.ports import NodeTarget, ProbeResult

NODE = NodeTarget("gpu-1", "http://10.0.0.1:8000/engine")
WITH_KEY = NodeTarget("gpu-1", "http://10.0.0.1:8000/engine", "sk-node")
HEALTH = "http://10.0.0.1:8000/engine/health"
MODELS = "http://10.0.0.1:8000/engine/v1/models"


@pytest.fixture
def node() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def prober() -> HttpProber:
    return HttpProber("/health", timeout_s=5.0)


# -- shapes -----------------------------------------------------------------------------------


def test_a_node_that_answers_2xx_is_up(node, prober):
    node.get(HEALTH, status=204)
    assert prober.probe(NODE) == ProbeResult(True)


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "HTTP 503"), (302, "HTTP 302"), (401, "auth"), (403, "auth"), (400, "HTTP 400")]
)
def test_any_other_status_is_the_reason(node, prober, status, reason):
    node.get(HEALTH, status=status, headers={"Location": "http://elsewhere/"})
    assert prober.probe(NODE) == ProbeResult(False, reason)


def test_without_the_health_path_the_models_are_asked(node, prober):
    node.get(HEALTH, status=404)
    node.get(MODELS, json={"data": [{"id": "qwen"}, {"id": "llama"}]})
    assert prober.probe(NODE) == ProbeResult(True, models=("qwen", "llama"))


@pytest.mark.parametrize(("status", "reason"), [(404, "HTTP 404"), (500, "HTTP 500"), (401, "auth")])
def test_without_both_it_is_down(node, prober, status, reason):
    node.get(HEALTH, status=404)
    node.get(MODELS, status=status)
    assert prober.probe(NODE) == ProbeResult(False, reason)


def test_a_list_that_is_none_counts_all_the_same(node, prober):
    node.get(HEALTH, status=404)
    node.get(MODELS, body="<html>")
    assert prober.probe(NODE) == ProbeResult(True)


def test_the_nodes_key_is_shown_and_nothing_of_the_environment(node, prober, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    node.get(HEALTH)
    prober.probe(WITH_KEY)
    assert node.calls[0].request.headers["Authorization"] == "Bearer sk-node"
    node.get(HEALTH)
    prober.probe(NODE)
    assert "Authorization" not in node.calls[-1].request.headers


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, ProbeResult(True, models=("qwen",))),
        (404, ProbeResult(True)),  # no list: nothing the key could be shown to
        (401, ProbeResult(False, "auth")),
        (403, ProbeResult(False, "auth")),
        (500, ProbeResult(False, "HTTP 500")),
    ],
)
def test_a_key_that_was_refused_must_be_accepted_by_the_models(node, prober, status, result):
    node.get(HEALTH)
    node.get(MODELS, status=status, json={"data": [{"id": "qwen"}]})
    assert prober.probe(WITH_KEY, check_key=True) == result


def test_a_good_answer_is_followed_by_the_list_of_models(node, prober):
    node.get(HEALTH)
    node.get(MODELS, json={"data": [{"id": "qwen"}, {"id": "qwen-lora"}]})
    assert prober.probe(NODE) == ProbeResult(True, models=("qwen", "qwen-lora"))


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 401, "json": {"data": [{"id": "qwen"}]}},
        {"status": 404},
        {"status": 500},
        {"body": "<html>"},
        {"json": {"data": 7}},
        {"body": requests.ConnectionError(ConnectionResetError(104, "reset"))},
        {"body": requests.ReadTimeout()},
    ],
)
def test_a_missing_or_odd_list_is_no_failure(node, prober, answer):
    node.get(HEALTH)
    node.get(MODELS, **answer)
    assert prober.probe(NODE) == ProbeResult(True)


def test_an_engine_that_loads_its_model_says_so(node, prober):
    node.get(HEALTH, status=503, json={"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
    assert prober.probe(NODE) == ProbeResult(False, "loading")


def test_an_ill_node_is_not_asked_for_its_models(node, prober):
    node.get(HEALTH, status=503)
    assert prober.probe(WITH_KEY, check_key=True) == ProbeResult(False, "HTTP 503")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.ConnectTimeout(), "timeout"),
        (requests.ReadTimeout(), "timeout"),
        (requests.ConnectionError(ConnectionRefusedError(111, "refused")), "connection refused"),
        (requests.ConnectionError(ConnectionResetError(104, "reset")), "connection reset"),
        (requests.ConnectionError(OSError(113, "no route")), "no route to host"),
        (requests.ConnectionError(socket.gaierror(-2, "unknown")), "DNS: name not found"),
        (requests.exceptions.SSLError(ssl.SSLError(1, "wrong version")), "TLS: handshake failed"),
        (requests.ConnectionError("odd"), "no usable HTTP answer"),
    ],
)
def test_reasons_are_short(node, prober, error, reason):
    node.get(HEALTH, body=error)
    assert prober.probe(NODE) == ProbeResult(False, reason)


# -- real sockets -----------------------------------------------------------------------------


class Listener:
    """A server whose connections are handled by `handle(connection)`, each in a thread, until the test ends."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.is_over = threading.Event()
        self.seen_eof = threading.Event()
        self._handle = handle
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                connection.recv(65536)
                self._handle(connection)
                if connection.recv(1) == b"":
                    self.seen_eof.set()
            except OSError:
                self.seen_eof.set()

    def close(self) -> None:
        self.is_over.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in [self._accepting, *self._threads]:
            thread.join(15)


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], Listener]]:
    listeners: list[Listener] = []

    def start(handle: Callable[[socket.socket], None]) -> Listener:
        listeners.append(Listener(handle))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


def drip(listener: list[Listener], head: bytes) -> Callable[[socket.socket], None]:
    """A byte every 50 ms, for ever."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(head)
        while not listener[0].is_over.wait(0.05):
            connection.sendall(b"a")

    return handle


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"]
)
def test_a_node_that_drips_is_timed_out_in_total(listen, head):
    holder: list[Listener] = []
    holder.append(listen(drip(holder, head)))
    result = probe_patched(holder[0].address, 0.5)
    assert (result["is_up"], result["reason"]) == (False, "timeout")
    assert 0.4 < result["elapsed_s"] < 3
    assert holder[0].seen_eof.wait(5)  # its connection is closed


def test_a_list_that_never_comes_is_waited_for_within_the_same_deadline(listen):
    holder: list[Listener] = []
    asked = []

    def handle(connection: socket.socket) -> None:
        asked.append(1)
        if len(asked) == 1:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            holder[0].is_over.wait(10)

    holder.append(listen(handle))
    result = probe_patched(holder[0].address, 0.5)
    assert (result["is_up"], result["reason"], len(asked)) == (True, None, 2)
    assert 0.4 < result["elapsed_s"] < 3


def test_a_silent_node_is_timed_out(listen):
    server = listen(lambda connection: None)
    assert HttpProber("/health", 0.2).probe(NodeTarget("a", server.address)).reason == "timeout"


def test_the_connection_is_closed_after_a_good_answer_too(listen):
    server = listen(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    assert HttpProber("/health", 5).probe(NodeTarget("a", server.address)).is_up
    assert server.seen_eof.wait(5)


def test_only_the_beginning_of_a_long_answer_is_read(listen):
    length = MAX_BODY * 400

    def handle(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
        connection.sendall(b"a" * length)  # cannot be buffered on the way: ends when the prober closes

    server = listen(handle)
    assert HttpProber("/health", 5).probe(NodeTarget("a", server.address)).is_up
    assert server.seen_eof.wait(5)


def test_what_is_no_http_is_said_so(listen):
    server = listen(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9\r\n\r\n"))
    assert HttpProber("/health", 5).probe(NodeTarget("a", server.address)).reason == "no usable HTTP answer"


def test_a_closed_port_refuses():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = HttpProber("/health", 5).probe(NodeTarget("a", f"http://127.0.0.1:{port}"))
    assert result == ProbeResult(False, "connection refused")


def test_plain_http_behind_https_is_a_matter_of_tls(listen):
    server = listen(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    address = server.address.replace("http:", "https:")
    reason = HttpProber("/health", 5).probe(NodeTarget("a", address)).reason
    assert reason is not None
    assert reason.startswith("TLS: ")


def test_a_missing_authority_file_is_a_reason_and_no_error():
    prober = HttpProber("/health", 5, ca_file="/nowhere/ca.pem")
    assert prober.probe(NodeTarget("a", "https://127.0.0.1:1")).reason == "TLS: scheduler.node_ca_file cannot be read"


def probe_patched(address: str, timeout_s: float) -> dict:
    """A probe in a process where gevent has patched the sockets: only there does the total deadline hold."""
    command = [sys.executable, "-m", "tests.support.probe_once", address, str(timeout_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)
