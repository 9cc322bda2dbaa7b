"""What requests tell of the health of nodes."""

import pytest

from scheduler.gateway.node_watch import EjectionWatch


class Nodes:
    """Stands for the health monitor and the dispatcher, and keeps what is asked of them."""

    def __init__(self) -> None:
        self.down: list[tuple[str, str]] = []
        self.probed: list[str] = []
        self.withdrawn: list[tuple[str, str]] = []
        self.answered: list[str] = []
        self.half_open: set[str] = set()

    def probe_now(self, node_id: str) -> None:
        self.probed.append(node_id)

    def mark_down(self, node_id: str, reason: str) -> None:
        self.down.append((node_id, reason))

    def is_half_open(self, node_id: str) -> bool:
        return node_id in self.half_open

    def note_answered(self, node_id: str) -> None:
        self.answered.append(node_id)

    def withdraw(self, node_id: str, model: str) -> None:
        self.withdrawn.append((node_id, model))


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def watch(nodes: Nodes) -> EjectionWatch:
    return EjectionWatch(nodes, nodes, eject_after=3)


def test_a_node_is_taken_down_after_so_many_missing_answers_in_a_row(nodes, watch):
    for _ in range(2):
        watch.missed("a", "unreachable")
    assert (nodes.down, nodes.probed) == ([], ["a", "a"])
    watch.missed("a", "timeout")
    assert nodes.down == [("a", "3 requests in a row without an answer (timeout)")]
    watch.missed("a", "timeout")
    assert len(nodes.down) == 1  # and the count begins anew


def test_misses_are_counted_for_each_node(nodes, watch):
    for node_id in ("a", "b", "a", "b"):
        watch.missed(node_id, "closed")
    assert nodes.down == []


@pytest.mark.parametrize("can_serve", [True, False])
def test_any_answer_ends_the_row_whatever_its_status(nodes, watch, can_serve):
    for _ in range(5):
        watch.missed("a", "timeout")
        watch.missed("a", "timeout")
        watch.answered("a", can_serve)
    assert nodes.down == []


def test_server_errors_lead_to_a_probe_and_eject_nobody(nodes, watch):
    for _ in range(100):
        watch.seems_sick("a")
    assert (nodes.down, set(nodes.probed)) == ([], {"a"})


def test_a_refused_key_takes_a_node_down_at_once(nodes, watch):
    watch.refused_key("a")
    assert nodes.down == [("a", "auth")]


def test_a_half_open_node_goes_down_with_its_first_miss(nodes, watch):
    nodes.half_open.add("a")
    watch.missed("b", "closed")
    watch.missed("a", "closed")
    assert nodes.down == [("a", "its first request after a recovery was not answered (closed)")]


def test_only_an_answer_that_shows_it_can_serve_ends_the_half_open_state(nodes, watch):
    watch.answered("a", can_serve=False)
    assert nodes.answered == []
    watch.answered("a", can_serve=True)
    assert nodes.answered == ["a"]


def test_a_model_that_a_node_lacks_is_withdrawn_and_looked_for(nodes, watch):
    watch.lacks_model("a", "qwen")
    assert (nodes.withdrawn, nodes.probed, nodes.down) == ([("a", "qwen")], ["a"], [])
