"""Answers to the question whether a connection is allowed, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from podwire.policy.decide import ALLOWED, POLICY_DENIED, POLICY_DENY, Decision
from podwire.policy.model import Direction, Match

PROTOCOL_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}
MATCHES = {
    Match.NONE: "none",
    Match.L3_ONLY: "L3-Only",
    Match.L3_L4: "L3-L4",
    Match.L4_ONLY: "L4-Only",
    Match.ALL: "all",
    Match.L3_PROTO: "L3-Proto",
    Match.PROTO_ONLY: "Proto-Only",
}
"""As monitors print them."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the policy of one end says."""

    direction: Direction
    subject: str
    peer: str
    enforced: bool
    """False: open but for what rules deny."""
    decision: Decision
    allowing: tuple[str, ...]
    """Entries of rules that allow it, all of them, denied or not."""
    denying: tuple[str, ...]
    closing: tuple[str, ...]
    """Policies that close this direction."""
    remarks: tuple[str, ...] = ()

    def text(self) -> str:
        """One line, and another for each remark."""
        head = f"{self.direction.name.lower()} of {self.subject}: {self._sentence()}"
        return "\n".join([head, *(f"  {remark}" for remark in self.remarks)])

    def _sentence(self) -> str:
        decision = self.decision
        match = f" ({MATCHES[decision.match]})" if decision.match else ""
        if decision.verdict == POLICY_DENY:
            return f"denied{match}: drop reason 181, {_list(self.denying)} denies it"
        if decision.verdict == POLICY_DENIED:
            who = _list(self.closing) if self.closing else "the mode of enforcement"
            return f"denied: drop reason 133, {who} closes this direction and nothing allows it"
        if not self.enforced:
            return "allowed: nothing closes this direction"
        return f"allowed{match} by {_list(self.allowing) or decision.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "direction": self.direction.name.lower(),
            "subject": self.subject,
            "peer": self.peer,
            "enforced": self.enforced,
            "verdict": "allowed" if self.decision.verdict == ALLOWED else "denied",
            "reason": self.decision.verdict,
            "match": MATCHES[self.decision.match],
            "rule": self.decision.reason,
            "allowing": list(self.allowing),
            "denying": list(self.denying),
            "closing": list(self.closing),
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True, slots=True)
class Trace:
    """The answer for both ends."""

    source: str
    destination: str
    protocol: int
    port: int
    judgements: tuple[Judgement, ...]
    """Of the ends that have a policy: egress first. Empty: nobody judges this connection."""
    note: str = "no policy applies to either end"
    """Why nobody does."""

    @property
    def verdict(self) -> int:
        """0 or the reason of the drop that comes first."""
        return next((one.decision.verdict for one in self.judgements if one.decision.verdict), ALLOWED)

    def text(self) -> str:
        """Lines for people."""
        protocol = PROTOCOL_NAMES.get(self.protocol, f"protocol {self.protocol}")
        lines = [f"{self.source} -> {self.destination}, {protocol} {self.port}"]
        lines += [judgement.text() for judgement in self.judgements] or [self.note]
        return "\n".join([*lines, f"verdict: {'denied' if self.verdict else 'allowed'}"])

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": self.source,
            "destination": self.destination,
            "protocol": PROTOCOL_NAMES.get(self.protocol, str(self.protocol)),
            "port": self.port,
            "verdict": "denied" if self.verdict else "allowed",
            "reason": self.verdict,
            "note": "" if self.judgements else self.note,
            "judgements": [judgement.as_dict() for judgement in self.judgements],
        }


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
