"""Background loops: they do not die unnoticed, and the lag of the event loop is known."""

import time

import gevent
import pytest
from gevent.event import Event

from scheduler.gateway import loop as loop_module
from scheduler.gateway.hub_lag import HubLag
from scheduler.gateway.loop import Loop


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "PAUSE_S", 0.0)


def test_a_step_that_fails_is_reported_and_tried_again() -> None:
    errors: list[BaseException] = []
    tried_again = Event()

    def step() -> None:
        if not errors:
            raise ValueError("once")
        tried_again.set()
        gevent.sleep(0)

    loop = Loop(step, errors.append)
    loop.start()
    assert tried_again.wait(5)
    loop.stop()
    assert [str(error) for error in errors] == ["once"]


def test_a_loop_whose_greenlet_was_killed_is_started_again() -> None:
    errors: list[BaseException] = []
    steps: list[gevent.Greenlet] = []
    second = Event()

    def step() -> None:
        if gevent.getcurrent() not in steps:
            steps.append(gevent.getcurrent())
        if len(steps) == 2:
            second.set()
        gevent.sleep(0)

    loop = Loop(step, errors.append)
    loop.start()
    gevent.sleep(0)
    steps[0].kill()
    assert second.wait(5)
    loop.stop()
    assert "has ended" in str(errors[0])


def test_a_loop_that_was_stopped_stays_so() -> None:
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        gevent.sleep(0)

    loop = Loop(step, lambda error: pytest.fail(str(error)))
    loop.start()
    gevent.sleep(0)
    loop.stop()
    done = len(steps)
    for _ in range(5):
        gevent.sleep(0)
    assert len(steps) == done > 0


def test_a_greenlet_that_hogs_the_event_loop_shows_as_lag_for_a_minute() -> None:
    skipped_s = [0.0]
    lag = HubLag(lambda: time.monotonic() + skipped_s[0], lambda error: pytest.fail(str(error)))
    lag.start()
    gevent.sleep(0)
    hog_until = time.monotonic() + 0.5
    while time.monotonic() < hog_until:
        pass  # without a switch point, as a slow query in the hub would be
    while lag.last_ms < 300:
        gevent.sleep(0)
    assert lag.is_worrying
    assert lag.max_ms >= 300
    lag.stop()
    skipped_s[0] = 61
    assert not lag.is_worrying
