"""Does the host use ports that belong to masqueraded connections of pods?"""

from __future__ import annotations

from podwire.net import sysctl

RANGE = "net/ipv4/ip_local_port_range"
RESERVED = "net/ipv4/ip_local_reserved_ports"


def problems(nat_first: int, nat_last: int) -> list[str]:
    """A sentence when the host may pick one of these ports for its own connections; it names the way out."""
    found = clash(sysctl.read(RANGE) or "", sysctl.read(RESERVED) or "", nat_first, nat_last)
    if not found:
        return []
    return [
        f"the host picks ports {found[0]}-{found[1]} for its own connections, and masquerading of pods uses "
        f"{nat_first}-{nat_last}: set net.ipv4.ip_local_port_range below {nat_first}, or add "
        f"{nat_first}-{nat_last} to net.ipv4.ip_local_reserved_ports"
    ]


def clash(port_range: str, reserved: str, nat_first: int, nat_last: int) -> tuple[int, int] | None:
    """First and last port that both may use, or None. Pure; takes the settings as the kernel shows them."""
    numbers = port_range.split()
    if len(numbers) != 2:
        return None
    first, last = max(int(numbers[0]), nat_first), min(int(numbers[1]), nat_last)
    kept_free = _ports(reserved)
    free = [port for port in range(first, last + 1) if port not in kept_free]
    return (free[0], free[-1]) if free else None


def _ports(text: str) -> set[int]:
    ports: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        ports.update(range(int(low), int(high or low) + 1))
    return ports
