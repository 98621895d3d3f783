/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/ipcache.h - what is known about an address that is not an endpoint of this node. Longest prefix
 * wins; no match means "the world": routed by the FIB, masqueraded. Written by user space, which bumps slot 0
 * after a change; read by the slow path only. */
#pragma once

#include "common.h"

enum podwire_ipcache_flags {
	PODWIRE_IPCACHE_CLUSTER = 1U << 0, /* never masqueraded: pods, and ranges that the user names */
	PODWIRE_IPCACHE_SERVICE =
		1U << 1,		/* the stack translates it: cluster, external and load-balancer IPs */
	PODWIRE_IPCACHE_NODE = 1U << 2, /* a node's own address: never masqueraded */
	/* The range that this node hands out to its endpoints: an address in it that podwire_endpoints4 does
	 * not know is stale, and must not leave through the default route. */
	PODWIRE_IPCACHE_LOCAL = 1U << 3,
};

struct podwire_ipcache4_key {
	__u32 prefix_length; /* bits, host order: the LPM trie's own header */
	__be32 address;
};
ASSERT_SIZE(struct podwire_ipcache4_key, 8);

struct podwire_ipcache4 {
	__u32 identity;	 /* security identity, 0 = unknown */
	__be32 next_hop; /* address of the node that has it; 0 = ask the FIB for the destination itself */
	__u32 flags;	 /* enum podwire_ipcache_flags */
};
ASSERT_SIZE(struct podwire_ipcache4, 12);

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct podwire_ipcache4_key);
	__type(value, struct podwire_ipcache4);
} podwire_ipcache4 SEC(".maps");

static __always_inline const struct podwire_ipcache4 *ipcache4_lookup(__be32 address)
{
	struct podwire_ipcache4_key key = { .prefix_length = 32, .address = address };

	return bpf_map_lookup_elem(&podwire_ipcache4, &key);
}
