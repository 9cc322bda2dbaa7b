"""Boots: which server processes have begun, which still live, and who may grant.

A process proves that it lives by a file lock, which the kernel frees when it ends, however it ends. Locks belong to the
process that took them and to what it forks afterwards: take them in the process that serves, after the last fork.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, select, text, update

from scheduler.adapters.database import is_sqlite
from scheduler.adapters.rollups import Rollups
from scheduler.adapters.stored_text import stored_name
from scheduler.adapters.tables import BOOTS, NOT_COMPLETED, REQUESTS
from scheduler.adapters.tally import Facts, facts_of
from scheduler.adapters.upsert import Upsert
from scheduler.errors import StartRefused

COLUMNS = tuple(column.name for column in BOOTS.columns)

INTERRUPTED_MESSAGE = "The server stopped while this request was waiting or running."


class Boot:
    """One life of a server process; `id` is in every row it writes, its lock is held until `close` or the end."""

    def __init__(self, id: str, home: str, lock_file: Path, descriptor: int) -> None:
        self.id = id
        self.home = home
        self.started_at = time.time()
        self._lock_file = lock_file
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Say that this process has ended: only after its last record is durable. Idempotent."""
        if self._descriptor is not None:
            self._lock_file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __repr__(self) -> str:
        return f"<Boot {self.id} {'ended' if self._descriptor is None else 'alive'}>"


def begin_boot(data_dir: str | Path) -> Boot:
    """Begin a life: make `<data_dir>/boots/<id>.lock` and hold it. Raises StartRefused where that cannot be written."""
    folder = Path(data_dir) / "boots"
    # Sorts by time, which makes rows and lock files easy to read.
    boot_id = f"{int(time.time() * 1000):x}-{secrets.token_hex(4)}"
    lock_file = folder / f"{boot_id}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        home = _home(folder)
        # Locked under another name first: a file that others can see and lock would be taken for a dead one.
        new_file = folder / f"{boot_id}.new"
        descriptor = os.open(new_file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        new_file.rename(lock_file)
    except OSError as error:
        raise StartRefused(f"The data folder {folder} cannot be written: {error.strerror}.") from None
    return Boot(boot_id, home, lock_file, descriptor)


def register_boot(connection: Connection, boot: Boot, version: str) -> None:
    """Write the boot down; to be called before its first record."""
    row = (boot.id, boot.home, os.getpid(), stored_name(version, 32), round(boot.started_at * 1000))
    Upsert(BOOTS, COLUMNS, "id", (), connection.dialect).execute(connection, [row])


def mark_interrupted(connection: Connection, data_dir: str | Path, now: float) -> int:
    """Finish the unfinished requests of dead boots as failed / interrupted, and return how many there were.

    Running boots are left alone, so it may be called at any time. On PostgreSQL, boots of other data folders are left
    alone too: whether they live cannot be seen from here. `now` is in seconds since the epoch.
    """
    folder = Path(data_dir) / "boots"
    folder.mkdir(parents=True, exist_ok=True)
    is_unfinished = REQUESTS.c.status.in_(("pending", "processing"))
    unfinished = select(REQUESTS.c.boot_id).where(is_unfinished, text(NOT_COMPLETED)).distinct()
    with contextlib.ExitStack() as dead_locks:
        dead_here = {boot_id for boot_id in _lock_ids(folder) if dead_locks.enter_context(_if_dead(folder, boot_id))}
        marked = 0
        for boot_id in connection.execute(unfinished).scalars().all():
            if boot_id not in dead_here and (folder / f"{boot_id}.lock").exists():
                continue
            if not is_sqlite(connection) and _home_of(connection, boot_id) != _home(folder):
                continue
            marked += _interrupt(connection, boot_id, now)
    return marked


def _interrupt(connection: Connection, boot_id: str, now: float) -> int:
    rollups = Rollups(connection.dialect)
    rollups.take_turn(connection)
    is_left = (REQUESTS.c.boot_id == boot_id, REQUESTS.c.status.in_(("pending", "processing")), text(NOT_COMPLETED))
    left = connection.execute(select(*(REQUESTS.c[name] for name in Facts._fields)).where(*is_left)).mappings().all()
    told = {"outcome": "interrupted", "error_code": "interrupted"}
    connection.execute(
        update(REQUESTS)
        .where(*is_left)
        .values(status="failed", error_message=INTERRUPTED_MESSAGE, finished_at=round(now * 1000), **told)
    )
    # The end of a request is counted where it is written.
    rollups.add(connection, [facts_of({**row, **told}) for row in left])
    return len(left)


class GranterLock:
    """Held by the one process that may grant leases on a data folder; the file says which."""

    def __init__(self, data_dir: str | Path) -> None:
        self._file = Path(data_dir) / "granter.lock"
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """True while this object holds the lock."""
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free. Raises StartRefused where the file cannot be written."""
        if self._descriptor is not None:
            return True
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StartRefused(f"The lock {self._file} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return True

    def acquire(self) -> None:
        """Take the lock. Raises StartRefused, naming the process that holds it."""
        if not self.try_acquire():
            holder = self.holder_pid()
            who = f"process {holder}" if holder else "another process"
            raise StartRefused(
                f"The data folder {self._file.parent} is in use by {who}: "
                "stop that server first, or give this one another database.path."
            )

    def holder_pid(self) -> int | None:
        """The process that took the lock last, or None where the file does not say."""
        try:
            return int(self._file.read_text().strip())
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Let another process grant. Idempotent. The file stays: removing it would let two hold it."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __repr__(self) -> str:
        return f"<GranterLock {self._file} {'held' if self.is_held else 'not held'}>"


def _lock_ids(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.lock"))


@contextlib.contextmanager
def _if_dead(folder: Path, boot_id: str) -> Iterator[bool]:
    """Yield whether the boot is dead; where it is, its lock is held meanwhile and its file removed at the end."""
    file = folder / f"{boot_id}.lock"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield not file.exists()
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
        file.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _home(folder: Path) -> str:
    """The name of this data folder, made up when it is first asked for."""
    file = folder / "home"
    with contextlib.suppress(FileExistsError), file.open("x") as new:
        new.write(secrets.token_hex(16))
    return file.read_text().strip()


def _home_of(connection: Connection, boot_id: str) -> str | None:
    return connection.execute(select(BOOTS.c.home).where(BOOTS.c.id == boot_id)).scalar_one_or_none()
