"""LazyHeap: a gevent PriorityQueue whose entries can be discarded."""

from collections.abc import Iterator
from itertools import count
from typing import Any, Generic, TypeVar

from gevent.queue import PriorityQueue

T = TypeVar("T")

#: Below this many dead entries a compaction costs more than it frees.
MIN_DEAD = 64


class Entry(Generic[T]):
    """An item's place in a LazyHeap; `item` is None once it has been discarded or taken."""

    __slots__ = ("item",)

    def __init__(self, item: T) -> None:
        self.item: T | None = item


class LazyHeap(Generic[T]):
    """Items by key, smallest first; push, pop and discard cost O(log n), amortised.

    gevent's PriorityQueue cannot remove from its middle, so a discarded entry stays until it is skipped at the head,
    and the heap is rebuilt when more than half of it is dead. A serial number behind the key keeps equal keys in
    order of arrival and items from ever being compared.
    """

    __slots__ = ("_dead", "_queue", "_serial")

    def __init__(self) -> None:
        self._queue: Any = PriorityQueue()
        self._serial = count()
        self._dead = 0

    def __len__(self) -> int:
        """How many items are alive."""
        return int(self._queue.qsize()) - self._dead

    def __iter__(self) -> Iterator[T]:
        """The items in order. Sorts a copy: for snapshots, not for matching."""
        return (entry.item for _, _, entry in sorted(self._queue.queue) if entry.item is not None)

    def push(self, key: Any, item: T) -> Entry[T]:
        """Add an item; the entry is what `discard` wants back."""
        entry = Entry(item)
        self._queue.put_nowait((key, next(self._serial), entry))
        return entry

    def discard(self, entry: Entry[T]) -> None:
        """Remove an entry. Nothing happens where it has left already."""
        if entry.item is None:
            return
        entry.item = None
        self._dead += 1
        if self._dead >= MIN_DEAD and self._dead * 2 > self._queue.qsize():
            self._queue = PriorityQueue(items=[row for row in self._queue.queue if row[2].item is not None])
            self._dead = 0

    def first(self) -> T | None:
        """The item with the smallest key, left in place; None where there is none."""
        self._skip_dead()
        return self._queue.peek_nowait()[2].item if self._queue.qsize() else None

    def first_key(self) -> Any:
        """The smallest key; None where there is no item."""
        self._skip_dead()
        return self._queue.peek_nowait()[0] if self._queue.qsize() else None

    def pop(self) -> T:
        """Take the item with the smallest key. Raises IndexError where there is none."""
        self._skip_dead()
        if not self._queue.qsize():
            raise IndexError("pop from an empty LazyHeap")
        entry = self._queue.get_nowait()[2]
        item: T = entry.item
        entry.item = None
        return item

    def _skip_dead(self) -> None:
        queue = self._queue
        while self._dead and queue.qsize() and queue.peek_nowait()[2].item is None:
            queue.get_nowait()
            self._dead -= 1
