"""SimNode: a simulated node in a process of its own, and the commands a test gives it."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 20.0
# The environment's proxy settings must not come between a test and its node.
_opener = build_opener(ProxyHandler({}))


class WaitTimeout(AssertionError):
    """Raised when what a test waits for has not come in time; shows the counters as they are."""


class SimNode:
    """A context manager. Its ports are reserved for its whole life, also while its process is dead."""

    def __init__(
        self,
        *,
        models: str | list[str] = "sim",
        slots: int = 4,
        ttft_ms: float = 0,
        tokens_per_second: float = 0,
        tokens: int = 20,
        api_key: str | None = None,
        engine: str = "vllm",
    ) -> None:
        names = [models] if isinstance(models, str) else models
        self.models = names
        self._options = [f"--models={','.join(names)}", f"--slots={slots}", f"--ttft={ttft_ms}ms", f"--engine={engine}"]
        self._options += [f"--tokens-per-second={tokens_per_second}", f"--tokens={tokens}"]
        if api_key is not None:
            self._options.append(f"--api-key={api_key}")
        # Bound and not listening: connections are refused, and no other process is given the number.
        self._reservations = [_reserved(), _reserved()]
        self.port, self.control_port = (each.getsockname()[1] for each in self._reservations)
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<SimNode {self.address} {'running' if self.is_running else 'stopped'}>"

    def __enter__(self) -> "SimNode":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the process ------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """What a node is registered with."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id. Raises AssertionError where it is not running."""
        assert self._process is not None, f"{self!r} was never started"
        return self._process.pid

    def start(self) -> None:
        """Start the process and return once both ports listen. Raises AssertionError with what it said instead."""
        command = [sys.executable, "-m", "scheduler.simulation", f"--port={self.port}"]
        command += [f"--control-port={self.control_port}", *self._options]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        said = b""
        deadline_s = time.monotonic() + _START_S
        while said.count(b"\n") < 2:
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left_s))
            data = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not data:
                self.kill()
                raise AssertionError(f"the simulated node did not start: {said!r}")
            said += data

    def stop(self) -> None:
        """End it with SIGTERM; every connection is cut. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL. Idempotent."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the process as a hanging machine would: connections are accepted by the kernel, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def restart_on_same_port(self) -> None:
        """End it where it runs, and start it on the same ports with all counters at 0."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End the process and give the ports back. Idempotent."""
        self.stop()
        for reservation in self._reservations:
            reservation.close()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()

    # -- what it has seen -------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """All counters, see scheduler/simulation/journal.py."""
        return self._call("GET", "/sim/stats")

    def arrivals(self) -> list[dict[str, Any]]:
        """The inference requests in order of arrival."""
        return self._call("GET", "/sim/arrivals")

    def tags(self) -> list[str | None]:
        """How the arrivals were marked, in order of arrival."""
        return [arrival["tag"] for arrival in self.arrivals()]

    def wait(self, *, timeout_s: float = 10, **counters: int) -> dict[str, Any]:
        """Wait until each counter is at least so large (0: exactly 0) and return all. Raises WaitTimeout."""
        query = urlencode({**counters, "timeout_s": timeout_s})
        try:
            return self._call("GET", f"/sim/wait?{query}", timeout_s=timeout_s + 10)
        except HTTPError as error:
            if error.code != 408:
                raise
            raise WaitTimeout(f"waited {timeout_s} s for {counters}: {error.read().decode()}") from None

    # -- what it shall do -------------------------------------------------------------------------

    def fault(self, kind: str, **parameters: Any) -> None:
        """Put a fault in force, see scheduler/simulation/README.md."""
        self._call("POST", "/sim/faults", {"kind": kind, **parameters})

    def faults(self) -> list[dict[str, Any]]:
        """The faults with their `hits`."""
        return self._call("GET", "/sim/faults")

    def clear_faults(self) -> None:
        """End all faults, a refusing listener included."""
        self._call("DELETE", "/sim/faults")

    def refuse(self, *, reset_connections: bool = True) -> None:
        """Refuse connections as a dead process would; the counters live on."""
        self._call("POST", "/sim/listen", {"open": False, "reset_connections": reset_connections})

    def accept(self) -> None:
        """Take connections again."""
        self._call("POST", "/sim/listen", {"open": True})

    def close_gate(self) -> None:
        """From now on requests arrive and run, and wait before they are answered."""
        self._call("POST", "/sim/gate", {"closed": True})

    def open_gate(self) -> None:
        """Let all of them go."""
        self._call("POST", "/sim/gate", {"closed": False})

    def release(self, count: int = 1) -> None:
        """Let the oldest go; what is left over is for the next to arrive."""
        self._call("POST", "/sim/gate", {"release": count})

    def reset(self) -> None:
        """Counters to 0, no faults, gate and listener open."""
        self._call("POST", "/sim/reset", {})

    def _call(self, method: str, path: str, document: Any = None, *, timeout_s: float = 20) -> Any:
        body = None if document is None else json.dumps(document).encode()
        call = Request(f"http://127.0.0.1:{self.control_port}{path}", body, method=method)
        call.add_header("Content-Type", "application/json")
        try:
            with _opener.open(call, timeout=timeout_s) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code == 400:
                raise ValueError(error.read().decode()) from None
            raise


def _reserved() -> socket.socket:
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation
