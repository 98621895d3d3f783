"""The wire: questions by UDP and TCP, answers from ``Names``."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from .names import Names, Record

TTL = 5  # seconds, as the default of the DNS that clusters run
UDP_PLAIN = 512  # what a client takes by UDP that does not say more
UDP_MOST = 1232  # what passes everywhere without fragments
TCP_MOST = 65535
TCP_IDLE_SECONDS = 10


def reply(names: Names, wire: bytes, *, datagram: bool) -> bytes | None:
    """The answer to a question; in a datagram cut to what fits (then marked as such). None for what is no
    question."""
    try:
        query = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return None
    if query.flags & dns.flags.QR:
        return None
    answer = dns.message.make_response(query, recursion_available=True)
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        answer.set_rcode(dns.rcode.NOTIMP)
    else:
        _fill(names, query.question[0], answer)
    room = min(max(query.payload, UDP_PLAIN), UDP_MOST) if query.edns >= 0 else UDP_PLAIN
    return answer.to_wire(max_size=room if datagram else TCP_MOST, prefer_truncation=True)


def _fill(names: Names, question: dns.rrset.RRset, answer: dns.message.Message) -> None:
    name = question.name.to_text()
    if not names.ours(name):
        # There is nobody to ask on behalf of the client, and "no such name" would be a guess.
        answer.set_rcode(dns.rcode.REFUSED)
        return
    found = names.answer(name, dns.rdatatype.to_text(question.rdtype))
    answer.flags |= dns.flags.AA
    answer.answer.extend(_sets(found.records))
    answer.additional.extend(_sets(found.additional))
    if not found.known:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    if not found.records:
        soa = f"ns.dns.{names.zone}. hostmaster.{names.zone}. 1 7200 1800 86400 {TTL}"
        answer.authority.append(dns.rrset.from_text(f"{names.zone}.", TTL, "IN", "SOA", soa))


def _sets(records: list[Record]) -> list[dns.rrset.RRset]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for record in records:
        grouped.setdefault((record.name, record.kind), []).append(record.data)
    return [dns.rrset.from_text(name, TTL, "IN", kind, *data) for (name, kind), data in grouped.items()]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, names: Names) -> None:
        self._names = names

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # Python 3.11's own is no subclass

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = reply(self._names, data, datagram=True)
        if answer:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def serving(names: Names, address: str, port: int) -> AsyncIterator[tuple[str, int]]:
    """Answer on a port (0: any free one) by UDP and TCP while the context lasts; gives address and port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.TimeoutError, ConnectionError):
            while question := await asyncio.wait_for(_question(reader), TCP_IDLE_SECONDS):
                answer = reply(names, question, datagram=False)
                if answer is None:
                    break
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, address, port)
    place: tuple[str, int] = server.sockets[0].getsockname()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(names), local_addr=place)
    try:
        async with server:
            yield place
    finally:
        transport.close()


async def _question(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack("!H", await reader.readexactly(2))
    return await reader.readexactly(size)
