/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/reject.h - answer a packet to a service without backends at once, instead of letting its sender
 * wait: the packet becomes an ICMP "port unreachable" about itself and goes back where it came from. */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>

#include "common.h"
#include "config.h"
#include "delivery.h"
#include "drop.h"
#include "parse.h"

#define ICMP4_PORT_UNREACHABLE 3
/* Bytes of the transport header that are quoted. The packet's checksum field must stay: when the device is to
 * complete it, the kernel lets nobody cut it off. */
#define REJECT_QUOTED_TCP  20
#define REJECT_QUOTED_UDP  8
#define REJECT_QUOTED_SCTP 12
#define REJECT_QUOTED_MAX  20

struct reject4_head {
	struct iphdr ip;
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 unused;
};
ASSERT_SIZE(struct reject4_head, 28);

static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* One's complement sum of the quoted transport header, as it will be when it is sent. A checksum that the
 * device is to complete holds the sum of the pseudo header until then; what covers itself sums up to the
 * complement of what the field held before. `data` has zeros behind its `bytes`. */
static __always_inline __u16 quoted_sum(const __u8 *data, const struct iphdr *ip, __u32 length)
{
	const __u16 *words = (const __u16 *)data;
	__u64 pseudo = (__u64)ip->saddr + ip->daddr + bpf_htons(ip->protocol) + bpf_htons((__u16)length);
	__u64 sum = 0;
	__u16 field = 0;
	int i;

	if (ip->protocol == IPPROTO_TCP)
		field = words[8];
	else if (ip->protocol == IPPROTO_UDP)
		field = words[3];
	if (field && field == checksum_fold(pseudo))
		return (__u16)~field;
#pragma unroll
	for (i = 0; i < REJECT_QUOTED_MAX / 2; i++)
		sum += words[i];
	return checksum_fold(sum);
}

/* Turn the packet around; `ingress`: towards the host's own stack, else out of the interface that it came
 * from. Returns a verdict or a refusal. */
static __noinline int reject4(struct __sk_buff *skb, struct podwire_packet *packet, bool ingress)
{
	struct reject4_head head = {};
	struct ethhdr ethernet;
	struct iphdr ip;
	__u8 quoted[REJECT_QUOTED_MAX] = {};
	__u8 mac[ETH_ALEN];
	__u32 bytes, length;
	__u64 sum;

	/* One answer per datagram, and none that would need to quote options. */
	if (packet->flags & (PACKET_LATER_FRAGMENT | PACKET_OPTIONS | PACKET_ICMP_ERROR))
		return refuse(packet, PODWIRE_DROP_NO_BACKEND);
	if (bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
	length = packet->length - sizeof(ip);
	/* Constant sizes for each protocol: that is how old verifiers know that they fit. */
	if (ip.protocol == IPPROTO_TCP) {
		bytes = REJECT_QUOTED_TCP;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), quoted, REJECT_QUOTED_TCP))
			return refuse(packet, PODWIRE_DROP_NO_BACKEND);
	} else if (ip.protocol == IPPROTO_UDP) {
		bytes = REJECT_QUOTED_UDP;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), quoted, REJECT_QUOTED_UDP))
			return refuse(packet, PODWIRE_DROP_NO_BACKEND);
	} else if (ip.protocol == IPPROTO_SCTP) {
		bytes = REJECT_QUOTED_SCTP;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), quoted, REJECT_QUOTED_SCTP))
			return refuse(packet, PODWIRE_DROP_NO_BACKEND);
	} else {
		return refuse(packet, PODWIRE_DROP_NO_BACKEND);
	}

	head.ip.version = 4;
	head.ip.ihl = sizeof(ip) / 4;
	head.ip.tot_len = bpf_htons(sizeof(head) + sizeof(ip) + bytes);
	head.ip.ttl = 64;
	head.ip.protocol = IPPROTO_ICMP;
	head.ip.saddr = ip.daddr;
	head.ip.daddr = ip.saddr;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&head.ip, sizeof(head.ip), 0);
	head.ip.check = (__u16)~checksum_fold(sum);
	head.type = ICMP4_DEST_UNREACHABLE;
	head.code = ICMP4_PORT_UNREACHABLE;
	/* The quoted IP header sums up to nothing, thanks to its own checksum. */
	sum = bpf_htons(ICMP4_DEST_UNREACHABLE << 8 | ICMP4_PORT_UNREACHABLE) +
	      (__u64)quoted_sum(quoted, &ip, length);
	head.checksum = (__u16)~checksum_fold(sum);

	/* Its sender hears of it, but it ends here like any dropped packet. */
	drop(skb, packet, refuse(packet, PODWIRE_DROP_NO_BACKEND));
	__builtin_memcpy(mac, ethernet.h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet.h_dest, ethernet.h_source, ETH_ALEN);
	__builtin_memcpy(ethernet.h_source, mac, ETH_ALEN);
	/* Making room in front keeps the place where the device completes the quoted checksum. */
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(ip) + bytes, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	count_forward(skb, PODWIRE_FORWARD_REJECTED);
	skb->tc_index = PODWIRE_SEEN_DIRECT; /* the hooks on its way let it pass */
	return bpf_redirect(skb->ifindex, ingress ? BPF_F_INGRESS : 0);
}
