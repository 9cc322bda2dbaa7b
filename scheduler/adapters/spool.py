"""Spool: a file in which rows wait while the database takes none, on disk that was set aside before it was needed."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Row = tuple[Any, ...]

RESERVED_BYTES = 64 * 1024**2  # about 100,000 records
MAX_BYTES = 1024**3
SHARE_OF_FREE = 10  # at most a tenth of what is free is set aside
CHUNK_BYTES = 1024**2
SUFFIX = ".jsonl"

_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Spool:
    """JSON lines, the first of which names the columns, in a file of one process; zeros follow the last line.

    The process holds a lock on the file, which the kernel frees when it ends: `dead_spools` finds what it left behind.
    Everything here blocks: call it in a thread, and never in two at once. Raises OSError, except where it says not to.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file = file
        self.count = 0  # rows in it that were not yet removed
        self.problem: str | None = None  # why there is no room set aside
        self._columns = tuple(columns)
        self._descriptor: int | None = None
        self._end = 0  # where the next line begins
        self._dirty_end = 0  # zeros only from here on

    def reserve(self) -> None:
        """Make the file and set room aside, so that a full disk does not matter. Where that fails: `problem`."""
        try:
            self._open()
            free = shutil.disk_usage(self.file.parent).free
            size = min(RESERVED_BYTES, free // SHARE_OF_FREE)
            assert self._descriptor is not None
            if size > os.fstat(self._descriptor).st_size:
                os.posix_fallocate(self._descriptor, 0, size)
            self.problem = None if size else "the disk is full"
        except OSError as error:
            self.problem = error.strerror or type(error).__name__

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; they are on the disk when this returns. Where it raises none of them is in the file."""
        descriptor = self._open()
        lines = b"".join(b"%s\n" % _to_json(row).encode() for row in rows)
        if not self._end:
            lines = b"%s\n" % _to_json({"columns": self._columns}).encode() + lines
        if self._end + len(lines) > MAX_BYTES:
            raise OSError(f"it has reached {MAX_BYTES} bytes")
        begin = self._end
        self._dirty_end = max(self._dirty_end, begin + len(lines))
        try:
            _write_at(descriptor, lines, begin)
            os.fdatasync(descriptor)
        except OSError:
            # Half a batch would be read as rows that somebody else still has.
            with contextlib.suppress(OSError):
                self._zero(begin)
            raise
        self._end = begin + len(lines)
        self.count += len(rows)

    def read(self, offset: int, columns: Sequence[str]) -> tuple[list[Row], int]:
        """The rows from `offset` on, about a megabyte of them, in the order of `columns`, and where the next begin.

        A column that the file does not know is None. Nothing more comes when no row does.
        """
        descriptor = self._open()
        rows: list[Row] = []
        piece = b""
        while offset < self._end and not rows:
            # A line is far below a chunk; where one is longer, the piece grows until it has its end.
            piece = os.pread(descriptor, min(len(piece) + CHUNK_BYTES, self._end - offset), offset)
            whole, newline, _ = piece.rpartition(b"\n")
            if not newline:
                continue
            for line in whole.split(b"\n"):
                found = json.loads(line)
                if isinstance(found, dict):
                    self._columns = tuple(found.get("columns", ()))
                    continue
                values = dict(zip(self._columns, found, strict=False))
                rows.append(tuple(values.get(name) for name in columns))
            offset += len(whole) + 1
            piece = b""
        return rows, offset

    def clear_if_read(self, offset: int) -> bool:
        """Empty the file where everything in it was read; its room stays set aside. False where rows have come."""
        if offset < self._end:
            return False
        # Backwards: whenever that is cut short, a beginning is left, which may be read again.
        self._zero(0)
        self._end = self.count = 0
        return True

    def forget(self) -> None:
        """Everything in it was written elsewhere: nothing of it is needed after `close`."""
        self._end = self.count = 0

    def close(self) -> None:
        """Give the file up: an empty one is removed, another waits for the next start. Idempotent, never raises."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            if not self.count:
                self.file.unlink(missing_ok=True)
            os.close(self._descriptor)
        self._descriptor = None

    def recover(self) -> int:
        """Find what a process that has ended left in the file; how many bytes of it cannot be read.

        Those can only be the lines that it was just writing when the power went.
        """
        descriptor = self._open()
        size = os.fstat(descriptor).st_size
        self._end = self.count = 0
        self._dirty_end = size
        rest = b""
        at = 0
        while at < size and b"\0" not in rest:
            piece = os.pread(descriptor, CHUNK_BYTES, at)
            at += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not _is_line(line):
                    return len(line)
                self._end += len(line) + 1
                self.count += line.startswith(b"[")
        return len(rest.partition(b"\0")[0])

    def __repr__(self) -> str:
        return f"<Spool {self.file} rows={self.count} bytes={self._end} {self.problem or 'ok'}>"

    def _open(self) -> int:
        if self._descriptor is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # Locked under another name first: what others can see and lock would be taken for a dead one.
            new = self.file.with_suffix(".new")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(new, flags | os.O_EXCL, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(new, self.file)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def _zero(self, begin: int) -> None:
        descriptor = self._open()
        if self._dirty_end > RESERVED_BYTES:
            os.ftruncate(descriptor, max(begin, RESERVED_BYTES))
            self._dirty_end = max(begin, RESERVED_BYTES)
        while self._dirty_end > begin:
            at = max(begin, self._dirty_end - CHUNK_BYTES)
            _write_at(descriptor, bytes(self._dirty_end - at), at)
            # Each piece before the next: the disk must not turn the order round.
            os.fdatasync(descriptor)
            self._dirty_end = at


@contextlib.contextmanager
def dead_spools(folder: Path, columns: Sequence[str]) -> Iterator[list[Spool]]:
    """The spools that ended processes left, oldest first, locked meanwhile; those that are empty then are removed."""
    with contextlib.ExitStack() as stack:
        yield [spool for file in sorted(folder.glob(f"*{SUFFIX}")) for spool in _adopt(stack, file, columns)]


def _adopt(stack: contextlib.ExitStack, file: Path, columns: Sequence[str]) -> Iterable[Spool]:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return
    spool = Spool(file, columns)
    spool._descriptor = descriptor
    stack.callback(spool.close)
    if unreadable := spool.recover():
        log.error("The spool %s ends in %d bytes that cannot be read: records are lost.", file, unreadable)
    yield spool


def _is_line(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), list | dict)
    except ValueError:
        return False


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
