from scheduler.core.node import AdminState, Health, Node, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import QueueKey, Ticket
from scheduler.core.ticket_queue import TicketQueue


def a_ticket(sequence: int, priority: Priority = Priority.NORMAL, excluded: str | None = None) -> Ticket:
    ticket = Ticket(f"t{sequence}", "llama", priority, 100.0)
    ticket.sequence = sequence
    ticket.excluded = frozenset({excluded} if excluded else ())
    return ticket


def a_node(node_id: str) -> Node:
    node = Node(NodeSpec(node_id, f"http://{node_id}", ("llama",), 1), AdminState.ACTIVE, 0.0)
    node.health = Health.UP
    return node


def a_queue(*tickets: Ticket) -> TicketQueue:
    queue = TicketQueue()
    for ticket in tickets:
        queue.push(ticket)
    return queue


def test_the_order_of_the_queue_is_data() -> None:
    assert QueueKey(priority=0, sequence=9) < QueueKey(priority=1, sequence=0)
    assert QueueKey(priority=1, sequence=3) < QueueKey(priority=1, sequence=4)


def test_the_most_urgent_goes_first_and_equals_in_order_of_arrival() -> None:
    normal, later, urgent = a_ticket(0), a_ticket(1), a_ticket(2, Priority.CRITICAL)
    queue = a_queue(later, normal, urgent)
    assert list(queue) == [urgent, normal, later]
    assert queue.best([a_node("a")]) is urgent


def test_the_worst_is_the_newest_of_the_least_urgent() -> None:
    queue = a_queue(a_ticket(0, Priority.LOW), a_ticket(1, Priority.LOW), a_ticket(2, Priority.HIGH))
    worst = queue.worst()
    assert worst is not None
    assert worst.id == "t1"


def test_a_ticket_that_may_not_go_to_the_free_node_lets_the_next_one_pass() -> None:
    choosy, patient = a_ticket(0, excluded="a"), a_ticket(1)
    queue = a_queue(choosy, patient)
    assert queue.best([a_node("a")]) is patient
    assert queue.best([a_node("b")]) is choosy
    assert queue.best([a_node("a"), a_node("b")]) is choosy


def test_a_choosy_ticket_has_no_advantage_over_those_before_it() -> None:
    patient, choosy = a_ticket(0), a_ticket(1, excluded="a")
    assert a_queue(patient, choosy).best([a_node("b")]) is patient


def test_a_queue_of_tickets_that_fit_nowhere_has_no_best() -> None:
    assert a_queue(a_ticket(0, excluded="a")).best([a_node("a")]) is None
    assert a_queue().best([a_node("a")]) is None


def test_a_removed_ticket_is_neither_best_nor_worst_nor_counted() -> None:
    plain, choosy, last = a_ticket(0), a_ticket(1, excluded="a"), a_ticket(2)
    queue = a_queue(plain, choosy, last)
    for ticket in (plain, choosy):
        queue.remove(ticket)
    assert len(queue) == 1
    assert queue.choosy == []
    assert queue.best([a_node("a")]) is last
    assert queue.worst() is last


def test_a_removed_ticket_can_come_back_at_its_old_place() -> None:
    first, second = a_ticket(0), a_ticket(1)
    queue = a_queue(first, second)
    queue.remove(first)
    first.excluded = frozenset({"a"})
    queue.push(first)
    assert list(queue) == [first, second]
