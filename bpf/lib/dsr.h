/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/dsr.h - direct server return: a backend on another node answers the client itself, with the
 * frontend's address. The node that the client asked leaves the client's address in the packet and tells the
 * backend's node in an IP option which frontend that was: in the SYN of a TCP connection, in every datagram.
 * That node takes the option out and remembers it with the answers. Rewrites packets and the conntrack table.
 */
#pragma once

#include <linux/ip.h>

#include "common.h"
#include "conntrack.h"
#include "service.h"

/* The option that Cilium uses: copied into fragments, class control, number 26. */
#define DSR_OPTION	  0x9a
#define DSR_OPTION_LENGTH 8

struct dsr4_head {
	struct iphdr ip;
	__u8 kind;
	__u8 length;
	__be16 port;
	__be32 address;
} __attribute__((packed));
_Static_assert(sizeof(struct dsr4_head) == sizeof(struct iphdr) + DSR_OPTION_LENGTH, "no padding");

struct dsr4_frontend {
	__be32 address; /* 0: none */
	__be16 port;
	__u16 pad;
};

/* Can the backend's node answer? It must be one of the cluster's, and the option must fit. */
static __always_inline bool dsr4_possible(const struct podwire_packet *packet, __be32 backend)
{
	const struct podwire_ipcache4 *known;

	if (packet->flags & (PACKET_OPTIONS | PACKET_FIRST_FRAGMENT | PACKET_LATER_FRAGMENT) ||
	    packet->length + DSR_OPTION_LENGTH > cfg_mtu)
		return false;
	known = ipcache4_lookup(backend);
	return known && (known->next_hop || (known->flags & PODWIRE_IPCACHE_NODE));
}

static __always_inline __u16 header_checksum(void *header, __u32 bytes)
{
	__u64 sum = bpf_csum_diff(NULL, 0, header, bytes, 0);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

/* Put the option in. A datagram that would become too large goes without: an earlier one had it. Checksums
 * over the packet do not change, because a right header sums up to nothing, with or without options. Returns
 * 0 or a refusal. */
static __noinline int dsr4_push(struct __sk_buff *skb, struct podwire_packet *packet,
				const struct dsr4_frontend *frontend)
{
	struct dsr4_head head;

	if (packet->flags & (PACKET_OPTIONS | PACKET_FIRST_FRAGMENT | PACKET_LATER_FRAGMENT) ||
	    packet->length + DSR_OPTION_LENGTH > cfg_mtu)
		return 0;
	if (bpf_skb_adjust_room(skb, DSR_OPTION_LENGTH, BPF_ADJ_ROOM_NET, 0) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &head.ip, sizeof(head.ip)))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	head.ip.ihl = sizeof(head) / 4;
	head.ip.tot_len = bpf_htons(bpf_ntohs(head.ip.tot_len) + DSR_OPTION_LENGTH);
	head.ip.check = 0;
	head.kind = DSR_OPTION;
	head.length = DSR_OPTION_LENGTH;
	head.port = frontend->port;
	head.address = frontend->address;
	head.ip.check = header_checksum(&head, sizeof(head));
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	packet->l4_offset += DSR_OPTION_LENGTH;
	packet->length += DSR_OPTION_LENGTH;
	return 0;
}
