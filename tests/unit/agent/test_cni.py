"""The CNI specification, version by version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.agent import cni
from podwire.agent.cni import CniError, Code

ENV = {"CNI_CONTAINERID": "abc123", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}


def body(env: dict[str, str] | None = None, **config: Any) -> dict[str, Any]:
    return {"env": {**ENV, **(env or {})}, "config": {"cniVersion": "1.0.0", "name": "podwire", **config}}


def result(version: str) -> dict[str, Any]:
    return cni.add_result(
        cni.parse_request("add", body(cniVersion=version)),
        address="10.1.0.5", pod_mac="02:00:00:00:00:01", host_ifname="lxcabc", host_mac="02:00:00:00:00:02",
        mtu=1450,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
def test_old_results_name_the_family(version: str) -> None:
    value = result(version)
    assert value["cniVersion"] == version
    assert value["ips"] == [
        {"version": "4", "address": "10.1.0.5/32", "gateway": "169.254.1.1", "interface": 1}
    ]
    assert value["interfaces"][1] == {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}


def test_result_1_0_has_no_family_and_no_mtu() -> None:
    value = result("1.0.0")
    assert value["ips"] == [{"address": "10.1.0.5/32", "gateway": "169.254.1.1", "interface": 1}]
    assert "mtu" not in value["interfaces"][0]


def test_result_1_1_has_the_mtu() -> None:
    assert [item["mtu"] for item in result("1.1.0")["interfaces"]] == [1450, 1450]


@pytest.mark.parametrize("version", cni.VERSIONS)
def test_a_result_passes_its_own_check(version: str) -> None:
    request = cni.parse_request("check", body(cniVersion="1.0.0", prevResult=result(version)))
    cni.check_prev_result(request, address="10.1.0.5", host_ifname="lxcabc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"ips": []}, "has not the address", id="no address"),
        pytest.param(
            {"ips": [{"address": "10.1.0.6/32"}]}, "has not the address 10.1.0.5", id="another address"
        ),
        pytest.param({"interfaces": []}, "no pod interface eth0", id="no interfaces"),
        pytest.param({"interfaces": "x"}, "no pod interface eth0", id="interfaces of a wrong type"),
        pytest.param(
            {"interfaces": [{"name": "eth0", "sandbox": "/x"}]}, "no host interface", id="no host side"
        ),
    ],
)
def test_check_names_the_difference(change: dict[str, Any], message: str) -> None:
    request = cni.parse_request("check", body(prevResult={**result("1.0.0"), **change}))
    with pytest.raises(CniError, match=message):
        cni.check_prev_result(request, address="10.1.0.5", host_ifname="lxcabc")


@pytest.mark.parametrize(
    ("command", "value", "code"),
    [
        pytest.param("add", [], Code.DECODING_FAILURE, id="not an object"),
        pytest.param("add", {"env": ENV, "config": []}, Code.DECODING_FAILURE, id="config not an object"),
        pytest.param("add", {"env": {"X": 1}, "config": {}}, Code.DECODING_FAILURE, id="env not of strings"),
        pytest.param(
            "add", {"env": ENV, "config": {}}, Code.INCOMPATIBLE_VERSION, id="no version means 0.1.0"
        ),
        pytest.param("add", body(cniVersion="2.0.0"), Code.INCOMPATIBLE_VERSION, id="future version"),
        pytest.param(
            "add", body(cniVersion=["1.0.0"]), Code.INCOMPATIBLE_VERSION, id="version of a wrong type"
        ),
        pytest.param("check", body(cniVersion="0.3.1"), Code.INCOMPATIBLE_VERSION, id="CHECK before 0.4.0"),
        pytest.param("gc", body(cniVersion="1.0.0"), Code.INCOMPATIBLE_VERSION, id="GC before 1.1.0"),
        pytest.param("status", body(cniVersion="1.0.0"), Code.INCOMPATIBLE_VERSION, id="STATUS before 1.1.0"),
        pytest.param("add", body({"CNI_CONTAINERID": ""}), Code.INVALID_ENVIRONMENT, id="no container id"),
        pytest.param(
            "del", body({"CNI_CONTAINERID": "../etc"}), Code.INVALID_ENVIRONMENT, id="path as container id"
        ),
        pytest.param(
            "del", body({"CNI_CONTAINERID": "a" * 129}), Code.INVALID_ENVIRONMENT, id="endless container id"
        ),
        pytest.param("add", body({"CNI_IFNAME": "eth/0"}), Code.INVALID_ENVIRONMENT, id="slash in interface"),
        pytest.param("add", body({"CNI_IFNAME": ".."}), Code.INVALID_ENVIRONMENT, id="dots as interface"),
        pytest.param("add", body({"CNI_IFNAME": "e" * 16}), Code.INVALID_ENVIRONMENT, id="long interface"),
        pytest.param("add", body({"CNI_NETNS": ""}), Code.INVALID_ENVIRONMENT, id="ADD without namespace"),
        pytest.param("add", body({"CNI_NETNS": "x"}), Code.INVALID_ENVIRONMENT, id="relative namespace"),
        pytest.param("add", body(prevResult={"ips": []}), Code.INVALID_CONFIG, id="not the first plugin"),
        pytest.param("add", body(prevResult=3), Code.DECODING_FAILURE, id="prevResult of a wrong type"),
        pytest.param("check", body(), Code.INVALID_CONFIG, id="CHECK without prevResult"),
        pytest.param(
            "gc",
            body(cniVersion="1.1.0", **{"cni.dev/valid-attachments": 1}),
            Code.DECODING_FAILURE,
            id="bad GC list",
        ),
    ],
)
def test_bad_requests_get_the_code_of_the_specification(command: str, value: Any, code: Code) -> None:
    with pytest.raises(CniError) as caught:
        cni.parse_request(command, value)
    assert caught.value.code is code


def test_del_needs_no_namespace_and_ignores_prevresult() -> None:
    request = cni.parse_request("del", body({"CNI_NETNS": ""}, prevResult=result("1.0.0")))
    assert (request.container_id, request.netns) == ("abc123", "")


def test_pod_names_come_from_the_arguments() -> None:
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;broken;X=a=b"
    request = cni.parse_request("add", body({"CNI_ARGS": args}))
    assert request.args == {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": "ns",
        "K8S_POD_NAME": "web",
        "X": "a=b",
    }


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_reads_either_spelling_of_the_list(key: str) -> None:
    attachments = [{"containerID": "a", "ifname": "eth0"}]
    request = cni.parse_request("gc", body(cniVersion="1.1.0", **{key: attachments}))
    assert request.valid_attachments == {("a", "eth0")}


def test_gc_without_a_list_removes_nothing() -> None:
    assert cni.parse_request("gc", body(cniVersion="1.1.0")).valid_attachments is None


def test_errors_echo_known_versions_only() -> None:
    assert cni.version_of(body(cniVersion="0.3.1")) == "0.3.1"
    assert cni.version_of(body(cniVersion="0.1.0")) == "1.1.0"
    assert cni.version_of([]) == "1.1.0"
    error = CniError(Code.TRY_AGAIN_LATER, "later", "why")
    assert error.as_json("0.4.0") == {"cniVersion": "0.4.0", "code": 11, "msg": "later", "details": "why"}
    assert error.http_status == 503


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["add", "del", "check", "gc", "status"]), json_values, json_values, json_values)
def test_whatever_comes_is_a_request_or_an_error(command: str, env: Any, config: Any, previous: Any) -> None:
    value = {"env": env, "config": {**config, "prevResult": previous} if isinstance(config, dict) else config}
    try:
        request = cni.parse_request(command, value)
    except CniError:
        return
    assert request.version in cni.VERSIONS
