"""The module as Ansible calls it, and its half on the controller."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.podwire.ebpf.plugins.action.network_policy import parse
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_files import manifests
from ansible_collections.podwire.ebpf.plugins.modules import network_policy

POLICY = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "rule1"},
    "spec": {"endpointSelector": {}, "ingress": [{}]},
}


@pytest.fixture
def module(server, capsys):
    """Runs the module against the server and returns its result."""

    def run(**arguments):
        arguments = {"kubectl": server.kubectl.command()[0], "kubeconfig": "/dev/null", **arguments}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            network_policy.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_applies_waits_and_then_changes_nothing(module, server):
    first = module(definition=[POLICY])
    assert first["changed"]
    assert first["objects"] == [
        {
            "kind": "CiliumNetworkPolicy",
            "namespace": "default",
            "name": "rule1",
            "action": "created",
            "resource_version": "11",
        }
    ]
    assert first["versions"] == {"ciliumnetworkpolicies": 11}
    assert first["nodes"]["n1"]["ciliumnetworkpolicies"] == 11
    assert '"ingress"' in first["diff"][0]["after"]
    second = module(definition=json.dumps(POLICY))
    assert not second["changed"]
    assert second["diff"] == []
    assert second["waited"] >= 0


def test_a_policy_that_nodes_find_wrong_fails_the_task_and_says_what_was_stored(module, server):
    server.set(problems=["CiliumNetworkPolicy/default/rule1 is invalid: two L3 members"])
    result = module(definition=[POLICY])
    assert result["failed"]
    assert "two L3 members" in result["msg"]
    assert result["changed"], "the API has it"


def test_check_mode_neither_writes_nor_waits(module, server):
    result = module(definition=[POLICY], _ansible_check_mode=True)
    assert result["changed"]
    assert "nodes" not in result
    assert server.names == []


def test_nothing_given_is_an_error(module):
    assert "no policy is given" in module(definition=[])["msg"]
    assert "policy_set" in module(definition=[POLICY], purge=True)["msg"]


def test_an_empty_set_is_wanted_by_purge(module, server):
    module(definition=[POLICY], policy_set="demo")
    result = module(definition=[], policy_set="demo", purge=True)
    assert [item["action"] for item in result["objects"]] == ["deleted"]
    assert server.names == []


def test_yaml_of_several_documents_is_read_on_the_controller():
    text = "---\n# nothing\n---\nkind: A\n---\nkind: List\nitems: [{kind: B}]\n"
    assert [item["kind"] for item in parse(text, "x.yaml")] == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "x.yaml is no YAML: .*line 2"), ("words", "x.yaml: 'words'")]
)
def test_a_bad_file_is_named(text, said):
    with pytest.raises(PodwireError, match=said):
        parse(text, "x.yaml")


def test_files_of_a_folder(tmp_path):
    for name in ("b.yml", "a.yaml", "c.json", "README.md", ".a.yaml.swp"):
        (tmp_path / name).touch()
    (tmp_path / "below.yaml").mkdir()
    assert [path.name for path in manifests(tmp_path)] == ["a.yaml", "b.yml", "c.json"]
    assert manifests(tmp_path / "README.md") == [tmp_path / "README.md"], "a file that is named is taken"
    with pytest.raises(PodwireError, match="does not exist"):
        manifests(tmp_path / "missing")
    with pytest.raises(PodwireError, match="has no file named"):
        manifests(tmp_path / "below.yaml")
