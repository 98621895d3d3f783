"""Files that the lab writes: ssh configuration, hosts, inventory, images."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lab import oci
from lab.config import ROOT, Lab, node_names
from lab.errors import LabError
from lab.keys import hosts_file, ssh_config
from lab.rootfs import mirror, read_packages

LAB = Lab("files", 9, node_names(3))


def test_every_member_knows_the_others_by_name():
    text = hosts_file(LAB, "worker1")
    assert text.splitlines() == [
        "127.0.0.1 localhost",
        "127.0.1.1 worker1",
        "172.30.9.11 cp1",
        "172.30.9.22 worker2",
        "172.30.9.2 world",
    ]


def test_ssh_understands_the_configuration(tmp_path):
    path = tmp_path / "config"
    path.write_text(ssh_config(LAB))
    shown = subprocess.run(
        ["ssh", "-F", path, "-G", "worker2"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "hostname 172.30.9.22" in shown
    assert "stricthostkeychecking true" in shown
    assert f"userknownhostsfile {LAB.state}/known_hosts" in shown


def inventory(tmp_path, name, *arguments):
    script = tmp_path / "inventories" / "lab" / "hosts.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_bytes((ROOT / "inventories/lab/hosts.py").read_bytes())
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "LAB": name},
        capture_output=True,
        text=True,
        check=False,
    )


STATE = {
    "nodes": {"cp1": "172.30.9.11", "worker1": "172.30.9.21"},
    "control_plane": ["cp1"],
    "workers": ["worker1"],
    "artifacts": {"snaps": "/cache/snaps/key"},
}


def test_inventory_has_the_groups_that_site_yml_wants(tmp_path):
    (tmp_path / ".lab-two").mkdir()
    (tmp_path / ".lab-two" / "lab.json").write_text(json.dumps(STATE))
    shown = json.loads(inventory(tmp_path, "two", "--list").stdout)
    assert shown["control_plane"]["hosts"] == ["cp1"]
    assert shown["workers"]["hosts"] == ["worker1"]
    assert shown["pod_nodes"]["children"] == ["control_plane", "workers"]
    assert shown["_meta"]["hostvars"]["worker1"] == {"ansible_host": "172.30.9.21"}
    assert str(tmp_path / ".lab-two/known_hosts") in shown["all"]["vars"]["ansible_ssh_common_args"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "run make up"), ('{"nodes": ', "is damaged")],
    ids=["no lab", "half written"],
)
def test_inventory_without_a_lab_fails_and_says_why(tmp_path, content, message):
    if content:
        (tmp_path / ".lab").mkdir()
        (tmp_path / ".lab" / "lab.json").write_text(content)
    result = inventory(tmp_path, "podwire", "--list")
    assert result.returncode != 0
    assert message in result.stderr


def members(archive):
    with tarfile.open(archive) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar.getmembers()}


def make_image(tmp_path, name="image.tar", **options):
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True, exist_ok=True)
    (tree / "bin" / "tool").write_text("content")
    (tree / "bin" / "tool").chmod(0o755)
    oci.image(tmp_path / name, "podwire.local/x:1", tree, **options)
    return members(tmp_path / name)


def test_image_archive_is_consistent(tmp_path):
    files = make_image(tmp_path, entrypoint=["/bin/tool"], environment={"A": "b"})
    descriptor = json.loads(files["index.json"])["manifests"][0]
    assert descriptor["annotations"]["io.containerd.image.name"] == "podwire.local/x:1"

    def blob(of):
        data = files["blobs/sha256/" + of["digest"].split(":")[1]]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (of["size"], of["digest"].split(":")[1])
        return data

    manifest = json.loads(blob(descriptor))
    config = json.loads(blob(manifest["config"]))
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert "A=b" in config["config"]["Env"]
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    (tmp_path / "layer.tar").write_bytes(blob(manifest["layers"][0]))
    with tarfile.open(tmp_path / "layer.tar") as layer:
        tool = layer.getmember("./bin/tool")
        assert (tool.mode, tool.uid) == (0o755, 0)


def test_same_files_make_the_same_image(tmp_path):
    first = make_image(tmp_path)
    os.utime(tmp_path / "tree/bin/tool", (1, 1))
    assert make_image(tmp_path, "other.tar") == first


@pytest.mark.parametrize(
    ("reference", "tree", "named"), [("podwire.local/x", ".", "no tag"), ("x:1", "missing", "neither")]
)
def test_impossible_images_are_refused_and_leave_nothing(tmp_path, reference, tree, named):
    with pytest.raises(LabError, match=named):
        oci.image(tmp_path / "image.tar", reference, tmp_path / tree)
    assert list(tmp_path.iterdir()) == []


def test_package_lists_may_have_comments(tmp_path):
    (tmp_path / "list").write_text("# why\none\ntwo three # four\n\n")
    assert read_packages(tmp_path / "list") == ["one", "two", "three"]


def test_mirror_can_be_chosen(monkeypatch):
    monkeypatch.setenv("PODWIRE_DEBIAN_MIRROR", "http://mirror.example/debian")
    assert mirror() == "http://mirror.example/debian"
    monkeypatch.delenv("PODWIRE_DEBIAN_MIRROR")
    assert mirror().startswith("http")


def test_make_help_names_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = (
        Path(ROOT, "Makefile").read_text().split(".PHONY:")[1].split("\n\n")[0].replace("\\\n", " ").split()
    )
    assert {"up", "down", "test", "bootstrap"} <= set(phony)
    assert [name for name in phony if f"  {name} " not in shown] == []
