"""`requests`: the records of a running server."""

import json
from collections.abc import Callable
from typing import Any, BinaryIO

import click

from scheduler.cli.client import AdminClient
from scheduler.cli.remote import json_option, remote
from scheduler.cli.table import table

FILTERS = (
    click.option("--status", help="pending, processing, completed or failed."),
    click.option("--outcome", help="completed, failed, rejected, evicted, cancelled, client_closed or interrupted."),
    click.option("--model"),
    click.option("--node", "node_id", metavar="ID"),
    click.option("--priority", help="critical, high, normal or low."),
    click.option("--key-name"),
    click.option("--error-code"),
    click.option("--since", "start_time", metavar="TIME", help="Created then or later, like 2026-11-22T08:00:00Z."),
    click.option("--until", "end_time", metavar="TIME", help="Created before."),
    click.option("--search", "q", metavar="ID", help="Our id or the caller's, or how it begins."),
)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the filters of the list to a command, which gets them by the names that the API has for them."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


@click.group()
def requests() -> None:
    """Show what happened to requests."""


@requests.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
@json_option
@remote
def list_page(client: AdminClient, as_json: bool, **wanted: Any) -> None:
    """List requests, the newest first."""
    answer = client.get("/admin/requests", wanted)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    header = ("ID", "CREATED", "MODEL", "NODE", "PRIORITY", "STATUS", "OUTCOME", "CODE", "QUEUE MS", "TOTAL MS", "KEY")
    rows = [
        (
            record["id"],
            record["created_at"],
            record["model"],
            record["node_id"],
            record["priority"],
            record["status"],
            record["outcome"],
            record["error_code"] or record["http_status"],
            record["queue_ms"],
            record["latency_ms"],
            record["key_name"],
        )
        for record in answer["requests"]
    ]
    click.echo(table(header, rows))
    about = "about " if answer["total_is_estimate"] else ""
    click.echo(f"{len(rows)} of {about}{answer['total']}", err=True)


@requests.command("export")
@filters
@click.option("--output", type=click.File("wb", lazy=True), default="-", help="A file; default: print it.")
@remote
def export(client: AdminClient, output: BinaryIO, **wanted: Any) -> None:
    """Write requests as CSV, all that match, the newest first."""
    for piece in client.pieces("/admin/requests.csv", wanted):
        output.write(piece)


@requests.command("cleanup")
@click.option("--older-than", required=True, metavar="DURATION", help="Such as 36h or 7d.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@json_option
@remote
def cleanup(client: AdminClient, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Delete old requests now, in small steps; figures stay. It says too that the server's clock is right."""
    answer = client.call("POST", "/admin/requests/cleanup", {"older_than": older_than, "dry_run": dry_run})
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    verb = "would be" if dry_run else "are being"
    click.echo(f"{answer['matching']} requests created before {answer['before']} {verb} deleted")
    if answer["held"]:
        click.echo(f"Nothing is deleted by itself: {answer['held']}.", err=True)
