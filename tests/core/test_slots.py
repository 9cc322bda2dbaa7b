import pytest

from scheduler.core.slots import Slots


def taken(limit: int, held: int) -> Slots:
    slots = Slots(limit)
    assert all(slots.take() for _ in range(held))
    return slots


def test_places_are_taken_up_to_the_limit_and_never_beyond() -> None:
    slots = taken(2, 2)
    assert not slots.take()
    assert slots.held == 2


def test_a_place_given_back_can_be_taken_again() -> None:
    slots = taken(1, 1)
    slots.give_back()
    assert slots.take()


def test_more_than_was_taken_cannot_be_given_back() -> None:
    slots = Slots(2)
    with pytest.raises(ValueError):
        slots.give_back()
    assert slots.held == 0


def test_a_higher_limit_gives_room_at_once() -> None:
    slots = taken(1, 1)
    slots.resize(3)
    assert [slots.take() for _ in range(3)] == [True, True, False]


def test_a_lower_limit_lets_what_is_held_run_on_as_debt() -> None:
    slots = taken(4, 4)
    slots.resize(2)
    assert (slots.held, slots.debt) == (4, 2)
    for _ in range(2):
        slots.give_back()
        assert not slots.take()
    slots.give_back()
    assert slots.take()
    assert not slots.take()


def test_debt_is_forgiven_by_a_higher_limit() -> None:
    slots = taken(4, 4)
    slots.resize(1)
    slots.resize(5)
    assert slots.debt == 0
    assert [slots.take(), slots.take()] == [True, False]


def test_inherited_places_count_against_the_limit() -> None:
    slots = Slots(2)
    slots.resize(2, inherited=3)
    assert (slots.held, slots.debt) == (3, 1)
    slots.give_back()
    assert not slots.take()
    slots.give_back()
    assert slots.take()


def test_everything_can_be_given_back_after_any_resizing() -> None:
    slots = taken(3, 3)
    for limit in (1, 5, 2, 8, 1):
        slots.resize(limit)
    for _ in range(3):
        slots.give_back()
    assert (slots.held, slots.debt) == (0, 0)
    assert [slots.take(), slots.take()] == [True, False]


def test_repr_shows_how_many_of_how_many() -> None:
    assert repr(taken(4, 3)) == "<Slots 3/4>"
