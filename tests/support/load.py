"""Load: callers that ask a server again and again, and remember what they were told."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field

import requests

from tests.support.server import RunningServer


@dataclass
class Load:
    """A context manager: `callers` threads call until the block ends, also while the server is away."""

    server: RunningServer
    callers: int = 4
    acknowledged: dict[str, float] = field(default_factory=dict)  # our id -> when the answer was whole (monotonic)
    refused: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __enter__(self) -> Load:
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hello"}]})
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Content-Type"] = "application/json"
            while not self._is_over.is_set():
                begun = time.monotonic()
                try:
                    answer = session.post(f"{self.server.url}/v1/chat/completions", data=body, timeout=30)
                except requests.RequestException:
                    self._is_over.wait(0.05)
                    continue
                if answer.status_code == 200:
                    now = time.monotonic()
                    self.slowest_s = max(self.slowest_s, now - begun)
                    self.acknowledged[answer.headers["X-Scheduler-Request-Id"]] = now
                else:
                    self.refused.append(answer.text)
                    self._is_over.wait(0.05)
