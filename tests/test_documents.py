"""Packaging, requirements and documents agree with each other."""

import importlib.metadata
import re
import runpy
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scheduler.cli import main
from scheduler.settings import load_settings
from scheduler.settings.schema import SECTIONS, unit_of
from scheduler.web.error_handlers import TABLE

ROOT = Path(__file__).resolve().parent.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="read_only")
RUNTIME = [Requirement(text) for text in SETUP["INSTALL_REQUIRES"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in SETUP["EXTRAS_REQUIRE"].items()}

READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = (*READMES, "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(*names: str) -> dict[str, Requirement]:
    """Every requirement of the files, by its canonical name."""
    lines = [line for name in names for line in read(name).splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not pinned"
    return specifier.version


@pytest.mark.parametrize("requirement", [*RUNTIME, *EXTRAS["dev"]], ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement):
    files = ("requirements.txt",) if requirement in RUNTIME else ("requirements-dev.txt",)
    pin = pins(*files)[canonicalize_name(requirement.name)]
    assert version_of(pin) in requirement.specifier


@pytest.mark.parametrize(
    "requirement", [*EXTRAS["postgres"], *EXTRAS["redis"]], ids=lambda requirement: requirement.name
)
def test_extras_for_operators_are_exact_in_setup(requirement):
    version_of(requirement)


def test_every_direct_dependency_has_its_reason_and_no_other_is_listed():
    asked_for = {requirement.name for requirement in [*RUNTIME, *(r for extra in EXTRAS.values() for r in extra)]}
    explained = set(re.findall(r"^\| `([a-z0-9-]+)` \|.*[a-z].*\.+ \|$", read("docs/dependencies.md"), re.MULTILINE))
    assert explained == asked_for


@pytest.mark.parametrize("files", [("requirements.txt",), ("requirements.txt", "requirements-dev.txt")])
def test_what_a_pinned_package_needs_is_pinned_too(files):
    pinned = pins(*files)
    missing = []
    for name, pin in pinned.items():
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # a tool that this environment does without
        for need in map(Requirement, needs):
            if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in ("", *pin.extras)):
                continue
            other = pinned.get(canonicalize_name(need.name))
            if other is None or version_of(other) not in need.specifier:
                missing.append(f"{name} needs {need}")
    assert missing == []


def test_the_npm_lock_file_names_no_registry():
    assert not re.search(r"https?:|resolved", read("tests/openai_node/package-lock.json"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_only_files_targets_and_links_that_exist(name):
    text = re.sub(r"^```.*?^```", "", read(name), flags=re.MULTILINE | re.DOTALL)
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    assert targets <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for path in re.findall(r"`((?:docs|tests|scripts|scheduler|admin_ui|deploy|benchmarks|\.ci)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{name} names {path}"
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in link:
            assert ((ROOT / name).parent / link).exists(), f"{name} links to {link}"


def test_every_make_target_is_phony_and_explained():
    makefile = read("Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert targets == set(phony[1].split()) == set(re.findall(r"^([a-z-]+):.* ## \S", makefile, re.MULTILINE))


def test_the_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:[abrc.]+\d+)?", SETUP["read_version"]())


def test_the_changelog_begins_with_what_is_unreleased():
    headings = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"


# -- READMEs, settings and errors -------------------------------------------------------------

#: Codes that belong to no error family: the words of a bad call, HTTP itself, and the records.
OTHER_CODES = {
    *("invalid_json", "malformed_body", "body_incomplete", "missing_required_parameter", "invalid_path"),
    "internal_error",
}


def sections_of(text: str) -> list[tuple[int, str]]:
    """Headings as (level, title); code blocks are no headings."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", bare, re.MULTILINE)]


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Code blocks as (language, text)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table_rows(text: str) -> list[list[str]]:
    """The cells of every line of every table, code without its quotes."""
    return [[cell.strip("` ") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def settings_rows(name: str) -> dict[str, list[str]]:
    """The settings table of a README: key -> its cells."""
    rows = [row for row in table_rows(read(name)) if len(row) == 4]
    return {row[0]: row for row in rows if row[0] == "nodes" or row[0].partition(".")[0] in SECTIONS}


def test_both_readmes_have_the_same_headings():
    english, chinese = (sections_of(read(name)) for name in READMES)
    assert [level for level, _ in english] == [level for level, _ in chinese]
    assert english[0] == chinese[0]


def test_both_readmes_show_the_same_commands_and_settings():
    def without_words(name: str) -> list[tuple[str, str]]:
        # What people say differs, and so do comments.
        blocks = [(language, re.sub(r"#.*|\"content\": \"[^\"]*\"|--remark \"[^\"]*\"", "", text))
                  for language, text in code_blocks(read(name))]  # fmt: skip
        return [(language, re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)) for language, text in blocks]

    english, chinese = map(without_words, READMES)
    assert english == chinese


@pytest.mark.parametrize("name", READMES)
def test_the_quick_start_has_four_blocks_of_at_most_three_lines(name):
    parts = re.split(r"^## .*$", read(name), flags=re.MULTILINE)
    blocks = code_blocks(parts[2])
    assert [language for language, _ in blocks] == ["sh", "sh", "sh", "python"]
    assert all(len(text.splitlines()) <= 3 for _, text in blocks)


@pytest.mark.parametrize("name", READMES)
def test_every_setting_stands_in_the_table_with_its_default(name):
    rows = settings_rows(name)
    expected = [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]
    assert list(rows) == [*expected, "nodes"]
    for path in expected:
        section, key = path.split(".")
        value = yaml.safe_load(rows[path][1])
        read_back = getattr(SECTIONS[section].model_validate({key: value}), key)
        assert read_back == SECTIONS[section].model_fields[key].default, f"{name}: {path}"
        unit = {"duration": ("duration", "时长"), "size": ("size", "大小")}.get(unit_of(section, key))
        assert unit is None or rows[path][2] in unit, f"{name}: {path}"
    assert yaml.safe_load(rows["nodes"][1]) == []


@pytest.mark.parametrize("name", READMES)
def test_defaults_are_spelt_as_in_the_file(name):
    spelt = dict[str, str]()
    section = ""
    for line in read("config.yaml").splitlines():
        if found := re.match(r"( *)(\w+):(?: (.+))?$", line):
            section = section if found[1] else found[2]
            spelt[f"{section}.{found[2]}" if found[1] else found[2]] = found[3] or ""
    assert {key: row[1] for key, row in settings_rows(name).items()} == {
        key: text for key, text in spelt.items() if key not in SECTIONS
    }


@pytest.mark.parametrize("name", READMES)
def test_the_settings_shown_are_valid(name, tmp_path):
    blocks = [text for language, text in code_blocks(read(name)) if language == "yaml"]
    assert blocks
    for text in blocks:
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        assert load_settings(file, {}).warnings == []


@pytest.mark.parametrize("name", READMES)
def test_settings_without_effect_are_said_to_be_so(name):
    sources = [file for file in (ROOT / "scheduler").rglob("*.py") if file.parent.name != "settings"]
    code = "\n".join(file.read_text(encoding="utf-8") for file in sources)
    silent = {key for key in settings_rows(name) if "." in key and not re.search(rf"\.{key.split('.')[1]}\b", code)}
    told = {key for key, row in settings_rows(name).items() if re.match(r"No effect|无作用", row[3])}
    assert told == silent


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_into_a_document_names_a_heading(name):
    for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", read(name)):
        target = (ROOT / name).parent / link if link else ROOT / name
        headings = sections_of(target.read_text(encoding="utf-8"))
        assert anchor in {title.lower().replace(" ", "-") for _, title in headings}, f"{name} links to #{anchor}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_of_a_document_exists(name):
    for line in re.findall(r"llm-scheduler ((?:[a-z-]+ ?){1,2})", re.sub(r"llm-scheduler[.:]", "", read(name))):
        words = line.split()
        command: click.Command = main
        for word in words:
            if not isinstance(command, click.Group):
                break
            found = command.commands.get(word)
            assert found is not None, f"{name} names the command {line.strip()!r}"
            command = found


def test_the_table_of_errors_is_that_of_the_code():
    part = read("docs/api.md").partition("\n## Errors\n")[2].partition("\n## ")[0]
    told = {row[3]: row for row in table_rows(part) if row[1].isdigit()}
    assert set(told) == {answer.code for answer in TABLE.values()} | OTHER_CODES
    for answer in TABLE.values():
        status, kind = told[answer.code][1:3]
        assert (int(status), kind) == (answer.status, answer.type), answer.code
        should_retry = None if answer.should_retry is None else str(answer.should_retry).lower()
        assert (told[answer.code][5] or None) == should_retry, answer.code


@pytest.mark.parametrize("name", READMES)
def test_the_short_table_of_errors_agrees_with_the_long_one(name):
    known = {(answer.status, answer.code) for answer in TABLE.values()} | {(400, code) for code in OTHER_CODES}
    rows = [row for row in table_rows(read(name)) if row[0].isdigit()]
    assert len(rows) >= 8
    for row in rows:
        assert {(int(row[0]), code) for code in re.findall(r"[a-z_]{4,}", row[1].replace("and others", ""))} <= known


def test_every_table_of_every_document_has_rows_of_one_width():
    for name in DOCUMENTS:
        for table in re.findall(r"(?:^\|.*\n)+", read(name), re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) for line in table.splitlines()}
            assert len(widths) == 1, f"{name}: {table.splitlines()[0]}"
