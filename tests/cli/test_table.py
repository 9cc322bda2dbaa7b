"""Tables, also with Chinese names."""

import pytest

from scheduler.cli.table import cut, table, text_width


@pytest.mark.parametrize(
    ("text", "width"), [("gpu", 3), ("机房", 4), ("ＡＢ", 4), ("ｶﾅ", 2), ("e\u0301", 1), ("", 0), ("한국", 4)]
)
def test_width_counts_cells(text, width):
    assert text_width(text) == width


def test_columns_line_up_by_cells():
    lines = table(("ID", "REMARK", "N"), [("gpu-1", "机房 A", 5), ("节点二", "b", 123)]).splitlines()
    assert lines == [
        "ID      REMARK    N",
        "gpu-1   机房 A    5",
        "节点二  b       123",
    ]
    starts = {text_width(line[: line.index(cell)]) for line, cell in zip(lines, ("REMARK", "机房", "b"), strict=True)}
    assert starts == {8}


def test_long_texts_are_cut_by_cells():
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 5) == "abcd…"
    assert cut("机房机房", 6) == "机房…"
    assert text_width(cut("机房机房", 6)) <= 6


def test_what_would_steer_the_terminal_is_blanked_and_nothing_is_a_dash():
    assert table(("A", "B"), [("a\x1b[31m\nb", None)]).splitlines()[1] == "a [31m b  -"
