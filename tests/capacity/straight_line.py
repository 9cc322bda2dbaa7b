"""The simulation once more, slow and obviously right: plain lists, and every step looks at everything.

It shares nothing with the core or the replay but the words of a history. Where the balancer leaves a choice, it is told
what the replay has chosen, and judges it.

At one instant things happen in this order: deadlines, in the order in which they were set; work that is done, in the
order in which it began; what happens to nodes; clients that leave, in the order in which they came; arrivals.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.capacity.arrivals import Arrival
from scheduler.capacity.fleet import FleetEvent, FleetNode


@dataclass(frozen=True)
class History:
    """What is to be simulated."""

    nodes: tuple[FleetNode, ...]
    events: tuple[FleetEvent, ...]
    arrivals: tuple[Arrival, ...]
    max_queue_size: int = 10_000
    max_queue_per_model: int = 0
    unavailable_wait: float = 30


@dataclass(eq=False)
class Request:
    number: int
    arrival: Arrival
    planned_as: int = 0
    give_up_at: float | None = None
    granted_at: float | None = None
    node_id: str | None = None
    ends_at: float = 0

    @property
    def model(self) -> str:
        return self.arrival.model

    @property
    def order(self) -> tuple[int, int]:
        return (self.arrival.priority, self.number)

    @property
    def deadline(self) -> float:
        return self.arrival.at_s + self.arrival.queue_timeout_s


@dataclass(eq=False)
class Machine:
    id: str
    models: tuple[str, ...]
    limit: int
    weight: int
    speed: float
    state: str
    is_up: bool = True
    is_registered: bool = True
    running: list[Request] = field(default_factory=list)

    def could_take(self, request: Request) -> bool:
        can_serve = self.is_registered and self.is_up and self.state == "active" and request.model in self.models
        return can_serve and len(self.running) < self.limit

    @property
    def is_lost(self) -> bool:
        return self.state == "disabled" or not self.is_up


#: Number, end, when, since when and where it had a slot.
Fate = tuple[int, str, float, float | None, str | None]


class StraightLine:
    """One history. `chosen` tells where the replay has sent each request that it has granted."""

    def __init__(self, history: History, chosen: Mapping[int, str]) -> None:
        self.history = history
        self.chosen = chosen
        self.now = 0.0
        self.plans = 0
        self.machines: list[Machine] = []
        self.coming = [Request(number, arrival) for number, arrival in enumerate(history.arrivals)]
        self.events = list(enumerate(history.events))
        self.waiting: list[Request] = []
        self.orphaned_at: dict[str, float] = {}
        self.fates: list[Fate] = []
        for node in history.nodes:
            self.add(node)

    def run(self) -> list[Fate]:
        while due := self.everything_due():
            self.now, _, _, what, whom = min(due, key=lambda one: one[:3])
            getattr(self, what)(whom)
            self.match()
        return self.fates

    def everything_due(self) -> list[tuple[float, int, int, str, object]]:
        due: list[tuple[float, int, int, str, object]] = []
        for request in self.waiting:
            due.append((request.deadline, 0, request.planned_as, "time_out", request))
            if request.give_up_at is not None:
                due.append((request.give_up_at, 0, request.planned_as, "give_up", request))
        for model, since in self.orphaned_at.items():
            due.append((since + self.history.unavailable_wait, 1, 0, "end_orphans", model))
        running = [request for machine in self.machines for request in machine.running]
        for request in running:
            due.append((request.ends_at, 2, request.planned_as, "finish", request))
        for place, event in self.events[:1]:
            due.append((event.at_s, 3, place, "happen", event))
        for request in self.waiting + running:
            if request.arrival.gives_up_after_s is not None:
                leaves_at = request.arrival.at_s + request.arrival.gives_up_after_s
                due.append((leaves_at, 4, request.number, "leave", request))
        for request in self.coming[:1]:
            due.append((request.arrival.at_s, 5, request.number, "arrive", request))
        return due

    # -- what happens -------------------------------------------------------------------------

    def arrive(self, request: Request) -> None:
        self.coming.remove(request)
        nodes = self.nodes_of(request.model)
        if not nodes:
            self.end(request, "no_node")
        elif any(node.could_take(request) for node in nodes):
            self.grant(request)
        elif request.deadline <= self.now:
            self.end(request, "timed_out")
        elif self.find_room(request):
            self.waiting.append(request)
            request.planned_as = self.plan()
            give_up_at = self.now + self.history.unavailable_wait
            if give_up_at < request.deadline and all(node.is_lost for node in nodes):
                request.give_up_at = give_up_at

    def find_room(self, newcomer: Request) -> bool:
        """The newest of the least urgent has to go, be it the newcomer."""
        same_model = [request for request in self.waiting if request.model == newcomer.model]
        bounds = [(self.history.max_queue_per_model or 10**9, same_model), (self.history.max_queue_size, self.waiting)]
        for bound, queue in bounds:
            if len(queue) >= bound:
                last = max([*queue, newcomer], key=lambda request: request.order)
                if last is newcomer:
                    self.end(newcomer, "rejected")
                    return False
                self.waiting.remove(last)
                self.end(last, "pushed_out")
        return True

    def finish(self, request: Request) -> None:
        self.stop(request)
        self.end(request, "completed")

    def leave(self, request: Request) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self.stop(request)
        self.end(request, "left")

    def time_out(self, request: Request) -> None:
        self.waiting.remove(request)
        self.end(request, "timed_out")

    def give_up(self, request: Request) -> None:
        request.give_up_at = None
        if all(node.is_lost for node in self.nodes_of(request.model)):
            self.waiting.remove(request)
            self.end(request, "no_node")

    def end_orphans(self, model: str) -> None:
        del self.orphaned_at[model]
        for request in [request for request in self.waiting if request.model == model]:
            self.waiting.remove(request)
            self.end(request, "no_node")

    def happen(self, event: FleetEvent) -> None:
        del self.events[0]
        if event.node is not None:
            self.add(event.node)
            return
        machine = next(machine for machine in self.machines if machine.id == event.node_id)
        if event.action in ("up", "down"):
            machine.is_up = event.action == "up"
        elif event.action in ("drain", "activate", "disable"):
            machine.state = {"drain": "draining", "activate": "active", "disable": "disabled"}[event.action]
        elif event.action == "limit":
            machine.limit = event.number
        elif event.action == "weight":
            machine.weight = event.number
        else:
            machine.is_registered = False
            for model in {request.model for request in self.waiting}:
                if not self.nodes_of(model) and model not in self.orphaned_at:
                    self.orphaned_at[model] = self.now

    def add(self, node: FleetNode) -> None:
        """A node comes, or comes back: what it still runs counts."""
        spec = node.spec
        machine = Machine(spec.id, spec.models, spec.max_concurrent, spec.weight, node.speed, node.state)
        for former in [machine for machine in self.machines if machine.id == spec.id]:
            machine.running = former.running
            self.machines.remove(former)
        self.machines.append(machine)
        for model in spec.models:
            self.orphaned_at.pop(model, None)

    # -- the laws -----------------------------------------------------------------------------

    def match(self) -> None:
        """The first in order that some free slot fits gets it, and so on while there is one."""
        while fitting := [r for r in self.waiting if any(machine.could_take(r) for machine in self.machines)]:
            first = min(fitting, key=lambda request: request.order)
            self.waiting.remove(first)
            self.grant(first)

    def grant(self, request: Request) -> None:
        """One of those with the least load per weight."""
        takers = [machine for machine in self.machines if machine.could_take(request)]
        least = min(len(machine.running) / machine.weight for machine in takers)
        allowed = {machine.id: machine for machine in takers if len(machine.running) / machine.weight == least}
        node_id = self.chosen.get(request.number)
        assert node_id in allowed, f"{request} at {self.now:g}: it went to {node_id}, not to one of {sorted(allowed)}"
        machine = allowed[node_id]
        machine.running.append(request)
        request.granted_at, request.node_id = self.now, machine.id
        request.ends_at = self.now + request.arrival.service_s / machine.speed
        request.planned_as = self.plan()

    def stop(self, request: Request) -> None:
        for machine in self.machines:
            if request in machine.running:
                machine.running.remove(request)

    def end(self, request: Request, how: str) -> None:
        self.fates.append((request.number, how, self.now, request.granted_at, request.node_id))

    def nodes_of(self, model: str) -> list[Machine]:
        return [machine for machine in self.machines if machine.is_registered and model in machine.models]

    def plan(self) -> int:
        self.plans += 1
        return self.plans
