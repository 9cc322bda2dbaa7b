"""The callers' connections: noticing that one has left, and cutting one that stopped reading."""

from __future__ import annotations

import contextlib
import fcntl
import socket as socket_names
import struct
import termios
from collections.abc import Callable
from typing import Any

from gevent import get_hub, monkey

# gevent takes epoll out of `select`; this one never blocks, and only the hub waits on it.
_select = __import__("select")
_epoll_class = monkey.get_original("select", "epoll")
_GONE = _select.EPOLLRDHUP | _select.EPOLLHUP | _select.EPOLLERR | _select.EPOLLET

_TCP_INFO_BYTES = 192
_BYTES_ACKED_AT = 120  # offset of tcpi_bytes_acked in struct tcp_info (Linux 4.1 and newer)
_RESET = struct.pack("ii", 1, 0)

#: A client that vanished without a FIN is given up after so long.
USER_TIMEOUT_MS = 30_000
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 15, 5, 3


class ClientWatch:
    """One epoll for the connections of all callers that wait or are being answered.

    It asks for the end of the connection only, so bytes that a client pipelines wake nobody, and a client that waits
    costs nothing. The epoll's own descriptor is watched by the hub's loop. A half-close counts as leaving: it cannot
    be told from it.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._epoll = _epoll_class()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._on_error = on_error
        self._event: Any = None

    def __len__(self) -> int:
        return len(self._callbacks)

    def start(self) -> None:
        self._event = get_hub().loop.io(self._epoll.fileno(), 1)
        self._event.start(self._look)

    def stop(self) -> None:
        if self._event is not None:
            self._event.stop()
            self._event.close()
            self._event = None
        self._epoll.close()

    def add(self, descriptor: int, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once, in the hub, when the peer of this socket has left; at once where it has already."""
        self._callbacks[descriptor] = on_gone
        self._epoll.register(descriptor, _GONE)

    def remove(self, descriptor: int) -> None:
        """Stop watching. Must come before the descriptor is closed or used for another request. Idempotent."""
        if self._callbacks.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):  # closed meanwhile, which takes it out of the epoll
                self._epoll.unregister(descriptor)

    def _look(self) -> None:
        for descriptor, _ in self._epoll.poll(0, 256):
            on_gone = self._callbacks.get(descriptor)
            self.remove(descriptor)
            if on_gone is None:
                continue
            try:
                on_gone()
            except Exception as error:
                # Raised here it would end in the hub, and the clients behind this one would not be looked at.
                self._on_error(error)


class SocketClient:
    """A caller's connection, given as the gevent socket that gunicorn serves."""

    __slots__ = ("_descriptor", "_sock", "_watch")

    def __init__(self, watch: ClientWatch, sock: Any) -> None:
        self._watch = watch
        self._sock = sock
        self._descriptor = -1

    def watch(self, on_gone: Callable[[], None]) -> None:
        self._descriptor = self._sock.fileno()
        self._watch.add(self._descriptor, on_gone)

    def unwatch(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._watch.remove(descriptor)

    def progress(self) -> int:
        """Bytes that the client's kernel has acknowledged; for a local socket, what it has not read yet, negated."""
        try:
            if self._sock.family == socket_names.AF_UNIX:
                unread = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
                return -int(struct.unpack("i", unread)[0])
            info = self._sock.getsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return 0
        return int(struct.unpack_from("Q", info, _BYTES_ACKED_AT)[0]) if len(info) >= _BYTES_ACKED_AT + 8 else 0

    def reset_on_close(self) -> None:
        """Let the end of the connection be a reset: what was sent cannot look whole."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket_names.SOL_SOCKET, socket_names.SO_LINGER, _RESET)

    def cut(self) -> None:
        """End the connection now, with a reset: a blocked write ends with EPIPE."""
        self.reset_on_close()
        with contextlib.suppress(OSError):
            # The system's own call: gevent's would end the writer with an error that gunicorn does not expect.
            self._sock._sock.shutdown(socket_names.SHUT_RDWR)


def tune(sock: Any) -> None:
    """Set up a connection that was just accepted: small writes leave at once, dead peers are noticed."""
    with contextlib.suppress(OSError):  # a local socket has none of these, a client may be gone already
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_NODELAY, 1)
        sock.setsockopt(socket_names.SOL_SOCKET, socket_names.SO_KEEPALIVE, 1)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_KEEPCNT, KEEPALIVE_PROBES)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
