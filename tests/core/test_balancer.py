from collections import Counter

from scheduler.core.balancer import least_loaded
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import AdminState, Health, Node, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket


def a_node(node_id: str, held: int = 0, weight: int = 100, granted: int = 0) -> Node:
    node = Node(NodeSpec(node_id, f"http://{node_id}", ("llama",), 100, weight), AdminState.ACTIVE, 0.0)
    for _ in range(held):
        node.slots.take()
    node.grant_order = granted
    return node


def a_dispatcher(*specs: NodeSpec) -> Dispatcher:
    dispatcher = Dispatcher(lambda: 0.0)
    for spec in specs:
        dispatcher.put_node(spec, AdminState.ACTIVE)
        dispatcher.set_health(spec.id, Health.UP)
    return dispatcher


def granted_to(dispatcher: Dispatcher) -> str:
    ticket = Ticket("t", "llama", Priority.NORMAL, 100.0)
    dispatcher.submit(ticket)
    assert ticket.lease is not None
    return ticket.lease.node.id


def test_the_node_with_the_fewest_requests_in_flight_is_chosen() -> None:
    assert least_loaded([a_node("a", held=2), a_node("b", held=1), a_node("c", held=3)]).spec.id == "b"


def test_a_node_of_twice_the_weight_bears_twice_as_much() -> None:
    big = a_node("big", held=3, weight=200)
    assert least_loaded([a_node("small", held=2), big]) is big
    assert least_loaded([a_node("small", held=1), big]).spec.id == "small"


def test_among_equals_the_one_granted_longest_ago_is_chosen() -> None:
    nodes = [a_node("a", granted=7), a_node("b", granted=2), a_node("c", granted=9)]
    assert least_loaded(nodes).spec.id == "b"


def test_requests_that_come_one_by_one_rotate_over_idle_nodes() -> None:
    dispatcher = a_dispatcher(*[NodeSpec(name, f"http://{name}", ("llama",), 1) for name in "abc"])
    order = []
    for _ in range(6):
        ticket = Ticket("t", "llama", Priority.NORMAL, 100.0)
        dispatcher.submit(ticket)
        assert ticket.lease is not None
        order.append(ticket.lease.node.id)
        ticket.lease.release()
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_many_requests_spread_in_proportion_to_the_weights() -> None:
    dispatcher = a_dispatcher(
        NodeSpec("small", "http://small", ("llama",), 100, weight=100),
        NodeSpec("big", "http://big", ("llama",), 100, weight=300),
    )
    assert Counter(granted_to(dispatcher) for _ in range(80)) == {"small": 20, "big": 60}


def test_a_full_node_is_no_choice_however_heavy() -> None:
    dispatcher = a_dispatcher(
        NodeSpec("heavy", "http://heavy", ("llama",), 1, weight=1000),
        NodeSpec("light", "http://light", ("llama",), 5, weight=1),
    )
    assert Counter(granted_to(dispatcher) for _ in range(6)) == {"heavy": 1, "light": 5}
