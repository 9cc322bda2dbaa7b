"""The link between the two workers of a reload."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from scheduler.adapters.handover import Predecessor, Successor


class Old:
    """An old worker, whose shares a test sets."""

    def __init__(self, folder: Path, boot_id: str = "old") -> None:
        self.shares: dict[str, int] = {"http://a": 3}
        self.succeeded, self.stopped = Event(), Event()
        self.predecessor = Predecessor(folder, boot_id, lambda: self.shares, self.succeeded.set, self.stopped.set)
        self.predecessor.start()


class New:
    """A new worker that notes what it is told."""

    def __init__(self, folder: Path) -> None:
        self.told: list[dict[str, int]] = []
        self.gone = Event()
        self.changed = Event()
        self.successor = Successor(folder, self._note, self.gone.set)

    def _note(self, shares: Mapping[str, int]) -> None:
        self.told.append(dict(shares))
        self.changed.set()

    def wait_for(self, shares: dict[str, int]) -> None:
        while not self.told or self.told[-1] != shares:
            self.changed.clear()
            assert self.changed.wait(5), self.told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ("deep-" * 20) / "handover"  # deeper than the address of a local socket may be long


@pytest.fixture
def new(folder: Path) -> Iterator[New]:
    new = New(folder)
    yield new
    new.successor.stop()


def test_the_first_worker_has_nobody_before_it(new: New) -> None:
    new.successor.connect()
    assert new.told == [{}]


def test_a_successor_is_told_what_is_still_needed_until_nothing_is(folder: Path, new: New) -> None:
    old = Old(folder)
    new.successor.connect()
    assert old.succeeded.is_set()
    assert new.told == [{"http://a": 3}]
    old.shares = {"http://a": 1}
    new.wait_for({"http://a": 1})
    old.predecessor.stop()
    assert new.gone.wait(5)
    assert new.told[-1] == {}


def test_what_several_predecessors_need_is_added_up(folder: Path, new: New) -> None:
    first, second = Old(folder, "first"), Old(folder, "second")
    second.shares = {"http://a": 1, "http://b": 2}
    new.successor.connect()
    assert new.told[-1] == {"http://a": 4, "http://b": 2}
    first.predecessor.stop()
    new.wait_for({"http://a": 1, "http://b": 2})
    second.predecessor.stop()
    new.wait_for({})


def test_the_socket_of_a_killed_worker_is_no_predecessor(folder: Path, new: New) -> None:
    old = Old(folder)
    gevent.killall(old.predecessor._greenlets)
    old.predecessor._listener.close()  # as the kernel does; the file stays
    assert list(folder.glob("*.sock"))
    new.successor.connect()
    assert new.told == [{}]
    assert not list(folder.glob("*.sock"))


def test_a_stop_is_passed_on(folder: Path, new: New) -> None:
    old = Old(folder)
    new.successor.connect()
    new.successor.tell_to_stop()
    assert old.stopped.wait(5)
    old.predecessor.stop()
