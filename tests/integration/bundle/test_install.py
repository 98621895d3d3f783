"""The node bundle, built once (or taken from the build cache), installs without network and is complete."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.bundle import PYTHONS, build
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bundle() -> Path:
    return build(ROOT, Cache(log=print), print)


@pytest.fixture(scope="module")
def release(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle unpacked and completed as a node does it, with nothing but what it holds."""
    directory = tmp_path_factory.mktemp("release")
    with tarfile.open(bundle) as archive:
        archive.extractall(directory)
    subprocess.run(["/usr/bin/python3", "-I", "-m", "venv", "--without-pip", directory], check=True)
    (pip,) = (directory / "wheels").glob("pip-*.whl")
    command = [directory / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-compile"]
    environment = {"PYTHONPATH": str(pip), "PATH": "/usr/bin:/bin", "HOME": str(directory)}
    subprocess.run(
        [*command, "--disable-pip-version-check", "--find-links", directory / "wheels", "podwire"],
        check=True, env=environment,
    )  # fmt: skip
    return directory


def run(release: Path, code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PODWIRE")}
    command = [release / "bin/python", "-I", "-B", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_it_is_named_after_version_and_content(bundle: Path) -> None:
    with tarfile.open(bundle) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))
    assert bundle.name == f"podwire-{manifest['version']}-{manifest['hash']}.tar.gz"
    assert build(ROOT, Cache(), print) == bundle


def test_everything_imports(release: Path) -> None:
    run(release, "import podwire.cli.main, podwire.agent.main, podwire.datapath, kubernetes.client")


def test_libbpf_comes_from_the_bundle_and_works(release: Path) -> None:
    code = (
        "from podwire.bpf import possible_cpus\nprint(possible_cpus())\n"
        "lines = [line for line in open('/proc/self/maps') if 'libbpf' in line or 'libelf' in line]\n"
        "print(*{line.split()[-1] for line in lines})"
    )
    count, libraries = run(release, code).splitlines()
    assert int(count) >= 1
    assert set(libraries.split()) == {str(release / "lib/libbpf.so.1"), str(release / "lib/libelf.so.1")}


def test_the_cni_plugin_answers(release: Path) -> None:
    done = subprocess.run(
        [release / "bin/podwire-cni"], input='{"cniVersion": "1.0.0"}', env={"CNI_COMMAND": "VERSION"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_met_on_every_python(release: Path, python: str) -> None:
    """What pip would find missing on a node with that Python, without having it here."""
    version = tuple(map(int, python.split(".")))
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    tags = set(cpython_tags(version, platforms=platforms)) | {
        tag
        for wheel in (release / "wheels").glob("*-none-any.whl")
        for tag in parse_wheel_filename(wheel.name)[3]
    }
    usable = {}
    for wheel in (release / "wheels").glob("*.whl"):
        name, found, _, wheel_tags = parse_wheel_filename(wheel.name)
        if wheel_tags & tags:
            usable[name] = (found, wheel)
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "extra": "",
    }
    for _, wheel in usable.values():
        for text in _metadata(wheel).get_all("Requires-Dist") or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                name = canonicalize_name(requirement.name)
                assert name in usable, f"{wheel.name} requires {text}, the bundle has none for {python}"
                assert requirement.specifier.contains(usable[name][0]), f"{wheel.name} requires {text}"
    for _, wheel in usable.values():
        needs = _metadata(wheel).get("Requires-Python")
        assert needs is None or Requirement(f"python{needs}").specifier.contains(f"{python}.0"), wheel.name


def _metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_nothing_of_this_machine_is_inside(bundle: Path, release: Path) -> None:
    own = (release / "wheels").glob("podwire-*.whl")
    for wheel in own:
        with zipfile.ZipFile(wheel) as archive:
            assert not [name for name in archive.namelist() if str(ROOT).encode() in archive.read(name)]
