import pytest

from scheduler.core.priority import Priority


def test_critical_goes_before_high_before_normal_before_low() -> None:
    assert sorted(Priority, reverse=True) == [Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.CRITICAL]


@pytest.mark.parametrize("text", ["high", "HIGH", " High "])
def test_a_priority_is_read_in_any_case(text: str) -> None:
    assert Priority.parse(text, Priority.LOW) is Priority.HIGH


@pytest.mark.parametrize("text", [None, "", "  "])
def test_no_text_means_the_default(text: str | None) -> None:
    assert Priority.parse(text, Priority.LOW) is Priority.LOW


@pytest.mark.parametrize("text", ["urgent", "0", "critical!", "高"])
def test_an_unknown_text_means_normal(text: str) -> None:
    assert Priority.parse(text, Priority.CRITICAL) is Priority.NORMAL


@pytest.mark.parametrize("priority", list(Priority))
def test_the_label_can_be_read_back(priority: Priority) -> None:
    assert Priority.parse(priority.label, Priority.NORMAL) is priority
