"""`healthcheck`: is the server alive? For containers without curl."""

import click

from scheduler.cli.client import CallFailed
from scheduler.cli.remote import URL_VARIABLE, connect

#: Shorter than a container's own time-out, so that the reason is told.
TIMEOUT_S = 4.0


@click.command()
@click.option("--url", envvar=URL_VARIABLE, help=f"The server. Default: {URL_VARIABLE}, else as in the settings.")
@click.option("--ready", is_flag=True, help="Ask whether it may be sent traffic, not only whether it lives.")
def healthcheck(url: str | None, ready: bool) -> None:
    """Exit 0 where the server answers, 1 where not."""
    try:
        answer = connect(url, None, TIMEOUT_S).get("/health/ready" if ready else "/health/live")
    except CallFailed as error:
        if error.status == 503:
            raise CallFailed("The server is alive, but is not to be sent traffic.", 503) from None
        raise
    click.echo(answer["status"])
