/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/frags_map.h - ports of datagrams whose later fragments are still to come. */
#pragma once

#include "common.h"

struct podwire_frag4_key {
	__be32 source_address;
	__be32 destination_address;
	__be16 id; /* IP identification */
	__u8 protocol;
	__u8 pad;
};
ASSERT_SIZE(struct podwire_frag4_key, 12);

struct podwire_frag4 {
	__be16 source_port;
	__be16 destination_port;
};
ASSERT_SIZE(struct podwire_frag4, 4);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct podwire_frag4_key);
	__type(value, struct podwire_frag4);
} podwire_frags4 SEC(".maps");
