"""Models that a node is registered with and does not have, by readable examples."""

from __future__ import annotations

import pytest

from scheduler.errors import NoHealthyNode
from tests.core.test_dispatcher import Bench, error_of, lease_of


def test_a_withdrawn_model_goes_elsewhere_and_the_others_stay() -> None:
    bench = Bench()
    bench.node("a", limit=8, models=("llama", "qwen"))
    bench.node("b", limit=8, models=("llama",))
    bench.core.withdraw("a", "llama")
    assert {lease_of(bench.submit()).node.id for _ in range(4)} == {"b"}
    assert lease_of(bench.submit(model="qwen")).node.id == "a"


@pytest.mark.parametrize("listed", [("llama", "other"), None])
def test_a_model_that_is_listed_again_or_cannot_be_looked_up_is_served_at_once(listed: tuple[str, ...] | None) -> None:
    bench = Bench()
    bench.node()
    bench.core.withdraw("a", "llama")
    waiting = bench.submit()
    assert bench.core.queue().waiting[0].reason == "no node can serve: a says that it does not have the model"
    bench.core.note_models("a", ["other"])
    assert waiting.is_waiting
    bench.core.note_models("a", listed)
    assert lease_of(waiting).node.id == "a"


def test_a_model_withdrawn_from_all_nodes_is_given_up_like_nodes_that_are_down() -> None:
    bench = Bench(unavailable_wait_s=30.0)
    bench.node()
    bench.core.withdraw("a", "llama")
    ticket = bench.submit()
    bench.pass_time(30.0)
    assert error_of(ticket) is NoHealthyNode


def test_a_move_forgets_what_the_old_engine_said() -> None:
    bench = Bench()
    bench.node()
    bench.core.withdraw("a", "llama")
    bench.node(address="http://moved")
    assert not bench.submit().is_waiting


def test_words_about_a_node_or_model_that_is_gone_change_nothing() -> None:
    bench = Bench()
    bench.node()
    bench.core.withdraw("a", "unheard-of")
    for node_id in ("a", "gone"):
        bench.core.note_answered(node_id)
        bench.core.note_models(node_id, None)
    bench.core.withdraw("gone", "llama")
    assert bench.core.node("a").withdrawn == frozenset()
    assert not bench.core.is_half_open("gone")
