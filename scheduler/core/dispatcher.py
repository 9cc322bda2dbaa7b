"""Dispatcher: turns tickets into leases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import count

from scheduler.core.ageing import Ageing
from scheduler.core.balancer import Balance, least_loaded
from scheduler.core.drain_rate import DrainRate
from scheduler.core.explanation import why_it_waits
from scheduler.core.lazy_heap import Entry
from scheduler.core.lease import Lease
from scheduler.core.node import AdminState, Health, Node, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.slot_sharing import SlotSharing
from scheduler.core.slow_start import SlowStart
from scheduler.core.snapshot import NodeView, QueueView
from scheduler.core.ticket import Ticket, TicketState
from scheduler.core.timetable import Action, Timetable
from scheduler.core.waiting_room import WaitingRoom
from scheduler.errors import (
    Cancelled,
    NoHealthyNode,
    NoOtherNode,
    QueueFull,
    QueueTimeout,
    SchedulerError,
    ShuttingDown,
    UnknownModel,
    UnknownNode,
    UnknownRequest,
)


class Dispatcher:
    """Who gets which slot, when.

    Every public method changes the state in one go, without a switch point, and ends with no usable slot free while a
    ticket that could use it waits. So a newcomer that finds a free slot overtakes nobody, and nothing polls.

    `clock` gives seconds that never run backwards. `unavailable_wait_s` is how long a new ticket may wait while every
    node of its model is down or disabled; `probe_interval_s` is what such callers are told to retry after. `aging_s`
    makes a ticket one level more urgent for each such time it waits, never critical (0: never). `slow_start_s`: see
    SlowStart.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_queue_size: int = 10_000,
        max_queue_per_model: int = 0,
        unavailable_wait_s: float = 30.0,
        probe_interval_s: float = 30.0,
        aging_s: float = 0.0,
        slow_start_s: float | None = None,
        balance: Balance = least_loaded,
    ) -> None:
        self._clock = clock
        self._unavailable_wait_s = unavailable_wait_s
        self._probe_interval_s = probe_interval_s
        self._balance = balance
        self._nodes: dict[str, Node] = {}
        self._retired: list[Node] = []  # removed, still held by leases
        self._serving: dict[str, list[Node]] = {}  # by model: registered, in whatever state
        self._waiting = WaitingRoom(max_queue_size, max_queue_per_model)
        self._orphans: dict[str, Entry[Action]] = {}  # by model without a node: the timer that ends who waits for it
        self._sequence = count()
        self._grants = count(1)
        self._drain_rate = DrainRate()
        self._sharing = SlotSharing()
        self._is_closed = False
        self.timetable = Timetable()
        self._ageing = Ageing(aging_s, self.timetable, clock, self._waiting)
        self._slow_start = SlowStart(slow_start_s, self.timetable, clock, lambda nodes: self._match(nodes))

    def __repr__(self) -> str:
        held = sum(node.slots.held for node in (*self._nodes.values(), *self._retired))
        return f"<Dispatcher {len(self._nodes)} nodes, {held} held, {len(self._waiting)} waiting>"

    # -- tickets ------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Grant a lease at once, or let the ticket wait. Raises AdmissionError where it may do neither."""
        now = self._advance()
        if self._is_closed:
            raise ShuttingDown
        nodes = self._serving.get(ticket.model)
        if not nodes:
            raise UnknownModel(ticket.model, sorted(self._serving))
        if all(node.pledge == 0 for node in nodes):
            raise ShuttingDown  # they are left to the successor
        ticket.queued_at = now
        ticket.sequence = next(self._sequence)
        self._place(ticket, nodes, now)

    def resubmit(self, ticket: Ticket, exclude: str | None = None, needs_company: bool = False) -> None:
        """Submit again, at its old place, a ticket whose lease was released because its node failed.

        `exclude` is a node it may not go to any more. `needs_company`: the node died when it had the request, so from
        now on the ticket is granted only where another node of its model is left besides. Raises AdmissionError;
        NoOtherNode where there is no node for it.
        """
        now = self._advance()
        ticket.state, ticket.lease, ticket.error = TicketState.NEW, None, None
        if exclude is not None:
            ticket.excluded |= {exclude}
        ticket.needs_company = ticket.needs_company or needs_company
        nodes = self._serving.get(ticket.model, [])
        if self._is_closed:
            raise ShuttingDown
        if ticket.deadline <= now:
            raise self._queue_timeout(ticket, now)
        if not self._has_way(ticket, nodes):
            raise NoOtherNode
        self._place(ticket, nodes, now)

    def cancel(self, request_id: str, error: SchedulerError | None = None) -> None:
        """End a waiting ticket with `error` (Cancelled where none is given). Raises UnknownRequest."""
        self._advance()
        ticket = self._waiting.get(request_id)
        if ticket is None:
            raise UnknownRequest(request_id)
        self._end(ticket, error or Cancelled())

    def abandon(self, ticket: Ticket) -> None:
        """Take a ticket out, wherever it is: it leaves the queue, and a lease it got is released. Idempotent."""
        if ticket.state is TicketState.WAITING:
            self._end(ticket, Cancelled())
        elif ticket.lease is not None:
            ticket.lease.release()

    def change_priority(self, request_id: str, priority: Priority) -> None:
        """Move a waiting ticket to another priority, behind those who came before it. Raises UnknownRequest."""
        now = self._advance()
        ticket = self._waiting.get(request_id)
        if ticket is None:
            raise UnknownRequest(request_id)
        self._waiting.move(ticket, priority)
        self._ageing.begin(ticket, now)

    def release(self, lease: Lease, hold_back_s: float | None = None) -> bool:
        """Give a lease's slot back; True where somebody was granted by it. See Lease.release."""
        if lease.is_released:
            return False
        lease.is_released = True
        node = lease.holder
        try:
            now = self._advance()  # before the slot is free: what was due earlier must not get it
        finally:
            node.leases.discard(lease)
            node.slots.give_back()
        if self._nodes.get(node.spec.id) is not node:
            if not node.leases:
                self._retired.remove(node)
            return False
        if hold_back_s is not None:
            self._withhold(node, now + hold_back_s)
            return False
        self._lift(node)
        return self._match([node])

    def close(self) -> None:
        """Refuse new tickets from now on, and end all that wait, with ShuttingDown."""
        self._is_closed = True
        for ticket in self._waiting:
            self._end(ticket, ShuttingDown())

    # -- nodes --------------------------------------------------------------------------------

    def put_node(self, spec: NodeSpec, state: AdminState) -> None:
        """Register a node, or change one. Held leases keep counting, as does what still runs at its address."""
        now = self._advance()
        node = self._nodes.get(spec.id)
        if node is None:
            node = self._nodes[spec.id] = Node(spec, state, now)
            relieved = self._inherit(node)
            self._sharing.adopt(node)
            lost_models: Iterable[str] = ()
        else:
            lost_models = set(node.spec.models) - set(spec.models)
            self._forget_models(node)
            if spec.max_concurrent != node.slots.limit:
                node.slots.resize(spec.max_concurrent)
            has_moved = spec.address != node.spec.address
            node.set_models(spec, frozenset() if has_moved else node.withdrawn)
            relieved = self._inherit(node)
            if has_moved:
                self._sharing.adopt(node)
            self._slow_start.grow(node, now)
        for model in spec.models:
            self._serving.setdefault(model, []).append(node)
            if model in self._orphans:
                self.timetable.cancel(self._orphans.pop(model))
        self._mark_orphans(lost_models, now)
        self._note_state(node, state, now)
        self._match([node, *relieved])
        self._end_stranded([*spec.models, *lost_models])

    def remove_node(self, node_id: str) -> None:
        """Forget a node: nothing new goes there, what runs goes on and keeps counting. Raises UnknownNode."""
        now = self._advance()
        node = self._find(node_id)
        del self._nodes[node_id]
        self._forget_models(node)
        self._lift(node)
        self._slow_start.end(node)
        if node.leases:
            self._retired.append(node)
        self._mark_orphans(node.spec.models, now)
        self._end_stranded(node.spec.models)

    def set_state(self, node_id: str, state: AdminState) -> None:
        """Set what the operator wants of a node. Raises UnknownNode."""
        now = self._advance()
        node = self._find(node_id)
        self._note_state(node, state, now)
        self._match([node])
        self._end_stranded(node.spec.models)

    def set_health(self, node_id: str, health: Health, reason: str | None = None) -> None:
        """Set what the probes say of a node: UNKNOWN where it moves, since nothing is known of the new address.

        Nothing happens where it has been removed meanwhile.
        """
        now = self._advance()
        node = self._nodes.get(node_id)
        if node is None:
            return
        if node.health is not health:
            node.since = now
        self._slow_start.note_health(node, health)
        node.health, node.health_reason = health, reason
        self._match([node])
        self._end_stranded(node.spec.models)

    def note_answered(self, node_id: str) -> None:
        """A node has answered a request: one that recovers, or was busy, may get more from now on. Cheap for others."""
        node = self._nodes.get(node_id)
        if node is not None and (node.is_half_open or node.trial_limit is not None):
            now = self._advance()
            node.trial_limit = None
            self._slow_start.note_answered(node, now)
            self._match([node])

    def is_half_open(self, node_id: str) -> bool:
        """True while a node has recovered and answered no request since."""
        node = self._nodes.get(node_id)
        return node is not None and node.is_half_open

    def withdraw(self, node_id: str, model: str) -> None:
        """A node has said that it does not have a model it is registered with: it gets no more requests for it."""
        self._advance()
        node = self._nodes.get(node_id)
        if node is not None and model in node.offers:
            node.set_models(node.spec, node.withdrawn | {model})
            self._end_stranded([model])

    def note_models(self, node_id: str, listed: Collection[str] | None) -> None:
        """A node lists these models: what was withdrawn from it and is listed is served again.

        `None`: it has no list that could be read, so that only trying tells.
        """
        self._advance()
        node = self._nodes.get(node_id)
        if node is not None and node.withdrawn:
            node.set_models(node.spec, frozenset() if listed is None else node.withdrawn.difference(listed))
            self._match([node])

    # -- reload -------------------------------------------------------------------------------

    def set_elsewhere(self, counts: Mapping[str, int]) -> None:
        """So many slots of each address are used by another process; of the addresses not named, none.

        Holds for nodes that register later, too, until it is called again.
        """
        self._advance()
        self._sharing.set_elsewhere(counts, self._nodes.values())
        self._match(list(self._nodes.values()))

    def pledge(self) -> None:
        """From now on no node may hold more than now (one, where it holds none), and that cap only ever shrinks."""
        self._advance()
        self._sharing.pledge(self._nodes.values())

    def shares(self, keep_one: bool) -> dict[str, int]:
        """By address, how many slots this process holds; one where it holds none, may use one and is waited for,
        or `keep_one` where somebody may come who does.

        After a pledge, what has been told is the most that this process will ever use there.
        """
        self._advance()
        waits = self._waiting.queues.keys()
        shares = self._sharing.shares(
            self._nodes.values(),
            self._retired,
            lambda node: keep_one or not waits.isdisjoint(node.spec.models),
        )
        self._end_stranded(self._serving)
        return shares

    # -- time ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what has become due: deadlines, and slots kept back long enough."""
        self._advance()

    # -- views --------------------------------------------------------------------------------

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    @property
    def in_flight_count(self) -> int:
        """Leases held, those of removed nodes included."""
        return sum(node.slots.held for node in (*self._nodes.values(), *self._retired))

    def models(self) -> list[str]:
        """The models of the nodes that are not disabled, sorted."""
        return sorted(
            model
            for model, nodes in self._serving.items()
            if any(node.state is not AdminState.DISABLED for node in nodes)
        )

    def nodes(self) -> list[NodeView]:
        """All registered nodes, in order of registration."""
        now = self._clock()
        return [self._view(node, now) for node in self._nodes.values()]

    def node(self, node_id: str) -> NodeView:
        """One registered node. Raises UnknownNode."""
        return self._view(self._find(node_id), self._clock())

    def queue(self, limit: int = 200) -> QueueView:
        """The first `limit` waiting tickets in order, and how many there are in all."""
        now = self._clock()
        return self._waiting.view(
            limit, now, lambda ticket: why_it_waits(ticket, self._serving.get(ticket.model, []), now)
        )

    def oldest_waits_s(self) -> dict[Priority, float]:
        """By priority, how long the ticket that waits longest has waited; only those where somebody waits."""
        now = self._clock()
        return {priority: now - queued_at for priority, queued_at in self._waiting.oldest().items()}

    # -- inside: no switch point below --------------------------------------------------------

    def _advance(self) -> float:
        """Do what is due before anything else happens; the time now."""
        now = self._clock()
        due = self.timetable.next_due
        if due is not None and due <= now:
            self.timetable.run_due(now)
        return now

    def _place(self, ticket: Ticket, nodes: Sequence[Node], now: float) -> None:
        """Grant the ticket a free slot, or let it wait."""
        free = [node for node in nodes if node.can_take(ticket)]
        if free:
            self._grant(ticket, free, now)
            return
        if ticket.deadline <= now:  # it would push somebody out for nothing
            raise self._queue_timeout(ticket, now)
        self._make_room(ticket, now)
        ticket.state = TicketState.WAITING
        self._waiting.add(ticket)
        timers = [self.timetable.add(ticket.deadline, lambda: self._expire(ticket))]
        give_up_at = now + self._unavailable_wait_s
        if give_up_at < ticket.deadline and all(node.has_lost(ticket.model) for node in nodes):
            timers.append(self.timetable.add(give_up_at, lambda: self._give_up(ticket)))
        ticket.timers = tuple(timers)
        self._ageing.begin(ticket, now)

    def _make_room(self, ticket: Ticket, now: float) -> None:
        """Make room for a ticket in the queue: where it is full, the newest of the least urgent has to go."""
        model, room = ticket.model, self._waiting
        if room.is_full_for(model):
            self._push_out(room.worst(model), ticket, f"The queue of the model '{model}' is full", now)
        if room.is_full:
            self._push_out(room.worst(), ticket, "The queue is full", now)

    def _push_out(self, worst: Ticket | None, ticket: Ticket, message: str, now: float) -> None:
        retry_after_s = self._drain_rate.retry_after_s(len(self._waiting), now)
        if worst is None or worst.key < ticket.key:
            raise QueueFull(f"{message} ({len(self._waiting)} requests wait).", retry_after_s)
        self._end(worst, QueueFull(f"{message}, and a more urgent request has taken this one's place.", retry_after_s))

    def _grant(self, ticket: Ticket, free: Sequence[Node], now: float) -> None:
        node = self._balance(free) if len(free) > 1 else free[0]
        if not node.slots.take():
            raise AssertionError(f"{node!r} had room and its semaphore had none")
        lease = Lease(self, node, ticket.id, now, len(free))
        node.leases.add(lease)
        node.grant_order = next(self._grants)
        ticket.settle(lease, None)

    def _match(self, nodes: Sequence[Node]) -> bool:
        """Grant until no waiting ticket fits a free slot of these nodes; True where somebody was granted."""
        has_granted = False
        while free := [node for node in nodes if node.has_room]:
            best: Ticket | None = None
            for model in {model for node in free for model in node.offers}:
                queue = self._waiting.queues.get(model)
                if queue is None:
                    continue
                ticket = queue.best([node for node in free if model in node.offers])
                if ticket is not None and (best is None or ticket.key < best.key):
                    best = ticket
            if best is None:
                break
            now = self._clock()
            self._leave(best)
            self._drain_rate.note(now)
            takers = [node for node in free if node.can_take(best)]
            self._grant(best, takers, now)
            has_granted = True
        return has_granted

    def _leave(self, ticket: Ticket) -> None:
        """Take a waiting ticket out of the queue."""
        self._waiting.remove(ticket)
        for timer in ticket.timers:
            self.timetable.cancel(timer)
        ticket.timers = ()
        self._ageing.end(ticket)

    def _end(self, ticket: Ticket, error: SchedulerError) -> None:
        self._leave(ticket)
        ticket.settle(None, error)

    def _expire(self, ticket: Ticket) -> None:
        self._end(ticket, self._queue_timeout(ticket, self._clock()))

    def _queue_timeout(self, ticket: Ticket, now: float) -> QueueTimeout:
        return QueueTimeout(now - ticket.queued_at, self._drain_rate.retry_after_s(len(self._waiting), now))

    def _give_up(self, ticket: Ticket) -> None:
        """A ticket that arrived while all its nodes were lost has waited long enough for one."""
        if all(node.has_lost(ticket.model) for node in self._serving.get(ticket.model, [])):
            self._end(ticket, NoHealthyNode(ticket.model, max(1, min(60, round(self._probe_interval_s)))))

    def _mark_orphans(self, models: Iterable[str], now: float) -> None:
        """Models that may have lost their last node: whoever waits for them waits so long for one to be registered."""
        for model in models:
            if model in self._waiting.queues and model not in self._serving and model not in self._orphans:
                end_orphans = partial(self._end_orphans, model)
                self._orphans[model] = self.timetable.add(now + self._unavailable_wait_s, end_orphans)

    def _end_orphans(self, model: str) -> None:
        del self._orphans[model]
        for ticket in list(self._waiting.queues.get(model, ())):
            self._end(ticket, UnknownModel(model, sorted(self._serving)))

    def _has_way(self, ticket: Ticket, nodes: Sequence[Node]) -> bool:
        """True where a ticket still has a node to go to, now or later; one that is lost, or that this process has left
        to its successor, is no reason to wait for a ticket that has already been turned away elsewhere.
        """
        model, excluded = ticket.model, ticket.excluded
        allowed = [node for node in nodes if node.spec.id not in excluded]
        if ticket.needs_company:
            # A poisonous request must not take the model's last node down, nor wait for another one to come up.
            serving = [node for node in allowed if node.serves(model)]
            return len(serving) > 1 and any(node.pledge != 0 for node in serving)
        return any(not (excluded and (node.has_lost(model) or node.pledge == 0)) for node in allowed)

    def _end_stranded(self, models: Iterable[str]) -> None:
        """End the tickets that were taken back from a node and have no other node left."""
        for model in models:
            queue = self._waiting.queues.get(model)
            if queue is None or not queue.choosy:
                continue
            nodes = self._serving.get(model, [])
            for ticket in [ticket for ticket in queue.choosy if not self._has_way(ticket, nodes)]:
                self._end(ticket, NoOtherNode())

    def _withhold(self, node: Node, until: float) -> None:
        self._lift(node)
        node.withheld_until = until

        def try_again() -> None:
            self._lift(node)
            # One request has to find out: all that wait at once would be turned away at once.
            node.trial_limit = node.slots.held + 1
            self._match([node])

        node.recheck = self.timetable.add(until, try_again)

    def _lift(self, node: Node) -> None:
        if node.recheck is not None:
            self.timetable.cancel(node.recheck)
        node.recheck = node.withheld_until = node.trial_limit = None

    def _inherit(self, node: Node) -> list[Node]:
        """What runs at its address counts against a node, whoever it was granted by, and so does what a removed node of
        the same id or address still runs. Gives the registered nodes that it counts against no longer.
        """
        relieved = []
        for other in [other for other in (*self._nodes.values(), *self._retired) if other is not node]:
            is_registered = self._nodes.get(other.spec.id) is other
            is_former = not is_registered and (other.spec.id == node.spec.id or other.spec.address == node.spec.address)
            leases = {lease for lease in other.leases if is_former or lease.node.address == node.spec.address}
            if not leases:
                continue
            other.leases -= leases
            other.slots.resize(other.slots.limit, inherited=-len(leases))
            node.leases |= leases
            node.slots.resize(node.slots.limit, inherited=len(leases))
            for lease in leases:
                lease.holder = node
            if is_registered:
                relieved.append(other)
            elif not other.leases:
                self._retired.remove(other)
        return relieved

    def _note_state(self, node: Node, state: AdminState, now: float) -> None:
        if node.state is not state:
            node.state, node.since = state, now

    def _forget_models(self, node: Node) -> None:
        for model in node.spec.models:
            nodes = self._serving[model]
            nodes.remove(node)
            if not nodes:
                del self._serving[model]

    def _find(self, node_id: str) -> Node:
        node = self._nodes.get(node_id)
        if node is None:
            raise UnknownNode(node_id)
        return node

    def _view(self, node: Node, now: float) -> NodeView:
        withheld_for_s = None if node.withheld_until is None else max(0.0, node.withheld_until - now)
        return NodeView(
            node.spec,
            node.state,
            node.health,
            node.health_reason,
            node.slots.held,
            node.since,
            withheld_for_s,
            node.ceiling,
            node.withdrawn,
        )
