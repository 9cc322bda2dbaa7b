"""`backup`: a copy of the database, while the server runs."""

import json
import os
from pathlib import Path

import click

from scheduler.errors import BackupFailed, ConfigError, StartRefused
from scheduler.settings import config_path, load_settings


@click.command()
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--config", "file", type=click.Path(path_type=Path), help="The settings file.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@click.option("--json", "as_json", is_flag=True, help="Tell what was copied as JSON.")
def backup(target: Path, file: Path | None, force: bool, as_json: bool) -> None:
    """Copy the SQLite database to FILE and verify the copy. The server may run meanwhile.

    FILE holds the nodes' keys; only its owner may read it.
    """
    # Only here: the other commands need no database.
    from scheduler.adapters.backup import back_up
    from scheduler.adapters.database import sqlite_file

    try:
        database = load_settings(config_path(file, os.environ), os.environ).settings.database
        source = sqlite_file(database.path, database.url)
        if source is None:
            raise click.ClickException(
                "The records are in PostgreSQL (database.url), whose own program makes backups: "
                f"pg_dump --format=custom --file={target} postgresql://USER@HOST/NAME"
            )
        made = back_up(source, target, force)
    except ConfigError as error:
        raise click.ClickException("\n".join(error.problems)) from None
    except StartRefused as error:
        raise click.ClickException(str(error)) from None
    except BackupFailed as error:
        hint = " Use --force to replace it." if str(error).endswith("exists already.") else ""
        raise click.ClickException(f"{error}{hint}") from None
    if as_json:
        click.echo(json.dumps({"file": str(made.file), "bytes": made.size_bytes, "rows": made.rows}, indent=2))
        return
    counts = ", ".join(f"{made.rows.get(name, 0)} {name}" for name in ("requests", "nodes", "events"))
    click.echo(f"{made.file}: {made.size_bytes} bytes, verified: {counts}.")
