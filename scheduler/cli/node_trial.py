"""`nodes test`: tries an address from the server, before it is registered."""

import json
import shlex
from typing import Any

import click

from scheduler.cli.client import AdminClient
from scheduler.cli.remote import json_option, remote
from scheduler.cli.table import table


@click.command("test")
@click.argument("address")
@click.option(
    "--api-key",
    envvar="LLM_SCHEDULER_NODE_API_KEY",
    help="The key the node wants from us. Better in LLM_SCHEDULER_NODE_API_KEY: other users can see arguments.",
)
@json_option
@remote
@click.pass_context
def test_address(context: click.Context, client: AdminClient, address: str, api_key: str | None, as_json: bool) -> None:
    """Let the server try an address step by step, and propose what to register. Exit 1 where a step fails.

    Example: nodes test http://10.0.0.5:8000
    """
    body = {"address": address} if api_key is None else {"address": address, "api_key": api_key}
    answer = client.call("POST", "/admin/nodes/test", body)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        _show(answer)
    context.exit(0 if answer["ok"] else 1)


def _show(answer: dict[str, Any]) -> None:
    rows = [
        (step["name"], "ok" if step["ok"] else "FAILED", step["duration_ms"], step["message"])
        for step in answer["steps"]
    ]
    click.echo(table(("STEP", "RESULT", "MS", "MESSAGE"), rows, max_width=200))
    for note in (answer["address_note"], *answer["notes"]):
        if note:
            click.echo(f"note: {note}", err=True)
    for model, nodes in answer["registered_models"].items():
        click.echo(f"note: {model} is also on {', '.join(nodes)}", err=True)
    if answer["registered_as"] is not None:
        click.echo(f"This address is registered as {answer['registered_as']}.")
    elif answer["ok"]:
        models = ",".join(answer["models"]) or "MODELS"
        limit = answer["max_concurrent"] or "N"
        words = ["llm-scheduler", "nodes", "add", "ID", answer["address"], "--models", models, "--max-concurrent"]
        click.echo(f"Register it: {shlex.join(words)} {limit}")
