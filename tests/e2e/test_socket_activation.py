"""A socket that somebody else keeps, as systemd does: callers who come during a restart wait, and are answered."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import PATIENCE_S, RunningServer, eventually
from tests.support.sim_node import SimNode


class ActivatedServer(RunningServer):
    """The server as started by systemd for a socket unit: it listens on `listener` and binds nothing itself."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        super().__init__(folder)
        self.listener = listener
        self.port = listener.getsockname()[1]

    def launch(self) -> None:
        config = self.write_config()
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LLM_SCHEDULER_")}
        descriptor = self.listener.fileno()
        command = [sys.executable, "-m", "scheduler.cli", "serve", "--config", str(config)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.socket_launcher", str(descriptor), *command],
                cwd=self.folder,
                env={**environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[descriptor],
                start_new_session=True,
            )

    def is_accepting(self, pid: int) -> bool:
        """True while this process has the listening socket open."""
        wanted = f"socket:[{os.fstat(self.listener.fileno()).st_ino}]"
        folder = Path(f"/proc/{pid}/fd")
        try:
            return any(os.readlink(file) == wanted for file in folder.iterdir())
        except FileNotFoundError:  # it has ended, or closed that very file
            return folder.exists() and self.is_accepting(pid)

    def send(self, body: Any) -> socket.socket:
        """A call that has been sent whole; its answer is still to be read."""
        data = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: scheduler\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        caller = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S * 2)
        caller.sendall(head.encode() + data)
        return caller


def status_of(caller: socket.socket) -> str:
    with caller, caller.makefile("rb") as file:
        return file.readline().decode().strip()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ActivatedServer]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, ActivatedServer(tmp_path, listener) as server:
        yield server
        server.wait_until_idle()


@pytest.fixture
def node(server: ActivatedServer) -> Iterator[SimNode]:
    with SimNode(slots=4) as node:
        server.register("gpu-01", node.address, max_concurrent=4)
        yield node


def test_calls_that_come_while_no_server_runs_wait_for_the_next_one(server, node):
    server.terminate()
    assert server.wait() == 0
    callers = [server.send({"model": "sim", "messages": []}) for _ in range(20)]
    server.start()
    assert [status_of(caller) for caller in callers] == ["HTTP/1.1 200 OK"] * 20
    assert node.stats()["arrived"] == 20


def test_calls_that_come_while_the_old_server_ends_its_work_wait_for_the_next_one(server, node):
    (worker,) = server.worker_pids()
    assert server.is_accepting(worker)
    node.close_gate()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(server.post, {"model": "sim"})
        node.wait(running=1)
        server.terminate()
        eventually(lambda: not server.is_accepting(worker), "the old worker's last accept")
        callers = [server.send({"model": "sim", "messages": []}) for _ in range(20)]
        node.open_gate()
        assert running.result().status_code == 200
        assert server.wait() == 0
        server.start()
        assert [status_of(caller) for caller in callers] == ["HTTP/1.1 200 OK"] * 20
