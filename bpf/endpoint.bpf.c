// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* bpf/endpoint.bpf.c - the host-side veth of every pod. podwire_from_pod (its ingress) judges and delivers
 * what the pod sends; podwire_to_pod (its egress) sees only what comes through the host's stack. */
#include "lib/common.h"
#include "lib/config.h"

#include "lib/arp.h"
#include "lib/conclude.h"
#include "lib/conntrack.h"
#include "lib/delivery.h"
#include "lib/drop.h"
#include "lib/nd.h"
#include "lib/reject.h"
#include "lib/route.h"
#include "lib/scratch.h"
#include "lib/service_internal.h"
#include "lib/translate.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Nothing valid is remembered: judge the packet, remember the decision for the ones that follow. */
static __noinline int from_pod_slow4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_local4 source, destination;
	struct podwire_ct4 *decision = scratch_decision();
	__be32 address = packet->tuple.destination_address;
	int ret;

	if (!decision)
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	decision->ifindex = skb->ifindex;
	local4_read(packet->tuple.source_address, &source);
	if (!local4_is_pod(&source) || source.ifindex != skb->ifindex)
		return refuse(packet, PODWIRE_DROP_INVALID_SOURCE_IP);
	if (cfg_services) {
		ret = service4_from_pod(skb, packet, decision);
		if (ret == SERVICE_REJECT)
			return reject4(skb, packet, false);
		if (ret)
			return ret;
		if (decision->flags & CT_ANY_TRANSLATION)
			address = decision->rewrite.destination_address;
	}
	local4_read(address, &destination);
	ret = route4(skb, packet, address, &destination, decision);
	if (ret)
		return ret;
	return conclude4(skb, packet, decision, &source, &destination);
}

static __always_inline int from_pod4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_ct4 *entry;
	int ret = parse4(skb, packet);

	if (ret)
		return ret;
	/* A SYN may start a new connection over an old one's entry: the slow path sorts that out. */
	if (likely(!packet_is_syn(packet))) {
		entry = bpf_map_lookup_elem(&podwire_ct4, &packet->tuple);
		if (likely(entry && ct4_current(entry, packet, skb->ifindex) && ct4_touch(entry, packet)))
			return deliver_any4(skb, packet, entry);
	}
	return from_pod_slow4(skb, packet);
}

SEC("tc")
int podwire_from_pod(struct __sk_buff *skb)
{
	struct podwire_packet packet = { .program = PODWIRE_PROGRAM_FROM_POD };
	int ret;

	if (unlikely(skb->vlan_present))
		ret = refuse(&packet, PODWIRE_DROP_UNSUPPORTED_L2);
	else if (likely(skb->protocol == bpf_htons(ETH_P_IP)))
		ret = from_pod4(skb, &packet);
	else if (skb->protocol == bpf_htons(ETH_P_ARP))
		ret = from_pod_arp(skb, &packet);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		ret = from_pod_ipv6(skb, &packet);
	else
		ret = refuse(&packet, PODWIRE_DROP_UNSUPPORTED_L2);
	return likely(ret >= 0) ? ret : drop(skb, &packet, ret);
}

/* Out of the stack, but no program routed it this way: the host sent it, or netfilter translated it, and must
 * see the answers. Returns 0 or a refusal. */
static __noinline int to_pod_untracked4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_local4 source, destination;
	struct podwire_ct4 *decision = scratch_decision();

	if (!decision)
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	decision->flags = PODWIRE_CT_VIA_STACK;
	local4_read(packet->tuple.destination_address, &destination);
	/* Not an endpoint yet, or not any more: nobody knows what it may receive. */
	if (!local4_is_pod(&destination))
		return cfg_policy ? refuse(packet, PODWIRE_DROP_STALE_OR_UNROUTABLE) : 0;
	local4_read(packet->tuple.source_address, &source);
	if (local4_is_pod(&source))
		decision->ifindex = source.ifindex;
	return record4(skb, packet, decision, &source, &destination);
}

/* The same for an ICMP error. */
static __noinline int to_pod_error4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_local4 source, destination;
	struct podwire_quoted4 quoted;
	int ret = quoted4_read(skb, packet, &quoted);

	if (ret)
		return ret;
	local4_read(packet->tuple.destination_address, &destination);
	if (!local4_is_pod(&destination))
		return refuse(packet, PODWIRE_DROP_STALE_OR_UNROUTABLE);
	local4_read(packet->tuple.source_address, &source);
	return conclude_error4(skb, packet, &quoted, &source, &destination);
}

static __always_inline int to_pod4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	bool marked = cfg_services && skb->tc_index == PODWIRE_SEEN_TRANSLATE;
	struct podwire_ct4 *entry;
	int ret;

	if (seen_directly(skb)) {
		count_forward(skb, PODWIRE_FORWARD_POD_DIRECT);
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	}
	ret = parse4(skb, packet);
	if (ret)
		return ret;
	entry = packet->flags & PACKET_ICMP_ERROR ? NULL : bpf_map_lookup_elem(&podwire_ct4, &packet->tuple);
	if (cfg_services && (marked || packet->flags & PACKET_ICMP_ERROR ||
			     (entry && (entry->flags & PODWIRE_CT_TRANSLATED_BACK)))) {
		ret = translate_leaving4(skb, packet, marked);
		if (ret < 0)
			return ret;
		if (ret) {
			count_forward(skb,
				      marked ? PODWIRE_FORWARD_POD_DIRECT : PODWIRE_FORWARD_POD_TRANSLATED);
			return pass_seen(skb, PODWIRE_SEEN_NOTHING);
		}
	}
	if (packet->flags & PACKET_ICMP_ERROR) {
		ret = cfg_policy ? to_pod_error4(skb, packet) : 0;
		if (ret)
			return ret;
	} else if (!(entry && (entry->flags & PODWIRE_CT_VIA_STACK) && !packet_is_syn(packet) &&
		     (!cfg_policy || ct4_judged(entry)) && ct4_touch(entry, packet))) {
		ret = to_pod_untracked4(skb, packet);
		if (ret)
			return ret;
	}
	count_forward(skb, PODWIRE_FORWARD_POD_TRANSLATED);
	return pass_seen(skb, PODWIRE_SEEN_NOTHING);
}

SEC("tc")
int podwire_to_pod(struct __sk_buff *skb)
{
	struct podwire_packet packet = { .program = PODWIRE_PROGRAM_TO_POD };
	int ret;

	if (likely(skb->protocol == bpf_htons(ETH_P_IP)))
		ret = to_pod4(skb, &packet);
	else if (skb->protocol == bpf_htons(ETH_P_ARP))
		ret = pass_seen(skb,
				PODWIRE_SEEN_NOTHING); /* the host asks for the pod's MAC, or answers it */
	else if (skb->protocol != bpf_htons(ETH_P_IPV6))
		ret = refuse(&packet, PODWIRE_DROP_UNSUPPORTED_L2);
	else if (seen_directly(skb)) /* from_pod's own answer for the gateway */
		ret = pass_seen(skb, PODWIRE_SEEN_NOTHING);
	else
		ret = refuse(&packet, PODWIRE_DROP_UNSUPPORTED_L3);
	return likely(ret >= 0) ? ret : drop(skb, &packet, ret);
}
