"""The laws of the core (docs/architecture.md), each on thousands of random histories in virtual time."""

import pytest
from tests.core.histories import History, check_history, histories
from hypothesis import HealthCheck, Phase, given, settings

from scheduler.core.dispatcher import Dispatcher

IN_SHORT = settings(
    max_examples=2_000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)


@given(history=histories())
@IN_SHORT
def test_the_dispatcher_obeys_the_laws_in_every_history(history: History) -> None:
    check_history(Dispatcher, history)
