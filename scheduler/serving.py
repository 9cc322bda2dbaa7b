"""What outlives a reload in gunicorn's master. Imports nothing of ours: everything else is read anew."""

from __future__ import annotations

import importlib
import mmap
import struct
import sys
from types import ModuleType
from typing import Any

#: gunicorn's settings that worked last.
last: dict[str, Any] | None = None
#: Our settings as the master has read them; its workers inherit them (scheduler.settings.Loaded).
loaded: Any = None
#: The locks that keep other servers off our data folders, by folder (scheduler.adapters.boots.GranterLock).
locks: dict[str, Any] = {}
#: How often the server was reloaded, in memory that the workers share with their master.
_reloads = mmap.mmap(-1, 8)


def reload_count() -> int:
    """How often the server was reloaded; a worker asks to tell the SIGTERM of a reload from that of a stop."""
    return int(struct.unpack("q", _reloads[:8])[0])


def count_reload() -> None:
    """Called in the master, before the workers of before the reload are told to end."""
    _reloads[:8] = struct.pack("q", reload_count() + 1)


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
