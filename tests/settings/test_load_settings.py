"""Loading: every mistake at once, each with its line, its key and the remedy; and no secret in any of them."""

from pathlib import Path

import pytest

from scheduler.core.priority import Priority
from scheduler.errors import ConfigError
from scheduler.settings import Loaded, Settings, load_settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text: str) -> Loaded:
    Path("config.yaml").write_text(text, encoding="utf-8")
    return load_settings(None, {})


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return caught.value.problems


def node(**fields: str) -> str:
    merged = {"id": "a", "address": "http://h", "models": "[m]", "max_concurrent": "1", **fields}
    return "{" + ", ".join(f"{name}: {value}" for name, value in merged.items()) + "}"


def test_without_a_file_the_defaults_are_in_force():
    loaded = load_settings(None, {})
    assert loaded.settings == Settings()
    assert loaded.path is None
    assert set(loaded.sources.values()) == {"default"}


def test_a_named_file_that_is_missing_is_a_problem():
    with pytest.raises(ConfigError, match=r"^none\.yaml: cannot be read \(No such file"):
        load_settings(Path("none.yaml"), {})


def test_a_folder_is_no_file():
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(Path(), {})


def test_durations_are_seconds_and_sizes_are_bytes():
    settings = load("scheduler: {queue_timeout: 1m30s, aging: 45}\nserver: {max_body: 1MiB}\n").settings
    assert settings.scheduler.queue_timeout == 90.0
    assert settings.scheduler.aging == 45.0
    assert settings.server.max_body == 1024**2


def test_the_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1


def test_an_unknown_key_names_the_nearest_valid_one():
    assert problems("scheduler:\n  queue_timout: 5s\n") == [
        "config.yaml:2: scheduler.queue_timout: unknown key; did you mean queue_timeout?"
    ]


def test_a_key_in_the_wrong_section_names_the_right_one():
    assert problems("server:\n  queue_timeout: 5s\n") == [
        "config.yaml:2: server.queue_timeout: unknown key; did you mean scheduler.queue_timeout?"
    ]
    assert problems("queue_timeout: 5s\n") == [
        "config.yaml:1: queue_timeout: unknown section; did you mean scheduler.queue_timeout?"
    ]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    text = "server:\n  port: 70000\n  prot: 1\nlogging: {level: loud}\nnodes:\n- id: a b\n  max_concurrent: 0\n"
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(None, {"LLM_SCHEDULER_SERVER_WORKERS": "0"})
    assert [line.split(": ")[:2] for line in caught.value.problems] == [
        ["config.yaml:2", "server.port"],
        ["config.yaml:3", "server.prot"],
        ["config.yaml:4", "logging.level"],
        ["config.yaml:6", "nodes[0].id"],
        ["config.yaml:6", "nodes[0].address"],
        ["config.yaml:6", "nodes[0].models"],
        ["config.yaml:7", "nodes[0].max_concurrent"],
        ["LLM_SCHEDULER_SERVER_WORKERS", "server.workers"],
    ]


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("server", "port", "70000", "70000 is too large; give at most 65535"),
        ("server", "port", '"8080"', "'8080' is no whole number; write plain digits without quotes"),
        ("server", "port", "8080.0", "8080.0 is no whole number"),
        ("server", "workers", "yes", "yes is no whole number"),
        ("server", "workers", "0", "0 is too small; give at least 1"),
        ("server", "host", "0.0.0.0:80", "write the host alone"),
        ("server", "host", "10", "must be text, but YAML reads 10 as a number"),
        ("server", "pid_file", "no", 'must be text, but YAML reads no as false; put it in quotes: "no"'),
        ("server", "pid_file", "[a]", "must be text, not a list"),
        ("server", "read_timeout", "0s", "'0s' is too small; give more than 0s"),
        ("server", "shutdown_timeout", "400d", "'400d' is too large; give at most 366d"),
        ("server", "max_body", "100M", "'100M' is no size"),
        ("server", "trusted_proxies", "-1", "-1 is too small; give at least 0"),
        ("database", "cleanup_enabled", "1", "1 is neither true nor false"),
        ("database", "retention_days", "0", "0 is too small; give at least 1"),
        ("scheduler", "worker_count", "0", "give at least 1"),
        ("scheduler", "max_attempts", "0", "give at least 1"),
        ("scheduler", "health_check_timeout", "0", "0 is too small"),
        ("scheduler", "health_check_rise", "0", "give at least 1"),
        ("scheduler", "health_check_path", "health", "write it like /health"),
        ("scheduler", "idle_timeout", "", "has no value; give one, or remove the line"),
        ("scheduler", "node_ca_file", "none.pem", "there is no file 'none.pem'"),
        ("logging", "level", "loud", "loud is not possible; use debug, info, warning or error"),
        ("logging", "format", "xml", "use json or console"),
        ("auth", "api_keys", "one", "is no list"),
        ("auth", "api_keys", "", "has no value"),
        ("cluster", "redis_url", "http://x", "must begin with redis://"),
    ],
)
def test_a_bad_value_is_told_with_its_remedy(section, key, value, message):
    (problem,) = problems(f"{section}:\n  {key}: {value}\n")
    assert problem.startswith(f"config.yaml:2: {section}.{key}: ")
    assert message in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {workers: 4}", "4 workers need cluster.redis_url"),
        ("scheduler: {queue_timeout: 2h}", "2h is more than scheduler.queue_timeout_max (1h); lower queue_timeout or"),
        ("scheduler: {queue_timeout_max: 1m}", "2m is more than scheduler.queue_timeout_max (1m)"),
        ("server: {max_body: 3GB}", "2GB is less than server.max_body (3GB)"),
        ('database: {path: ""}', "is empty and so is database.url"),
    ],
)
def test_keys_that_do_not_fit_together_are_named_with_their_values(text, message):
    (problem,) = problems(text)
    assert problem.startswith("config.yaml:1: ")
    assert message in problem


def test_several_workers_are_fine_with_redis():
    assert load("server: {workers: 4}\ncluster: {redis_url: redis://r/0}").settings.server.workers == 4


def test_a_rule_over_a_key_that_is_wrong_by_itself_is_silent():
    assert len(problems("scheduler: {queue_timeout: 2h, queue_timeout_max: x}")) == 1


def test_sections_without_content_are_taken_as_defaults():
    assert load("server:\nnodes:\n").settings == Settings()


def test_a_section_that_is_no_mapping_is_a_problem():
    assert problems("server: 5\n") == ["config.yaml:1: server: must hold keys such as host:, not 5"]


# -- keys -------------------------------------------------------------------------------------


def test_a_plain_key_gets_the_name_of_its_place():
    auth = load("auth: {api_keys: [one, {name: team, key: two}, three], admin_api_keys: [root]}").settings.auth
    assert [entry.name for entry in auth.api_keys] == ["key-1", "team", "key-3"]
    assert auth.api_keys[0].priority is Priority.NORMAL
    assert auth.api_keys[0].max_priority is Priority.CRITICAL
    assert [(entry.name, entry.key) for entry in auth.admin_api_keys] == [("admin-1", "root")]
    assert "root" not in repr(auth)


def test_a_key_has_a_priority_and_a_ceiling():
    (entry,) = load("auth: {api_keys: [{name: a, key: k, priority: LOW, max_priority: high}]}").settings.auth.api_keys
    assert (entry.priority, entry.max_priority) == (Priority.LOW, Priority.HIGH)


def test_a_ceiling_below_normal_lowers_the_default_priority():
    (entry,) = load("auth: {api_keys: [{name: a, key: k, max_priority: low}]}").settings.auth.api_keys
    assert entry.priority is Priority.LOW


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("123456", "must be text in quotes"),
        ('"has space"', "printable ASCII characters without spaces"),
        ('""', "printable ASCII characters without spaces"),
        ("schlüssel", "printable ASCII characters without spaces"),
        ("{name: a, key: 987654}", "must be text, but YAML reads the value as a number; put it in quotes"),
        ("{name: a}", "auth.api_keys[0].key: is required"),
        ("{key: sk-secret}", "auth.api_keys[0].name: is required"),
        ("{nam: a, name: a, key: sk-secret}", "unknown key; did you mean name?"),
        ("{name: a, key: sk-secret, priority: urgent}", "'urgent' is no priority; use low, normal, high or critical"),
        ("{name: a, key: sk-secret, priority: critical, max_priority: low}", "priority critical is above max_priority"),
        ("{name: a, key: sk-secret, priority: 1}", "'1' is no priority"),
        ("012345", "in quotes"),
        ("~", "YAML reads it as nothing"),
    ],
)
def test_a_bad_key_is_told_without_showing_it(entry, message):
    (problem,) = problems(f"auth:\n  api_keys:\n    - {entry}\n")
    assert problem.startswith("config.yaml:3: auth.api_keys[0]")
    assert message in problem
    assert not any(secret in problem for secret in ("123456", "987654", "sk-secret", "12345", "has space", "schl"))


def test_a_key_with_a_colon_behind_it_is_not_shown():
    assert "sk-secret" not in str(problems("auth:\n  api_keys:\n    - sk-secret:\n"))
    assert "123456" not in str(problems("auth:\n  api_keys:\n    - 123456: x\n"))


def test_keys_and_names_that_stand_twice_are_refused_without_showing_the_key():
    found = problems("auth:\n  api_keys:\n  - sk-secret\n  - {name: key-1, key: sk-secret}\n")
    assert found == [
        "config.yaml:4: auth.api_keys[1]: is the same key as auth.api_keys[0]; remove one",
        "config.yaml:4: auth.api_keys[1]: has the name 'key-1' like auth.api_keys[0]; give it its own",
    ]


def test_a_key_for_both_sides_is_a_warning():
    (warning,) = load("auth: {api_keys: [same], admin_api_keys: [same]}").warnings
    assert "callers may administer" in warning


def test_no_password_of_a_url_is_ever_shown():
    found = problems('database: {url: "mysql://u:hunter2@h/x"}\ncluster: {redis_url: "hunter2"}\n')
    assert len(found) == 2
    assert "hunter2" not in str(found)


# -- nodes ------------------------------------------------------------------------------------


def test_a_node_is_read_with_its_defaults():
    (found,) = load(f"nodes:\n- {node(api_key='sk-x')}\n").settings.nodes
    assert (found.id, found.address, found.models, found.max_concurrent) == ("a", "http://h", ("m",), 1)
    assert (found.weight, found.api_key, found.labels, found.remark) == (100, "sk-x", {}, "")
    assert "sk-x" not in repr(found)


def test_a_trailing_v1_of_an_address_is_a_warning():
    loaded = load(f"nodes:\n- {node(address='http://h/v1')}\n")
    assert loaded.settings.nodes[0].address == "http://h"
    assert loaded.warnings == [
        "config.yaml:2: nodes[0].address: the trailing /v1 was removed: calls bring their own /v1"
    ]


def test_ids_and_addresses_of_nodes_differ():
    found = problems(f"nodes:\n- {node()}\n- {node(address='http://g')}\n- {node(id='c')}\n")
    assert [line.split(": ")[1] for line in found] == ["nodes[0].id", "nodes[1].id", "nodes[2].address"]


def test_the_state_of_a_node_is_not_set_in_the_file():
    (problem,) = problems(f"nodes:\n- {node(state='active')}\n")
    assert "nodes[0].state: is not set in the file" in problem


@pytest.mark.parametrize("text", ["nodes: 5", "nodes: {a: b}", "nodes: [5]"])
def test_nodes_are_a_list_of_mappings(text):
    (problem,) = problems(text)
    assert problem.startswith("config.yaml:1: nodes")


def test_one_problem_is_one_line():
    found = problems('server:\n  "po\\nrt": 1\n  host: "a\\nb"\n')
    assert len(found) == 2
    assert not any("\n" in line for line in found)


def test_an_alias_is_reported_once_and_the_rest_as_well():
    found = problems("server: {port: &p 70000, workers: *p, prot: 1}\n")
    assert [line.split(": ", 1)[1].split(" ")[0] for line in found] == [
        "anchors",
        "aliases",
        "server.prot:",
        "server.port:",
    ]
