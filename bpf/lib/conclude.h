/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/conclude.h - the end of the slow paths: a packet's way is known, so ask the policies, remember it
 * and send the packet along. Writes the conntrack table. */
#pragma once

#include "common.h"
#include "config.h"
#include "conntrack.h"
#include "delivery.h"
#include "icmp.h"
#include "local.h"
#include "parse.h"
#include "policy.h"
#include "scratch.h"
#include "translate.h"

/* Remember a decision if the policies of both ends allow the flow. A packet that is refused leaves nothing
 * behind: no entry, and no entry younger. Returns 0 or a refusal. */
static __always_inline int record4(struct __sk_buff *skb, struct podwire_packet *packet,
				   struct podwire_ct4 *decision, const struct podwire_local4 *source,
				   const struct podwire_local4 *destination)
{
	bool answers = ct4_complete(packet, decision, source, destination);
	int ret;

	/* What answers an allowed packet needs no permission of its own. */
	if ((decision->flags & PODWIRE_CT_ORIGINAL) && policy4_applies(source, destination)) {
		ret = policy4_judge(skb, packet, decision, source, destination);
		if (ret)
			return ret;
	}
	return ct4_write(packet, decision, source, destination, answers);
}

/* The caller has decided: ifindex, delivery and its parameters, flags. Returns a verdict or a refusal. */
static __always_inline int conclude4(struct __sk_buff *skb, struct podwire_packet *packet,
				     struct podwire_ct4 *decision, const struct podwire_local4 *source,
				     const struct podwire_local4 *destination)
{
	int ret;

	if (packet->flags & PACKET_ICMP_ERROR) {
		struct podwire_quoted4 quoted;

		/* Belongs to the connection it quotes, and makes none of its own. */
		ret = quoted4_read(skb, packet, &quoted);
		if (ret)
			return ret;
		if (policy4_applies(source, destination) && !policy4_related(packet, &quoted)) {
			ret = policy4_judge(skb, packet, decision, source, destination);
			if (ret)
				return ret;
		}
		decision->mtu = cfg_mtu;
		/* About what came in from the client, which knows the service's address. */
		if (decision->flags & PODWIRE_CT_TRANSLATED_BACK)
			decision->flags &= ~PODWIRE_CT_MASQUERADE;
		if (!(decision->flags & CT_ANY_TRANSLATION) && quoted4_via_stack(&quoted)) {
			decision->flags |= PODWIRE_CT_VIA_STACK;
			decision->delivery = PODWIRE_DELIVERY_STACK;
		}
	} else {
		ret = record4(skb, packet, decision, source, destination);
		if (ret)
			return ret;
	}
	return deliver_any4(skb, packet, decision);
}

/* An ICMP error out of the stack, which makes no decision. Returns 0 or a refusal. */
static __always_inline int conclude_error4(struct __sk_buff *skb, struct podwire_packet *packet,
					   const struct podwire_quoted4 *quoted,
					   const struct podwire_local4 *source,
					   const struct podwire_local4 *destination)
{
	struct podwire_ct4 *decision = scratch_decision();

	if (!decision)
		return refuse(packet, PODWIRE_DROP_CT_INSERT_FAILED);
	if (!policy4_applies(source, destination) || policy4_related(packet, quoted))
		return 0;
	return policy4_judge(skb, packet, decision, source, destination);
}
