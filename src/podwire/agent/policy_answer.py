"""Answers to questions of `podwire policy trace`: what the policies say, and what the kernel has of it here.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from podwire.agent.policy_controller import Assigned
from podwire.agent.policy_question import Party, Question
from podwire.agent.policy_tables import CLOSED, OPEN
from podwire.policy.decide import ALLOWED, POLICY_DENIED, Packet, decide
from podwire.policy.model import Direction, Enforcement, Policy
from podwire.policy.trace import End, Rulebook, trace
from podwire.policy.world import ServiceView

AssignedOf = Callable[[str], Assigned | None]


def rulebook(
    policies: Mapping[str, Policy], enforcement: Enforcement, services: Sequence[ServiceView]
) -> Rulebook:
    """Everything that connections are judged by."""
    rules = [rule for _, policy in sorted(policies.items()) for rule in policy.rules]
    return Rulebook(rules, enforcement, services)


def answer(
    question: Question, source: Party, destination: Party, book: Rulebook, assigned: AssignedOf
) -> dict[str, Any]:
    """The verdict by the policies alone, for both ends wherever they are; and, for ends on this node, by the
    maps that are in force now. These differ for a moment after a change, and where a problem closes an
    endpoint."""
    found = trace(_end(source), _end(destination), question.protocol, question.port, book)
    in_force = []
    if source.endpoint != destination.endpoint or not source.endpoint:
        for direction, end, peer in (
            (Direction.EGRESS, source, destination),
            (Direction.INGRESS, destination, source),
        ):
            if end.endpoint:
                in_force.append(_in_force(assigned(end.endpoint), direction, end, peer, question))
    return {
        **found.as_dict(),
        "source_identity": source.identity,
        "destination_identity": destination.identity,
        "in_force": in_force,
        "text": "\n".join([found.text(), *(_line(item) for item in in_force)]),
    }


def _end(party: Party) -> End:
    return End(party.text, party.labels, party.address, party.named_ports)


def _in_force(
    assigned: Assigned | None, direction: Direction, end: Party, peer: Party, question: Question
) -> dict[str, Any]:
    """What the datapath of this node makes of it."""
    verdict, rule, problem = POLICY_DENIED, "", "its policy is not known yet"
    if assigned is not None:
        problem = assigned.problem
        if assigned.number == OPEN:
            verdict = ALLOWED
        elif assigned.number != CLOSED:
            packet = Packet(direction, peer.identity, peer.address, question.protocol, question.port)
            decision = decide(assigned.compiled, packet)
            verdict, rule = decision.verdict, decision.reason
    return {
        "direction": direction.name.lower(),
        "endpoint": end.text,
        "policy": assigned.number if assigned is not None else None,
        "verdict": "allowed" if verdict == ALLOWED else "denied",
        "reason": verdict,
        "rule": rule,
        "problem": problem,
    }


def _line(item: Mapping[str, Any]) -> str:
    """What is in force, for people."""
    where = "no policy map" if item["policy"] == OPEN else f"policy map {item['policy']}"
    why = item["problem"] or item["rule"] or where
    return f"in force here, {item['direction']} of {item['endpoint']}: {item['verdict']} ({why})"
