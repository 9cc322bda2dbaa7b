"""`config`: check the settings, and show those in force."""

import json
import os
from pathlib import Path

import click

from scheduler.errors import ConfigError
from scheduler.settings import Loaded, as_dict, config_path, load_settings, rows

_file_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The settings file. Default: LLM_SCHEDULER_CONFIG, else ./config.yaml, else the defaults alone.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def config() -> None:
    """Check and show the settings."""


@config.command()
@_file_option
@_json_option
@click.pass_context
def check(context: click.Context, file: Path | None, as_json: bool) -> None:
    """Check the settings; every mistake is told, with file and line. Exit 1 if there is one."""
    problems: list[str] = []
    warnings: list[str] = []
    try:
        warnings = _load(file).warnings
    except ConfigError as error:
        problems = error.problems
    if as_json:
        click.echo(json.dumps({"ok": not problems, "problems": problems, "warnings": warnings}, ensure_ascii=False))
    else:
        _tell(problems, warnings)
        if not problems:
            click.echo("config ok")
    context.exit(1 if problems else 0)


@config.command()
@_file_option
@_json_option
@click.pass_context
def show(context: click.Context, file: Path | None, as_json: bool) -> None:
    """Show every setting in force and where it comes from; secrets are masked."""
    try:
        loaded = _load(file)
    except ConfigError as error:
        _tell(error.problems, [])
        context.exit(1)
    if as_json:
        click.echo(json.dumps(as_dict(loaded), ensure_ascii=False, indent=2))
        return
    _tell([], loaded.warnings)
    lines = [("KEY", "VALUE", "SOURCE"), *((row.key, row.text, row.source) for row in rows(loaded))]
    key_width = max(len(key) for key, _, _ in lines)
    # A long value (a list of keys, a node) must not push every source out of sight.
    value_width = min(max(len(value) for _, value, _ in lines), 32)
    for key, value, source in lines:
        click.echo(f"{key:<{key_width}}  {value:<{value_width}}  {source}")


def _load(file: Path | None) -> Loaded:
    return load_settings(config_path(file, os.environ), os.environ)


def _tell(problems: list[str], warnings: list[str]) -> None:
    for problem in problems:
        click.echo(problem, err=True)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
