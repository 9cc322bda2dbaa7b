"""SchedulerWorker: gunicorn's gevent worker, with ends of its own and errors in our shape."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.arbiter import Arbiter
from gunicorn.http import errors as http_errors
from gunicorn.workers.ggevent import GeventWorker

from scheduler import serving
from scheduler.adapters.client_connection import tune
from scheduler.errors import StartRefused

#: gunicorn's master wants to hear of a worker at least this often.
NOTIFY_S = 1.0
#: How often an ending worker closes the connections that have become idle.
CLOSE_IDLE_S = 0.05
#: What a new connection gets to send its first request before it counts as idle: its caller expects no end there.
FIRST_REQUEST_S = 1.0
#: How long the writer's thread may keep the interpreter from the event loop: Python's own 5 ms are felt in streams.
SWITCH_S = 0.0005
#: How long a worker that a reload has told to end waits for the one that is to take over.
SUCCESSOR_S = 20.0
#: What connections get after the last request has ended.
LAST_WORDS_S = 2.0

_STATUS = {
    http_errors.LimitRequestLine: (414, "URI Too Long"),
    http_errors.LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    http_errors.ExpectationFailed: (417, "Expectation Failed"),
    http_errors.UnsupportedTransferCoding: (501, "Not Implemented"),
}


class SchedulerWorker(GeventWorker):  # type: ignore[misc]
    """Starts the runtime with the worker, and ends with it.

    On SIGTERM gunicorn waits for handlers and then kills them without a `finally`. Here the drain comes first: what
    waits is refused at once, what runs may end, and idle connections, which would hold the worker, are closed. At a
    reload gunicorn sends SIGTERM too: the worker then goes on as before until its successor is ready, and after that
    until its last request has ended.
    """

    alive: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: dict[Any, float] = {}  # connections without a request, and until when they are left alone
        self._busy = 0  # requests that are being read, waited for or answered
        self._runtime: Any = None
        self._drain: gevent.Greenlet | None = None
        self._reload_count = serving.reload_count()
        self._give_up_at: float | None = None  # told to end by a reload: no successor until then
        self._changed: Event = Event()

    def run(self) -> None:
        runtime = self.wsgi.runtime
        if not self.alive:  # told to stop while it was loaded
            runtime.pass_on_stop()
            return
        self._runtime = runtime
        sys.setswitchinterval(SWITCH_S)
        # New connections count: their requests are served here.
        runtime.unplaced = lambda: len(self._idle) + self._busy - runtime.placed_count
        runtime.on_change = self._changed.set
        servers = [self._server(listener) for listener in self.sockets]
        try:
            runtime.start()
        except StartRefused as error:
            self.log.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)  # the master then ends instead of trying for ever
        for server in servers:
            server.start()
        while self.alive and not runtime.is_handing_over and not runtime.is_draining:
            self._wait(NOTIFY_S)
            if self._give_up_at is not None and time.monotonic() > self._give_up_at and not runtime.is_handing_over:
                self.log.error("no worker has taken over within %d s; this one ends", SUCCESSOR_S)
                self._begin_drain(None)
        self.alive = False  # answers from now on close their connections
        for server in servers:
            server.stop_accepting()
        gevent.sleep(0)  # whoever was accepted last begins: gunicorn asks the listener for its name then
        for server in servers:
            server.close()
        self._end(runtime, servers)
        runtime.stop()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: of a stop, or of a reload where a successor is there."""
        if self._runtime is None:
            super().handle_exit(sig, frame)
        elif self._runtime.is_handing_over:
            return  # the successor passes a stop on
        elif serving.reload_count() > self._reload_count:
            self._give_up_at = self._give_up_at or time.monotonic() + SUCCESSOR_S
        else:
            self._begin_drain(None)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT: as SIGTERM of a stop, without waiting for what runs."""
        self._begin_drain(0.0)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        tune(client)
        self._idle[client] = time.monotonic() + FIRST_REQUEST_S
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.pop(client, None)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        self._idle.pop(sock, None)
        self._busy += 1
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._busy -= 1
        self._idle[sock] = 0.0

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

    def _server(self, listener: Any) -> StreamServer:
        listener.setblocking(1)
        return StreamServer(listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections))

    def _begin_drain(self, timeout_s: float | None) -> None:
        # A signal handler may run in the hub, which must not wait.
        self.alive = False
        self._changed.set()
        if self._runtime is not None and self._drain is None:
            self._drain = gevent.spawn(self._runtime.drain, timeout_s)

    def _end(self, runtime: Any, servers: list[StreamServer]) -> None:
        """Serve what is there to its end: of its own accord after a reload, of the drain's in a stop."""
        last_words_s = LAST_WORDS_S
        while any(len(server.pool) for server in servers):
            self._close_idle()
            is_stopping = self._drain is not None or runtime.is_draining
            if is_stopping and (runtime.is_drained or not self._busy):
                last_words_s -= CLOSE_IDLE_S
                if last_words_s <= 0:
                    break
            self._wait(CLOSE_IDLE_S)
        for server in servers:
            server.pool.kill(timeout=1)

    def _wait(self, seconds: float) -> None:
        self.notify()
        self._changed.clear()
        self._changed.wait(seconds)

    def _close_idle(self) -> None:
        now = time.monotonic()
        for sock in [sock for sock, until in self._idle.items() if until <= now]:
            del self._idle[sock]
            try:
                sock._sock.shutdown(0)  # its reader sees the end, after what has arrived already, and closes
            except OSError as error:
                self.log.debug("An idle connection is gone already: %s", error)
