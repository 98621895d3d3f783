"""Which backend a new connection to a service gets: at random, by affinity, by Maglev."""

from __future__ import annotations

from collections import Counter

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, POD_A, POD_B, VIP, WORLD, Node
from tests.bpf.packets import TCP_PROTO, ends, outside, tcp
from tests.bpf.services import backend_of, earlier

NODE_PORT = 30080
EXTERNAL = "203.0.113.99"


def test_new_connections_are_spread(ebpf_proxy: Node) -> None:
    backends = [(POD_B.address, 8080 + i) for i in range(4)]
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, backends)
    hits = Counter(backend_of(ebpf_proxy, tcp(POD_A.address, VIP, sport)) for sport in range(30000, 30400))
    assert set(hits) == set(backends)
    assert min(hits.values()) > 50, "random, but no backend gets less than half of its share"


def test_a_client_comes_back_to_its_backend(ebpf_proxy: Node) -> None:
    backends = [(POD_B.address, 8080 + i) for i in range(20)]
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, backends, affinity=600)
    chosen = {backend_of(ebpf_proxy, tcp(POD_A.address, VIP, sport)) for sport in range(30000, 30020)}
    assert len(chosen) == 1


def test_affinity_ends_with_its_timeout_and_with_its_backend(ebpf_proxy: Node) -> None:
    table = ebpf_proxy.maps["podwire_affinity4"]

    def only(port: int) -> None:
        ebpf_proxy.maps["podwire_affinity_backends4"].clear()
        ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, port)], affinity=600)

    def backend(sport: int) -> int:
        return backend_of(ebpf_proxy, tcp(POD_A.address, VIP, sport))[1]

    only(8080)
    assert backend(30000) == 8080
    only(9090)
    assert backend(30001) == 9090, "8080 is no member any more"
    member = {"service": 1, "address": n.number(POD_B.address), "port": 8080}
    ebpf_proxy.maps["podwire_affinity_backends4"].set(member, 1)
    ((key, value),) = table.items()
    table.set(key, value | {"port": 8080})
    assert backend(30002) == 8080
    ((key, value),) = table.items()
    table.set(key, value | {"used": earlier(value["used"], 601)})
    assert backend(30003) == 9090, "too long ago"


def test_clients_outside_have_affinity_by_their_address(ebpf_proxy: Node) -> None:
    backends = [(POD_B.address, 8080 + i) for i in range(50)]
    ebpf_proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, backends, flags=s.NODE_PORT, affinity=600)
    chosen = {
        client: {
            ends(ebpf_proxy.from_netdev(outside() / tcp(client, NODE_IP, sport, NODE_PORT)).packet)[3]
            for sport in range(30000, 30010)
        }
        for client in (f"198.51.100.{i}" for i in range(1, 9))
    }
    assert all(len(ports) == 1 for ports in chosen.values())
    assert len(set.union(*chosen.values())) > 1


def test_maglev_gives_a_client_the_same_backend_every_time(ebpf_proxy: Node) -> None:
    """And on every node: the table and the packet decide, not the node."""
    backends = [(POD_B.address, 8000 + i) for i in range(4)]
    flags = s.EXTERNAL_IP | s.MAGLEV
    listed = ebpf_proxy.services.expose(EXTERNAL, 80, TCP_PROTO, backends, flags=flags)
    ebpf_proxy.services.maglev(listed, [i % 3 for i in range(16381)])

    def choose() -> list[int]:
        ebpf_proxy.maps["podwire_ct4"].clear()
        packets = [outside() / tcp(WORLD, EXTERNAL, sport) for sport in range(30000, 30100)]
        return [ends(ebpf_proxy.from_netdev(packet).packet)[3] for packet in packets]

    first = choose()
    assert choose() == first
    assert set(first) == {8000, 8001, 8002}, "as the table says, which leaves the last one out"
    assert min(Counter(first).values()) > 15
