"""Who may import what. `docs/architecture.md` explains the layers; this table is what holds."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What gives I/O, threads or the time: the core is handed its time and does nothing else.
OUTSIDE_WORLD = {
    "asyncio", "http", "select", "selectors", "socket", "sqlite3", "ssl", "subprocess", "threading", "time", "urllib",
}  # fmt: skip

GEVENT_PRIMITIVES = {"gevent.event", "gevent.lock", "gevent.pool", "gevent.queue"}
# Of gevent itself: start and end greenlets, and wait; no sockets, no hub, no monkey.
GEVENT_GREENLETS = {
    f"gevent.{name}"
    for name in (
        "Greenlet",
        "GreenletExit",
        "Timeout",
        "getcurrent",
        "kill",
        "killall",
        "sleep",
        "spawn",
        "spawn_later",
    )
}


@dataclass(frozen=True)
class Row:
    """What one layer may import. A name allows what is below it too; `never` is stronger than anything allowed."""

    layer: str  # a package or module, dotted
    allowed: frozenset[str]
    never: frozenset[str] = frozenset()
    any_library: bool = False

    def allows(self, name: str) -> bool:
        if _is_below(name, self.never):
            return False
        if name in ("scheduler.__file__", "scheduler.__version__"):
            return True
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            return True
        if self.any_library and top not in ("scheduler", "admin_ui", "wsgi"):
            return True
        return _is_below(name, self.allowed | {self.layer})


def _is_below(name: str, parents: set[str] | frozenset[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


ROWS = (
    Row("scheduler.errors", frozenset()),
    Row("scheduler.core", frozenset({"scheduler.errors"} | GEVENT_PRIMITIVES), frozenset(OUTSIDE_WORLD)),
    Row(
        "scheduler.gateway",
        frozenset({"scheduler.core", "scheduler.errors", "msgspec"} | GEVENT_PRIMITIVES | GEVENT_GREENLETS),
    ),
    Row(
        "scheduler.adapters",
        frozenset(
            {
                "scheduler.core",
                "scheduler.errors",
                "scheduler.gateway.figures",
                "scheduler.gateway.ports",
                "scheduler.gateway.record",
            }
        ),
        any_library=True,
    ),
    Row(
        "scheduler.web",
        frozenset(
            {"scheduler.core", "scheduler.errors", "scheduler.gateway", "flask", "werkzeug", "msgspec", "pydantic"}
        ),
    ),
    Row("scheduler.capacity", frozenset({"scheduler.core", "scheduler.errors"}), frozenset(OUTSIDE_WORLD)),
    Row("admin_ui", frozenset({"flask", "werkzeug"})),
)


def imported_names(source: str, package: str) -> list[tuple[int, str]]:
    """Every name a source imports, with its line: at the top, in functions, under TYPE_CHECKING, by a call.

    `from a import b` counts as `a.b`, relative imports are resolved against `package`, and where the whole of gevent or
    of scheduler is imported each `gevent.x` or `scheduler.x` that is used counts.
    """
    found: list[tuple[int, str]] = []
    whole: dict[str, str] = {}  # what a whole package is called here -> the package
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                if top in ("gevent", "scheduler") and (alias.name == top or not alias.asname):
                    whole[alias.asname or top] = top
                if alias.name not in ("gevent", "scheduler"):
                    found.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            argument = node.args[0] if node.args else None
            name = argument.value if isinstance(argument, ast.Constant) else "<computed>"
            found.append((node.lineno, str(name)))
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    for node in attributes:
        root, _, rest = ast.unparse(node).partition(".")
        if root in whole and id(node) not in inner:
            found.append((node.lineno, f"{whole[root]}.{rest}"))
    return sorted(found)


def violations(row: Row, source: str, package: str, where: str = "sample.py") -> list[str]:
    """One line for each import that the row forbids."""
    return [
        f"{where}:{line}: {row.layer} must not import {name}"
        for line, name in imported_names(source, package)
        if not row.allows(name)
    ]


def files_of(layer: str) -> list[Path]:
    path = ROOT.joinpath(*layer.split("."))
    if path.is_dir():
        return sorted(p for p in path.rglob("*.py") if "node_modules" not in p.parts)
    return [path.with_suffix(".py")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.layer)
def test_each_layer_imports_only_what_the_table_allows(row):
    problems: list[str] = []
    for path in files_of(row.layer):
        where = path.relative_to(ROOT)
        problems += violations(row, path.read_text(encoding="utf-8"), ".".join(where.parent.parts), str(where))
    assert not problems, "\n" + "\n".join(problems)


def test_every_layer_of_the_table_exists():
    assert all(path.is_file() for row in ROWS for path in files_of(row.layer))


# -- the checker itself -----------------------------------------------------------------------


def row(layer: str) -> Row:
    return next(row for row in ROWS if row.layer == layer)


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("scheduler.errors", "from scheduler.core.outcome import Outcome"),
        ("scheduler.errors", "import flask"),
        ("scheduler.core", "import flask"),
        ("scheduler.core", "import sqlalchemy.orm as orm"),
        ("scheduler.core", "from scheduler.gateway import ports"),
        ("scheduler.core", "from scheduler import gateway"),
        ("scheduler.core", "from ..gateway.ports import Recorder"),
        ("scheduler.core", "from .. import adapters"),
        ("scheduler.core", "import time"),
        ("scheduler.core", "import gevent\ngevent.sleep(1)"),
        ("scheduler.core", "from gevent import socket"),
        ("scheduler.core", "def later():\n    from yaml import safe_load"),
        ("scheduler.core", "import importlib\nimportlib.import_module('requests')"),
        ("scheduler.core", "import importlib\nimportlib.import_module('req' + 'uests')"),
        ("scheduler.core", "requests = __import__('requests')"),
        (
            "scheduler.core",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from scheduler.web.context import Context",
        ),
        ("scheduler.gateway", "from scheduler.adapters.pool import Pool"),
        ("scheduler.gateway", "from gevent import monkey"),
        ("scheduler.gateway", "import gevent.event\ngevent.socket.create_connection(())"),
        ("scheduler.gateway", "import gevent as g\ng.get_hub()"),
        ("scheduler.gateway", "import requests"),
        ("scheduler.adapters", "from scheduler.web.context import Context"),
        ("scheduler.adapters", "from scheduler.gateway.roster import Roster"),
        ("scheduler.adapters", "from scheduler.settings.model import Settings"),
        ("scheduler.adapters", "import admin_ui"),
        ("scheduler.adapters", "import scheduler\nscheduler.web.context"),
        ("scheduler.adapters", "import scheduler as s\ns.app"),
        ("scheduler.web", "from scheduler.adapters.tables import Request"),
        ("scheduler.web", "import requests"),
        ("scheduler.web", "from sqlalchemy import select"),
        ("scheduler.web", "from flask_sqlalchemy import SQLAlchemy"),
        ("scheduler.capacity", "from scheduler.settings.duration import parse_duration"),
        ("scheduler.capacity", "import gevent.queue"),
        ("scheduler.capacity", "import time"),
        ("admin_ui", "from scheduler.core.outcome import Outcome"),
    ],
)
def test_a_forbidden_import_is_found(layer, source):
    (problem,) = violations(row(layer), source, layer)
    assert f"{layer} must not import " in problem


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("scheduler.errors", "from collections.abc import Sequence"),
        ("scheduler.core", "import heapq\nfrom gevent.lock import BoundedSemaphore\nimport gevent.queue"),
        ("scheduler.core", "from .lease import Lease\nfrom ..errors import QueueFull\nfrom scheduler import errors"),
        ("scheduler.gateway", "import gevent\ngevent.spawn(print)\nfrom gevent import sleep\nimport time, msgspec"),
        ("scheduler.gateway", "from scheduler.core.lease import Lease\nfrom scheduler.gateway.ports import Recorder"),
        ("scheduler.adapters", "import requests, httptools\nfrom scheduler.gateway.ports import NodeTarget"),
        ("scheduler.adapters", "import scheduler\nscheduler.__version__"),
        ("scheduler.adapters", "import scheduler.gateway.ports\nscheduler.gateway.ports.Recorder"),
        ("scheduler.web", "from flask import Blueprint\nfrom werkzeug.exceptions import NotFound\nimport json"),
    ],
)
def test_an_allowed_import_passes(layer, source):
    assert violations(row(layer), source, layer) == []
