"""`nodes`: list, add, show, change, drain and remove nodes of a running server; more of it in node_*.py."""

import json
import time
from typing import Any
from urllib.parse import quote

import click

from scheduler.cli.client import AdminClient, CallFailed
from scheduler.cli.node_import import export_nodes, import_nodes
from scheduler.cli.node_trial import test_address
from scheduler.cli.remote import json_option, remote
from scheduler.cli.table import table

FIELDS = ("address", "models", "max_concurrent", "weight", "state", "remark", "labels", "api_key")
STATES = ("active", "draining", "disabled")

#: Pause between two looks at a draining node, in seconds.
LOOK_S = 1.0

_models_option = click.option(
    "--models", "--model", "models", multiple=True, help="Models it serves: comma separated, repeatable."
)
_weight_option = click.option("--weight", type=int, help="Share of the load, 100 is usual.")
_remark_option = click.option("--remark", help="A note for people.")
_labels_option = click.option("--label", "labels", multiple=True, metavar="NAME=TEXT", help="A label; repeatable.")
_key_option = click.option(
    "--api-key",
    envvar="LLM_SCHEDULER_NODE_API_KEY",
    help="The key the node wants from us. Better in LLM_SCHEDULER_NODE_API_KEY: other users can see arguments.",
)
# Without the variable: one that happens to be set must not change a node.
_new_key_option = click.option("--api-key", help="The key the node wants from us from now on.")


@click.group()
def nodes() -> None:
    """Show and change the nodes of a running server."""


for _command in (export_nodes, import_nodes, test_address):
    nodes.add_command(_command)


@nodes.command("list")
@json_option
@remote
def list_all(client: AdminClient, as_json: bool) -> None:
    """List all nodes."""
    answer = client.get("/admin/nodes")
    if as_json:
        _echo_json(answer)
        return
    header = ("ID", "STATE", "HEALTH", "IN USE", "WEIGHT", "ADDRESS", "MODELS", "REMARK")
    rows = [
        (
            node["id"],
            node["state"],
            _health(node),
            f"{node['in_flight']}/{node['max_concurrent']}",
            node["weight"],
            node["address"],
            ", ".join(node["models"]),
            node["remark"],
        )
        for node in answer["nodes"]
    ]
    click.echo(table(header, rows))
    if not rows:
        click.echo("There are no nodes yet. Add one: nodes add --help", err=True)


@nodes.command()
@click.argument("node_id", metavar="ID")
@json_option
@remote
def show(client: AdminClient, node_id: str, as_json: bool) -> None:
    """Show one node."""
    _show(client.get(_path(node_id)), as_json)


@nodes.command()
@click.argument("node_id", metavar="ID")
@click.argument("address")
@_models_option
@click.option("--max-concurrent", type=int, required=True, help="How many requests it can bear at once.")
@_weight_option
@_remark_option
@_labels_option
@_key_option
@json_option
@remote
def add(client: AdminClient, node_id: str, as_json: bool, **fields: Any) -> None:
    """Register a node, or register it anew.

    Example: nodes add gpu-01 http://10.0.0.5:8000 --models qwen2.5-7b --max-concurrent 8
    """
    body = {"id": node_id, **_given(fields)}
    if "models" not in body:
        raise click.UsageError("Name at least one model: --models qwen2.5-7b")
    answer = client.call("POST", "/admin/nodes", body)
    if answer.get("address_note"):
        click.echo(f"note: {answer['address_note']}", err=True)
    _show(answer, as_json)


@nodes.command("set")
@click.argument("node_id", metavar="ID")
@click.option("--address", help="Where it is, like http://10.0.0.5:8000.")
@_models_option
@click.option("--max-concurrent", type=int, help="How many requests it can bear at once.")
@_weight_option
@click.option("--state", type=click.Choice(STATES), help="active, draining or disabled.")
@_remark_option
@_labels_option
@_new_key_option
@click.option("--lift", multiple=True, type=click.Choice(FIELDS), help="Go back to what was registered; repeatable.")
@json_option
@remote
def set_fields(client: AdminClient, node_id: str, lift: tuple[str, ...], as_json: bool, **fields: Any) -> None:
    """Change a node while it runs. What is set here stays when the node registers again.

    Example: nodes set gpu-01 --max-concurrent 4
    """
    changes = _given(fields)
    both = sorted(set(lift) & set(changes))
    if both:
        raise click.UsageError(f"Either set or lift {both[0]}.")
    changes.update(dict.fromkeys(lift))
    if not changes:
        raise click.UsageError("Nothing to change: see --help for what can be set.")
    _show(client.call("PATCH", _path(node_id), changes), as_json)


@nodes.command()
@click.argument("node_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until nothing runs there any more.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait at most so long, then exit 1.")
@remote
def drain(client: AdminClient, node_id: str, wait: bool, timeout: float | None) -> None:
    """Give a node no new requests; those it has go on. `nodes set ID --state active` takes it back."""
    node = client.call("PATCH", _path(node_id), {"state": "draining"})
    give_up_at = None if timeout is None else time.monotonic() + timeout
    last: int | None = None
    while wait and node["in_flight"]:
        if node["in_flight"] != last:
            last = node["in_flight"]
            click.echo(f"{node_id} is draining: {last} running", err=True)
        if give_up_at is not None and time.monotonic() >= give_up_at:
            raise CallFailed(f"{node_id} still runs {last} after {timeout:g} s; it goes on draining.")
        time.sleep(LOOK_S)
        node = client.get(_path(node_id))
        if node["state"] != "draining":
            raise CallFailed(f"{node_id} is {node['state']} again: somebody has changed it.")
    running = f"{node['in_flight']} still running" if node["in_flight"] else "nothing runs there"
    click.echo(f"{node_id} is draining, {running}")


@nodes.command()
@click.argument("node_id", metavar="ID")
@remote
def remove(client: AdminClient, node_id: str) -> None:
    """Forget a node; what runs there goes on."""
    client.call("DELETE", _path(node_id))
    click.echo(f"{node_id} is removed")


def _path(node_id: str) -> str:
    return f"/admin/nodes/{quote(node_id, safe='')}"


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as the API wants them."""
    given = {name: value for name, value in fields.items() if value is not None and value != ()}
    if "models" in given:
        given["models"] = [name.strip() for part in given["models"] for name in part.split(",") if name.strip()]
    if "labels" in given:
        given["labels"] = dict(_label(text) for text in given["labels"])
    return given


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"'{text}' is no label: write NAME=TEXT.", param_hint="--label")
    return name, value


def _health(node: dict[str, Any]) -> str:
    return f"{node['health']} ({node['health_reason']})" if node["health_reason"] else str(node["health"])


def _show(node: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _echo_json(node)
        return
    rows = []
    for name, value in node.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}={text}" for key, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        rows.append((name, str(value) if value is not None else None))
    click.echo(table(("FIELD", "VALUE"), rows, max_width=200))


def _echo_json(answer: Any) -> None:
    click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
