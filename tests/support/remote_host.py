"""RemoteHost: another host on a wire of its own, which can vanish: its packets are dropped, and no end is sent."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 20.0


class NotPossibleHere(Exception):
    """Raised where this machine lets nobody make network namespaces."""


class RemoteHost:
    """A network namespace with a simulated node in it, behind a pair of virtual cables. A context manager.

    Raises NotPossibleHere without the right or the means (Linux, root, `ip`).
    """

    PORT = 8000

    def __init__(self, models: Sequence[str], ttft_ms: int) -> None:
        number = os.getpid() % 250 + 1
        self._name = f"llmsched{os.getpid()}"
        self._near, self._far = f"lsn{os.getpid()}", f"lsf{os.getpid()}"
        self._here, self._there = f"198.18.{number}.1", f"198.18.{number}.2"
        self._options = ["--models=" + ",".join(models), f"--ttft={ttft_ms}ms"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{self._there}:{self.PORT}"

    def __enter__(self) -> RemoteHost:
        try:
            self._wire()
            self._start_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        for command in (["link", "del", self._near], ["netns", "del", self._name]):
            with contextlib.suppress(NotPossibleHere):
                _ip(*command)

    def vanish(self) -> None:
        """From now on nothing that is sent to it is answered, as after a power cut."""
        _ip("-n", self._name, "addr", "del", f"{self._there}/30", "dev", self._far)

    def _wire(self) -> None:
        _ip("netns", "add", self._name)
        _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
        _ip("addr", "add", f"{self._here}/30", "dev", self._near)
        _ip("link", "set", self._near, "up")
        _ip("-n", self._name, "addr", "add", f"{self._there}/30", "dev", self._far)
        _ip("-n", self._name, "link", "set", self._far, "up")
        # Else its silence would soon be noticed by ARP, which does not happen behind a router.
        hardware = _ip("-n", self._name, "-o", "link", "show", self._far).split("link/ether ")[1].split()[0]
        _ip("neigh", "replace", self._there, "lladdr", hardware, "dev", self._near, "nud", "permanent")

    def _start_node(self) -> None:
        command = ["ip", "netns", "exec", self._name, sys.executable, "-m", "scheduler.simulation"]
        command += ["--host", self._there, f"--port={self.PORT}", *self._options]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        deadline = time.monotonic() + _START_S
        ready, _, _ = select.select([self._process.stdout], [], [], deadline - time.monotonic())
        assert ready, "the node on the other host did not start"


def _ip(*arguments: str) -> str:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10)
    except OSError as error:
        raise NotPossibleHere(str(error)) from error
    if done.returncode:
        raise NotPossibleHere(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
