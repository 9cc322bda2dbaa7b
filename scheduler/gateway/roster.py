"""NodeRoster: the registered nodes, alike in store and dispatcher."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from gevent.lock import RLock

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.snapshot import NodeView
from scheduler.errors import InvalidFields, NodeConflict, UnknownNode
from scheduler.gateway.node_detail import NodeDetail, model_warnings, recovery_text
from scheduler.gateway.node_fields import check_node_fields, parse_address
from scheduler.gateway.ports import Event, EventLog, NodeStore, NodeTarget, StoredNode

#: What a registration says, and an operator may override.
OVERRIDABLE = ("address", "models", "max_concurrent", "weight", "api_key", "labels", "remark")


class NodeRoster:
    """The registered nodes. Every change goes through here, and is durable before it is in force.

    A node's fields are those of its last registration, except where an operator has set them (`overrides`). One change
    at a time: the store blocks, and two registrations of one id must not interleave.

    `clock` is the dispatcher's, `wall_clock` gives seconds since the epoch. `on_registered` is told the id of a node
    that has registered, moved or got another key: it wants a probe. `on_removed` is told the id of a removed node,
    `on_left` an address where no node lives any more. None of the three may block or raise.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: NodeStore,
        events: EventLog,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_registered: Callable[[str], None],
        on_removed: Callable[[str], None],
        on_left: Callable[[str], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._events = events
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_registered = on_registered
        self._on_removed = on_removed
        self._on_left = on_left
        self._changing = RLock()
        self._nodes: dict[str, StoredNode] = {}
        self._tombstones: dict[str, StoredNode] = {}  # nodes of the file that were deleted
        self._targets: dict[str, NodeTarget] = {}
        self._checked_at: dict[str, float] = {}
        self._listed: dict[str, tuple[str, ...]] = {}  # the models that a node says it has, where it says so
        self._file_ids: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<NodeRoster {len(self._nodes)} nodes, {len(self._tombstones)} deleted>"

    # -- start --------------------------------------------------------------------------------

    def load(self, file_nodes: Sequence[Mapping[str, Any]]) -> list[str]:
        """Bring back the kept nodes, and register those of the file that are not yet known.

        Gives one line for each node of the file that could not be registered. Raises InvalidFields for bad fields.
        """
        warnings: list[str] = []
        with self._changing:
            self._file_ids = frozenset(str(fields.get("id")) for fields in file_nodes)
            for node in self._store.load():
                if node.is_deleted:
                    self._tombstones[node.id] = node
                else:
                    self._put(node)
                    self._on_registered(node.id)
            for fields in file_nodes:
                node_id = fields.get("id")
                if node_id in self._nodes or node_id in self._tombstones:
                    continue
                try:
                    self.register(fields, "config.yaml")
                except NodeConflict as error:
                    warnings.append(f"node '{node_id}' of the settings is not registered: {error}")
        return warnings

    # -- changes ------------------------------------------------------------------------------

    def register(self, fields: Mapping[str, Any], actor: str) -> tuple[NodeDetail, bool]:
        """Register a node, or update it where its id is known; True where it is new.

        Its admin state and what an operator has set stay. Raises InvalidFields, and NodeConflict where another node has
        its address.
        """
        values = _checked(fields, partial=False)
        with self._changing:
            now = self._wall_clock()
            node_id = values["id"]
            before = self._nodes.get(node_id)
            is_from_file = node_id in self._file_ids or node_id in self._tombstones
            if before is None:
                after = StoredNode(
                    id=node_id,
                    state=values.get("state", AdminState.ACTIVE.value),
                    overrides={},
                    is_from_file=is_from_file,
                    is_deleted=False,
                    created_at=now,
                    updated_at=now,
                    **{name: values[name] for name in OVERRIDABLE},
                )
            else:
                after = deepcopy(before)
                after.is_from_file = after.is_from_file or is_from_file
                for name in OVERRIDABLE:
                    setattr(after, name, values[name])
            self._commit(before, after, actor, now)
            self._on_registered(node_id)
            return self._detail(after, self._dispatcher.node(node_id), _address_note(fields)), before is None

    def change(self, node_id: str, changes: Mapping[str, Any], actor: str) -> NodeDetail:
        """Set some fields for good, or lift what was set (None); `state` None means active.

        Raises UnknownNode, InvalidFields, and NodeConflict where another node has the address.
        """
        values = _checked(changes, partial=True)
        with self._changing:
            before = self._find(node_id)
            after = deepcopy(before)
            for name, value in values.items():
                if name == "state":
                    after.state = value or AdminState.ACTIVE.value
                elif value is None:
                    after.overrides.pop(name, None)
                else:
                    after.overrides[name] = value
            needs_probe = self._commit(before, after, actor, self._wall_clock())
            if needs_probe:
                self._on_registered(node_id)
            return self._detail(after, self._dispatcher.node(node_id), _address_note(changes))

    def remove(self, node_id: str, actor: str) -> None:
        """Forget a node; what runs there goes on. A node of the file stays away. Raises UnknownNode."""
        with self._changing:
            node = self._find(node_id)
            now = self._wall_clock()
            if node.is_from_file or node_id in self._file_ids:
                tombstone = deepcopy(node)
                tombstone.is_from_file = tombstone.is_deleted = True
                tombstone.overrides, tombstone.api_key, tombstone.updated_at = {}, None, now
                self._store.save(tombstone)
                self._tombstones[node_id] = tombstone
            else:
                self._store.delete(node_id)
            address = self._targets[node_id].address
            del self._nodes[node_id], self._targets[node_id]
            self._checked_at.pop(node_id, None)
            self._listed.pop(node_id, None)
            self._dispatcher.remove_node(node_id)
            self._events.add(Event(now, "node.removed", node_id, actor, before=_shown(node)))
            self._on_removed(node_id)
            self._on_left(address)

    # -- views --------------------------------------------------------------------------------

    def get(self, node_id: str) -> NodeDetail:
        """One node. Raises UnknownNode."""
        return self._detail(self._find(node_id), self._dispatcher.node(node_id))

    def list(self) -> list[NodeDetail]:
        """All nodes, in order of registration."""
        return [self._detail(self._nodes[view.spec.id], view) for view in self._dispatcher.nodes()]

    def target(self, node_id: str) -> NodeTarget:
        """Where to reach a node, and with which key; cheap, no I/O. Raises UnknownNode, also just after its removal."""
        target = self._targets.get(node_id)
        if target is None:
            raise UnknownNode(node_id)
        return target

    def note_check(self, node_id: str, at: float) -> None:
        """A probe of this node has ended at `at`, in seconds since the epoch."""
        if node_id in self._nodes:
            self._checked_at[node_id] = at

    def note_models(self, node_id: str, listed: tuple[str, ...]) -> None:
        """This node says that it has these models."""
        if node_id in self._nodes:
            self._listed[node_id] = listed

    # -- inside -------------------------------------------------------------------------------

    def _find(self, node_id: str) -> StoredNode:
        node = self._nodes.get(node_id)
        if node is None:
            raise UnknownNode(node_id)
        return node

    def _commit(self, before: StoredNode | None, after: StoredNode, actor: str, now: float) -> bool:
        """Make a change durable, then put it in force; True where the node lives elsewhere or has another key now."""
        target = _target(after)
        for other in self._targets.values():
            if other.address == target.address and other.id != after.id:
                raise NodeConflict(target.address, other.id)
        if before == after:
            return False
        after.updated_at = now
        self._store.save(after)
        self._tombstones.pop(after.id, None)
        former = self._targets.get(after.id)
        if former is not None and former.address != target.address:
            # What is known of the old address says nothing about the new one.
            self._dispatcher.set_health(after.id, Health.UNKNOWN)
            self._checked_at.pop(after.id, None)
            self._listed.pop(after.id, None)
        self._put(after)
        self._add_event(before, after, actor, now)
        if former is not None and former.address != target.address:
            self._on_left(former.address)
        return former != target

    def _put(self, node: StoredNode) -> None:
        target = _target(node)
        spec = NodeSpec(
            node.id,
            target.address,
            tuple(_effective(node, "models")),
            _effective(node, "max_concurrent"),
            _effective(node, "weight"),
        )
        self._nodes[node.id] = node
        self._targets[node.id] = target
        self._dispatcher.put_node(spec, AdminState(node.state))

    def _add_event(self, before: StoredNode | None, after: StoredNode, actor: str, now: float) -> None:
        new = _shown(after)
        if before is None:
            self._events.add(Event(now, "node.registered", after.id, actor, after=new))
            return
        old = _shown(before)
        changed = [name for name in new if new[name] != old[name]]
        note = "key replaced" if _effective(before, "api_key") != _effective(after, "api_key") else None
        if changed or note:
            was, is_now = {name: old[name] for name in changed}, {name: new[name] for name in changed}
            self._events.add(Event(now, "node.changed", after.id, actor, was, is_now, note))

    def _detail(self, node: StoredNode, view: NodeView, address_note: str | None = None) -> NodeDetail:
        return NodeDetail(
            id=node.id,
            address=view.spec.address,
            models=view.spec.models,
            max_concurrent=view.spec.max_concurrent,
            weight=view.spec.weight,
            labels=dict(_effective(node, "labels")),
            remark=_effective(node, "remark"),
            has_api_key=self._targets[node.id].api_key is not None,
            state=view.state.value,
            health=view.health.value,
            health_reason=view.health_reason or recovery_text(view),
            in_flight=view.in_flight,
            last_check_at=self._checked_at.get(node.id),
            since=self._wall_clock() - (self._clock() - view.since),
            created_at=node.created_at,
            updated_at=node.updated_at,
            overrides=tuple(sorted(node.overrides)),
            address_note=address_note,
            warnings=model_warnings(view.spec.models, self._listed.get(node.id)),
        )


def _checked(fields: Mapping[str, Any], *, partial: bool) -> dict[str, Any]:
    values, problems = check_node_fields(fields, partial=partial)
    if problems:
        raise InvalidFields(problems)
    return values


def _address_note(fields: Mapping[str, Any]) -> str | None:
    address = fields.get("address")
    return parse_address(address).note if address is not None else None


def _effective(node: StoredNode, name: str) -> Any:
    """A field as it is in force: set by an operator, else as registered."""
    return node.overrides.get(name, getattr(node, name))


def _target(node: StoredNode) -> NodeTarget:
    return NodeTarget(node.id, _effective(node, "address"), _effective(node, "api_key") or None)


def _shown(node: StoredNode) -> dict[str, Any]:
    """A node for the audit trail, without its key."""
    shown = {name: _effective(node, name) for name in OVERRIDABLE if name != "api_key"}
    return {**shown, "has_api_key": bool(_effective(node, "api_key")), "state": node.state}
