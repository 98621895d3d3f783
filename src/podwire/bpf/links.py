"""Links: an attachment that is a kernel object of its own, replaced atomically. To devices by tcx (kernel >=
6.6), to control groups (5.7)."""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._ffi import ffi, last_errno, lib
from .errors import BpfError
from .handle import Handle, object_info
from .programs import Program

if TYPE_CHECKING:
    from typing_extensions import Self


class Tcx(enum.IntEnum):
    """Attach points; the kernel's ``enum bpf_attach_type``."""

    INGRESS = 46
    EGRESS = 47


class SocketHook(enum.IntEnum):
    """What the sockets of a control group do, with IPv4 addresses and with IPv6 ones; the kernel's ``enum
    bpf_attach_type``."""

    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    RECVMSG4 = 19
    RECVMSG6 = 20
    GETPEERNAME4 = 29
    GETPEERNAME6 = 30


_CGROUP = 3  # BPF_LINK_TYPE_CGROUP


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """``ifindex`` is 0 for what is not attached to a device, and once the device is gone (or left the
    namespace it was attached in); likewise ``cgroup_id``, which is the inode number of the group's directory.
    """

    id: int
    prog_id: int
    ifindex: int
    attach_type: int
    cgroup_id: int = 0


class Link(Handle):
    """An attachment. Without a pin it ends when the last descriptor is closed."""

    @classmethod
    def tcx(cls, program: Program, ifindex: int, where: Tcx) -> Self:
        """Attach behind what is there already; raises BpfError (ENODEV: no such device in this namespace)."""
        fd = lib().bpf_link_create(program.fd, ifindex, int(where), ffi.NULL)
        if fd < 0:
            raise BpfError(
                "attach",
                f"program {program.label} to {where.name.lower()} of device {ifindex}",
                last_errno(fd),
            )
        return cls(fd, f"{program.label}@{ifindex}")

    @classmethod
    def cgroup(cls, program: Program, directory: Path, where: SocketHook) -> Self:
        """Attach to the sockets of a control group (version 2) and of those below it, beside what others
        attached; raises BpfError (EBADF: no such control group, EPERM: another's attachment forbids it)."""
        subject = f"program {program.label} to {where.name.lower()} of control group {directory}"
        try:
            group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BpfError("attach", subject, error.errno or 0) from error
        try:
            fd = lib().bpf_link_create(program.fd, group, int(where), ffi.NULL)
        finally:
            os.close(group)
        if fd < 0:
            raise BpfError("attach", subject, last_errno(fd))
        return cls(fd, f"{program.label}@{directory}")

    @property
    def info(self) -> LinkInfo:
        info = object_info(self.fd, "bpf_link_info", f"link {self.label}")
        if info.type == _CGROUP:
            return LinkInfo(info.id, info.prog_id, 0, info.cgroup.attach_type, info.cgroup.cgroup_id)
        return LinkInfo(info.id, info.prog_id, info.tcx.ifindex, info.tcx.attach_type)

    def update(self, program: Program) -> None:
        """Put another program in place; every packet and call sees the old one or the new one."""
        result = lib().bpf_link_update(self.fd, program.fd, ffi.NULL)
        if result < 0:
            raise BpfError("replace", f"the program of link {self.label}", last_errno(result))

    def detach(self) -> None:
        """End the attachment now, even if other descriptors or pins keep the link object."""
        result = lib().bpf_link_detach(self.fd)
        if result < 0 and last_errno(result) not in (errno.ENOLINK, errno.ENODEV):
            raise BpfError("detach", f"link {self.label}", last_errno(result))
