"""Report: what a simulation has shown, in figures."""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scheduler.capacity.replay import End, Passage, Replay
from scheduler.capacity.slot_use import SlotUse
from scheduler.core.priority import Priority

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long those waited that got a slot, in seconds; None where nobody got one."""

    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    max_s: float | None

    @classmethod
    def of(cls, waits_s: Sequence[float]) -> "Waits":
        """Of any number of waits. A percentile is the smallest wait that so many percent did not exceed."""
        if not waits_s:
            return cls(None, None, None, None, None)
        ordered = sorted(waits_s)
        # Rounded first: 0.95 times 20 is a little more than 19.
        ranks = [math.ceil(round(quantile * len(ordered), 6)) for quantile in QUANTILES]
        p50_s, p95_s, p99_s = (ordered[max(rank, 1) - 1] for rank in ranks)
        return cls(math.fsum(ordered) / len(ordered), p50_s, p95_s, p99_s, ordered[-1])


@dataclass(frozen=True, slots=True)
class Line:
    """The requests of one model and priority; None: of all."""

    model: str | None
    priority: Priority | None
    requests: int
    ends: Mapping[End, int]
    waits: Waits


@dataclass(frozen=True, slots=True)
class NodeLine:
    """The slots of one node; `use` is the share of its slot-seconds that was in use until the last arrival."""

    node_id: str
    use: float
    peak: int
    granted: int


@dataclass(frozen=True, slots=True)
class Report:
    """What has come out. `lines` hold each model's priorities, then the model as a whole; the last one is all."""

    lines: tuple[Line, ...]
    nodes: tuple[NodeLine, ...]
    max_queue: int
    max_queue_by_model: Mapping[str, int]
    ended_at_s: float

    @property
    def total(self) -> Line:
        return self.lines[-1]

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain values, for JSON."""
        return {
            "requests": [
                {
                    "model": line.model,
                    "priority": None if line.priority is None else line.priority.label,
                    "requests": line.requests,
                    **{end.value: line.ends.get(end, 0) for end in End},
                    "wait": _rounded(asdict(line.waits)),
                }
                for line in self.lines
            ],
            "nodes": [_rounded(asdict(node)) for node in self.nodes],
            "max_queue": self.max_queue,
            "max_queue_by_model": dict(self.max_queue_by_model),
            "ended_at_s": round(self.ended_at_s, 6),
        }


class _Group:
    """The requests of one model and priority, being counted."""

    __slots__ = ("ends", "waits_s")

    def __init__(self) -> None:
        self.ends: Counter[End] = Counter()
        self.waits_s = array("d")

    def line(self, model: str | None, priority: Priority | None) -> Line:
        return Line(model, priority, self.ends.total(), dict(self.ends), Waits.of(self.waits_s))

    @classmethod
    def sum(cls, groups: Iterable["_Group"]) -> "_Group":
        total = cls()
        for group in groups:
            total.ends += group.ends
            total.waits_s.extend(group.waits_s)
        return total


def report_on(replay: Replay) -> Report:
    """Run a simulation to its end, and count."""
    groups: dict[tuple[str, Priority], _Group] = {}
    ended_at_s = 0.0
    for passage in replay.run():
        key = (passage.arrival.model, passage.arrival.priority)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group()
        _count(group, passage)
        ended_at_s = passage.ended_at_s
    lines = []
    for model in sorted({model for model, _ in groups}):
        of_model = {priority: groups[model, priority] for priority in Priority if (model, priority) in groups}
        lines += [group.line(model, priority) for priority, group in of_model.items()]
        if len(of_model) > 1:
            lines.append(_Group.sum(of_model.values()).line(model, None))
    lines.append(_Group.sum(groups.values()).line(None, None))
    nodes = tuple(_node_line(use) for use in replay.uses.values())
    return Report(tuple(lines), nodes, replay.max_waiting, dict(replay.max_waiting_by_model), ended_at_s)


def _count(group: _Group, passage: Passage) -> None:
    group.ends[passage.end] += 1
    if passage.granted_at_s is not None:
        group.waits_s.append(passage.granted_at_s - passage.arrival.at_s)


def _node_line(use: SlotUse) -> NodeLine:
    return NodeLine(use.node_id, use.share, use.peak, use.granted)


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """To a microsecond: what is behind it is noise of the arithmetic."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
