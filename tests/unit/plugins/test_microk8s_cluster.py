"""Readiness, pods, the default network's objects, tokens: what is decided from what the API and the
commands say.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import textwrap
import time

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import microk8s_cluster as cluster
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_default_objects import (
    LABEL,
    avoiding,
    reference,
    selector,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import (
    Kubectl,
    clean_environment,
    decode_stream,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_pods import (
    Pods,
    due,
    on_old_network,
    ready_by_owner,
    reborn,
    waiting_reason,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import (
    judge,
    lacks_only_network,
    parse_time,
    release_of,
)

TOKEN = "8f1f0d2e6f3a4b5c8d9e0f1a2b3c4d5e"
URL = f"10.0.0.11:25000/{TOKEN}/0a1b2c3d4e5f"
NO_CNI = (
    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network "
    "plugin "
    "returns error: cni plugin not initialized"
)


def node(ready="True", message="", version="v1.28.15", said=None):
    return {
        "metadata": {"name": "n1"},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "message": message, "lastHeartbeatTime": said}],
            "nodeInfo": {"kubeletVersion": version},
        },
    }


def lease(at):
    return {"spec": {"renewTime": at}}


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (judge(None, None, "n1"), "not registered"),
        (judge(node("False", "kubelet stopped"), None, "n1"), "kubelet stopped"),
        (judge({"status": {}}, None, "n1"), "no condition yet"),
        (judge(node(), None, "n1", since=100.0), "not spoken"),
        (judge(node(), lease("1970-01-01T00:01:39.9Z"), "n1", since=100.0), "not spoken"),
        (judge(node(said="1970-01-01T00:01:40Z"), None, "n1", since=100.5), "not spoken"),
        (judge(node(version="v1.27.1"), None, "n1", version="v1.28.15"), "still at 1.27.1"),
        (judge(node("False", NO_CNI), None, "n1"), "cni plugin"),
        (judge(node("False", f"[{NO_CNI}, PLEG is not healthy]"), None, "n1", network=False), "PLEG"),
        (
            judge(node("Unknown", "Kubelet stopped posting node status."), None, "n1", network=False),
            "stopped posting",
        ),
    ],
)
def test_a_node_that_is_not_ready_says_why(look, reason):
    assert not look.ready
    assert reason in look.reason.replace("has not registered", "not registered")


@pytest.mark.parametrize(
    "look",
    [
        judge(node(), None, "n1"),
        judge(node(), lease("1970-01-01T00:01:40.5Z"), "n1", since=100.0),
        judge(node(said="1970-01-01T00:01:41Z"), None, "n1", since=100.5),
        judge(node(version="v1.28.15+abc"), None, "n1", version="v1.28.15"),
        judge(node(version="v1.20.2"), None, "n1", version="lab"),
        judge(node("False", NO_CNI), None, "n1", network=False),
    ],
)
def test_a_node_that_is_ready(look):
    assert look.ready, look.reason


def test_only_a_missing_network_may_be_missing():
    assert lacks_only_network({"message": NO_CNI})
    assert not lacks_only_network({"message": f"[{NO_CNI}, container runtime is down]"})
    assert not lacks_only_network({"message": ""})


@pytest.mark.parametrize(
    ("text", "release"), [("v1.28.15", "1.28.15"), ("1.28.15-2", "1.28.15"), ("", None), ("v1.28", None)]
)
def test_release_of(text, release):
    assert release_of(text) == release


def test_kubernetes_times():
    assert parse_time("1970-01-01T00:00:10Z") == 10
    assert parse_time("1970-01-01T00:00:10.500000Z") == 10.5
    assert parse_time("") is None and parse_time("soon") is None


def pod(started="1970-01-01T00:01:40Z", phase="Running", ready="True", owner=None, **spec):
    return {
        "metadata": {
            "name": "p",
            "namespace": "d",
            "uid": "u",
            "resourceVersion": "1",
            **({"ownerReferences": [{**owner, "controller": True}]} if owner else {}),
        },
        "spec": {"nodeName": "n1", **spec},
        "status": {"phase": phase, "startTime": started, "conditions": [{"type": "Ready", "status": ready}]},
    }


def test_pods_from_before_the_switch_are_old():
    assert on_old_network(pod(), 200.0)
    assert on_old_network(pod(), 100.0)
    assert on_old_network(pod(), 99.5), (
        "whole seconds: it may have started at 100.9 by another clock's rounding"
    )
    assert not on_old_network(pod(), 98.0)
    going = pod()
    going["metadata"]["deletionTimestamp"] = "1970-01-01T00:01:50Z"
    assert not on_old_network(going, 200.0)


def test_pods_without_a_network_of_their_own_stay():
    assert not on_old_network(pod(hostNetwork=True), 200.0)
    assert not on_old_network(pod(phase="Succeeded"), 200.0)
    mirror = pod()
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    assert not on_old_network(mirror, 200.0)
    pending = pod()
    del pending["status"]["startTime"]
    assert not on_old_network(pending, 200.0)


def test_a_bare_pod_is_made_again_on_its_node():
    again = reborn(pod())
    assert again["metadata"] == {"name": "p", "namespace": "d"}
    assert again["spec"]["nodeName"] == "n1"
    assert "status" not in again


def test_owners_are_counted_by_their_ready_pods():
    replica = {"kind": "ReplicaSet", "name": "web"}
    pods = [pod(owner=replica), pod(owner=replica), pod(owner=replica, ready="False"), pod()]
    gone = pod(owner=replica)
    gone["metadata"]["deletionTimestamp"] = "now"
    job = pod(owner={"kind": "Job", "name": "once"})
    assert ready_by_owner([*pods, gone, job]) == {"ReplicaSet d/web": 2, "Pod d/p": 1}


def test_what_a_pod_waits_for():
    waiting = pod()
    waiting["status"]["containerStatuses"] = [
        {"state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}
    ]
    assert waiting_reason(waiting) == "d/p: ErrImagePull no"
    assert waiting_reason(pod(phase="Pending")) == "d/p: Pending"


def test_a_daemon_is_told_to_avoid_the_nodes_once():
    after = avoiding(None)
    terms = after["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [{"key": LABEL, "operator": "NotIn", "values": ["podwire"]}]}]
    assert avoiding(after) == after


def test_an_affinity_that_was_there_stays_in_every_alternative():
    own = {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}
    other = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}
    before = {
        "podAffinity": {"x": 1},
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [own, other]}
        },
    }
    kept = copy.deepcopy(before)
    after = avoiding(before)
    assert before == kept
    terms = after["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [len(term["matchExpressions"]) for term in terms] == [2, 1]
    assert terms[1]["matchFields"] == other["matchFields"]
    assert after["podAffinity"] == {"x": 1}


def test_objects_are_named_as_kubectl_does():
    item = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "calico-node", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": {"b": "2", "a": "1"}}},
    }
    assert reference(item) == ("DaemonSet.apps", "kube-system", "calico-node")
    assert reference({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}) == (
        "ConfigMap",
        "",
        "c",
    )
    assert selector(item) == "a=1,b=2"


def test_kubectl_prints_documents_one_after_another():
    text = '{"kind": "A"}\n{"kind": "List", "items": [{"kind": "B"}, {"kind": "C"}]}\n'
    assert [item["kind"] for item in decode_stream(text)] == ["A", "B", "C"]
    assert decode_stream(" \n") == []


def test_commands_run_without_what_would_mislead_them():
    dirty = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/x",
        "https_proxy": "p",
        "HTTP_PROXY": "p",
        "PYTHONPATH": "/y",
    }
    assert clean_environment(dirty) == {"PATH": "/bin"}


URLS = ["fd00::1:25000/" + URL.split("/", 1)[1], URL, URL.replace("10.0.0.11", "192.168.7.2")]


def test_the_url_of_the_wanted_address():
    assert cluster.pick_url(URLS, "192.168.7.2").startswith("192.168.7.2:")
    assert cluster.pick_url(URLS, None) == URL
    assert cluster.pick_url(URLS, None, "192.168.7.2").startswith("192.168.7.2:")
    assert cluster.pick_url(URLS, None, "cp1.example") == URL
    with pytest.raises(PodwireError, match=r"no address 10\.9\.9\.9; it has 10\.0\.0\.11, 192\.168\.7\.2"):
        cluster.pick_url(URLS, "10.9.9.9")
    with pytest.raises(PodwireError, match="no IPv4 address"):
        cluster.pick_url(URLS[:1], None)


@pytest.mark.parametrize(
    "wrong", ["", "cp1:25000/" + TOKEN, "10.0.0.1:25000/short", f"[::1]:25000/{TOKEN}", TOKEN]
)
def test_a_url_that_join_would_choke_on_is_refused(wrong):
    with pytest.raises(PodwireError, match="not of the form") as caught:
        cluster.check_url(wrong)
    assert TOKEN not in str(caught.value)


def command(layout, script):
    layout.command.parent.mkdir(parents=True, exist_ok=True)
    layout.command.write_text(f"#!/bin/sh\n{script}\n")
    layout.command.chmod(0o755)


@pytest.mark.parametrize(
    ("code", "way_out"), [(1, "literal IPv4"), (4, "new token"), (5, "25000"), (6, "remove-node")]
)
def test_exit_codes_of_join_become_a_way_out_and_tokens_stay_secret(tmp_path, code, way_out):
    layout = Layout(tmp_path)
    command(layout, f'echo "joining with $2 failed" >&2; exit {code}')
    with pytest.raises(PodwireError, match=f"exit status {code}") as caught:
        cluster.join(layout, URL, worker=True, timeout=10)
    assert way_out in caught.value.hint
    assert TOKEN not in str(caught.value.result())


def test_a_join_that_hangs_is_ended_and_tells_no_token(tmp_path):
    layout = Layout(tmp_path)
    command(layout, 'echo "contacting $2"; exec sleep 60')
    with pytest.raises(PodwireError, match="did not end") as caught:
        cluster.join(layout, URL, worker=True, timeout=1)
    assert "contacting" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_add_node_prints_text_around_its_json(tmp_path):
    layout = Layout(tmp_path)
    command(layout, f'echo "a notice"; echo \'{{"token": "x", "urls": ["{URL}"]}}\'')
    assert cluster.add_node(layout, ttl=60, timeout=10) == [URL]
    command(layout, "echo 'This MicroK8s deployment is acting as a node in a cluster.'")
    with pytest.raises(PodwireError, match="made no token"):
        cluster.add_node(layout, ttl=None, timeout=10)


def test_only_a_voter_cannot_leave(tmp_path):
    layout = Layout(tmp_path)
    command(layout, "exit 3")
    with pytest.raises(PodwireError) as caught:
        cluster.leave(layout, timeout=10)
    assert "only voter" in caught.value.hint


def test_no_microk8s_command(tmp_path):
    with pytest.raises(PodwireError, match="does not exist"):
        cluster.leave(Layout(tmp_path), timeout=1)


def test_what_the_files_say_of_a_node(tmp_path):
    layout = Layout(tmp_path)
    assert not layout.installed
    layout.args.mkdir(parents=True)
    layout.locks.mkdir(parents=True)
    assert layout.installed and layout.role == "control_plane" and not layout.clustered
    assert layout.node_name == os.uname().nodename.lower()
    (layout.args / "kubelet").write_text("--hostname-override=Other\n")
    assert layout.node_name == "Other"
    backend = layout.data / "var/kubernetes/backend"
    backend.mkdir(parents=True)
    (backend / "cluster.yaml").write_text("- Address: 10.0.0.1:19001\n  ID: 1\n  Role: 0\n")
    assert not layout.clustered
    (backend / "cluster.yaml").write_text(
        "- Address: 10.0.0.1:19001\n  ID: 1\n- Address: 10.0.0.2:19001\n  ID: 2\n"
    )
    assert layout.clustered and layout.kubeconfig.name == "client.config"
    layout.lock("clustered.lock").touch()
    assert layout.role == "worker" and layout.kubeconfig.name == "kubelet.config"


def bare(name, **metadata):
    found = pod()
    found["metadata"].update(name=name, **metadata)
    return found


def kubectl_of(tmp_path, pods):
    """kubectl as a script over a file of pods, as far as the module asks for it."""
    layout = Layout(tmp_path)
    layout.snap.mkdir(parents=True, exist_ok=True)
    layout.locks.mkdir(parents=True, exist_ok=True)
    state = tmp_path / "pods.json"
    state.write_text(json.dumps(pods))
    program = layout.snap / "kubectl"
    program.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import json, sys
            from pathlib import Path
            state = Path({str(state)!r})
            pods, words = json.loads(state.read_text()), sys.argv[2:]
            if words[0] == "delete":
                pods = [pod for pod in pods if pod["metadata"]["name"] not in words]
            elif words[0] == "create":
                if Path({str(tmp_path / "refuse")!r}).exists():
                    sys.exit("the API is away")
                ready = {{"type": "Ready", "status": "True"}}
                status = {{"phase": "Running", "startTime": "2030-01-01T00:00:00Z", "conditions": [ready]}}
                pods.append({{**json.load(sys.stdin), "status": status}})
            elif words[1] == "pod":
                found = [pod for pod in pods if pod["metadata"]["name"] == words[2]]
                print(json.dumps(found[0]) if found else "")
            else:
                print(json.dumps({{"items": pods}}))
            state.write_text(json.dumps(pods))
            """
        )
    )
    program.chmod(0o755)
    return Kubectl(layout), state


def names_in(state):
    return [item["metadata"]["name"] for item in json.loads(state.read_text())]


def test_bare_pods_come_back_and_the_second_time_nothing_happens(tmp_path):
    kubectl, state = kubectl_of(tmp_path, [bare("one"), bare("two")])
    deadline = time.monotonic() + 20
    assert Pods(kubectl, "n1", deadline=deadline, dry=True).recreate(200.0) == ["d/one", "d/two"]
    assert Pods(kubectl, "n1", deadline=deadline, dry=False).recreate(200.0) == ["d/one", "d/two"]
    assert sorted(names_in(state)) == ["one", "two"]
    assert Pods(kubectl, "n1", deadline=deadline, dry=False).recreate(200.0) == []


def test_a_bare_pod_survives_a_run_that_breaks_off_after_its_deletion(tmp_path):
    kubectl, state = kubectl_of(tmp_path, [bare("one")])
    (tmp_path / "refuse").touch()
    deadline = time.monotonic() + 20
    with pytest.raises(PodwireError, match="the API is away"):
        Pods(kubectl, "n1", deadline=deadline, dry=False).recreate(200.0)
    assert names_in(state) == []
    kept = kubectl.layout.lock("podwire-bare-pods-n1.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    (tmp_path / "refuse").unlink()
    assert Pods(kubectl, "n1", deadline=deadline, dry=False).recreate(200.0) == ["d/one"]
    assert names_in(state) == ["one"]
    assert not kept.exists()


@pytest.mark.parametrize(
    ("owner", "left"),
    [
        pytest.param({"metadata": {}, "spec": {"replicas": 3}}, 2, id="as before"),
        pytest.param({"metadata": {}, "spec": {}}, 2, id="a DaemonSet counts nodes"),
        pytest.param({"metadata": {}, "spec": {"replicas": 1}}, 1, id="scaled down meanwhile"),
        pytest.param({"metadata": {}, "spec": {"replicas": 0}}, 0, id="replaced by another one"),
        pytest.param({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, 0, id="being deleted"),
        pytest.param(None, 0, id="deleted"),
    ],
)
def test_pods_are_not_waited_for_when_nobody_wants_them_any_more(owner, left):
    assert due(owner, 2) == left
