"""Taking the default network off a host: real links, routes and chains in a namespace of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SETUP = """
set -e
ip link set lo up
ip link add eth7 type veth peer name eth8
ip addr add 192.0.2.1/24 dev eth7
ip link set eth7 up
ip link set eth8 up
ip link add vxlan.calico type bridge && ip link set vxlan.calico up
ip link add mybridge type bridge
ip link add cali123 type veth peer name inside
ip route add blackhole 10.1.3.0/26 proto 80
ip route add 10.1.5.0/26 via 192.0.2.9 proto 80
ip route add 10.1.4.0/24 via 192.0.2.9 proto 112
ip route add 10.9.0.0/24 via 192.0.2.9 proto 80
for t in iptables-legacy iptables-nft; do
  $t -N KUBE-FORWARD; $t -A FORWARD -j KUBE-FORWARD
  $t -N cali-FORWARD; $t -A cali-FORWARD -j RETURN
  $t -A FORWARD -m comment --comment cali:abc -j cali-FORWARD
  $t -t nat -N CNI-0f3a
  $t -t nat -A CNI-0f3a -m comment --comment 'name: "k8s-pod-network" id: "12"' -j ACCEPT
  $t -t nat -A POSTROUTING -s 10.1.0.5 -m comment --comment 'name: "k8s-pod-network" id: "12"' -j CNI-0f3a
  $t -t nat -N CNI-beef
  $t -t nat -A POSTROUTING -s 10.1.0.6 -m comment --comment 'name: "podwire" id: "13"' -j CNI-beef
done
ip6tables-nft -N cali-INPUT; ip6tables-nft -A INPUT -j cali-INPUT
"""
CLEAN = """
import json, sys
from pathlib import Path
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_traces import DefaultNetwork, Host
host = Host([Path(folder) for folder in sys.argv[3].split(":")], Path(sys.argv[1]))
network = DefaultNetwork(("k8s-pod-network",), ("mybridge",))
found = host.clean(network, "10.1.0.0/16", dry=sys.argv[2] == "dry", kubernetes="kube" in sys.argv)
print(json.dumps({**found.as_dict(), **({"warnings": found.warnings} if found.warnings else {})}))
"""
CONTAINER = "0123456789abcdef" * 4
FILES = sorted(
    [
        "lib/cni/networks/k8s-pod-network/10.1.0.5",
        "lib/cni/networks/podwire/file",
        f"lib/cni/results/k8s-pod-network-{CONTAINER}-eth0",
        f"lib/cni/results/k8s-pod-network-2-{CONTAINER}-eth0",
        f"lib/cni/results/podwire-{CONTAINER}-eth0",
        f"lib/cni/results/cni-loopback-{CONTAINER}-lo",
        "log/pods/default_web_1/web/0.log",
        "log/syslog",
    ]
)
FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"


@pytest.fixture
def namespace():
    assert os.geteuid() == 0, "this test makes a network namespace: run it as root"
    name = f"mktr-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def host(namespace, tmp_path):
    run(namespace, "sh", "-c", SETUP)
    for file in FILES:
        (tmp_path / "var" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "var" / file).touch()
    return namespace


def files(tmp_path):
    return sorted(
        str(path.relative_to(tmp_path / "var")) for path in (tmp_path / "var").rglob("*") if path.is_file()
    )


def run(namespace, *command):
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def clean(namespace, tmp_path, *words, folders=FOLDERS):
    environment = f"PYTHONPATH={ROOT / 'collections'}"
    arguments = [str(tmp_path / "var"), words[0] if words else "wet", folders, *words[1:]]
    return json.loads(run(namespace, "env", environment, sys.executable, "-c", CLEAN, *arguments))


def rules(namespace):
    tools = ("iptables-legacy-save", "iptables-nft-save", "ip6tables-nft-save")
    lines = "\n".join(run(namespace, tool) for tool in tools).splitlines()
    # Comments hold the time, policies their counters.
    return "\n".join(line.split(" [")[0] for line in lines if not line.startswith("#"))


def test_it_goes_and_the_rest_stays(host, tmp_path):
    found = clean(host, tmp_path)
    assert sorted(found["links"]) == ["cali123", "mybridge", "vxlan.calico"]
    assert sorted(found["routes"]) == ["10.1.5.0/26 proto 80", "blackhole 10.1.3.0/26 proto 80"]
    assert found["ipam"] == [str(tmp_path / "var/lib/cni/networks/k8s-pod-network")]
    assert found["results"] == [str(tmp_path / f"var/lib/cni/results/k8s-pod-network-{CONTAINER}-eth0")]
    assert set(FILES) - set(files(tmp_path)) == {
        "lib/cni/networks/k8s-pod-network/10.1.0.5",
        f"lib/cni/results/k8s-pod-network-{CONTAINER}-eth0",
    }
    after = rules(host)
    assert "cali" not in after and "k8s-pod-network" not in after and "CNI-0f3a" not in after
    assert after.count("-A FORWARD -j KUBE-FORWARD") == 2
    assert after.count("-j CNI-beef") == 2
    links = run(host, "ip", "-br", "link")
    assert "eth7" in links and "calico" not in links and "cali123" not in links
    routes = run(host, "ip", "route")
    assert "10.1.4.0/24" in routes and "10.9.0.0/24" in routes and "10.1.5.0" not in routes
    assert clean(host, tmp_path) == {}, "the second time there is nothing left to find"


def test_looking_changes_nothing(host, tmp_path):
    before = rules(host), run(host, "ip", "route"), run(host, "ip", "-br", "link"), files(tmp_path)
    found = clean(host, tmp_path, "dry")
    assert (rules(host), run(host, "ip", "route"), run(host, "ip", "-br", "link"), files(tmp_path)) == before
    assert found == clean(host, tmp_path)


def test_removing_kubernetes_takes_its_chains_and_logs_too(host, tmp_path):
    clean(host, tmp_path, "wet", "kube")
    assert "KUBE" not in rules(host)
    assert files(tmp_path) == [
        "lib/cni/networks/podwire/file",
        f"lib/cni/results/k8s-pod-network-2-{CONTAINER}-eth0",
        f"lib/cni/results/podwire-{CONTAINER}-eth0",
        "log/syslog",
    ]


@pytest.fixture
def tools(tmp_path):
    """A folder with the tools of a host that lacks ipset."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for path in {found for place in FOLDERS.split(":") for found in Path(place).glob("*")}:
        if path.name == "ip" or path.name.startswith(("iptables-", "ip6tables-")):
            with contextlib.suppress(FileExistsError):
                (folder / path.name).symlink_to(path)
    return folder


def test_ip_sets_that_cannot_be_looked_for_are_a_warning(host, tmp_path, tools):
    for mode in ("dry", "wet"):
        (warning,) = clean(host, tmp_path, mode, folders=str(tools))["warnings"]
        assert "ipset is missing" in warning and "apt-get install ipset" in warning
    assert clean(host, tmp_path, folders=str(tools)) == {}, "nothing of Calico is left to warn about"


def test_a_host_without_calico_needs_no_ipset(namespace, tmp_path, tools):
    run(namespace, "sh", "-c", "ip link add cni0 type bridge")
    assert clean(namespace, tmp_path, folders=str(tools)) == {"links": ["cni0"]}


def test_ip_sets_of_calico_go(host, tmp_path):
    assert shutil.which("ipset"), "this test needs ipset: apt-get install ipset"
    run(host, "ipset", "create", "cali40all-ipam-pools", "hash:net")
    run(host, "ipset", "create", "mine", "hash:net")
    assert clean(host, tmp_path)["ipsets"] == ["cali40all-ipam-pools"]
    assert run(host, "ipset", "list", "-n").split() == ["mine"]
