import json
import sqlite3

import pytest
import yaml
from click.testing import CliRunner
from flask import Flask

from scheduler.adapters import migrate
from scheduler.adapters.database import open_database
from scheduler.cli import main


@pytest.fixture
def config(tmp_path):
    app = Flask("test")
    open_database(app, path=str(tmp_path / "data" / "scheduler.db"))
    migrate.upgrade(app)
    return str(write(tmp_path, path=str(tmp_path / "data" / "scheduler.db")))


def write(folder, **database):
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"database": database}))
    return file


def run(*args):
    return CliRunner().invoke(main, ["backup", *args])


def test_it_tells_what_was_copied(config, tmp_path):
    result = run("copy.db", "--config", config)
    assert (result.exit_code, "verified: 0 requests, 0 nodes, 0 events" in result.output) == (0, True), result.output
    with sqlite3.connect(tmp_path / "copy.db") as database:
        assert database.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    database.close()


def test_it_replaces_nothing_without_force(config):
    assert run("copy.db", "--config", config).exit_code == 0
    again = run("copy.db", "--config", config)
    assert (again.exit_code, "exists already. Use --force" in again.output) == (1, True)
    found = json.loads(run("copy.db", "--config", config, "--force", "--json").output)
    assert found["file"] == "copy.db"
    assert found["rows"]["requests"] == 0


def test_for_postgresql_it_names_the_program_that_does_it(tmp_path):
    file = write(tmp_path, url="postgresql://user:s3cret@db/llm")
    result = run("copy.db", "--config", str(file))
    assert result.exit_code == 1
    assert "pg_dump --format=custom --file=copy.db" in result.output
    assert "s3cret" not in result.output
