"""Binding to libbpf: objects, maps, programs, links, tc filters, ring buffers, typed by BTF.

Knows nothing of podwire's datapath. Calls block and release the interpreter lock; handles may be used from
any thread, one at a time.
"""

from ._ffi import LibraryNotFound
from .btf import Btf
from .codec import Codec, codec_for
from .errors import BpfError, LayoutError, LoadError
from .links import Link, LinkInfo, SocketHook, Tcx
from .maps import Map, MapInfo, MapType, Update, possible_cpus
from .objects import BpfObject, MapDeclaration
from .programs import Program, ProgramInfo, TestRun
from .ringbuf import RingBuffer
from .tc import TcHook

__all__ = [
    "BpfError",
    "BpfObject",
    "Btf",
    "Codec",
    "LayoutError",
    "LibraryNotFound",
    "Link",
    "LinkInfo",
    "LoadError",
    "Map",
    "MapDeclaration",
    "MapInfo",
    "MapType",
    "Program",
    "ProgramInfo",
    "RingBuffer",
    "SocketHook",
    "TcHook",
    "Tcx",
    "TestRun",
    "Update",
    "codec_for",
    "possible_cpus",
]
