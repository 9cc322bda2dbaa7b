"""ReadAhead: takes a reply from its node while the client's connection is blocked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import gevent
from gevent.event import Event

from scheduler.errors import ReplyBroken

#: So much of a reply is held for a client that reads slowly.
LIMIT_BYTES = 1024 * 1024


class ReadAhead:
    """A greenlet that reads a reply into a bounded buffer, so that a slow client does not hold the node.

    Started when a send to the client has blocked; from then on it is the reply's only reader.
    """

    def __init__(self, read: Callable[[], bytes], on_end: Callable[[], object]) -> None:
        self._read = read  # b"" at the end; raises SchedulerError
        self._on_end = on_end  # the node is done, or has failed: its slot can go
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._is_ended = False
        self._error: Exception | None = None
        self._arrived = Event()
        self._has_room = Event()
        self._greenlet = gevent.spawn(self._run)

    def read(self) -> bytes:
        """What is buffered, waiting for something where nothing is; b"" at the end. Raises what the reading raised."""
        while not self._pieces and not self._is_ended:
            self._arrived.clear()
            self._arrived.wait()
        if self._pieces:
            joined = b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
            self._has_room.set()
            return joined
        if self._error is not None:
            raise self._error
        return b""

    def stop(self) -> None:
        """End the greenlet; the reply must have been aborted or have ended."""
        self._greenlet.kill()

    def _run(self) -> None:
        try:
            while piece := self._read():
                self._pieces.append(piece)
                self._size += len(piece)
                self._arrived.set()
                while self._size >= LIMIT_BYTES:
                    self._has_room.clear()
                    self._has_room.wait()
        except BaseException as error:
            # Whatever it is: a reply whose reading failed must not look as if it had ended.
            self._error = error if isinstance(error, Exception) else ReplyBroken("The reply was read no further.")
        finally:
            self._is_ended = True
            self._arrived.set()
            self._on_end()
