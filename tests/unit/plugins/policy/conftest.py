"""A kubectl that keeps its objects in a file, and does with them what the API server would."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import policy_objects as objects
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
if words[:2] == ["get", "nodes"]:
    leave("node/n1")
if words[1] == "nodeendpoints.podwire.io":
    observed = {{"ciliumnetworkpolicies": str(store["version"]), "networkpolicies": str(store["version"])}}
    status = {{"observed": observed, "problems": store.get("problems", [])}}
    leave(json.dumps({{"items": [{{"metadata": {{"name": "n1"}}, "status": status}}]}}))
if words[0] == "get" and "-f" not in words:
    if store["unknown"] and store["unknown"].lower()[:-1] in words[1]:
        leave("error: the server doesn't have a resource type " + words[1], 1)
    asked, label = words[1].split(","), words[3].partition("=")[2]
    mark = "podwire.io/policy-set"
    found = [i for i in store["objects"].values()
             if any(name.startswith(i["kind"].lower()[:-1]) for name in asked)
             and label == mark + "=" + i["metadata"].get("labels", {{}}).get(mark, "")]
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
