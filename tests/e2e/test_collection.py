"""The built collection works where there is no checkout: installed by ansible-galaxy, used by its names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if path.stem != "__init__")
FILTERS = ["cidr_problem", "device_of", "node_networks", "overlaps"]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
INVENTORY = "[control_plane]\ncp1 ansible_connection=local\n[workers]\nw1 ansible_connection=local\n"


class Elsewhere:
    """A directory that knows nothing of the checkout, with the collection installed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.archive = self.build()
        self.run(
            "ansible-galaxy", "collection", "install", "--offline", "-p", "collections", str(self.archive)
        )
        (directory / "inventory").write_text(INVENTORY)

    def build(self) -> Path:
        self.run("ansible-galaxy", "collection", "build", "--output-path", str(self.directory), cwd=ROOT)
        (archive,) = self.directory.glob("podwire-ebpf-*.tar.gz")
        return archive

    def run(self, *command: str, cwd: Path | None = None) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
            "ANSIBLE_HOME": str(self.directory / "home"),
            "ANSIBLE_LOCALHOST_WARNING": "0",
        }
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=cwd or self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


def test_archive_holds_what_a_rollout_builds_from_and_nothing_of_this_machine(elsewhere: Elsewhere) -> None:
    with tarfile.open(elsewhere.archive) as archive:
        names = set(archive.getnames())
    needed = {
        "bpf/endpoint.bpf.c",
        "bpf/host.bpf.c",
        "pyproject.toml",
        "requirements/node.txt",
        "playbooks/site.yml",
    }
    assert needed <= names
    assert any(name.startswith("src/podwire/agent/") for name in names)
    assert any(name.startswith("cni/") and name.endswith(".c") for name in names)
    unwanted = (".venv", ".lab", "build/", "collections/", ".git/", ".molecule")
    assert [name for name in names if name.startswith(unwanted) or "__pycache__" in name] == []


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_playbook_is_found_and_all_it_names_too(elsewhere: Elsewhere, name: str) -> None:
    elsewhere.run("ansible-playbook", "-i", "inventory", f"podwire.ebpf.{name}", "--syntax-check")


def test_every_module_is_documented(elsewhere: Elsewhere) -> None:
    shown = json.loads(elsewhere.run("ansible-doc", "--json", *(f"podwire.ebpf.{name}" for name in MODULES)))
    assert len(shown) == len(MODULES)
    for name, page in shown.items():
        assert page["doc"]["short_description"], name
        assert page["examples"], name
        assert page["return"], name
        for option, text in page["doc"].get("options", {}).items():
            assert text["description"], f"{name}: {option}"


def test_every_role_is_documented(elsewhere: Elsewhere) -> None:
    shown = json.loads(
        elsewhere.run("ansible-doc", "--json", "-t", "role", *(f"podwire.ebpf.{r}" for r in ROLES))
    )
    assert {name.rsplit(".", 1)[1] for name in shown} == set(ROLES)


@pytest.mark.parametrize("name", FILTERS)
def test_filter_is_documented(elsewhere: Elsewhere, name: str) -> None:
    page = json.loads(elsewhere.run("ansible-doc", "--json", "-t", "filter", f"podwire.ebpf.{name}"))
    assert page[f"podwire.ebpf.{name}"]["examples"]


def test_variables_are_refused_by_the_installed_collection(elsewhere: Elsewhere) -> None:
    """A playbook runs from there, role, filter and all: this one stops at its first check."""
    with pytest.raises(AssertionError, match="podwire_host_routing is 'fast'"):
        elsewhere.run(
            "ansible-playbook", "-i", "inventory", "podwire.ebpf.site", "-e", "podwire_host_routing=fast",
            "-e", f"ansible_python_interpreter={sys.executable}",
        )  # fmt: skip
