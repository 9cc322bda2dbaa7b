"""The laws of the core, on thousands of random histories in virtual time, against the oracle."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from scheduler.core import lazy_heap
from scheduler.core.dispatcher import Dispatcher
from tests.core.histories import History, Step, check_history, histories

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@pytest.fixture(autouse=True, scope="module")
def _heaps_compacted_early() -> Iterator[None]:
    """Compact heaps after two dead entries: with the real figure, no history would be long enough to see one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_heap, "MIN_DEAD", 2)
        yield


@given(history=histories())
@settings(max_examples=1_500, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE)
def test_the_laws_hold_in_every_history(history: History) -> None:
    check_history(Dispatcher, history)


@given(history=histories(min_steps=120))
@settings(max_examples=100, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE)
def test_the_laws_hold_in_long_histories(history: History) -> None:
    check_history(Dispatcher, history)


@pytest.mark.soak
@given(history=histories(min_steps=40))
@settings(max_examples=75_000, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE)
def test_the_laws_hold_in_very_many_histories(history: History) -> None:
    check_history(Dispatcher, history)


def test_a_failing_history_tells_what_had_happened() -> None:
    class Silent(Dispatcher):
        def tick(self) -> None:
            raise RuntimeError("the dog ate the tick")

    with pytest.raises(AssertionError, match="the dog ate the tick") as failure:
        check_history(Silent, History(4, 0, (Step("submit"), Step("pass_time", b=1))))
    (transcript,) = failure.value.__notes__
    assert "submit t0 llama normal until 200" in transcript
