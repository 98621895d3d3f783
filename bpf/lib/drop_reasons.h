/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/drop_reasons.h - every reason for which the datapath refuses a packet.
 * The number is return value, counter key and event field. Numbers are Cilium's, so that existing tools and
 * habits fit; 0 means "not dropped". A number listed as reserved is one that Cilium uses for something this
 * datapath does not do, or has retired: never give it another meaning. */
#pragma once

#include "common.h"

enum podwire_drop_reason {
	PODWIRE_DROP_NONE = 0,
	/* 130, 131 reserved (retired): invalid source or destination MAC */
	PODWIRE_DROP_INVALID_SOURCE_IP = 132,
	PODWIRE_DROP_POLICY = 133, /* the policy in force allows no such flow */
	PODWIRE_DROP_INVALID_PACKET = 134,
	PODWIRE_DROP_CT_INVALID_HEADER = 135,
	/* 136 reserved: the stack answers "fragmentation needed" here */
	PODWIRE_DROP_CT_UNKNOWN_PROTOCOL = 137,
	/* 138 reserved (retired) */
	PODWIRE_DROP_UNSUPPORTED_L3 = 139,
	/* 140 reserved: missed tail call */
	PODWIRE_DROP_WRITE_ERROR = 141,
	PODWIRE_DROP_UNKNOWN_L4 = 142,
	/* 143 reserved: unknown ICMPv4 code */
	PODWIRE_DROP_UNKNOWN_ICMP4_TYPE = 144,
	/* 145 to 149 reserved: ICMPv6 code and type, tunnel key and options */
	PODWIRE_DROP_UNKNOWN_L3_TARGET = 150,
	PODWIRE_DROP_STALE_OR_UNROUTABLE = 151,
	/* 152 reserved (retired) */
	PODWIRE_DROP_CSUM_L3 = 153,
	PODWIRE_DROP_CSUM_L4 = 154,
	PODWIRE_DROP_CT_INSERT_FAILED = 155,
	/* 156, 157 reserved: IPv6 extension headers, fragmented IPv6 */
	PODWIRE_DROP_NO_BACKEND = 158,
	/* 159 to 165 reserved: tunnels, proxies, policies */
	PODWIRE_DROP_UNSUPPORTED_L2 = 166,
	PODWIRE_DROP_NAT_NO_MAPPING = 167,
	PODWIRE_DROP_NAT_UNSUPPORTED_PROTOCOL = 168,
	PODWIRE_DROP_FIB_LOOKUP_FAILED = 169,
	/* 170 to 173 reserved: encapsulation, identities */
	PODWIRE_DROP_IS_CLUSTER_IP = 174,
	PODWIRE_DROP_FRAGMENT_NOT_FOUND = 175,
	PODWIRE_DROP_FORBIDDEN_ICMP6 = 176,
	PODWIRE_DROP_NOT_IN_SOURCE_RANGE = 177,
	/* 178 to 180 reserved: load balancing, proxies */
	PODWIRE_DROP_POLICY_DENY = 181, /* a deny rule names the flow */
	/* 182 to 205 reserved: SRv6, authentication, proxies, TTL (the stack answers that here) */
};

EXPORT_TYPE(enum podwire_drop_reason, drop_reason);
