"""Arrivals: requests as they come, and random ones."""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from random import Random

from scheduler.core.priority import Priority


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes at `at_s` and would keep a slot of a node of speed 1 for `service_s`.

    `queue_timeout_s` is how long it may wait for a slot. Its client leaves `gives_up_after_s` after it came, whether it
    waits or runs then; None: the client stays.
    """

    at_s: float
    model: str
    priority: Priority
    service_s: float
    queue_timeout_s: float
    gives_up_after_s: float | None = None


class Shape(StrEnum):
    """How service times spread around their mean."""

    CONSTANT = "constant"
    EXPONENTIAL = "exponential"
    LOGNORMAL = "lognormal"  # many short answers, a few very long ones: what engines show


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """How long requests keep a slot. `spread` is the standard deviation divided by the mean; for LOGNORMAL only."""

    mean_s: float
    shape: Shape = Shape.LOGNORMAL
    spread: float = 1.0

    def draw(self, random: Random) -> float:
        """One service time, in seconds."""
        if self.shape is Shape.CONSTANT or self.mean_s == 0:
            return self.mean_s
        if self.shape is Shape.EXPONENTIAL:
            return random.expovariate(1 / self.mean_s)
        # The mean of a lognormal variable is exp(mu + sigma^2 / 2), its squared spread exp(sigma^2) - 1.
        variance = math.log1p(self.spread**2)
        return random.lognormvariate(math.log(self.mean_s) - variance / 2, math.sqrt(variance))


@dataclass(frozen=True, slots=True)
class Load:
    """What comes for one model: so many requests a second on average, with these shares of priorities."""

    model: str
    rate_per_s: float
    service: ServiceTime
    shares: Mapping[Priority, float]
    queue_timeout_s: float = 120.0
    gives_up_after_s: float | None = None


def random_arrivals(loads: Sequence[Load], duration_s: float, seed: int) -> Iterator[Arrival]:
    """Poisson arrivals of all loads for so long, in order of time.

    One seed, one sequence: times, priorities and service times are drawn apart for each model. So a comparison of
    two fleets, or of two rates of one model, is not blurred by other requests having come.
    """
    streams = [_stream(load, duration_s, seed) for load in loads]
    return heapq.merge(*streams, key=lambda arrival: arrival.at_s)


def _stream(load: Load, duration_s: float, seed: int) -> Iterator[Arrival]:
    times, urgencies, services = (Random(f"{seed} {what} {load.model}") for what in ("times", "priority", "service"))
    priorities = list(load.shares)
    up_to = list(accumulate(load.shares.values()))
    at_s = 0.0
    # Gaps are drawn for a rate of 1 and stretched: at twice the rate, the same requests come in half the time.
    while load.rate_per_s > 0 and (at_s := at_s + times.expovariate(1.0) / load.rate_per_s) < duration_s:
        (priority,) = urgencies.choices(priorities, cum_weights=up_to)
        service_s = load.service.draw(services)
        yield Arrival(at_s, load.model, priority, service_s, load.queue_timeout_s, load.gives_up_after_s)
