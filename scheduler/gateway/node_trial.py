"""NodeTrial: tries an address before it is registered, and proposes what to register."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.errors import InvalidFields, UnknownNode
from scheduler.gateway.node_fields import check_node_fields, nearest_name, parse_address
from scheduler.gateway.ports import ExamStep, NodeExaminer, NodeFindings, NodeTarget
from scheduler.gateway.roster import NodeRoster

TRIAL_FIELDS = ("address", "api_key")

#: Says which engine it is, not whether it can serve: it never decides.
_ADVISORY = "engine"


@dataclass(frozen=True, slots=True)
class TrialResult:
    """How a trial went, step by step, and what it proposes."""

    address: str | None  # in its one spelling; None where it is no address
    address_note: str | None  # what was cut off
    findings: NodeFindings
    registered_as: str | None = None  # the node that has this address
    registered_models: dict[str, list[str]] = field(default_factory=dict)  # model -> the nodes that have it

    @property
    def failed_step(self) -> str | None:
        """The first step that failed and matters."""
        return next((step.name for step in self.findings.steps if not step.is_ok and step.name != _ADVISORY), None)


class NodeTrial:
    """Tries addresses. Nothing is changed by it, neither here nor there. `clock` gives seconds."""

    def __init__(self, roster: NodeRoster, examiner: NodeExaminer, clock: Callable[[], float]) -> None:
        self._roster = roster
        self._examiner = examiner
        self._clock = clock

    def run(self, fields: Mapping[str, Any]) -> TrialResult:
        """Try an address with an api_key. Where none is given and a node is registered there, with that node's.

        Raises InvalidFields. An address that cannot be one is a step that failed.
        """
        text, key = _checked(fields)
        began = self._clock()
        try:
            parsed = parse_address(text)
        except ValueError as error:
            return TrialResult(None, None, NodeFindings((self._url_step(began, False, str(error)),)))
        url_step = self._url_step(began, True, parsed.address)
        node_id, notes = self._node_at(parsed.address), []
        if node_id is not None and key is None:
            key = self._key_of(node_id)
            notes = [f"The key of node '{node_id}' was used."] if key else []
        found = self._examiner.examine(NodeTarget(node_id or "", parsed.address, key or None))
        models, limit, faults = _usable(found)
        findings = NodeFindings(
            (url_step, *found.steps), models, found.engine, found.engine_version, limit, (*notes, *found.notes, *faults)
        )
        return TrialResult(parsed.address, parsed.note, findings, node_id, self._nodes_with(models))

    def _url_step(self, began: float, is_ok: bool, message: str) -> ExamStep:
        return ExamStep("url", is_ok, message, (self._clock() - began) * 1000)

    def _node_at(self, address: str) -> str | None:
        return next((node.id for node in self._roster.list() if node.address == address), None)

    def _key_of(self, node_id: str) -> str | None:
        try:
            return self._roster.target(node_id).api_key
        except UnknownNode:
            return None

    def _nodes_with(self, models: tuple[str, ...]) -> dict[str, list[str]]:
        nodes = self._roster.list()
        having = {model: [node.id for node in nodes if model in node.models] for model in models}
        return {model: ids for model, ids in having.items() if ids}


def _checked(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    faults: list[tuple[str, str]] = []
    address = fields.get("address")
    if address is None:
        faults.append(("address", "is required"))
    elif not isinstance(address, str):
        faults.append(("address", "must be text; put it in quotes"))
    key_fields = {name: fields[name] for name in ("api_key",) if name in fields}
    values, key_faults = check_node_fields(key_fields, partial=True)
    faults += key_faults
    for name in fields:
        if name not in TRIAL_FIELDS:
            near = nearest_name(name, TRIAL_FIELDS)
            faults.append((name, f"unknown field; {f'did you mean {near}?' if near else 'it takes address, api_key'}"))
    if faults:
        raise InvalidFields(faults)
    return str(address), values.get("api_key")


def _usable(found: NodeFindings) -> tuple[tuple[str, ...], int | None, list[str]]:
    """What of the findings could be registered: an engine may say anything."""
    models, notes = [], []
    for model in found.models:
        _, faults = check_node_fields({"models": [model]}, partial=True)
        if faults:
            notes.append(f"A model is left out: {faults[0][1]}.")
        else:
            models.append(model)
    values, _ = check_node_fields({"max_concurrent": found.max_concurrent}, partial=True)
    return tuple(models), values.get("max_concurrent"), notes[:10]
