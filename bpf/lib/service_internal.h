/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_internal.h - clients that are pods of this node. */
#pragma once

#include "common.h"
#include "service_flow.h"

/* For a packet from a pod. Returns 0, SERVICE_REJECT or a refusal. */
static __noinline int service4_from_pod(struct __sk_buff *skb, struct podwire_packet *packet,
					struct podwire_ct4 *decision)
{
	struct podwire_client4 client = {
		.id = packet->tuple.source_address,
		.kind = PODWIRE_AFFINITY_ADDRESS,
		.index = SERVICE_INDEX_RANDOM,
	};
	struct podwire_service4_key frontend;
	struct podwire_choice4 choice = {};
	const struct podwire_service4 *service;

	if (packet->flags & PACKET_ICMP_ERROR)
		return error4_follow(skb, packet, decision);
	if (service4_keep(packet, decision) || !may_open(packet))
		return 0;
	if (packet->tuple.protocol == IPPROTO_ICMP)
		return in_service_range(packet->tuple.destination_address)
			       ? refuse(packet, PODWIRE_DROP_NO_BACKEND)
			       : 0;
	service = service4_find(packet->tuple.destination_address, packet->tuple.destination_port,
				packet->tuple.protocol, &frontend);
	if (!service)
		return in_service_range(packet->tuple.destination_address) ? SERVICE_REJECT : 0;
	if ((service->flags & PODWIRE_SERVICE_SOURCE_RANGES) &&
	    !source_range4_allows(service->id, packet->tuple.source_address))
		return refuse(packet, PODWIRE_DROP_NOT_IN_SOURCE_RANGE);
	if (service4_pick(&frontend, &client, &choice) != PODWIRE_PICK_OK)
		return SERVICE_REJECT;
	service4_translate(skb, packet, &choice, decision);
	return 0;
}
