"""FleetFile: the nodes of a simulation, from a file like config.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler.capacity.fleet import Action, Fleet, FleetEvent, FleetNode
from scheduler.core.node import AdminState, NodeSpec
from scheduler.errors import ConfigError
from scheduler.gateway.node_fields import MAX_CONCURRENT, MAX_WEIGHT, check_node_fields, nearest_name
from scheduler.settings.duration import parse_duration
from scheduler.settings.schema import SECTIONS
from scheduler.settings.yaml_file import YamlFile, read_yaml_file

_EVENT_FIELDS = ("at", "node", "action", "to")
_NUMBERS = {Action.LIMIT: MAX_CONCURRENT, Action.WEIGHT: MAX_WEIGHT}


def read_fleet(path: Path) -> Fleet:
    """The fleet of a file: `nodes` as in config.yaml, where `address` may be left out and `speed` added, and `events`.

    The sections of config.yaml may stand there, too; nothing is read from them. Raises ConfigError with every mistake
    at once, one line each.
    """
    return _Reading(read_yaml_file(path)).finish()


class _Reading:
    """One pass over a file: collects nodes, events and problems."""

    def __init__(self, file: YamlFile) -> None:
        self._file = file
        self._problems = [str(problem) for problem in file.problems]
        self._known: dict[str, FleetNode] = {}  # whatever was or will be registered

    def finish(self) -> Fleet:
        if not self._file.is_readable:
            raise ConfigError(self._problems)
        for name in self._file.content:
            if name not in SECTIONS and name not in ("nodes", "events"):
                near = nearest_name(name, [*SECTIONS, "nodes", "events"])
                self._report((name,), f"unknown; did you mean {near}?" if near else "unknown; write nodes or events")
        nodes = [self._node(entry, ("nodes", index)) for index, entry in enumerate(self._list("nodes"))]
        if not nodes:
            self._report(("nodes",), "there must be at least one node")
        ids = [node.spec.id for node in nodes if node is not None]
        for index, node_id in enumerate(ids):
            if node_id in ids[:index]:
                self._report(("nodes", index), f"there is another node '{node_id}' above")
        events = [self._event(entry, ("events", index)) for index, entry in enumerate(self._list("events"))]
        if self._problems:
            raise ConfigError(self._problems)
        in_order = sorted((event for event in events if event is not None), key=lambda event: event.at_s)
        return Fleet(tuple(node for node in nodes if node is not None), tuple(in_order))

    def _list(self, name: str) -> list[Any]:
        given = self._file.content.get(name) or []
        if isinstance(given, list):
            return given
        self._report((name,), "must be a list")
        return []

    def _node(self, entry: Any, path: tuple[str | int, ...]) -> FleetNode | None:
        if not isinstance(entry, dict):
            self._report(path, "must be a node such as {id: gpu-01, models: [llama], max_concurrent: 8}")
            return None
        fields = {name: value for name, value in entry.items() if name != "speed"}
        fields.setdefault("address", "http://localhost")  # nobody calls it
        values, faults = check_node_fields(fields, partial=False)
        speed = entry.get("speed", 1.0)
        if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed <= 1000:
            faults.append(("speed", f"{speed!r} is no speed; 2 means that every request takes half its time"))
        for name, message in faults:
            self._report((*path, name), message)
        if faults:
            return None
        node_id = values["id"]
        # By its id: only a node that comes back under the same one takes over what it still runs.
        address, models = f"simulated://{node_id}", tuple(values["models"])
        spec = NodeSpec(node_id, address, models, values["max_concurrent"], values["weight"])
        node = FleetNode(spec, AdminState(values.get("state", AdminState.ACTIVE)), float(speed))
        self._known[node_id] = node
        return node

    def _event(self, entry: Any, path: tuple[str | int, ...]) -> FleetEvent | None:
        example = "must be an event such as {at: 60s, node: gpu-01, action: drain}"
        if not isinstance(entry, dict) or not {"at", "node", "action"} <= set(entry):
            self._report(path, example)
            return None
        for name in set(entry) - set(_EVENT_FIELDS):
            self._report((*path, name), f"unknown; the fields are {', '.join(_EVENT_FIELDS)}")
        try:
            at_s = parse_duration(entry["at"])
        except ValueError as error:
            self._report((*path, "at"), str(error))
            return None
        if entry["action"] not in list(Action):
            self._report((*path, "action"), f"{entry['action']!r} is none of {', '.join(Action)}")
            return None
        action = Action(entry["action"])
        if action is Action.ADD and isinstance(entry["node"], Mapping):
            added = self._node(entry["node"], (*path, "node"))
            return None if added is None else FleetEvent(at_s, action, added.spec.id, node=added)
        node = self._known.get(entry["node"]) if isinstance(entry["node"], str) else None
        if node is None:
            self._report((*path, "node"), f"{entry['node']!r} is none of {', '.join(self._known)}")
            return None
        number = self._number(entry, action, path)
        return FleetEvent(at_s, action, node.spec.id, number, node if action is Action.ADD else None)

    def _number(self, entry: Mapping[str, Any], action: Action, path: tuple[str | int, ...]) -> int:
        """What `to` says, for those actions that need it."""
        number, most = entry.get("to"), _NUMBERS.get(action)
        if most is None:
            if number is not None:
                self._report((*path, "to"), f"says nothing about {action}")
            return 0
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
            self._report((*path, "to"), f"must be a whole number from 1 to {most}")
            return 0
        return number

    def _report(self, path: tuple[str | int, ...], message: str) -> None:
        place = self._file.place(path)
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        self._problems.append(f"{place.source if place else self._file.name}: {shown}: {message}")
