/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/route.h - where a pod's packet goes: the slow path's decision. Reads the ipcache and the FIB; the
 * caller has read the destination's revision before. */
#pragma once

#include "common.h"
#include "config.h"
#include "conntrack_types.h"
#include "ipcache.h"
#include "local.h"
#include "parse.h"

#define AF_INET 2

/* No pod has business with these: "this network", loopback, multicast, reserved and broadcast, and the
 * addresses on no interface: the gateway, and what a pod that reaches itself by way of a service sees. */
static __always_inline bool unroutable4(__be32 address)
{
	__u8 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127 || first >= 224 || address == cfg_gateway_ip4 ||
	       (cfg_services && address == HAIRPIN_ADDRESS);
}

/* Ask the host's FIB, so that both host-routing modes take the same way. What it cannot answer, or answers
 * with an error that the sender should hear of, is left to the stack. Returns 0 or a refusal. */
static __noinline int fib4(struct __sk_buff *skb, struct podwire_packet *packet, __be32 address,
			   struct podwire_ct4 *decision)
{
	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.l4_protocol = packet->tuple.protocol,
		.ifindex = skb->ifindex,
		.ipv4_src = packet->tuple.source_address,
		.ipv4_dst = address,
	};
	long answer = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);

	decision->delivery = PODWIRE_DELIVERY_STACK;
	switch (answer) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		decision->delivery = PODWIRE_DELIVERY_NEIGH;
		decision->output_ifindex = fib.ifindex;
		decision->next_hop = fib.ipv4_dst; /* the gateway, or the destination itself */
		return 0;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		/* An address of the host that user space did not name, or no route at all. */
		decision->flags |= PODWIRE_CT_VIA_STACK;
		return 0;
	default:
		return answer < 0 ? refuse(packet, PODWIRE_DROP_FIB_LOOKUP_FAILED) : 0;
	}
}

/* Set delivery and flags of `decision` for a packet that goes to `address`, which is `destination`: the
 * packet's own, or that of the backend it is for. Returns 0 or a refusal. */
static __always_inline int route4(struct __sk_buff *skb, struct podwire_packet *packet, __be32 address,
				  const struct podwire_local4 *destination, struct podwire_ct4 *decision)
{
	const struct podwire_ipcache4 *known;
	__u32 flags;

	decision->delivery = PODWIRE_DELIVERY_STACK;
	if (destination->found) {
		if (destination->flags & PODWIRE_ENDPOINT_HOST) {
			decision->flags |= PODWIRE_CT_VIA_STACK;
		} else if (ebpf_host_routing() || ct4_hairpin(&packet->tuple, decision)) {
			decision->delivery = PODWIRE_DELIVERY_PEER;
			decision->output_ifindex = destination->ifindex;
			__builtin_memcpy(decision->mac, destination->mac, ETH_ALEN);
		}
		return 0;
	}
	if (unroutable4(address))
		return refuse(packet, PODWIRE_DROP_UNKNOWN_L3_TARGET);
	known = ipcache4_lookup(address);
	flags = known ? known->flags : 0;
	if (known)
		decision->identity = known->identity;
	if (flags & PODWIRE_IPCACHE_SERVICE) {
		decision->flags |= PODWIRE_CT_VIA_STACK;
		return 0;
	}
	if (flags & PODWIRE_IPCACHE_LOCAL)
		return refuse(packet, PODWIRE_DROP_STALE_OR_UNROUTABLE);
	if (cfg_masquerade && !(flags & (PODWIRE_IPCACHE_CLUSTER | PODWIRE_IPCACHE_NODE)))
		decision->flags |= PODWIRE_CT_MASQUERADE;
	return ebpf_host_routing() ? fib4(skb, packet, address, decision) : 0;
}

/* Does a pod's packet to this address leave with the node's address? For packets whose decision was not made
 * by from_pod. */
static __always_inline bool masquerade4_wanted(__be32 destination)
{
	const struct podwire_ipcache4 *known;

	if (!cfg_masquerade)
		return false;
	known = ipcache4_lookup(destination);
	return !known || !(known->flags & (PODWIRE_IPCACHE_CLUSTER | PODWIRE_IPCACHE_NODE |
					   PODWIRE_IPCACHE_SERVICE | PODWIRE_IPCACHE_LOCAL));
}
