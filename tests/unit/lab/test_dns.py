"""The cluster DNS is where pods are told that it is."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from lab import dns
from lab.cluster_dns.names import Names

ARGS = Path(__file__).parents[3] / "lab/snap/tree/default-args"


def argument(component: str, name: str) -> str:
    lines = (ARGS / component).read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"--{name}="))


def test_kubelet_names_it():
    assert argument("kubelet", "cluster-dns") == dns.ADDRESS
    assert argument("kubelet", "cluster-domain") == dns.DOMAIN


def test_its_address_is_a_services():
    assert ipaddress.ip_address(dns.ADDRESS) in ipaddress.ip_network(
        argument("kube-apiserver", "service-cluster-ip-range")
    )


def test_it_may_read_what_it_answers_from():
    role = next(thing for thing in dns.manifest() if thing["kind"] == "ClusterRole")
    assert {kind for rule in role["rules"] for kind in rule["resources"]} == set(Names.KINDS)


def test_the_service_leads_to_its_pod():
    things = {thing["kind"]: thing for thing in dns.manifest()}
    template = things["Deployment"]["spec"]["template"]
    assert things["Service"]["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert {port["protocol"] for port in things["Service"]["spec"]["ports"]} == {"UDP", "TCP"}
