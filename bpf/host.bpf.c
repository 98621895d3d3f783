// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* bpf/host.bpf.c - the node's devices. podwire_from_netdev (ingress) undoes masquerading and delivers to the
 * node's pods; podwire_to_netdev (egress) masquerades. The node's own traffic passes untouched, whatever it
 * is. */
#include <linux/if_packet.h>

#include "lib/common.h"
#include "lib/config.h"

#include "lib/conclude.h"
#include "lib/conntrack.h"
#include "lib/delivery.h"
#include "lib/drop.h"
#include "lib/dsr_accept.h"
#include "lib/icmp.h"
#include "lib/nat.h"
#include "lib/reject.h"
#include "lib/route.h"
#include "lib/scratch.h"
#include "lib/service_external.h"
#include "lib/translate.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Addresses without judging the rest: most packets here are none of ours. False: too short for IPv4. */
static __always_inline bool addresses4(struct __sk_buff *skb, __be32 *source, __be32 *destination)
{
	void *data = packet_data(skb);
	void *end = packet_end(skb);
	const struct iphdr *ip;

	if (data + ETH_HLEN + sizeof(*ip) > end) {
		if (bpf_skb_pull_data(skb, ETH_HLEN + sizeof(*ip)))
			return false;
		data = packet_data(skb);
		end = packet_end(skb);
		if (data + ETH_HLEN + sizeof(*ip) > end)
			return false;
	}
	ip = data + ETH_HLEN;
	*source = ip->saddr;
	*destination = ip->daddr;
	return true;
}

/* A service's connection between a client outside and a backend that is no pod of this node: translated, and
 * sent where the host would route it. A backend on another node sees this node's address, or its answers
 * would not come back here. */
static __noinline int from_netdev_onward4(struct __sk_buff *skb, struct podwire_packet *packet,
					  const struct podwire_local4 *destination,
					  struct podwire_ct4 *decision)
{
	struct podwire_local4 source;
	int ret;

	local4_read(packet->tuple.source_address, &source);
	if (source.found)
		return refuse(packet, PODWIRE_DROP_INVALID_SOURCE_IP);
	ret = route4(skb, packet, decision->rewrite.destination_address, destination, decision);
	if (ret)
		return ret;
	if (destination->found)
		decision->flags &= ~PODWIRE_CT_DSR;
	if ((decision->flags & PODWIRE_CT_TRANSLATED_BACK) || (decision->flags & PODWIRE_CT_DSR))
		decision->flags &= ~PODWIRE_CT_MASQUERADE;
	else if (!destination->found)
		decision->flags |= PODWIRE_CT_MASQUERADE;
	return conclude4(skb, packet, decision, &source, destination);
}

/* What another node sent for a frontend of its, to this host itself: the host's answers are translated where
 * they leave. */
static __noinline int from_netdev_dsr4(struct __sk_buff *skb, struct podwire_packet *packet,
				       const struct dsr4_frontend *frontend,
				       const struct podwire_local4 *destination, struct podwire_ct4 *decision)
{
	struct podwire_local4 source;
	int ret;

	decision->flags |= PODWIRE_CT_VIA_STACK;
	decision->delivery = PODWIRE_DELIVERY_STACK;
	local4_read(packet->tuple.source_address, &source);
	ret = conclude4(skb, packet, decision, &source, destination);
	return ret < 0 ? ret : dsr4_conclude(packet, frontend, ret);
}

/* Nothing valid is remembered: whose packet is it? */
static __noinline int from_netdev_slow4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_local4 source, destination;
	struct podwire_ct4 *decision = scratch_decision();
	struct dsr4_frontend frontend = {};
	__be32 address = packet->tuple.destination_address;
	int ret;

	if (!decision)
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	if (cfg_services && unlikely(packet->flags & PACKET_OPTIONS)) {
		ret = dsr4_pull(skb, packet, &frontend);
		if (ret)
			return ret;
	}
	if (cfg_services && !frontend.address) {
		ret = service4_from_netdev(skb, packet, decision);
		if (ret == SERVICE_REJECT)
			return reject4(skb, packet, false);
		if (ret)
			return ret;
		if (decision->flags & CT_ANY_TRANSLATION)
			address = decision->rewrite.destination_address;
	}
	local4_read(address, &destination);
	if (!local4_is_pod(&destination)) {
		const struct podwire_ipcache4 *known;

		if (cfg_services && (decision->flags & CT_ANY_TRANSLATION))
			return from_netdev_onward4(skb, packet, &destination, decision);
		if (frontend.address && destination.found)
			return from_netdev_dsr4(skb, packet, &frontend, &destination, decision);

		if (destination.found)
			return pass_seen(skb, PODWIRE_SEEN_NOTHING);
		known = ipcache4_lookup(packet->tuple.destination_address);
		if (known && (known->flags & PODWIRE_IPCACHE_LOCAL))
			return refuse(packet, PODWIRE_DROP_STALE_OR_UNROUTABLE);
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	}
	/* From outside, with an address that lives here. */
	local4_read(packet->tuple.source_address, &source);
	if (source.found)
		return refuse(packet, PODWIRE_DROP_INVALID_SOURCE_IP);

	if (ebpf_host_routing()) {
		decision->delivery = PODWIRE_DELIVERY_PEER;
		decision->output_ifindex = destination.ifindex;
		__builtin_memcpy(decision->mac, destination.mac, ETH_ALEN);
	}
	decision->flags &= ~PODWIRE_CT_DSR;
	ret = conclude4(skb, packet, decision, &source, &destination);
	return frontend.address && ret >= 0 ? dsr4_conclude(packet, &frontend, ret) : ret;
}

static __always_inline int from_netdev4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	const struct podwire_endpoint4 *endpoint;
	struct podwire_ct4 *entry;
	__be32 source, destination;
	int ret;

	if (!addresses4(skb, &source, &destination))
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	ret = parse4(skb, packet);
	if (unlikely(ret)) {
		/* What the node's stack makes of an odd packet of its own is its business. */
		endpoint = endpoint4_lookup(destination);
		if (!endpoint || (endpoint->flags & PODWIRE_ENDPOINT_HOST))
			return pass_seen(skb, PODWIRE_SEEN_NOTHING);
		return ret;
	}
	if (destination == cfg_node_ip4 || nat4_may_answer(packet)) {
		ret = cfg_masquerade || cfg_services ? unmasquerade4(skb, packet) : 0;
		if (ret < 0)
			return ret;
		if (ret) {
			packet->flags |= PACKET_UNMASQUERADED;
			count_forward(skb, PODWIRE_FORWARD_UNMASQUERADED);
		} else if (!cfg_services && destination == cfg_node_ip4) {
			return pass_seen(skb, PODWIRE_SEEN_NOTHING);
		}
	}
	/* Options may say which service a packet is for: the slow path reads them. */
	if (likely(!packet_is_syn(packet) && !(cfg_services && (packet->flags & PACKET_OPTIONS)))) {
		entry = bpf_map_lookup_elem(&podwire_ct4, &packet->tuple);
		if (likely(entry && ct4_current(entry, packet, 0) && ct4_touch(entry, packet)))
			return deliver_any4(skb, packet, entry);
		/* The node's own connections are in no table, and their packets no question. */
		if (!entry && packet->tuple.destination_address == cfg_node_ip4 &&
		    packet->tuple.protocol == IPPROTO_TCP)
			return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	}
	return from_netdev_slow4(skb, packet);
}

SEC("tc")
int podwire_from_netdev(struct __sk_buff *skb)
{
	struct podwire_packet packet = { .program = PODWIRE_PROGRAM_FROM_NETDEV };
	int ret;

	/* Another machine's frame, on a device that takes all: the stack ignores it. */
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present || skb->pkt_type == PACKET_OTHERHOST)
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	ret = from_netdev4(skb, &packet);
	return likely(ret >= 0) ? ret : drop(skb, &packet, ret);
}

/* The host's own packet leaves, or the stack's ICMP error: translate the answers of services' backends that
 * are the host's own processes, and answer what sockets would have translated if the service had a backend.
 */
static __noinline int to_netdev_host4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	int ret = parse4(skb, packet);

	/* What the host makes of an odd packet of its own is its business. */
	if (ret)
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	ret = translate_leaving4(skb, packet, false);
	if (ret < 0)
		return ret;
	if (!ret && may_open(packet) && !(packet->flags & PACKET_ICMP_ERROR) &&
	    in_service_range(packet->tuple.destination_address))
		return reject4(skb, packet, true);
	return pass_seen(skb, PODWIRE_SEEN_NOTHING);
}

/* A pod's packet that leaves the node out of the stack, and that no program routed this way: netfilter
 * translated its destination, and must see the answers. Sets `masquerade`. Returns 0 or a refusal. */
static __noinline int to_netdev_untracked4(struct __sk_buff *skb, struct podwire_packet *packet,
					   const struct podwire_local4 *source, bool *masquerade)
{
	struct podwire_ct4 *decision = scratch_decision();
	struct podwire_local4 destination;
	int ret;

	if (!decision)
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	decision->ifindex = source->ifindex;
	decision->flags = PODWIRE_CT_VIA_STACK;
	local4_read(packet->tuple.destination_address, &destination);
	if (masquerade4_wanted(packet->tuple.destination_address))
		decision->flags |= PODWIRE_CT_MASQUERADE;
	ret = record4(skb, packet, decision, source, &destination);
	*masquerade = decision->flags & PODWIRE_CT_MASQUERADE;
	return ret;
}

/* An ICMP error that a pod sends to the world: masqueraded if the connection it quotes is. Set
 * `masquerade` says that from_pod has judged it. Returns 0 or a refusal. */
static __noinline int to_netdev_error4(struct __sk_buff *skb, struct podwire_packet *packet, bool *masquerade)
{
	struct podwire_local4 source, destination;
	struct podwire_quoted4 quoted;
	const struct podwire_ct4 *entry;
	int ret = quoted4_read(skb, packet, &quoted);

	if (ret)
		return ret;
	if (cfg_policy && !*masquerade) {
		local4_read(packet->tuple.source_address, &source);
		local4_read(packet->tuple.destination_address, &destination);
		ret = conclude_error4(skb, packet, &quoted, &source, &destination);
		if (ret)
			return ret;
	}
	*masquerade = *masquerade || masquerade4_wanted(packet->tuple.destination_address);
	/* Opened from outside to the pod's own address: the peer knows it by that. */
	entry = bpf_map_lookup_elem(&podwire_ct4, &quoted.tuple);
	if (entry && (entry->flags & PODWIRE_CT_ORIGINAL))
		*masquerade = false;
	return 0;
}

static __always_inline int to_netdev4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_local4 source;
	__be32 source_address, destination_address;
	__u32 seen = skb->tc_index;
	bool masquerade = seen == PODWIRE_SEEN_MASQUERADE;
	int ret;

	if (likely(seen == PODWIRE_SEEN_DIRECT))
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	if (!addresses4(skb, &source_address, &destination_address))
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	if (cfg_services && seen == PODWIRE_SEEN_TRANSLATE) {
		ret = parse4(skb, packet);
		if (!ret)
			ret = translate_leaving4(skb, packet, true);
		return ret < 0 ? ret : pass_seen(skb, PODWIRE_SEEN_NOTHING);
	}
	if (source_address == cfg_node_ip4)
		return cfg_services ? to_netdev_host4(skb, packet) : pass_seen(skb, PODWIRE_SEEN_NOTHING);
	if (!masquerade) {
		local4_read(source_address, &source);
		if (!local4_is_pod(&source))
			return cfg_services ? to_netdev_host4(skb, packet)
					    : pass_seen(skb, PODWIRE_SEEN_NOTHING);
	}
	ret = parse4(skb, packet);
	if (ret)
		return ret;
	/* Untranslated to the end: the middle of a connection that no table knows. */
	if (cfg_services && !masquerade && in_service_range(destination_address))
		return reject4(skb, packet, true);
	if (packet->flags & PACKET_ICMP_ERROR)
		ret = to_netdev_error4(skb, packet, &masquerade);
	else if (!masquerade)
		ret = to_netdev_untracked4(skb, packet, &source, &masquerade);
	if (ret)
		return ret;
	if (masquerade) {
		ret = masquerade4(skb, packet);
		if (ret)
			return ret;
		count_forward(skb, PODWIRE_FORWARD_MASQUERADED);
	}
	return pass_seen(skb, PODWIRE_SEEN_NOTHING);
}

SEC("tc")
int podwire_to_netdev(struct __sk_buff *skb)
{
	struct podwire_packet packet = { .program = PODWIRE_PROGRAM_TO_NETDEV };
	int ret;

	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present)
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	ret = to_netdev4(skb, &packet);
	return likely(ret >= 0) ? ret : drop(skb, &packet, ret);
}
