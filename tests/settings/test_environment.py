"""Variables: what overrides the file, what is ignored, and what stops the start."""

from pathlib import Path

import pytest

from scheduler.errors import ConfigError
from scheduler.settings import Loaded, load_settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(**variables: str) -> Loaded:
    return load_settings(None, {f"LLM_SCHEDULER_{name}": value for name, value in variables.items()})


def problems(**variables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(**variables)
    return caught.value.problems


def test_a_variable_overrides_the_file(tmp_path: Path):
    path = tmp_path / "my.yaml"
    path.write_text("server: {port: 1000}\nlogging: {level: debug}\n")
    loaded = load_settings(path, {"LLM_SCHEDULER_SERVER_PORT": "2000"})
    assert loaded.settings.server.port == 2000
    assert loaded.sources["server.port"] == "LLM_SCHEDULER_SERVER_PORT"
    assert loaded.sources["logging.level"] == f"{path}:2"
    assert loaded.sources["server.host"] == "default"


def test_every_kind_of_value_can_come_from_a_variable():
    settings = load(
        SERVER_PORT="9000",
        SERVER_MAX_BODY="1MiB",
        SCHEDULER_QUEUE_TIMEOUT="1m30s",
        SCHEDULER_AGING="45",
        SCHEDULER_RETRY_SENT="no",
        LOGGING_LEVEL="DEBUG",
        AUTH_API_KEYS="one, two,",
        CLUSTER_REDIS_URL="redis://localhost/0",
    ).settings
    assert (settings.server.port, settings.server.max_body) == (9000, 1024**2)
    assert (settings.scheduler.queue_timeout, settings.scheduler.aging) == (90.0, 45.0)
    assert settings.scheduler.retry_sent is False
    assert settings.logging.level == "debug"
    assert [(entry.name, entry.key) for entry in settings.auth.api_keys] == [("key-1", "one"), ("key-2", "two")]
    assert settings.cluster.redis_url == "redis://localhost/0"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("auth: {api_keys: [one]}\n")
    loaded = load(AUTH_API_KEYS="", AUTH_METRICS_KEY_FILE="")
    assert len(loaded.settings.auth.api_keys) == 1
    assert loaded.sources["auth.api_keys"] == "config.yaml:1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVER_PORT", "many"), ("SERVER_PORT", "0x10"), ("SCHEDULER_RETRY_SENT", "maybe"), ("SERVER_READ_TIMEOUT", "0")],
)
def test_a_bad_value_names_its_variable(name, value):
    (problem,) = problems(**{name: value})
    section, key = name.lower().split("_", 1)
    assert problem.startswith(f"LLM_SCHEDULER_{name}: {section}.{key}: ")


def test_an_unknown_variable_of_a_known_section_names_the_nearest_one():
    assert problems(SERVER_PROT="1", AUTH_API_KEY="x") == [
        "LLM_SCHEDULER_AUTH_API_KEY: unknown key; did you mean LLM_SCHEDULER_AUTH_API_KEYS?",
        "LLM_SCHEDULER_SERVER_PROT: unknown key; did you mean LLM_SCHEDULER_SERVER_PORT?",
    ]


def test_an_unknown_section_is_a_warning_that_names_the_probable_variable():
    (warning,) = load(QUEUE_TIMEOUT="5s").warnings
    assert warning.startswith("LLM_SCHEDULER_QUEUE_TIMEOUT: names no section")
    assert warning.endswith("did you mean LLM_SCHEDULER_SCHEDULER_QUEUE_TIMEOUT?")


def test_what_kubernetes_sets_and_the_name_of_the_file_are_ignored():
    loaded = load(
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT_HTTP="80",
        PORT="tcp://10.0.0.1:80",
        PORT_80_TCP_ADDR="10.0.0.1",
        CONFIG="/etc/x.yaml",
    )
    assert loaded.warnings == []


def test_what_kubernetes_sets_for_a_service_that_looks_like_a_section_is_explained():
    found = problems(SERVER_PORT="tcp://10.0.0.1:80", SERVER_PORT_80_TCP="tcp://10.0.0.1:80", SERVER_SERVICE_HOST="x")
    assert len(found) == 3
    assert all("Kubernetes" in problem and "enableServiceLinks" in problem for problem in found)


def test_nodes_cannot_be_set_by_variables():
    (problem,) = problems(NODES="[]")
    assert "nodes cannot be set by variables" in problem


@pytest.mark.parametrize("text", ["one\ntwo\n", "one,two\n", "one\r\n\r\ntwo\r\n"])
def test_a_list_of_secrets_is_read_from_a_file(tmp_path: Path, text):
    path = tmp_path / "keys"
    path.write_bytes(text.encode())
    loaded = load(AUTH_ADMIN_API_KEYS_FILE=str(path))
    assert [entry.key for entry in loaded.settings.auth.admin_api_keys] == ["one", "two"]
    assert loaded.sources["auth.admin_api_keys"] == "LLM_SCHEDULER_AUTH_ADMIN_API_KEYS_FILE"


def test_a_secret_is_read_from_a_file_without_its_last_newline(tmp_path: Path):
    path = tmp_path / "url"
    path.write_text("postgresql://u:p@db/x\n")
    assert load(DATABASE_URL_FILE=str(path)).settings.database.url == "postgresql://u:p@db/x"


def test_a_secret_file_that_is_missing_or_empty_stops_the_start(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.write_text("\n")
    found = problems(AUTH_API_KEYS_FILE=str(empty), AUTH_METRICS_KEY_FILE=str(tmp_path / "none"))
    assert [("is empty" in problem, "cannot be read" in problem) for problem in found] == [(True, False), (False, True)]


def test_a_secret_given_twice_stops_the_start():
    (problem,) = problems(AUTH_METRICS_KEY="x", AUTH_METRICS_KEY_FILE="/nowhere")
    assert "is set by LLM_SCHEDULER_AUTH_METRICS_KEY as well" in problem


def test_only_secrets_come_from_files():
    (problem,) = problems(SERVER_HOST_FILE="/x")
    assert "only secrets can come from a file; set LLM_SCHEDULER_SERVER_HOST" in problem
