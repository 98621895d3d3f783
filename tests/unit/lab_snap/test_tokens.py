from __future__ import annotations

import time

import pytest
from mk8s import files, tokens
from mk8s.layout import Layout

TOKEN = "0123456789abcdef0123456789abcdef"


def test_a_token_without_expiry_is_good_once() -> None:
    text = tokens.add("", TOKEN, None)
    good, rest = tokens.consume(text, TOKEN, now=0)
    assert (good, rest) == (True, "")
    assert tokens.consume(rest, TOKEN, now=0) == (False, "")


def test_a_token_with_expiry_is_good_until_then_for_everybody() -> None:
    text = tokens.add("", TOKEN, 100)
    assert tokens.consume(text, TOKEN, now=99) == (True, text)
    assert tokens.consume(text, TOKEN, now=101) == (False, "")


def test_another_token_uses_nothing_up() -> None:
    text = tokens.add("", TOKEN, None)
    assert tokens.consume(text, "f" * 32, now=0) == (False, text)
    assert tokens.consume(text, "", now=0) == (False, text)


def test_a_short_token_is_refused() -> None:
    with pytest.raises(tokens.TokenError, match="at least 32 characters"):
        tokens.add("", "short", None)


def test_redeem_uses_the_stored_token_up(layout: Layout) -> None:
    tokens.store(layout, TOKEN, -1)
    assert tokens.redeem(layout, TOKEN)
    assert not tokens.redeem(layout, TOKEN)


def test_a_token_with_a_lifetime_joins_many_and_dies(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens.store(layout, TOKEN, 60)
    assert tokens.redeem(layout, TOKEN)
    assert tokens.redeem(layout, TOKEN)
    late = time.time() + 61
    monkeypatch.setattr(tokens.time, "time", lambda: late)
    assert not tokens.redeem(layout, TOKEN)


def test_a_persistent_token_never_expires(layout: Layout) -> None:
    files.write(layout.credential("persistent-cluster-tokens.txt"), TOKEN + "\n")
    assert tokens.redeem(layout, TOKEN)
    assert tokens.redeem(layout, TOKEN)
