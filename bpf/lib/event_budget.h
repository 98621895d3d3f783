/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/event_budget.h - how many events a second a CPU may still send. */
#pragma once

#include "common.h"
#include "config.h"
#include "events.h"

#define NANOSECONDS_PER_SECOND 1000000000ULL

/* The CPU's budget for one kind of event, or NULL when it is spent: then the event is counted as withheld. */
static __always_inline struct podwire_event_budget *event_budget(__u32 kind, __u64 now)
{
	struct podwire_event_budget *budget = bpf_map_lookup_elem(&podwire_event_budget, &kind);
	__u64 second = now / NANOSECONDS_PER_SECOND;

	if (!budget)
		return NULL;
	if (budget->second != second) {
		budget->second = second;
		budget->sent = 0;
	}
	if (budget->sent >= cfg_event_rate) {
		budget->suppressed++;
		return NULL;
	}
	return budget;
}
