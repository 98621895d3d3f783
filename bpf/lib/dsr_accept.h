/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/dsr_accept.h - direct server return at the backend's node: take the option out of the packet, and
 * remember with the answers which frontend they come from. */
#pragma once

#include "dsr.h"

/* Take the option out, when it is there and names a frontend that clients outside may use; anybody can write
 * an option. `frontend` says which. Returns 0 or a refusal. */
static __noinline int dsr4_pull(struct __sk_buff *skb, struct podwire_packet *packet,
				struct dsr4_frontend *frontend)
{
	struct podwire_service4_key key;
	const struct podwire_service4 *service;
	struct dsr4_head head;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &head, sizeof(head)) || head.ip.ihl != sizeof(head) / 4 ||
	    head.kind != DSR_OPTION || head.length != DSR_OPTION_LENGTH)
		return 0;
	service = service4_find(head.address, head.port, head.ip.protocol, &key);
	if (!service || (service->flags & PODWIRE_SERVICE_CLUSTER_IP))
		return 0;
	if (bpf_skb_adjust_room(skb, -DSR_OPTION_LENGTH, BPF_ADJ_ROOM_NET, 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	head.ip.ihl = sizeof(head.ip) / 4;
	head.ip.tot_len = bpf_htons(bpf_ntohs(head.ip.tot_len) - DSR_OPTION_LENGTH);
	head.ip.check = 0;
	head.ip.check = header_checksum(&head.ip, sizeof(head.ip));
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &head.ip, sizeof(head.ip), 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	packet->flags &= ~PACKET_OPTIONS;
	packet->l4_offset -= DSR_OPTION_LENGTH;
	packet->length -= DSR_OPTION_LENGTH;
	frontend->address = head.address;
	frontend->port = head.port;
	return 0;
}

/* Let the answers to a recorded packet leave with the frontend's address. Returns `verdict` or a refusal. */
static __noinline int dsr4_conclude(struct podwire_packet *packet, const struct dsr4_frontend *frontend,
				    int verdict)
{
	struct podwire_tuple4 answers;
	struct podwire_ct4 *entry;

	tuple4_reverse(&packet->tuple, &answers);
	entry = bpf_map_lookup_elem(&podwire_ct4, &answers);
	if (!entry)
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	rewrite4_of_answers(&packet->tuple, &entry->rewrite);
	entry->rewrite.source_address = frontend->address;
	entry->rewrite.source_port = frontend->port;
	entry->flags |= PODWIRE_CT_TRANSLATED_BACK;
	return verdict;
}
