"""Security labels: ``source:key`` -> value, and which of a pod's labels are among them. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from podwire.policy.model import Labels

K8S = "k8s"
RESERVED = "reserved"
CIDR = "cidr"
ANY = "any"
SOURCES = (K8S, RESERVED, CIDR, "cidrgroup", "fqdn", "node", "unspec", "container", "cni", "directory")
"""Sources that a label can have. ``any`` stands in selectors only."""

POD_NAMESPACE = "io.kubernetes.pod.namespace"
POLICY_CLUSTER = "io.cilium.k8s.policy.cluster"
POLICY_SERVICE_ACCOUNT = "io.cilium.k8s.policy.serviceaccount"
NAMESPACE_LABEL_PREFIX = "io.cilium.k8s.namespace.labels."
METADATA_NAME = "kubernetes.io/metadata.name"
DEFAULT_CLUSTER = "default"
DEFAULT_SERVICE_ACCOUNT = "default"

NAMESPACE_KEY = f"{K8S}:{POD_NAMESPACE}"
CLUSTER_KEY = f"{K8S}:{POLICY_CLUSTER}"
_OWN_PREFIX = "io.cilium.k8s."
_KEPT = re.compile(r"app\.kubernetes\.io")
_LEFT_OUT = re.compile(
    r"io\.kubernetes|kubernetes\.io|(?:.*\.)?beta\.kubernetes\.io|k8s\.io"
    r"|statefulset\.kubernetes\.io/pod-name|apps\.kubernetes\.io/pod-index"
    r"|batch\.kubernetes\.io/(?:job-completion-index|controller-uid)|controller-uid"
    r"|pod-template-generation|pod-template-hash|controller-revision-hash|annotation|etcd_node"
    r"|topology\.kubernetes\.io/"
)


def key(source: str, name: str) -> str:
    """``source:name``."""
    return f"{source}:{name}"


def split(full: str) -> tuple[str, str]:
    """Source and key of ``source:key``; a key without source is of source ``any``."""
    source, colon, name = full.partition(":")
    return (source, name) if colon else (ANY, full)


def selector_key(text: str) -> str:
    """A selector's key as the model has it: with its source, ``any`` where none is written."""
    return key(*split(text))


@functools.lru_cache(maxsize=4096)
def places(full: str) -> tuple[str, ...]:
    """Keys of labels that a selector's key stands for: one per source for ``any:key``, else itself."""
    source, name = split(full)
    return tuple(key(source, name) for source in SOURCES) if source == ANY else (full,)


def is_security_relevant(name: str) -> bool:
    """Whether a user's pod label takes part in identities (the default filter; names are prefixes)."""
    if name.startswith(_OWN_PREFIX):
        return False
    return bool(_KEPT.match(name)) or not _LEFT_OUT.match(name)


def usable_in_selector(full: str) -> bool:
    """Whether a selector's key can ever be among an identity's labels."""
    source, name = split(full)
    if source not in (K8S, ANY) or name == POD_NAMESPACE or name.startswith(_OWN_PREFIX):
        return True
    return is_security_relevant(name)


def pod_labels(
    labels: Mapping[str, str],
    namespace: str,
    namespace_labels: Mapping[str, str] | None = None,
    service_account: str = DEFAULT_SERVICE_ACCOUNT,
    cluster: str = DEFAULT_CLUSTER,
) -> dict[str, str]:
    """Security labels of a pod. What derives from its namespace, account and cluster cannot be forged by
    labels of its own; ``kubernetes.io/metadata.name`` is always the namespace's name."""
    found = {key(K8S, name): value for name, value in labels.items() if is_security_relevant(name)}
    for name, value in {**(namespace_labels or {}), METADATA_NAME: namespace}.items():
        found[key(K8S, NAMESPACE_LABEL_PREFIX + name)] = value
    found[NAMESPACE_KEY] = namespace
    found[CLUSTER_KEY] = cluster or DEFAULT_CLUSTER
    found[key(K8S, POLICY_SERVICE_ACCOUNT)] = service_account or DEFAULT_SERVICE_ACCOUNT
    return dict(sorted(found.items()))


def text(labels: Labels) -> str:
    """Canonical form: sorted ``source:key=value;``. Equal for equal labels, different for different ones
    (neither ``;`` nor ``=`` occurs in Kubernetes' keys, nor ``;`` in its values)."""
    return "".join(f"{name}={value};" for name, value in sorted(labels.items()))


def parse(canonical: str) -> dict[str, str]:
    """The inverse of ``text``. Raises ValueError when it is not one."""
    found = dict(_parts(canonical.split(";")))
    if text(found) != canonical:
        raise ValueError(f"not a canonical list of labels: {canonical!r}")
    return found


def parse_list(written: str) -> dict[str, str]:
    """Labels as people write them: ``app=web,k8s:team=red,reserved:host``; source ``k8s`` where none is
    written. Raises ValueError."""
    found = {}
    for name, value in _parts(part.strip() for part in written.split(",")):
        if not name or name.endswith(":"):
            raise ValueError(f"{written!r}: a label has the form key=value or source:key=value")
        found[name if ":" in name else key(K8S, name)] = value
    return found


def _parts(parts: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (part.partition("=") for part in parts if part)]
