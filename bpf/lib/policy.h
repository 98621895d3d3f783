/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/policy.h - may this flow be? Judges what a packet would open, at both of its ends that are
 * endpoints of this node. Reads endpoints' policies and the ipcache, sends events, touches no packet and no
 * table.
 *
 * Only the slow paths judge. A conntrack entry of the direction that opened a connection stands for "judged
 * and allowed", and the revisions of both ends' slots for "nothing has changed since"; the other direction
 * needs no permission. */
#pragma once

#include "common.h"
#include "config.h"
#include "conntrack.h"
#include "drop.h"
#include "icmp.h"
#include "ipcache.h"
#include "judgement.h"
#include "local.h"
#include "policy_map.h"

#define PODWIRE_IDENTITY_HOST  1
#define PODWIRE_IDENTITY_WORLD 2

#define ICMP4_FRAGMENTATION_NEEDED 4
#define ICMP4_UNKNOWN		   255 /* a type that is none */

/* Does anybody have to ask? Not for an endpoint that reaches itself. */
static __always_inline bool policy4_applies(const struct podwire_local4 *source,
					    const struct podwire_local4 *destination)
{
	if (!cfg_policy || !(source->policy | destination->policy))
		return false;
	return !source->slot || source->slot != destination->slot;
}

static __always_inline __u8 match_type(__u8 prefix_length, bool peer)
{
	if (prefix_length <= PODWIRE_POLICY_PREFIX_L3)
		return peer ? PODWIRE_MATCH_L3_ONLY : PODWIRE_MATCH_ALL;
	if (prefix_length <= PODWIRE_POLICY_PREFIX_PROTO)
		return peer ? PODWIRE_MATCH_L3_PROTO : PODWIRE_MATCH_PROTO_ONLY;
	return peer ? PODWIRE_MATCH_L3_L4 : PODWIRE_MATCH_L4_ONLY;
}

/* The class of the longest block that the peer's address lies in, as an identity; 0: none. */
static __always_inline __u32 policy4_class(void *entries, __u32 direction, __be32 address)
{
	struct podwire_policy_block_key key = {
		.prefix_length = PODWIRE_POLICY_PREFIX_BLOCK_FULL,
		.scope = PODWIRE_POLICY_BLOCKS | direction,
		.address = address,
	};
	const struct podwire_policy *block = bpf_map_lookup_elem(entries, &key);

	return block && (block->flags & PODWIRE_POLICY_BLOCK) ? block->rule : 0;
}

/* What the policy says, in this order:
 * 1. a deny of the longest entry for the peer, or of the longest for any peer;
 * 2. an allow of either, the longer one to be named;
 * 3. the longest entry for the class of the peer's address;
 * 4. refused.
 * Returns the entry, or NULL; `specific` says whether it names the peer. */
static __always_inline const struct podwire_policy *
policy4_find(void *entries, struct podwire_policy_key *key, __be32 address, bool *specific)
{
	const struct podwire_policy *peer = NULL, *any;

	*specific = true;
	if (key->identity != PODWIRE_POLICY_ANY_PEER) {
		peer = bpf_map_lookup_elem(entries, key);
		if (peer && (peer->flags & (PODWIRE_POLICY_DENY | PODWIRE_POLICY_FINAL)))
			return peer;
		key->identity = PODWIRE_POLICY_ANY_PEER;
	}
	any = bpf_map_lookup_elem(entries, key);
	if (any &&
	    (!peer || (any->flags & PODWIRE_POLICY_DENY) || any->prefix_length > peer->prefix_length)) {
		*specific = false;
		return any;
	}
	if (peer)
		return peer;
	key->identity = policy4_class(entries, key->direction, address);
	return key->identity == PODWIRE_POLICY_ANY_PEER ? NULL : bpf_map_lookup_elem(entries, key);
}

/* Judge by the policy's entries. Sets `rule` and `match`. Returns 0 or minus an enum podwire_drop_reason. */
static __noinline int policy4_verdict(struct podwire_judgement *judgement)
{
	bool egress = judgement->direction == PODWIRE_DIRECTION_EGRESS;
	struct podwire_policy_key key = {
		.prefix_length = PODWIRE_POLICY_PREFIX_FULL,
		.identity = egress ? judgement->destination_identity : judgement->source_identity,
		.direction = egress ? PODWIRE_POLICY_EGRESS : PODWIRE_POLICY_INGRESS,
		.protocol = judgement->protocol,
		.port = judgement->destination_port,
	};
	const struct podwire_policy *found = NULL;
	__u32 number = judgement->policy;
	void *entries = bpf_map_lookup_elem(&podwire_policies, &number);
	bool specific = false;

	if (entries)
		found = policy4_find(entries, &key,
				     egress ? judgement->destination_address : judgement->source_address,
				     &specific);
	if (!found) {
		judgement->rule = 0;
		judgement->match = PODWIRE_MATCH_NONE;
		return -PODWIRE_DROP_POLICY;
	}
	judgement->rule = found->rule;
	judgement->match = match_type(found->prefix_length, specific);
	return found->flags & PODWIRE_POLICY_DENY ? -PODWIRE_DROP_POLICY_DENY : 0;
}

static __noinline int send_verdict_event(struct __sk_buff *skb, const struct podwire_packet *packet,
					 const struct podwire_judgement *judgement, int verdict)
{
	__u64 now = bpf_ktime_get_ns();
	struct podwire_event_budget *budget = event_budget(PODWIRE_BUDGET_VERDICT, now);
	struct podwire_verdict_event *event;

	if (!budget)
		return 0;
	event = bpf_ringbuf_reserve(&podwire_events, sizeof(*event), 0);
	if (!event) {
		budget->suppressed++;
		return 0;
	}
	event->version = PODWIRE_EVENT_VERSION;
	event->type = PODWIRE_EVENT_POLICY_VERDICT;
	event->match = judgement->match;
	event->direction = judgement->direction;
	event->program = packet->program;
	event->family = 4;
	event->protocol = judgement->protocol;
	event->flags = judgement->audit && verdict ? PODWIRE_VERDICT_AUDITED : 0;
	event->ifindex = skb->ifindex;
	event->suppressed = budget->suppressed;
	event->timestamp = now;
	event->source_address = judgement->source_address;
	event->destination_address = judgement->destination_address;
	event->source_port = judgement->source_port;
	event->destination_port = judgement->destination_port;
	event->source_identity = judgement->source_identity;
	event->destination_identity = judgement->destination_identity;
	event->verdict = verdict;
	event->rule = judgement->rule;
	event->policy = judgement->policy;
	event->packet_length = packet->length;
	event->cpu = bpf_get_smp_processor_id();
	bpf_ringbuf_submit(event, 0);
	budget->sent++;
	budget->suppressed = 0;
	return 0;
}

/* Judge one end: `judgement` says which and by what. Returns 0 or a refusal. */
static __noinline int policy4_end(struct __sk_buff *skb, struct podwire_packet *packet,
				  struct podwire_judgement *judgement)
{
	int verdict = policy4_verdict(judgement);

	/* What an old connection's packet is told again is no news, but that it ends is. */
	if (cfg_event_rate && (judgement->fresh || (verdict && !judgement->audit)))
		send_verdict_event(skb, packet, judgement, verdict);
	if (!verdict || judgement->audit)
		return 0;
	packet->refused = judgement->direction;
	return refuse(packet, -verdict);
}

/* Who is it? `flags` returns what the ipcache says about an address elsewhere. */
static __always_inline __u32 identity4(const struct podwire_local4 *local, __be32 address, __u32 *flags)
{
	const struct podwire_ipcache4 *known;

	*flags = 0;
	if (local->found)
		return local->flags & PODWIRE_ENDPOINT_HOST ? PODWIRE_IDENTITY_HOST : local->identity;
	known = ipcache4_lookup(address);
	if (!known)
		return PODWIRE_IDENTITY_WORLD;
	*flags = known->flags;
	return known->identity ? known->identity : PODWIRE_IDENTITY_WORLD;
}

/* A later fragment shows only where its first one had the identifier. */
static __always_inline __u8 icmp4_type(const struct podwire_packet *packet)
{
	if (!(packet->flags & PACKET_LATER_FRAGMENT))
		return packet->icmp_type;
	if (packet->tuple.source_port)
		return ICMP4_ECHO;
	return packet->tuple.destination_port ? ICMP4_ECHO_REPLY : ICMP4_UNKNOWN;
}

/* Judge a packet that would open a flow from `source` to `destination`, which is the backend where `decision`
 * translates the packet. Returns 0 or a refusal. */
static __noinline int policy4_judge(struct __sk_buff *skb, struct podwire_packet *packet,
				    const struct podwire_ct4 *decision, const struct podwire_local4 *source,
				    const struct podwire_local4 *destination)
{
	struct podwire_judgement *judgement = scratch_judgement();
	__u32 flags;
	int ret;

	if (!judgement)
		return refuse(packet, PODWIRE_DROP_POLICY);
	judgement->source_address = packet->tuple.source_address;
	judgement->source_port = packet->tuple.source_port;
	judgement->destination_address = packet->tuple.destination_address;
	judgement->destination_port = packet->tuple.destination_port;
	judgement->protocol = packet->tuple.protocol;
	if (cfg_services && (decision->flags & CT_ANY_TRANSLATION)) {
		judgement->destination_address = decision->rewrite.destination_address;
		judgement->destination_port = decision->rewrite.destination_port;
	}
	if (packet->tuple.protocol == IPPROTO_ICMP)
		judgement->destination_port = bpf_htons(icmp4_type(packet));
	/* Whose packets the table has counted before is known to it. */
	judgement->fresh = decision->packets <= 1;
	judgement->source_identity = identity4(source, judgement->source_address, &flags);
	judgement->destination_identity = identity4(destination, judgement->destination_address, &flags);

	/* What the stack translates is judged where it leaves the stack, as what it has become. */
	if (local4_is_pod(source) && source->policy &&
	    (cfg_services || packet->program != PODWIRE_PROGRAM_FROM_POD ||
	     !(flags & PODWIRE_IPCACHE_SERVICE))) {
		judgement->direction = PODWIRE_DIRECTION_EGRESS;
		judgement->policy = source->policy;
		judgement->audit = source->flags & PODWIRE_ENDPOINT_AUDIT;
		ret = policy4_end(skb, packet, judgement);
		if (ret)
			return ret;
	}
	if (local4_is_pod(destination) && destination->policy) {
		judgement->direction = PODWIRE_DIRECTION_INGRESS;
		judgement->policy = destination->policy;
		judgement->audit = destination->flags & PODWIRE_ENDPOINT_AUDIT;
		return policy4_end(skb, packet, judgement);
	}
	return 0;
}

/* Is the ICMP error about a connection that the table knows, and for the sender of what it quotes? A pod may
 * only complain about what it was sent itself; routers complain about everybody's packets. That a packet was
 * too large always passes: without it connections hang. */
static __noinline bool policy4_related(const struct podwire_packet *packet,
				       const struct podwire_quoted4 *quoted)
{
	struct podwire_tuple4 answers;

	if (packet->icmp_type == ICMP4_DEST_UNREACHABLE && packet->icmp_code == ICMP4_FRAGMENTATION_NEEDED)
		return true;
	if (packet->flags & PACKET_UNMASQUERADED)
		return true;
	if (quoted->fragment || quoted->tuple.source_address != packet->tuple.destination_address)
		return false;
	if (packet->program == PODWIRE_PROGRAM_FROM_POD &&
	    quoted->tuple.destination_address != packet->tuple.source_address)
		return false;
	if (bpf_map_lookup_elem(&podwire_ct4, &quoted->tuple))
		return true;
	tuple4_reverse(&quoted->tuple, &answers);
	return bpf_map_lookup_elem(&podwire_ct4, &answers);
}
