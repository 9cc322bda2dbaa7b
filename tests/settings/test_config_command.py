"""`config check` and `config show`: what a person and a script get, and with which exit status."""

import json

import pytest
from click.testing import CliRunner, Result

from scheduler.cli.config import config
from scheduler.settings import Settings, load_settings, masked_url, rows
from scheduler.settings.schema import SECTIONS

SECRETS = """
auth: {api_keys: [sk-one, {name: team, key: sk-two}], admin_api_keys: [sk-three], metrics_key: sk-four}
database: {url: "postgresql://user:sk-five@db/x?sslpassword=sk-six"}
cluster: {redis_url: "redis://:sk-seven@r/0"}
nodes: [{id: gpu-01, address: "http://gpu-01:8000", models: [m], max_concurrent: 4, api_key: sk-eight}]
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(SECRETS)
    (tmp_path / "bad.yaml").write_text("server: {prot: 1}\nlogging: {level: loud}\n")


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(config, arguments, env=variables)


def test_check_says_that_the_settings_are_ok():
    result = run("check")
    assert (result.exit_code, result.stdout) == (0, "config ok\n")


def test_check_tells_every_mistake_and_exits_1():
    result = run("check", "--config", "bad.yaml")
    assert result.exit_code == 1
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == ["bad.yaml:1", "bad.yaml:2"]
    assert "config ok" not in result.output


def test_the_variable_names_the_file():
    assert run("check", LLM_SCHEDULER_CONFIG="bad.yaml").exit_code == 1
    assert run("check", "--config", "good.yaml", LLM_SCHEDULER_CONFIG="bad.yaml").exit_code == 0


def test_check_speaks_json():
    good, bad = run("check", "--json"), run("check", "--json", "--config", "bad.yaml")
    assert json.loads(good.stdout) == {"ok": True, "problems": [], "warnings": []}
    answer = json.loads(bad.stdout)
    assert (answer["ok"], len(answer["problems"]), bad.exit_code) == (False, 2, 1)


def test_show_lists_every_key_with_value_and_source():
    result = run("show", LLM_SCHEDULER_SERVER_PORT="9000", LLM_SCHEDULER_SCHEDULER_QUEUE_TIMEOUT="90")
    assert result.exit_code == 0
    table = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert table["server.port"] == ["9000", "LLM_SCHEDULER_SERVER_PORT"]
    assert table["scheduler.queue_timeout"] == ["1m30s", "LLM_SCHEDULER_SCHEDULER_QUEUE_TIMEOUT"]
    assert table["server.max_body"] == ["100MB", "default"]
    assert {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields} < table.keys()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_show_masks_every_secret(form):
    result = run("show", "--config", "good.yaml", *form)
    assert result.exit_code == 0
    assert "sk-" not in result.output
    assert all(name in result.output for name in ("key-1", "team", "admin-1", "gpu-01", "user:***@db"))


def test_show_with_mistakes_tells_them_and_exits_1():
    result = run("show", "--config", "bad.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 2


def test_what_is_shown_can_be_written_into_a_file_again(tmp_path):
    text = ""
    for section in SECTIONS:
        shown = [row for row in rows(load_settings(None, {})) if row.key.startswith(f"{section}.")]
        text += f"{section}:\n" + "".join(f"  {row.key.partition('.')[2]}: {row.text}\n" for row in shown)
    path = tmp_path / "shown.yaml"
    path.write_text(text)
    assert load_settings(path, {}).settings == Settings()


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("", ""),
        ("postgresql://u:p@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u:p@ss/w@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u@h/x?password=p&a=b", "postgresql://u@h/x?password=***&a=b"),
        ("redis://:p@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("p", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url, masked):
    assert masked_url(url) == masked
