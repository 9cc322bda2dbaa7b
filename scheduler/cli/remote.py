"""Remote: gives a command the client of a running server, and the options that say where it is."""

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from scheduler.cli.client import TIMEOUT_S, AdminClient
from scheduler.errors import ConfigError
from scheduler.settings import Settings, config_path, load_settings

URL_VARIABLE = "LLM_SCHEDULER_URL"
KEY_VARIABLE = "LLM_SCHEDULER_ADMIN_KEY"

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def remote(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --url and --key to a command, which gets `client` for them."""

    @click.option("--url", envvar=URL_VARIABLE, help=f"The server. Default: {URL_VARIABLE}, else as in the settings.")
    @click.option(
        "--key",
        envvar=KEY_VARIABLE,
        help=f"An admin key. Better in {KEY_VARIABLE}: other users can see arguments. Default: as in the settings.",
    )
    @functools.wraps(command)
    def with_client(*arguments: Any, url: str | None, key: str | None, **options: Any) -> Any:
        return command(*arguments, client=connect(url, key), **options)

    return with_client


def connect(url: str | None, key: str | None, timeout_s: float = TIMEOUT_S) -> AdminClient:
    """The client for a server; what is not given comes from the settings, but a key only for their own server."""
    if url:
        if not url.startswith(("http://", "https://")):
            raise click.UsageError(f"'{url}' is no URL: write it like http://127.0.0.1:8080.")
        return AdminClient(url, key, timeout_s)
    settings = _settings()
    keys = settings.auth.admin_api_keys
    return AdminClient(_local_url(settings), key or (keys[0].key if keys else None), timeout_s)


def _settings() -> Settings:
    try:
        return load_settings(config_path(None, os.environ), os.environ).settings
    except ConfigError as error:
        lines = "\n".join(error.problems)
        raise click.ClickException(
            f"{lines}\nThe settings say where the server is: repair them, or give --url."
        ) from None


def _local_url(settings: Settings) -> str:
    host, port = settings.server.host, settings.server.port
    if not port:
        raise click.UsageError("The settings let the server take any port: give --url.")
    host = _ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
