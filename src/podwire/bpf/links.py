"""tcx links (kernel >= 6.6): an attachment that is a kernel object of its own, replaced atomically."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """``ifindex`` is 0 once the device is gone (or left the namespace it was attached in)."""

    id: int
    prog_id: int
    ifindex: int
    attach_type: int


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

    @property
    def info(self) -> LinkInfo:
        info = object_info(self.fd, "bpf_link_info", f"link {self.label}")
        return LinkInfo(info.id, info.prog_id, info.ifindex, info.attach_type)

    def update(self, program: Program) -> None:
        """Put another program in place; every packet sees the old one or the new one."""
        result = lib().bpf_link_update(self.fd, program.fd, ffi.NULL)
        if result < 0:
            raise BpfError("replace", f"the program of link {self.label}", last_errno(result))

    def detach(self) -> None:
        """End the attachment now, even if other descriptors or pins keep the link object."""
        result = lib().bpf_link_detach(self.fd)
        if result < 0 and last_errno(result) not in (errno.ENOLINK, errno.ENODEV):
            raise BpfError("detach", f"link {self.label}", last_errno(result))
