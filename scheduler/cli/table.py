"""Tables for terminals, aligned also where names are Chinese."""

import unicodedata
from collections.abc import Sequence

_WIDE = ("W", "F")


def text_width(text: str) -> int:
    """How many cells of a terminal the text takes."""
    return sum(_char_width(char) for char in text)


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits with an ellipsis into `width` cells."""
    if text_width(text) <= width:
        return text
    kept, used = "", 1
    for char in text:
        used += _char_width(char)
        if used > width:
            break
        kept += char
    return kept + "…"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], max_width: int = 48) -> str:
    """Lines with two spaces between the columns; numbers to the right; no cell wider than `max_width` cells."""
    texts = [[cut(_printable(cell), max_width) for cell in row] for row in rows]
    is_number = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    widths = [max(text_width(line[i]) for line in [header, *texts]) for i in range(len(header))]
    lines = []
    for line in [header, *texts]:
        cells = []
        for text, width, right in zip(line, widths, is_number, strict=True):
            gap = " " * (width - text_width(text))
            cells.append(gap + text if right else text + gap)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _printable(cell: object) -> str:
    if cell is None or cell == "":
        return "-"
    # What somebody has written into a remark must not steer the terminal.
    return "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in str(cell))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in _WIDE else 1
