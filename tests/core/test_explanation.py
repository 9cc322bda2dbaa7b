from scheduler.core.explanation import why_it_waits
from scheduler.core.node import AdminState, Health, Node, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket


def a_ticket(*excluded: str) -> Ticket:
    ticket = Ticket("t", "llama", Priority.NORMAL, 100.0)
    ticket.excluded = frozenset(excluded)
    return ticket


def a_node(
    node_id: str,
    health: Health = Health.UP,
    state: AdminState = AdminState.ACTIVE,
    withheld_until: float | None = None,
) -> Node:
    node = Node(NodeSpec(node_id, f"http://{node_id}", ("llama",), 1), state, 0.0)
    node.health = health
    node.withheld_until = withheld_until
    return node


def test_one_full_node_is_named() -> None:
    assert why_it_waits(a_ticket(), [a_node("gpu-01")], 0.0) == "node gpu-01 at limit"


def test_several_full_nodes_are_counted() -> None:
    assert why_it_waits(a_ticket(), [a_node("a"), a_node("b")], 0.0) == "all 2 nodes at limit"


def test_nodes_that_cannot_serve_do_not_count_as_full() -> None:
    nodes = [a_node("a"), a_node("b", Health.DOWN)]
    assert why_it_waits(a_ticket(), nodes, 0.0) == "node a at limit"


def test_a_busy_node_tells_when_it_is_tried_again() -> None:
    assert why_it_waits(a_ticket(), [a_node("a", withheld_until=15.0)], 10.0) == "node a said busy, next try in 5 s"


def test_full_and_busy_nodes_are_both_told() -> None:
    full, busy = a_node("full"), a_node("busy", withheld_until=15.0)
    for nodes in ([full, busy], [busy, full]):
        assert why_it_waits(a_ticket(), nodes, 10.0) == "node full at limit, 1 busy"


def test_every_node_that_cannot_serve_says_why() -> None:
    down = a_node("c", Health.DOWN)
    down.health_reason = "connection refused"
    nodes = [a_node("a", state=AdminState.DRAINING), a_node("b", Health.UNKNOWN), down, a_node("d")]
    assert why_it_waits(a_ticket("d"), nodes, 0.0) == (
        "no node can serve: a is draining, b is not probed yet, c is down (connection refused), "
        "d has failed this request"
    )


def test_a_model_without_a_node_is_told() -> None:
    assert why_it_waits(a_ticket(), [], 0.0) == "no node is registered for this model any more"
