"""Build upstream's end-to-end tests from the source package that the lab's Kubernetes is built from.

``e2e.test`` holds the specs, ``ginkgo`` runs them, the image ``agnhost`` is what their pods run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lab import imagebuild, oci, rootfs
from lab.kubernetes.build import MODULE, VERSION, check_version, go_environment
from lab.kubernetes.debian import Archive
from lab.process import Log, run, stream

HERE = Path(__file__).parent
OUTPUTS = ("e2e.test", "ginkgo", "agnhost.tar")
# Not "providerless" here: the network specs refer to a cloud's code even where they do not use it.
TAGS = "dockerless"
GO_BINDATA = "./vendor/github.com/go-bindata/go-bindata/go-bindata"
GINKGO = "./vendor/github.com/onsi/ginkgo/ginkgo"
AGNHOST = "./test/images/agnhost"
# Files that the specs read at run time; upstream compiles them in. As in hack/generate-bindata.sh.
TEST_DATA = (
    "test/conformance/testdata/...",
    "test/e2e/testing-manifests/...",
    "test/images/...",
    "test/fixtures/...",
)
# What agnhost's shell commands and the specs' own call inside its pods. busybox' sh would prefer its applets.
AGNHOST_PACKAGES = (
    "bash",
    "bind9-dnsutils",
    "busybox-static",
    "curl",
    "dash",
    "iperf",
    "iproute2",
    "netbase",
    "netcat-openbsd",
    # busybox' own dies when it looks a name up: it is linked statically.
    "wget",
)


def inputs() -> list[str | Path]:
    """What decides what comes out, apart from Debian's own."""
    listed = [HERE / "e2e.py", HERE / "build.py", HERE / "debian.py"]
    return [*listed, HERE.parent / "oci.py", HERE.parent / "imagebuild.py", HERE.parent / "rootfs.py"]


def build(out_dir: Path, work_dir: Path, log: Log) -> None:
    """Write the OUTPUTS to out_dir: 2 minutes on 2 cores beside a build of Kubernetes. Raises LabError."""
    archive = Archive(work_dir / "apt", log, sources=True)
    log(f"fetching and unpacking the source of Kubernetes {VERSION}")
    source = archive.source("kubernetes")
    check_version(source)
    tree = work_dir / "go" / "src" / MODULE
    tree.parent.mkdir(parents=True, exist_ok=True)
    source.rename(tree)
    environment = go_environment(work_dir)
    _compile_in_test_data(tree, work_dir, environment)
    flags = ["-trimpath", "-tags", TAGS, "-ldflags", "-s -w"]
    log("compiling ginkgo and agnhost")
    programs = work_dir / "programs"
    programs.mkdir()
    stream(
        ["go", "build", "-v", *flags, "-o", f"{programs}/", GINKGO, AGNHOST],
        log,
        what="compiling ginkgo and agnhost",
        env=environment,
        cwd=tree,
    )
    (programs / "ginkgo").rename(out_dir / "ginkgo")
    log("compiling e2e.test")
    stream(
        ["go", "test", "-c", "-v", *flags, "-o", out_dir / "e2e.test", "./test/e2e"],
        log,
        what="compiling e2e.test",
        env=environment,
        cwd=tree,
    )
    build_agnhost(out_dir, programs / "agnhost", wanted_image(out_dir, "e2e-test-images/agnhost"), tree, log)


def _compile_in_test_data(tree: Path, work_dir: Path, environment: dict[str, str]) -> None:
    generator = work_dir / "go-bindata"
    run(
        ["go", "build", "-o", generator, GO_BINDATA],
        what="compiling go-bindata",
        env=environment,
        cwd=tree,
    )
    ignored = [word for name in (".jpg", ".png", ".md", r"BUILD(\.bazel)?") for word in ("-ignore", name)]
    target = "test/e2e/generated/bindata.go"
    run(
        [generator, "-nometadata", "-o", target, "-pkg", "generated", *ignored, *TEST_DATA],
        what="generating the specs' data",
        env=environment,
        cwd=tree,
    )


def wanted_image(directory: Path, name: str) -> str:
    """The full name by which e2e.test asks for one of its images: not always the version it brings along."""
    listed = run([directory / "e2e.test", "--list-images"], what="asking e2e.test for its images").stdout
    return next(line for line in listed.split() if f"/{name}:" in line)


def build_agnhost(directory: Path, program: Path, reference: str, source: Path, log: Log) -> None:
    """Write ``agnhost.tar``: the image of the specs' pods, from Debian packages. Raises LabError."""
    with tempfile.TemporaryDirectory(prefix="rootfs-", dir=directory) as name:
        tree = Path(name)
        rootfs.extract(tree, AGNHOST_PACKAGES, log)
        for folder in ("tmp", "root", "proc", "sys", "dev", "uploads"):
            (tree / folder).mkdir(parents=True, exist_ok=True)
        if not (tree / "bin/sh").exists():
            (tree / "bin/sh").symlink_to("dash")
        imagebuild.add_busybox_links(tree)
        (tree / "bin/nc").symlink_to("nc.openbsd")
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tree / "etc/group").write_text("root:x:0:\n")
        program.rename(tree / "agnhost")
        (tree / "agnhost-2").symlink_to("agnhost")
        for file in ("localhost.crt", "localhost.key"):
            (tree / file).write_bytes((source / AGNHOST / "porter" / file).read_bytes())
        run(["ldconfig", "-r", tree], what="indexing agnhost's libraries")
        log(f"packing {reference}")
        oci.image(directory / "agnhost.tar", reference, tree, entrypoint=["/agnhost"], command=["pause"])
