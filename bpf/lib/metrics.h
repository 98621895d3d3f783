/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/metrics.h - packets and bytes: dropped by reason and direction, forwarded by kind.
 * Per CPU, so that counting needs no atomic operation. */
#pragma once

#include "common.h"
#include "direction.h"

/* How a packet left a program. Index of podwire_forwards. */
enum podwire_forward {
	PODWIRE_FORWARD_PEER = 0,	      /* bpf_redirect_peer into a pod: the stack never saw it */
	PODWIRE_FORWARD_NEIGH = 1,	      /* bpf_redirect_neigh out of a device of the node */
	PODWIRE_FORWARD_STACK = 2,	      /* to the stack, which routes it unchanged */
	PODWIRE_FORWARD_STACK_TRANSLATED = 3, /* to the stack, which consumes or translates it */
	PODWIRE_FORWARD_POD_DIRECT = 4,	      /* to_pod: out of the stack, routed unchanged */
	PODWIRE_FORWARD_POD_TRANSLATED = 5,   /* to_pod: out of the stack, from the host or translated */
	PODWIRE_FORWARD_MASQUERADED = 6,      /* to_netdev: source rewritten to the node's address */
	PODWIRE_FORWARD_UNMASQUERADED = 7, /* from_netdev: destination rewritten back to the pod's address */
	PODWIRE_FORWARD_ARP_REPLY = 8,	   /* gateway's ARP or neighbour discovery answered in place */
	PODWIRE_FORWARD_REJECTED = 9,	   /* answered with "port unreachable": a service without backends */
	PODWIRE_FORWARD_MAX = 10,
};

struct podwire_metrics_key {
	__u8 reason;	/* enum podwire_drop_reason */
	__u8 direction; /* enum podwire_direction */
	__u16 pad;
};
ASSERT_SIZE(struct podwire_metrics_key, 4);

struct podwire_counter {
	__u64 packets;
	__u64 bytes;
};
ASSERT_SIZE(struct podwire_counter, 16);

/* Drops. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 512);
	__type(key, struct podwire_metrics_key);
	__type(value, struct podwire_counter);
} podwire_metrics SEC(".maps");

/* Forwarded packets: an array, because the fast path counts here. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PODWIRE_FORWARD_MAX);
	__type(key, __u32); /* enum podwire_forward */
	__type(value, struct podwire_counter);
} podwire_forwards SEC(".maps");

EXPORT_TYPE(enum podwire_forward, forward);

static __always_inline void count_forward(const struct __sk_buff *skb, __u32 kind)
{
	struct podwire_counter *counter = bpf_map_lookup_elem(&podwire_forwards, &kind);

	if (counter) {
		counter->packets++;
		counter->bytes += skb->len;
	}
}

static __noinline void count_drop(__u8 reason, __u8 direction, __u32 bytes)
{
	struct podwire_metrics_key key = { .reason = reason, .direction = direction };
	struct podwire_counter first = { .packets = 1, .bytes = bytes };
	struct podwire_counter *counter = bpf_map_lookup_elem(&podwire_metrics, &key);

	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
		return;
	}
	/* Two CPUs may race here: each value is per CPU, so the loser of BPF_NOEXIST only loses one count. */
	if (bpf_map_update_elem(&podwire_metrics, &key, &first, BPF_NOEXIST)) {
		counter = bpf_map_lookup_elem(&podwire_metrics, &key);
		if (counter) {
			counter->packets++;
			counter->bytes += bytes;
		}
	}
}
