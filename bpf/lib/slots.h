/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/slots.h - revisions: what makes a cached decision valid.
 *
 * Every endpoint of this node has a slot. User space adds 1 to the slot's revision, after it changed the
 * other maps, whenever the endpoint appears, disappears or changes; a cached decision that remembers another
 * revision is made again. Slot 0 stands for everything that is not an endpoint of this node: its revision
 * vouches for the ipcache, the host's routes and neighbours' devices, and must be bumped when those change.
 *
 * Whoever makes a decision reads the revisions BEFORE the lookups they vouch for: a change that slips in
 * between then makes the decision stale instead of wrong. */
#pragma once

#include "common.h"

#define PODWIRE_SLOT_NOT_LOCAL 0
#define PODWIRE_SLOTS_DEFAULT  1024

struct podwire_slot {
	__u32 revision;
};
ASSERT_SIZE(struct podwire_slot, 4);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PODWIRE_SLOTS_DEFAULT);
	__type(key, __u32); /* slot */
	__type(value, struct podwire_slot);
} podwire_slots SEC(".maps");

/* A slot number outside the map has the revision 0, which user space never uses for a live endpoint. */
static __always_inline __u32 slot_revision(__u32 slot)
{
	const struct podwire_slot *found = bpf_map_lookup_elem(&podwire_slots, &slot);

	return found ? *(const volatile __u32 *)&found->revision : 0;
}
