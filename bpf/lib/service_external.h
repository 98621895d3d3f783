/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_external.h - clients outside of the cluster: who may use which frontend, and Maglev, which
 * gives a client the same backend on every node that it may come by. */
#pragma once

#include "common.h"
#include "service_flow.h"
#include "service_maglev_map.h"

/* Mix all bits of `value` into all bits of the result (the finalizer of splitmix64). */
static __always_inline __u64 mix64(__u64 value)
{
	value ^= value >> 30;
	value *= 0xbf58476d1ce4e5b9ULL;
	value ^= value >> 27;
	value *= 0x94d049bb133111ebULL;
	return value ^ (value >> 31);
}

/* Which backend of the external list the table gives this client, or SERVICE_INDEX_RANDOM without a table. */
static __noinline __u32 maglev4_index(const struct podwire_tuple4 *tuple,
				      const struct podwire_service4 *service)
{
	__u64 hash = mix64((__u64)tuple->source_address << 32 | tuple->destination_address);
	__u32 list, zero = 0;
	const __u16 *table;
	void *inner;

	if (!(service->flags & PODWIRE_SERVICE_MAGLEV))
		return SERVICE_INDEX_RANDOM;
	list = service->external_list;
	inner = bpf_map_lookup_elem(&podwire_maglev, &list);
	if (!inner)
		return SERVICE_INDEX_RANDOM;
	table = bpf_map_lookup_elem(inner, &zero);
	if (!table)
		return SERVICE_INDEX_RANDOM;
	hash = mix64(hash ^ ((__u64)tuple->source_port << 32 | (__u32)tuple->destination_port << 8 |
			     tuple->protocol));
	hash %= cfg_maglev_size;
	/* What the verifier must see: it knows the constant, but not what a remainder is. */
	if (hash >= cfg_maglev_size)
		return SERVICE_INDEX_RANDOM;
	return table[hash];
}

/* For a packet that came in by a device of the node. Returns 0, SERVICE_REJECT or a refusal. */
static __noinline int service4_from_netdev(struct __sk_buff *skb, struct podwire_packet *packet,
					   struct podwire_ct4 *decision)
{
	struct podwire_client4 client = {
		.id = packet->tuple.source_address,
		.kind = PODWIRE_AFFINITY_ADDRESS,
		.external = true,
	};
	struct podwire_service4_key frontend;
	struct podwire_choice4 choice = {};
	const struct podwire_service4 *service;
	__u16 flags;

	if (packet->flags & PACKET_ICMP_ERROR)
		return error4_follow(skb, packet, decision);
	if (service4_keep(packet, decision) || !may_open(packet) || packet->tuple.protocol == IPPROTO_ICMP)
		return 0;
	service = service4_find(packet->tuple.destination_address, packet->tuple.destination_port,
				packet->tuple.protocol, &frontend);
	if (!service)
		return 0;
	/* A node port of another node, which this one only routes to. */
	if (!frontend.address && !endpoint4_lookup(packet->tuple.destination_address))
		return 0;
	flags = service->flags;
	if (flags & PODWIRE_SERVICE_CLUSTER_IP)
		return refuse(packet, PODWIRE_DROP_IS_CLUSTER_IP);
	if ((flags & PODWIRE_SERVICE_SOURCE_RANGES) &&
	    !source_range4_allows(service->id, packet->tuple.source_address))
		return refuse(packet, PODWIRE_DROP_NOT_IN_SOURCE_RANGE);
	client.index = maglev4_index(&packet->tuple, service);
	if (service4_pick(&frontend, &client, &choice) != PODWIRE_PICK_OK) {
		/* A load balancer that finds no backend here looks elsewhere; an answer would stop it. */
		if (flags & PODWIRE_SERVICE_EXTERNAL_LOCAL)
			return refuse(packet, PODWIRE_DROP_NO_BACKEND);
		return SERVICE_REJECT;
	}
	service4_translate(skb, packet, &choice, decision);
	/* The option tells the frontend, not that the client's port was changed. */
	if (cfg_dsr && decision->rewrite.source_port == packet->tuple.source_port &&
	    dsr4_possible(packet, choice.address))
		decision->flags |= PODWIRE_CT_DSR;
	return 0;
}
