"""The laws of the core once more, slow and obviously right: plain lists, linear scans, no cleverness.

After every event the whole fleet is looked at: as long as some waiting ticket could use some free slot, the first such
ticket gets it. Where a law leaves a choice (equally loaded nodes), `choose` is asked and its answer is judged.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority


class Refused(Exception):
    """Raised where the dispatcher has to raise the error of this name."""


@dataclass(eq=False)
class OracleTicket:
    """A ticket as the laws see it."""

    id: str
    model: str
    priority: Priority
    deadline: int
    came_as: int = -1  # its number among all that ever came: a retried ticket keeps it
    came_at: int = 0
    needs_company: bool = False
    rises_at: int | None = None
    rise_planned_as: int = 0
    excluded: set[str] = field(default_factory=set)
    give_up_at: int | None = None
    planned_as: int = 0  # what was planned first happens first


@dataclass(eq=False)
class OracleNode:
    """A node as the laws see it; `held` are the ids of the tickets that hold its slots."""

    spec: NodeSpec
    state: AdminState
    since: int
    health: Health = Health.UNKNOWN
    held: list[str] = field(default_factory=list)
    withheld_until: int | None = None
    trial_limit: int | None = None  # it was busy: one request finds out whether it still is
    planned_as: int = 0
    elsewhere: int = 0
    promised: int | None = None  # by this process, which is to end: so many it may hold at most
    is_loading: bool = False
    withdrawn: set[str] = field(default_factory=set)
    was_up: bool = False  # at this address
    ceiling: int | None = None  # while it recovers
    answered_at: int | None = None  # while it recovers: the first answer
    grows_at: float | None = None
    growth_planned_as: int = 0

    @property
    def may_hold(self) -> int:
        """Law 1: the effective limit."""
        caps = [self.spec.max_concurrent - self.elsewhere, self.ceiling, self.promised, self.trial_limit]
        return min(cap for cap in caps if cap is not None)

    @property
    def is_half_open(self) -> bool:
        return self.ceiling is not None and self.answered_at is None

    @property
    def is_serving(self) -> bool:
        return self.state is AdminState.ACTIVE and self.health is Health.UP

    @property
    def is_lost(self) -> bool:
        is_down = self.health is Health.DOWN and not self.is_loading
        return self.state is AdminState.DISABLED or (self.state is AdminState.ACTIVE and is_down)

    def serves(self, model: str) -> bool:
        return self.is_serving and model in self.spec.models and model not in self.withdrawn

    def has_lost(self, model: str) -> bool:
        return self.is_lost or model in self.withdrawn

    def could_take(self, ticket: OracleTicket) -> bool:
        return (
            self.serves(ticket.model)
            and self.withheld_until is None
            and len(self.held) < self.may_hold
            and self.spec.id not in ticket.excluded
        )


class Oracle:
    """What the laws allow. `granted` and `ended` tell what the last event has brought; the caller clears them."""

    def __init__(
        self,
        choose: Callable[[str, set[str]], str],
        *,
        max_queue_size: int,
        max_queue_per_model: int,
        unavailable_wait: int,
        aging: int = 0,
        slow_start: int | None = None,
    ) -> None:
        self.choose = choose
        self.max_queue_size = max_queue_size
        self.max_queue_per_model = max_queue_per_model
        self.unavailable_wait = unavailable_wait
        self.aging = aging
        self.slow_start = slow_start
        self.nodes: list[OracleNode] = []
        self.removed: list[OracleNode] = []
        self.waiting: list[OracleTicket] = []
        self.orphaned: dict[str, tuple[int, int]] = {}  # models without a node, while tickets wait: (since, planned_as)
        self.came = 0
        self.plans = 0
        self.now = 0
        self.is_closed = False
        self.elsewhere: dict[str, int] = {}
        self.has_pledged = False
        self.sent_to: dict[str, str] = {}  # ticket: the address where it runs
        self.granted: list[tuple[str, str, int]] = []  # (ticket, node, how many nodes could have taken it)
        self.ended: dict[str, str] = {}  # ticket: name of the error

    # -- what happens -------------------------------------------------------------------------

    def submit(self, ticket: OracleTicket) -> None:
        if self.is_closed:
            raise Refused("ShuttingDown")
        if not self.nodes_of(ticket.model):
            raise Refused("UnknownModel")
        if all(node.promised == 0 for node in self.nodes_of(ticket.model)):
            raise Refused("ShuttingDown")
        ticket.came_as, ticket.came_at = self.came, self.now
        self.came += 1
        self.place(ticket)

    def resubmit(self, ticket: OracleTicket, exclude: str | None, needs_company: bool = False) -> None:
        if exclude is not None:
            ticket.excluded.add(exclude)
        ticket.needs_company = ticket.needs_company or needs_company
        if self.is_closed:
            raise Refused("ShuttingDown")
        if ticket.deadline <= self.now:
            raise Refused("QueueTimeout")
        if not self.has_way(ticket):
            raise Refused("NoOtherNode")
        self.place(ticket)

    def place(self, ticket: OracleTicket) -> None:
        """A free slot at once, else a place in the queue, else a refusal."""
        if any(node.could_take(ticket) for node in self.nodes):
            self.grant(ticket)
            return
        if ticket.deadline <= self.now:
            raise Refused("QueueTimeout")
        same_model = [other for other in self.waiting if other.model == ticket.model]
        if 0 < self.max_queue_per_model <= len(same_model):
            self.push_out(same_model, ticket)
        if len(self.waiting) >= self.max_queue_size:
            self.push_out(self.waiting, ticket)
        self.waiting.append(ticket)
        ticket.planned_as = self.plan()
        ticket.give_up_at = None
        give_up_at = self.now + self.unavailable_wait
        if give_up_at < ticket.deadline and all(node.has_lost(ticket.model) for node in self.nodes_of(ticket.model)):
            ticket.give_up_at = give_up_at
        self.let_age(ticket)

    def push_out(self, full: list[OracleTicket], newcomer: OracleTicket) -> None:
        """The newest of the least urgent goes, unless that is the newcomer itself."""
        last = max([*full, newcomer], key=order)
        if last is newcomer:
            raise Refused("QueueFull")
        self.end(last, "QueueFull")

    def release(self, ticket_id: str, hold_back: int | None) -> bool:
        """True where somebody is granted by it."""
        node = self.holder(ticket_id)
        node.held.remove(ticket_id)
        if node in self.removed:
            if not node.held:
                self.removed.remove(node)
            return False
        node.withheld_until = node.trial_limit = None
        if hold_back is not None:
            node.withheld_until, node.planned_as = self.now + hold_back, self.plan()
            return False
        granted_before = len(self.granted)
        self.match()
        return len(self.granted) > granted_before

    def cancel(self, ticket_id: str, error: str = "Cancelled") -> None:
        self.end(self.find_waiting(ticket_id), error)

    def change_priority(self, ticket_id: str, priority: Priority) -> None:
        ticket = self.find_waiting(ticket_id)
        ticket.priority = priority
        self.let_age(ticket)

    def let_age(self, ticket: OracleTicket) -> None:
        """Ageing: one level in each interval, never to critical, counted from the latest change."""
        is_ageing = self.aging and ticket.priority in (Priority.NORMAL, Priority.LOW)
        ticket.rises_at, ticket.rise_planned_as = (self.now + self.aging, self.plan()) if is_ageing else (None, 0)

    def close(self) -> None:
        self.is_closed = True
        for ticket in list(self.waiting):
            self.end(ticket, "ShuttingDown")

    def put_node(self, spec: NodeSpec, state: AdminState) -> None:
        node = next((node for node in self.nodes if node.spec.id == spec.id), None)
        if node is None:
            node = OracleNode(spec, state, self.now)
            self.nodes.append(node)
            is_known_here = False
        else:
            is_known_here = node.spec.address == spec.address
        node.spec = spec
        node.elsewhere = self.elsewhere.get(spec.address, 0)
        if not is_known_here:
            node.withdrawn.clear()
            if self.has_pledged:
                node.promised = 0
        node.withdrawn &= set(spec.models)
        for other in (*self.nodes, *self.removed):
            is_alike = other.spec.id == spec.id or other.spec.address == spec.address
            is_former = other in self.removed and is_alike
            for ticket_id in list(other.held):
                if other is not node and (is_former or self.sent_to[ticket_id] == spec.address):
                    other.held.remove(ticket_id)
                    node.held.append(ticket_id)
        self.removed = [former for former in self.removed if former.held]
        self.grow(node)
        self.note_orphans()
        self.set_state(spec.id, state)

    def remove_node(self, node_id: str) -> None:
        node = self.find_node(node_id)
        self.nodes.remove(node)
        node.withheld_until = node.grows_at = node.trial_limit = None
        if node.held:
            self.removed.append(node)
        self.note_orphans()
        self.end_stranded()

    def set_state(self, node_id: str, state: AdminState) -> None:
        node = self.find_node(node_id)
        if node.state is not state:
            node.state, node.since = state, self.now
        self.match()
        self.end_stranded()

    def set_health(self, node_id: str, health: Health, is_loading: bool = False) -> None:
        node = next((node for node in self.nodes if node.spec.id == node_id), None)
        if node is None:
            return
        if health is not Health.UP:
            node.ceiling = node.answered_at = node.grows_at = None
        elif node.health is Health.DOWN and node.was_up and self.slow_start is not None:
            node.ceiling = 1  # half-open
        if health is not Health.DOWN:
            node.was_up = health is Health.UP
        if node.health is not health:
            node.health, node.since = health, self.now
        node.is_loading = is_loading
        self.match()
        self.end_stranded()

    def note_answered(self, node_id: str) -> None:
        for node in self.nodes:
            if node.spec.id != node_id:
                continue
            node.trial_limit = None
            if node.is_half_open:
                node.answered_at = self.now
                self.grow(node)
            self.match()

    def grow(self, node: OracleNode) -> None:
        """Slow start: from one to the limit, evenly, in the time since the first answer."""
        if node.answered_at is None or self.slow_start is None:
            return
        ends_at, steps = node.answered_at + self.slow_start, max(1, node.spec.max_concurrent - 1)
        if self.now >= ends_at:
            node.ceiling = node.answered_at = node.grows_at = None
            return
        passed = [step for step in range(steps) if node.answered_at + step * self.slow_start / steps <= self.now]
        node.ceiling = len(passed)
        node.grows_at = min(ends_at, node.answered_at + len(passed) * self.slow_start / steps)
        node.growth_planned_as = self.plan()

    def withdraw(self, node_id: str, model: str) -> None:
        for node in self.nodes:
            if node.spec.id == node_id and model in node.spec.models:
                node.withdrawn.add(model)
        self.end_stranded()

    def note_models(self, node_id: str, listed: list[str] | None) -> None:
        for node in self.nodes:
            if node.spec.id == node_id:
                node.withdrawn = set() if listed is None else node.withdrawn - set(listed)
        self.match()

    def set_elsewhere(self, counts: dict[str, int]) -> None:
        self.elsewhere = counts
        for node in self.nodes:
            node.elsewhere = counts.get(node.spec.address, 0)
        self.match()

    def pledge(self) -> None:
        self.has_pledged = True
        for node in self.nodes:
            self.promise(node, max(1, self.held_at_home(node)))

    def shares(self, keep_one: bool) -> dict[str, int]:
        """What runs at each address, and one for each node that could still take one."""
        shares: dict[str, int] = {}
        for node in (*self.nodes, *self.removed):
            for ticket_id in node.held:
                shares[self.sent_to[ticket_id]] = shares.get(self.sent_to[ticket_id], 0) + 1
        for node in self.nodes:
            at_home = self.held_at_home(node)
            is_wanted = keep_one or any(ticket.model in node.spec.models for ticket in self.waiting)
            is_kept = is_wanted and at_home == 0 and node.promised != 0
            shares[node.spec.address] = shares.get(node.spec.address, 0) + is_kept
            if self.has_pledged:
                self.promise(node, at_home + is_kept)
        self.end_stranded()
        return shares

    def promise(self, node: OracleNode, most: int) -> None:
        node.promised = most if node.promised is None else min(most, node.promised)

    # -- time ---------------------------------------------------------------------------------

    def dues(self) -> list[tuple[float, int, str, object]]:
        """Everything that is to happen at some time, whoever it is planned for."""
        dues: list[tuple[float, int, str, object]] = []
        for ticket in self.waiting:
            dues.append((ticket.deadline, ticket.planned_as, "deadline", ticket))
            if ticket.give_up_at is not None:
                dues.append((ticket.give_up_at, ticket.planned_as, "give up", ticket))
            if ticket.rises_at is not None:
                dues.append((ticket.rises_at, ticket.rise_planned_as, "rise", ticket))
        for node in self.nodes:
            if node.withheld_until is not None:
                dues.append((node.withheld_until, node.planned_as, "lift", node))
            if node.grows_at is not None:
                dues.append((node.grows_at, node.growth_planned_as, "grow", node))
        for model, (since, planned_as) in self.orphaned.items():
            dues.append((since + self.unavailable_wait, planned_as, "orphans", model))
        return dues

    def pass_time(self) -> None:
        """Let everything that is due happen, in order."""
        while dues := [due for due in self.dues() if due[0] <= self.now]:
            _, _, what, whom = min(dues, key=lambda due: due[:2])
            if isinstance(whom, OracleTicket) and what == "deadline":
                self.end(whom, "QueueTimeout")
            elif isinstance(whom, OracleTicket) and what == "rise":
                whom.priority = Priority(whom.priority - 1)
                self.let_age(whom)
            elif isinstance(whom, OracleTicket):
                whom.give_up_at = None
                if all(node.has_lost(whom.model) for node in self.nodes_of(whom.model)):
                    self.end(whom, "NoHealthyNode")
            elif isinstance(whom, OracleNode) and what == "grow":
                self.grow(whom)
                self.match()
            elif isinstance(whom, OracleNode):
                whom.withheld_until = None
                whom.trial_limit = len(whom.held) + 1
                self.match()
            else:
                assert isinstance(whom, str)
                del self.orphaned[whom]
                for ticket in [ticket for ticket in self.waiting if ticket.model == whom]:
                    self.end(ticket, "UnknownModel")

    def plan(self) -> int:
        self.plans += 1
        return self.plans

    # -- the laws -----------------------------------------------------------------------------

    def match(self) -> None:
        """Laws 3 to 5: the first in the order of the queue that some free slot fits, and so on while there is one."""
        while fitting := [ticket for ticket in self.waiting if any(node.could_take(ticket) for node in self.nodes)]:
            first = min(fitting, key=order)
            self.waiting.remove(first)
            self.grant(first)

    def grant(self, ticket: OracleTicket) -> None:
        """Law 1, and the balancer: one of the nodes with the fewest leases per weight."""
        takers = [node for node in self.nodes if node.could_take(ticket)]
        load = {node.spec.id: (len(node.held) + node.elsewhere) / node.spec.weight for node in takers}
        allowed = {node_id for node_id in load if load[node_id] == min(load.values())}
        node_id = self.choose(ticket.id, allowed)
        node = self.find_node(node_id)
        node.held.append(ticket.id)
        self.sent_to[ticket.id] = node.spec.address
        self.granted.append((ticket.id, node_id, len(takers)))

    def end(self, ticket: OracleTicket, error: str) -> None:
        self.waiting.remove(ticket)
        self.ended[ticket.id] = error

    def end_stranded(self) -> None:
        """A ticket taken back from a node ends when it has no other node left to go to."""
        for ticket in list(self.waiting):
            if (ticket.excluded or ticket.needs_company) and not self.has_way(ticket):
                self.end(ticket, "NoOtherNode")

    def note_orphans(self) -> None:
        """Tickets whose model has lost its last node wait `unavailable_wait` for one to be registered."""
        for model in sorted({ticket.model for ticket in self.waiting}):
            if not self.nodes_of(model) and model not in self.orphaned:
                self.orphaned[model] = (self.now, self.plan())
        for model in list(self.orphaned):
            if self.nodes_of(model):
                del self.orphaned[model]

    # -- look-ups -----------------------------------------------------------------------------

    def nodes_of(self, model: str) -> list[OracleNode]:
        return [node for node in self.nodes if model in node.spec.models]

    def has_way(self, ticket: OracleTicket) -> bool:
        allowed = [node for node in self.nodes_of(ticket.model) if node.spec.id not in ticket.excluded]
        if ticket.needs_company:
            serving = [node for node in allowed if node.serves(ticket.model)]
            return len(serving) >= 2 and any(node.promised != 0 for node in serving)
        ours = [node for node in allowed if node.promised != 0]  # the others are left to the successor
        return any(not node.has_lost(ticket.model) for node in ours) if ticket.excluded else bool(allowed)

    def held_at_home(self, node: OracleNode) -> int:
        return sum(self.sent_to[ticket_id] == node.spec.address for ticket_id in node.held)

    def holder(self, ticket_id: str) -> OracleNode:
        (node,) = [node for node in (*self.nodes, *self.removed) if ticket_id in node.held]
        return node

    def find_node(self, node_id: str) -> OracleNode:
        for node in self.nodes:
            if node.spec.id == node_id:
                return node
        raise Refused("UnknownNode")

    def find_waiting(self, ticket_id: str) -> OracleTicket:
        for ticket in self.waiting:
            if ticket.id == ticket_id:
                return ticket
        raise Refused("UnknownRequest")


def order(ticket: OracleTicket) -> tuple[int, int]:
    """Law 5: the more urgent first, among equals whoever came first."""
    return (ticket.priority, ticket.came_as)
