"""Classic tc attachment (clsact qdisc and a direct-action filter) for kernels without tcx.

Every filter of podwire sits at one fixed handle and priority, so that a second attach replaces the first
atomically and a detach needs no state.
"""

from __future__ import annotations

import enum
import errno
from typing import Any

from ._ffi import collect_messages, ffi, last_errno, lib
from .errors import BpfError
from .programs import Program

HANDLE = 0x1
PRIORITY = 0x5057
_REPLACE = 1  # BPF_TC_F_REPLACE


class TcHook(enum.IntEnum):
    """``enum bpf_tc_attach_point``."""

    INGRESS = 1
    EGRESS = 2


def attach(program: Program, ifindex: int, hook: TcHook) -> bool:
    """Attach, or replace what this function attached before.

    Creates the clsact qdisc when missing, and says whether it did.
    """
    where = _hook(ifindex, hook)
    with collect_messages():
        result = lib().bpf_tc_hook_create(where)
        created = bool(result >= 0)
        if not created and last_errno(result) != errno.EEXIST:
            raise BpfError("create", f"clsact qdisc on device {ifindex}", last_errno(result))
        result = lib().bpf_tc_attach(where, _options(prog_fd=program.fd, flags=_REPLACE))
    if result < 0:
        raise BpfError(
            "attach", f"program {program.label} to device {ifindex} ({hook.name.lower()})", last_errno(result)
        )
    return created


def query(ifindex: int, hook: TcHook) -> int | None:
    """Id of the program attached by ``attach``; None when there is none (or no such device)."""
    options = _options()
    with collect_messages():
        result = lib().bpf_tc_query(_hook(ifindex, hook), options)
    if result < 0:
        number = last_errno(result)
        if number in (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise BpfError("query", f"tc filters of device {ifindex}", number)
    return int(options.prog_id)


def detach(ifindex: int, hook: TcHook) -> bool:
    """Remove the filter; False when there was none. The clsact qdisc stays: others may use it."""
    if query(ifindex, hook) is None:
        return False
    with collect_messages():
        result = lib().bpf_tc_detach(_hook(ifindex, hook), _options())
    if result < 0 and last_errno(result) not in (errno.ENOENT, errno.ENODEV):
        raise BpfError("detach", f"the {hook.name.lower()} filter of device {ifindex}", last_errno(result))
    return True


def remove_qdisc(ifindex: int) -> None:
    """Remove the clsact qdisc with every filter on it, whoever's they are."""
    where = _hook(ifindex, TcHook.INGRESS)
    where.attach_point = TcHook.INGRESS | TcHook.EGRESS
    with collect_messages():
        result = lib().bpf_tc_hook_destroy(where)
    if result < 0 and last_errno(result) not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
        raise BpfError("remove", f"clsact qdisc of device {ifindex}", last_errno(result))


def _hook(ifindex: int, hook: TcHook) -> Any:
    fields = {"sz": ffi.sizeof("struct bpf_tc_hook"), "ifindex": ifindex, "attach_point": int(hook)}
    return ffi.new("struct bpf_tc_hook *", fields)


def _options(**fields: int) -> Any:
    base = {"sz": ffi.sizeof("struct bpf_tc_opts"), "handle": HANDLE, "priority": PRIORITY}
    return ffi.new("struct bpf_tc_opts *", base | fields)
