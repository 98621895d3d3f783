/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/local.h - what this node knows about one address, together with the revision that vouches for it.
 */
#pragma once

#include "endpoints.h"
#include "slots.h"

struct podwire_local4 {
	__u32 ifindex;
	__u32 slot;
	__u32 revision;
	__u32 flags;
	__u32 identity;
	__u32 policy;
	__u8 mac[ETH_ALEN];
	__u8 found; /* 0: not an address of this node; slot and revision are slot 0's */
	__u8 pad;
};

static __always_inline bool local4_is_pod(const struct podwire_local4 *local)
{
	return local->found && !(local->flags & PODWIRE_ENDPOINT_HOST);
}

/* The slot is only known after a lookup, but its revision must be older than the lookup it vouches for: hence
 * look up, read the revision, and look up again. */
static __noinline int local4_read(__be32 address, struct podwire_local4 *local)
{
	const struct podwire_endpoint4 *endpoint;
	__u32 slot;

	__builtin_memset(local, 0, sizeof(*local));
	local->revision = slot_revision(PODWIRE_SLOT_NOT_LOCAL);
	endpoint = endpoint4_lookup(address);
	if (!endpoint)
		return 0;
	slot = endpoint->slot;
	if (slot) {
		__u32 revision = slot_revision(slot);

		endpoint = endpoint4_lookup(address);
		if (!endpoint || endpoint->slot != slot)
			return 0; /* changed this very moment: slot 0's revision vouches for "not here" */
		local->revision = revision;
	}
	local->found = 1;
	local->slot = slot;
	local->ifindex = endpoint->ifindex;
	local->flags = endpoint->flags;
	local->identity = endpoint->identity;
	local->policy = endpoint->policy;
	__builtin_memcpy(local->mac, endpoint->mac, ETH_ALEN);
	return 0;
}
