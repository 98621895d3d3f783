/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/arp.h - the gateway is an address on no interface: its ARP requests are answered in place. */
#pragma once

#include <linux/if_ether.h>

#include "common.h"
#include "config.h"
#include "delivery.h"
#include "local.h"
#include "parse.h"

#define ARP_REQUEST bpf_htons(1)
#define ARP_REPLY   bpf_htons(2)

/* Ethernet and IPv4, the only combination there is. */
struct arp4 {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender_address;
	__u8 target_mac[ETH_ALEN];
	__be32 target_address;
} __attribute__((packed));
_Static_assert(sizeof(struct arp4) == 28, "RFC 826");

/* Requests for the gateway: answered. Replies with the pod's own address: to the stack, which asked.
 * Anything else has no place on a link with two ends. Returns a TC action or a refusal. */
static __noinline int from_pod_arp(struct __sk_buff *skb, struct podwire_packet *packet)
{
	struct podwire_local4 sender;
	struct ethhdr ethernet;
	struct arp4 arp;

	if (bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return refuse(packet, PODWIRE_DROP_INVALID_PACKET);
	if (arp.hardware_type != bpf_htons(1) || arp.protocol_type != bpf_htons(ETH_P_IP) ||
	    arp.hardware_length != ETH_ALEN || arp.protocol_length != 4)
		return refuse(packet, PODWIRE_DROP_INVALID_PACKET);

	if (arp.operation == ARP_REPLY) {
		local4_read(arp.sender_address, &sender);
		if (!local4_is_pod(&sender) || sender.ifindex != skb->ifindex)
			return refuse(packet, PODWIRE_DROP_INVALID_SOURCE_IP);
		return pass_seen(skb, PODWIRE_SEEN_NOTHING);
	}
	if (arp.operation != ARP_REQUEST || arp.target_address != cfg_gateway_ip4)
		return refuse(packet, PODWIRE_DROP_UNKNOWN_L3_TARGET);

	__builtin_memcpy(ethernet.h_dest, ethernet.h_source, ETH_ALEN);
	host_mac_to(ethernet.h_source);
	arp.operation = ARP_REPLY;
	__builtin_memcpy(arp.target_mac, arp.sender_mac, ETH_ALEN);
	arp.target_address = arp.sender_address;
	host_mac_to(arp.sender_mac);
	arp.sender_address = cfg_gateway_ip4;
	if (bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &arp, sizeof(arp), 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	count_forward(skb, PODWIRE_FORWARD_ARP_REPLY);
	return bpf_redirect(skb->ifindex, 0);
}
