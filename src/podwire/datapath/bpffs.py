"""The BPF file system that holds the pins: found, or mounted when missing."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from pathlib import Path

from .errors import DatapathError

_MAGIC = 0xCAFE4A11


class _Statfs(ctypes.Structure):
    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_char * 256)]


def is_bpffs(path: Path) -> bool:
    """Does ``path`` lie in a BPF file system?"""
    result = _Statfs()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), ctypes.byref(result)) != 0:
        return False
    return int(result.f_type) & 0xFFFFFFFF == _MAGIC


def mount(path: Path) -> None:
    """Mount a BPF file system at ``path``; raises DatapathError."""
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir(parents=True, exist_ok=True)
    if libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
        raise DatapathError(
            f"cannot mount the BPF file system at {path}: {os.strerror(ctypes.get_errno())}",
            "Mount it by hand (mount -t bpf bpf /sys/fs/bpf) as root; a container needs --privileged.",
        )


def unmount(path: Path) -> None:
    """Unmount ``path``; raises DatapathError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), 0) != 0:
        raise DatapathError(f"cannot unmount {path}: {os.strerror(ctypes.get_errno())}")


def ensure(pin_root: Path) -> bool:
    """Make sure that ``pin_root`` can hold pins; returns True when its parent had to be mounted."""
    nearest = pin_root
    while not nearest.exists():
        nearest = nearest.parent
    if is_bpffs(nearest):
        return False
    mount(pin_root.parent)
    return True
