/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/translate.h - translate packets of services' connections as the conntrack table says, at the ends
 * of the datapath only: netfilter and everything between see client and backend, never a service's address.
 * Reads the conntrack table, rewrites packets. */
#pragma once

#include "common.h"
#include "conntrack.h"
#include "delivery.h"
#include "dsr.h"
#include "icmp.h"
#include "rewrite.h"

/* Give the packet the addresses and ports of `to`. Returns 0 or a refusal. */
static __noinline int translate4(struct __sk_buff *skb, struct podwire_packet *packet,
				 const struct podwire_rewrite4 *to)
{
	struct podwire_rewrite4 wanted = *to;
	struct rewrite4_step step = {};
	int ret;

	if (wanted.destination_address != packet->tuple.destination_address ||
	    wanted.destination_port != packet->tuple.destination_port) {
		step.destination = 1;
		step.old_address = packet->tuple.destination_address;
		step.old_port = packet->tuple.destination_port;
		step.new_address = wanted.destination_address;
		step.new_port = wanted.destination_port;
		ret = rewrite4(skb, packet, &step);
		if (ret)
			return ret;
	}
	if (wanted.source_address != packet->tuple.source_address ||
	    wanted.source_port != packet->tuple.source_port) {
		step.destination = 0;
		step.old_address = packet->tuple.source_address;
		step.old_port = packet->tuple.source_port;
		step.new_address = wanted.source_address;
		step.new_port = wanted.source_port;
		return rewrite4(skb, packet, &step);
	}
	return 0;
}

/* The entry of the packets that go the error's way: it quotes one that went the other way. NULL when the
 * connection is none of a service's. */
static __always_inline const struct podwire_ct4 *error4_entry(const struct podwire_packet *packet,
							      const struct podwire_quoted4 *quoted,
							      struct podwire_tuple4 *way)
{
	const struct podwire_ct4 *entry;

	if (quoted->fragment)
		return NULL;
	tuple4_reverse(&quoted->tuple, way);
	if (packet->tuple.destination_address != way->destination_address)
		return NULL;
	entry = bpf_map_lookup_elem(&podwire_ct4, way);
	return entry && (entry->flags & CT_ANY_TRANSLATION) ? entry : NULL;
}

/* Translate an ICMP error about a packet of a service's connection: the packet it quotes, and its own
 * addresses where they are the connection's (a router's stays). Returns 0 or a refusal. */
static __noinline int translate_error4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_quoted4 quoted;
	struct podwire_tuple4 way;
	struct podwire_rewrite4 to;
	struct rewrite4_step step = {};
	const struct podwire_ct4 *entry;
	int ret;

	if (quoted4_read(skb, packet, &quoted))
		return 0; /* whose it is does not show */
	entry = error4_entry(packet, &quoted, &way);
	if (!entry)
		return 0;
	to = entry->rewrite;

	step.destination = 1;
	step.old_address = way.source_address;
	step.new_address = to.source_address;
	step.old_port = way.source_port;
	step.new_port = to.source_port;
	ret = rewrite_quoted4(skb, packet, &quoted, &step);
	if (ret)
		return ret;
	step.destination = 0;
	step.old_address = way.destination_address;
	step.new_address = to.destination_address;
	step.old_port = way.destination_port;
	step.new_port = to.destination_port;
	ret = rewrite_quoted4(skb, packet, &quoted, &step);
	if (ret)
		return ret;

	/* The error's own ports are 0, and its checksum covers no addresses. */
	step.old_port = 0;
	step.new_port = 0;
	step.destination = 1;
	ret = rewrite4(skb, packet, &step);
	if (ret)
		return ret;
	if (packet->tuple.source_address != way.source_address)
		return 0;
	step.destination = 0;
	step.old_address = way.source_address;
	step.new_address = to.source_address;
	return rewrite4(skb, packet, &step);
}

/* Let an ICMP error about a service's connection be decided as the packets that go its way. */
static __noinline int error4_follow(struct __sk_buff *skb, struct podwire_packet *packet,
				    struct podwire_ct4 *decision)
{
	struct podwire_quoted4 quoted;
	struct podwire_tuple4 way;
	const struct podwire_ct4 *entry;

	if (quoted4_read(skb, packet, &quoted))
		return 0; /* whoever delivers it refuses it */
	entry = error4_entry(packet, &quoted, &way);
	if (!entry)
		return 0;
	decision->flags |= entry->flags & (CT_ANY_TRANSLATION | PODWIRE_CT_MASQUERADE | PODWIRE_CT_DSR);
	decision->rewrite = entry->rewrite;
	return 0;
}

/* May this packet open a connection? Only a SYN does for TCP: the middle of a connection that no table knows
 * may be one that netfilter translates. */
static __always_inline bool may_open(const struct podwire_packet *packet)
{
	return packet->tuple.protocol != IPPROTO_TCP || packet_is_syn(packet);
}

/* Send a packet of a service's connection on its way. What answers a client is translated last, so a packet
 * that the stack is to route leaves that to the hook at which it comes out. Returns a verdict or a refusal.
 */
static __noinline int deliver_translated4(struct __sk_buff *skb, struct podwire_packet *packet,
					  const struct podwire_ct4 *decision)
{
	struct dsr4_frontend frontend = {
		.address = packet->tuple.destination_address,
		.port = packet->tuple.destination_port,
	};
	int ret;

	if ((decision->flags & PODWIRE_CT_TRANSLATED_BACK) &&
	    (decision->delivery == PODWIRE_DELIVERY_STACK || needs_stack(skb, packet, decision->mtu))) {
		count_forward(skb, PODWIRE_FORWARD_STACK);
		return pass_seen(skb, PODWIRE_SEEN_TRANSLATE);
	}
	if (packet->flags & PACKET_ICMP_ERROR) {
		ret = translate_error4(skb, packet);
	} else {
		ret = translate4(skb, packet, &decision->rewrite);
		if (cfg_dsr && !ret && (decision->flags & PODWIRE_CT_DSR) && may_open(packet))
			ret = dsr4_push(skb, packet, &frontend);
	}
	return ret ? ret : deliver4(skb, packet, decision);
}

/* deliver4() for packets that may belong to a service's connection. */
static __always_inline int deliver_any4(struct __sk_buff *skb, struct podwire_packet *packet,
					const struct podwire_ct4 *decision)
{
	if (cfg_services && unlikely(decision->flags & CT_ANY_TRANSLATION))
		return deliver_translated4(skb, packet, decision);
	return deliver4(skb, packet, decision);
}

/* Translate what leaves the stack towards a client: `marked` by a program that saw it come in, or sent by the
 * host itself, whose answers nobody else translates. Returns 1 when it was an answer of a service, 0 when it
 * was not, or a refusal. */
static __noinline int translate_leaving4(struct __sk_buff *skb, struct podwire_packet *packet, bool marked)
{
	struct podwire_ct4 *entry;
	int ret;

	if (packet->flags & PACKET_ICMP_ERROR) {
		ret = translate_error4(skb, packet);
		return ret ? ret : marked;
	}
	entry = bpf_map_lookup_elem(&podwire_ct4, &packet->tuple);
	if (!entry || !(entry->flags & PODWIRE_CT_TRANSLATED_BACK))
		/* Forgotten on the way through the stack: the client would not know what it is about. */
		return marked ? refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED) : 0;
	/* A host's SYN opens a connection of its own; so does what it sends after a long silence. */
	if (!marked && (packet_is_syn(packet) || !ct4_touch(entry, packet)))
		return 0;
	ret = translate4(skb, packet, &entry->rewrite);
	return ret ? ret : 1;
}
