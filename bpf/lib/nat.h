/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/nat.h - masquerading: packets from pods to the world leave with the node's address on the device
 * they leave by and a port from a range that the host does not use; answers and ICMP errors come back. Reads
 * and writes podwire_nat4, reads podwire_masquerade4 and podwire_endpoints4, rewrites packets. Works on
 * packets whose checksum the device will complete and on bursts before segmentation, because the checksum
 * helpers know about both.
 *
 * Two CPUs may allocate for the same flow at once: each reserves a port by inserting the reverse entry, which
 * only one can win per port; the one that then finds a forward entry gives its reservation back and follows
 * that. */
#pragma once

#include <linux/ip.h>

#include "common.h"
#include "config.h"
#include "endpoints.h"
#include "icmp.h"
#include "masquerade_map.h"
#include "nat_map.h"
#include "parse.h"
#include "rewrite.h"

#define NAT_PROBES 32
/* How often an outgoing flow looks whether its answers would still find their way. */
#define NAT_CHECK_NANOSECONDS (1LL * 1000000000LL)
/* How long a silent mapping keeps its port when another flow asks for it. */
#define NAT_CLOSING_NANOSECONDS (10LL * 1000000000LL)
#define NAT_IDLE_NANOSECONDS	(300LL * 1000000000LL)
#define NAT_TCP_NANOSECONDS	(86400LL * 1000000000LL)

static __always_inline bool nat_port_in_range(__be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= cfg_nat_port_min && number <= cfg_nat_port_max;
}

/* Note that the mapping is in use. The clock is read once per tick. True at most once per second: time to
 * look after the other entry. */
static __always_inline bool nat4_touch(struct podwire_nat4 *mapping)
{
	__u32 tick = (__u32)bpf_jiffies64();
	__u64 now, before;

	if (likely(mapping->seen_jiffies == tick))
		return false;
	now = bpf_ktime_get_ns();
	before = mapping->checked;
	mapping->seen_jiffies = tick;
	mapping->last_seen = now;
	if (elapsed(before, now) < NAT_CHECK_NANOSECONDS)
		return false;
	mapping->checked = now;
	return true;
}

/* Goodbyes are kept where ports are reserved, in the answers' entry. */
static __always_inline void nat4_note_flags(struct podwire_nat4 *reverse, const struct podwire_packet *packet,
					    __u8 fin)
{
	if (packet->tuple.protocol != IPPROTO_TCP)
		return;
	if (packet->tcp_flags & TCP_FLAG_RST)
		reverse->closing |= PODWIRE_NAT_RST;
	else if (packet->tcp_flags & TCP_FLAG_FIN)
		reverse->closing |= fin;
	else if (packet_is_syn(packet))
		reverse->closing = 0;
}

/* May another flow take the port? */
static __always_inline bool nat4_over(const struct podwire_nat4 *reverse, __u8 protocol, __u64 now)
{
	const __u8 both = PODWIRE_NAT_FIN_POD | PODWIRE_NAT_FIN_WORLD;
	__s64 idle = elapsed(reverse->last_seen, now);

	if ((reverse->closing & PODWIRE_NAT_RST) || (reverse->closing & both) == both)
		return idle > NAT_CLOSING_NANOSECONDS;
	return idle > (protocol == IPPROTO_TCP ? NAT_TCP_NANOSECONDS : NAT_IDLE_NANOSECONDS);
}

/* Reserve one port for the flow. True when `reverse` was inserted, or was this flow's already. */
static __noinline bool nat4_reserve(const struct podwire_tuple4 *answer, const struct podwire_nat4 *reverse)
{
	const struct podwire_nat4 *holder;

	if (!bpf_map_update_elem(&podwire_nat4, answer, reverse, BPF_NOEXIST))
		return true;
	holder = bpf_map_lookup_elem(&podwire_nat4, answer);
	if (!holder)
		return false;
	if (holder->address == reverse->address && holder->port == reverse->port)
		return true;
	if (!nat4_over(holder, answer->protocol, reverse->created))
		return false;
	return !bpf_map_update_elem(&podwire_nat4, answer, reverse, BPF_ANY);
}

/* Find a free port of the node's `address` and remember the mapping both ways; `forward` returns what the
 * source becomes. Returns 0 or a refusal. */
static __noinline int nat4_allocate(struct podwire_packet *packet, __be32 address,
				    struct podwire_nat4 *forward)
{
	const struct podwire_tuple4 *tuple = &packet->tuple;
	struct podwire_tuple4 answer;
	struct podwire_nat4 reverse = {
		.address = tuple->source_address,
		.port = tuple->source_port,
		.reverse = 1,
	};
	const struct podwire_nat4 *winner;
	__u32 size = (__u32)cfg_nat_port_max - cfg_nat_port_min + 1;
	__u32 wanted = bpf_ntohs(tuple->source_port);
	__u32 offset;
	int probe;

	if (cfg_nat_port_max < cfg_nat_port_min)
		return refuse(packet, PODWIRE_DROP_NAT_NO_MAPPING);
	tuple4_reverse(tuple, &answer);
	answer.destination_address = address;
	reverse.created = bpf_ktime_get_ns();
	reverse.last_seen = reverse.created;
	reverse.checked = reverse.created;
	reverse.seen_jiffies = (__u32)bpf_jiffies64();
	*forward = reverse;
	forward->reverse = 0;
	forward->address = address;

	/* The pod's own port if it is in the range and free, then up to NAT_PROBES - 1 random ones. */
	offset = nat_port_in_range(tuple->source_port) ? wanted - cfg_nat_port_min
						       : bpf_get_prandom_u32() % size;
	for (probe = 0; probe < NAT_PROBES; probe++) {
		__be16 port = bpf_htons((__u16)(cfg_nat_port_min + offset));

		/* A request's identifier is its tuple's source port, its answer's the destination port. */
		answer.destination_port = port;
		if (nat4_reserve(&answer, &reverse)) {
			forward->port = port;
			if (!bpf_map_update_elem(&podwire_nat4, tuple, forward, BPF_NOEXIST))
				return 0;
			bpf_map_delete_elem(&podwire_nat4, &answer);
			winner = bpf_map_lookup_elem(&podwire_nat4, tuple);
			if (!winner)
				break;
			*forward = *winner;
			return 0;
		}
		offset = bpf_get_prandom_u32() % size;
	}
	return refuse(packet, PODWIRE_DROP_NAT_NO_MAPPING);
}

/* Translate an ICMP error to `mapping`: the quoted packet's destination or source, and the error's own
 * address at the same end of the connection, which is the opposite field. Returns 0 or a refusal. */
static __always_inline int rewrite_error4(struct __sk_buff *skb, struct podwire_packet *packet,
					  const struct podwire_quoted4 *quoted,
					  const struct podwire_nat4 *mapping, bool destination)
{
	const struct podwire_tuple4 *sent = &quoted->tuple;
	struct rewrite4_step rewrite = {
		.old_address = destination ? sent->destination_address : sent->source_address,
		.new_address = mapping->address,
		.old_port = destination ? sent->destination_port : sent->source_port,
		.new_port = mapping->port,
		.destination = destination,
	};
	int ret = rewrite_quoted4(skb, packet, quoted, &rewrite);

	if (ret)
		return ret;
	rewrite.destination = !destination;
	rewrite.old_address = destination ? packet->tuple.source_address : packet->tuple.destination_address;
	return rewrite4(skb, packet, &rewrite);
}

/* A pod's own ICMP error to the world, about a masqueraded connection's answer: the peer knows the connection
 * by the node's address and port. Returns 0 or a refusal. */
static __noinline int masquerade_error4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_quoted4 quoted;
	struct podwire_tuple4 sent;
	const struct podwire_nat4 *mapping;
	int ret = quoted4_read(skb, packet, &quoted);

	if (ret)
		return ret;
	tuple4_reverse(&quoted.tuple, &sent);
	mapping = bpf_map_lookup_elem(&podwire_nat4, &sent);
	if (!mapping || mapping->reverse || quoted.fragment)
		return refuse(packet, PODWIRE_DROP_NAT_NO_MAPPING);
	return rewrite_error4(skb, packet, &quoted, mapping, true);
}

/* The answers' entry of an outgoing flow: it holds the port, so it must not look idle, and it must exist even
 * when nothing was answered for so long that the table forgot it. False: the port is another flow's by now.
 */
static __noinline bool nat4_keep_answers(struct podwire_packet *packet, const struct podwire_nat4 *forward)
{
	struct podwire_tuple4 answer;
	struct podwire_nat4 again = {
		.address = packet->tuple.source_address,
		.port = packet->tuple.source_port,
		.reverse = 1,
	};
	struct podwire_nat4 *reverse;

	tuple4_reverse(&packet->tuple, &answer);
	answer.destination_address = forward->address;
	answer.destination_port = forward->port;
	reverse = bpf_map_lookup_elem(&podwire_nat4, &answer);
	if (reverse && reverse->address == again.address && reverse->port == again.port) {
		reverse->last_seen = bpf_ktime_get_ns();
		nat4_note_flags(reverse, packet, PODWIRE_NAT_FIN_POD);
		return true;
	}
	again.created = bpf_ktime_get_ns();
	again.last_seen = again.created;
	return nat4_reserve(&answer, &again);
}

/* May the flow go on with the address that it was given, although the device it leaves by now has another?
 * Routes have changed. A TCP connection could only break, so it keeps an address that is still the node's;
 * datagrams and new connections take the one that answers will find. */
static __always_inline bool nat4_keep_address(const struct podwire_packet *packet, __be32 address)
{
	const struct podwire_endpoint4 *endpoint;

	if (packet->tuple.protocol != IPPROTO_TCP || packet_is_syn(packet))
		return false;
	endpoint = endpoint4_lookup(address);
	return endpoint && (endpoint->flags & PODWIRE_ENDPOINT_HOST);
}

/* Give a pod's packet to the world the node's address. Returns 0 or a refusal. */
static __noinline int masquerade4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_nat4 *mapping;
	struct podwire_nat4 fresh;
	struct rewrite4_step rewrite = {
		.old_address = packet->tuple.source_address,
		.old_port = packet->tuple.source_port,
	};
	__be32 address;

	if (packet->flags & PACKET_ICMP_ERROR)
		return masquerade_error4(skb, packet);
	if (packet->tuple.protocol == IPPROTO_ICMP && (packet->flags & PACKET_ICMP_ECHO_REPLY))
		return refuse(packet, PODWIRE_DROP_NAT_UNSUPPORTED_PROTOCOL);
	address = masquerade4_address(skb->ifindex);
	mapping = bpf_map_lookup_elem(&podwire_nat4, &packet->tuple);
	/* A mapping of an address that the node no longer has, or of a port that it lost, is of no use. */
	if (mapping && !mapping->reverse &&
	    (likely(mapping->address == address) || nat4_keep_address(packet, mapping->address)) &&
	    (likely(!nat4_touch(mapping) &&
		    !(packet->tcp_flags & (TCP_FLAG_FIN | TCP_FLAG_RST | TCP_FLAG_SYN))) ||
	     nat4_keep_answers(packet, mapping))) {
		rewrite.new_address = mapping->address;
		rewrite.new_port = mapping->port;
	} else {
		int ret;

		if (mapping)
			bpf_map_delete_elem(&podwire_nat4, &packet->tuple);
		ret = nat4_allocate(packet, address, &fresh);
		if (ret)
			return ret;
		rewrite.new_address = fresh.address;
		rewrite.new_port = fresh.port;
	}
	return rewrite4(skb, packet, &rewrite);
}

/* An ICMP error from the world about a masqueraded packet. Returns 1 when it was translated, 0 when it is
 * about something else, or a refusal. */
static __noinline int unmasquerade_error4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_quoted4 quoted;
	struct podwire_tuple4 answer;
	const struct podwire_nat4 *mapping;
	int ret;

	/* A malformed error for the node is the node's business. */
	if (quoted4_read(skb, packet, &quoted) || quoted.fragment)
		return 0;
	if (packet->tuple.destination_address != quoted.tuple.source_address)
		return 0;
	tuple4_reverse(&quoted.tuple, &answer);
	mapping = bpf_map_lookup_elem(&podwire_nat4, &answer);
	if (!mapping || !mapping->reverse)
		return 0;
	ret = rewrite_error4(skb, packet, &quoted, mapping, false);
	return ret ? ret : 1;
}

/* Is it worth asking whether a packet to any other address than cfg_node_ip4 answers a masqueraded one? Pods'
 * own ports lie below the range as a rule, so packets to pods seldom cost a lookup. */
static __always_inline bool nat4_may_answer(const struct podwire_packet *packet)
{
	return (packet->flags & PACKET_ICMP_ERROR) || nat_port_in_range(packet->tuple.destination_port);
}

/* Undo masquerading on a packet to one of the node's addresses. Returns 1 when it was an answer to a
 * masqueraded packet and now carries the pod's address, 0 when it is the node's own, or a refusal. */
static __noinline int unmasquerade4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_nat4 *mapping;
	struct rewrite4_step rewrite = {
		.old_address = packet->tuple.destination_address,
		.old_port = packet->tuple.destination_port,
		.destination = 1,
	};
	int ret;

	if (packet->flags & PACKET_ICMP_ERROR)
		return unmasquerade_error4(skb, packet);
	if (!nat_port_in_range(packet->tuple.destination_port))
		return 0;
	mapping = bpf_map_lookup_elem(&podwire_nat4, &packet->tuple);
	if (!mapping || !mapping->reverse)
		return 0;
	nat4_touch(mapping);
	nat4_note_flags(mapping, packet, PODWIRE_NAT_FIN_WORLD);
	rewrite.new_address = mapping->address;
	rewrite.new_port = mapping->port;
	ret = rewrite4(skb, packet, &rewrite);
	return ret ? ret : 1;
}
