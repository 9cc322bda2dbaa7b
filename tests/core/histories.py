"""Random histories in virtual time, and the check that dispatcher and oracle agree after every step."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hypothesis import strategies as st

from scheduler.core.lease import Lease
from scheduler.core.node import LOADING, AdminState, Health, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.errors import AdmissionError, QueueFull, QueueTimeout, SchedulerError
from tests.core.oracle import Oracle, OracleNode, OracleTicket, Refused, order

MODELS = ("llama", "qwen", "llama", "bge", "llama", "qwen", "llama", "bge", "qwen", "llama", "qwen", "unheard-of")
MODEL_SETS = (("llama",), ("llama", "qwen"), ("qwen",), ("llama", "qwen", "bge"), ("qwen", "bge"))
NODE_IDS = ("n0", "n1", "n2", "n3")
LIMITS = (1, 2, 3, 1)
WEIGHTS = (100, 50, 200, 100, 1)
STATES = (AdminState.ACTIVE, AdminState.DRAINING, AdminState.ACTIVE, AdminState.DISABLED)
HEALTHS = (Health.UP, Health.DOWN, Health.UP, Health.UNKNOWN, Health.DOWN)
PATIENCE = (200, 40, 1000, 300, 90, 8, 500, 0)
HOLD_BACKS = (10, 3, 60, 25)
PAUSES = (1, 5, 20, 3, 60, 2, 150)
UNAVAILABLE_WAIT = 100
AGINGS = (0, 0, 20, 70)
SLOW_STARTS = (None, 60, 0, 60)


class Step(NamedTuple):
    """Something that happens. The numbers pick among what there is at that moment, so that every step makes sense."""

    what: str
    a: int = 0
    b: int = 0
    c: int = 0


@dataclass(frozen=True)
class History:
    """How large the queue may be, what the settings are, and what happens."""

    max_queue_size: int
    max_queue_per_model: int
    steps: tuple[Step, ...]
    aging: int = 0
    slow_start: int | None = None


#: What may happen in a history of each kind, as often as it is named. A failing history shrinks towards the first.
TICKETS = (
    "nothing",
    *("submit",) * 10,
    *("release",) * 5,
    *("retry", "submit_many", "pass_time", "pass_time_to_due", "abandon") * 2,
    *("release_with_hold_back", "take_back", "resubmit", "resubmit", "release_again", "cancel", "change_priority"),
    "pass_time_until_just_before_due",
)
NODES = (
    "nothing",
    *("set_health", "put_node", "set_state", "remove_node", "put_back") * 4,
    *("submit", "retry") * 3,
    *("pass_time", "pass_time_to_due", "release") * 2,
)
RELOADS = (*TICKETS, *("set_elsewhere",) * 4, *("put_node", "set_state", "remove_node", "put_back"))
LAST_DAYS = (*RELOADS, *("shares",) * 4, "pledge")
RECOVERIES = (
    *TICKETS,
    *("recover", "answer") * 6,
    *("withdraw", "note_models") * 3,
    *("set_health", "put_node", "set_state") * 2,
    *("retry", "pass_time", "pass_time_to_due") * 2,
)
KINDS = (TICKETS + NODES, TICKETS, NODES, RELOADS, LAST_DAYS, RECOVERIES, RECOVERIES)


def histories(min_steps: int = 25) -> st.SearchStrategy[History]:
    """Histories of at least so many steps: left alone, most would be too short for much to happen."""
    the_end = st.sampled_from(((), (), (), (Step("close"), Step("submit"), Step("retry"), Step("release"))))

    def steps(whats: tuple[str, ...]) -> st.SearchStrategy[tuple[Step, ...]]:
        # Four bytes a step: drawing each of its parts would cost more than the check.
        body = st.lists(st.binary(min_size=4, max_size=4), min_size=min_steps, max_size=3 * min_steps)
        return st.builds(
            lambda rows, end: (*[Step(whats[row[0] % len(whats)], *row[1:]) for row in rows], *end), body, the_end
        )

    any_steps = st.one_of([steps(whats) for whats in KINDS])
    sizes = (st.sampled_from((4, 100, 7, 100, 1, 0)), st.sampled_from((0, 0, 0, 2)))
    return st.builds(History, *sizes, any_steps, st.sampled_from(AGINGS), st.sampled_from(SLOW_STARTS))


class WatchedTicket(Ticket):
    """A ticket that notes when it is settled, in a list shared by all."""

    def __init__(self, name: str, model: str, priority: Priority, deadline: float, settled: list[Ticket]) -> None:
        super().__init__(name, model, priority, deadline)
        self.settled = settled

    def settle(self, lease: Lease | None, error: AdmissionError | None) -> None:
        super().settle(lease, error)
        self.settled.append(self)


#: Builds what is tested; called with the clock and the keywords of Dispatcher.
MakeDispatcher = Callable[..., Any]


def check_history(make_dispatcher: MakeDispatcher, history: History) -> None:
    """Let a history happen. Raises AssertionError with a transcript where the dispatcher breaks a law."""
    run = Run(make_dispatcher, history)
    try:
        run.go()
    except Exception as error:
        failure = error if isinstance(error, AssertionError) else AssertionError(f"the dispatcher broke: {error!r}")
        failure.add_note("\n".join(["What had happened:", *run.transcript]))
        raise failure from error


class Run:
    """One history, on a dispatcher and on the oracle side by side."""

    def __init__(self, make_dispatcher: MakeDispatcher, history: History) -> None:
        self.history = history
        self.now: float = 0
        self.dispatcher = make_dispatcher(
            lambda: self.now,
            max_queue_size=history.max_queue_size,
            max_queue_per_model=history.max_queue_per_model,
            unavailable_wait_s=UNAVAILABLE_WAIT,
            aging_s=history.aging,
            slow_start_s=history.slow_start,
        )
        self.oracle = Oracle(
            self.node_chosen,
            max_queue_size=history.max_queue_size,
            max_queue_per_model=history.max_queue_per_model,
            unavailable_wait=UNAVAILABLE_WAIT,
            aging=history.aging,
            slow_start=history.slow_start,
        )
        self.tickets: list[Ticket] = []
        self.facts: dict[str, OracleTicket] = {}  # the oracle's view of each ticket
        self.held: list[Ticket] = []
        self.taken_back: list[Ticket] = []
        self.released: list[Lease] = []
        self.former_specs: list[NodeSpec] = []
        self.last_told: dict[str, int] | None = None  # the shares, once there is a pledge
        self.settled: list[Ticket] = []
        bounds = f"queue {history.max_queue_size}, per model {history.max_queue_per_model}"
        self.transcript: list[str] = [f"{bounds}, aging {history.aging}, slow start {history.slow_start}"]

    def go(self) -> None:
        self.put(NodeSpec("n0", "http://host-0", ("llama", "qwen"), 2), AdminState.ACTIVE, is_up=True)
        self.put(NodeSpec("n1", "http://host-1", ("llama", "bge"), 2, 200), AdminState.ACTIVE, is_up=True)
        for step in self.history.steps:
            getattr(self, step.what)(step.a, step.b, step.c)
        self.let_everything_end()

    # -- one event on both sides --------------------------------------------------------------

    def happens(
        self,
        words: str,
        real: Callable[[], Any],
        model: Callable[[], Any],
        *,
        is_in_time: bool = True,
    ) -> None:
        """An event; `is_in_time` where what has become due meanwhile has to happen before it."""
        self.transcript.append(f"{self.now:5} {words}")
        self.settled.clear()
        self.oracle.granted.clear()
        self.oracle.ended.clear()
        self.oracle.now = self.now
        result: Any = None
        error, refusal = None, None
        try:
            result = real()
        except SchedulerError as raised:
            error = raised
            self.judge_error(raised)
        self.transcript.append(f"        -> {result} {type(error).__name__ if error else ''} settled {self.settled}")
        try:
            if is_in_time:
                self.oracle.pass_time()
            expected = model()
        except Refused as raised:
            expected, refusal = None, raised.args[0]
        assert (type(error).__name__ if error is not None else None) == refusal
        assert result == expected
        self.judge_settled()
        self.judge_snapshot()

    def node_chosen(self, ticket_id: str, allowed: set[str]) -> str:
        """The oracle asks where the dispatcher has sent a ticket."""
        nodes = [t.lease.node.id for t in self.settled if t.id == ticket_id and t.lease is not None]
        assert nodes, f"{ticket_id} should have got a slot of {sorted(allowed)}"
        assert nodes[0] in allowed, f"{ticket_id} went to {nodes[0]}; the least loaded are {sorted(allowed)}"
        return nodes[0]

    def judge_settled(self) -> None:
        granted = [(t.id, t.lease.node.id, t.lease.considered) for t in self.settled if t.lease is not None]
        assert granted == self.oracle.granted, "who is granted, in which order"
        ended = sorted((t.id, type(t.error).__name__) for t in self.settled if t.error is not None)
        assert ended == sorted(self.oracle.ended.items()), "who ends, and why"
        for ticket in self.settled:
            if ticket.lease is not None:
                assert (ticket.lease.ticket_id, ticket.lease.granted_at) == (ticket.id, self.now)
                assert not ticket.lease.is_released
                self.held.append(ticket)
            if ticket.error is not None:
                self.judge_error(ticket.error)
            if isinstance(ticket.error, QueueTimeout):
                assert ticket.error.waited_s == self.now - self.facts[ticket.id].came_at

    def judge_error(self, error: SchedulerError) -> None:
        assert str(error)
        if isinstance(error, QueueFull | QueueTimeout):
            assert 1 <= error.retry_after_s <= 60

    def judge_snapshot(self) -> None:
        """Laws 1, 2 and 8: the counts, and what an operator is shown."""
        oracle, dispatcher = self.oracle, self.dispatcher
        shown = [
            (v.spec, v.state, v.health, v.in_flight, v.since, v.withheld_for_s, v.health_reason, v.ceiling, v.withdrawn)
            for v in dispatcher.nodes()
        ]
        assert shown == [
            (
                *(n.spec, n.state, n.health, len(n.held), n.since, self.withheld_for(n)),
                *(self.reason(n.health, n.is_loading), n.ceiling, n.withdrawn),
            )
            for n in oracle.nodes
        ]
        for node in oracle.nodes:
            assert dispatcher.is_half_open(node.spec.id) == node.is_half_open
        assert dispatcher.in_flight_count == sum(len(n.held) for n in (*oracle.nodes, *oracle.removed))
        assert dispatcher.in_flight_count == len(self.held)
        queue = dispatcher.queue()
        line = sorted(oracle.waiting, key=order)
        assert dispatcher.waiting_count == queue.total == len(line)
        expected = []
        for place, ticket in enumerate(line):
            position = 1 + sum(other.model == ticket.model for other in line[:place])
            wait = (self.now - ticket.came_at, max(0, ticket.deadline - self.now))
            expected.append((ticket.id, ticket.model, ticket.priority, position, *wait))
        assert expected == [(v.id, v.model, v.priority, v.position, v.waited_s, v.expires_in_s) for v in queue.waiting]
        assert queue.by_priority == {p: sum(t.priority is p for t in line) for p in Priority}
        for view, ticket in zip(queue.waiting, line, strict=True):
            self.judge_reason(view.reason, ticket)
        assert dispatcher.models() == sorted(
            {model for n in oracle.nodes if n.state is not AdminState.DISABLED for model in n.spec.models}
        )
        if self.last_told is not None:
            running = Counter(t.lease.node.address for t in self.held if t.lease is not None)
            assert all(count <= self.last_told.get(address, 0) for address, count in running.items()), "more than told"
        dues = [due for due, _, _, _ in oracle.dues()]
        if dues:
            assert dispatcher.timetable.next_due is not None
            assert dispatcher.timetable.next_due <= min(dues), "somebody would be woken too late"

    def judge_reason(self, reason: str, ticket: OracleTicket) -> None:
        nodes = self.oracle.nodes_of(ticket.model)
        serving = [node for node in nodes if node.serves(ticket.model) and node.spec.id not in ticket.excluded]
        if not nodes:
            assert "no node is registered" in reason
        elif not serving:
            assert "no node can serve" in reason
        else:
            assert ("busy" in reason) == any(node.withheld_until is not None for node in serving)
            is_at_limit = any(node.withheld_until is None for node in serving)
            assert ("at limit" in reason) == is_at_limit
            assert ("recovering" in reason) == (is_at_limit and any(node.ceiling is not None for node in serving))

    def withheld_for(self, node: OracleNode) -> int | None:
        return None if node.withheld_until is None else max(0, node.withheld_until - self.now)

    @staticmethod
    def reason(health: Health, is_loading: bool = False) -> str | None:
        if is_loading:
            return LOADING
        return None if health is Health.UNKNOWN else f"the probe says {health}"

    def nothing(self, a: int, b: int, c: int) -> None:
        pass

    # -- tickets ------------------------------------------------------------------------------

    def submit(self, a: int, b: int, c: int) -> None:
        model, priority = MODELS[a % len(MODELS)], Priority((b + 2) % 4)
        name, deadline = f"t{len(self.tickets)}", self.now + PATIENCE[c % len(PATIENCE)]
        ticket = WatchedTicket(name, model, priority, deadline, self.settled)
        fact = self.facts[name] = OracleTicket(name, model, priority, deadline)
        self.tickets.append(ticket)
        self.happens(
            f"submit {name} {model} {priority.label} until {deadline}",
            lambda: self.dispatcher.submit(ticket),
            lambda: self.oracle.submit(fact),
        )

    def submit_many(self, a: int, b: int, c: int) -> None:
        for i in range(2 + a % 3):
            self.submit(a, b + i, c)

    def release(self, a: int, b: int = 0, c: int = 0, hold_back: int | None = None) -> Ticket | None:
        if not self.held:
            return None
        ticket = self.held.pop(a % len(self.held))
        lease = ticket.lease
        assert lease is not None
        self.released.append(lease)
        self.happens(
            f"release {lease!r} hold back {hold_back}",
            lambda: lease.release(hold_back),
            lambda: self.oracle.release(ticket.id, hold_back),
        )
        return ticket

    def release_with_hold_back(self, a: int, b: int, c: int) -> None:
        self.release(a, hold_back=HOLD_BACKS[b % len(HOLD_BACKS)])

    def release_again(self, a: int, b: int, c: int) -> None:
        if self.released:
            lease = self.released[a % len(self.released)]
            hold_back = HOLD_BACKS[b % len(HOLD_BACKS)] if b % 2 else None
            self.happens(f"release again {lease!r}", lambda: lease.release(hold_back), lambda: False, is_in_time=False)

    def take_back(self, a: int, b: int, c: int) -> None:
        """Its node has failed; the caller will resubmit it, later."""
        ticket = self.release(a, hold_back=HOLD_BACKS[b % len(HOLD_BACKS)] if b % 3 == 1 else None)
        if ticket is not None:
            self.taken_back.append(ticket)

    def resubmit(self, a: int, b: int, c: int) -> None:
        if not self.taken_back:
            return
        ticket = self.taken_back.pop(a % len(self.taken_back))
        lease, fact = ticket.lease, self.facts[ticket.id]
        assert lease is not None
        exclude = lease.node.id if b % 2 == 0 else None
        needs_company = c % 4 == 0
        self.happens(
            f"resubmit {ticket!r} exclude {exclude} needs company {needs_company}",
            lambda: self.dispatcher.resubmit(ticket, exclude, needs_company),
            lambda: self.oracle.resubmit(fact, exclude, needs_company),
        )

    def retry(self, a: int, b: int, c: int) -> None:
        self.take_back(a, b, c)
        self.resubmit(-1, b, c)

    def cancel(self, a: int, b: int, c: int) -> None:
        name = self.one_of_all(a, b)
        self.happens(f"cancel {name}", lambda: self.dispatcher.cancel(name), lambda: self.oracle.cancel(name))

    def change_priority(self, a: int, b: int, c: int) -> None:
        name, priority = self.one_of_all(a, b), Priority(c % 4)
        self.happens(
            f"change priority of {name} to {priority.label}",
            lambda: self.dispatcher.change_priority(name, priority),
            lambda: self.oracle.change_priority(name, priority),
        )

    def one_of_all(self, a: int, b: int) -> str:
        """A ticket that waits, mostly; else any, known or not."""
        if self.oracle.waiting and b % 6:
            return self.oracle.waiting[a % len(self.oracle.waiting)].id
        return self.tickets[a % len(self.tickets)].id if self.tickets else "t0"

    def abandon(self, a: int, b: int, c: int) -> None:
        """Its waiter goes, wherever the ticket is."""
        if not self.tickets:
            return
        name = self.one_of_all(a, b)
        ticket = next(ticket for ticket in self.tickets if ticket.id == name)

        def model() -> None:
            if ticket in self.held and ticket.lease is not None:
                self.oracle.pass_time()
                self.held.remove(ticket)
                self.released.append(ticket.lease)
                self.oracle.release(name, None)
            elif any(waiting.id == name for waiting in self.oracle.waiting):
                self.oracle.cancel(name)

        for _ in range(1 + c % 2):
            self.happens(f"abandon {ticket!r}", lambda: self.dispatcher.abandon(ticket), model, is_in_time=False)
        if ticket in self.taken_back:
            self.taken_back.remove(ticket)

    def close(self, a: int, b: int, c: int) -> None:
        self.happens("close", self.dispatcher.close, self.oracle.close, is_in_time=False)

    # -- nodes --------------------------------------------------------------------------------

    def put_node(self, a: int, b: int, c: int) -> None:
        """A node comes, or changes: its limit, and sometimes its models, weight, address or state too."""
        node_id = NODE_IDS[a % len(NODE_IDS)]
        old = next((node for node in self.oracle.nodes if node.spec.id == node_id), None)
        limit, models = LIMITS[b % len(LIMITS)], MODEL_SETS[(b + c) % len(MODEL_SETS)]
        if old is None:
            spec = NodeSpec(node_id, self.free_address(a + c), models, limit, WEIGHTS[c % len(WEIGHTS)])
            self.put(spec, AdminState.ACTIVE if b % 5 else STATES[c % len(STATES)], is_up=c % 4 != 3)
            return
        address = self.free_address(c) if c % 4 == 3 else old.spec.address
        weight = WEIGHTS[c % len(WEIGHTS)] if b % 3 == 2 else old.spec.weight
        spec = NodeSpec(node_id, address, models if c % 2 else old.spec.models, limit, weight)
        self.put(spec, old.state if b % 5 else STATES[c % len(STATES)], is_up=False)

    def put(self, spec: NodeSpec, state: AdminState, is_up: bool) -> None:
        self.happens(
            f"put {spec} {state}",
            lambda: self.dispatcher.put_node(spec, state),
            lambda: self.oracle.put_node(spec, state),
        )
        if is_up:
            self.probe(spec.id, Health.UP)

    def put_back(self, a: int, b: int, c: int) -> None:
        """A removed node comes back: as it was, at another address, or under another id."""
        if not self.former_specs:
            return
        spec = self.former_specs[a % len(self.former_specs)]
        registered = {node.spec.id for node in self.oracle.nodes}
        node_id, address = spec.id, spec.address
        if c % 3 == 1:
            node_id = next((other for other in NODE_IDS if other not in registered and other != spec.id), spec.id)
        if c % 3 == 2 or any(node.spec.address == address for node in self.oracle.nodes):
            address = self.free_address(b)
        if node_id not in registered:
            limit = LIMITS[b % len(LIMITS)] if b % 2 else spec.max_concurrent
            self.put(NodeSpec(node_id, address, spec.models, limit, spec.weight), AdminState.ACTIVE, is_up=a % 3 != 2)

    def free_address(self, number: int) -> str:
        taken = {node.spec.address for node in self.oracle.nodes}
        hosts = [f"http://host-{(number + i) % 6}" for i in range(6)]
        return next(host for host in hosts if host not in taken)

    def remove_node(self, a: int, b: int, c: int) -> None:
        node_id = NODE_IDS[a % len(NODE_IDS)]
        self.former_specs += [node.spec for node in self.oracle.nodes if node.spec.id == node_id]
        self.happens(
            f"remove {node_id}",
            lambda: self.dispatcher.remove_node(node_id),
            lambda: self.oracle.remove_node(node_id),
        )

    def set_state(self, a: int, b: int, c: int) -> None:
        node_id, state = NODE_IDS[a % len(NODE_IDS)], STATES[b % len(STATES)]
        self.happens(
            f"{node_id} becomes {state}",
            lambda: self.dispatcher.set_state(node_id, state),
            lambda: self.oracle.set_state(node_id, state),
        )

    def set_health(self, a: int, b: int, c: int) -> None:
        health = HEALTHS[b % len(HEALTHS)]
        self.probe(NODE_IDS[a % len(NODE_IDS)], health, is_loading=health is Health.DOWN and c % 3 == 0)

    def probe(self, node_id: str, health: Health, is_loading: bool = False) -> None:
        self.happens(
            f"{node_id} is {health}{', loading' if is_loading else ''}",
            lambda: self.dispatcher.set_health(node_id, health, self.reason(health, is_loading)),
            lambda: self.oracle.set_health(node_id, health, is_loading),
        )

    def recover(self, a: int, b: int, c: int) -> None:
        """A node goes down and comes back, perhaps at once."""
        node_id = NODE_IDS[a % 2]
        self.probe(node_id, Health.DOWN)
        if b % 3:
            self.pass_time(b, c, 0)
        self.probe(node_id, Health.UP)

    def answer(self, a: int, b: int, c: int) -> None:
        node_id = NODE_IDS[a % 3]
        self.happens(
            f"{node_id} answers",
            lambda: self.dispatcher.note_answered(node_id),
            lambda: self.oracle.note_answered(node_id),
            is_in_time=any(node.spec.id == node_id and node.is_half_open for node in self.oracle.nodes),
        )

    def withdraw(self, a: int, b: int, c: int) -> None:
        node_id, model = NODE_IDS[a % 3], MODELS[b % 2]
        self.happens(
            f"{node_id} has no {model}",
            lambda: self.dispatcher.withdraw(node_id, model),
            lambda: self.oracle.withdraw(node_id, model),
        )

    def note_models(self, a: int, b: int, c: int) -> None:
        lacking = [node.spec.id for node in self.oracle.nodes if node.withdrawn] or NODE_IDS
        node_id = lacking[a % len(lacking)]
        listed = None if b % 4 == 0 else list(MODEL_SETS[c % len(MODEL_SETS)])
        self.happens(
            f"{node_id} lists {listed}",
            lambda: self.dispatcher.note_models(node_id, listed),
            lambda: self.oracle.note_models(node_id, listed),
        )

    def set_elsewhere(self, a: int, b: int, c: int) -> None:
        """The process before this one uses some slots, mostly fewer each time."""
        counts = {f"http://host-{i}": number % 4 for i, number in enumerate((a, b, c)) if number % 3}
        self.happens(
            f"elsewhere {counts}",
            lambda: self.dispatcher.set_elsewhere(counts),
            lambda: self.oracle.set_elsewhere(counts),
        )

    def pledge(self, a: int, b: int, c: int) -> None:
        """There is a successor: what it is told is binding from now on."""
        self.happens("pledge", self.dispatcher.pledge, self.oracle.pledge)
        self.shares(a, b, c)

    def shares(self, a: int, b: int, c: int) -> None:
        keep_one = a % 4 > 0
        self.happens(
            f"shares, keep one: {keep_one}",
            lambda: self.dispatcher.shares(keep_one),
            lambda: self.oracle.shares(keep_one),
        )
        if self.oracle.has_pledged:
            told = self.dispatcher.shares(keep_one)
            before = told if self.last_told is None else self.last_told
            assert all(share <= before.get(address, 0) for address, share in told.items()), "a share has grown"
            self.last_told = told

    # -- time ---------------------------------------------------------------------------------

    def pass_time(self, a: int, b: int, c: int) -> None:
        """Time passes, noticed at once or by whatever happens next."""
        self.now += PAUSES[a % len(PAUSES)]
        if b % 3:
            self.tick()

    def pass_time_to_due(self, a: int, b: int, c: int) -> None:
        if dues := self.oracle.dues():
            self.now = max(self.now, min(due for due, _, _, _ in dues))
            self.tick()

    def pass_time_until_just_before_due(self, a: int, b: int, c: int) -> None:
        if dues := self.oracle.dues():
            self.now = max(self.now, min(due for due, _, _, _ in dues) - 1)
            self.tick()

    def tick(self) -> None:
        self.happens("tick", self.dispatcher.tick, lambda: None)

    # -- the end ------------------------------------------------------------------------------

    def let_everything_end(self) -> None:
        """Law 2: whatever has happened, everything is at 0 when all leases are released and time has passed."""
        while self.held:
            self.release(len(self.held))
        self.tick()
        while self.oracle.waiting or self.held:
            if self.held:
                self.release(0)
            else:
                self.pass_time_to_due(0, 0, 0)
        self.now += 10 * max(PATIENCE)
        self.tick()
        assert (self.dispatcher.in_flight_count, self.dispatcher.waiting_count) == (0, 0)
        assert len(self.dispatcher.timetable) == 0, "a timer has outlived what it was for"
        assert " 0 held, 0 waiting" in repr(self.dispatcher)
