"""The lab's cluster DNS: what names stand for, and how that goes over the wire."""

from __future__ import annotations

import asyncio
import socket
import struct

import dns.flags
import dns.message
import dns.rcode
import pytest

from lab.cluster_dns.names import Names
from lab.cluster_dns.server import reply, serving


def service(name, spec, namespace="shop"):
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def ports(*triples):
    return [{"name": name, "protocol": protocol, "port": port} for name, protocol, port in triples]


def endpoints(name, *subsets):
    return {"metadata": {"namespace": "shop", "name": name}, "subsets": list(subsets)}


@pytest.fixture
def names():
    known = Names("cluster.local")
    known.replace("namespaces", [{"metadata": {"name": name}} for name in ("shop", "empty")])
    known.replace(
        "services",
        [
            service(
                "web", {"clusterIP": "10.152.183.20", "ports": ports(("http", "TCP", 80), (None, "UDP", 53))}
            ),
            service("db", {"clusterIP": "None", "ports": ports(("pg", "TCP", 5432))}),
            service("none", {"clusterIP": "None"}),
            service("abroad", {"type": "ExternalName", "externalName": "Example.COM"}),
            service("alias", {"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}),
            service("ping", {"type": "ExternalName", "externalName": "pong.shop.svc.cluster.local"}),
            service("pong", {"type": "ExternalName", "externalName": "ping.shop.svc.cluster.local"}),
        ],
    )
    known.replace(
        "endpoints",
        [
            endpoints(
                "db",
                {
                    "addresses": [{"ip": "10.1.0.5", "hostname": "db-0"}, {"ip": "10.1.1.6"}],
                    "notReadyAddresses": [{"ip": "10.1.9.9", "hostname": "db-9"}],
                    "ports": ports(("pg", "TCP", 5433)),
                },
            )
        ],
    )
    return known


def found(names, name, kind):
    answer = names.answer(name, kind)
    return answer.known, [(record.kind, record.data) for record in answer.records]


BASE = "shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("name", "kind", "known", "records"),
    [
        pytest.param(f"web.{BASE}", "A", True, [("A", "10.152.183.20")], id="cluster IP"),
        pytest.param(f"WEB.{BASE}.", "A", True, [("A", "10.152.183.20")], id="letters do not matter"),
        pytest.param(f"web.{BASE}", "AAAA", True, [], id="no IPv6 address is not an unknown name"),
        pytest.param(f"db.{BASE}", "A", True, [("A", "10.1.0.5"), ("A", "10.1.1.6")], id="headless"),
        pytest.param(f"db-0.db.{BASE}", "A", True, [("A", "10.1.0.5")], id="pod with a host name"),
        pytest.param(f"10-1-1-6.db.{BASE}", "A", True, [("A", "10.1.1.6")], id="pod without one"),
        pytest.param(f"db-9.db.{BASE}", "A", False, [], id="pod that is not ready"),
        pytest.param(f"none.{BASE}", "A", True, [], id="headless without pods"),
        pytest.param(f"abroad.{BASE}", "A", True, [("CNAME", "example.com.")], id="external name"),
        pytest.param(
            f"alias.{BASE}", "A", True, [("CNAME", f"web.{BASE}."), ("A", "10.152.183.20")], id="alias inside"
        ),
        pytest.param(
            f"_http._tcp.web.{BASE}", "SRV", True, [("SRV", f"0 100 80 web.{BASE}.")], id="named port"
        ),
        pytest.param(f"_http._udp.web.{BASE}", "SRV", False, [], id="port of another protocol"),
        pytest.param(f"_tcp.web.{BASE}", "SRV", True, [], id="between a service and its ports"),
        pytest.param(
            f"_pg._tcp.db.{BASE}",
            "SRV",
            True,
            [("SRV", f"0 100 5433 db-0.db.{BASE}."), ("SRV", f"0 100 5433 10-1-1-6.db.{BASE}.")],
            id="port of headless pods is the pods' own",
        ),
        pytest.param("20.183.152.10.in-addr.arpa", "PTR", True, [("PTR", f"web.{BASE}.")], id="way back"),
        pytest.param(
            "5.0.1.10.in-addr.arpa", "PTR", True, [("PTR", f"db-0.db.{BASE}.")], id="a pod's way back"
        ),
        pytest.param("9.9.9.10.in-addr.arpa", "PTR", False, [], id="address of nobody"),
        pytest.param("10-1-2-3.shop.pod.cluster.local", "A", True, [("A", "10.1.2.3")], id="pod's address"),
        pytest.param("10-1-2-3.gone.pod.cluster.local", "A", False, [], id="pod in no namespace"),
        pytest.param("10-1-2.shop.pod.cluster.local", "A", False, [], id="no address at all"),
        pytest.param("gone.shop.svc.cluster.local", "A", False, [], id="no such service"),
        pytest.param("shop.svc.cluster.local", "A", True, [], id="namespace"),
        pytest.param("gone.svc.cluster.local", "A", False, [], id="no such namespace"),
        pytest.param("a.web.shop.svc.cluster.local", "A", False, [], id="below a cluster IP is nothing"),
        pytest.param("dns-version.cluster.local", "TXT", True, [("TXT", '"1.1.0"')], id="version"),
        pytest.param("example.com.cluster.local", "A", False, [], id="search list"),
    ],
)
def test_what_a_name_stands_for(names, name, kind, known, records):
    assert found(names, name, kind) == (known, records)


def test_names_that_name_each_other_come_to_an_end(names):
    known, records = found(names, f"ping.{BASE}", "A")
    assert known
    assert 1 < len(records) < 20


def test_changes_take_effect(names):
    names.change("services", "DELETED", service("web", {}))
    assert found(names, f"web.{BASE}", "A") == (False, [])
    names.change("services", "ADDED", service("web", {"clusterIP": "10.152.183.21"}))
    names.change("services", "MODIFIED", service("web", {"clusterIP": "10.152.183.22"}))
    assert found(names, f"web.{BASE}", "A") == (True, [("A", "10.152.183.22")])


def asked(names, name, kind, *, datagram=True, **options):
    wire = dns.message.make_query(name, kind, **options).to_wire()
    return dns.message.from_wire(reply(names, wire, datagram=datagram))


def test_srv_brings_the_addresses_along(names):
    answer = asked(names, f"_pg._tcp.db.{BASE}.", "SRV")
    assert {item.to_text() for rrset in answer.additional for item in rrset} == {"10.1.0.5", "10.1.1.6"}
    assert answer.flags & dns.flags.AA


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (f"web.{BASE}.", dns.rcode.NOERROR),
        (f"gone.{BASE}.", dns.rcode.NXDOMAIN),
        ("example.com.", dns.rcode.REFUSED),
    ],
)
def test_codes(names, name, code):
    assert asked(names, name, "A").rcode() == code


def test_negative_answers_say_how_long_they_hold(names):
    for name, kind in ((f"gone.{BASE}.", "A"), (f"web.{BASE}.", "AAAA")):
        assert [rrset.ttl for rrset in asked(names, name, kind).authority] == [5]


@pytest.mark.parametrize(
    ("options", "cut"),
    [
        pytest.param({}, True, id="a datagram holds 512 bytes"),
        pytest.param({"use_edns": 0, "payload": 1232}, False, id="unless the client takes more"),
        pytest.param({"datagram": False}, False, id="a connection holds all"),
    ],
)
def test_large_answers_are_cut_and_marked(names, options, cut):
    many = [{"ip": f"10.1.3.{number}"} for number in range(1, 61)]
    names.change("endpoints", "MODIFIED", endpoints("db", {"addresses": many}))
    answer = asked(names, f"db.{BASE}.", "A", **options)
    assert bool(answer.flags & dns.flags.TC) is cut
    assert (sum(len(rrset) for rrset in answer.answer) == 60) is not cut


@pytest.mark.parametrize("noise", [b"", b"\0" * 5, b"\xff" * 40])
def test_noise_gets_no_answer(names, noise):
    assert reply(names, noise, datagram=True) is None


def test_an_answer_is_not_answered(names):
    wire = dns.message.make_response(dns.message.make_query("a.", "A")).to_wire()
    assert reply(names, wire, datagram=True) is None


async def by_tcp(place, question, times):
    """One connection, several questions."""
    reader, writer = await asyncio.open_connection(*place)
    answers = []
    for _ in range(times):
        writer.write(struct.pack("!H", len(question)) + question)
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        answers.append(await reader.readexactly(size))
    writer.close()
    await writer.wait_closed()
    return answers


def by_udp(place, question):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(place)
        client.send(question)
        return client.recv(4096)


async def test_answers_by_udp_and_tcp(names):
    question = dns.message.make_query(f"web.{BASE}.", "A").to_wire()
    async with serving(names, "127.0.0.1", 0) as place:
        wires = await by_tcp(place, question, 2)
        wires.append(await asyncio.to_thread(by_udp, place, question))
    for wire in wires:
        assert dns.message.from_wire(wire).answer[0][0].to_text() == "10.152.183.20"
