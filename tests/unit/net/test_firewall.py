"""The nftables table that counts."""

from __future__ import annotations

import subprocess

import pytest

from podwire.net import firewall


def test_ruleset_is_valid_and_counts_both_directions() -> None:
    text = firewall.ruleset(["10.1.0.0/16", "10.2.0.0/16"])
    assert text.count("counter name forward_pods") == 2
    done = subprocess.run(  # noqa: PLW1510 - asserted below
        ["unshare", "-n", "nft", "-c", "-f", "-"], input=text, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_without_ranges_the_table_is_valid_too() -> None:
    text = firewall.ruleset([])
    done = subprocess.run(  # noqa: PLW1510 - asserted below
        ["unshare", "-n", "nft", "-c", "-f", "-"], input=text, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_missing_nft_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(firewall.FirewallError, match="install the package nftables"):
        firewall.install(["10.1.0.0/16"])
