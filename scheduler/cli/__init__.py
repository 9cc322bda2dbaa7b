"""The command line: `llm-scheduler ...`. setup.py makes the same commands known to `flask ...`.

The commands stand in setup.py's `flask.commands` too, so that `flask nodes list` does not build the app either.
"""

import click

import scheduler
from scheduler.cli.backup import backup
from scheduler.cli.config import config
from scheduler.cli.db import db
from scheduler.cli.healthcheck import healthcheck
from scheduler.cli.nodes import nodes
from scheduler.cli.requests import requests
from scheduler.cli.serve import serve
from scheduler.cli.simulate import simulate
from scheduler.cli.simulate_node import simulate_node
from scheduler.cli.status import status

COMMANDS: tuple[click.Command, ...] = (
    backup,
    config,
    db,
    healthcheck,
    nodes,
    requests,
    serve,
    simulate,
    simulate_node,
    status,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(scheduler.__version__, prog_name="llm-scheduler")
def main() -> None:
    """Strict limits, a priority queue and records in front of GPU servers."""


for _command in COMMANDS:
    main.add_command(_command)
