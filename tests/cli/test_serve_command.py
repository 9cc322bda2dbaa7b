"""`serve`, `db upgrade`, and that every command explains itself."""

import os
import runpy
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner

import scheduler
from scheduler.cli import COMMANDS, main, serve


class Became(Exception):
    """Raised in place of becoming another program."""


@pytest.fixture
def became(monkeypatch) -> list[str]:
    seen: list[str] = []

    def execv(program, arguments):
        seen.extend(arguments)
        raise Became

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setenv("LLM_SCHEDULER_CONFIG", "")
    return seen


def test_serve_becomes_gunicorn_with_the_settings_it_was_given(became, tmp_path):
    (tmp_path / "my.yaml").write_text("server: {port: 9}\n")
    result = CliRunner().invoke(main, ["serve", "--config", "my.yaml"])
    assert isinstance(result.exception, Became)
    assert became[:3] == [sys.executable, "-m", "gunicorn"]
    assert os.environ["LLM_SCHEDULER_CONFIG"] == str(tmp_path / "my.yaml")


def test_serve_stops_at_mistakes_in_the_settings_with_all_of_them(became, tmp_path):
    (tmp_path / "bad.yaml").write_text("server: {prot: 1}\nlogging: {level: loud}\n")
    result = CliRunner().invoke(main, ["serve", "--config", "bad.yaml"])
    assert (result.exit_code, became) == (1, [])
    assert "prot" in result.stderr
    assert "loud" in result.stderr


def test_db_upgrade_makes_the_tables(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from scheduler.cli import main; main()", "db", "upgrade"],
        env={**os.environ, "LLM_SCHEDULER_DATABASE_PATH": str(tmp_path / "s.db"), "LLM_SCHEDULER_CONFIG": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "revision" in done.stdout
    assert (tmp_path / "s.db").exists()


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_what_gunicorn_is_to_load_is_inside_the_package():
    assert serve.name == "serve"
    module = sys.modules["scheduler.cli.serve"]
    assert Path(module.GUNICORN_CONFIG).parent == Path(scheduler.__file__).resolve().parent
    assert Path(module.GUNICORN_CONFIG).is_file(), "a file, not a module: gunicorn reads it again at each reload"
    assert module.APPLICATION.startswith("scheduler.")


def test_flask_finds_the_same_commands_without_building_the_app():
    path = Path(__file__).resolve().parents[2] / "setup.py"
    known = runpy.run_path(str(path))["COMMANDS"]
    found = {EntryPoint(name, place, "flask.commands").load() for name, place in known.items()}
    assert found == set(COMMANDS)
    assert set(known) == {command.name for command in COMMANDS}
