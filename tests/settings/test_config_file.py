"""The config.yaml at the top: every key with its default and a comment."""

import re
from pathlib import Path

import pytest

from scheduler.settings import Settings, load_settings
from scheduler.settings.schema import SECTIONS
from scheduler.settings.yaml_file import read_yaml_file

FILE = Path(__file__).parents[2] / "config.yaml"
KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


def test_the_file_says_what_the_defaults_are():
    loaded = load_settings(FILE, {})
    assert loaded.settings == Settings()
    assert loaded.warnings == []


@pytest.mark.parametrize(("section", "key"), [*KEYS, ("nodes", "")], ids=lambda part: part)
def test_every_key_stands_in_the_file_under_a_comment(section, key):
    file = read_yaml_file(FILE)
    place = file.places[(section, key) if key else (section,)]
    line_above = FILE.read_text(encoding="utf-8").splitlines()[place.line - 2]
    assert re.match(r" *# ", line_above), f"line {place.line} has no comment above it"


def test_every_duration_and_size_says_so_in_its_comment():
    lines = FILE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"  \w+: [0-9]+(ms|s|m|h|d|MB|GB)", line):
            assert re.search("duration|size", lines[number - 1], re.IGNORECASE), line


def test_the_examples_in_the_comments_are_usable(tmp_path):
    lines = FILE.read_text(encoding="utf-8").splitlines()
    example = [line.partition("#")[2].removeprefix("   ") for line in lines if re.match(r" *#   ", line)]
    text = "\n".join(example).replace("api_keys:", "auth:\n  api_keys:")
    path = tmp_path / "example.yaml"
    path.write_text(text)
    settings = load_settings(path, {}).settings
    assert [entry.name for entry in settings.auth.api_keys] == ["key-1", "team-a"]
    assert [node.id for node in settings.nodes] == ["gpu-01"]
