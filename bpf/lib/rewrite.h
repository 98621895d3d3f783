/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/rewrite.h - give a packet another address and port, at one of its ends, and make its checksums
 * right. Rewrites packets, and what ICMP errors quote of them. Works on packets whose checksum the device
 * will complete and on bursts before segmentation, because the checksum helpers know about both. */
#pragma once

#include <linux/ip.h>

#include "common.h"
#include "icmp.h"
#include "parse.h"
#include "sctp.h"

struct rewrite4_step {
	__be32 old_address;
	__be32 new_address;
	__be16 old_port;
	__be16 new_port;
	__u8 destination; /* 0: the source changes; 1: the destination */
	__u8 pad[3];
};

/* Where a protocol keeps its checksum, from the start of its header; 0 = not rewritable. */
static __always_inline __u32 l4_checksum_offset(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	case IPPROTO_ICMP:
		return 2;
	default:
		return 0;
	}
}

/* Where the port or identifier to rewrite is. */
static __always_inline __u32 l4_port_offset(__u8 protocol, bool destination)
{
	if (protocol == IPPROTO_ICMP)
		return 4;
	return destination ? 2 : 0;
}

/* Rewrite one address of the IP header at `l3`, and its checksum. Returns 0 or a refusal. */
static __noinline int rewrite_address4(struct __sk_buff *skb, struct podwire_packet *packet, __u32 l3,
				       const struct rewrite4_step *rewrite)
{
	__u32 field =
		l3 + (rewrite->destination ? offsetof(struct iphdr, daddr) : offsetof(struct iphdr, saddr));

	if (bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), rewrite->old_address,
				rewrite->new_address, 4))
		return refuse(packet, PODWIRE_DROP_CSUM_L3);
	if (bpf_skb_store_bytes(skb, field, &rewrite->new_address, 4, 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	return 0;
}

/* The IP checksum after `from` became `to` (RFC 1624). */
static __always_inline __u16 checksum_replaced(__u16 checksum, __be32 from, __be32 to)
{
	__u64 sum = (__u64)(__u16)~checksum + (__u32)~from + to;

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

/* Write address and port in place, which costs a fraction of the helpers' time. The transport checksum has
 * been seen to, and the sum over an IP header with a right checksum stays what it was. Returns 0 or a
 * refusal. */
static __always_inline int write_address4(struct __sk_buff *skb, struct podwire_packet *packet,
					  const struct rewrite4_step *rewrite, bool port)
{
	void *data = packet_data(skb);
	struct iphdr *ip = data + ETH_HLEN;
	__be16 *ports = data + ETH_HLEN + sizeof(*ip);

	if ((void *)(ip + 1) > packet_end(skb))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	ip->check = checksum_replaced(ip->check, rewrite->old_address, rewrite->new_address);
	if (rewrite->destination)
		ip->daddr = rewrite->new_address;
	else
		ip->saddr = rewrite->new_address;
	if (!port)
		return 0;
	if (unlikely(packet->l4_offset != ETH_HLEN + sizeof(*ip) || packet->tuple.protocol == IPPROTO_ICMP ||
		     (void *)(ports + 2) > packet_end(skb)))
		return bpf_skb_store_bytes(skb,
					   packet->l4_offset + l4_port_offset(packet->tuple.protocol,
									      rewrite->destination),
					   &rewrite->new_port, 2, 0)
			       ? refuse(packet, PODWIRE_DROP_WRITE_ERROR)
			       : 0;
	ports[rewrite->destination ? 1 : 0] = rewrite->new_port;
	return 0;
}

/* Rewrite address and port of the packet itself. Returns 0 or a refusal. */
static __noinline int rewrite4(struct __sk_buff *skb, struct podwire_packet *packet,
			       const struct rewrite4_step *rewrite)
{
	__u8 protocol = packet->tuple.protocol;
	__u32 checksum = packet->l4_offset + l4_checksum_offset(protocol);
	/* UDP: 0 means "no checksum" and stays so, and a sum that becomes 0 is written as 0xffff. */
	__u64 flags = protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	bool port = false;

	if (rewrite->destination) {
		packet->tuple.destination_address = rewrite->new_address;
		packet->tuple.destination_port = rewrite->new_port;
	} else {
		packet->tuple.source_address = rewrite->new_address;
		packet->tuple.source_port = rewrite->new_port;
	}
	if (protocol == IPPROTO_SCTP) {
		/* Its checksum covers no addresses, and everything else. */
		port = rewrite->old_port != rewrite->new_port &&
		       !(packet->flags & (PACKET_LATER_FRAGMENT | PACKET_ICMP_ERROR));
		if (port) {
			int ret = sctp_replace_port(skb, packet, rewrite->old_port, rewrite->new_port,
						    rewrite->destination);

			if (ret)
				return ret;
		}
	} else if (!(packet->flags & (PACKET_LATER_FRAGMENT | PACKET_ICMP_ERROR))) {
		/* ICMP's checksum does not cover the addresses. */
		if (protocol != IPPROTO_ICMP && rewrite->old_address != rewrite->new_address &&
		    bpf_l4_csum_replace(skb, checksum, rewrite->old_address, rewrite->new_address,
					flags | BPF_F_PSEUDO_HDR | 4))
			return refuse(packet, PODWIRE_DROP_CSUM_L4);
		port = rewrite->old_port != rewrite->new_port;
		if (port &&
		    bpf_l4_csum_replace(skb, checksum, rewrite->old_port, rewrite->new_port, flags | 2))
			return refuse(packet, PODWIRE_DROP_CSUM_L4);
	}
	return write_address4(skb, packet, rewrite, port);
}

/* Rewrite address and port inside the packet that an ICMP error quotes, its checksums as far as they are
 * quoted, and the ICMP checksum, which covers all of it. Returns 0 or a refusal. */
static __noinline int rewrite_quoted4(struct __sk_buff *skb, struct podwire_packet *packet,
				      const struct podwire_quoted4 *quoted,
				      const struct rewrite4_step *rewrite)
{
	__u32 outer = packet->l4_offset + l4_checksum_offset(IPPROTO_ICMP);
	__u8 protocol = quoted->tuple.protocol;
	__u32 inner = quoted->l4_offset + l4_checksum_offset(protocol);
	__u32 port = quoted->l4_offset + l4_port_offset(protocol, rewrite->destination);
	__be16 before = 0, after = 0;
	int ret;

	/* The quoted IP header's checksum absorbs the new address: the ICMP checksum sees no difference. */
	ret = rewrite_address4(skb, packet, quoted->l3_offset, rewrite);
	if (ret)
		return ret;
	if (rewrite->old_port != rewrite->new_port) {
		if (bpf_skb_store_bytes(skb, port, &rewrite->new_port, 2, 0))
			return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
		if (bpf_l4_csum_replace(skb, outer, rewrite->old_port, rewrite->new_port, 2))
			return refuse(packet, PODWIRE_DROP_CSUM_L4);
	}
	/* Routers may quote eight bytes only: TCP's checksum lies behind them. */
	if (protocol == IPPROTO_SCTP || bpf_skb_load_bytes(skb, inner, &before, 2))
		return 0;
	if (protocol == IPPROTO_UDP && !before)
		return 0;
	/* Plain arithmetic at an offset is what the l3 helper does: the quoted packet is payload. */
	if (protocol != IPPROTO_ICMP &&
	    bpf_l3_csum_replace(skb, inner, rewrite->old_address, rewrite->new_address, 4))
		return refuse(packet, PODWIRE_DROP_CSUM_L4);
	if (bpf_l3_csum_replace(skb, inner, rewrite->old_port, rewrite->new_port, 2) ||
	    bpf_skb_load_bytes(skb, inner, &after, 2) || bpf_l4_csum_replace(skb, outer, before, after, 2))
		return refuse(packet, PODWIRE_DROP_CSUM_L4);
	return 0;
}
