/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/conntrack_types.h - what is remembered about packets that carry one tuple. A connection has two
 * entries, one per direction, each found with the packet's own tuple. */
#pragma once

#include "common.h"
#include "config.h"
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
	/* A service's connection, from the client: `rewrite` is applied where the packet comes in, before it
	 * goes any way. Kept when the rest of the entry is recomputed, as long as the connection lives. */
	PODWIRE_CT_TRANSLATED = 1U << 4,
	/* The same, from the backend: `rewrite` is applied where the packet leaves towards the client. */
	PODWIRE_CT_TRANSLATED_BACK = 1U << 5,
	/* Decided while the datapath translates services; an entry of the other mode is stale. */
	PODWIRE_CT_SERVICES = 1U << 6,
	/* Translated, and the backend's node answers the client itself. */
	PODWIRE_CT_DSR = 1U << 7,
};

#define CT_ANY_TRANSLATION (PODWIRE_CT_TRANSLATED | PODWIRE_CT_TRANSLATED_BACK)
#define CT_MODES	   (PODWIRE_CT_EBPF_ROUTING | PODWIRE_CT_SERVICES)

/* Light tracking: enough to tell a new connection from an old one that used the same ports. */
enum podwire_ct_state {
	PODWIRE_CT_STATE_NEW = 0,	  /* TCP: a SYN went this way; others: the first packet */
	PODWIRE_CT_STATE_ESTABLISHED = 1, /* more than that went this way */
	PODWIRE_CT_STATE_CLOSING = 2,	  /* TCP: a FIN or RST went this way */
};

/* What a translated packet becomes. */
struct podwire_rewrite4 {
	__be32 source_address;
	__be32 destination_address;
	__be16 source_port;
	__be16 destination_port;
};
ASSERT_SIZE(struct podwire_rewrite4, 12);

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
	__u32 service;	    /* translated: struct podwire_service4's id */
	__u64 decided;	    /* nanoseconds, CLOCK_MONOTONIC */
	__u64 last_seen;    /* nanoseconds, CLOCK_MONOTONIC, to a tick's precision */
	__u64 packets;
	__u64 bytes;
	struct podwire_rewrite4 rewrite; /* translated: source and destination on the other side */
	__u32 pad2;
};
ASSERT_SIZE(struct podwire_ct4, 104);

static __always_inline bool rewrite4_equal(const struct podwire_rewrite4 *one,
					   const struct podwire_rewrite4 *other)
{
	return one->source_address == other->source_address &&
	       one->destination_address == other->destination_address &&
	       one->source_port == other->source_port && one->destination_port == other->destination_port;
}

/* The packets that answer `tuple` become answers of what it was rewritten from. */
static __always_inline void rewrite4_of_answers(const struct podwire_tuple4 *tuple,
						struct podwire_rewrite4 *rewrite)
{
	rewrite->source_address = tuple->destination_address;
	rewrite->destination_address = tuple->source_address;
	rewrite->source_port = tuple->destination_port;
	rewrite->destination_port = tuple->source_port;
}

/* The tuple that answers carry, where `decision` says what becomes of the packets with `tuple`. */
static __always_inline void ct4_answers(const struct podwire_tuple4 *tuple,
					const struct podwire_ct4 *decision, struct podwire_tuple4 *answers)
{
	tuple4_reverse(tuple, answers);
	if (!cfg_services || !(decision->flags & CT_ANY_TRANSLATION))
		return;
	answers->source_address = decision->rewrite.destination_address;
	answers->destination_address = decision->rewrite.source_address;
	answers->source_port = decision->rewrite.destination_port;
	answers->destination_port = decision->rewrite.source_port;
}

/* A pod that reaches itself by way of a service sees this address, because a host takes no packets from its
 * own address. Answers to it leave the pod by its veth and come back; whatever the host routing, the stack,
 * which has no route for it, sees neither. */
#define HAIRPIN_ADDRESS bpf_htonl(0xa9fe2a01) /* 169.254.42.1 */

static __always_inline bool ct4_hairpin(const struct podwire_tuple4 *tuple,
					const struct podwire_ct4 *decision)
{
	return cfg_services && (decision->flags & CT_ANY_TRANSLATION) &&
	       (tuple->destination_address == HAIRPIN_ADDRESS ||
		decision->rewrite.source_address == HAIRPIN_ADDRESS);
}
