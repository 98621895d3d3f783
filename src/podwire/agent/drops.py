"""Drop events of the datapath: read from the ring buffer, kept for a while, decoded when somebody asks."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections import deque
from pathlib import Path
from typing import Any

from podwire.bpf import BpfError, Btf, Codec, Program, RingBuffer, codec_for
from podwire.bpf.btf import Kind
from podwire.bpf.handle import kernel_btf
from podwire.datapath import Datapath, DatapathError

log = logging.getLogger(__name__)

EVENT_VERSION = 1
EVENT_DROP = 1
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


class EventDecoder:
    """Turns records into values for people, by the layouts and names in the datapath's own type
    information."""

    def __init__(self, btf: Btf) -> None:
        event = btf.find("podwire_event", Kind.STRUCT)
        if event is None:
            raise DatapathError("the loaded datapath describes no drop events")
        self._codec: Codec = codec_for(btf, event.id)
        self.reasons = names_of(btf, "podwire_drop_reason", "PODWIRE_DROP_")
        self.directions = names_of(btf, "podwire_direction", "PODWIRE_DIRECTION_")
        self.programs = names_of(btf, "podwire_program", "PODWIRE_PROGRAM_")
        self.forwards = names_of(btf, "podwire_forward", "PODWIRE_FORWARD_")

    def decode(self, record: bytes, boot_time: float) -> dict[str, Any]:
        """``boot_time`` is the wall-clock time, in seconds, at which CLOCK_MONOTONIC was 0."""
        if not record or record[0] != EVENT_VERSION:
            return {"error": f"event of unknown version {record[0] if record else 'none'}"}
        event = self._codec.decode(record)
        return {
            "time": boot_time + event["timestamp"] / 1e9,
            "reason": event["reason"],
            "reason_name": self.reasons.get(event["reason"], str(event["reason"])),
            "direction": self.directions.get(event["direction"], str(event["direction"])),
            "program": self.programs.get(event["program"], str(event["program"])),
            "line": event["line"],
            "ifindex": event["ifindex"],
            "bytes": event["packet_length"],
            "protocol": _PROTOCOLS.get(event["protocol"], str(event["protocol"])) if event["family"] else "",
            "ether_type": f"0x{event['ether_type']:04x}",
            "source": _address(event["family"], event["source_address"]),
            "source_port": event["source_port"],
            "destination": _address(event["family"], event["destination_address"]),
            "destination_port": event["destination_port"],
            "suppressed": event["suppressed"],
            "cpu": event["cpu"],
        }


def names_of(btf: Btf, enum: str, prefix: str) -> dict[int, str]:
    """Enumerators of an enum, number to lower-case name without its prefix."""
    found = btf.find(enum, Kind.ENUM)
    if found is None:
        return {}
    return {number: name.removeprefix(prefix).lower() for name, number in found.values.items()}


def decoder_of(datapath: Datapath) -> EventDecoder:
    """Decoder for the programs that are pinned now. Raises DatapathError or BpfError."""
    path: Path = datapath.programs / "podwire_from_pod"
    with Program.pinned(path) as program:
        return EventDecoder(kernel_btf(program.info.btf_id, f"program {program.label}"))


class DropLog:
    """The most recent events, numbered from 1. Lives in the event loop."""

    def __init__(self, datapath: Datapath, keep: int) -> None:
        self._datapath = datapath
        self._records: deque[tuple[int, bytes]] = deque(maxlen=keep)
        self._last = 0
        self._arrived = asyncio.Event()
        self._ring: RingBuffer | None = None
        self._inode = 0
        self._programs_inode = 0
        self.decoder: EventDecoder | None = None

    def open(self) -> None:
        """Start reading, or start again when an upgrade put another ring buffer in place. Raises
        DatapathError."""
        programs = (self._datapath.programs / "podwire_from_pod").stat().st_ino
        if programs != self._programs_inode:
            self.decoder = decoder_of(self._datapath)
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

    async def since(self, number: int, *, limit: int, wait: float) -> dict[str, Any]:
        """Events after ``number``, oldest first, at most ``limit`` of the newest; waits up to ``wait``
        seconds for one."""
        if wait > 0 and self._last <= number:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait)
        chosen = [item for item in self._records if item[0] > number][-limit:]
        boot_time = time.time() - time.monotonic()
        first = chosen[0][0] if chosen else self._last + 1
        return {
            "last": self._last,
            "lost": max(0, first - number - 1) if number else 0,
            "events": [{"number": n, **self._decode(record, boot_time)} for n, record in chosen],
        }

    def _decode(self, record: bytes, boot_time: float) -> dict[str, Any]:
        if self.decoder is None:
            return {"error": "the datapath is not loaded"}
        return self.decoder.decode(record, boot_time)

    def _sample(self, record: bytes) -> None:
        self._last += 1
        self._records.append((self._last, record))

    def _consume(self) -> None:
        try:
            if self._ring is not None:
                self._ring.consume()
        except BpfError as error:
            log.error("drop events: %s", error)
        self._arrived.set()
        self._arrived.clear()


def _address(family: int, raw: bytes) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(bytes(raw[:4])))
    if family == 6:
        return str(ipaddress.IPv6Address(bytes(raw)))
    return ""
