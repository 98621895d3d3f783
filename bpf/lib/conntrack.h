/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/conntrack.h - when a remembered decision holds, and how it is written.
 *
 * Two CPUs may handle packets of one connection at once. Entries are replaced whole, so a decision is never
 * half old and half new, with one exception that every preallocated BPF hash has: an element that was
 * replaced or evicted can be reused while another CPU still reads it. The reader then follows another flow's
 * decision for that one packet; the receiver's stack finds no socket for it and drops it. Counters, times and
 * states are written in place without atomic operations: the worst outcome is a lost count, or a SYN that
 * keeps the old entry's VIA_STACK and takes the slower way. */
#pragma once

#include "common.h"
#include "config.h"
#include "conntrack_map.h"
#include "local.h"
#include "parse.h"

/* A decision that only says "known": matches no interface, so the first packet makes its own. */
#define PODWIRE_IFINDEX_UNDECIDED 0xffffffffU
/* Flows without a closing handshake count as over after this idle time; netfilter forgets them sooner. */
#define CT_IDLE_NANOSECONDS (600LL * 1000000000LL)
/* The FIB's answer is asked for again after this time, should user space miss a change of routes. */
#define CT_FIB_NANOSECONDS (2LL * 1000000000LL)

static __always_inline __u8 ct4_mode_flag(void)
{
	return (ebpf_host_routing() ? PODWIRE_CT_EBPF_ROUTING : 0) | (cfg_services ? PODWIRE_CT_SERVICES : 0);
}

/* Would netfilter call this packet invalid, as the first one of its flow that it meets? It takes data for the
 * middle of a connection, but no goodbye, no answer to a SYN and no echo reply; kube-proxy drops the invalid.
 */
static __always_inline bool invalid_as_first(const struct podwire_packet *packet)
{
	if (packet->tuple.protocol == IPPROTO_TCP)
		return packet->tcp_flags & (TCP_FLAG_SYN | TCP_FLAG_FIN | TCP_FLAG_RST);
	return packet->flags & PACKET_ICMP_ECHO_REPLY;
}

/* Was the entry decided under the host routing in force? After a switch to legacy, packets that would make a
 * bad start keep to the way that their flow has gone; the others take it to the stack. */
static __always_inline bool ct4_mode_current(const struct podwire_ct4 *entry,
					     const struct podwire_packet *packet)
{
	__u8 differs = (entry->flags ^ ct4_mode_flag()) & CT_MODES;

	if (likely(!differs))
		return true;
	return differs == PODWIRE_CT_EBPF_ROUTING && !ebpf_host_routing() && invalid_as_first(packet);
}

/* Has nothing changed at either end since the entry was decided? */
static __always_inline bool ct4_revisions_current(const struct podwire_ct4 *entry)
{
	return slot_revision(entry->source_slot) == entry->source_revision &&
	       slot_revision(entry->destination_slot) == entry->destination_revision;
}

/* Does the entry stand for what the policies say now? */
static __always_inline bool ct4_judged(const struct podwire_ct4 *entry)
{
	return entry->ifindex != PODWIRE_IFINDEX_UNDECIDED && ct4_revisions_current(entry);
}

/* May this packet follow the entry? `ifindex` is the interface it came from, 0 for a device of the node. */
static __always_inline bool ct4_current(const struct podwire_ct4 *entry, const struct podwire_packet *packet,
					__u32 ifindex)
{
	return entry->ifindex == ifindex && ct4_mode_current(entry, packet) && ct4_revisions_current(entry);
}

static __always_inline __u8 ct4_next_state(const struct podwire_packet *packet)
{
	if (packet->tuple.protocol == IPPROTO_TCP) {
		if (packet->tcp_flags & (TCP_FLAG_FIN | TCP_FLAG_RST))
			return PODWIRE_CT_STATE_CLOSING;
		if (packet_is_syn(packet))
			return PODWIRE_CT_STATE_NEW;
	}
	return PODWIRE_CT_STATE_ESTABLISHED;
}

static __always_inline bool ct4_over(const struct podwire_ct4 *entry, __u8 protocol, __u64 now)
{
	return protocol != IPPROTO_TCP && elapsed(entry->last_seen, now) > CT_IDLE_NANOSECONDS;
}

/* Did the FIB have a say in this decision? */
static __always_inline bool ct4_asked_fib(const struct podwire_ct4 *entry)
{
	return ebpf_host_routing() && (entry->ifindex || entry->delivery == PODWIRE_DELIVERY_NEIGH) &&
	       !entry->destination_slot && !(entry->flags & PODWIRE_CT_VIA_STACK);
}

/* Count a packet that follows the entry. False: the flow was over, or the FIB's answer is too old to follow.
 * The clock is read once per tick and flow: comparing ticks costs a load, reading the clock 20 ns and more.
 */
static __always_inline bool ct4_touch(struct podwire_ct4 *entry, const struct podwire_packet *packet)
{
	__u32 tick = (__u32)bpf_jiffies64();
	__u8 state = ct4_next_state(packet);

	if (unlikely(entry->seen_jiffies != tick)) {
		__u64 now = bpf_ktime_get_ns();

		if (ct4_over(entry, packet->tuple.protocol, now))
			return false;
		if (ct4_asked_fib(entry) && elapsed(entry->decided, now) > CT_FIB_NANOSECONDS)
			return false;
		entry->seen_jiffies = tick;
		entry->last_seen = now;
	}
	/* Closing stays closing until a SYN restarts the entry. */
	if (unlikely(state > entry->state))
		entry->state = state;
	entry->packets++;
	entry->bytes += packet->length;
	return true;
}

/* Was the entry made for those who have its addresses now? A slot is another endpoint's only long after it
 * was given back. */
static __always_inline bool ct4_same_ends(const struct podwire_ct4 *entry,
					  const struct podwire_local4 *source,
					  const struct podwire_local4 *destination)
{
	return entry->source_slot == source->slot && entry->destination_slot == destination->slot;
}

/* Carry over what the old entry says about a translated connection: only the way is decided again. Its client
 * opened it, whatever other connection between these ends the table knows, and only the backend's place says
 * whether the stack is an end of it. */
static __always_inline void ct4_inherit_translated(const struct podwire_packet *packet,
						   struct podwire_ct4 *decision,
						   const struct podwire_ct4 *old)
{
	if (decision->flags & PODWIRE_CT_TRANSLATED)
		decision->flags |= PODWIRE_CT_ORIGINAL;
	if (!old || packet_is_syn(packet) || !(old->flags & decision->flags & CT_ANY_TRANSLATION) ||
	    !rewrite4_equal(&old->rewrite, &decision->rewrite))
		return;
	if (old->state > decision->state)
		decision->state = old->state;
	decision->packets += old->packets;
	decision->bytes += old->bytes;
}

/* Carry over what both old entries say about the connection into the new `decision`. */
static __always_inline void ct4_inherit(const struct podwire_packet *packet, struct podwire_ct4 *decision,
					const struct podwire_ct4 *old, const struct podwire_ct4 *old_reverse)
{
	__u8 via_stack;

	/* Both ends spoke at once, and each CPU took the other's packet for the answer: neither is one. */
	if (old && old_reverse && !((old->flags | old_reverse->flags) & PODWIRE_CT_ORIGINAL))
		decision->flags |= PODWIRE_CT_ORIGINAL;
	if (old && ct4_over(old, packet->tuple.protocol, decision->decided))
		old = NULL;
	if (old_reverse && ct4_over(old_reverse, packet->tuple.protocol, decision->decided))
		old_reverse = NULL;

	/* Nobody answers with an echo request. */
	if (packet->flags & PACKET_ICMP_ECHO)
		decision->flags |= PODWIRE_CT_ORIGINAL;
	if (packet_is_syn(packet)) {
		decision->flags |= PODWIRE_CT_ORIGINAL;
		if ((old && old->state == PODWIRE_CT_STATE_CLOSING) ||
		    (old_reverse && old_reverse->state == PODWIRE_CT_STATE_CLOSING))
			return;
		via_stack = (old ? old->flags : 0) | (old_reverse ? old_reverse->flags : 0);
		decision->flags |= via_stack & PODWIRE_CT_VIA_STACK;
		return;
	}
	if (old) {
		decision->flags |= old->flags & (PODWIRE_CT_VIA_STACK | PODWIRE_CT_ORIGINAL);
		if (old->state > decision->state)
			decision->state = old->state;
		decision->packets += old->packets;
		decision->bytes += old->bytes;
	} else if (old_reverse) {
		decision->flags |= old_reverse->flags & PODWIRE_CT_VIA_STACK;
		if (!(old_reverse->flags & PODWIRE_CT_ORIGINAL))
			decision->flags |= PODWIRE_CT_ORIGINAL;
	} else {
		/* An answer opened nothing, even when the table knows no more: what it answers must stay
		 * masqueraded. */
		if (!(packet->flags & PACKET_UNMASQUERADED))
			decision->flags |= PODWIRE_CT_ORIGINAL;
		/* The middle of a connection that no program knows: opened before they were attached, or
		 * evicted. netfilter may be translating it, so it must see it; untranslated it is only
		 * slower. */
		if (packet->tuple.protocol == IPPROTO_TCP && !(packet->tcp_flags & TCP_FLAG_SYN))
			decision->flags |= PODWIRE_CT_VIA_STACK;
	}
}

/* Would answers that follow `answers` be translated as the connection of `decision` needs it? */
static __always_inline bool ct4_answers_fit(const struct podwire_tuple4 *tuple,
					    const struct podwire_ct4 *decision, const struct podwire_ct4 *old,
					    const struct podwire_ct4 *answers)
{
	struct podwire_rewrite4 wanted;

	if (!(decision->flags & CT_ANY_TRANSLATION))
		/* A new connection without a service between ends that a service has connected before. */
		return old || !(answers->flags & CT_ANY_TRANSLATION);
	rewrite4_of_answers(tuple, &wanted);
	return (answers->flags & CT_ANY_TRANSLATION) && rewrite4_equal(&answers->rewrite, &wanted);
}

/* What the answers need, derived from the decision for the packets they answer. */
static __always_inline void ct4_reverse_decision(const struct podwire_tuple4 *tuple,
						 const struct podwire_ct4 *decision,
						 const struct podwire_local4 *source,
						 const struct podwire_local4 *destination,
						 struct podwire_ct4 *reverse)
{
	__builtin_memset(reverse, 0, sizeof(*reverse));
	reverse->ifindex = local4_is_pod(destination) ? destination->ifindex : 0;
	reverse->source_slot = destination->slot;
	reverse->source_revision = destination->revision;
	reverse->destination_slot = source->slot;
	reverse->destination_revision = source->revision;
	reverse->identity = source->identity;
	reverse->mtu = decision->mtu;
	reverse->decided = decision->decided;
	reverse->last_seen = decision->decided;
	reverse->flags = decision->flags & (PODWIRE_CT_VIA_STACK | CT_MODES);
	if (!(decision->flags & PODWIRE_CT_ORIGINAL))
		reverse->flags |= PODWIRE_CT_ORIGINAL;
	if (cfg_services && (decision->flags & CT_ANY_TRANSLATION)) {
		reverse->flags |= decision->flags & PODWIRE_CT_TRANSLATED ? PODWIRE_CT_TRANSLATED_BACK
									  : PODWIRE_CT_TRANSLATED;
		reverse->service = decision->service;
		rewrite4_of_answers(tuple, &reverse->rewrite);
	}
	/* Back to another node or the world: the pod's first answer asks the FIB. */
	if (!local4_is_pod(source) && !(decision->flags & PODWIRE_CT_VIA_STACK))
		reverse->ifindex = PODWIRE_IFINDEX_UNDECIDED;
	/* What is answered here was allowed once; whether it still is shows when more of it comes. */
	if (cfg_policy && ((reverse->flags & PODWIRE_CT_ORIGINAL) || tuple4_is_echo_reply(tuple) ||
			   tuple4_is_ambiguous(tuple)))
		reverse->ifindex = PODWIRE_IFINDEX_UNDECIDED;
	if (local4_is_pod(source) && (ebpf_host_routing() || ct4_hairpin(tuple, decision)) &&
	    !(decision->flags & PODWIRE_CT_VIA_STACK)) {
		reverse->delivery = PODWIRE_DELIVERY_PEER;
		reverse->output_ifindex = source->ifindex;
		__builtin_memcpy(reverse->mac, source->mac, ETH_ALEN);
	}
}

/* Complete `decision` with what is known about the connection. The caller has set: ifindex, delivery and its
 * parameters, flags. Returns whether the answers need an entry, too, because there is none that fits. */
static __noinline bool ct4_complete(struct podwire_packet *packet, struct podwire_ct4 *decision,
				    const struct podwire_local4 *source,
				    const struct podwire_local4 *destination)
{
	struct podwire_tuple4 reversed;
	const struct podwire_ct4 *old, *old_reverse;

	ct4_answers(&packet->tuple, decision, &reversed);
	old = bpf_map_lookup_elem(&podwire_ct4, &packet->tuple);
	old_reverse = bpf_map_lookup_elem(&podwire_ct4, &reversed);
	/* What was asked by or of somebody who is gone has no answer. */
	if ((old && !ct4_same_ends(old, source, destination)) ||
	    (old_reverse && !ct4_same_ends(old_reverse, destination, source)))
		decision->flags |= PODWIRE_CT_ORIGINAL;

	decision->source_slot = source->slot;
	decision->source_revision = source->revision;
	decision->destination_slot = destination->slot;
	decision->destination_revision = destination->revision;
	if (destination->identity)
		decision->identity = destination->identity;
	decision->mtu = cfg_mtu;
	decision->flags |= ct4_mode_flag();
	decision->decided = bpf_ktime_get_ns();
	decision->last_seen = decision->decided;
	decision->seen_jiffies = (__u32)bpf_jiffies64();
	decision->state = ct4_next_state(packet);
	if (cfg_services && (decision->flags & CT_ANY_TRANSLATION))
		ct4_inherit_translated(packet, decision, old);
	else
		ct4_inherit(packet, decision, old, old_reverse);
	decision->packets += 1;
	decision->bytes += packet->length;
	if (decision->flags & PODWIRE_CT_VIA_STACK)
		decision->delivery = PODWIRE_DELIVERY_STACK;
	/* Answers to a connection that was opened from outside keep the address it was opened to. */
	if (!(decision->flags & PODWIRE_CT_ORIGINAL))
		decision->flags &= ~PODWIRE_CT_MASQUERADE;
	/* One kind of message must not vouch for another. */
	if (cfg_policy && tuple4_is_ambiguous(&packet->tuple))
		decision->ifindex = PODWIRE_IFINDEX_UNDECIDED;

	/* Echo requests that have met netfilter take the replies with them. */
	return !old_reverse || packet_is_syn(packet) ||
	       (packet->tuple.protocol == IPPROTO_ICMP &&
		((old_reverse->flags ^ ct4_mode_flag()) & PODWIRE_CT_EBPF_ROUTING)) ||
	       ((packet->flags & PACKET_ICMP_ECHO) && (old_reverse->flags & PODWIRE_CT_ORIGINAL)) ||
	       ((decision->flags & PODWIRE_CT_VIA_STACK) && !(old_reverse->flags & PODWIRE_CT_VIA_STACK)) ||
	       (cfg_services && !ct4_answers_fit(&packet->tuple, decision, old, old_reverse));
}

/* Remember a completed decision, and with `answers` what its answers need. Returns 0 or a refusal. */
static __noinline int ct4_write(struct podwire_packet *packet, const struct podwire_ct4 *decision,
				const struct podwire_local4 *source, const struct podwire_local4 *destination,
				bool answers)
{
	struct podwire_tuple4 reversed;
	struct podwire_ct4 reverse;

	if (bpf_map_update_elem(&podwire_ct4, &packet->tuple, decision, BPF_ANY))
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	if (!answers)
		return 0;
	ct4_answers(&packet->tuple, decision, &reversed);
	ct4_reverse_decision(&packet->tuple, decision, source, destination, &reverse);
	if (bpf_map_update_elem(&podwire_ct4, &reversed, &reverse, BPF_ANY))
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	return 0;
}
