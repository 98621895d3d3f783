"""What install, the kicker and the preparations of kubelite leave on a node."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from mk8s import api, argsfile, certs, cgroups, containers, files, host, kicker, kubelite, network, nodefiles
from mk8s.layout import Layout


def test_no_default_argument_gives_nodes_their_podcidr(layout: Layout) -> None:
    nodefiles.install_arguments(layout)
    arguments = files.read(layout.args("kube-controller-manager"))
    assert argsfile.get(arguments, "--allocate-node-cidrs") is None
    assert argsfile.get(arguments, "--cluster-cidr") == "10.1.0.0/16"
    assert argsfile.get(files.read(layout.args("kube-proxy")), "--cluster-cidr") == "10.1.0.0/16"


def test_no_default_value_holds_a_space() -> None:
    # kubelite splits on spaces whatever the quotes.
    directory = Path(__file__).parents[3] / "lab/snap/tree/default-args"
    for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"):
        for line in (directory / component).read_text().splitlines():
            assert line.startswith("#") or " " not in line.strip(), f"{component}: {line}"


def test_plugin_links_are_made_again_and_other_names_survive(layout: Layout, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "opt/cni/bin").mkdir(parents=True)
    (code / "opt/cni/bin/bridge").touch()
    of_code = Layout(snap=code, data=layout.data, common=layout.common)
    layout.cni_bin_dir.mkdir(parents=True)
    (layout.cni_bin_dir / "podwire-cni").write_text("ours")
    (layout.cni_bin_dir / "bridge").write_text("replaced by somebody")
    network.link_plugins(of_code, Path("/snap/microk8s/current"))
    assert str((layout.cni_bin_dir / "bridge").readlink()) == "/snap/microk8s/current/opt/cni/bin/bridge"
    assert (layout.cni_bin_dir / "podwire-cni").read_text() == "ours"
    assert sorted(path.name for path in layout.cni_bin_dir.iterdir()) == ["bridge", "podwire-cni"]


@pytest.mark.parametrize(
    ("manifest", "ha", "loaded", "expected"),
    [
        pytest.param(True, True, False, True, id="fresh node"),
        pytest.param(False, True, False, False, id="manifest renamed"),
        pytest.param(True, True, True, False, id="applied before"),
        pytest.param(True, False, False, False, id="not in HA mode"),
    ],
)
def test_when_the_default_network_is_applied(
    layout: Layout, manifest: bool, ha: bool, loaded: bool, expected: bool
) -> None:
    if manifest:
        network.install_manifest(layout)
    layout.set_lock("ha-cluster", ha)
    layout.set_lock("cni-loaded", loaded)
    assert network.wanted(layout) is expected


def test_a_hook_named_before_90_runs_before_the_default_network(layout: Layout) -> None:
    hooks = [layout.common / name for name in ("95-late", "50-claim")]
    assert [step.name if step else "network" for step in kicker.steps(hooks)] == [
        "50-claim",
        "network",
        "95-late",
    ]


def test_a_reconcile_hook_can_claim_the_network(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    nodefiles.create_directories(layout)
    nodefiles.become_control_plane(layout)
    network.install_manifest(layout)
    hook = layout.common / "hooks/reconcile.d/50-claim"
    hook.write_text(f"#!/bin/sh\ntouch {layout.lock('cni-loaded')}\n")
    applied: list[str] = []
    monkeypatch.setattr(api, "is_up", lambda _layout: True)
    monkeypatch.setattr(network, "apply", lambda _layout: applied.append("applied"))
    kicker.reconcile(layout)
    assert applied == ["applied"], "a hook that is not executable does not run"
    layout.set_lock("cni-loaded", False)
    applied.clear()
    hook.chmod(0o755)
    kicker.reconcile(layout)
    assert applied == []


def test_a_failing_hook_does_not_stop_the_others(layout: Layout, capfd: pytest.CaptureFixture[str]) -> None:
    nodefiles.create_directories(layout)
    for name, body in {"10-fails": "exit 3", "20-works": "echo worked"}.items():
        hook = layout.common / "hooks/reconcile.d" / name
        hook.write_text(f"#!/bin/sh\n{body}\n")
        hook.chmod(0o755)
    kicker.reconcile(layout)
    shown = capfd.readouterr()
    assert "hook 10-fails ended with 3" in shown.err
    assert "worked" in shown.out


def test_a_new_address_outdates_the_certificate_unless_a_lock_says_no(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodefiles.create_directories(layout)
    nodefiles.install_arguments(layout)
    layout.cert("").mkdir()
    found = ["10.0.0.11"]
    monkeypatch.setattr(host, "addresses", lambda: list(found))
    monkeypatch.setattr(host, "default_address", lambda: "10.0.0.11")
    certs.remember_names(layout, found)
    assert not kicker.certificates_outdated(layout)
    found.append("10.1.7.1")
    assert kicker.certificates_outdated(layout)
    layout.set_lock("no-cert-reissue")
    assert not kicker.certificates_outdated(layout)
    layout.set_lock("no-cert-reissue", False)
    argsfile.update(layout.args("kube-apiserver"), {"--advertise-address": "10.0.0.11"})
    assert not kicker.certificates_outdated(layout)


def test_addresses_of_network_devices_do_not_count() -> None:
    links = [
        {"ifname": "lo", "addr_info": [{"local": "127.0.0.1"}]},
        {"ifname": "eth0", "addr_info": [{"local": "10.0.0.11"}, {"local": "169.254.7.7"}]},
        {"ifname": "vxlan.calico", "addr_info": [{"local": "10.1.139.1"}]},
        {"ifname": "other", "addr_info": [{"local": "10.9.9.9"}]},
    ]
    assert host.usable_addresses(links) == ["10.0.0.11", "10.9.9.9"]


def test_obsolete_arguments_go_unless_a_lock_keeps_them(layout: Layout) -> None:
    nodefiles.install_arguments(layout)
    before = files.read(layout.args("kubelet"))
    files.write(layout.args("kubelet"), before + "--network-plugin=cni\n")
    layout.set_lock("no-arg-sanitisation")
    kubelite.sanitise(layout)
    assert "--network-plugin" in files.read(layout.args("kubelet"))
    layout.set_lock("no-arg-sanitisation", False)
    kubelite.sanitise(layout)
    assert files.read(layout.args("kubelet")) == before


def test_sideloaded_images_of_the_operator_are_queued(layout: Layout, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "images").mkdir(parents=True)
    (code / "images/pause.tar").write_text("bundled")
    (layout.common / "sideload").mkdir(parents=True)
    (layout.common / "sideload/mine.tar").write_text("mine")
    nodefiles.create_directories(layout)
    nodefiles.sideload_bundled_images(Layout(snap=code, data=layout.data, common=layout.common))
    queued = sorted(path.name for path in (layout.common / "etc/sideload").iterdir())
    assert queued == ["mine.tar", "pause.tar"]


def test_pods_that_hold_the_old_data_directory() -> None:
    def pod(path: str, owners: list[dict[str, str]]) -> dict[str, object]:
        return {"metadata": {"ownerReferences": owners}, "spec": {"volumes": [{"hostPath": {"path": path}}]}}

    current = "/var/snap/microk8s/current"
    owner = [{"kind": "DaemonSet"}]
    assert kicker.holds_directory(pod(f"{current}/args/cni-network", owner), current)
    assert not kicker.holds_directory(pod(f"{current}-other", owner), current)
    assert not kicker.holds_directory(pod(f"{current}/args", []), current), "nobody would bring it back"
    assert not kicker.holds_directory({"metadata": {"ownerReferences": owner}, "spec": {}}, current)


def test_credentials_are_not_for_everybody(layout: Layout) -> None:
    path = layout.credential("client.config")
    files.write(path, "secret")
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_everything_below_the_shims_is_found() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}
    assert containers.descendants(parents, {10}) == {11, 12}


def test_cgroup_hierarchies_by_kind() -> None:
    mounts = [
        "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0",
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0",
        "proc /proc proc rw 0 0",
    ]
    assert cgroups.hierarchies(mounts, "cgroup") == [Path("/sys/fs/cgroup/cpu")]
    assert len(cgroups.hierarchies(mounts, "cgroup", "cgroup2")) == 2


def test_the_node_is_reached_in_its_default_state_by_loopback_only(layout: Layout) -> None:
    nodefiles.install_arguments(layout)
    for component in ("k8s-dqlite", "apiserver-proxy"):
        assert "0.0.0.0" not in files.read(layout.args(component))


def test_scripts_of_the_snap_are_executable() -> None:
    tree = Path(__file__).parents[3] / "lab/snap/tree"
    scripts = [*(tree / "bin").iterdir(), *(tree / "meta/hooks").iterdir()]
    assert scripts
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
