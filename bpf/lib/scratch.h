/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/scratch.h - room for a decision in the making: all functions of a program share 512 bytes of stack.
 * One per CPU suffices, because no program is interrupted by another on its CPU. */
#pragma once

#include "common.h"
#include "conntrack_types.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct podwire_ct4);
} podwire_scratch SEC(".maps");

/* Empty room for a decision; never NULL, which only the verifier doubts. */
static __always_inline struct podwire_ct4 *scratch_decision(void)
{
	__u32 zero = 0;
	struct podwire_ct4 *decision = bpf_map_lookup_elem(&podwire_scratch, &zero);

	if (decision)
		__builtin_memset(decision, 0, sizeof(*decision));
	return decision;
}
