"""The builders, as far as they are pure, and the Go programs' own tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import default_root

from lab import starwars
from lab.errors import LabError
from lab.kubernetes import build as kubernetes
from lab.snap import build as snap

TREE = Path(snap.__file__).parent / "tree"
KUBELITE = Path(kubernetes.__file__).parent / "kubelite"


def compiler_cache() -> str:
    """The lab's compiler cache: compiling the standard library's TLS takes longer than all tests."""
    return os.environ.get("GOCACHE") or str(default_root() / "go-build")


@pytest.mark.parametrize(
    ("directory", "files"),
    [
        pytest.param(KUBELITE, ["args.go", "args_test.go"], id="kubelite's argument files"),
        pytest.param(Path(snap.__file__).parent / "cmd/apiserver-proxy", ["."], id="apiserver-proxy"),
        pytest.param(snap.DEFAULT_NETWORK, ["."], id="default network"),
        pytest.param(starwars.SOURCE, ["."], id="the Star Wars demo's server"),
    ],
)
def test_go_programs_pass_their_own_tests(directory: Path, files: list[str], tmp_path: Path) -> None:
    environment = {**kubernetes.go_environment(tmp_path), "GOCACHE": compiler_cache()}
    done = subprocess.run(
        ["go", "test", *files], check=False, cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_app_of_the_snap_has_its_program() -> None:
    meta = yaml.safe_load((TREE / "meta/snap.yaml").read_text().replace("@VERSION@", "v1"))
    for name, app in meta["apps"].items():
        assert (TREE / app["command"].split()[0]).is_file(), name
    assert meta["base"] == snap.BASE
    services = {name for name, app in meta["apps"].items() if "daemon" in app}
    for service in (
        "containerd",
        "kubelite",
        "k8s-dqlite",
        "cluster-agent",
        "apiserver-kicker",
        "apiserver-proxy",
    ):
        assert f"daemon-{service}" in services


def test_the_default_network_has_calicos_objects() -> None:
    text = (TREE / "actions/cni.yaml").read_text()
    objects = {
        (item["kind"], item["metadata"]["name"])
        for item in yaml.safe_load_all(text.replace("@DEFAULT_NETWORK_IMAGE@", "i:1"))
    }
    assert {
        ("DaemonSet", "calico-node"),
        ("Deployment", "calico-kube-controllers"),
        ("ConfigMap", "calico-config"),
        ("ServiceAccount", "calico-node"),
        ("ServiceAccount", "calico-kube-controllers"),
    } <= objects


def test_inputs_name_existing_files_and_no_droppings() -> None:
    for path in [*kubernetes.inputs(), *snap.inputs()]:
        assert path.is_file(), path
        assert not path.name.endswith((".pyc", "_test.go")), path
    assert TREE / "meta/snap.yaml" in snap.inputs()
    assert KUBELITE / "main.go" in kubernetes.inputs()


def test_another_version_of_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian/changelog").write_text("kubernetes (1.33.4-1) unstable; urgency=medium\n")
    with pytest.raises(LabError, match=r"1\.33\.4-1") as raised:
        kubernetes.check_version(tmp_path)
    assert raised.value.hint


def test_a_placeholder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("image: @IMAGE@\n")
    snap.fill_in(path, {"IMAGE": "name:1"})
    assert path.read_text() == "image: name:1\n"
    with pytest.raises(LabError, match="does not mention"):
        snap.fill_in(path, {"IMAGE": "name:1"})


def test_a_snap_without_kubernetes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="lacks kubelite, kubectl"):
        snap.build(tmp_path / "out", tmp_path / "work", lambda _line: None, kubernetes_dir=tmp_path)


def test_openapi_packages_are_found_by_their_tag(tmp_path: Path) -> None:
    tagged, plain = "// +k8s:openapi-gen=true\npackage x\n", "package x\n"
    for place, text in {
        "pkg/apis/abac/v0/doc.go": tagged,
        "pkg/apis/other/doc.go": plain,
        "staging/src/k8s.io/api/core/v1/doc.go": tagged,
        "staging/src/k8s.io/sample-apiserver/pkg/doc.go": tagged,
    }.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert kubernetes.openapi_packages(tmp_path) == [
        "k8s.io/kubernetes/pkg/apis/abac/v0",
        "k8s.io/kubernetes/vendor/k8s.io/api/core/v1",
    ]
