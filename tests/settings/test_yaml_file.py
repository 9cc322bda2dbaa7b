"""The settings file: what strict YAML refuses, and the lines it names."""

from pathlib import Path

import pytest

from scheduler.settings.yaml_file import MAX_BYTES, parse_yaml, read_yaml_file


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse_yaml(text).problems]


def test_every_value_knows_its_line():
    file = parse_yaml("server:\n  port: 1\nnodes:\n- id: a\n  models:\n  - x\n")
    assert file.content == {"server": {"port": 1}, "nodes": [{"id": "a", "models": ["x"]}]}
    lines = {path: place.line for path, place in file.places.items()}
    assert lines["server", "port"] == 2
    assert lines["nodes", 0, "models", 0] == 6
    assert file.place(("nodes", 0, "weight")).source == "config.yaml:4"


def test_an_empty_file_says_nothing():
    assert parse_yaml("").content == {}
    assert parse_yaml("# only a comment\n").problems == []


def test_a_key_that_stands_twice_is_refused_with_both_lines():
    assert problems("server:\n  port: 1\n  port: 2\n") == [
        "config.yaml:3: server.port: stands twice, first in line 2; remove one"
    ]


@pytest.mark.parametrize("text", ["a: &x 1\nb: *x\n", "a: !!python/object:os.system x\n", "a: !secret x\n"])
def test_references_and_tags_are_refused(text):
    assert "not allowed" in problems(text)[0]


def test_a_bomb_of_aliases_is_refused_and_never_expanded():
    bomb = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in ("ab", "bc", "cd", "de"))
    assert len(problems(bomb)) == 13


def test_a_merge_key_is_refused():
    assert "this key as something else" in problems("<<: {a: 1}\n")[0]


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_deep_nesting_is_refused(opening):
    (problem,) = problems("a: " + opening * 5000)
    assert problem == "config.yaml:1: is no valid YAML: nested deeper than 20 levels"


def test_a_file_that_is_too_large_is_refused(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    (problem,) = read_yaml_file(path).problems
    assert "larger than 256 KiB" in str(problem)


def test_a_file_that_is_no_utf8_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    (problem,) = read_yaml_file(path).problems
    assert str(problem) == f"{path}:2: is no UTF-8 text; save the file as UTF-8"


def test_a_byte_order_mark_does_no_harm(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml_file(path).content == {"a": 1}


@pytest.mark.parametrize(
    "text", ["a: [1\n", "a: b: c\n", "\ta: 1\n", "a: 1\n---\nb: 2\n", "- a\n", "text\n", "a: \x07\n"]
)
def test_what_is_no_mapping_in_yaml_is_one_problem_with_a_line(text):
    (problem,) = problems(text)
    assert problem.startswith("config.yaml:")
    assert problem.split(":")[1].isdigit()


def test_a_mistake_in_the_yaml_never_shows_what_stands_there():
    (problem,) = problems("auth:\n  metrics_key: !hunter2!hunter3\n")
    assert "hunter" not in problem


@pytest.mark.parametrize(
    "value", ["012", "0x1F", "22:22", "1_000", "2024-01-01", "1:30.5", ".inf", ".nan", "=", "9" * 30]
)
def test_a_value_that_yaml_would_change_silently_is_a_problem(value):
    (problem,) = problems(f"a:\n  b: {value}\n")
    assert problem.startswith("config.yaml:2: a.b: YAML ")
    assert "in quotes" in problem


@pytest.mark.parametrize("key", ["on", "12", "1.10", "null", "2024-01-01", "[a]"])
def test_a_key_that_yaml_makes_into_something_else_is_a_problem(key):
    (problem,) = problems(f"a:\n  ? {key}\n  : 1\n")
    assert problem.startswith("config.yaml:2: a: ")


def test_plain_numbers_and_booleans_are_what_they_look_like():
    assert parse_yaml("a: [10, -5, 0, 1.5, true, off, ~, '012']").content == {
        "a": [10, -5, 0, 1.5, True, False, None, "012"]
    }
