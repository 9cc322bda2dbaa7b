"""The rule that turns probes into health."""

import pytest

from scheduler.adapters.prober import CONNECT_S
from scheduler.core.node import Health
from scheduler.gateway.health_rule import CONFIRM_S, SOON_S, HealthRule


def after(rule: HealthRule, probes: str) -> str:
    """The health after each probe (`+` answered, `-` did not), as `u` or `d`."""
    return "".join({Health.UP: "u", Health.DOWN: "d"}[rule.note(probe == "+")] for probe in probes)


@pytest.mark.parametrize(
    ("rise", "fall", "probes", "health"),
    [
        (2, 3, "+", "u"),  # the first probe decides
        (2, 3, "-", "d"),
        (2, 3, "+---", "uuud"),
        (2, 3, "+--+--+---", "uuuuuuuuud"),  # in a row
        (2, 3, "-++", "ddu"),
        (2, 3, "-+-+-++", "ddddddu"),
        (1, 1, "+-+-", "udud"),
        (2, 3, "+---++---", "uuudduuud"),
    ],
)
def test_rise_and_fall_count_in_a_row(rise, fall, probes, health):
    assert after(HealthRule(rise, fall), probes) == health


def test_a_forced_down_ends_with_the_first_success():
    rule = HealthRule(rise=5, fall=3)
    rule.note(True)
    rule.force_down()
    assert rule.health is Health.DOWN
    assert after(rule, "--+") == "ddu"
    assert after(rule, "--") == "uu"  # and the usual counting is back


def test_what_is_not_up_or_has_just_failed_is_probed_soon_and_a_first_success_is_confirmed_sooner():
    rule = HealthRule(rise=2, fall=2)
    assert rule.next_probe_s(30.0) == SOON_S
    rule.note(True)
    assert rule.next_probe_s(30.0) == 30.0
    rule.note(False)
    assert rule.next_probe_s(30.0) == SOON_S
    rule.note(False)
    assert rule.next_probe_s(30.0) == SOON_S
    rule.note(True)
    assert rule.next_probe_s(30.0) == CONFIRM_S
    assert rule.next_probe_s(0.5) == 0.5


def test_a_node_that_is_ready_is_up_within_five_seconds_whenever_that_is():
    rule = HealthRule(rise=2, fall=3)
    rule.note(False)
    longest_wait_s = rule.next_probe_s(30.0) * 1.1
    rule.note(True)
    assert longest_wait_s + rule.next_probe_s(30.0) * 1.1 < 5


def test_a_host_that_has_vanished_is_down_within_twenty_seconds():
    interval_s = 5.0
    rule = HealthRule(rise=2, fall=3)
    rule.note(True)
    # The worst: bytes came until it vanished, so the probe that began just then counts for nothing, and connecting to
    # it took so long that only the next interval brings another one.
    now = interval_s - CONNECT_S + interval_s * 1.1
    while True:
        if rule.note(False) is Health.DOWN:
            break
        now += max(CONNECT_S, rule.next_probe_s(interval_s) * 1.1)
    assert now + CONNECT_S < 20


def test_repr_shows_how_far_it_is():
    rule = HealthRule(rise=2, fall=3)
    rule.note(True)
    rule.note(False)
    assert repr(rule) == "<HealthRule up 1/3>"
