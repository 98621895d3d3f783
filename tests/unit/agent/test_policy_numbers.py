"""Policy numbers, and what they stood for."""

from __future__ import annotations

from podwire.agent.policy_numbers import Meanings, Numbers


def test_a_number_that_came_back_is_the_last_to_be_given_again() -> None:
    numbers = Numbers(6)
    assert [numbers.take(), numbers.take()] == [2, 3]
    numbers.give_back(2)
    assert [numbers.take(), numbers.take(), numbers.take(), numbers.take()] == [4, 5, 2, None]


def test_what_others_have_is_not_given() -> None:
    numbers = Numbers(6, [3, 5])
    assert numbers.free == 2
    numbers.mark(4)
    assert [numbers.take(), numbers.take()] == [2, None]


def test_an_event_is_explained_by_what_its_number_stood_for_then() -> None:
    meanings = Meanings()
    meanings.add(2, ("first", "second"), 100)
    meanings.add(2, ("third",), 200)
    assert meanings.reason(2, 2, 150) == "second"
    assert meanings.reason(2, 1, 200) == "third"
    assert meanings.reason(2, 2, 250) == ""
    assert meanings.reason(2, 1, 50) == ""
    assert meanings.reason(2, 0, 150) == ""
    assert meanings.reason(9, 1, 150) == ""


def test_old_meanings_are_forgotten() -> None:
    meanings = Meanings(keep=2)
    for number in (2, 3, 2):
        meanings.add(number, (str(number),), number)
    assert meanings.reason(2, 1, 100) == "2"
    meanings.add(4, ("4",), 5)
    assert meanings.reason(3, 1, 100) == ""
    assert meanings.reason(4, 1, 100) == "4"
