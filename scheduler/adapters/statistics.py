"""SqlStatistics: figures of any range of time, from rollups. It is the gateway's Statistics.

A range is put together from days, where a day is cut by its begin or end from hours (quarters for usage), where an hour
is from minutes, and where a minute is from the rows themselves. So it is exact whatever its ends are, as long as what
they cut is kept; a minute or an hour of which the parts are gone belongs to where it begins.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import BigInteger, Connection, cast, func, literal, select, text

from scheduler.adapters.database import is_sqlite
from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.marks import MINUTES_GONE_BEFORE, ROWS_GONE_BEFORE, time_mark
from scheduler.adapters.rollups import FIGURES, add_figures, read_inbox
from scheduler.adapters.sketch import Sketch
from scheduler.adapters.tables import NOT_COMPLETED, REQUESTS, ROLLUPS
from scheduler.adapters.tally import (
    COMPLETED,
    DAY_MS,
    KEY_MODEL,
    MINUTE_MS,
    OUTCOME,
    STEPS_MS,
    Facts,
    Tally,
    facts_of,
    fold_into,
)
from scheduler.gateway.figures import Durations, Figures, Grouped, Totals, Usage

#: An end that nothing reaches, which cuts no day.
FAR_MS = 2**52 // DAY_MS * DAY_MS

Name = tuple[str, str]


class SqlStatistics:
    """Every call runs in the reader's threads, in one transaction, so that nothing is seen twice or not at all."""

    def __init__(self, reader: DatabaseThreads) -> None:
        self._reader = reader

    def totals(self, start_time: float | None, end_time: float | None) -> Totals:
        """Figures of the requests created within the range; seconds since the epoch."""
        edges = _edges([start_time, end_time])

        def work(connection: Connection) -> Totals:
            found = _collect(connection, edges, OUTCOME)
            created = REQUESTS.c.created_at
            unfinished = (
                select(REQUESTS.c.status, func.count())
                # The second is what the partial index is asked for by.
                .where(REQUESTS.c.status.in_(("pending", "processing")), text(NOT_COMPLETED))
                .where(created >= edges[0], created < edges[1])
                .group_by(REQUESTS.c.status)
            )
            counts = {row[0]: row[1] for row in connection.execute(unfinished)}
            figures = _all_outcomes({name: tally for (name, _), tally in found.ranges[0].items()})
            return Totals(figures, counts.get("pending", 0), counts.get("processing", 0), found.is_exact)

        return self._reader.run(work)

    def grouped(self, edges: Sequence[float | None], group_by: str | None) -> Grouped:
        """Figures of each range between two edges, by a dimension, or of all together under the name None."""
        edges_ms = _edges(edges)

        def work(connection: Connection) -> Grouped:
            found = _collect(connection, edges_ms, group_by or OUTCOME)
            ranges = [{name: tally for (name, _), tally in tallies.items()} for tallies in found.ranges]
            if group_by is None:
                return Grouped(
                    [{None: _all_outcomes(tallies)} if tallies else {} for tallies in ranges], found.is_exact
                )
            return Grouped(
                [{name or None: _figures(tally) for name, tally in tallies.items()} for tallies in ranges],
                found.is_exact,
            )

        return self._reader.run(work)

    def usage(self, start_time: float | None, end_time: float | None) -> tuple[list[Usage], bool]:
        """What each key has used of each model, and whether that is exact."""
        edges = _edges([start_time, end_time])
        found = self._reader.run(lambda connection: _collect(connection, edges, KEY_MODEL))
        used = [
            Usage(
                key or None,
                model or None,
                tally.requests,
                tally.completed,
                tally.prompt_tokens,
                tally.completion_tokens,
                tally.without_usage,
            )
            for (key, model), tally in sorted(found.ranges[0].items())
        ]
        return used, found.is_exact


@dataclass(slots=True)
class _Found:
    """Tallies by name for each range between two edges (ms)."""

    edges: Sequence[int]
    is_exact: bool = True
    ranges: list[dict[Name, Tally]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ranges = [{} for _ in self.edges[1:]]

    def tally(self, at: int, name: str, model: str) -> Tally | None:
        """Where something that begins at `at` is counted; None where that is in no range."""
        number = bisect_right(self.edges, at) - 1
        if not 0 <= number < len(self.ranges):
            return None
        known = self.ranges[number].get((name, model))
        if known is None:
            known = self.ranges[number][(name, model)] = Tally()
        return known


def _collect(connection: Connection, edges: Sequence[int], dimension: str) -> _Found:
    if not is_sqlite(connection):
        # All that follows must see the same moment.
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    found = _Found(edges)
    levels = (*STEPS_MS[dimension], 0)  # the last are the rows
    gone_before = {
        MINUTE_MS: time_mark(connection, MINUTES_GONE_BEFORE),
        0: time_mark(connection, ROWS_GONE_BEFORE),
    }
    in_rows: set[int] = set()

    def gather(level: int, begin: int, end: int) -> None:
        step_ms, finer_ms = levels[level : level + 2]
        cut = {edge - edge % step_ms for edge in edges if edge % step_ms}
        in_finer = {at for at in cut if begin <= at < end and at >= gone_before.get(finer_ms, 0)}
        for first, until in _between(begin, end, sorted(in_finer), step_ms):
            _add_rollups(connection, found, dimension, step_ms, first, until, cut)
        for first, until in _runs(in_finer, step_ms):
            if finer_ms:
                gather(level + 1, first, until)
            else:
                fold_into(_rows(connection, max(first, edges[0]), min(until, edges[-1])), dimension, found.tally)
        if not finer_ms:
            in_rows.update(in_finer)

    gather(0, edges[0] - edges[0] % levels[0], edges[-1])
    _, waiting = read_inbox(connection)
    # Those of the cut minutes were found among the rows.
    fresh = (facts for facts in waiting if facts.created_at - facts.created_at % MINUTE_MS not in in_rows)
    fold_into(fresh, dimension, found.tally)
    return found


def _add_rollups(
    connection: Connection, found: _Found, dimension: str, step_ms: int, begin: int, end: int, cut: set[int]
) -> None:
    columns = ROLLUPS.c
    is_cut = any(begin <= at < end for at in cut)
    # What begins outside the range counts in none; it is read only where that makes the range inexact.
    begin, end = (begin, end) if is_cut else (max(begin, found.edges[0]), min(end, found.edges[-1]))
    is_wanted = (columns.step_ms == step_ms, columns.dimension == dimension, columns.at >= begin, columns.at < end)
    if dimension == KEY_MODEL and len(found.ranges) == 1 and not is_cut:
        # Nothing but sums, and there may be many: the database adds them up. PostgreSQL's sums would be decimals.
        sums = (cast(func.coalesce(func.sum(columns[name]), 0), BigInteger) for name in FIGURES[:8])
        query = select(func.min(columns.at), columns.name, columns.model, *sums, *[literal(None)] * 3)
        query = query.where(*is_wanted).group_by(columns.name, columns.model)
    else:
        query = select(columns.at, columns.name, columns.model, *(columns[name] for name in FIGURES)).where(*is_wanted)
    for row in connection.execute(query):
        at, name, model, *figures = row
        if at in cut:
            found.is_exact = False
        tally = found.tally(at, name, model)
        if tally is not None:
            add_figures(tally, figures)


def _rows(connection: Connection, begin: int, end: int) -> Iterable[Facts]:
    columns = REQUESTS.c
    query = select(*(columns[name] for name in Facts._fields)).where(
        columns.created_at >= begin, columns.created_at < end, columns.outcome.is_not(None)
    )
    return [facts_of(row) for row in connection.execute(query).mappings()]


def _between(begin: int, end: int, holes: Sequence[int], length: int) -> Iterable[tuple[int, int]]:
    """The range without the holes, each of which is `length` long."""
    for hole in holes:
        if begin < hole:
            yield begin, hole
        begin = max(begin, hole + length)
    if begin < end:
        yield begin, end


def _runs(begins: set[int], length: int) -> Iterable[tuple[int, int]]:
    """Pieces of one length that follow each other, as one."""
    run: tuple[int, int] | None = None
    for begin in sorted(begins):
        if run is not None and run[1] == begin:
            run = (run[0], begin + length)
            continue
        if run is not None:
            yield run
        run = (begin, begin + length)
    if run is not None:
        yield run


def _edges(times: Sequence[float | None]) -> list[int]:
    """In milliseconds; an end that is left open is far away."""
    open_ends = [0, *[FAR_MS] * (len(times) - 1)]
    return [
        open_end if at is None else min(max(round(at * 1000), 0), FAR_MS)
        for at, open_end in zip(times, open_ends, strict=True)
    ]


def _all_outcomes(tallies: dict[str, Tally]) -> Figures:
    """All requests together: counts and tokens of all, durations of the completed ones."""
    whole = Tally()
    for name, tally in tallies.items():
        whole.add(tally, with_durations=name == COMPLETED)
    return _figures(whole)


def _figures(tally: Tally) -> Figures:
    return Figures(
        tally.requests,
        tally.completed,
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.without_usage,
        _durations(tally.queue, tally.queue_us),
        _durations(tally.ttfb, tally.ttfb_us),
        _durations(tally.latency, tally.latency_us),
    )


def _durations(sketch: Sketch, sum_us: int) -> Durations:
    count = len(sketch)
    if not count:
        return Durations()
    p50, p95, p99 = sketch.percentiles(0.5, 0.95, 0.99)
    return Durations(sum_us / count / 1000, p50, p95, p99)
