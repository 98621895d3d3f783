"""Where the agent learns of policies: NetworkPolicy, CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy
of the Kubernetes API, each as far as it is served there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from podwire.agent.policy_store import PLURALS, Taken, condition_of, essence
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.reflector import Change, Connection, Reflector, Resource
from podwire.policy.model import Origin, Policy
from podwire.policy.prepared import prepare
from podwire.policy.world import World

log = logging.getLogger(__name__)

GROUPS = {
    "NetworkPolicy": "/apis/networking.k8s.io/v1",
    "CiliumNetworkPolicy": "/apis/cilium.io/v2",
    "CiliumClusterwideNetworkPolicy": "/apis/cilium.io/v2",
}
_NOT_FOUND = 404

Parse = Callable[[Mapping[str, Any]], Policy]


class PolicySink(Protocol):
    """Takes what a source finds, in the source's threads."""

    def take_policies(self, kind: str, changes: Sequence[Change[Taken]], complete: bool) -> None:
        """``complete``: see Reflector."""
        ...

    def take_version(self, kind: str, version: str) -> None:
        """Everything up to this resource version was delivered."""
        ...

    def take_absence(self, kind: str, reason: str) -> None:
        """The API does not serve this kind."""
        ...


class KubernetesPolicies:
    """Policies as the Kubernetes API has them."""

    def __init__(self, connection: Connection, sink: PolicySink, parsers: Mapping[str, Parse]) -> None:
        """``parsers`` by kind."""
        self._sink = sink
        self._reflectors = {
            kind: Reflector(
                connection,
                Resource(
                    PLURALS[kind], partial(self._path, kind), partial(take, kind=kind, parse=parsers[kind])
                ),
                partial(sink.take_policies, kind),
                partial(sink.take_version, kind),
            )
            for kind in PLURALS
        }

    @property
    def connected(self) -> bool:
        return all(reflector.connected for reflector in self._reflectors.values())

    @property
    def detail(self) -> str:
        """The API's address, or why what is known is not current."""
        lost = (item.detail for item in self._reflectors.values() if not item.connected)
        return next(lost, self._reflectors["NetworkPolicy"].detail)

    def start(self) -> None:
        for reflector in self._reflectors.values():
            reflector.start()

    def stop(self) -> None:
        for reflector in self._reflectors.values():
            reflector.stop()

    def _path(self, kind: str, client: KubeClient) -> str:
        """Path of a kind's collection. Asks first whether it is served: an empty list and a kind that is not
        there at all are not the same."""
        group, plural = GROUPS[kind], PLURALS[kind]
        try:
            found = client.get(group)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            found = {}
        names = [item.get("name") for item in found.get("resources") or () if isinstance(item, Mapping)]
        if plural not in names:
            reason = f"the Kubernetes API serves no {plural} ({group})"
            self._sink.take_absence(kind, reason)
            raise ApiError(reason, _NOT_FOUND)
        return f"{group}/{plural}"


def take(value: Mapping[str, Any], *, kind: str, parse: Parse) -> Taken:
    """Parse an object. Lists of the API do not name the kind of their items, so it is given.

    Never raises: what cannot be read at all is an invalid policy."""
    raw = essence({**value, "kind": kind})
    try:
        policy = checked(parse(raw))
    except Exception as error:
        log.exception("reading a %s", kind)
        policy = unreadable(raw, kind, error)
    condition, since = condition_of(value)
    return Taken(policy, condition, raw, since)


def checked(policy: Policy) -> Policy:
    """The policy, if the engine can work with it; else with the reason, and without rules."""
    try:
        scratch = World()
        for rule in policy.rules:
            prepare(rule, scratch)
    except ValueError as error:
        return replace(policy, rules=(), errors=(*policy.errors, str(error)))
    return policy


def unreadable(value: Mapping[str, Any], kind: str, error: Exception) -> Policy:
    metadata = value["metadata"]
    origin = Origin(
        kind,
        str(metadata.get("namespace") or ""),
        str(metadata.get("name") or ""),
        str(metadata.get("uid") or ""),
    )
    reason = f"it cannot be read ({type(error).__name__}: {error})"
    generation = metadata.get("generation")
    return Policy(
        origin,
        errors=(reason,),
        resource_version=str(metadata.get("resourceVersion") or ""),
        generation=generation if isinstance(generation, int) else 0,
    )
