"""Events of the datapath: read from the ring buffer, kept for a while, decoded when somebody asks.

Drops and translations share the ring, and are kept apart here: a busy service must not push out what was
dropped."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podwire.bpf import BpfError, Btf, Codec, Program, RingBuffer, codec_for
from podwire.bpf.btf import Kind
from podwire.bpf.handle import kernel_btf
from podwire.datapath import Datapath, DatapathError

log = logging.getLogger(__name__)

EVENT_VERSION = 1
EVENT_DROP = 1
EVENT_TRANSLATE = 7
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}

Decode = Callable[[bytes, float], dict[str, Any]]
"""Turns a record into values for people. The second argument is the wall-clock time, in seconds, at which
CLOCK_MONOTONIC was 0."""
NameOf = Callable[[int], str]
"""What a service number stands for, for people; empty when nobody knows."""


class EventDecoder:
    """Turns records into values for people, by the layouts and names in the datapath's own type
    information."""

    def __init__(self, btf: Btf, name_of: NameOf = lambda number: "") -> None:
        drop = _codec(btf, "podwire_event")
        if drop is None:
            raise DatapathError("the loaded datapath describes no drop events")
        self._drop = drop
        self._translation = _codec(btf, "podwire_translate_event")
        self._name_of = name_of
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
        }

    def translation(self, record: bytes, boot_time: float) -> dict[str, Any]:
        if self._translation is None:
            return {"error": "the loaded datapath describes no translations"}
        event = self._translation.decode(record)
        return {
            "time": boot_time + event["timestamp"] / 1e9,
            "service": self._name_of(event["service"]),
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


def decoder_of(datapath: Datapath, name_of: NameOf) -> EventDecoder:
    """Decoder for the programs that are pinned now. Raises DatapathError or BpfError."""
    path: Path = datapath.programs / "podwire_from_pod"
    with Program.pinned(path) as program:
        return EventDecoder(kernel_btf(program.info.btf_id, f"program {program.label}"), name_of)


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

    def __init__(self, datapath: Datapath, keep: int, name_of: NameOf) -> None:
        self.drops = EventLog(keep, self._decoded(lambda decoder: decoder.drop))
        self.translations = EventLog(keep, self._decoded(lambda decoder: decoder.translation))
        self.decoder: EventDecoder | None = None
        self._logs = {EVENT_DROP: self.drops, EVENT_TRANSLATE: self.translations}
        self._datapath = datapath
        self._name_of = name_of
        self._ring: RingBuffer | None = None
        self._inode = 0
        self._programs_inode = 0

    def open(self) -> None:
        """Start reading, or start again when an upgrade put another ring buffer in place. Raises
        DatapathError."""
        programs = (self._datapath.programs / "podwire_from_pod").stat().st_ino
        if programs != self._programs_inode:
            self.decoder = decoder_of(self._datapath, self._name_of)
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
            if record[0] != EVENT_VERSION:
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
