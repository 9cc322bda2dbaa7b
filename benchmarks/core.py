"""What enqueue, cancel and match cost, by how many tickets wait: `python benchmarks/core.py`.

Each figure is the mean of many calls at that depth, in microseconds of CPU; the best of several rounds, since whatever
else the machine does can only add. The depth stays what it is: what is enqueued is cancelled, and what is granted is
replaced, outside the measured time. Cost that grows as log n adds about the same with each row.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from itertools import count

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.lease import Lease
from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket

DEPTHS = (10, 1_000, 10_000, 100_000)
CALLS = 2_000
ROUNDS = 5
SLOTS = 8


class Queue:
    """A dispatcher on one full node, with `depth` tickets of mixed priorities and deadlines waiting."""

    def __init__(self, depth: int) -> None:
        self.dice = random.Random(depth)
        self.names = count()
        self.core = Dispatcher(lambda: 0.0, max_queue_size=depth + CALLS)
        self.core.put_node(NodeSpec("gpu-01", "http://gpu-01", ("llama",), SLOTS), AdminState.ACTIVE)
        self.core.set_health("gpu-01", Health.UP)
        self.running = [self.submitted() for _ in range(SLOTS)]
        self.waiting = [self.submitted() for _ in range(depth)]

    def ticket(self) -> Ticket:
        priority = self.dice.choice(list(Priority))
        return Ticket(f"t{next(self.names)}", "llama", priority, self.dice.uniform(60, 600))

    def submitted(self) -> Ticket:
        ticket = self.ticket()
        self.core.submit(ticket)
        return ticket

    def enqueue(self) -> float:
        """Let new tickets wait."""
        tickets = [self.ticket() for _ in range(CALLS)]
        seconds = spent(self.core.submit, tickets)
        for ticket in tickets:
            self.core.cancel(ticket.id)
        return seconds

    def cancel(self) -> float:
        """Cancel tickets from anywhere in the queue."""
        some = self.dice.sample(range(len(self.waiting)), min(CALLS, len(self.waiting)))
        seconds = spent(self.core.cancel, [self.waiting[i].id for i in some])
        for i in some:
            self.waiting[i] = self.submitted()
        return seconds * CALLS / len(some)

    def match(self) -> float:
        """Release a lease, which grants the slot to the best ticket."""
        seconds = 0.0
        left = CALLS
        while left > 0:
            leases = [ticket.lease for ticket in self.running if ticket.lease is not None]
            seconds += spent(Lease.release, leases)
            left -= len(leases)
            self.running = [ticket for ticket in self.waiting if ticket.lease is not None]
            self.waiting = [ticket for ticket in self.waiting if ticket.lease is None]
            self.waiting += [self.submitted() for _ in leases]
        return seconds * CALLS / (CALLS - left)


def spent(call: Callable[..., object], arguments: Sequence[object]) -> float:
    """Seconds of CPU for all these calls."""
    began = time.process_time()
    for argument in arguments:
        call(argument)
    return time.process_time() - began


def main() -> None:
    print(f"microseconds a call, best of {ROUNDS} rounds of {CALLS}")
    print(f"{'waiting':>8} {'enqueue':>9} {'cancel':>9} {'match':>9}")
    for depth in DEPTHS:
        queue = Queue(depth)
        gc.collect()
        gc.disable()
        best = [min(measure() for _ in range(ROUNDS)) for measure in (queue.enqueue, queue.cancel, queue.match)]
        gc.enable()
        print(f"{depth:>8,} " + " ".join(f"{seconds / CALLS * 1e6:9.1f}" for seconds in best))


if __name__ == "__main__":
    main()
