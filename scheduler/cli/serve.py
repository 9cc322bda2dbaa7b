"""`serve`: becomes gunicorn."""

import os
import sys
from pathlib import Path

import click

import scheduler
from scheduler.errors import ConfigError
from scheduler.settings import config_path, load_settings
from scheduler.settings.environment import CONFIG_VARIABLE

#: gunicorn's settings and the WSGI application, both inside the package: an installed wheel has no checkout. The
#: settings are a file, not a module: gunicorn then reads it again at each reload.
GUNICORN_CONFIG = str(Path(scheduler.__file__).resolve().with_name("gunicorn_conf.py"))
APPLICATION = "scheduler.wsgi:application"


@click.command()
@click.option("--config", "file", type=click.Path(path_type=Path), help="The settings file.")
def serve(file: Path | None) -> None:
    """Serve in the foreground. The process becomes gunicorn: same pid, its exit status."""
    path = config_path(file, os.environ)
    try:
        load_settings(path, os.environ)  # to fail here, with every mistake, and not in a worker
    except ConfigError as error:
        raise click.ClickException("\n".join(error.problems)) from None
    if path is not None:
        os.environ[CONFIG_VARIABLE] = str(path.absolute())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", GUNICORN_CONFIG, APPLICATION])
