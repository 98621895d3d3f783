"""Applying and deleting policies through a kubectl that keeps its objects in a file, as the API server
would."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import policy_objects as objects
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_cluster import Policies

SERVER = """\
#!{python}
import json, sys, urllib.parse
from pathlib import Path
state = Path({state!r})
store = json.loads(state.read_text())
words = sys.argv[2:]
store["calls"].append(" ".join(words))
dry = "--dry-run=server" in words

def key(item):
    return "/".join((item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]))

def leave(text="", status=0):
    if not dry:
        state.write_text(json.dumps(store))
    print(text, file=sys.stderr if status else sys.stdout)
    sys.exit(status)

def keep(item):
    item["spec"].pop("misspelt", None)
    item["spec"].setdefault("defaulted", True)
    if item["spec"].get("refused"):
        leave("Error from server (Invalid): spec.refused", 1)
    store["version"] += 1
    item["metadata"]["resourceVersion"] = str(store["version"])
    store["objects"][key(item)] = item
    return item

if words[:2] == ["get", "--raw"]:
    query = urllib.parse.parse_qs(words[2].partition("?")[2])
    if "watch" not in query:
        leave(json.dumps({{"metadata": {{"resourceVersion": str(store["version"])}}}}))
    since = int(query["resourceVersion"][0])
    later = lambda event: int(event["object"]["metadata"]["resourceVersion"]) > since
    leave("\\n".join(json.dumps(event) for event in store["events"] if later(event)))
if words[0] == "get" and "-f" not in words:
    label = words[-3].partition("=")[2]
    found = [i for i in store["objects"].values()
             if words[1].startswith(i["kind"].lower()[:-1])
             and "podwire.io/policy-set=" + i["metadata"].get("labels", {{}}).get("podwire.io/policy-set",
             "") == label]
    leave(json.dumps({{"items": found}}))
given = json.load(sys.stdin)["items"]
if store["unknown"] and any(i["kind"] == store["unknown"] for i in given):
    leave('error: unable to recognize "STDIN": no matches for kind "%s"' % store["unknown"], 1)
if words[0] == "get":
    found = [store["objects"][key(i)] for i in given if key(i) in store["objects"]]
    leave(json.dumps({{"kind": "List", "items": found}}) if found else "")
if words[0] == "delete":
    for item in given:
        gone = store["objects"].pop(key(item), None)
        if gone:
            store["version"] += 1
            gone["metadata"]["resourceVersion"] = str(store["version"])
            store["events"].append({{"type": "DELETED", "object": gone}})
    store["version"] += 5  # others write, too
    leave()
if words[0] == "replace" and not dry and store["conflicts"]:
    store["conflicts"] -= 1
    leave("Error from server (Conflict): the object has been modified", 1)
leave("\\n".join(json.dumps(keep(i)) for i in given))
"""


@pytest.fixture
def server(tmp_path):
    """The API server's state, and Policies that talk to it."""
    layout = Layout(tmp_path)
    layout.snap.mkdir(parents=True)
    path = tmp_path / "state.json"
    path.write_text(
        json.dumps({"version": 10, "objects": {}, "events": [], "calls": [], "conflicts": 0, "unknown": ""})
    )
    program = layout.snap / "kubectl"
    program.write_text(textwrap.dedent(SERVER).format(python=sys.executable, state=str(path)))
    program.chmod(0o755)
    return Server(path, Kubectl(layout))


class Server:
    def __init__(self, path, kubectl):
        self.path, self.kubectl, self.warnings = path, kubectl, []

    @property
    def state(self):
        return json.loads(self.path.read_text())

    def set(self, **values):
        self.path.write_text(json.dumps({**self.state, **values}))

    @property
    def names(self):
        return sorted(self.state["objects"])

    def policies(self, check_mode=False):
        return Policies(self.kubectl, check_mode=check_mode, warn=self.warnings.append)

    def present(self, *items, policy_set="", purge=False, check_mode=False):
        wanted = objects.complete(items, "default", policy_set)
        return self.policies(check_mode).present(wanted, policy_set, purge)

    def absent(self, *items, policy_set="", purge=False, check_mode=False):
        wanted = objects.complete(items, "default", policy_set)
        return self.policies(check_mode).absent(wanted, policy_set, purge)


def knp(name="a", **spec):
    metadata = {"name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def cnp(name="a", **spec):
    return {**knp(name, **spec), "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}


def actions(change):
    return {str(step.key): step.action for step in change.steps}


def test_creates_changes_and_then_leaves_alone(server):
    first = server.present(knp("a"), cnp("b"))
    assert set(actions(first).values()) == {objects.CREATE}
    assert first.versions == {"networkpolicies": 11, "ciliumnetworkpolicies": 12}
    second = server.present(knp("a", port=1), cnp("b"))
    assert actions(second) == {
        "NetworkPolicy/default/a": objects.REPLACE,
        "CiliumNetworkPolicy/default/b": objects.KEEP,
    }
    # What is unchanged must be enforced, too, to be relied on.
    assert second.versions == {"networkpolicies": 13, "ciliumnetworkpolicies": 12}
    third = server.present(knp("a", port=1), cnp("b"))
    assert not third.changed
    assert server.state["version"] == 13


def test_check_mode_tells_and_does_nothing(server):
    change = server.present(knp("a"), check_mode=True)
    assert change.changed
    assert '"defaulted": true' in change.steps[0].diff()["after"], "as the server would store it"
    assert server.names == []


def test_one_that_is_refused_keeps_all_from_being_applied(server):
    with pytest.raises(PodwireError, match=r"spec\.refused"):
        server.present(knp("good"), knp("bad", refused=True))
    assert server.names == []


def test_a_misspelt_field_is_an_error_and_no_wider_policy(server):
    with pytest.raises(PodwireError, match=r"Policy/default/a: the API does not know spec\.misspelt"):
        server.present(cnp("a", misspelt=[{"x": 1}]))
    assert server.names == []


def test_a_change_that_meets_an_agents_status_is_made_again(server):
    server.present(cnp("a"))
    server.set(conflicts=2)
    change = server.present(cnp("a", port=1), cnp("new"))
    assert change.changed
    assert server.state["objects"]["CiliumNetworkPolicy/default/a"]["spec"]["port"] == 1
    server.set(conflicts=99)
    with pytest.raises(PodwireError, match="Conflict"):
        server.present(cnp("a", port=2))


def test_absent_deletes_and_knows_the_version_of_the_deletion(server):
    server.present(knp("a"), knp("b"))
    change = server.absent(knp("a"), knp("missing"))
    assert actions(change) == {"NetworkPolicy/default/a": objects.DELETE}
    # Not the version of the cluster, which other kinds move on: no agent would ever reach that.
    assert change.versions == {"networkpolicies": 13}
    assert not server.absent(knp("a")).changed
    assert server.names == ["NetworkPolicy/default/b"]


def test_purge_deletes_what_left_the_set_and_nothing_else(server):
    server.present(knp("foreign"))
    server.present(knp("a"), cnp("b"), policy_set="prod")
    server.present(knp("c"), policy_set="test")
    change = server.present(knp("a"), policy_set="prod", purge=True)
    assert actions(change) == {
        "NetworkPolicy/default/a": objects.KEEP,
        "CiliumNetworkPolicy/default/b": objects.DELETE,
    }
    assert server.names == [f"NetworkPolicy/default/{name}" for name in ("a", "c", "foreign")]
    server.absent(policy_set="test", purge=True)
    assert server.names == [f"NetworkPolicy/default/{name}" for name in ("a", "foreign")]


def test_before_the_kinds_are_known_check_mode_shows_what_would_come(server):
    server.set(unknown="CiliumNetworkPolicy")
    change = server.present(cnp("a"), check_mode=True)
    assert actions(change) == {"CiliumNetworkPolicy/default/a": objects.CREATE}
    assert any("no matches for kind" in text for text in server.warnings)
    with pytest.raises(PodwireError, match="does not know this kind of policy"):
        server.present(cnp("a"))


def test_check_mode_works_before_there_is_a_cluster(tmp_path):
    policies = Policies(Kubectl(Layout(tmp_path)), check_mode=True, warn=print)
    change = policies.present(objects.complete([cnp("a")], "default"), "", False)
    assert change.changed
    assert not policies.absent(objects.complete([cnp("a")], "default"), "s", True).changed
