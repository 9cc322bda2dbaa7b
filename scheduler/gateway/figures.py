"""Figures: what statistics say of many requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: What figures may be asked for by.
DIMENSIONS = ("model", "node", "priority", "outcome", "key")


@dataclass(frozen=True, slots=True)
class Durations:
    """The mean (exact) and percentiles (by nearest rank, at most 4 % or 0.05 ms off) in ms; None where none ended."""

    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Of finished requests. Durations are those of completed ones, except of a group by outcome: those of all in it."""

    requests: int = 0
    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0  # answers that began, were no error, and brought no token counts
    queue: Durations = Durations()
    ttfb: Durations = Durations()
    latency: Durations = Durations()


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of all requests of a range, those that are not finished counted too."""

    figures: Figures
    pending: int
    processing: int
    is_exact: bool  # False where the range begins or ends within what is only kept as a whole


@dataclass(frozen=True, slots=True)
class Grouped:
    """Figures of ranges that follow each other: of each range those of each group by its name, None where it has none.

    A group in which nothing ended within a range is missing there.
    """

    ranges: Sequence[Mapping[str | None, Figures]]
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What the requests of one key and model, finished within a range, have used."""

    key_name: str | None  # None: without a key, or all keys together
    model: str | None  # None: a model that no node had, or all models together
    requests: int
    completed: int
    prompt_tokens: int
    completion_tokens: int
    without_usage: int
