"""`make demo`: a server and two simulated nodes on this machine, registered, and a curl line that works.

Everything lives in a temporary folder and is stopped and removed at the end (Ctrl-C). `--once` sends the printed calls
itself and ends.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("llm-scheduler"))
DEFAULT_PORT = 8080
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
MODEL = "demo"
NODES = (("demo-gpu-01", 2, 25), ("demo-gpu-02", 4, 50))  # id, slots, tokens per second

# The demo speaks to its own machine only; a proxy in the environment must not get in between.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """Raised with the one line that says why the demo cannot go on."""


class Children:
    """The processes of the demo: started in sessions of their own, stopped in the order they were started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        # Settings of the machine's real scheduler must not reach the demo's.
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("LLM_SCHEDULER_")}

    def start(self, name: str, arguments: Sequence[str], settings: dict[str, str] | None = None) -> None:
        """Start `llm-scheduler` with `arguments`; what it says goes to a file of its own."""
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                [COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**self._environ, **(settings or {}), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C is for us; we stop the others, in order
            )
        self._running.append((name, process))

    def said(self, name: str) -> str:
        """All that a process has said so far."""
        return self._log(name).read_text(errors="replace")

    def check(self) -> None:
        """Raises DemoError where one of them has ended."""
        for name, process in self._running:
            if process.poll() is not None:
                last = "".join(f"\n    {line}" for line in self.said(name).splitlines()[-10:])
                raise DemoError(f"{name} ended with status {process.returncode}:{last}")

    def close(self) -> None:
        """Stop all of them, the server first. Idempotent."""
        while self._running:
            name, process = self._running.pop(0)
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                print(f"{name} does not stop; killing it", file=sys.stderr)
                # The whole group: a server that is killed must not leave its worker behind.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """One JSON call to our own server."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with DIRECT.open(request, timeout=10) as reply:
        return json.load(reply)


def wait_for(what: str, is_done: Callable[[], object], children: Children) -> None:
    """Ask until `is_done` holds; raises DemoError when it takes too long or a process has ended."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        children.check()
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if is_done():
                return
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {START_TIMEOUT_S:.0f} s")
        time.sleep(0.1)


def choose_port(wanted: int | None) -> int:
    """The wanted port, else 8080, else a free one."""
    for port in (wanted,) if wanted else (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise DemoError(f"port {wanted} is in use")


def start_node(children: Children, node_id: str, slots: int, speed: int) -> str:
    """Start a simulated node; returns its address."""
    arguments = ["--port", "0", "--models", MODEL, "--slots", str(slots), "--tokens-per-second", str(speed)]
    children.start(node_id, ["simulate-node", *arguments])
    listening = re.compile(r"listening on (http://\S+)\n")
    wait_for(f"{node_id} listens", lambda: listening.search(children.said(node_id)), children)
    found = listening.search(children.said(node_id))
    assert found is not None
    return found.group(1)


def start_all(children: Children, port: int) -> str:
    """Server, nodes, registration; returns the server's address once both nodes are up."""
    base = f"http://127.0.0.1:{port}"
    settings = {
        "LLM_SCHEDULER_SERVER_HOST": "127.0.0.1",
        "LLM_SCHEDULER_SERVER_PORT": str(port),
        "LLM_SCHEDULER_LOGGING_FORMAT": "console",
    }
    children.start("server", ["serve"], settings)
    addresses = [start_node(children, *node) for node in NODES]
    wait_for("the server answers", lambda: call("GET", f"{base}/health/live") is not None, children)
    for (node_id, slots, _), address in zip(NODES, addresses, strict=True):
        node = {"id": node_id, "address": address, "models": [MODEL], "max_concurrent": slots, "weight": 1}
        call("POST", f"{base}/admin/nodes", node)
    wait_for(
        "both nodes are up",
        lambda: all(node["health"] == "up" for node in call("GET", f"{base}/admin/nodes")["nodes"]),
        children,
    )
    return base


def curl_lines(base: str) -> list[str]:
    """Calls that work as they stand: one answered at once, one streamed."""
    lines = []
    for flags, extra in (("-sS", {}), ("-sSN", {"stream": True})):
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **extra})
        headers = "-H 'Content-Type: application/json' -H 'X-Priority: high'"
        lines.append(f"curl {flags} {base}/v1/chat/completions {headers} -d '{body}'")
    return lines


def run_curl(line: str) -> str:
    """What the line prints, by curl itself or, where there is none, by the same call."""
    words = shlex.split(line)
    if shutil.which("curl"):
        done = subprocess.run([*words, "--noproxy", "*", "-f"], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise DemoError(f"curl ended with status {done.returncode}: {done.stderr}")
        return done.stdout
    headers = dict(word.split(": ", 1) for flag, word in pairwise(words) if flag == "-H")
    with DIRECT.open(urllib.request.Request(words[2], words[-1].encode(), headers), timeout=60) as reply:
        return str(reply.read().decode())


def demonstrate(children: Children, options: argparse.Namespace, stop: threading.Event) -> None:
    """Start everything, say what can be tried, and stay (or, with --once, try it)."""
    base = start_all(children, choose_port(options.port))
    nodes = ", ".join(f"{node_id} ({slots} slots)" for node_id, slots, _ in NODES)
    print(f"LLM Scheduler runs at {base} in front of {nodes}, all serving the model '{MODEL}'.\n")
    for line in curl_lines(base):
        print(line, flush=True)
        if options.once:
            print(run_curl(line).rstrip("\n"))
        print()
    if options.once:
        return
    print(f"Who runs and who waits: curl -sS {base}/admin/queue\nCtrl-C stops everything.", flush=True)
    while not stop.wait(0.5):
        children.check()


def main() -> int:
    """Run the demo; 0 when it was stopped or has done its calls, 1 with a line saying why otherwise."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, help="port of the server (8080, or a free one where that is taken)")
    parser.add_argument("--once", action="store_true", help="send the printed calls, print the answers, end")
    options = parser.parse_args()
    stop = threading.Event()

    def interrupted(number: int, frame: object) -> None:
        if stop.is_set():
            return
        stop.set()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    with tempfile.TemporaryDirectory(prefix="llm-scheduler-demo-") as folder:
        children = Children(Path(folder))
        try:
            demonstrate(children, options, stop)
        except KeyboardInterrupt:
            print("\nStopping.", flush=True)
        except (DemoError, urllib.error.URLError, OSError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        finally:
            stop.set()  # a second Ctrl-C must not interrupt the clean-up
            children.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
