"""Pack the three snaps of a lab node: an empty base, Debian's snapd, and ``microk8s``.

    python -m lab.snap.build --kubernetes DIRECTORY --out DIRECTORY

The first holds what ``lab.kubernetes.build`` made. Everything else comes from Debian packages and from
``tree/``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lab import imagebuild, oci, process
from lab.errors import LabError
from lab.kubernetes import build as kubernetes
from lab.kubernetes.debian import Archive
from lab.process import Log

HERE = Path(__file__).parent
DEFAULT_NETWORK = HERE.parent / "images" / "default-network"
DEFAULT_NETWORK_IMAGE = "podwire.local/default-network:1"
BASE = "core20"
OUTPUTS = ("snapd.snap", f"{BASE}.snap", "microk8s.snap")
# What tools leave in a source tree.
SKIPPED = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache"})
TRIPLET = "x86_64-linux-gnu"
PACKAGES = (
    "containerd", "containernetworking-plugins", "etcd-server", "runc", "snapd", "openssl", "iptables",
    "iproute2", "ipset", "conntrack",
)  # fmt: skip
LIBRARIES = (
    "libc6", "libssl3", "libseccomp2", "libxtables12", "libip4tc2", "libip6tc2", "libmnl0",
    "libnetfilter-conntrack3", "libnfnetlink0", "libnftnl11", "libbpf1", "libelf1", "libbsd0",
    "libmd0", "libcap2", "libselinux1", "libpcre2-8-0", "zlib1g", "libtirpc3", "libipset13",
)  # fmt: skip
IPTABLES = (
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
)
PROGRAMS = {
    "bin/containerd": "usr/bin/containerd",
    "bin/containerd-shim-runc-v2": "usr/bin/containerd-shim-runc-v2",
    "bin/ctr": "usr/bin/ctr",
    "bin/runc": "usr/sbin/runc",
    "etcd": "usr/bin/etcd",
    "usr/bin/openssl": "usr/bin/openssl",
    "usr/sbin/xtables-legacy-multi": "usr/sbin/xtables-legacy-multi",
    "usr/sbin/ipset": "usr/sbin/ipset",
    "usr/sbin/conntrack": "usr/sbin/conntrack",
}
# The C library of the host stays in use: another one beside its dynamic loader would crash.
HOST_LIBRARIES = re.compile(r"^(libc|libm|libdl|libpthread|librt|libresolv|ld-linux.*)[.-].*$")


def inputs() -> list[Path]:
    """The files that decide what comes out, apart from Debian's own and kubelite and kubectl."""
    listed = [
        HERE / "build.py",
        HERE.parent / "oci.py",
        HERE.parent / "imagebuild.py",
        imagebuild.WORKLOADS / "pause.c",
    ]
    trees = (HERE / "tree", HERE / "cmd", DEFAULT_NETWORK)
    files = [
        path
        for tree in trees
        for path in tree.rglob("*")
        if path.is_file() and not SKIPPED.intersection(path.parts) and not path.name.endswith("_test.go")
    ]
    return [*listed, *sorted(files), *kubernetes.inputs()]


def build(out_dir: Path, work_dir: Path, log: Log, *, kubernetes_dir: Path) -> None:
    """Write the OUTPUTS to out_dir; kubernetes_dir holds kubelite and kubectl. Raises LabError."""
    missing = [name for name in kubernetes.OUTPUTS if not (kubernetes_dir / name).is_file()]
    if missing:
        raise LabError(f"{kubernetes_dir} lacks {', '.join(missing)}", "Build lab.kubernetes first")
    for directory in (out_dir, work_dir):
        directory.mkdir(parents=True, exist_ok=True)
    debian = work_dir / "debian"
    Archive(work_dir / "apt", log).unpack([*PACKAGES, *LIBRARIES], debian)
    log("packing the base and snapd")
    pack(base_tree(work_dir / BASE), out_dir / f"{BASE}.snap")
    pack(snapd_tree(debian, work_dir / "snapd"), out_dir / "snapd.snap")
    tree = microk8s_tree(debian, kubernetes_dir, work_dir / "microk8s", log)
    build_images(debian, tree / "images", work_dir, log)
    log("packing microk8s")
    pack(tree, out_dir / "microk8s.snap")


def pack(tree: Path, target: Path) -> None:
    """Make a squashfs. lz4: nodes unpack it at every start, and it is never sent far. Raises LabError."""
    target.unlink(missing_ok=True)
    process.run(
        ["mksquashfs", tree, target, "-noappend", "-comp", "lz4", "-no-fragments", "-no-progress",
         "-all-root", "-no-xattrs", "-mkfs-time", "0", "-all-time", "0"],
        what=f"packing {target.name}",
    )  # fmt: skip


def base_tree(tree: Path) -> Path:
    """An empty base: a classic snap runs on the host's files, snapd only wants the base to be installed."""
    for name in ("meta", "dev", "etc", "proc", "run", "snap", "sys", "tmp", "usr/lib/snapd", "var"):
        (tree / name).mkdir(parents=True)
    (tree / "meta" / "snap.yaml").write_text(
        f"name: {BASE}\nversion: '20'\nsummary: Empty base\n"
        "description: Empty base of the lab's classic snap\ntype: base\n"
        "architectures: [amd64]\nconfinement: strict\ngrade: stable\n"
    )
    return tree


def snapd_tree(debian: Path, tree: Path) -> Path:
    """Debian's snapd as a snap of type snapd, which snaps with a base cannot be installed without."""
    for name in ("usr/lib/snapd", "usr/lib/systemd", "usr/bin", "usr/share", "lib", "etc"):
        source = debian / name
        if source.is_dir() and not name.startswith(("lib", "etc", "usr/bin", "usr/share")):
            shutil.copytree(source, tree / name, symlinks=True)
    (tree / "usr" / "bin").mkdir(parents=True)
    for name in ("snap", "snapctl"):
        shutil.copy2(debian / "usr" / "bin" / name, tree / "usr" / "bin" / name, follow_symlinks=False)
    shutil.copytree(debian / "lib" / "systemd", tree / "lib" / "systemd", symlinks=True)
    found = re.search(r"^VERSION=(\S+)", (debian / "usr/lib/snapd/info").read_text(), re.MULTILINE)
    if not found:
        raise LabError("Debian's snapd does not say its version in usr/lib/snapd/info")
    (tree / "meta").mkdir()
    (tree / "meta" / "snap.yaml").write_text(
        f"name: snapd\nversion: '{found.group(1)[:32]}'\nsummary: Debian's snapd\n"
        "description: Debian's snapd, repacked as a snap\ntype: snapd\narchitectures: [amd64]\n"
        "confinement: strict\ngrade: stable\n"
    )
    return tree


def microk8s_tree(debian: Path, kubernetes_dir: Path, tree: Path, log: Log) -> Path:
    """The contents of the microk8s snap, but for the images."""
    shutil.copytree(HERE / "tree", tree, symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
    fill_in(tree / "meta" / "snap.yaml", {"VERSION": f"v{kubernetes.VERSION}"})
    fill_in(tree / "default-args" / "containerd-template.toml", {"PAUSE_IMAGE": imagebuild.PAUSE})
    fill_in(tree / "actions" / "cni.yaml", {"DEFAULT_NETWORK_IMAGE": DEFAULT_NETWORK_IMAGE})
    for name in kubernetes.OUTPUTS:
        shutil.copy2(kubernetes_dir / name, tree / name)
    for place, source in PROGRAMS.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(debian / source, tree / place)
    log("compiling apiserver-proxy")
    compile_go(HERE / "cmd" / "apiserver-proxy", tree / "bin" / "apiserver-proxy", tree.parent)
    shutil.copytree(debian / "usr" / "lib" / "cni", tree / "opt" / "cni" / "bin", symlinks=True)
    libraries = tree / "usr" / "lib" / TRIPLET
    libraries.mkdir(parents=True)
    for library in needed_libraries(debian, [debian / source for source in PROGRAMS.values()]):
        if not HOST_LIBRARIES.match(library.name):
            shutil.copy2(library, libraries / library.name)
    shutil.copytree(debian / "usr/lib" / TRIPLET / "xtables", libraries / "xtables", symlinks=True)
    # The only iptables here is the legacy one; the snap's directories come first in the services' PATH.
    (tree / "sbin").mkdir()
    for name in IPTABLES:
        shutil.copy2(tree / "bin" / "iptables-wrapper", tree / "sbin" / name)
    (tree / "bin" / "iptables-wrapper").unlink()
    return tree


def fill_in(path: Path, values: dict[str, str]) -> None:
    """Replace @NAME@ by its value. Raises LabError when a name does not occur."""
    text = path.read_text()
    for name, value in values.items():
        if f"@{name}@" not in text:
            raise LabError(f"{path} does not mention @{name}@")
        text = text.replace(f"@{name}@", value)
    path.write_text(text)


def compile_go(source: Path, target: Path, work_dir: Path) -> None:
    """Compile a static program that needs the standard library alone. Raises LabError."""
    process.run(
        ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", target, "."],
        what=f"compiling {source.name}",
        env=kubernetes.go_environment(work_dir),
        cwd=source,
    )


def needed_libraries(root: Path, programs: Iterable[Path]) -> list[Path]:
    """The shared libraries that programs load, found in the unpacked packages below root. Raises LabError."""
    paths = ":".join(str(root / place / TRIPLET) for place in ("lib", "usr/lib"))
    loader = root / "lib" / TRIPLET / "ld-linux-x86-64.so.2"
    found: set[Path] = set()
    for program in programs:
        listed = process.run([loader, "--library-path", paths, "--list", program], check=False)
        if (
            "not a dynamic executable" in listed.stdout + listed.stderr
            or "statically linked" in listed.stdout
        ):
            continue
        if listed.returncode != 0 or "not found" in listed.stdout:
            raise LabError(
                f"{program.name} needs a library that no package has:\n{listed.stdout}{listed.stderr}",
                "Add its package to LIBRARIES in lab/snap/build.py",
            )
        found.update(Path(match) for match in re.findall(r"=> (/\S+)", listed.stdout))
    return sorted(found)


def build_images(debian: Path, directory: Path, work_dir: Path, log: Log) -> None:
    """The images the snap brings along: the pods' sandbox and the default network. Raises LabError."""
    directory.mkdir(parents=True)
    imagebuild.build_pause(directory, log)
    log("building the default network's image")
    tree = work_dir / "default-network"
    compile_go_dir = tree / "usr" / "local" / "bin"
    compile_go_dir.mkdir(parents=True)
    compile_go(DEFAULT_NETWORK, compile_go_dir / "default-network", work_dir)
    programs = {"sbin/ip": debian / "bin/ip", "sbin/iptables": debian / "usr/sbin/xtables-legacy-multi"}
    (tree / "sbin").mkdir()
    for place, source in programs.items():
        shutil.copy2(source, tree / place, follow_symlinks=True)
    libraries = tree / "lib" / TRIPLET
    libraries.mkdir(parents=True)
    for library in needed_libraries(debian, programs.values()):
        shutil.copy2(library, libraries / library.name)
    (tree / "lib64").mkdir()
    shutil.copy2(debian / "lib" / TRIPLET / "ld-linux-x86-64.so.2", tree / "lib64")
    plugins = tree / "usr" / "lib" / TRIPLET / "xtables"
    plugins.mkdir(parents=True)
    for name in ("libxt_standard.so", "libxt_NAT.so", "libxt_MASQUERADE.so"):
        shutil.copy2(debian / "usr/lib" / TRIPLET / "xtables" / name, plugins / name)
    (tree / "run").mkdir()  # iptables' lock
    oci.image(
        directory / "default-network.tar",
        DEFAULT_NETWORK_IMAGE,
        tree,
        entrypoint=["/usr/local/bin/default-network"],
    )


def main() -> int:
    """Build into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kubernetes", type=Path, required=True, help="directory with kubelite and kubectl")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="podwire-snap-", dir="/var/tmp") as work:
            build(
                options.out.resolve(),
                Path(work),
                lambda line: print(line, flush=True),
                kubernetes_dir=options.kubernetes.resolve(),
            )
    except LabError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
