"""Events of the datapath: read from the ring buffer, kept for a while, decoded when somebody asks.

Drops, verdicts of policies and translations share the ring, and are kept apart here: a busy service must not
push out what was dropped."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from podwire.bpf import BpfError, Btf, Codec, Program, RingBuffer, codec_for
from podwire.bpf.btf import Kind
from podwire.bpf.handle import kernel_btf
from podwire.datapath import Datapath, DatapathError

log = logging.getLogger(__name__)

EVENT_VERSIONS = (1, 2)
"""Layouts are read from the programs' type information; the second version says what a policy judged."""
EVENT_DROP = 1
EVENT_VERDICT = 5
EVENT_TRANSLATE = 7
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}

Decode = Callable[[bytes, float], dict[str, Any]]
"""Turns a record into values for people. The second argument is the wall-clock time, in seconds, at which
CLOCK_MONOTONIC was 0."""
VERDICT_AUDITED = 1
MATCHES = {
    0: "none", 1: "L3-Only", 2: "L3-L4", 3: "L4-Only", 4: "all", 5: "L3-Proto", 6: "Proto-Only",
}  # fmt: skip
"""What the deciding entry of a policy named, as Cilium's monitor says it."""


class Names(NamedTuple):
    """What numbers of events stand for, for people."""

    service: Callable[[int], str] = lambda number: ""
    """Of a service's number; empty when nobody knows."""
    labels: Callable[[int], list[str]] = lambda identity: []
    """Of an identity."""
    rule: Callable[[int, int, int], str] = lambda policy, rule, when: ""
    """The sentence for a rule of a policy, by their numbers, at a time (CLOCK_MONOTONIC, ns)."""


NOBODY_KNOWS = Names()


class EventDecoder:
    """Turns records into values for people, by the layouts and names in the datapath's own type
    information."""

    def __init__(self, btf: Btf, names: Names = NOBODY_KNOWS) -> None:
        drop = _codec(btf, "podwire_event")
        if drop is None:
            raise DatapathError("the loaded datapath describes no drop events")
        self._drop = drop
        self._translation = _codec(btf, "podwire_translate_event")
        self._verdict = _codec(btf, "podwire_verdict_event")
        self._names = names
        self.reasons = names_of(btf, "podwire_drop_reason", "PODWIRE_DROP_")
        self.directions = names_of(btf, "podwire_direction", "PODWIRE_DIRECTION_")
        self.programs = names_of(btf, "podwire_program", "PODWIRE_PROGRAM_")
        self.forwards = names_of(btf, "podwire_forward", "PODWIRE_FORWARD_")

    def drop(self, record: bytes, boot_time: float) -> dict[str, Any]:
        event = self._drop.decode(record)
        return {
            "time": boot_time + event["timestamp"] / 1e9,
            "reason": event["reason"],
            "reason_name": self.reasons.get(event["reason"], str(event["reason"])),
            **self._seen_by(event),
            "line": event["line"],
            "bytes": event["packet_length"],
            "protocol": _PROTOCOLS.get(event["protocol"], str(event["protocol"])) if event["family"] else "",
            "ether_type": f"0x{event['ether_type']:04x}",
            "source": _address(event["family"], event["source_address"]),
            "source_port": event["source_port"],
            "destination": _address(event["family"], event["destination_address"]),
            "destination_port": event["destination_port"],
            **self._judged(event),
        }

    def verdict(self, record: bytes, boot_time: float) -> dict[str, Any]:
        if self._verdict is None:
            return {"error": "the loaded datapath describes no verdicts"}
        event = self._verdict.decode(record)
        audited = bool(event["flags"] & VERDICT_AUDITED)
        refused = event["verdict"] < 0
        reason = -event["verdict"] if refused else 0
        return {
            "time": boot_time + event["timestamp"] / 1e9,
            "verdict": "audited" if audited else "denied" if refused else "allowed",
            "reason": reason,
            "reason_name": self.reasons.get(reason, str(reason)) if reason else "",
            "match": MATCHES.get(event["match"], str(event["match"])),
            **self._seen_by(event),
            "bytes": event["packet_length"],
            "protocol": _PROTOCOLS.get(event["protocol"], str(event["protocol"])),
            "source": str(ipaddress.IPv4Address(event["source_address"])),
            "source_port": event["source_port"],
            "destination": str(ipaddress.IPv4Address(event["destination_address"])),
            "destination_port": event["destination_port"],
            **self._judged(event),
        }

    def _judged(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Who the peers are and which rule decided; all of it is empty for drops that no policy made, and of
        programs of an earlier version."""
        source, destination = event.get("source_identity", 0), event.get("destination_identity", 0)
        policy, rule = event.get("policy", 0), event.get("rule", 0)
        return {
            "source_identity": source,
            "source_labels": self._names.labels(source) if source else [],
            "destination_identity": destination,
            "destination_labels": self._names.labels(destination) if destination else [],
            "policy": policy,
            "rule": self._names.rule(policy, rule, event["timestamp"]) if rule else "",
        }

    def translation(self, record: bytes, boot_time: float) -> dict[str, Any]:
        if self._translation is None:
            return {"error": "the loaded datapath describes no translations"}
        event = self._translation.decode(record)
        return {
            "time": boot_time + event["timestamp"] / 1e9,
            "service": self._names.service(event["service"]),
            "service_id": event["service"],
            **self._seen_by(event),
            "protocol": _PROTOCOLS.get(event["protocol"], str(event["protocol"])),
            "source": str(ipaddress.IPv4Address(event["source_address"])),
            "source_port": event["source_port"],
            "destination": str(ipaddress.IPv4Address(event["destination_address"])),
            "destination_port": event["destination_port"],
            "new_source": str(ipaddress.IPv4Address(event["new_source_address"])),
            "new_source_port": event["new_source_port"],
            "new_destination": str(ipaddress.IPv4Address(event["new_destination_address"])),
            "new_destination_port": event["new_destination_port"],
        }

    def _seen_by(self, event: dict[str, Any]) -> dict[str, Any]:
        return {
            "direction": self.directions.get(event["direction"], str(event["direction"])),
            "program": self.programs.get(event["program"], str(event["program"])),
            "ifindex": event["ifindex"],
            "suppressed": event["suppressed"],
            "cpu": event["cpu"],
        }


def _codec(btf: Btf, struct: str) -> Codec | None:
    found = btf.find(struct, Kind.STRUCT)
    return None if found is None else codec_for(btf, found.id)


def names_of(btf: Btf, enum: str, prefix: str) -> dict[int, str]:
    """Enumerators of an enum, number to lower-case name without its prefix."""
    found = btf.find(enum, Kind.ENUM)
    if found is None:
        return {}
    return {number: name.removeprefix(prefix).lower() for name, number in found.values.items()}


def decoder_of(datapath: Datapath, names: Names) -> EventDecoder:
    """Decoder for the programs that are pinned now. Raises DatapathError or BpfError."""
    path: Path = datapath.programs / "podwire_from_pod"
    with Program.pinned(path) as program:
        return EventDecoder(kernel_btf(program.info.btf_id, f"program {program.label}"), names)


class EventLog:
    """The most recent events of one kind, numbered from 1. Lives in the event loop."""

    def __init__(self, keep: int, decode: Decode) -> None:
        self._decode = decode
        self._records: deque[tuple[int, bytes]] = deque(maxlen=keep)
        self._last = 0
        self._arrived = asyncio.Event()

    def add(self, record: bytes) -> None:
        self._last += 1
        self._records.append((self._last, record))

    def wake(self) -> None:
        """Tell those who wait that something was added."""
        self._arrived.set()
        self._arrived.clear()

    async def since(self, number: int, *, limit: int, wait: float) -> dict[str, Any]:
        """Events after ``number``, oldest first, at most ``limit`` of the newest; waits up to ``wait``
        seconds for one."""
        if wait > 0 and self._last <= number:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news(number), wait)
        chosen = [item for item in self._records if item[0] > number][-limit:]
        boot_time = time.time() - time.monotonic()
        first = chosen[0][0] if chosen else self._last + 1
        return {
            "last": self._last,
            "lost": max(0, first - number - 1) if number else 0,
            "events": [{"number": n, **self._decode(record, boot_time)} for n, record in chosen],
        }

    async def _news(self, number: int) -> None:
        while self._last <= number:
            await self._arrived.wait()


class Events:
    """The ring buffer, and what came out of it by kind. Lives in the event loop."""

    def __init__(self, datapath: Datapath, keep: int, names: Names) -> None:
        self.drops = EventLog(keep, self._decoded(lambda decoder: decoder.drop))
        self.verdicts = EventLog(keep, self._decoded(lambda decoder: decoder.verdict))
        self.translations = EventLog(keep, self._decoded(lambda decoder: decoder.translation))
        self.decoder: EventDecoder | None = None
        self._logs = {
            EVENT_DROP: self.drops,
            EVENT_VERDICT: self.verdicts,
            EVENT_TRANSLATE: self.translations,
        }
        self._datapath = datapath
        self._names = names
        self._ring: RingBuffer | None = None
        self._inode = 0
        self._programs_inode = 0

    def open(self) -> None:
        """Start reading, or start again when an upgrade put another ring buffer in place. Raises
        DatapathError."""
        programs = (self._datapath.programs / "podwire_from_pod").stat().st_ino
        if programs != self._programs_inode:
            self.decoder = decoder_of(self._datapath, self._names)
            self._programs_inode = programs
        inode = (self._datapath.maps / "podwire_events").stat().st_ino
        if inode == self._inode:
            return
        self.close()
        self._ring = RingBuffer(self._datapath.map("podwire_events"), self._sample)
        asyncio.get_running_loop().add_reader(self._ring.fileno(), self._consume)
        self._inode = inode

    def close(self) -> None:
        if self._ring is not None:
            asyncio.get_running_loop().remove_reader(self._ring.fileno())
            self._ring.close()
            self._ring = None
            self._inode = 0

    def _decoded(self, method: Callable[[EventDecoder], Decode]) -> Decode:
        def decode(record: bytes, boot_time: float) -> dict[str, Any]:
            if self.decoder is None:
                return {"error": "the datapath is not loaded"}
            if record[0] not in EVENT_VERSIONS:
                return {"error": f"event of unknown version {record[0]}"}
            return method(self.decoder)(record, boot_time)

        return decode

    def _sample(self, record: bytes) -> None:
        # Version and type are the first two bytes of every record, whatever else a later version changes.
        kept = self._logs.get(record[1]) if len(record) > 1 else None
        if kept is not None:
            kept.add(record)

    def _consume(self) -> None:
        try:
            if self._ring is not None:
                self._ring.consume()
        except BpfError as error:
            log.error("events: %s", error)
        for kept in self._logs.values():
            kept.wake()


def _address(family: int, raw: bytes) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(bytes(raw[:4])))
    if family == 6:
        return str(ipaddress.IPv6Address(bytes(raw)))
    return ""
