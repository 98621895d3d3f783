"""What the connectivity check tries, and how it judges the answers."""

import subprocess

import pytest

from lab.checks import LARGE_FILE, Flow, Matrix, Service, command, flows, judge, manifest, script, with_server
from lab.config import Lab, node_names
from lab.errors import LabError

SERVICE = Service("probe.ns.svc.cluster.local", "10.152.183.9", {"tcp": 30080, "udp": 30081})


def wanted(count=3):
    lab = Lab("a", 1, node_names(count))
    pods = {
        node: {f"probe-a-{node}": f"10.1.{n}.2", f"probe-b-{node}": f"10.1.{n}.3"}
        for n, node in enumerate(lab.nodes)
    }
    return lab, flows(lab, pods, SERVICE)


def has(found, **wanted_fields):
    return [f for f in found if all(getattr(f, key) == value for key, value in wanted_fields.items())]


def test_every_direction_is_tried_from_every_node():
    lab, found = wanted()
    for node in lab.nodes:
        pod = f"pod on {node}"
        columns = {flow.column for flow in found if flow.source == pod}
        both = {"pod, same node", "pod, other node", "service", "node port"}
        assert columns == both | {"own node", "other node", "world"}
        assert {flow.column for flow in found if flow.source == node} == both
        assert {flow.protocol for flow in has(found, source=pod, column="pod, other node")} == {
            "tcp",
            "udp",
            "icmp",
        }


def test_the_world_must_see_the_node_and_pods_must_see_each_other():
    _, found = wanted()
    for flow in has(found, column="world", protocol="tcp"):
        assert (
            flow.expected
            == {"cp1": "172.30.1.11", "worker1": "172.30.1.21", "worker2": "172.30.1.22"}[flow.node]
        )
    for flow in has(found, source="pod on worker1", column="pod, other node", protocol="udp"):
        assert flow.expected == "10.1.1.2"


def test_single_node_lab_has_nothing_to_try_across_nodes():
    _, found = wanted(1)
    assert {flow.column for flow in found} == {
        "pod, same node",
        "own node",
        "world",
        "service",
        "node port",
    }


def test_services_are_tried_by_address_name_and_node_port():
    lab, found = wanted()
    assert {flow.protocol for flow in has(found, source="pod on cp1", column="service")} == {
        "tcp",
        "udp",
        "name",
    }
    by_name = next(flow for flow in found if flow.protocol == "name")
    assert f"http://{SERVICE.name}:8080/" in command(by_name)
    for source in ("the world", "cp1", "pod on worker1"):
        tried = {(flow.address, flow.port) for flow in has(found, source=source, column="node port")}
        assert tried == {(lab.address(node), port) for node in lab.nodes for port in (30080, 30081)}
    assert ":30080/" in command(has(found, source="the world", protocol="tcp")[0])
    assert " 30081" in command(has(found, source="the world", protocol="udp")[0])


FLOW = Flow("pod on cp1", "cp1", "probe", "world", "the world", "172.30.1.2", "tcp", "172.30.1.11")


@pytest.mark.parametrize(
    ("protocol", "expected", "answer", "problem"),
    [
        pytest.param("tcp", "172.30.1.11", "172.30.1.11", "", id="right address"),
        pytest.param("tcp", "172.30.1.11", "10.1.0.5", "saw 10.1.0.5", id="not masqueraded"),
        pytest.param("udp", "", "", "no answer", id="silence"),
        pytest.param("udp", "", "10.1.2.3", "", id="any address will do"),
        pytest.param("bulk", "", str(LARGE_FILE), "", id="whole file"),
        pytest.param("bulk", "", "1448", "1448 of", id="stuck after the first segment"),
        pytest.param("ssh", "", "SSH-", "", id="ssh greeting"),
        pytest.param("ssh", "", "HTTP", "instead of", id="another server"),
        pytest.param("icmp", "", "answered", "", id="echo"),
    ],
)
def test_judgement(protocol, expected, answer, problem):
    flow = Flow("s", "n", "p", "c", "target", "192.0.2.1", protocol, expected)
    found = judge(flow, answer)
    assert (problem in found) if problem else (found == "")


def test_script_reports_each_flow_by_number_even_when_it_fails(tmp_path):
    # A shell really runs it: with commands that answer for the network.
    for name, text in {
        "curl": 'echo "curl $*" >>calls; echo 192.0.2.1',
        "nc": "exit 1",
        "ping": "exit 0",
        "timeout": 'shift; exec "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    group = [Flow("s", "n", "p", "c", "t", "192.0.2.9", protocol) for protocol in ("tcp", "udp", "icmp")]
    result = subprocess.run(
        ["/bin/sh", "-c", script(group)],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(result.stdout.split()) == ["0=192.0.2.1", "1=", "2=answered"]
    assert "http://192.0.2.9:8080/cgi-bin/address" in (tmp_path / "calls").read_text()


def test_every_command_ends_by_itself():
    for protocol in ("tcp", "bulk", "udp", "icmp", "ssh"):
        text = command(Flow("s", "n", "p", "c", "t", "192.0.2.9", protocol))
        assert "timeout " in text or " -m " in text or " -W " in text


def test_matrix_shows_and_raises_what_failed():
    lab, found = wanted()
    matrix = Matrix(flows=found)
    matrix.raise_if_broken(lab)
    broken = has(found, source="pod on cp1", column="world", protocol="udp")[0]
    matrix.problems[broken] = "no answer"
    good, bad = matrix.cell("pod on cp1", "world")
    assert bad == ["udp"] and "tcp" in good
    with pytest.raises(LabError, match=r"pod on cp1 -> the world \(udp\): no answer") as caught:
        matrix.raise_if_broken(lab)
    assert "make ssh LAB=a NODE=cp1" in caught.value.hint
    assert caught.value.log == lab.state / "logs" / "checks.log"


def test_one_protocol_that_fails_to_one_of_two_nodes_counts_as_failed():
    _, found = wanted()
    matrix = Matrix(flows=found)
    matrix.problems[has(found, source="cp1", column="pod, other node", protocol="icmp")[0]] = "no answer"
    assert matrix.cell("cp1", "pod, other node") == (["tcp", "udp"], ["icmp"])


def test_kubeconfig_gets_the_nodes_address_and_keeps_its_port():
    text = "clusters:\n- cluster:\n    server: https://127.0.0.1:16443\n"
    assert "server: https://172.30.1.11:16443\n" in with_server(text, "172.30.1.11")


def test_probes_run_on_every_node_and_end_at_once():
    sets = [item for item in manifest("x") if item["kind"] == "DaemonSet"]
    assert len(sets) == 2
    for item in sets:
        spec = item["spec"]["template"]["spec"]
        assert spec["tolerations"] == [{"operator": "Exists"}]
        assert spec["terminationGracePeriodSeconds"] == 1
