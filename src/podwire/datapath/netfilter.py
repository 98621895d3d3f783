"""What netfilter must put up with once host routing is ``legacy``.

netfilter follows the sequence window of every TCP connection that it meets. While eBPF carries the packets it
sees none of them; after a switch back to ``legacy`` they lie outside the window that it remembers, it calls
them invalid, and kube-proxy drops what is invalid: the connection would stall. So the node is told to let
packets outside the window pass. The two ends judge sequence numbers themselves, as they do anyway.

A node that was never in ``legacy`` mode is left alone. One that was keeps the settings until podwire is
removed: under eBPF, too, the stack forwards a connection's odd packets (IP options, fragments to be made).
"""

from __future__ import annotations

from podwire.net import sysctl

from .errors import DatapathError

LENIENT = (
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    # The first one excepts resets. Since Linux 5.14.
    "net/netfilter/nf_conntrack_tcp_ignore_invalid_rst",
)
_OFF, _ON = "0", "1"


def strict() -> list[str]:
    """Settings that are off in the caller's network namespace.

    A setting that is missing needs nothing: the kernel is older, or connection tracking is not loaded, and
    then it has no connection to be wrong about."""
    return [name for name in LENIENT if sysctl.read(name) == _OFF]


def set_lenient(name: str) -> None:
    """Turn a setting on. Raises DatapathError."""
    _write(name, _ON)


def to_restore(changed: tuple[str, ...]) -> list[str]:
    """Which of the settings that were turned on still are: another value is somebody else's."""
    return [name for name in changed if sysctl.read(name) == _ON]


def restore(name: str) -> None:
    """Turn a setting off again. Raises DatapathError."""
    _write(name, _OFF)


def shown(name: str) -> str:
    """The name as sysctl(8) prints it."""
    return name.replace("/", ".")


def _write(name: str, value: str) -> None:
    try:
        sysctl.write(name, value)
    except OSError as error:
        raise DatapathError(
            f"cannot set {shown(name)} to {value}: {error.strerror}",
            "Run as root with a writable /proc/sys; a container needs --privileged.",
        ) from error
