"""``toPorts`` and ``icmps`` of Cilium's policies. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from podwire.policy.model import PROTOCOL_ICMP, NamedPort, Port, PortRange
from podwire.policy.parse_common import (
    LAST_PORT,
    PROTOCOLS,
    Notes,
    is_port_name,
    items,
    join,
    mapping,
    number,
    shown,
    string,
)

MOST_PORTS = 40
_PORT_RULE = ("ports", "rules", "serverNames", "listener", "terminatingTLS", "originatingTLS")
_DENY_PORT_RULE = ("ports",)
_PORT = ("port", "endPort", "protocol")
_L7 = ("http", "dns", "kafka", "l7", "l7proto")
_L4_INSTEAD = "not supported yet; leave it out to allow the whole port, or allow the port to fewer peers"
_ICMP_TYPES: Mapping[str, int] = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}
_ICMP6_TYPES = (
    "DestinationUnreachable", "PacketTooBig", "TimeExceeded", "ParameterProblem", "EchoRequest", "EchoReply",
    "MulticastListenerQuery", "MulticastListenerReport", "MulticastListenerDone", "RouterSolicitation",
    "RouterAdvertisement", "NeighborSolicitation", "NeighborAdvertisement", "RedirectMessage",
    "RouterRenumbering", "ICMPNodeInformationQuery", "ICMPNodeInformationResponse",
    "InverseNeighborDiscoverySolicitation", "InverseNeighborDiscoveryAdvertisement",
    "HomeAgentAddressDiscoveryRequest", "HomeAgentAddressDiscoveryReply", "MobilePrefixSolicitation",
    "MobilePrefixAdvertisement", "DuplicateAddressRequestCodeSuffix",
    "DuplicateAddressConfirmationCodeSuffix", "ExtendedEchoRequest", "ExtendedEchoReply",
)  # fmt: skip


def ports_and_icmps(
    entry: Mapping[str, Any], place: str, notes: Notes, *, ingress: bool, deny: bool
) -> tuple[Port, ...] | None:
    """Ports of an entry; None (all, ICMP too) when it names none."""
    read: list[Port] = []
    given = []
    for field, reader in (("toPorts", _port_rule), ("icmps", _icmp_rule)):
        if field not in entry:
            continue
        here = join(place, field)
        listed = list(items(entry[field], here, notes))
        if listed:
            given.append(field)
        for where, item in listed:
            read.extend(reader(item, where, notes, ingress, deny))
    if len(given) > 1:
        notes.error(place, "toPorts and icmps cannot stand in one entry; write one entry for each")
    return tuple(dict.fromkeys(read)) if given else None


def _port_rule(item: object, place: str, notes: Notes, ingress: bool, deny: bool) -> list[Port]:
    fields = mapping(item, place, notes, _DENY_PORT_RULE if deny else _PORT_RULE)
    here = join(place, "ports")
    listed = list(items(fields["ports"], here, notes)) if "ports" in fields else []
    if len(listed) > MOST_PORTS:
        notes.error(
            here, f"at most {MOST_PORTS} ports, not {len(listed)}; use endPort, or more items of toPorts"
        )
        listed = listed[:MOST_PORTS]
    if not deny:
        _refuse_l7(fields, place, notes, ingress)
    return [port for where, value in listed for port in _port(value, where, notes)]


def _port(value: object, place: str, notes: Notes) -> list[Port]:
    fields = mapping(value, place, notes, _PORT)
    if not isinstance(value, Mapping):
        return []
    protocols = _protocols(fields.get("protocol", ""), join(place, "protocol"), notes)
    here = join(place, "port")
    if fields.get("port", "") == "":
        notes.error(here, 'must be given: a number from "0" (all ports) to "65535" or the name of a port')
        return []
    written = string(fields["port"], here, notes)
    end = number(fields["endPort"], join(place, "endPort"), notes, 0, LAST_PORT) if "endPort" in fields else 0
    if written.isascii() and written.isdigit():
        return _numbered(written, end or 0, protocols, place, notes)
    if written and not is_port_name(written):
        notes.error(
            here,
            f"{shown(written)} is neither a number from 0 to {LAST_PORT} nor the name of a port (at most 15 "
            "letters, digits and single hyphens; a letter among them). A range is port and endPort",
        )
        return []
    if end:
        notes.error(join(place, "endPort"), "needs a port that is a number")
    return [NamedPort(protocol, written.lower()) for protocol in protocols] if written else []


def _numbered(written: str, end: int, protocols: tuple[int, ...], place: str, notes: Notes) -> list[Port]:
    here = join(place, "port")
    if len(written) > 5 or int(written) > LAST_PORT or (written[0] == "0" and written != "0"):
        notes.error(here, f"{shown(written)} is not a number from 0 to {LAST_PORT} without leading zeros")
        return []
    first = int(written)
    if end and first == 0:
        notes.error(
            join(place, "endPort"), 'port "0" means all ports already; leave endPort out, or start at "1"'
        )
        return []
    if end and end < first:
        notes.error(join(place, "endPort"), f"{end} is below port {first}")
        return []
    last = LAST_PORT if first == 0 else end or first
    return [PortRange(protocol, first, last) for protocol in protocols]


def _protocols(value: object, place: str, notes: Notes) -> tuple[int, ...]:
    """ANY, and nothing at all, are the three protocols that have ports."""
    written = string(value, place, notes).upper()
    if written in ("", "ANY"):
        return tuple(PROTOCOLS.values())
    if written in PROTOCOLS:
        return (PROTOCOLS[written],)
    if written in ("ICMP", "ICMPV6"):
        notes.error(place, "ICMP has no ports; use icmps in an entry of its own")
    else:
        notes.error(place, f"must be one of TCP, UDP, SCTP, ANY, not {shown(value)}")
    return ()


# -- what comes with the proxy ---------------------------------------------------------------------


def _refuse_l7(fields: Mapping[str, Any], place: str, notes: Notes, ingress: bool) -> None:
    """Ignoring any of these would allow more than the policy says."""
    if "rules" in fields:
        _refuse_rules(fields, join(place, "rules"), notes, ingress)
    if "serverNames" in fields:
        here = join(place, "serverNames")
        names = list(items(fields["serverNames"], here, notes))
        for where, name in names:
            if name == "":
                notes.error(where, "an empty server name matches nothing")
        if names:
            notes.error(here, _L4_INSTEAD)
    for name in ("listener", "terminatingTLS", "originatingTLS"):
        if name in fields:
            notes.error(join(place, name), _L4_INSTEAD)


def _refuse_rules(fields: Mapping[str, Any], place: str, notes: Notes, ingress: bool) -> None:
    rules = mapping(fields["rules"], place, notes, _L7)
    given = [name for name in _L7 if rules.get(name) not in ([], "") and name in rules]
    if len(set(given) - {"l7"}) > 1:
        notes.error(place, f"one kind of rules at most, not {' and '.join(given)}")
    for name in given:
        if name == "dns" and ingress:
            notes.error(join(place, name), "dns rules are for egress only")
        elif name != "dns" and not _only_tcp(fields.get("ports")):
            notes.error(join(place, name), "needs protocol TCP, written out, at every port of this item")
        notes.error(join(place, name), _L4_INSTEAD)


def _only_tcp(ports: object) -> bool:
    listed = ports if isinstance(ports, list) else []
    return all(isinstance(port, Mapping) and str(port.get("protocol")).upper() == "TCP" for port in listed)


# -- ICMP ------------------------------------------------------------------------------------------


def _icmp_rule(item: object, place: str, notes: Notes, ingress: bool, deny: bool) -> list[Port]:
    fields = mapping(item, place, notes, ("fields",))
    here = join(place, "fields")
    listed = list(items(fields["fields"], here, notes)) if "fields" in fields else []
    if len(listed) > MOST_PORTS:
        notes.error(here, f"at most {MOST_PORTS} types, not {len(listed)}; write more items of icmps")
        listed = listed[:MOST_PORTS]
    return [port for where, value in listed for port in _icmp(value, where, notes)]


def _icmp(value: object, place: str, notes: Notes) -> list[Port]:
    fields = mapping(value, place, notes, ("family", "type"))
    if not isinstance(value, Mapping):
        return []
    family = string(fields.get("family", "IPv4"), join(place, "family"), notes) or "IPv4"
    if family not in ("IPv4", "IPv6"):
        notes.error(join(place, "family"), f"must be IPv4 or IPv6, not {shown(family)}")
        return []
    if "type" not in fields:
        notes.error(
            join(place, "type"), "must be given: a number from 0 to 255 or a name such as EchoRequest"
        )
        return []
    kind = _icmp_type(fields["type"], family, join(place, "type"), notes)
    if family == "IPv6":
        notes.warn(place, "pods have no IPv6 addresses: this matches nothing")
        return []
    return [] if kind is None else [PortRange(PROTOCOL_ICMP, kind, kind)]


def _icmp_type(value: object, family: str, place: str, notes: Notes) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return number(value, place, notes, 0, 255)
    written = string(value, place, notes)
    if written.isascii() and written.isdigit() and len(written) <= 3 and int(written) <= 255:
        return int(written)
    if family == "IPv4" and written in _ICMP_TYPES:
        return _ICMP_TYPES[written]
    known: Sequence[str] = _ICMP6_TYPES if family == "IPv6" else tuple(_ICMP_TYPES)
    if written not in known and isinstance(value, str):
        notes.error(
            place, f"{shown(value)} is no type of {family}; known are 0 to 255 and {', '.join(known)}"
        )
    return None
