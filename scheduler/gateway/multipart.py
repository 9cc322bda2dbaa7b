"""Reading single fields of a multipart form without copying it."""

from __future__ import annotations

import re
from collections.abc import Collection

from scheduler.errors import BadCall

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
# The parameters before the name are stepped over one by one: a filename may say `; name=` too. Nothing is tried twice
# (possessive), so that a hostile head costs no more than its length.
_NAME = re.compile(
    rb"\r\ncontent-disposition:[^;\r\n]*+"
    rb'(?:;[ \t]*+(?!name=)[^;="\r\n]++=(?:"(?:\\.|[^"\\\r\n])*+"|[^;"\r\n]*+)[ \t]*+)*+'
    rb';[ \t]*+name="?([^";\r\n]*+)',
    re.IGNORECASE,
)
# What stands behind a boundary that is one; without it, it is content that begins alike.
_BOUNDARY_END = re.compile(rb"--|[ \t]*\r\n")

#: Fields that are read are names and switches.
MAX_VALUE_BYTES = 1024
MAX_PARTS = 1000
MAX_ALIKE = 1000


def form_fields(content_type: str, body: bytes, wanted: Collection[str]) -> dict[str, str]:
    """The wanted text fields of a multipart/form-data body, the last of a name winning. Raises BadCall."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise BadCall("The multipart body has no boundary in its Content-Type.", "malformed_body")
    delimiter = b"--" + (match[1] or match[2]).encode("latin-1")
    found: dict[str, str] = {}
    start = body.find(delimiter)
    for _ in range(MAX_PARTS):
        if start < 0 or body.startswith(b"--", start + len(delimiter)):
            break
        end = _next_boundary(body, b"\r\n" + delimiter, start + len(delimiter))
        if end < 0:
            raise BadCall("The multipart body ends in the middle of a part.", "malformed_body")
        head_end = body.find(b"\r\n\r\n", start, end)
        if head_end >= 0:
            name = _NAME.search(body, start, head_end)
            key = name[1].decode("utf-8", "replace") if name else ""
            if key in wanted and end - head_end - 4 <= MAX_VALUE_BYTES:
                found[key] = body[head_end + 4 : end].decode("utf-8", "replace")
        start = end + 2
    if start < 0:
        raise BadCall("The multipart body has no part.", "malformed_body")
    return found


def _next_boundary(body: bytes, delimiter: bytes, start: int) -> int:
    """Where the part that begins before `start` ends; -1 where it does not. Raises BadCall."""
    for _ in range(MAX_ALIKE):
        start = body.find(delimiter, start)
        if start < 0 or _BOUNDARY_END.match(body, start + len(delimiter)):
            return start
        start += len(delimiter)
    raise BadCall("The multipart body has content that looks like its boundary.", "malformed_body")
