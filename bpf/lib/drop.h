/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/drop.h - the one place where a packet ends: counted, reported within the event rate, dropped. */
#pragma once

#include <linux/if_ether.h>

#include "common.h"
#include "config.h"
#include "conntrack_types.h"
#include "drop_reasons.h"
#include "event_budget.h"
#include "events.h"
#include "judgement.h"
#include "metrics.h"
#include "parse.h"

/* Packets from a pod and from the node leave a pod's point of view (egress), the others arrive (ingress). */
static __always_inline __u8 program_direction(__u8 program)
{
	return program == PODWIRE_PROGRAM_FROM_POD || program == PODWIRE_PROGRAM_TO_NETDEV
		       ? PODWIRE_DIRECTION_EGRESS
		       : PODWIRE_DIRECTION_INGRESS;
}

/* A policy's refusal has the direction of the end that refused: the other one lets the packet pass. */
static __always_inline __u8 drop_direction(const struct podwire_packet *packet)
{
	return packet->refused ? packet->refused : program_direction(packet->program);
}

/* Let the event of a packet that a policy refused say what was judged. */
static __always_inline void explain_refusal(struct podwire_event *event)
{
	const struct podwire_judgement *judgement = scratch_judgement();

	if (!judgement)
		return;
	*(__be32 *)event->source_address = judgement->source_address;
	*(__be32 *)event->destination_address = judgement->destination_address;
	event->source_port = judgement->source_port;
	event->destination_port = judgement->destination_port;
	event->source_identity = judgement->source_identity;
	event->destination_identity = judgement->destination_identity;
	event->rule = judgement->rule;
	event->policy = judgement->policy;
}

/* Report that a packet to a service opened a connection, and what `rewrite` makes of it. */
static __noinline int send_translate_event(struct __sk_buff *skb, const struct podwire_packet *packet,
					   const struct podwire_rewrite4 *rewrite, __u32 service)
{
	__u64 now = bpf_ktime_get_ns();
	struct podwire_event_budget *budget = event_budget(PODWIRE_BUDGET_TRANSLATE, now);
	struct podwire_translate_event *event;

	if (!budget)
		return 0;
	event = bpf_ringbuf_reserve(&podwire_events, sizeof(*event), 0);
	if (!event) {
		budget->suppressed++;
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->version = PODWIRE_EVENT_VERSION;
	event->type = PODWIRE_EVENT_TRANSLATE;
	event->direction = program_direction(packet->program);
	event->program = packet->program;
	event->family = 4;
	event->protocol = packet->tuple.protocol;
	event->ifindex = skb->ifindex;
	event->suppressed = budget->suppressed;
	event->timestamp = now;
	event->source_address = packet->tuple.source_address;
	event->destination_address = packet->tuple.destination_address;
	event->source_port = packet->tuple.source_port;
	event->destination_port = packet->tuple.destination_port;
	event->new_source_address = rewrite->source_address;
	event->new_destination_address = rewrite->destination_address;
	event->new_source_port = rewrite->source_port;
	event->new_destination_port = rewrite->destination_port;
	event->service = service;
	event->cpu = bpf_get_smp_processor_id();
	bpf_ringbuf_submit(event, 0);
	budget->sent++;
	budget->suppressed = 0;
	return 0;
}

static __always_inline void send_drop_event(struct __sk_buff *skb, const struct podwire_packet *packet,
					    __u8 reason)
{
	__u64 now = bpf_ktime_get_ns();
	struct podwire_event_budget *budget = event_budget(PODWIRE_BUDGET_DROP, now);
	struct podwire_event *event;

	if (!budget)
		return;
	event = bpf_ringbuf_reserve(&podwire_events, sizeof(*event), 0);
	if (!event) {
		budget->suppressed++;
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->version = PODWIRE_EVENT_VERSION;
	event->type = PODWIRE_EVENT_DROP;
	event->reason = reason;
	event->direction = drop_direction(packet);
	event->program = packet->program;
	event->line = packet->line;
	event->ether_type = bpf_ntohs(skb->protocol);
	event->ifindex = skb->ifindex;
	event->packet_length = skb->len;
	event->suppressed = budget->suppressed;
	event->timestamp = now;
	event->cpu = bpf_get_smp_processor_id();
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		event->family = 4;
		event->protocol = packet->tuple.protocol;
		*(__be32 *)event->source_address = packet->tuple.source_address;
		*(__be32 *)event->destination_address = packet->tuple.destination_address;
		event->source_port = packet->tuple.source_port;
		event->destination_port = packet->tuple.destination_port;
		if (packet->refused)
			explain_refusal(event);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		event->family = 6;
		/* Past the end of a short frame the fields stay 0. */
		bpf_skb_load_bytes(skb, ETH_HLEN + 6, &event->protocol, 1);
		bpf_skb_load_bytes(skb, ETH_HLEN + 8, event->source_address, 16);
		bpf_skb_load_bytes(skb, ETH_HLEN + 24, event->destination_address, 16);
	}
	bpf_ringbuf_submit(event, 0);
	budget->sent++;
	budget->suppressed = 0;
}

/* `refusal` is what refuse() returned. */
static __noinline int drop(struct __sk_buff *skb, const struct podwire_packet *packet, int refusal)
{
	__u8 reason = -refusal;

	count_drop(reason, drop_direction(packet), skb->len);
	if (cfg_event_rate)
		send_drop_event(skb, packet, reason);
	return TC_ACT_SHOT;
}
