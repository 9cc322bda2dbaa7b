"""NodeConnection: one connection to a node."""

from __future__ import annotations

import contextlib
import socket as socket_names
from collections.abc import Sequence
from typing import Any

from gevent import get_hub, socket, ssl

#: The most that is taken from a node's socket at once.
READ_BYTES = 64 * 1024

#: A peer that vanished without a FIN is given up after so long.
USER_TIMEOUT_MS = 20_000
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 10, 5, 2

_READ = 1  # libev's io event


class NodeConnection:
    """One connection to a node over a gevent socket. One greenlet connects, writes or reads; any may abort.

    It waits for readability *before* it reads when the last read drained the socket, which saves the EAGAIN that asking
    first would cost at each event of a stream. It has no clock of its own: whoever owns the call aborts it in time.
    """

    __slots__ = ("_is_drained", "_readable", "_sock", "is_aborted", "was_used")

    def __init__(self) -> None:
        self._sock: Any = None
        self._readable: Any = None
        self._is_drained = True
        self.is_aborted = False
        self.was_used = False  # has carried a whole exchange before

    def open(self, addresses: Sequence[tuple[Any, ...]], tls: ssl.SSLContext | None, host: str) -> None:
        """Connect to the first of the addresses (as getaddrinfo gives them) that answers. Raises OSError."""
        error: OSError | None = None
        for family, kind, proto, _, sockaddr in addresses:
            if self.is_aborted:
                break
            try:
                self._connect(family, kind, proto, sockaddr)
                break
            except OSError as failure:
                error = failure
                self._drop()
        if self._sock is None or self.is_aborted:
            raise error or ConnectionAbortedError("aborted while connecting")
        if tls is not None:
            # Known before the handshake, which may take for ever: an abort has to find the socket that waits.
            self._sock = tls.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
            self._sock.do_handshake()
        else:
            self._readable = get_hub().loop.io(self._sock.fileno(), _READ)

    def write(self, head: bytes, body: bytes) -> None:
        """Write a call, head and body. Raises OSError."""
        if len(body) <= READ_BYTES:
            self._sock.sendall(head + body)
        else:
            self._sock.sendall(head)
            self._sock.sendall(body)

    def read(self) -> bytes:
        """What has arrived, as soon as something has; b"" at the end of the connection. Raises OSError."""
        if self._readable is not None and self._is_drained:
            get_hub().wait(self._readable)
        data: bytes = self._sock.recv(READ_BYTES)
        self._is_drained = len(data) < READ_BYTES
        return data

    def is_quiet(self) -> bool:
        """True where an idle connection shows neither an end nor unasked bytes, so that it may be used again."""
        if self._readable is None:
            return self._is_tls_quiet()
        try:
            self._sock._sock.recv(1, socket_names.MSG_PEEK | socket_names.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def abort(self) -> None:
        """Wake whoever connects, writes or reads here, with an error or an end. Idempotent."""
        self.is_aborted = True
        if self._sock is not None:
            with contextlib.suppress(OSError):  # not connected yet, or gone already
                # The plain socket's, which wakes gevent's waiters too: that of a TLS socket throws its TLS state away
                # under whoever is using it.
                socket.socket.shutdown(self._sock, socket_names.SHUT_RDWR)

    def close(self) -> None:
        """Close it. Only its owner may, when nobody waits on it. Idempotent."""
        self._drop()

    def _connect(self, family: int, kind: int, proto: int, sockaddr: tuple[Any, ...]) -> None:
        sock = self._sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_NODELAY, 1)
        sock.setsockopt(socket_names.SOL_SOCKET, socket_names.SO_KEEPALIVE, 1)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_KEEPCNT, KEEPALIVE_PROBES)
        sock.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        sock.connect(sockaddr)

    def _is_tls_quiet(self) -> bool:
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0.0)
        try:
            self._sock.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError, TimeoutError):
            return True
        except OSError:
            return False
        finally:
            self._sock.settimeout(timeout)
        return False

    def _drop(self) -> None:
        if self._readable is not None:
            self._readable.stop()
            self._readable.close()
            self._readable = None
        if self._sock is not None:
            self._sock.close()
            self._sock = None
