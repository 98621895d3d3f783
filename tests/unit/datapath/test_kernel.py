"""What follows from a kernel's version and features."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podwire.datapath.errors import DatapathError, UnsupportedKernel
from podwire.datapath.kernel import (
    Features,
    decide_attach,
    decide_host_routing,
    parse_release,
    probe_features,
    require_floor,
)

ALL = Features(
    "6.8.0-31-generic", tcx=True, redirect_peer=True, redirect_neigh=True, ring_buffer=True, btf=True
)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-56-cloud-amd64", (6, 1)),
        ("5.4.0-200-generic", (5, 4)),
        ("6.18.44-fc-v595", (6, 18)),
        ("5.10", (5, 10)),
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15)),
    ],
)
def test_releases_are_read(release, version):
    assert parse_release(release) == version


def test_a_release_that_is_none_is_named():
    with pytest.raises(DatapathError, match="'linux'"):
        parse_release("linux")


@pytest.mark.parametrize("release", ["5.10.0-35-amd64", "5.15.0-1", "6.0.1", "10.0"])
def test_the_floor_and_everything_above_it_will_do(release):
    require_floor(release)


@pytest.mark.parametrize("release", ["5.4.0-200-generic", "4.19.0-27-amd64", "5.9.16"])
def test_an_older_kernel_is_refused_with_its_version_and_the_way_out(release):
    with pytest.raises(UnsupportedKernel) as caught:
        probe_features(release)
    message = str(caught.value)
    assert release in message
    assert "5.10 or newer" in message
    assert "linux-generic-hwe-20.04" in message
    assert "pod_nodes" in caught.value.hint


def test_ebpf_host_routing_needs_both_helpers():
    assert decide_host_routing("ebpf", ALL) == ("ebpf", "")
    mode, reason = decide_host_routing("ebpf", replace(ALL, redirect_peer=False))
    assert (mode, reason) == ("legacy", "kernel 6.8.0-31-generic lacks bpf_redirect_peer")
    mode, reason = decide_host_routing("ebpf", replace(ALL, redirect_peer=False, redirect_neigh=False))
    assert reason.endswith("lacks bpf_redirect_peer and bpf_redirect_neigh")


def test_legacy_is_never_a_fallback_when_it_was_asked_for():
    assert decide_host_routing("legacy", replace(ALL, redirect_peer=False)) == ("legacy", "")


def test_tcx_is_used_where_it_exists_unless_told_otherwise():
    without = replace(ALL, tcx=False)
    assert decide_attach("auto", ALL) == "tcx"
    assert decide_attach("auto", without) == "clsact"
    assert decide_attach("clsact", ALL) == "clsact"
    with pytest.raises(DatapathError, match="has no tcx"):
        decide_attach("tcx", without)
