"""Build ``kubelite`` and ``kubectl`` from Debian's source package of Kubernetes.

    python -m lab.kubernetes.build --out DIRECTORY

kubelite is our main package (``kubelite/``) around upstream's components: one process per node, as in
MicroK8s.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError
from lab.kubernetes import newer_go
from lab.kubernetes.debian import Archive
from lab.process import Log, run, stream

HERE = Path(__file__).parent
VERSION = "1.20.2"
SOURCE_VERSION = f"1.20.5+really{VERSION}-1.1"  # any security update of it will do
OUTPUTS = ("kubelite", "kubectl")
MODULE = "k8s.io/kubernetes"
# Cloud SDKs and the Docker client are a third of the compile time and of no use here.
TAGS = "providerless,dockerless"
OPENAPI_TAG = re.compile(r"^// \+k8s:openapi-gen=", re.MULTILINE)
# Packages upstream leaves out of the API server's OpenAPI document.
OPENAPI_SKIPPED = ("k8s.io/code-generator/", "k8s.io/sample-apiserver/")


def inputs() -> list[Path]:
    """The files that decide what comes out, apart from Debian's own."""
    return [HERE / "build.py", HERE / "debian.py", HERE / "newer_go.py", *kubelite_sources()]


def build(out_dir: Path, work_dir: Path, log: Log) -> None:
    """Write the OUTPUTS to out_dir, about 4 minutes on 2 cores from nothing. Raises LabError.

    work_dir holds 2 GB while it lasts. GOCACHE is taken from the environment: a second build is quick.
    """
    archive = Archive(work_dir / "apt", log, sources=True)
    log(f"fetching and unpacking the source of Kubernetes {VERSION}")
    source = archive.source("kubernetes")
    check_version(source)
    tree = work_dir / "go" / "src" / MODULE
    tree.parent.mkdir(parents=True, exist_ok=True)
    source.rename(tree)
    (tree / "cmd" / "kubelite").mkdir()
    for file in kubelite_sources():
        shutil.copy2(file, tree / "cmd" / "kubelite")
    newer_go.adapt(tree, work_dir, log)
    environment = go_environment(work_dir)
    generate_openapi(tree, work_dir, environment, log)
    log("compiling kubelite and kubectl (4 minutes on 2 cores)")
    out_dir.mkdir(parents=True, exist_ok=True)
    stream(
        ["go", "build", "-v", "-trimpath", "-tags", TAGS, "-ldflags", link_flags(), "-o", f"{out_dir}/",
         "./cmd/kubelite", "./cmd/kubectl"],
        log,
        what="compiling Kubernetes",
        env=environment,
        cwd=tree,
    )  # fmt: skip
    missing = [name for name in OUTPUTS if not (out_dir / name).is_file()]
    if missing:
        raise LabError(f"the compiler left no {', '.join(missing)}")


def kubelite_sources() -> list[Path]:
    """The files of our main package, without its tests."""
    return sorted(path for path in (HERE / "kubelite").glob("*.go") if not path.name.endswith("_test.go"))


def check_version(source: Path) -> None:
    """Refuse a source tree of another version: ours is made for this one. Raises LabError."""
    first = (source / "debian" / "changelog").read_text().partition("\n")[0]
    if f"({SOURCE_VERSION}" not in first:
        raise LabError(
            f"Debian's kubernetes source is not {SOURCE_VERSION}: {first}",
            "Build on Debian 12, or teach lab/kubernetes the new version",
        )


def go_environment(work_dir: Path) -> dict[str, str]:
    """The environment of the compiler: GOPATH layout, vendored packages only, static binaries."""
    # GOROOT and friends of another Go on this machine must not reach Debian's.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GO")}
    return {
        **environment,
        "PATH": f"/usr/lib/go/bin:{environment.get('PATH', '')}",
        "GO111MODULE": "off",
        "GOPATH": str(work_dir / "go"),
        "GOCACHE": os.environ.get("GOCACHE") or str(work_dir / "gocache"),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }


def link_flags() -> str:
    """Strip, and say which version this is."""
    major, minor, _ = VERSION.split(".")
    values = {
        "component-base/version.gitVersion": f"v{VERSION}",
        "component-base/version.gitMajor": major,
        "component-base/version.gitMinor": minor,
        "client-go/pkg/version.gitVersion": f"v{VERSION}",
    }
    # The linker knows vendored packages by their full path, and ignores names that it does not know.
    return " ".join(
        ["-s", "-w", *(f"-X {MODULE}/vendor/k8s.io/{name}={value}" for name, value in values.items())]
    )


def openapi_packages(tree: Path) -> list[str]:
    """The packages whose types the API server describes, by their import path inside GOPATH."""
    return sorted(set(_tagged_packages(tree)))


def _tagged_packages(tree: Path) -> Iterator[str]:
    staging = tree / "staging" / "src"
    for root in (tree / "pkg", staging / "k8s.io"):
        for file in root.rglob("*.go"):
            package = file.parent.relative_to(staging if root != tree / "pkg" else tree).as_posix()
            if "/vendor/" in f"/{package}/" or package.startswith(OPENAPI_SKIPPED):
                continue
            if OPENAPI_TAG.search(file.read_text(errors="replace")):
                yield f"{MODULE}/vendor/{package}" if root != tree / "pkg" else f"{MODULE}/{package}"


def generate_openapi(tree: Path, work_dir: Path, environment: dict[str, str], log: Log) -> None:
    """Generate the one file that upstream does not check in. Raises LabError."""
    log("generating the API server's OpenAPI definitions")
    generator = work_dir / "openapi-gen"
    # Not with -trimpath: the generator looks the standard library up in the GOROOT it was built with.
    run(
        ["go", "build", "-o", generator, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"],
        what="compiling openapi-gen",
        env=environment,
        cwd=tree,
    )
    run(
        [generator, "--logtostderr", "-i", ",".join(openapi_packages(tree)), "-p",
         f"{MODULE}/pkg/generated/openapi", "-O", "zz_generated.openapi",
         "-h", tree / "vendor/k8s.io/code-generator/hack/boilerplate.go.txt",
         "-r", work_dir / "violations"],
        what="generating the OpenAPI definitions",
        env=environment,
        cwd=tree,
    )  # fmt: skip


def main() -> int:
    """Build into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keep the build tree here")
    options = parser.parse_args()
    try:
        if options.work:
            build(options.out.resolve(), options.work.resolve(), lambda line: print(line, flush=True))
        else:
            with tempfile.TemporaryDirectory(prefix="podwire-kubernetes-", dir="/var/tmp") as work:
                build(options.out.resolve(), Path(work), lambda line: print(line, flush=True))
    except LabError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
