"""Ports and ICMP types of Cilium's policies."""

from __future__ import annotations

import pytest

from podwire.policy.model import NamedPort, Port, PortRange

from .objects import cnp, only_entry

TCP, UDP, SCTP, ICMP = 6, 17, 132, 1


def ports(text: str, section: str = "ingress") -> tuple[Port, ...] | None:
    member = "fromEntities" if section.startswith("ingress") else "toEntities"
    return only_entry(cnp(f"{section}: [{{{member}: [all], {text}}}]")).ports


def every(first: int, last: int) -> tuple[PortRange, ...]:
    return tuple(PortRange(protocol, first, last) for protocol in (TCP, UDP, SCTP))


@pytest.mark.parametrize(
    ("port", "read"),
    [
        ("{port: '80', protocol: TCP}", (PortRange(TCP, 80, 80),)),
        ("{port: '80', protocol: udp}", (PortRange(UDP, 80, 80),)),
        ("{port: '80', protocol: SCTP}", (PortRange(SCTP, 80, 80),)),
        ("{port: '80', protocol: ANY}", every(80, 80)),
        ("{port: '80', protocol: ''}", every(80, 80)),
        ("{port: '80'}", every(80, 80)),
        ("{port: '80', endPort: 81, protocol: TCP}", (PortRange(TCP, 80, 81),)),
        ("{port: '80', endPort: 80, protocol: TCP}", (PortRange(TCP, 80, 80),)),
        ("{port: '80', endPort: 0, protocol: TCP}", (PortRange(TCP, 80, 80),)),
        ("{port: '1', endPort: 65535, protocol: TCP}", (PortRange(TCP, 1, 65535),)),
        ("{port: '0', protocol: TCP}", (PortRange(TCP, 0, 65535),)),
        ("{port: '0'}", every(0, 65535)),
        ("{port: http, protocol: TCP}", (NamedPort(TCP, "http"),)),
        ("{port: HTTP, protocol: TCP}", (NamedPort(TCP, "http"),)),
        ("{port: serve-80-tcp, protocol: TCP}", (NamedPort(TCP, "serve-80-tcp"),)),
        ("{port: 0x10, protocol: TCP}", (NamedPort(TCP, "0x10"),)),
        ("{port: dns}", tuple(NamedPort(protocol, "dns") for protocol in (TCP, UDP, SCTP))),
    ],
)
@pytest.mark.parametrize("section", ["ingress", "ingressDeny", "egress", "egressDeny"])
def test_port(port: str, read: tuple[Port, ...], section: str) -> None:
    quoted = port.replace("0x10", "'0x10'")
    assert ports(f"toPorts: [{{ports: [{quoted}]}}]", section) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("toPorts: []", None),
        ("icmps: []", None),
        ("toPorts: [], icmps: [{fields: [{type: 8}]}]", (PortRange(ICMP, 8, 8),)),
        ("toPorts: [{}]", ()),
        ("toPorts: [{ports: []}]", ()),
        ("icmps: [{}]", ()),
        ("toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {}}]", (PortRange(TCP, 80, 80),)),
        ("toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: []}}]", (PortRange(TCP, 80, 80),)),
        ("toPorts: [{ports: [{port: '80', protocol: TCP}], serverNames: []}]", (PortRange(TCP, 80, 80),)),
        (
            "toPorts: [{ports: [{port: '80', protocol: TCP}]}, {ports: [{port: '80', protocol: TCP}]}]",
            (PortRange(TCP, 80, 80),),
        ),
    ],
)
def test_absent_and_empty(text: str, read: tuple[Port, ...] | None) -> None:
    assert ports(text) == read


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("{type: 8}", 8),
        ("{type: '8'}", 8),
        ("{type: 0, family: IPv4}", 0),
        ("{type: 255}", 255),
        ("{type: EchoRequest}", 8),
        ("{type: Echo}", 8),
        ("{type: EchoReply}", 0),
        ("{type: DestinationUnreachable}", 3),
        ("{type: Redirect}", 5),
        ("{type: TimeExceeded}", 11),
    ],
)
def test_icmp_type_takes_the_ports_place(field: str, number: int) -> None:
    assert ports(f"icmps: [{{fields: [{field}]}}]") == (PortRange(ICMP, number, number),)


@pytest.mark.parametrize("kind", ["128", "EchoRequest", "NeighborSolicitation", "PacketTooBig"])
def test_icmp_of_ipv6_matches_nothing_and_is_told(kind: str) -> None:
    policy = cnp(f"ingress: [{{icmps: [{{fields: [{{family: IPv6, type: {kind}}}]}}]}}]")
    assert only_entry(policy).ports == ()
    assert "no IPv6" in policy.warnings[0]


@pytest.mark.parametrize("count", [40, 41])
def test_most_ports_of_an_item(count: int) -> None:
    listed = ", ".join(f"{{port: '{number}', protocol: TCP}}" for number in range(1, count + 1))
    policy = cnp(f"ingress: [{{toPorts: [{{ports: [{listed}]}}]}}]")
    assert [error.split(";")[0] for error in policy.errors] == (
        [] if count == 40 else ["spec.ingress[0].toPorts[0].ports: at most 40 ports, not 41"]
    )
    types = ", ".join(f"{{type: {number}}}" for number in range(count))
    assert bool(cnp(f"ingress: [{{icmps: [{{fields: [{types}]}}]}}]").errors) is (count == 41)


PORT = "toPorts[0].ports[0]"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "toPorts: [{ports: [{port: 80}]}]",
            f'{PORT}.port: must be a string, not the number 80; write it in quotes: "80"',
        ),
        ("toPorts: [{ports: [{protocol: TCP}]}]", f"{PORT}.port: must be given"),
        ("toPorts: [{ports: [{port: ''}]}]", f"{PORT}.port: must be given"),
        ("toPorts: [{ports: [{port: '65536'}]}]", f"{PORT}.port: "),
        ("toPorts: [{ports: [{port: '-1'}]}]", f"{PORT}.port: "),
        ("toPorts: [{ports: [{port: '080'}]}]", "without leading zeros"),
        ("toPorts: [{ports: [{port: '80-90'}]}]", "A range is port and endPort"),
        ("toPorts: [{ports: [{port: a--b}]}]", f"{PORT}.port: "),
        ("toPorts: [{ports: [{port: sixteen-letters-x}]}]", f"{PORT}.port: "),
        ("toPorts: [{ports: [{port: '90', endPort: 80}]}]", f"{PORT}.endPort: 80 is below port 90"),
        (
            "toPorts: [{ports: [{port: '90', endPort: 65536}]}]",
            f"{PORT}.endPort: must be a number from 0 to 65535",
        ),
        ("toPorts: [{ports: [{port: http, endPort: 80}]}]", f"{PORT}.endPort: needs a port that is a number"),
        ("toPorts: [{ports: [{port: '0', endPort: 80}]}]", f"{PORT}.endPort: "),
        (
            "toPorts: [{ports: [{port: '0', protocol: VRRP}]}]",
            f"{PORT}.protocol: must be one of TCP, UDP, SCTP, ANY",
        ),
        (
            "toPorts: [{ports: [{port: '0', protocol: ICMP}]}]",
            f"{PORT}.protocol: ICMP has no ports; use icmps",
        ),
        ("toPorts: [{ports: [{port: '0', protocol: 6}]}]", f"{PORT}.protocol: must be a string"),
        ("toPorts: [{ports: [{port: '80', prot: TCP}]}]", f"{PORT}.prot: unknown field"),
        ("toPorts: [{ports: [{port: '80'}], rule: {}}]", "toPorts[0].rule: unknown field"),
        ("toPorts: {}", "toPorts: must be a list"),
        (
            "toPorts: [{ports: [{port: '80'}]}], icmps: [{fields: [{type: 8}]}]",
            "toPorts and icmps cannot stand in one",
        ),
        ("icmps: [{fields: [{type: 256}]}]", "icmps[0].fields[0].type: must be a number from 0 to 255"),
        ("icmps: [{fields: [{type: echo}]}]", 'icmps[0].fields[0].type: "echo" is no type of IPv4'),
        ("icmps: [{fields: [{type: NeighborSolicitation}]}]", "is no type of IPv4"),
        ("icmps: [{fields: [{type: Photuris, family: IPv6}]}]", "is no type of IPv6"),
        ("icmps: [{fields: [{}]}]", "icmps[0].fields[0].type: must be given"),
        ("icmps: [{fields: [{family: IPv4}]}]", "icmps[0].fields[0].type: must be given"),
        ("icmps: [{fields: [{type: 8, family: ipv4}]}]", "icmps[0].fields[0].family: must be IPv4 or IPv6"),
        ("icmps: [{fields: [{type: 8, code: 0}]}]", "icmps[0].fields[0].code: unknown field"),
    ],
)
def test_ports_that_are_refused(text: str, error: str) -> None:
    policy = cnp(f"ingress: [{{{text}}}]")
    assert policy.rules == ()
    assert any(error in said for said in policy.errors), policy.errors


L4 = "toPorts: [{ports: [{port: '80', protocol: TCP}], "


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            L4 + "rules: {http: [{method: GET}]}}]",
            "rules.http: not supported yet; leave it out to allow the whole port",
        ),
        (L4 + "rules: {http: [{}]}}]", "rules.http: not supported yet"),
        (L4 + "rules: {kafka: [{}]}}]", "rules.kafka: not supported yet"),
        (L4 + "rules: {l7proto: x, l7: [{}]}}]", "rules.l7proto: not supported yet"),
        (L4 + "rules: {dns: [{matchPattern: '*'}]}}]", "rules.dns: dns rules are for egress only"),
        (L4 + "rules: {http: [{}], dns: [{}]}}]", "rules: one kind of rules at most"),
        (L4 + "rules: {htp: [{}]}}]", "rules.htp: unknown field"),
        (L4 + "rules: []}]", "rules: must be an object"),
        (
            "toPorts: [{ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}}]",
            "needs protocol TCP, written out",
        ),
        ("toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]", "needs protocol TCP, written out"),
        (L4 + "serverNames: [a.example]}]", "serverNames: not supported yet"),
        (L4 + "serverNames: ['']}]", "serverNames[0]: an empty server name"),
        (L4 + "listener: {name: x}}]", "listener: not supported yet"),
        (L4 + "terminatingTLS: {}}]", "terminatingTLS: not supported yet"),
        (L4 + "originatingTLS: {}}]", "originatingTLS: not supported yet"),
    ],
)
def test_rules_above_ports_are_refused_rather_than_ignored(text: str, error: str) -> None:
    policy = cnp(f"ingress: [{{{text}}}]")
    assert policy.rules == ()
    assert any(f"spec.ingress[0].toPorts[0].{error}" in said or error in said for said in policy.errors), (
        policy.errors
    )
