"""The command `simulate-node`."""

import click

from scheduler.simulation.settings import ENGINES, SimulationSettings, parse_duration


class Duration(click.ParamType[float]):
    """`50ms`, `1s`, `2m` as seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, context: click.Context | None) -> float:
        """Seconds; a wrong one is a usage error."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, context)


@click.command("simulate-node")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9001, show_default=True, help="0: any free one.")
@click.option("--control-port", type=click.IntRange(0, 65535), help="Also answer /sim/* here; 0: any free one.")
@click.option("--models", multiple=True, default=["sim"], show_default=True, help="Comma separated, repeatable.")
@click.option("--slots", type=click.IntRange(1), default=4, show_default=True, help="Requests it says it can bear.")
@click.option("--ttft", type=Duration(), default="50ms", show_default=True, help="Time to the first token.")
@click.option("--tokens-per-second", type=click.FloatRange(0), default=50.0, show_default=True, help="0: no pauses.")
@click.option("--tokens", type=click.IntRange(1), default=20, show_default=True, help="Tokens without max_tokens.")
@click.option("--api-key", help="Answer 401 to everything that does not bring it.")
@click.option("--engine", type=click.Choice(ENGINES), default="vllm", show_default=True, help="Engine to look like.")
def simulate_node(
    host: str,
    port: int,
    control_port: int | None,
    models: tuple[str, ...],
    slots: int,
    ttft: float,
    tokens_per_second: float,
    tokens: int,
    api_key: str | None,
    engine: str,
) -> None:
    """Run an OpenAI-like node that needs no GPU, for trying out and for tests.

    It answers `t0 t1 t2 ...` at the given speed, counts what arrives (GET /sim/stats), and misbehaves on command
    (POST /sim/faults).
    """
    # Only here: commands that never run a node need no hub.
    from scheduler.simulation.service import serve

    names = tuple(name.strip() for listed in models for name in listed.split(",") if name.strip())
    if not names:
        raise click.BadParameter("there must be at least one model", param_hint="--models")
    settings = SimulationSettings(
        host=host,
        port=port,
        control_port=control_port,
        models=names,
        slots=slots,
        ttft_s=ttft,
        tokens_per_second=tokens_per_second,
        tokens=tokens,
        api_key=api_key,
        engine=engine,
    )
    try:
        serve(settings)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
