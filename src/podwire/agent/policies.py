"""Network policies on this node: the agent's part of it, put together."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Protocol

from podwire.agent.config import AgentConfig
from podwire.agent.health import Check
from podwire.agent.identity_view import IdentityView, LocalEndpoint
from podwire.agent.model import OPEN, PolicyAssignment
from podwire.agent.policy_answer import answer, rulebook
from podwire.agent.policy_controller import EndpointProblem, Hooks, PolicyController, Report
from podwire.agent.policy_engine import NodeEngine
from podwire.agent.policy_maps import PolicyMaps
from podwire.agent.policy_question import Question, Resolver, TraceError
from podwire.agent.policy_report import (
    endpoint_policy,
    identity_list,
    label_list,
    labels_of,
    policy_details,
    policy_map,
    policy_summary,
)
from podwire.agent.policy_services import PolicyServices
from podwire.agent.policy_source import KubernetesPolicies, Parse, take
from podwire.agent.policy_status import ConditionWriter
from podwire.agent.policy_store import Known, Taken
from podwire.datapath import Datapath
from podwire.kube.events import Event, Reporter, Subject
from podwire.kube.reflector import Connection
from podwire.policy import parse_cilium, parse_kubernetes, selectors
from podwire.policy.world import ServiceView

log = logging.getLogger(__name__)

LAST_VALID = "policies-last-valid.json"
"""In the state directory: objects whose present version is invalid, as they were before."""
PARSERS: Mapping[str, Parse] = {
    "NetworkPolicy": parse_kubernetes.network_policy,
    "CiliumNetworkPolicy": parse_cilium.network_policy,
    "CiliumClusterwideNetworkPolicy": parse_cilium.clusterwide_network_policy,
}


class Identities(Protocol):
    """What the agent's part for identities does for policies; see ``podwire.agent.identity_view``."""

    def number_cidrs(self, prefixes: Collection[IPv4Network]) -> Mapping[IPv4Network, int]:
        """Give prefixes identities; addresses are not known by them yet."""
        ...

    def set_cidrs(self, prefixes: Collection[IPv4Network]) -> object: ...
    def apply_policies(self) -> None: ...
    def set_status(self, observed: Mapping[str, str], revision: int, problems: Sequence[str]) -> None: ...


class Policies:
    """Everything about policies on this node. ``begin`` once the maps are there; until then, and where there
    is no Kubernetes API, no endpoint has a policy."""

    def __init__(self, config: AgentConfig, datapath: Datapath, connection: Connection) -> None:
        self._config = config
        self._datapath = datapath
        self._connection = connection
        self._view: IdentityView | None = None
        self._source: KubernetesPolicies | None = None
        self._writer: ConditionWriter | None = None
        self._reporter: Reporter | None = None
        self._services: PolicyServices | None = None
        self._remembered = ""
        self.controller: PolicyController | None = None

    @property
    def enabled(self) -> bool:
        """Without a Kubernetes API nobody knows of labels and policies."""
        return self._config.node_source == "kubernetes"

    # -- life --------------------------------------------------------------------------------------

    def begin(
        self,
        view: IdentityView,
        identities: Identities,
        hurried: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Take over what an earlier agent left, and follow policies from now on. Blocks shortly.

        Raises DatapathError or BpfError."""
        if not self.enabled or self.controller is not None:
            return
        settings = self._config.policy
        self._view = view
        self._reporter = Reporter(self._connection, self._config.node_name)
        services = PolicyServices(self._connection, self._take_services)
        hooks = Hooks(
            number_cidrs=identities.number_cidrs,
            set_cidrs=identities.set_cidrs,
            want_services=services.want,
            apply=identities.apply_policies,
            report=lambda report: self._publish(identities, report),
            judged=self._judged,
            problems=self._tell,
            remember=self._remember,
        )
        controller = PolicyController(
            PolicyMaps(self._datapath.map, hurried),
            NodeEngine(settings.enforcement),
            lambda: view.world,
            hooks,
            audit=settings.audit,
            last_valid=self._recall(),
        )
        self._writer = ConditionWriter(self._connection, controller.store.get)
        self._source = KubernetesPolicies(self._connection, controller, PARSERS)
        self.controller, self._services = controller, services
        controller.start()
        view.listen(controller.take_world)
        self._writer.start()
        self._source.start()

    def stop(self) -> None:
        """End the work; blocks until the round that is at work is over. What is in the kernel stays."""
        if self._source is not None:
            self._source.stop()
        if self._services is not None:
            self._services.stop()
        if self._writer is not None:
            self._writer.stop()
        if self._reporter is not None:
            self._reporter.stop()
        if self.controller is not None:
            self.controller.stop()

    def look_soon(self) -> None:
        """Compare the kernel's policy maps with what they should be."""
        if self.controller is not None:
            self.controller.look_soon()

    # -- the keeper of policies, for identities ----------------------------------------------------

    def assignment(self, key: str, identity: int) -> PolicyAssignment | None:
        """See PolicyKeeper."""
        if not self.enabled:
            return OPEN
        return self.controller.assignment(key, identity) if self.controller is not None else None

    # -- what the controller tells, in its thread --------------------------------------------------

    def _publish(self, identities: Identities, report: Report) -> None:
        problems = [*report.problems, *self._other_problems()]
        identities.set_status(report.observed, report.revision, problems)

    def _take_services(self, services: Sequence[ServiceView]) -> None:
        if self.controller is not None:
            self.controller.take_services(services)

    def _judged(self, objects: Mapping[str, Known]) -> None:
        if self._writer is not None:
            self._writer.look_at(objects)
        for key, known in objects.items():
            if not known.policy.errors:
                continue
            log.warning("%s is invalid: %s", key, "; ".join(known.policy.errors))
            origin = known.policy.origin
            if self._reporter is not None and origin.namespace:
                subject = Subject(origin.kind, origin.namespace, origin.name, origin.uid)
                self._reporter.report(Event(subject, "InvalidPolicy", "; ".join(known.policy.errors)))

    def _tell(self, problems: Sequence[EndpointProblem]) -> None:
        for problem in problems:
            if self._reporter is not None and problem.pod:
                subject = Subject("Pod", problem.namespace, problem.pod)
                message = f"all traffic of this pod is refused: {problem.message}"
                self._reporter.report(Event(subject, "PolicyNotEnforceable", message))

    # -- earlier versions of objects that became invalid --------------------------------------------

    @property
    def _file(self) -> Path:
        return self._config.state_dir / LAST_VALID

    def _recall(self) -> list[Taken]:
        try:
            self._remembered = self._file.read_text(encoding="utf-8")
            objects = json.loads(self._remembered)
            return [take(item, kind=item["kind"], parse=PARSERS[item["kind"]]) for item in objects]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error(
                "%s cannot be read: %s; policies that are invalid now enforce nothing", self._file, error
            )
            return []

    def _remember(self, objects: list[Mapping[str, Any]]) -> None:
        text = json.dumps(objects) if objects else ""
        if text == self._remembered:
            return
        try:
            if objects:
                new = self._file.with_suffix(".new")
                new.write_text(text, encoding="utf-8")
                os.replace(new, self._file)  # noqa: PTH105 - atomic, and says so
            else:
                self._file.unlink(missing_ok=True)
            self._remembered = text
        except OSError as error:
            log.error("%s cannot be written: %s", self._file, error)

    # -- questions ---------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What keeps policies from being enforced as they are written, as sentences."""
        if self.controller is None:
            return []
        return [*self.controller.problems(), *self._other_problems()]

    def _other_problems(self) -> list[str]:
        found = [part.problem for part in (self._writer, self._services) if part is not None]
        return [problem for problem in found if problem]

    def checks(self) -> list[Check]:
        """The gate's question about policies; none without a Kubernetes API."""
        if not self.enabled:
            return []
        controller = self.controller
        if controller is None or not controller.synced:
            detail = self._source.detail if self._source is not None else "the agent is not ready"
            return [Check("policies", False, f"policies are not known completely yet ({detail})")]
        trouble = controller.trouble()
        return [Check("policies", not trouble, trouble or f"{len(controller.store)} policies in force")]

    def labels(self, identity: int) -> list[str]:
        """What an identity stands for, for people."""
        if self.controller is None or self._view is None:
            return []
        return labels_of(identity, self._view.world, self.controller.cidrs)

    def rule(self, policy: int, rule: int, when: int) -> str:
        """The sentence for a rule of a policy map, at a time."""
        return (
            self.controller.installed.meanings.reason(policy, rule, when)
            if self.controller is not None
            else ""
        )

    def listed(self) -> dict[str, Any]:
        """Every policy, for the REST API."""
        controller = self.controller
        settings = self._config.policy
        common = {"enforcement": settings.enforcement.value, "audit": settings.audit}
        if controller is None:
            unknown = {"synced": False, "revision": 0, "observed": {}}
            return {"enabled": self.enabled, **unknown, **common, "policies": []}
        with controller.guard:
            known = sorted(controller.store, key=lambda item: item.policy.origin.key)
        return {
            "enabled": True,
            "synced": controller.synced,
            "revision": controller.revision,
            "observed": controller.observed,
            **common,
            "policies": [policy_summary(item, self._subjects(item)) for item in known],
        }

    def details(self, key: str) -> dict[str, Any] | None:
        """One policy, for the REST API; None when there is none of that key."""
        controller = self.controller
        if controller is None:
            return None
        with controller.guard:
            known = controller.store.get(key)
        return policy_details(known, self._subjects(known)) if known is not None else None

    def _subjects(self, known: Known) -> list[str]:
        """Names of this node's endpoints that a policy selects."""
        if known.in_force is None or self._view is None:
            return []
        rules = known.in_force.policy.rules
        return sorted(
            endpoint_name(endpoint)
            for endpoint in self._view.world.local.values()
            if endpoint.identity and any(selectors.matches(rule.subject, endpoint.labels) for rule in rules)
        )

    def identities(self) -> list[dict[str, Any]]:
        """Every identity that this node knows, for the REST API."""
        if self.controller is None or self._view is None:
            return []
        return identity_list(self._view.world, self.controller.cidrs)

    def trace(self, question: Question) -> dict[str, Any]:
        """Whether a connection is allowed, and why, for the REST API. Raises TraceError."""
        controller, view = self.controller, self._view
        if controller is None or view is None:
            raise TraceError("this node knows of no policies: the agent has no Kubernetes API, or just began")
        resolver = Resolver(view.world, controller.cidrs)
        with controller.guard:
            policies = controller.store.rules_source()
        book = rulebook(policies, self._config.policy.enforcement, controller.services)
        source, destination = resolver.party(question.source), resolver.party(question.destination)
        return answer(question, source, destination, book, controller.assigned)

    def endpoint(self, key: str, *, entries: bool = False) -> dict[str, Any]:
        """Identity, labels and policy of an endpoint, for the REST API; with ``entries`` its policy map."""
        controller, view = self.controller, self._view
        local = view.world.local.get(key) if view is not None else None
        assigned = controller.assigned(key) if controller is not None else None
        value: dict[str, Any] = {
            "identity": local.identity if local is not None else None,
            "labels": label_list(local.labels) if local is not None else [],
            "policy": endpoint_policy(assigned, audit=self._config.policy.audit) if self.enabled else None,
        }
        if entries:
            value["policy_map"] = policy_map(assigned.compiled, self.labels) if assigned is not None else []
        return value

    def status(self) -> dict[str, Any]:
        """The part ``policies`` of the agent's status."""
        controller, source = self.controller, self._source
        if controller is None or source is None:
            return {"enabled": self.enabled, "synced": False}
        counts, written = controller.counts, controller.installed.counts
        return {
            "enabled": True,
            "synced": controller.synced,
            "source": {"connected": source.connected, "detail": source.detail},
            "enforcement": self._config.policy.enforcement.value,
            "audit": self._config.policy.audit,
            "policies": len(controller.store),
            "revision": controller.revision,
            "observed": controller.observed,
            "problems": len(controller.problems()),
            "maps_written": written.maps_written,
            "entries_written": written.entries_written,
            "applied": counts.applied,
            "repaired": written.repaired,
            "first_sync_seconds": counts.first_sync_seconds,
            "last_change_seconds": counts.last_change_seconds,
        }


def endpoint_name(endpoint: LocalEndpoint) -> str:
    """``namespace/pod``, or what the health endpoint is called."""
    return f"{endpoint.namespace}/{endpoint.pod}" if endpoint.pod else "(health endpoint)"
