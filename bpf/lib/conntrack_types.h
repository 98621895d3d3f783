/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/conntrack_types.h - what is remembered about packets that carry one tuple. A connection has two
 * entries, one per direction, each found with the packet's own tuple. */
#pragma once

#include "common.h"
#include "tuple.h"

enum podwire_delivery {
	PODWIRE_DELIVERY_STACK = 0, /* hand the packet to the stack */
	PODWIRE_DELIVERY_PEER = 1,  /* bpf_redirect_peer to a pod of this node */
	PODWIRE_DELIVERY_NEIGH = 2, /* bpf_redirect_neigh out of a device of the node */
};

enum podwire_ct_flags {
	/* Both directions go through the stack, because it translates them or is one of their ends. Kept when
	 * the rest of the entry is recomputed: losing it would break a connection that netfilter translates,
	 * keeping it too long only costs speed. */
	PODWIRE_CT_VIA_STACK = 1U << 0,
	/* Leaves the node with the node's address. */
	PODWIRE_CT_MASQUERADE = 1U << 1,
	/* Decided under eBPF host routing; an entry of the other mode is stale. */
	PODWIRE_CT_EBPF_ROUTING = 1U << 2,
	/* This direction opened the connection. */
	PODWIRE_CT_ORIGINAL = 1U << 3,
};

/* Light tracking: enough to tell a new connection from an old one that used the same ports. */
enum podwire_ct_state {
	PODWIRE_CT_STATE_NEW = 0,	  /* TCP: a SYN went this way; others: the first packet */
	PODWIRE_CT_STATE_ESTABLISHED = 1, /* more than that went this way */
	PODWIRE_CT_STATE_CLOSING = 2,	  /* TCP: a FIN or RST went this way */
};

struct podwire_ct4 {
	/* The decision, and what it is valid for. */
	__u32 ifindex;	   /* interface that packets with this tuple come from; 0 = not a pod's */
	__u32 source_slot; /* of the source address, 0 = not a local endpoint */
	__u32 source_revision;
	__u32 destination_slot;
	__u32 destination_revision;
	__u32 output_ifindex; /* PEER: the pod's host-side veth; NEIGH: the device */
	__be32 next_hop;      /* NEIGH: whom to resolve */
	__u8 mac[ETH_ALEN];   /* PEER: destination MAC address */
	__u16 mtu;	      /* larger IP packets go to the stack */
	__u8 delivery;	      /* enum podwire_delivery */
	__u8 flags;	      /* enum podwire_ct_flags */
	__u8 state;	      /* enum podwire_ct_state */
	__u8 pad;
	/* Bookkeeping. Not atomic: two CPUs that handle the same direction at once may lose a count. */
	__u32 seen_jiffies; /* low half of the tick that last_seen was taken in */
	__u32 identity;	    /* of the other end, 0 = unknown */
	__u32 pad2;
	__u64 decided;	 /* nanoseconds, CLOCK_MONOTONIC */
	__u64 last_seen; /* nanoseconds, CLOCK_MONOTONIC, to a tick's precision */
	__u64 packets;
	__u64 bytes;
};
ASSERT_SIZE(struct podwire_ct4, 88);
