/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/policy_map.h - policies of endpoints: which peers, protocols and ports. Written by user space.
 *
 * An inner map never changes once an endpoint uses it. User space writes a new one under a new number, lets
 * the endpoints name it (each by one atomic update), bumps their slots, and frees the old number when no
 * program can still hold it: not within a second. */
#pragma once

#include "common.h"

#define PODWIRE_POLICY_NONE	0 /* everything passes, and nothing is looked up */
#define PODWIRE_POLICY_CLOSED	1 /* nothing passes; a number without a map means the same */
#define PODWIRE_POLICIES	2048
#define PODWIRE_POLICY_ENTRIES	65536 /* of the declaration; each map has a size of its own */
#define PODWIRE_POLICY_ANY_PEER 0

/* In a key. */
enum podwire_policy_direction {
	PODWIRE_POLICY_INGRESS = 0,
	PODWIRE_POLICY_EGRESS = 1,
};

enum podwire_policy_flags {
	PODWIRE_POLICY_DENY = 1U << 0,
	PODWIRE_POLICY_BLOCK = 1U << 1, /* the entry of a block of addresses: `rule` is its class */
	/* No deny for any peer can outrank this entry: it decides without a second lookup. */
	PODWIRE_POLICY_FINAL = 1U << 2,
};

/* Bits that are compared: identity and direction always, then protocol, then the port's leading bits. ICMP
 * has its type in the port's place. */
#define PODWIRE_POLICY_PREFIX_L3    40U
#define PODWIRE_POLICY_PREFIX_PROTO 48U
#define PODWIRE_POLICY_PREFIX_FULL  64U

struct podwire_policy_key {
	__u32 prefix_length; /* bits, host order: the LPM trie's own header */
	__u32 identity;	     /* of the peer; 0: any */
	__u8 direction;	     /* enum podwire_policy_direction */
	__u8 protocol;
	__be16 port; /* the destination's */
};
ASSERT_SIZE(struct podwire_policy_key, 12);

/* Blocks of addresses, whoever has them (ipBlock of Kubernetes' policies), live in the same map, so that a
 * policy is replaced in one step. No identity looks like this. */
#define PODWIRE_POLICY_BLOCKS		 0xffffff00U /* plus the direction */
#define PODWIRE_POLICY_PREFIX_BLOCK_FULL 64U

struct podwire_policy_block_key {
	__u32 prefix_length; /* 32 + bits of the address */
	__u32 scope;	     /* PODWIRE_POLICY_BLOCKS | direction */
	__be32 address;
};
_Static_assert(sizeof(struct podwire_policy_block_key) == sizeof(struct podwire_policy_key), "one map");

struct podwire_policy {
	__be16 proxy_port;  /* none yet */
	__u8 flags;	    /* enum podwire_policy_flags */
	__u8 prefix_length; /* of the entry's own key */
	__u32 rule;	    /* what user space calls it; BLOCK: the class, looked up as an identity */
};
ASSERT_SIZE(struct podwire_policy, 8);

struct podwire_policy_trie {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PODWIRE_POLICY_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct podwire_policy_key));
	__uint(value_size, sizeof(struct podwire_policy));
};

/* A hash, because before Linux 6.8 user space waits for an RCU grace period with every element of an array of
 * maps that it reads, the empty ones too. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, PODWIRE_POLICIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(__u32)); /* number of the policy */
	__array(values, struct podwire_policy_trie);
} podwire_policies SEC(".maps");

EXPORT_TYPE(struct podwire_policy_key, policy_key);
EXPORT_TYPE(struct podwire_policy_block_key, policy_block_key);
EXPORT_TYPE(struct podwire_policy, policy);
EXPORT_TYPE(enum podwire_policy_flags, policy_flags);
