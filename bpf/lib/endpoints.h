/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/endpoints.h - which addresses live on this node, and behind which interface. Written by user space,
 * read by the slow path only. */
#pragma once

#include "common.h"

/* The node's own address: ifindex, slot and MAC address are 0, packets go to the stack. */
#define PODWIRE_ENDPOINT_HOST (1U << 0)
/* What its policy refuses passes, and is reported. */
#define PODWIRE_ENDPOINT_AUDIT (1U << 1)

enum podwire_endpoint_flags {
	PODWIRE_ENDPOINT_FLAG_HOST = PODWIRE_ENDPOINT_HOST,
	PODWIRE_ENDPOINT_FLAG_AUDIT = PODWIRE_ENDPOINT_AUDIT,
};

struct podwire_endpoint4_key {
	__be32 address;
};
ASSERT_SIZE(struct podwire_endpoint4_key, 4);

struct podwire_endpoint4 {
	__u32 ifindex;	    /* host-side veth */
	__u32 slot;	    /* index into podwire_slots; 0 = none (HOST) */
	__u32 flags;	    /* PODWIRE_ENDPOINT_* */
	__u32 identity;	    /* security identity, 0 = unknown */
	__u8 mac[ETH_ALEN]; /* the pod's own MAC address */
	__u8 pad[2];
	__u32 policy; /* key of podwire_policies; 0 = none: everything passes */
};
ASSERT_SIZE(struct podwire_endpoint4, 28);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct podwire_endpoint4_key);
	__type(value, struct podwire_endpoint4);
} podwire_endpoints4 SEC(".maps");

static __always_inline const struct podwire_endpoint4 *endpoint4_lookup(__be32 address)
{
	struct podwire_endpoint4_key key = { .address = address };

	return bpf_map_lookup_elem(&podwire_endpoints4, &key);
}
