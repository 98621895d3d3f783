/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/delivery.h - send a packet on its way. Rewrites MAC addresses and the TTL; redirects or hands over.
 *
 * A packet that goes to the stack carries in tc_index what was decided about it, because the hook at which it
 * leaves must tell a packet that was only routed from one that netfilter translated or a host process sent.
 * tc_index and not the mark: nothing else on the host reads or sets it, and it does not come in from outside,
 * since from_pod and from_netdev always write it. */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>

#include "common.h"
#include "config.h"
#include "conntrack_types.h"
#include "metrics.h"
#include "parse.h"

enum podwire_seen {
	PODWIRE_SEEN_NOTHING = 0,	  /* from the host, or about to be translated */
	PODWIRE_SEEN_DIRECT = 0x5701,	  /* routed as it is */
	PODWIRE_SEEN_MASQUERADE = 0x5702, /* as before, and leaves the node with the node's address */
	PODWIRE_SEEN_TRANSLATE = 0x5703,  /* as before, and a backend's answer: leaves from the service */
};

/* Both hooks' frameworks overwrite tc_index with tc_classid when a program lets a packet pass. */
static __always_inline int pass_seen(struct __sk_buff *skb, __u16 seen)
{
	skb->tc_index = seen;
	skb->tc_classid = seen;
	return TC_ACT_OK;
}

static __always_inline bool seen_directly(const struct __sk_buff *skb)
{
	__u32 seen = skb->tc_index;

	return seen == PODWIRE_SEEN_DIRECT || seen == PODWIRE_SEEN_MASQUERADE;
}

static __always_inline __u16 seen_of(__u8 flags)
{
	if (flags & PODWIRE_CT_VIA_STACK)
		return PODWIRE_SEEN_NOTHING;
	return flags & PODWIRE_CT_MASQUERADE ? PODWIRE_SEEN_MASQUERADE : PODWIRE_SEEN_DIRECT;
}

static __always_inline int deliver_stack(struct __sk_buff *skb, __u8 flags)
{
	count_forward(skb, flags & PODWIRE_CT_VIA_STACK ? PODWIRE_FORWARD_STACK_TRANSLATED
							: PODWIRE_FORWARD_STACK);
	return pass_seen(skb, seen_of(flags));
}

/* A burst that is still to be segmented is judged by its segments. */
static __always_inline bool too_big(const struct __sk_buff *skb, const struct podwire_packet *packet,
				    __u32 mtu)
{
	__u32 segment;

	if (likely(packet->length <= mtu))
		return false;
	segment = skb->gso_size;
	return !segment || packet->l4_offset - ETH_HLEN + packet->l4_length + segment > mtu;
}

static __always_inline void decrement_ttl(struct iphdr *ip)
{
	/* RFC 1624 for "one less in the high byte": the checksum grows by 0x0100, end-around. */
	__u32 check = ip->check + bpf_htons(0x0100);

	ip->check = (__u16)(check + (check >= 0xffff));
	ip->ttl--;
}

/* Only the stack answers "time exceeded" and "fragmentation needed", and only it obeys IP options. */
static __always_inline bool needs_stack(const struct __sk_buff *skb, const struct podwire_packet *packet,
					__u32 mtu)
{
	return packet->ttl <= 1 || (packet->flags & PACKET_OPTIONS) || too_big(skb, packet, mtu);
}

static __always_inline int deliver4(struct __sk_buff *skb, struct podwire_packet *packet,
				    const struct podwire_ct4 *decision)
{
	struct bpf_redir_neigh neighbour = {};
	void *data, *end;
	struct ethhdr *ethernet;
	struct iphdr *ip;

	if (decision->delivery == PODWIRE_DELIVERY_STACK || unlikely(needs_stack(skb, packet, decision->mtu)))
		return deliver_stack(skb, decision->flags);

	data = packet_data(skb);
	end = packet_end(skb);
	ethernet = data;
	ip = data + ETH_HLEN;
	if (unlikely((void *)(ip + 1) > end))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	decrement_ttl(ip);
	if (decision->delivery == PODWIRE_DELIVERY_PEER) {
		__builtin_memcpy(ethernet->h_dest, decision->mac, ETH_ALEN);
		host_mac_to(ethernet->h_source);
		count_forward(skb, PODWIRE_FORWARD_PEER);
		return bpf_redirect_peer(decision->output_ifindex, 0);
	}
	neighbour.nh_family = 2; /* AF_INET */
	neighbour.ipv4_nh = decision->next_hop;
	skb->tc_index = seen_of(decision->flags);
	count_forward(skb, PODWIRE_FORWARD_NEIGH);
	return bpf_redirect_neigh(decision->output_ifindex, &neighbour, sizeof(neighbour), 0);
}
