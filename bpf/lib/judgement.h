/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/judgement.h - a policy's judgement in the making, and what the event of a refused packet says of
 * it. One per CPU, as for decisions (scratch.h). */
#pragma once

#include "common.h"

struct podwire_judgement {
	__be32 source_address; /* as judged: a service's backend, not the service */
	__be32 destination_address;
	__be16 source_port;
	__be16 destination_port; /* ICMP: the type */
	__u32 source_identity;
	__u32 destination_identity;
	__u32 policy;	/* of the end that is judged: key of podwire_policies */
	__u32 rule;	/* that decided; 0: none matched */
	__u8 direction; /* enum podwire_direction */
	__u8 protocol;
	__u8 match; /* enum podwire_match */
	__u8 audit; /* refusals pass */
	__u8 fresh; /* first packet of a flow */
	__u8 pad[3];
};
ASSERT_SIZE(struct podwire_judgement, 36);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct podwire_judgement);
} podwire_judgement SEC(".maps");

/* Never NULL, which only the verifier doubts. */
static __always_inline struct podwire_judgement *scratch_judgement(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&podwire_judgement, &zero);
}
