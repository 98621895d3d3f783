/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/icmp.h - ICMP errors quote the packet that caused them; that packet's connection says how the error
 * travels. Reads the packet and the conntrack table. */
#pragma once

#include <linux/ip.h>

#include "common.h"
#include "conntrack_map.h"
#include "parse.h"

#define ICMP4_HEADER 8

struct podwire_quoted4 {
	struct podwire_tuple4 tuple;
	__u32 l3_offset; /* of the quoted IP header, from the start of the frame */
	__u32 l4_offset;
	__u8 fragment; /* a later fragment was quoted: no ports */
	__u8 pad[3];
};

/* Fill `quoted` from the packet quoted at the end of the ICMP header. Returns 0 or a refusal. */
static __noinline int quoted4_read(struct __sk_buff *skb, struct podwire_packet *packet,
				   struct podwire_quoted4 *quoted)
{
	struct iphdr ip;
	__u8 l4[8];

	__builtin_memset(quoted, 0, sizeof(*quoted));
	quoted->l3_offset = packet->l4_offset + ICMP4_HEADER;
	if (bpf_skb_load_bytes(skb, quoted->l3_offset, &ip, sizeof(ip)))
		return refuse(packet, PODWIRE_DROP_CT_INVALID_HEADER);
	if (ip.version != 4 || ip.ihl < 5)
		return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
	quoted->l4_offset = quoted->l3_offset + ip.ihl * 4;
	quoted->tuple.source_address = ip.saddr;
	quoted->tuple.destination_address = ip.daddr;
	quoted->tuple.protocol = ip.protocol;
	if (ip.frag_off & IP_OFFSET_MASK) {
		quoted->fragment = 1;
		return 0;
	}
	/* RFC 792: at least eight bytes of the transport header are quoted. */
	if (bpf_skb_load_bytes(skb, quoted->l4_offset, l4, sizeof(l4)))
		return refuse(packet, PODWIRE_DROP_CT_INVALID_HEADER);
	if (ip.protocol == IPPROTO_ICMP) {
		if (l4[0] == ICMP4_ECHO)
			quoted->tuple.source_port = *(__be16 *)(l4 + 4);
		else if (l4[0] == ICMP4_ECHO_REPLY)
			quoted->tuple.destination_port = *(__be16 *)(l4 + 4);
		return 0;
	}
	quoted->tuple.source_port = *(__be16 *)l4;
	quoted->tuple.destination_port = *(__be16 *)(l4 + 2);
	return 0;
}

/* Must the error go through the stack, because the connection it is about does? */
static __always_inline bool quoted4_via_stack(const struct podwire_quoted4 *quoted)
{
	const struct podwire_ct4 *entry = bpf_map_lookup_elem(&podwire_ct4, &quoted->tuple);

	return entry && (entry->flags & PODWIRE_CT_VIA_STACK);
}
