"""PeerWatch: tells at once when the peer of a connection has left, without reading from it."""

from collections.abc import Callable

import gevent
from gevent import monkey

# Patched processes hide the real epoll; this one never blocks, the hub watches its descriptor.
_select = __import__("select")
_epoll = monkey.get_original("select", "epoll")
_LEFT = _select.EPOLLRDHUP | _select.EPOLLHUP | _select.EPOLLERR


class PeerWatch:
    """One edge-triggered epoll for all connections of a node; a half-close counts as leaving."""

    def __init__(self) -> None:
        self._epoll = _epoll()
        self._on_left: dict[int, Callable[[], None]] = {}
        self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), 1)
        self._watcher.start(self.look)

    def add(self, descriptor: int, on_left: Callable[[], None]) -> None:
        """Call `on_left` from the hub once the peer has left. It must not block."""
        self._on_left[descriptor] = on_left
        self._epoll.register(descriptor, _LEFT | _select.EPOLLET)

    def remove(self, descriptor: int) -> None:
        """Stop watching; to be called before the descriptor is closed, because numbers are reused. Idempotent."""
        if self._on_left.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Give the epoll back. Idempotent."""
        if not self._epoll.closed:
            self._watcher.stop()
            self._watcher.close()
            self._epoll.close()

    def look(self) -> None:
        """Tell of those who have left by now; called by the hub, and by whoever cannot wait for that."""
        for descriptor, _events in self._epoll.poll(0):
            on_left = self._on_left.get(descriptor)
            if on_left is not None:
                on_left()
