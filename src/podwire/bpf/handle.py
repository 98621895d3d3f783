"""File descriptors of kernel objects: ownership, pins, type information of what they refer to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._ffi import ffi, last_errno, lib
from .btf import Btf
from .closing import Closing
from .errors import BpfError

if TYPE_CHECKING:
    from typing_extensions import Self


class Handle(Closing):
    """Owner of one BPF file descriptor; closing it twice is harmless. ``label`` names it in messages."""

    def __init__(self, fd: int, label: str) -> None:
        self.fd = fd
        self.label = label

    @classmethod
    def pinned(cls, path: Path) -> Self:
        """Open what is pinned at ``path``; raises BpfError (``errno`` ENOENT when there is nothing)."""
        return cls(open_pin(path), path.name)

    def pin(self, path: Path) -> None:
        """Keep the object alive under ``path`` in a BPF file system; raises BpfError (EEXIST when taken)."""
        result = lib().bpf_obj_pin(self.fd, os.fsencode(path))
        if result < 0:
            raise BpfError("pin", f"{self.label} at {path}", last_errno(result))

    def close(self) -> None:
        """Give the descriptor back. A pinned or attached object lives on."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close()


def open_pin(path: Path) -> int:
    """Descriptor of what is pinned at ``path``."""
    fd: int = lib().bpf_obj_get(os.fsencode(path))
    if fd < 0:
        raise BpfError("open", str(path), last_errno(fd))
    return fd


def object_info(fd: int, struct_name: str, subject: str, prepared: Any = None) -> Any:
    """``bpf_obj_get_info_by_fd``: the kernel's description of an object, as the C struct."""
    info = prepared if prepared is not None else ffi.new(f"struct {struct_name} *")
    size = ffi.new("__u32 *", ffi.sizeof(f"struct {struct_name}"))
    result = lib().bpf_obj_get_info_by_fd(fd, info, size)
    if result < 0:
        raise BpfError("describe", subject, last_errno(result))
    return info


def kernel_btf(btf_id: int, subject: str) -> Btf:
    """The BTF that was loaded with an object, from the id in the object's own description."""
    fd = lib().bpf_btf_get_fd_by_id(btf_id)
    if fd < 0:
        raise BpfError("open type information of", subject, last_errno(fd))
    with Handle(fd, f"BTF of {subject}") as handle:
        size = object_info(handle.fd, "bpf_btf_info", handle.label).btf_size
        data = ffi.new("char[]", size)
        request = ffi.new("struct bpf_btf_info *")
        request.btf = int(ffi.cast("uintptr_t", data))
        request.btf_size = size
        object_info(handle.fd, "bpf_btf_info", handle.label, request)
        return Btf(bytes(ffi.buffer(data)))
