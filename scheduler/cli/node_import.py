"""`nodes import` and `nodes export`: the nodes of a running server from a file, and into one."""

from pathlib import Path

import click

from scheduler.cli.client import AdminClient, CallFailed
from scheduler.cli.node_file import read_nodes, written_nodes
from scheduler.cli.node_plan import NodePlan, NodeStep, plan_import
from scheduler.cli.remote import remote

_CONFLICT = 409


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--prune", is_flag=True, help="Also remove the nodes that the file does not have.")
@remote
def import_nodes(client: AdminClient, file: Path, dry_run: bool, yes: bool, prune: bool) -> None:
    """Make the nodes of the server those of a YAML file with a list `nodes:`, such as config.yaml.

    It tells what it will do and asks; doing it twice changes nothing more. What the file leaves out of a node stays as
    it is. What it sets stays when the node registers again, as with `nodes set`. Admin states are left alone.
    """
    plan = plan_import(read_nodes(file), client.get("/admin/nodes")["nodes"], prune)
    for line in plan.lines():
        click.echo(line)
    if plan.conflicts:
        raise CallFailed("\n".join(plan.conflicts))
    if dry_run:
        click.echo("Nothing was done (--dry-run).")
    elif plan.is_empty:
        click.echo("There is nothing to do.")
    else:
        if not yes:
            click.confirm("Do it?", abort=True)
        _carry_out(client, plan)


@click.command("export")
@remote
def export_nodes(client: AdminClient) -> None:
    """Print the nodes of the server as a YAML file that `nodes import` takes; without their keys and admin states."""
    click.echo(written_nodes(client.get("/admin/nodes")["nodes"], client.base_url), nl=False)


def _carry_out(client: AdminClient, plan: NodePlan) -> None:
    """Do every step, whatever becomes of the others; exit 1 where one has failed."""
    waiting = [step for step in plan.steps if step.call]
    count, failures = len(waiting), []
    while waiting:
        results = [(step, _try(client, step)) for step in waiting]
        # An address may be free by now: its node has moved in the same import.
        waiting = [step for step, error in results if error is not None and error.status == _CONFLICT]
        failures += [(step, error) for step, error in results if error is not None and error.status != _CONFLICT]
        if len(waiting) == len(results):
            failures += [(step, error) for step, error in results if error is not None]
            break
    for step, error in failures:
        click.echo(f"{step.node_id}: {error.message}", err=True)
    if failures:
        raise CallFailed(f"{len(failures)} of {count} changes failed.")
    click.echo("Done.")


def _try(client: AdminClient, step: NodeStep) -> CallFailed | None:
    """What the server refused, or None. Raises CallFailed where there is no server, or none that lets us in."""
    assert step.call is not None, "only steps with something to do are tried"
    try:
        client.call(*step.call)
    except CallFailed as error:
        if error.status in (None, 401, 403):
            raise
        return error
    return None
