"""RunningServer: the real server, real gunicorn on a real socket, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests
import yaml

T = TypeVar("T")

#: What tests wait for at most; far above what anything needs, for machines that do other things too.
PATIENCE_S = 20.0


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def eventually(check: Callable[[], T], what: str = "the condition", timeout_s: float = PATIENCE_S) -> T:
    """Ask until `check` gives something true, and return that; for states that only another process knows."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.01)
    return found


class RunningServer:
    """The server as a user starts it: `llm-scheduler serve` with a config file, in `folder`. A context manager.

    `settings` are sections of config.yaml: `{"scheduler": {"queue_timeout": "2s"}}`.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings: dict[str, Any] = {name: dict(section) for name, section in (settings or {}).items()}
        self.settings.setdefault("server", {}).setdefault("host", "127.0.0.1")
        self.settings["server"]["port"] = self.port
        self.settings["server"].setdefault("max_connections", 4000)
        self.environ = dict(environ or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.admin_key: str | None = None
        self.log_path = folder / "server.log"
        self.http = requests.Session()
        self.http.trust_env = False
        # A connection a call: one kept open may be closed by a reload at the instant it is used again.
        self.http.headers["Connection"] = "close"

    def __enter__(self) -> RunningServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.http.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything the server has written so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """The log as objects; lines that are none (a traceback of a crash) fail the test that asks."""
        return [json.loads(line) for line in self.log.splitlines() if line.strip()]

    @property
    def pid(self) -> int:
        """Of gunicorn's master."""
        assert self.process is not None
        return self.process.pid

    def worker_pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children]

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it answers."""
        self.launch()
        eventually(self._answers_or_died, "the server's first answer")

    def launch(self) -> None:
        """Start without waiting."""
        config = self.write_config()
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LLM_SCHEDULER_")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.cli", "serve", "--config", str(config)],
                cwd=self.folder,
                env={**environ, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def write_config(self) -> Path:
        """Write the settings; a server that runs reads them at its next reload."""
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        return config

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout_s: float = PATIENCE_S * 2) -> int:
        """Wait for the end; the exit status."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """kill -9 of master and workers at once, as a lost machine would."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def stop(self) -> int | None:
        """Stop if it runs; the exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(PATIENCE_S * 3)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.process.returncode

    def _answers_or_died(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log}"
        try:
            return bool(self.http.get(f"{self.url}/health/ready", timeout=2).status_code == 200)
        except requests.RequestException:
            return False

    # -- admin --------------------------------------------------------------------------------

    def admin(self, method: str, path: str, body: Any = None) -> requests.Response:
        headers = {"Content-Type": "application/json"}
        if self.admin_key:
            headers["Authorization"] = f"Bearer {self.admin_key}"
        data = None if body is None else json.dumps(body)
        return self.http.request(method, f"{self.url}/admin{path}", data=data, headers=headers, timeout=PATIENCE_S)

    def get(self, path: str) -> Any:
        response = self.admin("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def register(
        self, node_id: str, address: str, models: Sequence[str] = ("sim",), max_concurrent: int = 4, **fields: Any
    ) -> None:
        """Register a node and wait until a probe has found it up."""
        body = {"id": node_id, "address": address, "models": list(models), "max_concurrent": max_concurrent, **fields}
        response = self.admin("POST", "/nodes", body)
        assert response.status_code in (200, 201), response.text
        self.wait_for_node(node_id, health="up")

    def wait_for_node(self, node_id: str, **fields: Any) -> dict[str, Any]:
        """Wait until the node's fields have these values."""

        def matches() -> dict[str, Any] | None:
            node: dict[str, Any] = self.get(f"/nodes/{node_id}")
            return node if all(node[name] == value for name, value in fields.items()) else None

        return eventually(matches, f"node {node_id} with {fields}")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/status")
        return found

    def wait_until_waiting(self, count: int) -> None:
        """Wait until exactly so many requests wait in the queue."""
        eventually(lambda: self.status()["queue_size"] == count, f"{count} waiting")

    def wait_until_idle(self) -> None:
        """Wait until no slot is held and nobody waits: what must be true after every test."""
        eventually(lambda: self.is_idle(), "slots and queue at 0")

    def is_idle(self) -> bool:
        status, queue = self.status(), self.get("/queue")
        return (
            status["queue_size"] == 0
            and status["slots"]["used"] == 0
            and queue["waiting_total"] == 0
            and queue["running_total"] == 0
        )

    def record(self, request_id: str) -> dict[str, Any]:
        """The finished record of a request, by our id or the caller's."""

        def finished() -> dict[str, Any] | None:
            page = self.get(f"/requests?q={request_id}&limit=1")["requests"]
            found: dict[str, Any] | None = page[0] if page and page[0]["outcome"] else None
            return found

        return eventually(finished, f"the record of {request_id}")

    # -- callers ------------------------------------------------------------------------------

    def post(
        self, body: Any, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """One call, with a connection of its own."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        options.setdefault("timeout", PATIENCE_S * 2)
        with requests.Session() as session:
            session.trust_env = False
            return session.post(
                self.url + path, data=data, headers={"Content-Type": "application/json", **(headers or {})}, **options
            )
