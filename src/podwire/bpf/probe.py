"""What can this kernel do? Answers by trying, never by version."""

from __future__ import annotations

import struct

from ._ffi import collect_messages, ffi, last_errno, lib
from .errors import BpfError
from .links import Link, Tcx
from .maps import MapType
from .programs import CGROUP_SOCK_ADDR, SCHED_CLS, load_instructions

HELPERS = {
    "redirect_neigh": 152,
    "redirect_peer": 155,
    "fib_lookup": 69,
    "ringbuf_output": 130,
    "ktime_get_boot_ns": 125,
    "get_netns_cookie": 122,
}
_LOOPBACK = 1  # every network namespace has it, always at this index
_TCX_NEXT = -1  # let the packet pass on: the trial must not touch traffic


def has_program_type(number: int = SCHED_CLS) -> bool:
    """Can programs of this type be loaded?"""
    return _answer(lib().libbpf_probe_bpf_prog_type, number)


def has_map_type(kind: MapType) -> bool:
    """Can maps of this type be created?"""
    return _answer(lib().libbpf_probe_bpf_map_type, int(kind))


def has_helper(name: str, program_type: int = SCHED_CLS) -> bool:
    """May a program of this type call helper ``name`` (a key of HELPERS)?"""
    return _answer(lib().libbpf_probe_bpf_helper, program_type, HELPERS[name])


def has_tcx() -> bool:
    """Can programs be attached by tcx links? Tried on the loopback device, passing all traffic."""
    with load_instructions(SCHED_CLS, "podwire_probe", return_constant(_TCX_NEXT)) as program:
        try:
            Link.tcx(program, _LOOPBACK, Tcx.INGRESS).close()
        except BpfError:
            return False
    return True


def has_socket_programs() -> bool:
    """Can programs translate the addresses of sockets, and know whose socket it is?"""
    return has_program_type(CGROUP_SOCK_ADDR) and has_helper("get_netns_cookie", CGROUP_SOCK_ADDR)


def return_constant(value: int) -> bytes:
    """Instructions of a program that only returns ``value``: ``r0 = value; exit``."""
    return struct.pack("<BBhi", 0xB7, 0, 0, value) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def _answer(probe: object, *arguments: int) -> bool:
    with collect_messages():
        result = probe(*arguments, ffi.NULL)  # type: ignore[operator]
    if result < 0:
        raise BpfError("probe", f"kernel feature {arguments}", last_errno(result))
    return bool(result)
