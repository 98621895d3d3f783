"""Run packet and loader tests on another kernel: ``python -m tests.kernels.run --kernel 6.1``."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "collections")]

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache  # noqa: E402
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import build  # noqa: E402
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError  # noqa: E402

from tests.bpf.objects import PREBUILT, compile_objects  # noqa: E402
from tests.kernels.image import ImageError, build_image  # noqa: E402
from tests.kernels.kernels import KernelError, get_kernel  # noqa: E402
from tests.kernels.machine import MachineError, run_machine  # noqa: E402

STANDINS = ROOT / "tests/integration/loader/objects"
# Two processes, of about the same length.
MOVED = ("tests/bpf/test_masquerade.py", "tests/bpf/test_delivery.py", "tests/bpf/test_policy.py")
FIRST = ("tests/bpf", *(f"--deselect={file}" for file in MOVED))
SECOND = (
    *MOVED,
    "tests/integration/loader/test_manager.py",
    "tests/integration/loader/test_sockets.py",
    "tests/integration/datapath/test_sockets.py",
)
# Variants of the stand-in objects that the loader's tests ask for.
VARIANTS = (
    (), ("WIDE",), ("BROKEN",), ("WIDE", "GENERATION=2"), *((f"GENERATION={n}",) for n in range(2, 6)),
)  # fmt: skip
ENVIRONMENT = {
    PREBUILT: "/objects/datapath",
    "PODWIRE_TEST_OBJECTS": "/objects/standins",
    "PODWIRE_TEST_NO_TCX": "1",
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when every test passed, 1 when one failed, 2 when the machine could not run them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default="6.1", help="version of Debian's cloud kernel (default: 6.1)")
    parser.add_argument(
        "--timeout", type=float, default=1800, help="seconds for boot and tests (default: 1800)"
    )
    parser.add_argument(
        "tests", nargs="*", help="arguments for pytest (default: the packet tests and the loader's)"
    )
    options, for_pytest = parser.parse_known_args(arguments)
    started = time.monotonic()
    try:
        status = _run(options.kernel, [*options.tests, *for_pytest], options.timeout)
    except (KernelError, ImageError, MachineError, PodwireError) as error:
        print(f"tests on kernel {options.kernel} could not run: {error}", file=sys.stderr)
        return 2
    verdict = "passed" if status == 0 else f"FAILED (pytest ended with {status})"
    print(f"tests on kernel {options.kernel} {verdict} in {time.monotonic() - started:.0f} s")
    return 0 if status == 0 else 1


def _run(version: str, tests: list[str], timeout: float) -> int:
    kernel = get_kernel(version, Cache(log=print))
    with tempfile.TemporaryDirectory(prefix="podwire-kernel-test-") as work:
        objects = {
            "objects/datapath": compile_objects(Path(work, "datapath")),
            **{
                f"objects/standins/{'-'.join(names) or 'plain'}": _standins(names, Path(work))
                for names in VARIANTS
            },
        }
        environment = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
        init = (Path(__file__).parent / "init.sh").read_text()
        halves = (tests, ["--version"]) if tests else (FIRST, SECOND)
        init = init.replace("@ENVIRONMENT@", environment)
        for place, half in zip(("@FIRST@", "@SECOND@"), halves, strict=True):
            init = init.replace(place, shlex.join(half))
        image = Path(work, "initramfs")
        image.write_bytes(build_image(kernel.modules, objects, init))
        print(
            f"booting {kernel.release} with {image.stat().st_size >> 20} MiB of Python and tests", flush=True
        )
        return run_machine(kernel.image, image, timeout=timeout)


def _standins(names: tuple[str, ...], work: Path) -> Path:
    return build(STANDINS, Cache(work / "standins"), lambda line: None, defines=names)


if __name__ == "__main__":
    sys.exit(main())
