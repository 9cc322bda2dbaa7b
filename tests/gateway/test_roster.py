"""The roster: what is registered, overridden and deleted, alike in store and dispatcher."""

import gevent
import pytest

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import Health
from scheduler.errors import InvalidFields, NodeConflict, UnknownNode
from scheduler.gateway.roster import NodeRoster
from tests.support.fakes import MemoryEventLog, MemoryNodeStore

GPU_1 = {"id": "gpu-1", "address": "http://10.0.0.1:8000", "models": ["qwen"], "max_concurrent": 4}


class Desk:
    """A roster with everything around it; `restart` is a new process on the same store."""

    def __init__(self) -> None:
        self.store = MemoryNodeStore()
        self.now = 1_000.0
        self.restart([])

    def restart(self, file_nodes: list[dict]) -> list[str]:
        self.events = MemoryEventLog()
        self.registered: list[str] = []
        self.removed: list[str] = []
        self.left: list[str] = []
        self.dispatcher = Dispatcher(lambda: self.now)
        self.roster = NodeRoster(
            self.dispatcher,
            self.store,
            self.events,
            clock=lambda: self.now,
            wall_clock=lambda: self.now + 1_700_000_000.0,
            on_registered=self.registered.append,
            on_removed=self.removed.append,
            on_left=self.left.append,
        )
        return self.roster.load(file_nodes)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_registration_is_in_store_and_dispatcher_and_is_to_be_probed(desk):
    detail, is_new = desk.roster.register({**GPU_1, "api_key": "sk-1"}, "10.0.0.9")
    assert is_new
    assert (detail.state, detail.health, detail.has_api_key, detail.weight) == ("active", "unknown", True, 100)
    assert desk.store.nodes["gpu-1"].api_key == "sk-1"
    assert desk.dispatcher.node("gpu-1").spec.models == ("qwen",)
    assert desk.registered == ["gpu-1"]
    assert desk.roster.target("gpu-1").api_key == "sk-1"


def test_keys_are_in_no_detail_event_or_repr(desk):
    detail, _ = desk.roster.register({**GPU_1, "api_key": "sk-secret"}, "op")
    desk.roster.change("gpu-1", {"api_key": "sk-other-secret"}, "op")
    desk.roster.remove("gpu-1", "op")
    assert "secret" not in repr((detail, desk.events.events, desk.roster))
    assert desk.events.events[1].note == "key replaced"


def test_all_bad_fields_are_told_at_once(desk):
    with pytest.raises(InvalidFields) as caught:
        desk.roster.register({"id": "a b", "address": "nowhere", "models": [], "max_concurrent": 0}, "op")
    assert [param for param, _ in caught.value.details] == ["id", "address", "models", "max_concurrent"]
    assert desk.store.nodes == {}


def test_the_same_id_again_updates_it_and_keeps_the_admin_state(desk):
    desk.roster.register(GPU_1, "op")
    desk.roster.change("gpu-1", {"state": "draining"}, "op")
    detail, is_new = desk.roster.register({**GPU_1, "max_concurrent": 8, "state": "active"}, "op")
    assert not is_new
    assert (detail.max_concurrent, detail.state) == (8, "draining")


def test_what_an_operator_has_set_survives_registrations_until_it_is_lifted(desk):
    desk.roster.register(GPU_1, "op")
    assert desk.roster.change("gpu-1", {"max_concurrent": 2, "remark": "hot"}, "op").overrides == (
        "max_concurrent",
        "remark",
    )
    detail, _ = desk.roster.register({**GPU_1, "max_concurrent": 16}, "op")
    assert (detail.max_concurrent, detail.remark) == (2, "hot")
    desk.restart([])
    assert desk.roster.get("gpu-1").max_concurrent == 2
    detail = desk.roster.change("gpu-1", {"max_concurrent": None, "state": None}, "op")
    assert (detail.max_concurrent, detail.overrides) == (16, ("remark",))


def test_an_empty_key_is_an_override_too(desk):
    desk.roster.register({**GPU_1, "api_key": "sk-1"}, "op")
    assert desk.roster.change("gpu-1", {"api_key": ""}, "op").has_api_key is False
    assert desk.roster.change("gpu-1", {"api_key": None}, "op").has_api_key is True


def test_an_address_belongs_to_one_node(desk):
    desk.roster.register(GPU_1, "op")
    with pytest.raises(NodeConflict) as caught:
        desk.roster.register({**GPU_1, "id": "gpu-2"}, "op")
    assert caught.value.other_id == "gpu-1"
    desk.roster.register({**GPU_1, "id": "gpu-2", "address": "http://10.0.0.2:8000"}, "op")
    with pytest.raises(NodeConflict):
        desk.roster.change("gpu-2", {"address": "http://10.0.0.1:8000/"}, "op")
    assert desk.roster.get("gpu-2").address == "http://10.0.0.2:8000"


def test_a_node_that_moves_is_unknown_until_it_is_probed(desk):
    desk.roster.register(GPU_1, "op")
    desk.dispatcher.set_health("gpu-1", Health.UP)
    detail = desk.roster.change("gpu-1", {"address": "http://10.0.0.7:8000/v1"}, "op")
    assert (detail.address, detail.health) == ("http://10.0.0.7:8000", "unknown")
    assert detail.address_note is not None
    assert desk.left == ["http://10.0.0.1:8000"]
    assert desk.registered == ["gpu-1", "gpu-1"]


def test_a_change_of_weight_asks_for_no_probe(desk):
    desk.roster.register(GPU_1, "op")
    desk.dispatcher.set_health("gpu-1", Health.UP)
    detail = desk.roster.change("gpu-1", {"weight": 50}, "op")
    assert (detail.health, desk.registered) == ("up", ["gpu-1"])


def test_a_removed_node_is_gone_everywhere(desk):
    desk.roster.register(GPU_1, "op")
    desk.roster.remove("gpu-1", "op")
    assert (desk.store.nodes, desk.dispatcher.nodes(), desk.roster.list()) == ({}, [], [])
    assert (desk.removed, desk.left) == (["gpu-1"], ["http://10.0.0.1:8000"])
    for call in (desk.roster.get, desk.roster.target):
        with pytest.raises(UnknownNode):
            call("gpu-1")
    with pytest.raises(UnknownNode):
        desk.roster.remove("gpu-1", "op")
    assert desk.events.kinds == ["node.registered", "node.removed"]


def test_nodes_of_the_file_are_registered_once_and_then_belong_to_the_operator(desk):
    desk.restart([GPU_1])
    desk.roster.change("gpu-1", {"weight": 7}, "op")
    desk.restart([{**GPU_1, "max_concurrent": 99}])
    assert (desk.roster.get("gpu-1").max_concurrent, desk.roster.get("gpu-1").weight) == (4, 7)
    assert desk.registered == ["gpu-1"]


def test_a_deleted_node_of_the_file_stays_away_until_it_is_registered_again(desk):
    desk.roster.register(GPU_1, "op")  # by the API, before it was in the file
    desk.restart([GPU_1])
    desk.roster.remove("gpu-1", "op")
    desk.restart([GPU_1])
    assert desk.roster.list() == []
    _, is_new = desk.roster.register(GPU_1, "op")
    assert is_new
    desk.restart([GPU_1])
    assert [node.id for node in desk.roster.list()] == ["gpu-1"]


def test_a_node_of_the_file_at_a_taken_address_is_told_and_left_out(desk):
    desk.roster.register(GPU_1, "op")
    warnings = desk.restart([{**GPU_1, "id": "gpu-2"}])
    assert len(warnings) == 1
    assert "gpu-2" in warnings[0]
    assert [node.id for node in desk.roster.list()] == ["gpu-1"]


def test_what_cannot_be_stored_is_not_in_force(desk):
    desk.roster.register(GPU_1, "op")

    def fail(node):
        raise OSError("disk full")

    desk.store.before_save = fail
    with pytest.raises(OSError):
        desk.roster.change("gpu-1", {"max_concurrent": 9}, "op")
    with pytest.raises(OSError):
        desk.roster.register({**GPU_1, "id": "gpu-2", "address": "http://10.0.0.2:1"}, "op")
    assert [node.spec.max_concurrent for node in desk.dispatcher.nodes()] == [4]
    assert desk.roster.get("gpu-1").max_concurrent == 4


def test_an_unchanged_registration_leaves_no_trace(desk):
    desk.roster.register(GPU_1, "op")
    before = desk.roster.get("gpu-1")
    desk.now += 60
    detail, is_new = desk.roster.register(GPU_1, "op")
    assert (is_new, detail.updated_at, desk.store.saves) == (False, before.updated_at, 1)
    assert desk.events.kinds == ["node.registered"]
    assert desk.registered == ["gpu-1", "gpu-1"]  # it has just booted: a probe is due all the same


def test_registrations_of_one_id_at_once_do_not_interleave(desk):
    inside = []

    def watch(node):
        inside.append(node.id)
        gevent.sleep(0)
        assert len(inside) == 1
        inside.clear()

    desk.store.before_save = watch
    calls = [gevent.spawn(desk.roster.register, {**GPU_1, "max_concurrent": n}, "op") for n in range(1, 20)]
    gevent.joinall(calls, raise_error=True)
    assert [call.value[1] for call in calls].count(True) == 1
    assert desk.store.nodes["gpu-1"].max_concurrent == desk.dispatcher.node("gpu-1").spec.max_concurrent


def test_events_say_what_was_before_and_after(desk):
    desk.roster.register(GPU_1, "10.0.0.9")
    desk.roster.change("gpu-1", {"state": "disabled", "weight": 3}, "10.0.0.9")
    event = desk.events.events[-1]
    assert (event.kind, event.actor) == ("node.changed", "10.0.0.9")
    assert event.before == {"weight": 100, "state": "active"}
    assert event.after == {"weight": 3, "state": "disabled"}


def test_times_are_seconds_since_the_epoch(desk):
    detail, _ = desk.roster.register(GPU_1, "op")
    assert detail.created_at == detail.since == 1_700_001_000.0
    desk.now += 5
    desk.roster.note_check("gpu-1", 1_700_001_005.0)
    desk.roster.note_check("unknown", 1.0)
    assert desk.roster.get("gpu-1").last_check_at == 1_700_001_005.0
    assert desk.roster.get("gpu-1").since == 1_700_001_000.0
