"""Which of upstream's specs are run, and why the others of the same suites are not."""

from __future__ import annotations

from dataclasses import dataclass

FOCUS = r"\[sig-network\] (Services|Networking Granular Checks|NetworkPolicy)"


@dataclass(frozen=True)
class Skip:
    """Specs that are left out: a regular expression on their names, and the reason."""

    pattern: str
    reason: str


SKIPS = (
    Skip(r"\[Feature:SCTPConnectivity\]", "they send SCTP, which the lab's kernel may lack"),
    Skip(
        r"\[Disruptive\]",
        "they restart kube-proxy or the API server as pods, or take nodes away; here neither is a pod",
    ),
    Skip(
        r"LoadBalancer service|load ?balancer",
        "they want a cloud that gives a load balancer its address",
    ),
    Skip(
        r"should be able to change the type and ports of a service",
        "it wants a cloud's load balancer for one of the types (gce, gke, aws)",
    ),
    Skip(
        r"should function for pod-Service\(hostNetwork\): udp",
        "it skips itself in this version of Kubernetes, whatever the cluster (kubernetes/kubernetes#95565)",
    ),
    Skip(r"should reconcile LB health check interval", "it reads a cloud's health checks (gce)"),
)


def skip_expression() -> str:
    """One regular expression for all that is left out."""
    return "|".join(skip.pattern for skip in SKIPS)
