"""Backup: a copy of a SQLite database as it was at one moment, taken while the server runs, and verified."""

import contextlib
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import BackupFailed

#: Backups before migrations that are kept.
KEPT = 3


@dataclass(frozen=True, slots=True)
class Backup:
    """A verified copy."""

    file: Path
    size_bytes: int
    rows: dict[str, int]  # by table


def back_up(source: Path, target: Path, force: bool = False) -> Backup:
    """Copy the database; writers go on meanwhile. An existing target is replaced only with `force`.

    The copy gets its name when it has passed an integrity check and has as many rows as the original had. Only its
    owner may read it, because it holds the nodes' keys. Raises BackupFailed.
    """
    if not source.is_file():
        raise BackupFailed(f"There is no database {source}.")
    if target.is_dir():
        raise BackupFailed(f"{target} is a folder: name a file.")
    if target.exists() and os.path.samefile(source, target):
        raise BackupFailed(f"{target} is the database itself.")
    if target.exists() and not force:
        raise BackupFailed(f"{target} exists already.")
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        needed = source.stat().st_size
        free = shutil.disk_usage(target.absolute().parent).free
        if free < needed:
            raise BackupFailed(f"{target.absolute().parent} has {free} bytes free; about {needed} are needed.")
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        rows = _copy(source, new)
        _verify(new, rows)
        _sync(new)
        if force:
            new.replace(target)
        else:
            _rename(new, target)
        _sync(target.absolute().parent)
    except FileExistsError:
        raise BackupFailed(f"{target} exists already.") from None
    except OSError as error:
        raise BackupFailed(f"The backup {target} cannot be written: {error.strerror}.") from None
    except sqlite3.Error as error:
        raise BackupFailed(f"The backup {target} failed: {error}.") from None
    finally:
        for name in (new, *(Path(f"{new}{suffix}") for suffix in ("-journal", "-wal", "-shm"))):
            with contextlib.suppress(OSError):
                name.unlink(missing_ok=True)
    return Backup(target, target.stat().st_size, rows)


def back_up_before(source: Path, revision: str) -> Backup:
    """A backup beside the database, before it is brought to `revision`; the last few are kept. Raises BackupFailed."""
    marker = f"{source.name}.before-"
    # The time comes first, so that names sort by it.
    name = f"{marker}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{revision}"
    made = back_up(source, source.with_name(name), force=True)
    for old in sorted(source.parent.glob(f"{marker}*"))[:-KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()
    return made


def _copy(source: Path, new: Path) -> dict[str, int]:
    with _opened(source) as original, _opened(new) as copy:
        # One transaction for both: what is counted is what is copied. And in one step: it would begin anew whenever
        # somebody writes between two.
        original.execute("BEGIN")
        rows = _count(original)
        original.backup(copy, pages=-1)
        original.execute("ROLLBACK")
        # A single file, which may be read from anywhere.
        copy.execute("PRAGMA journal_mode=DELETE")
    return rows


def _verify(new: Path, rows: dict[str, int]) -> None:
    with _opened(new) as copy:
        found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise BackupFailed(f"The copy is damaged ({found}); the database itself may be.")
        if _count(copy) != rows:
            raise BackupFailed("The copy has not as many rows as the database.")


def _rename(new: Path, target: Path) -> None:
    try:
        os.link(new, target)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise FileExistsError(target) from None
        new.replace(target)


def _count(connection: sqlite3.Connection) -> dict[str, int]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    names = [name for (name,) in connection.execute(query).fetchall()]
    return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        yield connection


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
