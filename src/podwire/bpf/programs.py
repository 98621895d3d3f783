"""Loaded BPF programs: description and test runs."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._ffi import ffi, last_errno, lib
from .btf import Btf, Kind
from .codec import Codec, codec_for
from .errors import BpfError
from .handle import Handle, kernel_btf, object_info

if TYPE_CHECKING:
    from typing_extensions import Self

SCHED_CLS = 3
CGROUP_SOCK_ADDR = 18
_MAX_PACKET = 65536 + 512


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says about a program. ``tag`` hashes its instructions, ``map_ids`` are what it uses."""

    id: int
    type: int
    tag: str
    name: str
    map_ids: tuple[int, ...]
    btf_id: int
    xlated_bytes: int
    jited_bytes: int
    verified_instructions: int
    run_time_ns: int
    run_count: int


@dataclass(frozen=True, slots=True)
class TestRun:
    """Outcome of a test run: return value, packet and context afterwards, mean duration of one run in ns."""

    __test__ = False  # not a test class for pytest

    retval: int
    data: bytes
    ctx: dict[str, Any] | None
    duration_ns: int


class Program(Handle):
    """A program in the kernel."""

    def __init__(self, fd: int, label: str, btf: Btf | None = None) -> None:
        super().__init__(fd, label)
        self._btf = btf

    @classmethod
    def by_id(cls, number: int) -> Self:
        """Open a program by the id that a link's or device's own description gave."""
        fd = lib().bpf_prog_get_fd_by_id(number)
        if fd < 0:
            raise BpfError("open", f"program id {number}", last_errno(fd))
        return cls(fd, f"id {number}")

    @property
    def info(self) -> ProgramInfo:
        """Fresh description (counters move)."""
        first = object_info(self.fd, "bpf_prog_info", f"program {self.label}")
        ids = ffi.new("__u32[]", max(1, first.nr_map_ids))
        request = ffi.new("struct bpf_prog_info *")
        request.nr_map_ids = first.nr_map_ids
        request.map_ids = int(ffi.cast("uintptr_t", ids))
        info = object_info(self.fd, "bpf_prog_info", f"program {self.label}", request)
        return ProgramInfo(
            info.id, info.type, bytes(info.tag).hex(), ffi.string(info.name).decode(),
            tuple(ids[i] for i in range(min(info.nr_map_ids, first.nr_map_ids))), info.btf_id,
            info.xlated_prog_len, info.jited_prog_len, info.verified_insns, info.run_time_ns, info.run_cnt,
        )  # fmt: skip

    @property
    def id(self) -> int:
        """Kernel-wide id, never used twice while the kernel runs (it counts up)."""
        return int(object_info(self.fd, "bpf_prog_info", f"program {self.label}").id)

    @functools.cached_property
    def btf(self) -> Btf:
        """Type information the program was loaded with."""
        return self._btf or kernel_btf(self.info.btf_id, f"program {self.label}")

    @functools.cached_property
    def context(self) -> Codec:
        """Converter of ``struct __sk_buff``, from the program's own type information."""
        found = self.btf.find("__sk_buff", Kind.STRUCT)
        if found is None:
            raise BpfError("find", f"struct __sk_buff in program {self.label}")
        return codec_for(self.btf, found.id)

    def test_run(
        self, data: bytes, *, ctx: dict[str, Any] | None = None, repeat: int = 1, room: int = 256
    ) -> TestRun:
        """Run the program on a packet (BPF_PROG_TEST_RUN), without attaching it anywhere.

        ``data`` starts at the Ethernet header (at least 14 bytes). ``ctx`` sets fields of ``__sk_buff`` that
        the kernel lets be set (mark, cb, ifindex, ingress_ifindex, priority, gso_size, ...), and asks for
        them back. ``room`` is how much the packet may grow, in bytes.
        """
        options = ffi.new("struct bpf_test_run_opts *")
        options.sz = ffi.sizeof("struct bpf_test_run_opts")
        packet = ffi.from_buffer(data)
        output = ffi.new("char[]", min(len(data) + room, _MAX_PACKET))
        options.data_in, options.data_size_in = packet, len(data)
        options.data_out, options.data_size_out = output, len(output)
        options.repeat = repeat
        context_in = context_out = None
        if ctx is not None:
            context_in = ffi.new("char[]", self.context.encode(ctx))  # one byte more than the struct
            context_out = ffi.new("char[]", self.context.size)
            options.ctx_in, options.ctx_size_in = context_in, self.context.size
            options.ctx_out, options.ctx_size_out = context_out, self.context.size
        result = lib().bpf_prog_test_run_opts(self.fd, options)
        if result < 0:
            raise BpfError("test-run", f"program {self.label}", last_errno(result))
        after = None if context_out is None else self.context.decode(ffi.buffer(context_out)[:])
        retval = struct.unpack("<i", struct.pack("<I", options.retval))[0]
        return TestRun(retval, ffi.buffer(output, options.data_size_out)[:], after, options.duration)


def load_instructions(kind: int, name: str, instructions: bytes, license_: str = "GPL") -> Program:
    """Load bare instructions (8 bytes each): for trials and tests that need no object file."""
    count = len(instructions) // 8
    fd = lib().bpf_prog_load(kind, name.encode(), license_.encode(), instructions, count, ffi.NULL)
    if fd < 0:
        raise BpfError("load", f"program {name}", last_errno(fd))
    return Program(fd, name)
