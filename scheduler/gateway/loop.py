"""Loop: a background greenlet that does not die unnoticed."""

from __future__ import annotations

from collections.abc import Callable

import gevent

#: What a loop that failed gets before it is started again.
PAUSE_S = 1.0


class Loop:
    """Calls `step` for ever. A step that fails is reported and tried again; a greenlet that ends is started again."""

    def __init__(self, step: Callable[[], None], on_error: Callable[[BaseException], None]) -> None:
        self._step = step
        self._on_error = on_error
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        greenlet = self._greenlet = gevent.spawn(self._run)
        greenlet.link(self._ended)

    def stop(self) -> None:
        """End it. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()

    def _run(self) -> None:
        while True:
            try:
                self._step()
            except Exception as error:
                self._on_error(error)
                gevent.sleep(PAUSE_S)

    def _ended(self, greenlet: gevent.Greenlet) -> None:
        if self._greenlet is not None and self._greenlet is greenlet:  # nobody has stopped it
            self._on_error(RuntimeError(f"a background loop has ended: {greenlet.exception!r}"))
            self.start()
