/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/conntrack_map.h - the conntrack table. LRU: a full table forgets the flow that was idle longest. */
#pragma once

#include "conntrack_types.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries,
	       262144); /* two per connection; user space may choose another size before the load */
	__type(key, struct podwire_tuple4);
	__type(value, struct podwire_ct4);
} podwire_ct4 SEC(".maps");
