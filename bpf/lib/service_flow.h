/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_flow.h - the slow path's question: is this packet one of a service's connection, and what
 * becomes of it? Fills translation flags, `rewrite` and `service` of a decision; touches no packet. Reads the
 * conntrack table and the service maps, writes affinity, reports new connections. */
#pragma once

#include "common.h"
#include "conntrack.h"
#include "drop.h"
#include "service.h"
#include "translate.h"

/* Neither a verdict nor a refusal: answer "port unreachable". */
#define SERVICE_REJECT 256

/* Source ports for connections of one client to one backend by way of two services, which would otherwise
 * carry the same tuple: above what pods' own stacks use. */
#define SERVICE_PORT_MIN    61000U
#define SERVICE_PORTS	    (65536U - SERVICE_PORT_MIN)
#define SERVICE_PORT_PROBES 8

/* Is it a connection that is being translated? Then it keeps its backend, whatever has changed since. Not
 * kept: what a SYN opens over an old connection, and datagrams after a long silence in both directions. */
static __noinline bool service4_keep(const struct podwire_packet *packet, struct podwire_ct4 *decision)
{
	const struct podwire_ct4 *entry = bpf_map_lookup_elem(&podwire_ct4, &packet->tuple);
	const struct podwire_ct4 *other;
	struct podwire_tuple4 answers;

	if (!entry || !(entry->flags & CT_ANY_TRANSLATION))
		return false;
	if (packet_is_syn(packet)) {
		/* A repeated SYN: the first one's backend may be answering this very moment. */
		if ((entry->flags & PODWIRE_CT_TRANSLATED_BACK) || entry->state != PODWIRE_CT_STATE_NEW)
			return false;
		ct4_answers(&packet->tuple, entry, &answers);
		other = bpf_map_lookup_elem(&podwire_ct4, &answers);
		if (other && other->state == PODWIRE_CT_STATE_CLOSING)
			return false;
	} else if (packet->tuple.protocol != IPPROTO_TCP) {
		__u64 now = bpf_ktime_get_ns();

		if (ct4_over(entry, packet->tuple.protocol, now)) {
			ct4_answers(&packet->tuple, entry, &answers);
			other = bpf_map_lookup_elem(&podwire_ct4, &answers);
			if (!other || ct4_over(other, packet->tuple.protocol, now))
				return false;
		}
	}
	decision->flags |= entry->flags & (CT_ANY_TRANSLATION | PODWIRE_CT_DSR);
	decision->rewrite = entry->rewrite;
	decision->service = entry->service;
	return true;
}

/* Would the answers be taken for those of another live connection? */
static __noinline bool answers4_taken(const struct podwire_tuple4 *tuple, const struct podwire_ct4 *decision,
				      __u64 now)
{
	struct podwire_tuple4 answers;
	struct podwire_rewrite4 mine;
	const struct podwire_ct4 *other;

	ct4_answers(tuple, decision, &answers);
	other = bpf_map_lookup_elem(&podwire_ct4, &answers);
	if (!other || other->state == PODWIRE_CT_STATE_CLOSING || ct4_over(other, tuple->protocol, now))
		return false;
	rewrite4_of_answers(tuple, &mine);
	return !(other->flags & PODWIRE_CT_TRANSLATED_BACK) || !rewrite4_equal(&other->rewrite, &mine);
}

/* Change the source port when a client would reach one backend from one port by two ways. When there is none
 * free, the new connection takes the old one's place. */
static __noinline int service4_unique_port(const struct podwire_tuple4 *tuple, struct podwire_ct4 *decision)
{
	__u64 now = bpf_ktime_get_ns();
	int probe;

	/* Unrolled: kernels before 6.2 refuse some layouts of a loop. */
#pragma unroll
	for (probe = 0; probe < SERVICE_PORT_PROBES; probe++) {
		if (!answers4_taken(tuple, decision, now))
			return 0;
		decision->rewrite.source_port =
			bpf_htons((__u16)(SERVICE_PORT_MIN + bpf_get_prandom_u32() % SERVICE_PORTS));
	}
	return 0;
}

static __always_inline bool in_service_range(__be32 address)
{
	const struct podwire_ipcache4 *known = ipcache4_lookup(address);

	return known && (known->flags & PODWIRE_IPCACHE_SERVICE);
}

/* Remember in `decision` that the packet goes to the backend of `choice`. */
static __always_inline void service4_translate(struct __sk_buff *skb, const struct podwire_packet *packet,
					       const struct podwire_choice4 *choice,
					       struct podwire_ct4 *decision)
{
	decision->flags |= PODWIRE_CT_TRANSLATED;
	decision->service = choice->service;
	decision->rewrite.source_address = packet->tuple.source_address;
	decision->rewrite.source_port = packet->tuple.source_port;
	decision->rewrite.destination_address = choice->address;
	decision->rewrite.destination_port = choice->port;
	if (choice->address == packet->tuple.source_address)
		decision->rewrite.source_address = HAIRPIN_ADDRESS;
	service4_unique_port(&packet->tuple, decision);
	if (cfg_event_rate)
		send_translate_event(skb, packet, &decision->rewrite, choice->service);
}
