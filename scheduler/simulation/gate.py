"""Gate: holds requests back until a test lets them go, in order of arrival."""

from collections import OrderedDict

from gevent.event import Event


class Gate:
    """Open unless closed. While it is closed, `release(n)` lets n requests pass, those still to come included."""

    def __init__(self) -> None:
        self._is_closed = False
        self._credits = 0
        self._waiting: OrderedDict[Event, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Gate {'closed' if self._is_closed else 'open'} waiting={len(self._waiting)} credits={self._credits}>"

    @property
    def is_closed(self) -> bool:
        """True while requests wait."""
        return self._is_closed

    def pass_through(self) -> None:
        """Return when the caller may go on; it may be killed meanwhile."""
        if not self._is_closed:
            return
        if self._credits > 0:
            self._credits -= 1
            return
        passed = Event()
        self._waiting[passed] = None
        try:
            passed.wait()
        finally:
            self._waiting.pop(passed, None)

    def close(self) -> None:
        """Hold back whoever comes from now on."""
        self._is_closed = True
        self._credits = 0

    def open(self) -> None:
        """Let everybody go."""
        self._is_closed = False
        self.release(len(self._waiting))

    def release(self, count: int) -> None:
        """Let the `count` oldest go; what is left over is for the next to arrive."""
        while count > 0 and self._waiting:
            self._waiting.popitem(last=False)[0].set()
            count -= 1
        self._credits += count if self._is_closed else 0
