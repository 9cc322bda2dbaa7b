"""`status`: a running server at a glance."""

import json

import click

from scheduler.cli.client import AdminClient
from scheduler.cli.remote import json_option, remote
from scheduler.cli.table import table


@click.command()
@json_option
@remote
def status(client: AdminClient, as_json: bool) -> None:
    """Show how a running server is doing."""
    answer = client.get("/admin/status")
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    nodes, slots, recent = answer["nodes"], answer["slots"], answer["recent"]
    waiting = ", ".join(f"{count} {name}" for name, count in answer["queue_by_priority"].items() if count)
    rows = [
        ("version", answer["version"]),
        ("uptime", _duration(answer["uptime_s"])),
        ("nodes", ", ".join(f"{nodes[name]} {name}" for name in nodes if nodes[name] or name == "up")),
        ("slots", f"{slots['used']} of {slots['total']} in use"),
        ("waiting", f"{answer['queue_size']}" + (f" ({waiting})" if waiting else "")),
    ]
    if recent is not None:
        counts = f"{recent['completed_count']} completed, {recent['failed_count']} failed"
        rows.append((f"last {recent['window_s'] // 60} min", counts))
    click.echo(table(("", ""), rows, max_width=200).lstrip("\n"))
    for warning in answer["warnings"]:
        click.echo(f"warning: {warning}", err=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days}d"] * bool(days) + [f"{hours}h"] * bool(days or hours) + [f"{minutes}m"] * bool(seconds >= 60)
    return " ".join([*parts, f"{rest}s"])
