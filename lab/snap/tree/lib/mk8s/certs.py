"""The cluster's certificates, made with openssl."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import files
from .layout import Layout

DAYS = "3650"
SERVICE_IP = "10.152.183.1"
SERVER_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster",
    "kubernetes.default.svc.cluster.local",
)
# Devices whose addresses come and go with a pod network, and therefore do not belong in a certificate.
IGNORED_DEVICES = ("vxlan.calico", "flannel.1", "cni0", "ovn0")


@dataclass(frozen=True)
class Leaf:
    """A certificate for one user of the cluster's CA."""

    name: str
    subject: str
    alt_names: tuple[str, ...] = ()
    authority: str = "ca"


class CertificateError(Exception):
    """openssl refused; the message holds what it said."""


def openssl(*arguments: str, stdin: bytes | None = None) -> bytes:
    """Run openssl and return its output. Raises CertificateError."""
    done = subprocess.run(["openssl", *arguments], check=False, input=stdin, capture_output=True)
    if done.returncode != 0:
        raise CertificateError(
            f"openssl {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout


def _protect(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o660)


def create_authority(directory: Path, name: str, common_name: str) -> None:
    """A self-signed CA name.crt with its key."""
    key, cert = directory / f"{name}.key", directory / f"{name}.crt"
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", DAYS,
        "-subj", f"/CN={common_name}",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout", str(key), "-out", str(cert),
    )  # fmt: skip
    _protect(key, cert)


def create_service_account_key(path: Path) -> None:
    """The RSA key that signs service account tokens."""
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(path))
    _protect(path)


def create_leaf(directory: Path, leaf: Leaf) -> None:
    """A key and a certificate signed by the leaf's authority in the same directory."""
    key, cert = directory / f"{leaf.name}.key", directory / f"{leaf.name}.crt"
    command = [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256",
        "-days", DAYS,
        "-CA", str(directory / f"{leaf.authority}.crt"), "-CAkey", str(directory / f"{leaf.authority}.key"),
        "-subj", leaf.subject, "-keyout", str(key), "-out", str(cert), *_extensions(leaf.alt_names),
    ]  # fmt: skip
    openssl(*command)
    _protect(key, cert)


def _extensions(alt_names: Iterable[str]) -> list[str]:
    options = [
        "-addext", "basicConstraints=critical,CA:FALSE",
        "-addext", "keyUsage=critical,digitalSignature,keyEncipherment",
        "-addext", "extendedKeyUsage=serverAuth,clientAuth",
    ]  # fmt: skip
    names = list(alt_names)
    if names:
        options += ["-addext", f"subjectAltName={','.join(names)}"]
    return options


def create_request(directory: Path, leaf: Leaf) -> str:
    """A key in directory and a PEM signing request for it; the CA of another node signs."""
    key = directory / f"{leaf.name}.key"
    request = openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256",
        "-subj", leaf.subject, "-keyout", str(key), *_extensions(leaf.alt_names),
    )  # fmt: skip
    _protect(key)
    return request.decode()


def sign_request(directory: Path, request: str) -> str:
    """Sign a PEM request with the CA in directory, its extensions included. Raises CertificateError."""
    return openssl(
        "x509", "-req", "-sha256", "-days", DAYS, "-CA", str(directory / "ca.crt"),
        "-CAkey", str(directory / "ca.key"),
        "-copy_extensions", "copy", stdin=request.encode(),
    ).decode()  # fmt: skip


def request_subject(request: str) -> str:
    """The subject of a PEM signing request, as openssl prints it ("O = system:nodes, CN = ...")."""
    return (
        openssl("req", "-noout", "-subject", stdin=request.encode())
        .decode()
        .strip()
        .removeprefix("subject=")
        .strip()
    )


def fingerprint(certificate: str) -> str:
    """The SHA-256 of a PEM certificate, hexadecimal; its first 12 digits end a join URL."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


def server_alt_names(addresses: Iterable[str]) -> tuple[str, ...]:
    """What the API server's certificate is valid for, given the node's addresses."""
    ips = dict.fromkeys(["127.0.0.1", SERVICE_IP, *addresses])
    return (*(f"DNS:{name}" for name in SERVER_NAMES), *(f"IP:{ip}" for ip in ips))


def node_alt_names(hostname: str, addresses: Iterable[str]) -> tuple[str, ...]:
    return (f"DNS:{hostname}", *(f"IP:{ip}" for ip in dict.fromkeys(["127.0.0.1", *addresses])))


def cluster_leaves(hostname: str, addresses: Iterable[str]) -> list[Leaf]:
    """All certificates of a control-plane node."""
    addresses = list(addresses)
    return [
        Leaf("server", "/CN=127.0.0.1", server_alt_names(addresses)),
        Leaf("front-proxy-client", "/CN=front-proxy-client", authority="front-proxy-ca"),
        Leaf("apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        Leaf("client", "/O=system:masters/CN=admin"),
        Leaf("kubelet", f"/O=system:nodes/CN=system:node:{hostname}", node_alt_names(hostname, addresses)),
        Leaf("proxy", "/CN=system:kube-proxy"),
        Leaf("scheduler", "/CN=system:kube-scheduler"),
        Leaf("controller", "/CN=system:kube-controller-manager"),
    ]


def create_cluster(layout: Layout, hostname: str, addresses: Iterable[str]) -> None:
    """Everything a new one-node cluster needs."""
    directory = layout.cert("")
    directory.mkdir(parents=True, exist_ok=True)
    create_authority(directory, "ca", SERVICE_IP)
    create_authority(directory, "front-proxy-ca", "front-proxy-ca")
    create_service_account_key(directory / "serviceaccount.key")
    for leaf in cluster_leaves(hostname, addresses):
        create_leaf(directory, leaf)
    remember_names(layout, addresses)


def remember_names(layout: Layout, addresses: Iterable[str]) -> None:
    """Note what the server certificate was made for, so that the kicker sees a change."""
    files.write(layout.cert("csr.conf"), "\n".join(server_alt_names(addresses)) + "\n")


def names_changed(layout: Layout, addresses: Iterable[str]) -> bool:
    """Would a server certificate made now differ from the one in use?"""
    rendered = "\n".join(server_alt_names(addresses)) + "\n"
    files.write(layout.cert("csr.conf.rendered"), rendered)
    return rendered != files.read(layout.cert("csr.conf"), rendered)


def reissue_server(layout: Layout, addresses: Iterable[str]) -> None:
    """A new server and front-proxy-client certificate, for the addresses of now."""
    addresses = list(addresses)
    for leaf in cluster_leaves("", addresses):
        if leaf.name in ("server", "front-proxy-client"):
            create_leaf(layout.cert(""), leaf)
    remember_names(layout, addresses)
