"""SchedulerWorker: gunicorn's gevent worker, with a drain of its own and errors in our shape."""

from __future__ import annotations

import json
from typing import Any

import gevent
from gunicorn.http import errors as http_errors
from gunicorn.workers.ggevent import GeventWorker

from scheduler.adapters.client_connection import tune

#: How often a draining worker closes the connections that have become idle.
CLOSE_IDLE_S = 0.05

_STATUS = {
    http_errors.LimitRequestLine: (414, "URI Too Long"),
    http_errors.LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    http_errors.ExpectationFailed: (417, "Expectation Failed"),
    http_errors.UnsupportedTransferCoding: (501, "Not Implemented"),
}


class SchedulerWorker(GeventWorker):  # type: ignore[misc]
    """Starts the runtime with the worker, and ends it before the worker ends.

    On SIGTERM gunicorn waits for handlers and then kills them without a `finally`. The drain comes first: what waits is
    refused at once, what runs may end, and idle connections, which would hold the worker, are closed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[Any] = set()  # connections between two requests
        self._runtime: Any = None

    def run(self) -> None:
        runtime = self._runtime = self.wsgi.runtime
        runtime.start()
        try:
            super().run()
        finally:
            runtime.stop()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._begin_drain(None)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT: as SIGTERM, without waiting for what runs."""
        self.alive = False
        self._begin_drain(0.0)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        tune(client)
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        self._idle.discard(sock)
        super().handle_request(listener_name, req, sock, addr)
        self._idle.add(sock)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn itself refuses in OpenAI's shape; its own pages are HTML and quote the request."""
        if not isinstance(exc, http_errors.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status, reason = next((_STATUS[kind] for kind in type(exc).__mro__ if kind in _STATUS), (400, "Bad Request"))
        self.log.warning("Invalid request from ip=%s: %s", addr[0] if addr else "", type(exc).__name__)
        message = f"The request is no valid HTTP ({type(exc).__name__})."
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "malformed_request"}
        body = json.dumps({"error": error})
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall((head + body).encode("ascii"))
        except OSError as error_in_send:
            self.log.debug("Could not send an error: %s", error_in_send)

    def _begin_drain(self, timeout_s: float | None) -> None:
        # A signal handler may run in the hub, which must not wait.
        gevent.spawn(self._close_idle)
        if self._runtime is not None:
            gevent.spawn(self._runtime.drain, timeout_s)

    def _close_idle(self) -> None:
        while True:
            for sock in list(self._idle):
                self._idle.discard(sock)
                try:
                    sock._sock.shutdown(0)  # its reader sees the end, and closes
                except OSError as error:
                    self.log.debug("An idle connection is gone already: %s", error)
            gevent.sleep(CLOSE_IDLE_S)
