"""RosterSnapshot: the nodes in a file beside the database, from which a new one gets them if the old one is damaged."""

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from scheduler.gateway.ports import StoredNode

log = logging.getLogger(__name__)

FORMAT = 1


class RosterSnapshot:
    """The nodes as JSON, deleted ones included. It holds the nodes' keys, so only its owner may read it.

    Both methods block: call them in a thread.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, nodes: Sequence[StoredNode]) -> None:
        """Replace the file in one step. Where that fails it is logged: the database has the nodes."""
        words = json.dumps({"format": FORMAT, "nodes": [dataclasses.asdict(node) for node in nodes]}, indent=1)
        new = self.file.with_suffix(".new")
        try:
            # Of another mode where it was left behind by somebody else.
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(words + "\n")
                file.flush()
                os.fsync(descriptor)
            new.replace(self.file)
        except OSError as error:
            log.warning("The snapshot of the nodes %s is not written: %s.", self.file, error.strerror)

    def read(self) -> list[StoredNode]:
        """The nodes; none where there is no file. Raises ValueError, saying why, where the file is no snapshot."""
        try:
            found = json.loads(self.file.read_text())
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']}")
            return [StoredNode(**node) for node in found["nodes"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ValueError(error.strerror) from None
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no snapshot of nodes: {error}") from None
