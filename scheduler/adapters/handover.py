"""Handover: how two workers of one reload share the slots of the nodes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from scheduler.errors import StartRefused

log = logging.getLogger(__name__)

#: How often the old worker looks whether it needs fewer slots.
PUBLISH_S = 0.02
STOP = b"stop\n"


class Predecessor:
    """The side of the old worker: it tells each successor how many slots of each address it still needs.

    The figures only ever shrink, so that they may be acted on without an answer. A successor that is told to stop
    passes that on, because a worker that hands over ignores gunicorn's SIGTERM: it is sent for a reload as well.
    """

    def __init__(
        self,
        folder: Path,
        boot_id: str,
        shares: Callable[[], Mapping[str, int]],
        on_successor: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._name = f"{boot_id}.sock"
        self._shares = shares
        self._on_successor = on_successor
        self._on_stop = on_stop
        self._listener: Any = None
        self._greenlets: list[gevent.Greenlet] = []
        self.has_successor = False

    def start(self) -> None:
        """Listen for a successor. Raises StartRefused where the folder cannot be written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with _short_path(self._folder, self._name) as path:
                self._listener.bind(path)
            self._listener.listen(8)
        except OSError as error:
            raise StartRefused(f"The folder {self._folder} cannot be written: {error.strerror}.") from None
        self._greenlets.append(gevent.spawn(self._accept))

    def stop(self) -> None:
        """End the links: the successors then know that no slot is held here any more."""
        if self._listener is None:
            return
        gevent.killall(self._greenlets)
        self._listener.close()
        (self._folder / self._name).unlink(missing_ok=True)
        self._listener = None

    def _accept(self) -> None:
        while True:
            link, _ = self._listener.accept()
            if not self.has_successor:
                self.has_successor = True
                log.info("a successor has taken over; this process serves what it has to its end")
                self._on_successor()
            self._greenlets.append(gevent.spawn(self._publish, link))
            self._greenlets.append(gevent.spawn(self._listen, link))

    def _publish(self, link: Any) -> None:
        told: dict[str, int] | None = None
        try:
            while True:
                shares = dict(self._shares())
                if shares != told:
                    link.sendall(json.dumps(shares).encode() + b"\n")
                    told = shares
                gevent.sleep(PUBLISH_S)
        except OSError as error:
            log.info("the successor has ended: %s", error)
        finally:
            link.close()

    def _listen(self, link: Any) -> None:
        with contextlib.suppress(OSError):  # the end of the link, which the other greenlet tells
            if link.recv(len(STOP)) == STOP:
                self._on_stop()


class Successor:
    """The side of the new worker: adds up what its predecessors still need.

    `on_shares` is told the sum by address at each change; `on_gone` is called when a predecessor has ended.
    """

    def __init__(
        self,
        folder: Path,
        on_shares: Callable[[Mapping[str, int]], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._on_shares = on_shares
        self._on_gone = on_gone
        self._shares: dict[str, dict[str, int] | None] = {}  # by predecessor; None until it has told
        self._links: dict[str, Any] = {}
        self._greenlets: list[gevent.Greenlet] = []
        self._all_told = Event()

    def connect(self) -> None:
        """Find the workers before this one, and wait until each has told what it needs."""
        if self._folder.is_dir():
            for file in sorted(self._folder.glob("*.sock")):
                self._connect(file)
        self._look()
        self._all_told.wait()

    def tell_to_stop(self) -> None:
        """Pass on that the whole server stops."""
        for link in list(self._links.values()):
            with contextlib.suppress(OSError):
                link.sendall(STOP)

    def stop(self) -> None:
        gevent.killall(self._greenlets)
        for link in self._links.values():
            link.close()

    def _connect(self, file: Path) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short_path(file.parent, file.name) as path:
                link.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            # Left by a process that was killed. Any other error says nothing of it, and must not pass for its end.
            link.close()
            file.unlink(missing_ok=True)
            return
        self._links[file.name] = link
        self._shares[file.name] = None
        self._greenlets.append(gevent.spawn(self._read, file.name, link))

    def _read(self, name: str, link: Any) -> None:
        try:
            with link.makefile("rb") as lines:
                for line in lines:
                    self._shares[name] = json.loads(line)
                    self._look()
        except OSError as error:
            log.info("the link to the worker before this one broke: %s", error)
        finally:
            # Its sockets are closed with it, so the nodes do nothing for it any more.
            del self._shares[name], self._links[name]
            link.close()
            self._look()
            self._on_gone()

    def _look(self) -> None:
        if any(shares is None for shares in self._shares.values()):
            return
        total: Counter[str] = Counter()
        for shares in self._shares.values():
            total.update(shares)
        self._on_shares(total)
        self._all_told.set()


@contextlib.contextmanager
def _short_path(folder: Path, name: str) -> Iterator[str]:
    """A path to a socket that fits the 108 bytes of an address, however deep the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
