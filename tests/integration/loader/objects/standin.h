/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What both stand-in objects share. WIDE and BROKEN are variants that tests compile: a map value with
 * another layout, and a program that the verifier refuses. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#ifndef GENERATION
#define GENERATION 1
#endif

const volatile __u32 cfg_host_routing = 0;
const volatile __be32 cfg_node_ip4 = 0;
const volatile __be32 cfg_gateway_ip4 = 0;
const volatile __u8 cfg_host_mac[6] = { 0 };
const volatile __u16 cfg_nat_port_min = 0;
const volatile __u16 cfg_nat_port_max = 0;
const volatile __u32 cfg_mtu = 0;
const volatile __u8 cfg_masquerade = 0;
const volatile __u8 cfg_policy = 0;
const volatile __u32 cfg_event_rate = 0;
const volatile __u8 cfg_services = 0;
const volatile __u16 cfg_node_port_min = 0;
const volatile __u16 cfg_node_port_max = 0;
const volatile __u64 cfg_host_netns_cookie = 0;
const volatile __u32 cfg_maglev_size = 0;
const volatile __u8 cfg_dsr = 0;

struct standin_key {
	__be32 address;
};

struct standin_value {
	__u32 ifindex;
	__u32 slot;
#ifdef WIDE
	__u64 extra;
#endif
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct standin_key);
	__type(value, struct standin_value);
} podwire_endpoints4 SEC(".maps");

/* hook -> packets, and the generation and mode of the program that counted last */
struct standin_count {
	__u64 packets;
	__u32 generation;
	__u32 host_routing;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct standin_count);
} podwire_counts SEC(".maps");

static __always_inline int count(struct __sk_buff *skb, __u32 hook)
{
	struct standin_count *found = bpf_map_lookup_elem(&podwire_counts, &hook);
	struct standin_key key = { .address = cfg_node_ip4 };

	bpf_map_lookup_elem(&podwire_endpoints4, &key);
#ifdef BROKEN
	skb->mark = *(volatile __u32 *)(long)cfg_mtu;
#else
	if (skb->len == 0)
		return TC_ACT_UNSPEC;
#endif
	if (found) {
		__sync_fetch_and_add(&found->packets, 1);
		found->generation = GENERATION;
		found->host_routing = cfg_host_routing;
	}
	return TC_ACT_UNSPEC;
}
