"""`db`: the database's tables."""

import os
from pathlib import Path

import click

from scheduler.errors import ConfigError, StartRefused
from scheduler.settings import config_path, load_settings


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@click.option("--config", "file", type=click.Path(path_type=Path), help="The settings file.")
@click.option("--no-backup", is_flag=True, help="Where there is no room for a backup.")
def upgrade(file: Path | None, no_backup: bool) -> None:
    """Bring the tables up to this version. The server does it at start; this is for doing it before.

    A SQLite file that must change is backed up first, beside it; the last three of those are kept.
    """
    # Only here: the other commands need no database, and importing it takes a while.
    from flask import Flask

    from scheduler.adapters import migrate
    from scheduler.adapters.database import open_database

    try:
        database = load_settings(config_path(file, os.environ), os.environ).settings.database
        app = Flask("scheduler")
        open_database(app, path=database.path, url=database.url)
        revision = migrate.upgrade(app, with_backup=not no_backup)
    except ConfigError as error:
        raise click.ClickException("\n".join(error.problems)) from None
    except StartRefused as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"The database is at revision {revision}.")
