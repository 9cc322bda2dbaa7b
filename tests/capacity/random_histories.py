"""Random histories to simulate: small numbers, so that much happens at the same instant."""

from dataclasses import replace
from random import Random

from scheduler.capacity.arrivals import Arrival
from scheduler.capacity.fleet import Action, FleetEvent, FleetNode
from scheduler.core.node import AdminState, NodeSpec
from scheduler.core.priority import Priority
from tests.capacity.straight_line import History

MODEL_SETS = (("llama",), ("llama", "qwen"), ("qwen",), ("llama", "qwen", "bge"))
#: What may happen to nodes in one history. A node that is both draining and down is left to the tests of the core.
EVENTS = (
    (),
    (Action.DRAIN, Action.ACTIVATE, Action.DISABLE, Action.ACTIVATE, Action.LIMIT),
    (Action.DOWN, Action.UP, Action.DISABLE, Action.ACTIVATE, Action.LIMIT, Action.UP),
    (Action.REMOVE, Action.ADD, Action.ADD, Action.LIMIT, Action.WEIGHT),
)


def random_history(seed: int) -> History:
    """The history of a seed; one in forty has about 300 requests, most have 20 to 60."""
    random = Random(seed)
    nodes = tuple(_node(random, f"n{i}") for i in range(random.choice((1, 2, 2, 3, 4))))
    requests = random.randint(250, 300) if seed % 40 == 0 else random.randint(20, 60)
    slots = sum(node.spec.max_concurrent for node in nodes)
    mean_service_s = random.choice((2, 6, 20))
    gap_s = mean_service_s / slots * random.choice((0.3, 0.7, 1.0, 1.5))  # from too much to bear, to little to do
    arrivals = _arrivals(random, requests, gap_s, mean_service_s)
    kinds = random.choice(EVENTS)
    events = _events(random, nodes, kinds, arrivals[-1].at_s, requests // 8) if kinds else ()
    return History(
        nodes,
        events,
        arrivals,
        max_queue_size=random.choice((1000, 1000, 20, 5, 0)),
        max_queue_per_model=random.choice((0, 0, 3)),
        unavailable_wait=random.choice((30, 10, 0)),
    )


def without_events(seed: int, requests: int) -> History:
    """A history of this many requests in which nothing happens to the nodes and nothing bounds the queue."""
    random = Random(seed)
    nodes = tuple(_node(random, f"n{i}") for i in range(random.choice((1, 2, 3))))
    slots = sum(node.spec.max_concurrent for node in nodes)
    arrivals = _arrivals(random, requests, 6 / slots * random.choice((0.7, 1.0)), 6)
    served = {model for node in nodes for model in node.spec.models}
    return History(nodes, (), tuple(arrival for arrival in arrivals if arrival.model in served))


def _node(random: Random, node_id: str) -> FleetNode:
    models, limit = random.choice(MODEL_SETS), random.choice((1, 2, 3, 5))
    spec = NodeSpec(node_id, f"http://{node_id}", models, limit, random.choice((100, 100, 50, 200)))
    state = random.choice((AdminState.ACTIVE,) * 9 + (AdminState.DISABLED,))
    return FleetNode(spec, state, random.choice((1.0, 1.0, 2.0)))


def _arrivals(random: Random, requests: int, gap_s: float, mean_service_s: int) -> tuple[Arrival, ...]:
    at_s, arrivals = 0.0, []
    for _ in range(requests):
        at_s += random.expovariate(1 / gap_s)
        arrivals.append(
            Arrival(
                float(round(at_s)),
                random.choice(("llama", "llama", "qwen", "qwen", "bge")),
                random.choice((Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.NORMAL, Priority.LOW)),
                2 * random.randint(0, mean_service_s),  # whole seconds also at twice the speed
                random.choice((1000, 1000, 40, 15, 5, 0)),
                random.choice((None, None, None, 60, 12, 3)),
            )
        )
    return tuple(arrivals)


def _events(
    random: Random, nodes: tuple[FleetNode, ...], kinds: tuple[Action, ...], last_s: float, most: int
) -> tuple[FleetEvent, ...]:
    """Events that make sense: nobody drains what is not there."""
    registered = {node.spec.id: node for node in nodes}
    removed: dict[str, FleetNode] = {}
    events = []
    for at_s in sorted(float(random.randint(0, int(last_s) + 10)) for _ in range(random.randint(1, most))):
        action = random.choice(kinds)
        if action is Action.ADD:
            if removed:
                node_id, former = removed.popitem()
                spec = replace(former.spec, max_concurrent=random.choice((1, 2, 4)))
                registered[node_id] = replace(former, spec=spec)
                events.append(FleetEvent(at_s, action, node_id, node=registered[node_id]))
        elif registered:
            node_id = random.choice(sorted(registered))
            if action is Action.REMOVE:
                removed[node_id] = registered.pop(node_id)
            number = {Action.LIMIT: random.choice((1, 2, 4)), Action.WEIGHT: random.choice((50, 100, 300))}
            events.append(FleetEvent(at_s, action, node_id, number.get(action, 0)))
    return tuple(events)
