/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/parse.h - from bytes to struct podwire_packet. Reads the packet and the fragment table, and decides
 * on purpose what happens to IP options, fragments, short packets and unknown protocols:
 *
 * - not IPv4, a header shorter than 20 bytes or a length beyond the packet: invalid packet;
 * - options: parsed over; PACKET_OPTIONS keeps such packets off the redirects, because only the stack obeys
 * them;
 * - a later fragment takes the ports of its first one, or is refused when that was never seen; the second
 *   fragment of a TCP segment may not overlap its flags (RFC 1858);
 * - TCP, UDP, SCTP and ICMP are understood; anything else has no ports that a policy could name: refused. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include "common.h"
#include "config.h"
#include "drop_reasons.h"
#include "events.h"
#include "frags_map.h"
#include "tuple.h"

#define IP_MORE_FRAGMENTS bpf_htons(0x2000)
#define IP_OFFSET_MASK	  bpf_htons(0x1fff)

#define ICMP4_ECHO_REPLY       0
#define ICMP4_DEST_UNREACHABLE 3
#define ICMP4_ECHO	       8
#define ICMP4_TIME_EXCEEDED    11
#define ICMP4_PARAMETER	       12

#define TCP_FLAG_FIN 0x01
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
#define TCP_FLAG_ACK 0x10

enum podwire_packet_flags {
	PACKET_OPTIONS = 1 << 0,
	PACKET_FIRST_FRAGMENT = 1 << 1,
	PACKET_LATER_FRAGMENT = 1 << 2, /* carries no ports of its own */
	PACKET_ICMP_ERROR = 1 << 3,	/* ports are 0; quotes the packet that caused it */
	PACKET_ICMP_ECHO = 1 << 4,
	PACKET_ICMP_ECHO_REPLY = 1 << 5,
	PACKET_UNMASQUERADED = 1 << 6, /* answers what a pod sent under the node's address */
};

struct podwire_packet {
	struct podwire_tuple4 tuple;
	__u32 length; /* bytes of the IP packet, or of the whole burst when segmentation is still to come */
	__u16 l4_offset; /* from the start of the frame */
	__u16 line;	 /* where the packet was refused */
	__u8 l4_length;	 /* bytes of the transport header (TCP: with options) */
	__u8 ttl;
	__u8 tcp_flags;
	__u8 flags;   /* enum podwire_packet_flags */
	__u8 program; /* enum podwire_program */
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 refused; /* enum podwire_direction, when a policy refused the packet */
};

/* Every refusal goes through here: functions return it, programs end in drop(). */
#define refuse(packet, reason) ((packet)->line = __LINE__, -(int)(reason))

static __always_inline bool packet_is_syn(const struct podwire_packet *packet)
{
	return packet->tuple.protocol == IPPROTO_TCP &&
	       (packet->tcp_flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) == TCP_FLAG_SYN;
}

static __noinline int frag4_ports(struct podwire_packet *packet, __be16 id)
{
	struct podwire_frag4_key key = {
		.source_address = packet->tuple.source_address,
		.destination_address = packet->tuple.destination_address,
		.id = id,
		.protocol = packet->tuple.protocol,
	};
	struct podwire_frag4 ports = {
		.source_port = packet->tuple.source_port,
		.destination_port = packet->tuple.destination_port,
	};
	const struct podwire_frag4 *first;

	if (packet->flags & PACKET_FIRST_FRAGMENT) {
		/* A failure only costs the later fragments, which then have a reason of their own. */
		bpf_map_update_elem(&podwire_frags4, &key, &ports, BPF_ANY);
		return 0;
	}
	first = bpf_map_lookup_elem(&podwire_frags4, &key);
	if (!first)
		return refuse(packet, PODWIRE_DROP_FRAGMENT_NOT_FOUND);
	packet->tuple.source_port = first->source_port;
	packet->tuple.destination_port = first->destination_port;
	return 0;
}

/* ICMP's part of parse4(). */
static __always_inline int parse_icmp4(struct podwire_packet *packet, const __u8 *icmp)
{
	packet->l4_length = 8;
	packet->icmp_type = icmp[0];
	packet->icmp_code = icmp[1];
	switch (icmp[0]) {
	case ICMP4_ECHO:
		packet->flags |= PACKET_ICMP_ECHO;
		packet->tuple.source_port = *(const __be16 *)(icmp + 4);
		return 0;
	case ICMP4_ECHO_REPLY:
		packet->flags |= PACKET_ICMP_ECHO_REPLY;
		packet->tuple.destination_port = *(const __be16 *)(icmp + 4);
		return 0;
	case ICMP4_DEST_UNREACHABLE:
	case ICMP4_TIME_EXCEEDED:
	case ICMP4_PARAMETER:
		packet->flags |= PACKET_ICMP_ERROR;
		return 0;
	default:
		return refuse(packet, PODWIRE_DROP_UNKNOWN_ICMP4_TYPE);
	}
}

/* Fill `packet` from the frame. Returns 0, or a refusal; the addresses are set in either case unless the
 * refusal is PODWIRE_DROP_INVALID_PACKET. */
static __always_inline int parse4(struct __sk_buff *skb, struct podwire_packet *packet)
{
	void *data = packet_data(skb);
	void *end = packet_end(skb);
	const struct iphdr *ip;
	const __u8 *l4;
	__u32 header, total;
	__be16 fragment;

	/* A small packet, or headers in the paged part (a send from a file, an odd driver): bring what there
	 * is into reach. For a small packet that is there already this costs a comparison. */
	if (unlikely(data + ETH_HLEN + sizeof(*ip) + 20 > end)) {
		__u32 want = ETH_HLEN + 60 + 20;

		bpf_skb_pull_data(skb, want < skb->len ? want : skb->len);
		data = packet_data(skb);
		end = packet_end(skb);
	}
	ip = data + ETH_HLEN;
	if (unlikely((void *)(ip + 1) > end))
		return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (unlikely(ip->version != 4 || header < sizeof(*ip)))
		return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
	packet->length = skb->len - ETH_HLEN;
	if (unlikely(total != packet->length)) {
		/* Shorter: padding of a short frame. 0: a burst beyond 64 KiB that is not segmented yet. */
		if (total) {
			if (total < header || total > packet->length)
				return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
			packet->length = total;
		} else if (!skb->gso_size) {
			return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
		}
	}
	packet->tuple.source_address = ip->saddr;
	packet->tuple.destination_address = ip->daddr;
	packet->tuple.protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->l4_offset = ETH_HLEN + header;
	if (unlikely(header > sizeof(*ip)))
		packet->flags |= PACKET_OPTIONS;

	fragment = ip->frag_off & (IP_MORE_FRAGMENTS | IP_OFFSET_MASK);
	if (unlikely(fragment & IP_OFFSET_MASK)) {
		packet->flags |= PACKET_LATER_FRAGMENT;
		if (ip->protocol == IPPROTO_TCP && (fragment & IP_OFFSET_MASK) == bpf_htons(1))
			return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
		return frag4_ports(packet, ip->id);
	}

	l4 = data + ETH_HLEN + header;
	switch (ip->protocol) {
	case IPPROTO_TCP:
		if (unlikely((void *)l4 + 14 > end))
			return refuse(packet, PODWIRE_DROP_CT_INVALID_HEADER);
		packet->tuple.source_port = *(const __be16 *)l4;
		packet->tuple.destination_port = *(const __be16 *)(l4 + 2);
		packet->l4_length = (l4[12] >> 4) * 4;
		packet->tcp_flags = l4[13];
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (unlikely((void *)l4 + 8 > end))
			return refuse(packet, PODWIRE_DROP_CT_INVALID_HEADER);
		packet->tuple.source_port = *(const __be16 *)l4;
		packet->tuple.destination_port = *(const __be16 *)(l4 + 2);
		packet->l4_length = 8;
		break;
	case IPPROTO_ICMP: {
		int ret;

		if (unlikely((void *)l4 + 8 > end))
			return refuse(packet, PODWIRE_DROP_CT_INVALID_HEADER);
		ret = parse_icmp4(packet, l4);
		if (ret)
			return ret;
		break;
	}
	default:
		return refuse(packet, PODWIRE_DROP_UNKNOWN_L4);
	}
	if (unlikely(fragment)) {
		packet->flags |= PACKET_FIRST_FRAGMENT;
		return frag4_ports(packet, ip->id);
	}
	return 0;
}
