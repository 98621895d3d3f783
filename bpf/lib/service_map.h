/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_map.h - services: frontends, their backends, and who must come back to the same backend.
 * Written by user space, but for podwire_affinity4.
 *
 * A list of backends is immutable. To change it, user space writes a new list under a new id, then lets the
 * frontends point to it (each by one atomic update), then deletes the old one. A reader that misses a backend
 * reads the frontend again. */
#pragma once

#include "common.h"

enum podwire_service_flags {
	PODWIRE_SERVICE_CLUSTER_IP = 1U << 0,
	PODWIRE_SERVICE_NODE_PORT = 1U << 1,
	PODWIRE_SERVICE_EXTERNAL_IP = 1U << 2,
	PODWIRE_SERVICE_LOAD_BALANCER = 1U << 3,
	PODWIRE_SERVICE_HOST_PORT = 1U << 4,
	PODWIRE_SERVICE_EXTERNAL_LOCAL = 1U << 5, /* externalTrafficPolicy: Local */
	PODWIRE_SERVICE_INTERNAL_LOCAL = 1U << 6, /* internalTrafficPolicy: Local */
	PODWIRE_SERVICE_MAGLEV = 1U << 7,	  /* podwire_maglev has a table for external_list */
	PODWIRE_SERVICE_SOURCE_RANGES = 1U << 8,  /* podwire_source_ranges4 says who may use it */
};

/* A frontend. Address 0.0.0.0: every address of a node (node ports; host ports of this node). */
struct podwire_service4_key {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 pad; /* always 0 */
};
ASSERT_SIZE(struct podwire_service4_key, 8);

struct podwire_service4 {
	__u32 id;		/* of the service's port; what affinity and source ranges refer to */
	__u32 list;		/* backends for clients of the cluster: pods and nodes */
	__u32 external_list;	/* backends for clients outside */
	__u16 count;		/* of `list`; 0: clients are refused */
	__u16 external_count;	/* of `external_list` */
	__u32 affinity_seconds; /* session affinity by client address; 0: none */
	__u16 flags;		/* enum podwire_service_flags */
	__u16 pad;
};
ASSERT_SIZE(struct podwire_service4, 24);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct podwire_service4_key);
	__type(value, struct podwire_service4);
} podwire_services4 SEC(".maps");

struct podwire_backend4_key {
	__u32 list;
	__u32 index; /* 0 .. count - 1 */
};
ASSERT_SIZE(struct podwire_backend4_key, 8);

struct podwire_backend4 {
	__be32 address;
	__be16 port;
	__u8 flags; /* none yet */
	__u8 pad;
};
ASSERT_SIZE(struct podwire_backend4, 8);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct podwire_backend4_key);
	__type(value, struct podwire_backend4);
} podwire_backends4 SEC(".maps");

enum podwire_affinity_kind {
	PODWIRE_AFFINITY_ADDRESS = 0, /* `client` is an IPv4 address, network order */
	PODWIRE_AFFINITY_NETNS = 1,   /* `client` is the cookie of the client's network namespace */
	/* An address, and the backend was chosen from an external list that differs from the internal one. */
	PODWIRE_AFFINITY_EXTERNAL = 2,
};

struct podwire_affinity4_key {
	__u64 client;
	__u32 service; /* struct podwire_service4's id */
	__u32 kind;    /* enum podwire_affinity_kind */
};
ASSERT_SIZE(struct podwire_affinity4_key, 16);

struct podwire_affinity4 {
	__u64 used; /* last time it was followed, nanoseconds, CLOCK_MONOTONIC */
	__be32 address;
	__be16 port;
	__u16 pad;
};
ASSERT_SIZE(struct podwire_affinity4, 16);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct podwire_affinity4_key);
	__type(value, struct podwire_affinity4);
} podwire_affinity4 SEC(".maps");

/* Members of services with affinity, and of services for UDP: a remembered backend that is not here (any
 * more) is not followed. */
struct podwire_affinity_backend4_key {
	__u32 service;
	__be32 address;
	__be16 port;
	__u16 pad;
};
ASSERT_SIZE(struct podwire_affinity_backend4_key, 12);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct podwire_affinity_backend4_key);
	__type(value, __u8);
} podwire_affinity_backends4 SEC(".maps");

/* loadBalancerSourceRanges: who may use a service with SOURCE_RANGES. */
struct podwire_source_range4_key {
	__u32 prefix_length; /* 32 (the service) + bits of the client's prefix */
	__u32 service;
	__be32 address;
};
ASSERT_SIZE(struct podwire_source_range4_key, 12);

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct podwire_source_range4_key);
	__type(value, __u8);
} podwire_source_ranges4 SEC(".maps");

EXPORT_TYPE(enum podwire_service_flags, service_flags);
EXPORT_TYPE(enum podwire_affinity_kind, affinity_kind);
