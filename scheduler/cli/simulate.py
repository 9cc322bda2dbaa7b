"""`simulate`: what would happen, if these requests came to these nodes."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from scheduler.capacity.arrivals import Arrival, Load, ServiceTime, Shape, random_arrivals
from scheduler.capacity.fleet import Fleet
from scheduler.capacity.recorded_arrivals import Recording, read_records, recorded_arrivals
from scheduler.capacity.replay import End, Replay
from scheduler.capacity.report import Line, Report, report_on
from scheduler.capacity.virtual_clock import VirtualClock
from scheduler.cli.fleet_file import read_fleet
from scheduler.cli.remote import json_option
from scheduler.cli.table import table
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.priority import Priority
from scheduler.errors import ConfigError, UnknownNode
from scheduler.settings.duration import format_duration, parse_duration

T = TypeVar("T")
Reader = Callable[[str], float]

#: Shown only where there are any: they need a full queue, or nodes that fail.
_RARE = (End.PUSHED_OUT, End.NO_NODE)


class _Duration(click.ParamType[float]):
    """`500ms`, `30s`, `1h30m` as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, context)


_SHAPES = [shape.value for shape in Shape]
_positive = click.FloatRange(0, min_open=True)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--nodes", "nodes_file", type=_file, required=True, help="YAML: nodes as in config.yaml, and events.")
@click.option("--arrivals", "files", type=_file, multiple=True, help="Records to replay: JSON or CSV; repeatable.")
@click.option("--scale", type=_positive, default=1.0, show_default=True, help="2: they come twice as fast as recorded.")
@click.option("--rate", "rates", metavar="[MODEL=]N", multiple=True, help="Random requests a second for each model.")
@click.option("--duration", "duration_s", type=_Duration(), default="10m", show_default=True, help="So long they come.")
@click.option(
    "--service", "services", metavar="[MODEL=]TIME", multiple=True, help="Mean time a request keeps its slot."
)
@click.option("--shape", type=click.Choice(_SHAPES), default="lognormal", show_default=True, help="How it spreads.")
@click.option("--spread", type=click.FloatRange(0), default=1.0, show_default=True, help="Its deviation / mean.")
@click.option("--priorities", default="normal=1", show_default=True, metavar="NAME=N,...", help="Shares, for --rate.")
@click.option("--gives-up-after", "gives_up_after_s", type=_Duration(), help="A client leaves so long after it came.")
@click.option("--queue-timeout", "queue_timeout_s", type=_Duration(), default="120s", show_default=True)
@click.option("--max-queue", type=click.IntRange(0), default=10_000, show_default=True, help="Requests that may wait.")
@click.option("--max-queue-per-model", type=click.IntRange(0), default=0, show_default=True, help="0: no such limit.")
@click.option("--aging", "aging_s", type=_Duration(), default="0s", show_default=True, help="As scheduler.aging.")
@click.option(
    "--slow-start", "slow_start_s", type=_Duration(), default="15s", show_default=True, help="As scheduler.slow_start."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed, the same requests.")
@json_option
def simulate(
    nodes_file: Path,
    files: Sequence[Path],
    rates: Sequence[str],
    services: Sequence[str],
    max_queue: int,
    max_queue_per_model: int,
    aging_s: float,
    slow_start_s: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell how long requests would wait for given nodes, random ones or those of the records.

    Nothing is sent to anybody: the scheduler's own core runs against a clock that jumps from event to event.
    """
    if bool(files) == bool(rates):
        raise click.UsageError("Say what comes: either --rate and --service, or --arrivals.")
    fleet = _read(read_fleet, nodes_file)
    arrivals = _recorded(files, services, options) if files else _random(fleet, rates, services, options)
    clock = VirtualClock()
    dispatcher = Dispatcher(
        clock,
        max_queue_size=max_queue,
        max_queue_per_model=max_queue_per_model,
        aging_s=aging_s,
        slow_start_s=slow_start_s,
    )
    began_s = time.perf_counter()
    try:
        report = report_on(Replay(dispatcher, clock, fleet, arrivals))
    except UnknownNode as error:
        raise click.ClickException(f"{nodes_file}: an event comes while its node is not registered. {error}") from None
    took_s = time.perf_counter() - began_s
    if as_json:
        click.echo(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        _show(report)
    requests = report.total.requests
    click.echo(f"{requests:,} requests in {took_s:.1f} s ({requests / max(took_s, 1e-9):,.0f} a second)", err=True)


# -- what comes -------------------------------------------------------------------------------


def _random(fleet: Fleet, rates: Sequence[str], services: Sequence[str], options: dict[str, Any]) -> Any:
    spec_nodes = [*fleet.nodes, *(event.node for event in fleet.events if event.node is not None)]
    models = list(dict.fromkeys(model for node in spec_nodes for model in node.spec.models))
    rate_of = _by_model(rates, models, "--rate", _rate)
    service_of = _by_model(services, list(rate_of), "--service", parse_duration)
    if missing := [model for model in rate_of if model not in service_of]:
        raise click.UsageError(f"Say with --service how long a request for {missing[0]} keeps its slot.")
    shares = _shares(options["priorities"])
    loads = [
        Load(
            model,
            rate_per_s,
            ServiceTime(service_of[model], Shape(options["shape"]), options["spread"]),
            shares,
            options["queue_timeout_s"],
            options["gives_up_after_s"],
        )
        for model, rate_per_s in rate_of.items()
    ]
    return random_arrivals(loads, options["duration_s"], options["seed"])


def _recorded(files: Sequence[Path], services: Sequence[str], options: dict[str, Any]) -> tuple[Arrival, ...]:
    fallback = None
    if services:
        mean_s = _by_model(services[-1:], ["model"], "--service", parse_duration)["model"]
        fallback = ServiceTime(mean_s, Shape(options["shape"]), options["spread"])
    records = [record for file in files for record in _read(lambda path: read_records(path.read_text("utf-8")), file)]
    try:
        recording: Recording = recorded_arrivals(
            records,
            queue_timeout_s=options["queue_timeout_s"],
            seed=options["seed"],
            scale=options["scale"],
            fallback=fallback,
            gives_up_after_s=options["gives_up_after_s"],
        )
    except ValueError as error:
        raise click.ClickException(f"{', '.join(map(str, files))}: {error} (--service)") from None
    if recording.guessed:
        count, total = recording.guessed, len(recording.arrivals)
        click.echo(f"{count:,} of {total:,} records had no slot, or had not ended: service times drawn.", err=True)
    return recording.arrivals


def _read(reader: Callable[[Path], T], path: Path) -> T:
    try:
        return reader(path)
    except ConfigError as error:
        raise click.ClickException("\n".join(error.problems)) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: {error}") from None


def _by_model(texts: Sequence[str], models: Sequence[str], option: str, read: Reader) -> dict[str, float]:
    """`5` is for every model, `MODEL=5` for one of them."""
    found: dict[str, float] = {}
    for text in sorted(texts, key=lambda text: "=" in text):  # what is said of one model is stronger
        model, separator, number = text.rpartition("=")
        if separator and model not in models:
            raise click.BadParameter(f"'{model}' is none of {', '.join(models)}", param_hint=option)
        try:
            found |= dict.fromkeys([model] if separator else models, read(number))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=option) from None
    return found


def _rate(text: str) -> float:
    rate_per_s = float(text)
    if not 0 < rate_per_s <= 1e6:
        raise ValueError(f"{text} is no rate; write requests a second, such as 0.5 or 20")
    return rate_per_s


def _shares(text: str) -> dict[Priority, float]:
    shares: dict[Priority, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            shares[Priority[name.upper()]] = float(number)
        except (KeyError, ValueError):
            raise click.BadParameter(f"{part!r}; write critical=1,normal=8,low=1", param_hint="--priorities") from None
    if min(shares.values()) < 0 or not 0 < sum(shares.values()) < float("inf"):
        raise click.BadParameter("shares must be at least 0, and one of them more", param_hint="--priorities")
    return shares


# -- what came out ----------------------------------------------------------------------------


def _show(report: Report) -> None:
    ends = [end for end in End if end not in _RARE or report.total.ends.get(end)]
    titles = [end.value.replace("_", " ").upper() for end in ends]
    header = ("MODEL", "PRIORITY", "REQUESTS", *titles, "MEAN WAIT S", "P50", "P95", "P99", "MAX")
    click.echo(table(header, [_cells(line, ends) for line in report.lines]))
    click.echo()
    nodes = [(node.node_id, f"{node.use:.1%}", node.peak, node.granted) for node in report.nodes]
    click.echo(table(("NODE", "SLOT USE", "PEAK", "GRANTED"), nodes))
    click.echo()
    queues = report.max_queue_by_model
    each = f" ({', '.join(f'{model} {most}' for model, most in queues.items())})" if len(queues) > 1 else ""
    click.echo(
        f"longest queue {report.max_queue}{each}; the last request ended at {format_duration(round(report.ended_at_s))}"
    )


def _cells(line: Line, ends: Sequence[End]) -> tuple[object, ...]:
    waits = line.waits
    figures = (waits.mean_s, waits.p50_s, waits.p95_s, waits.p99_s, waits.max_s)
    priority = line.priority.label if line.priority is not None else "all"
    counts = [line.ends.get(end, 0) for end in ends]
    waits_s = (None if figure is None else round(figure, 2) for figure in figures)
    return (line.model or "all", priority, line.requests, *counts, *waits_s)
