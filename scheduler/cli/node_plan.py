"""NodePlan: what an import would do to the nodes of a server, told before anything is done."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Node = Mapping[str, Any]
Kind = Literal["added", "changed", "unchanged", "kept", "removed"]

_ORDER: tuple[Kind, ...] = ("removed", "changed", "added", "unchanged", "kept")  # what frees addresses comes first


@dataclass(frozen=True, slots=True)
class NodeStep:
    """What happens to one node. `fields` goes to the server, `lines` to the operator."""

    kind: Kind
    node_id: str
    lines: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold a key

    @property
    def call(self) -> tuple[str, str, dict[str, Any] | None] | None:
        """Method, path and body of the call that does it; None where there is nothing to do."""
        path = f"/admin/nodes/{self.node_id}"
        if self.kind == "added":
            return "POST", "/admin/nodes", dict(self.fields)
        if self.kind == "removed":
            return "DELETE", path, None
        return ("PATCH", path, dict(self.fields)) if self.fields else None


@dataclass(frozen=True, slots=True)
class NodePlan:
    """All steps of an import, those first that make room for others. Made by `plan_import`."""

    steps: tuple[NodeStep, ...]
    conflicts: tuple[str, ...]  # why it cannot work

    @property
    def is_empty(self) -> bool:
        """True where the server has all of it already."""
        return not any(step.call for step in self.steps)

    def lines(self) -> Iterator[str]:
        """The plan, for people."""
        width = max((len(step.node_id) for step in self.steps), default=0)
        for step in self.steps:
            for at, line in enumerate(step.lines or ("",)):
                head = f"{step.kind:<9}  {step.node_id:<{width}}" if at == 0 else " " * (11 + width)
                yield f"{head}  {line}".rstrip()
        counts = Counter(step.kind for step in self.steps)
        told = [
            f"{counts[kind]} {kind}" for kind in ("added", "changed", "unchanged", "removed", "kept") if counts[kind]
        ]
        yield ", ".join(told) or "no nodes, neither here nor there"


def plan_import(wanted: Sequence[Node], there: Sequence[Node], prune: bool) -> NodePlan:
    """What makes the nodes `there` on the server as `wanted`. A field that the file leaves out stays as it is."""
    known = {node["id"]: node for node in there}
    named = {node["id"] for node in wanted}
    steps = [_step(node, known.get(node["id"])) for node in wanted]
    others = [node for node in there if node["id"] not in named]
    steps += [_removed(node) if prune else _kept(node) for node in others]
    conflicts = []
    if not prune:
        owners = {node["address"]: node["id"] for node in others}
        conflicts = [
            f"{node['id']}: {node['address']} is the address of {owners[node['address']]}, which is on the server "
            "and not in the file; --prune removes it"
            for node in wanted
            if node["address"] in owners
        ]
    return NodePlan(tuple(sorted(steps, key=lambda step: _ORDER.index(step.kind))), tuple(conflicts))


def _step(wanted: Node, there: Node | None) -> NodeStep:
    node_id = wanted["id"]
    if there is None:
        lines = [f"{name}: {_shown(value)}" for name, value in wanted.items() if name not in ("id", "api_key")]
        return NodeStep("added", node_id, (*lines, *(["with its key"] if wanted.get("api_key") else [])), wanted)
    fields: dict[str, Any] = {}
    lines = []
    for name, value in wanted.items():
        if name not in ("id", "api_key") and there[name] != value:
            fields[name] = value
            by_hand = " (set by hand)" if name in there["overrides"] else ""
            lines.append(f"{name}: {_shown(there[name])}{by_hand} -> {_shown(value)}")
    kind: Kind = "changed" if fields else "unchanged"
    if wanted.get("api_key"):
        # The server never shows a key, so that nobody can tell whether it is another one.
        fields["api_key"] = wanted["api_key"]
        lines.append("its key is sent" + (" again" if there["has_api_key"] else ""))
        kind = kind if there["has_api_key"] else "changed"
    elif "api_key" in wanted and there["has_api_key"]:
        fields["api_key"], kind = "", "changed"
        lines.append("its key is taken away")
    return NodeStep(kind, node_id, tuple(lines), fields)


def _removed(node: Node) -> NodeStep:
    running = f"; {node['in_flight']} running go on" if node["in_flight"] else ""
    return NodeStep("removed", node["id"], (f"not in the file{running}",))


def _kept(node: Node) -> NodeStep:
    return NodeStep("kept", node["id"], ("not in the file; --prune removes it",))


def _shown(value: Any) -> str:
    """A value on one line."""
    return json.dumps(value, ensure_ascii=False)
