/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/tuple.h - who talks to whom, exactly as the packet says it. */
#pragma once

#include <linux/in.h>

#include "common.h"

/* ICMP has no ports: an echo request carries its identifier as source port, an echo reply as destination
 * port, and the other port is 0. Reversing a request's tuple therefore gives its reply's. */
struct podwire_tuple4 {
	__be32 source_address;
	__be32 destination_address;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3]; /* always 0: hash lookups compare padding too */
};
ASSERT_SIZE(struct podwire_tuple4, 16);

static __always_inline bool tuple4_is_echo_reply(const struct podwire_tuple4 *tuple)
{
	return tuple->protocol == IPPROTO_ICMP && tuple->destination_port;
}

/* An identifier of 0 leaves open what it is: a request, a reply, a later fragment of an error. */
static __always_inline bool tuple4_is_ambiguous(const struct podwire_tuple4 *tuple)
{
	return tuple->protocol == IPPROTO_ICMP && !tuple->source_port && !tuple->destination_port;
}

static __always_inline void tuple4_reverse(const struct podwire_tuple4 *tuple,
					   struct podwire_tuple4 *reversed)
{
	reversed->source_address = tuple->destination_address;
	reversed->destination_address = tuple->source_address;
	reversed->source_port = tuple->destination_port;
	reversed->destination_port = tuple->source_port;
	reversed->protocol = tuple->protocol;
	__builtin_memset(reversed->pad, 0, sizeof(reversed->pad));
}
