/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/nd.h - IPv6 of pods, as far as it exists: neighbour discovery for the gateway fe80::1 is answered
 * in place, everything else is refused. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "common.h"
#include "config.h"
#include "delivery.h"
#include "metrics.h"
#include "parse.h"

#define ND_SOLICITATION	       135
#define ND_ADVERTISEMENT       136
#define ND_OPTION_TARGET_LINK  2
#define ND_FLAGS_ROUTER_ANSWER bpf_htonl(0xe0000000) /* router, solicited, override */

/* Solicitation or advertisement with one link-layer address option. */
struct nd6 {
	/* IPv6 header, RFC 8200 */
	__be32 version_class_flow;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__be32 source[4];
	__be32 destination[4];
	/* RFC 4861, 4.3 and 4.4 */
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	__be32 target[4];
	__u8 option_type;
	__u8 option_length; /* units of eight bytes */
	__u8 option_mac[ETH_ALEN];
};
_Static_assert(sizeof(struct nd6) == 72, "RFC 4861");
#define ND6_IP_HEADER	   offsetof(struct nd6, type)
#define ND6_WITHOUT_OPTION offsetof(struct nd6, option_type)
#define ND6_PAYLOAD	   (sizeof(struct nd6) - offsetof(struct nd6, type))

static __always_inline bool is_gateway6(const __be32 *address)
{
	return address[0] == bpf_htonl(0xfe800000) && !address[1] && !address[2] &&
	       address[3] == bpf_htonl(1);
}

static __always_inline __be16 nd6_checksum(struct nd6 *nd)
{
	__be32 rest[2] = { bpf_htonl(ND6_PAYLOAD), bpf_htonl(IPPROTO_ICMPV6) };
	__s64 sum;

	/* Source, destination (adjacent), length and next header; then the message itself. */
	sum = bpf_csum_diff(NULL, 0, nd->source, 32, 0);
	sum = bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&nd->type, ND6_PAYLOAD, sum);
	sum = (sum & 0xffff) + ((__u64)sum >> 16 & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(__u16)sum;
}

/* Returns a TC action or a refusal. */
static __noinline int from_pod_ipv6(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct ethhdr ethernet;
	struct nd6 nd = {};

	if (bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)))
		return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &nd, ND6_IP_HEADER) || nd.next_header != IPPROTO_ICMPV6)
		return refuse(packet, PODWIRE_DROP_UNSUPPORTED_L3);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &nd, ND6_WITHOUT_OPTION))
		return refuse(packet, PODWIRE_DROP_FORBIDDEN_ICMP6);
	/* Hop limit 255: not forwarded by anyone. Source "::" is duplicate address detection: nobody has it.
	 */
	if (nd.type != ND_SOLICITATION || nd.code || nd.hop_limit != 255 || !is_gateway6(nd.target) ||
	    !(nd.source[0] | nd.source[1] | nd.source[2] | nd.source[3]))
		return refuse(packet, PODWIRE_DROP_FORBIDDEN_ICMP6);

	__builtin_memcpy(ethernet.h_dest, ethernet.h_source, ETH_ALEN);
	host_mac_to(ethernet.h_source);
	nd.payload_length = bpf_htons(ND6_PAYLOAD);
	__builtin_memcpy(nd.destination, nd.source, sizeof(nd.destination));
	__builtin_memcpy(nd.source, nd.target, sizeof(nd.source));
	nd.type = ND_ADVERTISEMENT;
	nd.flags = ND_FLAGS_ROUTER_ANSWER;
	nd.option_type = ND_OPTION_TARGET_LINK;
	nd.option_length = 1;
	host_mac_to(nd.option_mac);
	nd.checksum = 0;
	nd.checksum = nd6_checksum(&nd);
	/* The solicitation may carry no option, or others: the answer has its own length. */
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(nd), 0) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &nd, sizeof(nd), 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	count_forward(skb, PODWIRE_FORWARD_ARP_REPLY);
	skb->tc_index = PODWIRE_SEEN_DIRECT; /* to_pod lets no other IPv6 pass */
	return bpf_redirect(skb->ifindex, 0);
}
