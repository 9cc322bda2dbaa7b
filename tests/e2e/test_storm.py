"""The storm: clients that abort, nodes that fall ill, an operator who changes everything and reloads, all at random and
all at once. Afterwards nothing is left behind and every request has one end. `STORM_SEED` repeats what chance decides.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from scheduler.core.outcome import Outcome
from tests.support.raw_client import RawClient
from tests.support.server import PATIENCE_S, RunningServer, eventually
from tests.support.sim_node import SimNode

SHORT_S = float(os.environ.get("STORM_SECONDS", 10))
LONG_S = float(os.environ.get("STORM_SECONDS", 600))
CLIENTS = 28
QUIET_S = 3.0  # before the end no reload, so that the last worker has something behind it
RELOAD_EVERY_S = 5.0

NODES: dict[str, tuple[list[str], int]] = {  # models and slots; 9 slots in all
    "gpu-01": (["chat", "large"], 4),
    "gpu-02": (["chat"], 3),
    "gpu-03": (["large", "embed"], 2),
}
SETTINGS: dict[str, Any] = {
    "server": {"read_timeout": "2s", "write_timeout": "1s"},
    "scheduler": {
        "max_queue_size": 14,
        "queue_timeout": "4s",
        "unavailable_wait": "2s",
        "connect_timeout": "1s",
        "request_timeout": "3s",
        "idle_timeout": "1s",
        "stream_timeout": "6s",
        "health_check_interval": "1s",
        "health_check_timeout": "1s",
        "health_check_rise": 1,
        "slow_start": "1s",
    },
}
FAULTS: list[dict[str, Any]] = [
    {"kind": "close", "phase": "headers"},
    {"kind": "reset", "phase": "headers"},
    {"kind": "close", "phase": "body"},
    {"kind": "close", "phase": "stream", "after_chunks": 2, "partial_bytes": 10},
    {"kind": "reset", "phase": "stream", "after_chunks": 1},
    {"kind": "reset", "phase": "head"},
    {"kind": "hang", "phase": "headers"},
    {"kind": "hang", "phase": "body"},
    {"kind": "hang", "phase": "stream", "after_chunks": 2, "match": '"stream": true'},  # else after its last byte
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 503, "headers": {"retry-after": "0.2"}},
    {"kind": "status", "status": 429, "headers": {"retry-after": "0.1"}},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 401},
    {"kind": "status", "status": 404, "message": "The model does not exist."},
    {"kind": "status", "status": 400},
    {"kind": "redirect"},
    {"kind": "early_status"},
    {"kind": "interim"},
    {"kind": "garbage"},
    {"kind": "bad_headers"},
    {"kind": "short_body"},
    {"kind": "bad_chunk"},
    {"kind": "eof_framed", "match": '"stream": true'},
    {"kind": "eof_framed", "done": False, "match": '"stream": true'},
    {"kind": "drip", "ms": 5, "bytes": 50},
    {"kind": "compressed"},
    {"kind": "extra_bytes"},
    {"kind": "close_after"},
    {"kind": "slow_probe", "ms": 1500},
    {"kind": "probe_status"},
]
WAYS = ["close", "reset", "half-close"]


class Guest(RawClient):
    """A client that looks at the clock while it reads."""

    ended: str | None = None  # how the connection ended: `end` or `reset`

    def read_until_time(self, until: float, pause_s: float = 0.0) -> bool:
        """Read on; True once the answer is whole or the connection has ended, False where it is time to go."""
        while not (self.status and self.is_whole):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            self._sock.settimeout(left_s)
            try:
                data = self._sock.recv(2048 if pause_s else 65536)
            except TimeoutError:
                return False
            except ConnectionResetError:
                data, self.ended = b"", "reset"
            if not data:
                self.ended = self.ended or "end"
                return True
            if self.status:
                self.body += data
            else:
                self._seen += data
                if b"\r\n\r\n" in self._seen:
                    self.read_head()
            if pause_s:
                time.sleep(pause_s)
        return True

    def send_call(self, path: str, body: dict[str, Any], headers: dict[str, str], share: float) -> None:
        """Send a call, or only a share of its body."""
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", f"X-Request-Id: {self.id}"]
        lines += [f"Content-Length: {len(data)}", *(f"{name}: {value}" for name, value in headers.items())]
        self._sock.settimeout(PATIENCE_S)
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data[: int(len(data) * share)])


@dataclass(frozen=True)
class Sight:
    """What a client saw of its request."""

    id: str  # its own
    our_id: str | None
    has_stayed: bool  # to the end
    ended: str | None
    status: int
    is_whole: bool
    headers: dict[str, str]
    text: str | None  # None where it is compressed, or the client did not stay

    @property
    def error_code(self) -> str | None:
        """Of an error in our shape or the engine's."""
        if self.text is None or '"error"' not in self.text:
            return None
        return str(json.loads(self.text[self.text.rindex('{"error"') :])["error"]["code"])


@dataclass
class Storm:
    """Server, nodes, and what has been seen."""

    server: RunningServer
    nodes: dict[str, SimNode]
    seed: int
    ends_at: float
    stop: threading.Event = field(default_factory=threading.Event)
    sights: list[Sight] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    wanted: dict[str, dict[str, Any]] = field(default_factory=dict)  # by node, as an answer has acknowledged it
    over: Counter[str] = field(default_factory=Counter)
    arrived: Counter[str] = field(default_factory=Counter)
    has_keepalive: bool = False

    def pause(self, seconds: float) -> None:
        self.stop.wait(seconds)

    def rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    def admin(self, method: str, path: str, body: Any = None) -> requests.Response:
        """A call over a connection of its own, which no reload may refuse or cut."""
        with requests.Session() as session:
            session.trust_env = False
            response = session.request(method, f"{self.server.url}/admin{path}", json=body, timeout=PATIENCE_S)
        self.operations[f"{method} {response.status_code}"] += 1
        assert response.status_code in (200, 201, 202, 204, 404), f"{method} {path} {body}: {response.text}"
        return response

    # -- clients ----------------------------------------------------------------------------------

    def be_clients(self, name: str) -> None:
        rng = self.rng(name)
        while not self.stop.is_set():
            self._be_client(rng)
            if rng.random() < 0.2:
                self.pause(rng.random() * 0.3)

    def _be_client(self, rng: random.Random) -> None:
        path, body = some_call(rng)
        headers = {"X-Priority": rng.choice(["low", "normal", "high", "critical"])}
        if rng.random() < 0.3:
            headers["X-Queue-Timeout"] = f"{rng.random() * 2:.2f}"
        leaves = rng.random() < 0.45
        is_slow = rng.random() < 0.1
        patience_s = rng.random() ** 2 * 1.5 if leaves else PATIENCE_S
        with Guest(self.server, receive_buffer=4096 if is_slow else None) as guest:
            until = time.monotonic() + patience_s
            try:
                guest.send_call(path, body, headers, rng.random() if leaves and rng.random() < 0.2 else 1.0)
                slow_until = min(until, time.monotonic() + 2.0) if is_slow else 0.0
                has_stayed = guest.read_until_time(slow_until, pause_s=0.02) or guest.read_until_time(until)
                if not has_stayed:
                    guest.leave(rng.choice(WAYS))
            except (ConnectionResetError, BrokenPipeError):
                has_stayed, guest.ended = True, "reset"
            if not leaves:
                assert has_stayed, f"{guest.id} got no answer within {PATIENCE_S} s: {body}"
            self.sights.append(self._sight(guest, has_stayed and not is_slow))

    def _sight(self, guest: Guest, has_stayed: bool) -> Sight:
        is_plain = bool(guest.status) and "content-encoding" not in guest.headers
        return Sight(
            guest.id,
            guest.headers.get("x-scheduler-request-id"),
            has_stayed,
            guest.ended,
            guest.status,
            bool(guest.status) and guest.is_whole,
            guest.headers,
            guest.text if is_plain and has_stayed else None,
        )

    # -- nodes ------------------------------------------------------------------------------------

    def be_node(self, node_id: str) -> None:
        rng, node = self.rng(node_id), self.nodes[node_id]
        while not self.stop.is_set():
            choice = rng.random()
            if choice < 0.12:
                self._note_counts(node_id)
                node.kill()
                self.pause(rng.random())
                node.start()
            elif choice < 0.24:
                node.freeze()
                self.pause(rng.random() * 2)
                node.thaw()
            elif choice < 0.36:
                for _ in range(rng.randrange(1, 4)):  # it flaps
                    node.refuse(reset_connections=rng.random() < 0.5)
                    self.pause(rng.random() * 0.4)
                    node.accept()
                    self.pause(rng.random() * 0.4)
            else:
                for fault in rng.sample(FAULTS, rng.randrange(1, 4)):
                    node.fault(**fault, times=rng.randrange(1, 6))
                self.pause(rng.random())
                node.clear_faults()
            self.pause(rng.random())

    def _note_counts(self, node_id: str) -> None:
        stats = self.nodes[node_id].stats()
        self.over[node_id] += stats["over"]
        self.arrived[node_id] += stats["arrived"]

    # -- the operator -----------------------------------------------------------------------------

    def be_operator(self) -> None:
        rng = self.rng("operator")
        while not self.stop.is_set():
            node_id = rng.choice(list(NODES))
            rng.choice([self._change, self._change, self._remove, self._cancel, self._cancel, self._move, self._look])(
                rng, node_id
            )
            self.pause(rng.random() * 0.2)

    def _change(self, rng: random.Random, node_id: str) -> None:
        changes: dict[str, Any] = rng.choice(
            [
                {"state": rng.choice(["active", "draining", "disabled"])},
                {"state": "active"},
                {"max_concurrent": rng.randrange(1, NODES[node_id][1] + 1)},
                {"weight": rng.randrange(1, 300)},
            ]
        )
        if self.admin("PATCH", f"/nodes/{node_id}", changes).status_code == 200:
            self.wanted[node_id].update(changes)

    def _remove(self, rng: random.Random, node_id: str) -> None:
        self.admin("DELETE", f"/nodes/{node_id}")
        self.pause(rng.random() * 0.4)
        self.register(node_id)

    def _cancel(self, rng: random.Random, node_id: str) -> None:
        queue = self.admin("GET", "/queue").json()
        live = [*queue["waiting"], *queue["running"]]
        if live:
            self.admin("DELETE", f"/requests/{rng.choice(live)['id']}")

    def _move(self, rng: random.Random, node_id: str) -> None:
        waiting = self.admin("GET", "/queue").json()["waiting"]
        if waiting:
            self.admin("PATCH", f"/queue/{rng.choice(waiting)['id']}", {"priority": rng.choice(["low", "critical"])})

    def _look(self, rng: random.Random, node_id: str) -> None:
        for path in rng.sample(["/status", "/nodes", "/requests?limit=50", "/stats", "/events"], 2):
            self.admin("GET", path)

    def register(self, node_id: str) -> None:
        models, slots = NODES[node_id]
        body = {"id": node_id, "address": self.nodes[node_id].address, "models": models, "max_concurrent": slots}
        if self.admin("POST", "/nodes", body).status_code == 201:
            self.wanted[node_id] = {"models": models, "max_concurrent": slots, "state": "active"}

    def reload_now_and_then(self) -> None:
        """SIGHUP with other settings each time: with and without comments in streams that wait."""
        while time.monotonic() + RELOAD_EVERY_S + QUIET_S < self.ends_at and not self.stop.is_set():
            self.pause(RELOAD_EVERY_S / 2)
            self.has_keepalive = True
            keepalive = "0s" if self.server.settings["scheduler"].get("sse_keepalive") == "300ms" else "300ms"
            self.server.settings["scheduler"]["sse_keepalive"] = keepalive
            self.server.write_config()
            before = set(self.server.worker_pids())
            os.kill(self.server.pid, signal.SIGHUP)
            self.operations["HUP"] += 1
            eventually(lambda before=before: set(self.server.worker_pids()) - before, "a new worker")
            self.pause(RELOAD_EVERY_S / 2)

    # -- the whole --------------------------------------------------------------------------------

    def rage(self) -> None:
        """Everybody at once until it is over. Raises what any of them has raised."""
        parts: list[Callable[[], None]] = [self.be_operator, self.reload_now_and_then]
        parts += [lambda node_id=node_id: self.be_node(node_id) for node_id in NODES]
        parts += [lambda name=f"client {number}": self.be_clients(name) for number in range(CLIENTS)]
        with ThreadPoolExecutor(len(parts)) as pool:
            running: list[Future[None]] = [pool.submit(part) for part in parts]
            try:
                while time.monotonic() < self.ends_at and not any(each.done() and each.exception() for each in running):
                    self.stop.wait(0.1)
            finally:
                self.stop.set()
        for each in running:
            each.result()

    def calm_down(self) -> None:
        """Every node is well again."""
        for node_id, node in self.nodes.items():
            if not node.is_running:
                node.start()
            node.clear_faults()
            node.accept()
            node.wait(running=0)
            self._note_counts(node_id)


def some_call(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """Path and body of a call."""
    if rng.random() < 0.2:
        return "/v1/embeddings", {"model": "embed", "input": "text"}
    model = rng.choice(["chat", "chat", "large"])
    body: dict[str, Any] = {"model": model, "messages": [], "sim_ttft_ms": rng.randrange(100)}
    if rng.random() < 0.5:
        return "/v1/chat/completions", {
            **body,
            "stream": True,
            "max_tokens": rng.choice([5, 20, 60]),
            "sim_gap_ms": rng.randrange(25),
        }
    if rng.random() < 0.2:
        body["sim_bytes"] = rng.choice([100_000, 2_000_000])
    if rng.random() < 0.1:
        body["pad"] = "x" * 1_000_000
    return "/v1/chat/completions", body


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process are."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path, SETTINGS) as server:
        yield server


@pytest.fixture
def nodes() -> Iterator[dict[str, SimNode]]:
    with ExitStack() as stack:
        yield {
            node_id: stack.enter_context(SimNode(models=models, slots=slots, tokens=10))
            for node_id, (models, slots) in NODES.items()
        }


@pytest.mark.parametrize("seconds", [SHORT_S, pytest.param(LONG_S, marks=pytest.mark.soak)], ids=["short", "long"])
def test_a_storm_leaves_nothing_behind_and_every_request_has_one_end(
    server: RunningServer, nodes: dict[str, SimNode], seconds: float
) -> None:
    seed = int(os.environ.get("STORM_SEED", random.randrange(2**31)))
    print(f"STORM_SEED={seed} STORM_SECONDS={seconds:g}")
    storm = Storm(server, nodes, seed, time.monotonic() + seconds)
    for node_id in NODES:
        storm.register(node_id)
        server.wait_for_node(node_id, health="up")
    fresh = len(descriptors(server.worker_pids()[0]))

    storm.rage()
    storm.calm_down()
    server.wait_until_idle()
    eventually(lambda: len(server.worker_pids()) == 1, "the end of the old workers")
    records = {record["id"]: record for record in all_records(server)}
    print(f"{len(storm.sights)} requests, {Counter(record['outcome'] for record in records.values())}")
    print(f"operations: {storm.operations}; arrived: {storm.arrived}")

    assert_nodes_never_had_more_than_their_limit(storm)
    assert_every_request_has_one_end(storm, records)
    assert_nothing_looked_like_what_it_was_not(storm, records)
    assert_the_log_tells_of_no_mistake_of_ours(server)
    assert_the_operator_has_had_the_last_word(storm)
    assert_it_still_works_within_new_limits(storm)
    worker = server.worker_pids()[0]
    eventually(lambda: len(descriptors(worker)) <= fresh + 4, "descriptors as in the beginning")


def all_records(server: RunningServer) -> list[dict[str, Any]]:
    """All of them, each finished: the last may be on their way to the database."""
    eventually(lambda: server.get("/requests?status=processing&limit=1")["total"] == 0, "no request processing")
    eventually(lambda: server.get("/requests?status=pending&limit=1")["total"] == 0, "no request pending")
    found: list[dict[str, Any]] = []
    while page := server.get(f"/requests?limit=1000&offset={len(found)}")["requests"]:
        found += page
    return found


def assert_nodes_never_had_more_than_their_limit(storm: Storm) -> None:
    assert all(storm.arrived[node_id] for node_id in NODES), storm.arrived
    assert not +storm.over, f"more than the limit at once, by the nodes' own count: {storm.over}"


def assert_every_request_has_one_end(storm: Storm, records: dict[str, dict[str, Any]]) -> None:
    outcomes = {outcome.value for outcome in Outcome} - {Outcome.INTERRUPTED.value}  # nothing was killed or stopped
    for record in records.values():
        assert record["outcome"] in outcomes, record
        assert record["status"] == ("completed" if record["outcome"] == "completed" else "failed"), record
        assert record["finished_at"], record
        assert record["error_code"] != "internal_error", record
    by_client = Counter(record["client_request_id"] for record in records.values())
    assert set(by_client.values()) == {1}
    for sight in storm.sights:
        if sight.our_id is not None and sight.status != 408:  # its body was never read
            assert sight.our_id in records, sight
            assert records[sight.our_id]["client_request_id"] == sight.id


def assert_nothing_looked_like_what_it_was_not(storm: Storm, records: dict[str, dict[str, Any]]) -> None:
    stayed = [sight for sight in storm.sights if sight.has_stayed]
    assert len(stayed) > 20
    by_client = {record["client_request_id"]: record for record in records.values()}
    for sight in stayed:
        record = by_client.get(sight.id)
        told = f"{sight} {record}"
        if not sight.status:  # a reset may overtake the beginning of an answer that breaks at once
            assert record is not None, told
            assert record["outcome"] != "completed", told
            assert record["bytes_out"], told
        if record is None or sight.text is None:
            continue
        is_stream = sight.headers.get("content-type", "").startswith("text/event-stream")
        if not sight.is_whole:
            assert record["outcome"] != "completed", told
        elif is_stream:
            assert ("[DONE]" in sight.text) + ('"error"' in sight.text) == 1, told
            assert ("[DONE]" in sight.text) == (record["outcome"] == "completed"), told
        else:
            assert record["http_status"] == sight.status, told
            assert (sight.status == 200) == (record["outcome"] == "completed"), told
            assert isinstance(json.loads(sight.text), dict), told


def assert_the_log_tells_of_no_mistake_of_ours(server: RunningServer) -> None:
    for line in server.log_lines:
        assert line["level"].lower() not in ("error", "critical"), line
        assert line.get("error_code") != "internal_error", line
    for words in ("Traceback", "unforeseen error", "Error handling request"):
        assert words not in server.log


def assert_the_operator_has_had_the_last_word(storm: Storm) -> None:
    """What was acknowledged last is in force, whatever was reloaded meanwhile."""
    found = {node["id"]: node for node in storm.server.get("/nodes")["nodes"]}
    for node_id, wanted in storm.wanted.items():
        assert {name: found[node_id][name] for name in wanted} == wanted


def assert_it_still_works_within_new_limits(storm: Storm) -> None:
    for node_id, (_, slots) in NODES.items():
        storm.admin("PATCH", f"/nodes/{node_id}", {"state": "active", "max_concurrent": slots - 1})
        storm.server.wait_for_node(node_id, health="up", state="active")
        storm.nodes[node_id].reset()

    def answers(model: str) -> bool:
        return storm.server.post({"model": model, "messages": []}, headers={"X-Queue-Timeout": "4"}).status_code == 200

    for model in ("chat", "large", "embed"):  # what was withdrawn or held back has to come back first
        eventually(lambda model=model: answers(model), f"an answer for {model}")
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda model: answers(model), ["chat", "large"] * 12))
    assert all(statuses)
    for node_id, (_, slots) in NODES.items():
        assert storm.nodes[node_id].stats()["peak"] <= slots - 1, node_id
    storm.server.wait_until_idle()
