import json

import pytest

from scheduler.adapters.stored_text import stored_json, stored_name, stored_text


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (None, None),
        ("plain", "plain"),
        ("中文 ok", "中文 ok"),
        ("a\0b", "a\ufffdb"),
        ("中\0文", "中\ufffd文"),
        (404, "404"),
        ("x" * 1_000_000, "x" * 20),
        ("文" * 1_000_000, "文" * 20),
    ],
)
def test_text_fits_every_database(given, stored):
    assert stored_text(given, 20) == stored


@pytest.mark.parametrize("given", ["\ud800", "a\udfffb", "\ud83d\ud83d", "\ud800" * 50])
def test_lone_surrogates_become_something_that_can_be_encoded(given):
    stored = stored_text(given, 20)
    assert stored.encode()
    assert 0 < len(stored) <= 20


def test_a_column_that_is_never_null_gets_empty_text():
    assert stored_name(None, 5) == ""


def test_json_is_plain_ascii_and_comes_back_as_it_was():
    value = {"remark": "中文 \0 \ud800", "models": ["a"]}
    stored = stored_json(value)
    assert stored.isascii()
    assert "\0" not in stored
    assert json.loads(stored) == value
    assert stored_json(None) is None


def test_json_that_is_too_long_is_replaced_by_a_note():
    assert json.loads(stored_json({"models": ["x" * 100]}, limit=50)) == {"omitted": "115 characters"}
