"""Timetable: what is to happen when, on a clock that is passed in."""

from collections.abc import Callable

from scheduler.core.lazy_heap import Entry, LazyHeap

Action = Callable[[], None]


class Timetable:
    """Actions by due time. Nothing runs by itself: `run_due` is told the time."""

    __slots__ = ("_actions", "on_sooner")

    def __init__(self) -> None:
        self._actions: LazyHeap[Action] = LazyHeap()
        self.on_sooner: Callable[[], None] | None = None  # called when something became due before all others

    def __len__(self) -> int:
        return len(self._actions)

    @property
    def next_due(self) -> float | None:
        """When the next action is due; None where nothing is planned."""
        due: float | None = self._actions.first_key()
        return due

    def add(self, due: float, action: Action) -> Entry[Action]:
        """Plan an action; the entry is what `cancel` wants back."""
        next_due = self.next_due
        entry = self._actions.push(due, action)
        if self.on_sooner is not None and (next_due is None or due < next_due):
            self.on_sooner()
        return entry

    def cancel(self, entry: Entry[Action]) -> None:
        """Forget an action. Nothing happens where it has run."""
        self._actions.discard(entry)

    def run_due(self, now: float) -> None:
        """Run, in order, every action due at `now` or before."""
        while (due := self._actions.first_key()) is not None and due <= now:
            self._actions.pop()()
