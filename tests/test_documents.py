"""Packaging, requirements and documents agree with each other."""

import importlib.metadata
import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="read_only")
RUNTIME = [Requirement(text) for text in SETUP["INSTALL_REQUIRES"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in SETUP["EXTRAS_REQUIRE"].items()}


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


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/dependencies.md"])
def test_documents_name_only_files_and_targets_that_exist(name):
    text = read(name)
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    assert targets <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for path in re.findall(r"`((?:docs|tests|scripts|scheduler|\.ci)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{name} names {path}"


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
