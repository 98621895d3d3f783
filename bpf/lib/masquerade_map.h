/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/masquerade_map.h - the address that masqueraded packets leave a device with, where it is not
 * cfg_node_ip4. Written by user space; read only when a packet is masqueraded, so no revision vouches for it.
 */
#pragma once

#include "common.h"
#include "config.h"

struct podwire_masquerade4_key {
	__u32 ifindex;
};
ASSERT_SIZE(struct podwire_masquerade4_key, 4);

struct podwire_masquerade4 {
	__be32 address;
};
ASSERT_SIZE(struct podwire_masquerade4, 4);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct podwire_masquerade4_key);
	__type(value, struct podwire_masquerade4);
} podwire_masquerade4 SEC(".maps");

/* What packets that leave by the device masquerade as. */
static __always_inline __be32 masquerade4_address(__u32 ifindex)
{
	struct podwire_masquerade4_key key = { .ifindex = ifindex };
	const struct podwire_masquerade4 *found = bpf_map_lookup_elem(&podwire_masquerade4, &key);

	return found ? found->address : cfg_node_ip4;
}
