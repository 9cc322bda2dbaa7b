"""Reading the model from bodies that are hard to read: nobody else may be held up by them."""

from __future__ import annotations

import time

import pytest

from scheduler.errors import BadCall
from scheduler.gateway.call import MAX_PERHAPS_HALF, read_model

HEAD = b'{"model":"m","prompt":"'
HALF = rb"\ud83d"
MB = 1_000_000


@pytest.mark.parametrize("text", [b"a", rb"\u4e2d", HALF], ids=["letters", "escapes", "halves of pairs"])
def test_a_large_body_that_is_cut_off_is_refused_at_once(text: bytes) -> None:
    body = HEAD + text * (50 * MB // len(text))
    began = time.thread_time()

    with pytest.raises(BadCall) as refusal:
        read_model("application/json", body)

    assert refusal.value.code == "invalid_json"
    assert time.thread_time() - began < 1.0  # 2 s and more, where each byte is searched for halves of pairs


def test_halves_of_pairs_are_read_unless_there_are_too_many_to_search() -> None:
    most = HEAD + HALF * MAX_PERHAPS_HALF + b'"}'
    assert read_model("application/json", most) == ("m", False)

    with pytest.raises(BadCall):
        read_model("application/json", HEAD + HALF + most[len(HEAD) :])


def test_whole_pairs_are_read_however_many() -> None:
    pairs = rb"\ud83d\ude00" * MAX_PERHAPS_HALF
    assert read_model("application/json", HEAD + pairs + b'"}') == ("m", False)
