"""Claiming, taking over and giving back, on a directory tree laid out as MicroK8s does."""

from __future__ import annotations

import json

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_takeover import Takeover

CONFLIST = '{"cniVersion": "1.0.0", "name": "podwire", "plugins": [{"type": "podwire-cni"}]}'
DEFAULT = '{"name": "k8s-pod-network", "plugins": [{"type": "bridge", "bridge": "cni0"}]}'


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path)
    for folder in (layout.cni_conf, layout.cni_bin, layout.locks, tmp_path / "etc/sysctl.d"):
        folder.mkdir(parents=True)
    for family in ("ipv4", "ipv6"):
        path = tmp_path / f"proc/sys/net/{family}/conf/all"
        path.mkdir(parents=True)
        (path / "forwarding").write_text("0\n")
    (layout.cni_conf / "cni.yaml").write_text("kind: DaemonSet\n")
    (layout.cni_conf / "10-calico.conflist").write_text(DEFAULT)
    (layout.cni_conf / "calico-kubeconfig").write_text("secret")
    return layout


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "podwire-cni"
    path.write_bytes(b"ELF")
    path.chmod(0o755)
    return path


def tree(layout):
    """Every file of the node with its content."""
    return {
        str(path.relative_to(layout.root)): path.read_text()
        for path in layout.root.rglob("*")
        if path.is_file()
    }


def remember(layout, network):
    """What libcni writes for each ADD."""
    path = layout.root / "var/lib/cni/results" / f"{network}-{'0123456789abcdef' * 4}-eth0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def take(layout, plugin, dry=False):
    takeover = Takeover(layout, dry=dry)
    takeover.claim()
    takeover.install(CONFLIST, plugin)
    return takeover


def give_back(layout, alone=True):
    takeover = Takeover(layout, dry=False)
    takeover.restore_manifest()
    (layout.cni_conf / "10-calico.conflist").write_text(DEFAULT)
    takeover.wait_default(0)
    takeover.release(alone=alone)
    return takeover


def test_claiming_keeps_the_running_network(layout):
    takeover = Takeover(layout, dry=False)
    takeover.claim()
    assert takeover.conf_files() == ["10-calico.conflist"]
    assert not (layout.cni_conf / "cni.yaml").exists()
    assert layout.lock("cni-loaded").exists() and layout.lock("no-cert-reissue").exists()
    assert (layout.root / "proc/sys/net/ipv4/conf/all/forwarding").read_text() == "1"
    again = Takeover(layout, dry=False)
    again.claim()
    assert again.steps == []


def test_taking_over_leaves_one_configuration_and_never_none(layout, plugin):
    takeover = take(layout, plugin)
    assert takeover.conf_files() == ["05-podwire.conflist"]
    assert (layout.cni_conf / "05-podwire.conflist").read_text() == CONFLIST
    assert (layout.cni_bin / "podwire-cni").stat().st_mode & 0o777 == 0o755
    assert not (layout.cni_conf / "calico-kubeconfig").exists()
    assert takeover.steps.index("write 05-podwire.conflist") < takeover.steps.index(
        "remove 10-calico.conflist"
    )
    assert takeover.record.network.names == ("k8s-pod-network",)
    assert takeover.record.network.bridges == ("cni0",)
    assert not [name for name in tree(layout) if name.endswith(".new")]


def test_taking_over_twice_changes_nothing(layout, plugin):
    since = take(layout, plugin).record.since
    before = tree(layout)
    again = take(layout, plugin)
    assert again.steps == []
    assert again.record.since == since
    assert tree(layout) == before


def test_a_new_configuration_or_plugin_is_installed_without_moving_pods_again(layout, plugin):
    since = take(layout, plugin).record.since
    plugin.write_bytes(b"ELF2")
    takeover = Takeover(layout, dry=False)
    takeover.install(CONFLIST + "\n", plugin)
    assert takeover.steps == ["install podwire-cni", "write 05-podwire.conflist"]
    assert takeover.record.since == since


def test_check_mode_writes_nothing_and_says_the_same(layout, plugin):
    before = tree(layout)
    dry = take(layout, plugin, dry=True)
    assert tree(layout) == before
    assert dry.steps == take(layout, plugin).steps


def test_giving_back_restores_the_node_as_it_was(layout, plugin):
    layout.lock("cni-loaded").touch()
    before = tree(layout)
    take(layout, plugin)
    takeover = give_back(layout)
    assert takeover.record.owner == "default" and takeover.record.since
    takeover.forget()
    after = tree(layout)
    # What a running kernel was told stays, and so does what the default network writes itself.
    for ignored in ("var/snap/microk8s/current/args/cni-network/calico-kubeconfig",):
        before.pop(ignored)
    for family in ("ipv4", "ipv6"):
        before.pop(f"proc/sys/net/{family}/conf/all/forwarding")
        after.pop(f"proc/sys/net/{family}/conf/all/forwarding")
    assert after == before


def test_giving_back_twice_changes_nothing(layout, plugin):
    take(layout, plugin)
    give_back(layout).forget()
    again = Takeover(layout, dry=False)
    again.restore_manifest()
    again.release(alone=True)
    again.forget()
    assert again.steps == []


def test_an_interrupted_give_back_still_knows_when_pods_changed_networks(layout, plugin):
    take(layout, plugin)
    since = give_back(layout).record.since
    assert Takeover(layout, dry=False).record.since == since


def test_certificates_stay_protected_in_a_cluster(layout, plugin):
    take(layout, plugin)
    give_back(layout, alone=False)
    assert layout.lock("no-cert-reissue").exists()


def test_a_lock_that_was_there_before_stays(layout, plugin):
    layout.lock("no-cert-reissue").touch()
    take(layout, plugin)
    give_back(layout)
    assert layout.lock("no-cert-reissue").exists()


def test_a_configuration_is_not_taken_away_before_the_other_is_there(layout, plugin):
    take(layout, plugin)
    takeover = Takeover(layout, dry=False)
    takeover.restore_manifest()
    with pytest.raises(PodwireError, match="written no configuration"):
        takeover.wait_default(0)
    assert takeover.conf_files() == ["05-podwire.conflist"]


@pytest.mark.parametrize("foreign", ["05-cilium.conflist", "00-multus.conf"])
def test_a_third_network_is_refused(layout, plugin, foreign):
    (layout.cni_conf / foreign).write_text("{}")
    takeover = Takeover(layout, dry=False)
    with pytest.raises(PodwireError, match=foreign):
        takeover.install(CONFLIST, plugin)
    assert foreign in takeover.conf_files() and "10-calico.conflist" in takeover.conf_files()


def test_a_manifest_that_came_back_is_put_aside_again(layout, plugin):
    take(layout, plugin)
    (layout.cni_conf / "cni.yaml").write_text("newer")
    takeover = Takeover(layout, dry=False)
    takeover.claim()
    assert takeover.steps == ["put cni.yaml aside"]
    assert (layout.cni_conf / "cni.yaml.podwire").read_text() == "newer"


def test_a_missing_plugin_is_named(layout, tmp_path):
    with pytest.raises(PodwireError, match="does not exist"):
        take(layout, tmp_path / "nowhere")
    assert "10-calico.conflist" in Takeover(layout, dry=False).conf_files()


def test_a_damaged_record_is_named(layout):
    layout.lock("podwire-network.json").write_text("{")
    with pytest.raises(PodwireError, match=r"podwire-network\.json"):
        Takeover(layout, dry=True)


def test_the_record_says_what_was_made(layout, plugin):
    layout.lock("cni-loaded").touch()
    take(layout, plugin)
    record = json.loads(layout.lock("podwire-network.json").read_text())
    assert record["created_locks"] == ["no-cert-reissue"]
    assert record["owner"] == "podwire"


def test_a_claim_alone_is_given_back_too(layout):
    before = tree(layout)
    Takeover(layout, dry=False).claim()
    layout.lock("clustered.lock").touch()
    again = Takeover(layout, dry=False)
    again.restore_manifest()
    again.release(alone=True)
    again.forget()
    layout.lock("clustered.lock").unlink()
    after = tree(layout)
    for family in ("ipv4", "ipv6"):
        assert after.pop(f"proc/sys/net/{family}/conf/all/forwarding") == "1"
        before.pop(f"proc/sys/net/{family}/conf/all/forwarding")
    assert after == before


def test_forgetting_removes_what_libcni_remembers_of_podwire_alone(layout, plugin):
    take(layout, plugin)
    ours, others = remember(layout, "podwire"), remember(layout, "k8s-pod-network")
    give_back(layout)
    looking = Takeover(layout, dry=True)
    looking.forget()
    assert "remove the results of CNI calls" in looking.steps and ours.exists()
    Takeover(layout, dry=False).forget()
    assert not ours.exists() and others.exists()
    again = Takeover(layout, dry=False)
    again.forget()
    assert again.steps == []
