"""The examiner: which step an address fails at, which engines it knows, and that nothing can hold it."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from scheduler.adapters.engine_kind import recognise
from scheduler.adapters.node_examiner import MAX_BODY, HttpNodeExaminer
from scheduler.gateway.ports import NodeFindings, NodeTarget
from tests.support.sim_node import SimNode

Pages = dict[str, tuple[int, Any]]

MODELS = {"data": [{"id": "qwen", "owned_by": "somebody"}]}


def examine(address: str, key: str | None = None, timeout_s: float = 10, ca_file: str | None = None) -> NodeFindings:
    return HttpNodeExaminer("/health", timeout_s, time.monotonic, ca_file).examine(NodeTarget("", address, key))


def steps(found: NodeFindings) -> dict[str, bool]:
    return {step.name: step.is_ok for step in found.steps}


def message(found: NodeFindings, name: str) -> str:
    return next(step.message for step in found.steps if step.name == name)


@contextmanager
def serving(pages: Pages, tls: ssl.SSLContext | None = None) -> Iterator[Any]:
    """An HTTP server with these pages: path -> status and JSON, or bytes. Its `seen` has the headers of each call."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.seen.append((self.path, dict(self.headers)))
            status, page = pages.get(self.path, (404, {"detail": "Not Found"}))
            body = page if isinstance(page, bytes) else json.dumps(page).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that leaves, or speaks no TLS

    with Server(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.address = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# -- engines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "name", "version", "limit", "noted"),
    [
        ("vllm", "vllm", "0.11.0", None, "--max-num-seqs"),
        ("sglang", "sglang", "0.5.4", 6, None),
        ("llama.cpp", "llama.cpp", None, 6, None),
        ("plain", "unknown", None, None, "not known"),
    ],
)
def test_each_engine_is_known_by_its_pages(engine, name, version, limit, noted):
    with SimNode(engine=engine, models=["qwen", "bge"], slots=6) as node:
        found = examine(node.address)
    assert steps(found) == dict.fromkeys(("dns", "tcp", "health", "models", "engine"), True)
    assert all(step.duration_ms >= 0 for step in found.steps)
    assert (found.engine, found.engine_version, found.max_concurrent) == (name, version, limit)
    assert found.models == ("qwen", "bge")
    assert found.notes == () if noted is None else noted in found.notes[0]


def test_only_the_pages_that_are_needed_are_asked_for():
    asked: list[str] = []

    def ask(path: str) -> Any:
        asked.append(path)
        return {"version": "0.11.0"}

    assert recognise(["vllm"], ask).version == "0.11.0"
    assert asked == ["/version"]


@pytest.mark.parametrize(
    ("pages", "limit"),
    [
        ({"/get_server_info": {"max_running_requests": 32}}, 32),
        ({"/server_info": {"max_running_requests": 32}}, 32),
        ({"/get_server_info": {"max_running_requests": None}}, None),
        (
            {
                "/get_server_info": {
                    "max_running_requests": None,
                    "internal_states": [{"effective_max_running_requests_per_dp": 24}] * 2,
                }
            },
            48,
        ),
        ({"/get_server_info": {"max_running_requests": None, "internal_states": [{}, 7]}}, None),
        ({"/get_model_info": {"model_path": "qwen", "is_generation": True}}, None),
    ],
)
def test_sglang_tells_its_limit_where_it_has_one(pages, limit):
    kind = recognise(["owner"], pages.get)
    assert (kind.name, kind.max_concurrent) == ("sglang", limit)
    assert (kind.note is None) == (limit is not None)


@pytest.mark.parametrize("page", [None, [], "x", {"total_slots": True}, {"total_slots": 0}, {"total_slots": "8"}])
def test_pages_that_say_nothing_usable_propose_nothing(page):
    assert not recognise([], lambda path: page).is_known
    assert recognise(["llamacpp"], lambda path: page).max_concurrent is None


def test_a_version_that_is_none_is_not_shown():
    assert recognise(["vllm"], lambda path: {"version": "\x1b[31m1.0"}).version is None


# -- keys -------------------------------------------------------------------------------------


def test_the_key_is_shown_and_a_wrong_one_is_told():
    with SimNode(api_key="sk-node") as node:
        assert steps(examine(node.address, "sk-node"))["models"]
        without, wrong = examine(node.address), examine(node.address, "sk-guess")
    assert message(without, "models") == "/v1/models answers 401: the node wants a key"
    assert message(wrong, "models") == "/v1/models answers 401: the node does not accept this key"
    assert not steps(wrong)["models"]


def test_a_key_that_only_the_engines_own_page_refuses_is_noted():
    models = {"data": [{"id": "qwen", "owned_by": "llamacpp"}]}
    with serving({"/health": (200, {}), "/v1/models": (200, models), "/props": (401, {})}) as node:
        found = examine(node.address, "sk-guess")
    assert (found.engine, found.max_concurrent) == ("llama.cpp", None)
    assert "/props was refused: the node does not accept this key." in found.notes


def test_nothing_of_the_environment_is_used(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving({"/health": (200, {}), "/v1/models": (200, MODELS)}) as node:
        assert steps(examine(node.address))["models"]
        assert all("Authorization" not in headers for _, headers in node.seen)
        examine(node.address, "sk-node")
        assert node.seen[-1][1]["Authorization"] == "Bearer sk-node"


# -- steps that fail --------------------------------------------------------------------------


def test_a_closed_port_fails_at_tcp_and_ends_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = examine(f"http://127.0.0.1:{port}")
    assert steps(found) == {"dns": True, "tcp": False}
    assert message(found, "tcp") == f"port {port}: 127.0.0.1: connection refused"


def test_a_name_that_leads_nowhere_fails_at_dns():
    found = examine("http://nobody.invalid:8000")
    assert steps(found) == {"dns": False}
    assert "nobody.invalid was not found" in message(found, "dns")


def test_a_name_that_leads_to_a_refused_address_is_never_connected_to(monkeypatch):
    rows = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr("scheduler.adapters.address_book.socket.getaddrinfo", lambda *arguments: rows)
    found = examine("http://metadata.example")
    assert steps(found) == {"dns": False}
    assert "no address that may be used" in message(found, "dns")


def test_the_second_address_of_a_name_is_tried(monkeypatch):
    with SimNode() as node:
        dead = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", node.port))]
        real = socket.getaddrinfo("127.0.0.1", node.port, type=socket.SOCK_STREAM)
        monkeypatch.setattr("scheduler.adapters.address_book.socket.getaddrinfo", lambda *arguments: dead + real)
        found = examine(f"http://two.example:{node.port}")
    assert all(steps(found).values())
    assert message(found, "dns") == "127.0.0.2, 127.0.0.1"


@pytest.mark.parametrize(
    ("pages", "failed", "said"),
    [
        ({"/health": (503, {}), "/v1/models": (200, MODELS)}, "health", "503: the engine may still be loading"),
        ({"/health": (307, {}), "/v1/models": (200, MODELS)}, "health", "a redirect"),
        ({"/health": (403, {}), "/v1/models": (200, MODELS)}, "health", "wants a key"),
        ({"/health": (200, {}), "/v1/models": (500, {})}, "models", "answers 500"),
        ({"/health": (200, {}), "/v1/models": (302, {})}, "models", "a redirect"),
        ({"/health": (200, {}), "/v1/models": (200, b"<html>")}, "models", "no list of models"),
        ({"/health": (200, {}), "/v1/models": (200, {"data": "x"})}, "models", "no list of models"),
        ({}, "models", "answers 404"),
    ],
)
def test_what_is_wrong_is_said_and_the_other_steps_go_on(pages, failed, said):
    with serving(pages) as node:
        found = examine(node.address)
        assert "/elsewhere" not in [path for path, _ in node.seen]
    assert [name for name, is_ok in steps(found).items() if not is_ok] == [failed]
    assert said in message(found, failed)
    assert "engine" in steps(found)


def test_an_engine_without_a_health_page_or_without_a_list_of_models_will_do():
    with serving({"/v1/models": (200, MODELS)}) as node:
        assert all(steps(examine(node.address)).values())
    with serving({"/health": (200, {})}) as node:
        found = examine(node.address)
    assert all(steps(found).values())
    assert (found.models, found.notes[0]) == ((), "The engine lists no models: name them yourself.")


def test_a_prefix_of_the_address_stands_before_every_path():
    pages = {"/engine-1/health": (200, {}), "/engine-1/v1/models": (200, MODELS)}
    with serving(pages) as node:
        assert examine(node.address + "/engine-1").models == ("qwen",)


def test_entries_that_are_no_models_are_left_out():
    listed = {"data": [{"id": "qwen"}, {"id": 7}, "x", None, {"id": "qwen"}]}
    with serving({"/health": (200, {}), "/v1/models": (200, listed)}) as node:
        assert examine(node.address).models == ("qwen",)


# -- nodes that hold, flood or talk something else --------------------------------------------


@contextmanager
def speaking(handle: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A listener whose connections get `handle`, until the block ends."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                handle(connection, over)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"]
)
def test_a_node_that_drips_is_given_up_in_total(head):
    def drip(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(0.02):
            connection.sendall(b"a")

    with speaking(drip) as place:
        began = time.monotonic()
        found = examine(f"http://{place}", timeout_s=0.3)
        assert time.monotonic() - began < 3
    assert steps(found) == {"dns": True, "tcp": True, "health": False}
    assert "no end within 0.3 s" in message(found, "health")


def test_only_the_beginning_of_a_long_answer_is_read():
    def flood(connection: socket.socket, over: threading.Event) -> None:
        length = 200 * MAX_BODY
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
        connection.sendall(b"a" * length)  # cannot be buffered on the way: ends when the examiner closes

    with speaking(flood) as place:
        found = examine(f"http://{place}")
    assert steps(found)["health"]
    assert not steps(found)["models"]


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_what_is_no_http_ends_the_examination(said):
    with speaking(lambda connection, over: connection.sendall(said)) as place:
        found = examine(f"http://{place}")
    assert steps(found)["tcp"]
    assert not all(steps(found).values())


# -- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=node -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", "key", "-out", "crt"], cwd=folder, check=True, capture_output=True)
    (folder / "node.pem").write_text((folder / "key").read_text() + (folder / "crt").read_text())
    return folder / "node.pem"


def test_a_certificate_must_be_accepted(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving({"/health": (200, {}), "/v1/models": (200, MODELS)}, context) as node:
        strange = examine(node.address)
        known = examine(node.address, ca_file=str(certificate))
        plain = examine(node.address.replace("https:", "http:"))
    assert steps(strange) == {"dns": True, "tcp": True, "tls": False}
    assert "not accepted: self-signed certificate; see scheduler.node_ca_file" in message(strange, "tls")
    assert all(steps(known).values())
    assert message(known, "tls").startswith("TLSv1.3")
    assert not steps(plain)["health"]


def test_a_port_without_tls_and_a_file_that_is_none_are_told():
    refusal = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    with speaking(lambda connection, over: connection.sendall(refusal)) as place:
        found = examine(f"https://{place}")
        unreadable = examine(f"https://{place}", ca_file="/nowhere/ca.pem")
    assert "does this port speak TLS?" in message(found, "tls")
    assert "/nowhere/ca.pem cannot be used: no such file" in message(unreadable, "tls")
