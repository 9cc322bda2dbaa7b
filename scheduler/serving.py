"""What outlives a reload in gunicorn's master. Imports nothing of ours: everything else is read anew."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

#: gunicorn's settings that worked last.
last: dict[str, Any] | None = None
#: Our settings as the master has read them; its workers inherit them (scheduler.settings.Loaded).
loaded: Any = None
#: The locks that keep other servers off our data folders, by folder (scheduler.adapters.boots.GranterLock).
locks: dict[str, Any] = {}


def forget_code() -> dict[str, ModuleType]:
    """Forget our modules but this one, so that the next import reads them from their files; what was forgotten."""
    forgotten = {name: module for name, module in sys.modules.items() if _is_ours(name)}
    for name in forgotten:
        del sys.modules[name]
    importlib.reload(sys.modules["scheduler"])
    return forgotten


def restore_code(forgotten: dict[str, ModuleType]) -> None:
    """Go back to modules that were forgotten: the new ones do not work."""
    for name in [name for name in sys.modules if _is_ours(name)]:
        del sys.modules[name]
    sys.modules.update(forgotten)


def _is_ours(name: str) -> bool:
    return name != __name__ and (name.startswith("scheduler.") or name.partition(".")[0] == "admin_ui")
