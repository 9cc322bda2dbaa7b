"""Durations and sizes: what is read, what is refused, and that both can be written back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.settings.duration import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("500ms", 0.5),
        ("7d", 604800.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("1m500ms", 60.5),
        ("0", 0.0),
        ("0s", 0.0),
        ("45", 45.0),
        ("0.25", 0.25),
        (0, 0.0),
        (45, 45.0),
        (2.5, 2.5),
    ],
)
def test_a_duration_is_read_as_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5 minutes",
        "-5s",
        -5,
        "30m1h",
        "1m1m",
        "m",
        "1h 30m",
        "1e3s",
        "٣s",
        True,
        None,
        [],
        float("nan"),
        float("inf"),
    ],
)
def test_what_is_no_duration_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match="500ms, 30s, 5m, 1h30m or 7d"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=366 * 86400 * 1000))
def test_every_duration_in_milliseconds_is_read_back_as_it_was_written(milliseconds):
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (30, "30s"), (120, "2m"), (5400, "1h30m"), (604800, "7d"), (0.5, "500ms"), (0.0001, "0.0001s")],
)
def test_a_duration_is_written_short(seconds, text):
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100MB", 100 * 1000**2),
        ("100MiB", 100 * 1024**2),
        ("2GB", 2 * 1000**3),
        ("2gb", 2 * 1000**3),
        ("64 KiB", 65536),
        ("1.5KB", 1500),
        ("65536", 65536),
        (65536, 65536),
        (0, 0),
    ],
)
def test_a_size_is_read_as_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "100M", "MB", "-1MB", -1, "0.3B", "1e6", True, None, 1.5])
def test_what_is_no_size_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match=r"100MB .* 100MiB"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_every_size_is_read_back_as_it_was_written(size):
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("size", "text"), [(0, "0"), (10**8, "100MB"), (100 * 1024**2, "100MiB"), (1536, "1536")])
def test_a_size_is_written_short(size, text):
    assert format_size(size) == text
