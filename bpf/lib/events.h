/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/events.h - records for user space, through one ring buffer, rate-limited per CPU. */
#pragma once

#include "common.h"
#include "config.h"

#define PODWIRE_EVENT_VERSION 2

enum podwire_event_type {
	PODWIRE_EVENT_DROP = 1, /* Cilium's monitor message numbers */
	PODWIRE_EVENT_POLICY_VERDICT = 5,
	PODWIRE_EVENT_TRANSLATE = 7,
};

/* Which program speaks. */
enum podwire_program {
	PODWIRE_PROGRAM_FROM_POD = 1,
	PODWIRE_PROGRAM_TO_POD = 2,
	PODWIRE_PROGRAM_FROM_NETDEV = 3,
	PODWIRE_PROGRAM_TO_NETDEV = 4,
	PODWIRE_PROGRAM_CONNECT = 5,
	PODWIRE_PROGRAM_SENDMSG = 6,
};

struct podwire_event {
	__u8 version;	/* PODWIRE_EVENT_VERSION; a reader refuses what it does not know */
	__u8 type;	/* enum podwire_event_type */
	__u8 reason;	/* enum podwire_drop_reason */
	__u8 direction; /* enum podwire_direction */
	__u8 program;	/* enum podwire_program */
	__u8 family;	/* 4, 6, or 0 when the packet is neither */
	__u8 protocol;	/* IP protocol; 0 when unknown */
	__u8 pad;
	__u16 line;	  /* source line that refused the packet */
	__u16 ether_type; /* host order */
	__u32 ifindex;	  /* interface whose hook saw the packet */
	__u32 packet_length;
	__u32 suppressed;	 /* events that the rate limit withheld on this CPU since the last one */
	__u64 timestamp;	 /* nanoseconds, CLOCK_MONOTONIC */
	__u8 source_address[16]; /* IPv4 uses the first four bytes */
	__u8 destination_address[16];
	__be16 source_port; /* ICMP: see docs/datapath.md */
	__be16 destination_port;
	__u32 cpu;
	/* Refused by a policy: what it judged, with addresses and ports of the backend where a service is
	 * translated. Otherwise 0. */
	__u32 source_identity;
	__u32 destination_identity;
	__u32 rule;   /* struct podwire_policy's; 0: nothing matched */
	__u32 policy; /* key of podwire_policies */
};
ASSERT_SIZE(struct podwire_event, 88);

/* How a policy's entry was found: Cilium's match types. */
enum podwire_match {
	PODWIRE_MATCH_NONE = 0,
	PODWIRE_MATCH_L3_ONLY = 1,    /* the peer, all protocols */
	PODWIRE_MATCH_L3_L4 = 2,      /* the peer, a port */
	PODWIRE_MATCH_L4_ONLY = 3,    /* any peer, a port */
	PODWIRE_MATCH_ALL = 4,	      /* any peer, all protocols */
	PODWIRE_MATCH_L3_PROTO = 5,   /* the peer, all ports of a protocol */
	PODWIRE_MATCH_PROTO_ONLY = 6, /* any peer, all ports of a protocol */
};

enum podwire_verdict_flags {
	PODWIRE_VERDICT_AUDITED = 1U << 0, /* refused, and passed because the endpoint is only audited */
};

/* An endpoint with a policy was judged about a packet that may open a flow. Starts as struct podwire_event
 * does. Addresses and ports are what was judged: a service's backend, not the service. */
struct podwire_verdict_event {
	__u8 version;	/* PODWIRE_EVENT_VERSION */
	__u8 type;	/* PODWIRE_EVENT_POLICY_VERDICT */
	__u8 match;	/* enum podwire_match */
	__u8 direction; /* enum podwire_direction: of the endpoint that was judged */
	__u8 program;	/* enum podwire_program */
	__u8 family;	/* 4 */
	__u8 protocol;
	__u8 flags;	  /* enum podwire_verdict_flags */
	__u32 ifindex;	  /* interface whose hook saw the packet */
	__u32 suppressed; /* events that the rate limit withheld on this CPU since the last one */
	__u64 timestamp;  /* nanoseconds, CLOCK_MONOTONIC */
	__be32 source_address;
	__be32 destination_address;
	__be16 source_port;
	__be16 destination_port; /* ICMP: the type */
	__u32 source_identity;
	__u32 destination_identity;
	__s32 verdict; /* 0: allowed; less: refused, minus enum podwire_drop_reason */
	__u32 rule;    /* struct podwire_policy's; 0: nothing matched */
	__u32 policy;  /* key of podwire_policies */
	__u32 packet_length;
	__u32 cpu;
};
ASSERT_SIZE(struct podwire_verdict_event, 64);

/* A new connection to a service: its first packet before and after. Starts as struct podwire_event does. In a
 * socket: what it asked for and what it gets; its own address may be 0 (not chosen yet), there is no
 * interface. */
struct podwire_translate_event {
	__u8 version; /* PODWIRE_EVENT_VERSION */
	__u8 type;    /* PODWIRE_EVENT_TRANSLATE */
	__u8 pad;
	__u8 direction; /* enum podwire_direction */
	__u8 program;	/* enum podwire_program */
	__u8 family;	/* 4 */
	__u8 protocol;
	__u8 pad2;
	__u32 ifindex;	  /* interface whose hook saw the packet */
	__u32 suppressed; /* events that the rate limit withheld on this CPU since the last one */
	__u64 timestamp;  /* nanoseconds, CLOCK_MONOTONIC */
	__be32 source_address;
	__be32 destination_address; /* the frontend's */
	__be16 source_port;
	__be16 destination_port;
	__be32 new_source_address;
	__be32 new_destination_address; /* the backend's */
	__be16 new_source_port;
	__be16 new_destination_port;
	__u32 service; /* struct podwire_service4's id */
	__u32 cpu;
};
ASSERT_SIZE(struct podwire_translate_event, 56);

/* Each kind has a budget of its own: a busy service must not hide what is dropped. */
enum podwire_budget {
	PODWIRE_BUDGET_DROP = 0,
	PODWIRE_BUDGET_TRANSLATE = 1,
	PODWIRE_BUDGET_VERDICT = 2,
	PODWIRE_BUDGET_KINDS,
};

struct podwire_event_budget {
	__u64 second; /* the second that `sent` counts */
	__u32 sent;
	__u32 suppressed;
};
ASSERT_SIZE(struct podwire_event_budget, 16);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18); /* bytes */
} podwire_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PODWIRE_BUDGET_KINDS);
	__type(key, __u32);
	__type(value, struct podwire_event_budget);
} podwire_event_budget SEC(".maps");

EXPORT_TYPE(struct podwire_event, event);
EXPORT_TYPE(struct podwire_translate_event, translate_event);
EXPORT_TYPE(struct podwire_verdict_event, verdict_event);
EXPORT_TYPE(enum podwire_match, match);
EXPORT_TYPE(enum podwire_verdict_flags, verdict_flags);
EXPORT_TYPE(enum podwire_event_type, event_type);
EXPORT_TYPE(enum podwire_program, program);
