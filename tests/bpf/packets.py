"""Packets as tests want to write them, and what is true of every well-formed one."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, UDPerror
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from tests.bpf.node import HOST_MAC, POD_A, Pod

TCP_PROTO, UDP_PROTO, ICMP_PROTO, SCTP_PROTO = 6, 17, 1, 132
OUTSIDE_MAC = "0e:00:00:00:00:01"


def frame(source_mac: str = POD_A.mac) -> Ether:
    return Ether(src=source_mac, dst=HOST_MAC)


def of(pod: Pod) -> Ether:
    """Frame that a pod sends."""
    return frame(pod.mac)


def outside() -> Ether:
    """Frame that arrives at (or leaves by) the node's device."""
    return frame(OUTSIDE_MAC)


def tcp(
    source: str, destination: str, sport: int = 40000, dport: int = 80, flags: str = "S", **ip: Any
) -> Packet:
    return (
        IP(src=source, dst=destination, **ip) / TCP(sport=sport, dport=dport, flags=flags) / Raw(b"payload")
    )


def udp(
    source: str, destination: str, sport: int = 40000, dport: int = 53, data: bytes = b"x", **ip: Any
) -> Packet:
    return IP(src=source, dst=destination, **ip) / UDP(sport=sport, dport=dport) / Raw(data)


def ping(source: str, destination: str, ident: int = 7, reply: bool = False, **ip: Any) -> Packet:
    return (
        IP(src=source, dst=destination, **ip) / ICMP(type=0 if reply else 8, id=ident, seq=1) / Raw(b"p" * 24)
    )


def crc32c(data: bytes) -> int:
    """SCTP's checksum, bit by bit (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp(source: str, destination: str, sport: int, dport: int, data: bytes = b"", **ip: Any) -> Packet:
    """With a right checksum, which checked() verifies."""
    ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    rest = bytes.fromhex("1234567801000014") + data
    checksum = crc32c(ports + rest[:4] + bytes(4) + rest[4:]).to_bytes(4, "little")
    return IP(src=source, dst=destination, proto=132, **ip) / Raw(ports + rest[:4] + checksum + rest[4:])


def error(
    source: str, destination: str, about: Packet, *, kind: int = 3, code: int = 4, quote: int = 548
) -> Packet:
    """ICMP error about a packet, quoting its first ``quote`` bytes (IP header included)."""
    message = ICMP(type=kind, code=code, nexthopmtu=1400) if kind == 3 else ICMP(type=kind, code=code)
    return IP(src=source, dst=destination) / message / Raw(bytes(about)[:quote])


def checked(packet: Packet) -> Packet:
    """The IP packet, after its checksums were found to be right (what ICMP errors quote included)."""
    ip = IP(bytes(packet[IP]))
    fresh = IP(bytes(ip))
    for layer, name in ((IP, "chksum"), (TCP, "chksum"), (UDP, "chksum"), (ICMP, "chksum")):
        if fresh.haslayer(layer):
            given = getattr(ip[layer], name)
            if layer is UDP and given == 0:
                continue
            delattr(fresh[layer], name)
            expected = getattr(IP(bytes(fresh))[layer], name)
            assert given == expected, f"{layer.__name__} checksum {given:#x} should be {expected:#x}"
    if ip.proto == SCTP_PROTO and not ip.frag and not ip.flags.MF:
        whole = bytes(ip)[ip.ihl * 4 : ip.len]
        given, whole = whole[8:12], whole[:8] + bytes(4) + whole[12:]
        assert given in (bytes(4), crc32c(whole).to_bytes(4, "little")), "SCTP checksum"
    if ip.haslayer(ICMP) and ip.haslayer(IPerror):
        quoted = bytes(ip[IPerror])
        header = IP(quoted[: (quoted[0] & 15) * 4])
        given = header.chksum
        del header.chksum
        assert given == IP(bytes(header)).chksum, "checksum of the quoted IP header"
        if len(quoted) == IP(quoted).len and (ip.haslayer(TCPerror) or ip.haslayer(UDPerror)):
            checked(Ether() / IP(quoted))
    return ip


__all__ = ["ICMP", "IP", "SCTP", "TCP", "UDP", "Ether", "Raw"]


def ends(packet: Packet) -> tuple[str, int, str, int]:
    """Source and destination of a packet whose checksums are right."""
    ip = checked(packet)
    layer = ip[TCP] if ip.haslayer(TCP) else ip[UDP]
    return ip.src, layer.sport, ip.dst, layer.dport
