/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/nat_map.h - masquerade table. A masqueraded flow has two entries: the tuple as the pod sends it
 * says what the source becomes; the tuple as the answer carries it says what the destination becomes. */
#pragma once

#include "common.h"
#include "tuple.h"

/* TCP: who has said goodbye. */
enum podwire_nat_closing {
	PODWIRE_NAT_FIN_POD = 1U << 0,
	PODWIRE_NAT_FIN_WORLD = 1U << 1,
	PODWIRE_NAT_RST = 1U << 2,
};

struct podwire_nat4 {
	__be32 address;	    /* rewritten to this address */
	__be16 port;	    /* and this port or ICMP identifier */
	__u8 reverse;	    /* 0: rewrites the source of outgoing packets; 1: the destination of answers */
	__u8 closing;	    /* answers' entry only: enum podwire_nat_closing */
	__u32 seen_jiffies; /* low half of the tick that last_seen was taken in */
	__u32 pad2;
	__u64 created;	 /* nanoseconds, CLOCK_MONOTONIC */
	__u64 last_seen; /* nanoseconds, CLOCK_MONOTONIC, to a tick's precision */
	__u64 checked;	 /* when the outgoing entry last looked after the answers' one */
};
ASSERT_SIZE(struct podwire_nat4, 40);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct podwire_tuple4);
	__type(value, struct podwire_nat4);
} podwire_nat4 SEC(".maps");
