"""Calls for one container take turns, calls for different ones do not wait."""

from __future__ import annotations

import threading

from podwire.agent.locks import KeyedLocks


def test_same_key_waits_and_another_does_not() -> None:
    locks = KeyedLocks()
    entered = threading.Event()

    def second() -> None:
        with locks.hold("a"):
            entered.set()

    thread = threading.Thread(target=second)
    with locks.hold("a"):
        thread.start()
        with locks.hold("b"):
            assert not entered.wait(0.05)
    thread.join(5)
    assert entered.is_set()


def test_nothing_is_kept_when_nobody_holds_it() -> None:
    locks = KeyedLocks()
    with locks.hold("a"), locks.hold("b"):
        assert len(locks._locks) == 2
    assert locks._locks == {}
