"""SlotUse: how much of a node's slots was in use."""

from scheduler.core.node import NodeSpec


class SlotUse:
    """Slot-seconds of one node, held and had, from the beginning until `stop`.

    Times are seconds that never run backwards. While a node is not registered it has no slots, but may hold some.
    """

    __slots__ = ("_is_stopped", "_since_s", "granted", "had_slot_s", "held", "held_slot_s", "limit", "node_id", "peak")

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.limit = 0
        self.held = 0
        self.peak = 0  # most held at once
        self.granted = 0
        self.held_slot_s = 0.0
        self.had_slot_s = 0.0
        self._since_s = 0.0
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<SlotUse {self.node_id} {self.held}/{self.limit} {self.share:.0%}>"

    @property
    def share(self) -> float:
        """The part of its slots that was in use, 0 to 1; more where a limit was lowered below what ran."""
        return self.held_slot_s / self.had_slot_s if self.had_slot_s else 0.0

    def take(self, now_s: float) -> None:
        """A slot has been granted."""
        self._count_until(now_s)
        self.held += 1
        self.granted += 1
        self.peak = max(self.peak, self.held)

    def give_back(self, now_s: float) -> None:
        """A slot has been given back."""
        self._count_until(now_s)
        self.held -= 1

    def note_spec(self, spec: NodeSpec | None, now_s: float) -> None:
        """It is registered like this from now on; None: it is removed."""
        self._count_until(now_s)
        self.limit = spec.max_concurrent if spec is not None else 0

    def stop(self, now_s: float) -> None:
        """Nothing counts any more: the last request has come, and emptying nodes would only blur the figure."""
        self._count_until(now_s)
        self._is_stopped = True

    def _count_until(self, now_s: float) -> None:
        if not self._is_stopped:
            passed_s = now_s - self._since_s
            self.held_slot_s += self.held * passed_s
            self.had_slot_s += self.limit * passed_s
            self._since_s = now_s
