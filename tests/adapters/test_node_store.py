import dataclasses
import sqlite3

import gevent
import pytest

from scheduler.adapters.node_store import SqlNodeStore
from scheduler.gateway.ports import StoredNode


@pytest.fixture
def store(writer):
    return SqlNodeStore(writer)


def new_node(**fields):
    values = {
        "id": "gpu-01",
        "address": "http://10.0.0.1:8000",
        "models": ["llama", "通义"],
        "max_concurrent": 4,
        "weight": 1,
        "api_key": "node-secret",
        "labels": {"rack": "七"},
        "remark": "第一台",
        "state": "active",
        "overrides": {},
        "is_from_file": False,
        "is_deleted": False,
        "created_at": 1700000000.25,
        "updated_at": 1700000001.5,
    }
    return StoredNode(**(values | fields))


@pytest.mark.parametrize(
    "node",
    [
        new_node(),
        new_node(api_key=None, models=[], labels={}, remark=""),
        new_node(is_from_file=True, is_deleted=True),
        new_node(overrides={"max_concurrent": 8, "state": "draining", "labels": {"a": "b"}, "remark": None}),
    ],
    ids=["registered", "bare", "a deleted node of the file", "with overrides"],
)
def test_a_node_comes_back_as_it_was_saved(store, node):
    store.save(node)
    assert store.load() == [node]


def test_saving_the_same_id_replaces(store):
    store.save(new_node())
    changed = dataclasses.replace(new_node(), weight=3, state="disabled", updated_at=1700000009.0)
    store.save(changed)
    assert store.load() == [changed]


def test_a_forgotten_node_is_gone_and_forgetting_twice_is_nothing(store):
    store.save(new_node())
    store.save(new_node(id="gpu-02", created_at=1700000002.0))
    store.delete("gpu-01")
    store.delete("gpu-01")
    assert [node.id for node in store.load()] == ["gpu-02"]


def test_a_save_is_durable_when_it_returns(store, database_file):
    store.save(new_node())
    other = sqlite3.connect(database_file)
    assert other.execute("SELECT id FROM nodes").fetchall() == [("gpu-01",)]
    other.close()


def test_the_hub_goes_on_while_a_save_waits_for_a_lock(store, database_file):
    other = sqlite3.connect(database_file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    saving = gevent.spawn(store.save, new_node())
    gevent.sleep(0.05)
    assert not saving.ready()
    other.execute("COMMIT")
    other.close()
    saving.get(timeout=10)
    assert len(store.load()) == 1
