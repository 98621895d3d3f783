/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/conclude.h - the end of the slow paths: a packet's way is known, so remember it and send the packet
 * along. Writes the conntrack table. */
#pragma once

#include "common.h"
#include "config.h"
#include "conntrack.h"
#include "delivery.h"
#include "icmp.h"
#include "local.h"
#include "parse.h"
#include "translate.h"

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
		decision->mtu = cfg_mtu;
		/* About what came in from the client, which knows the service's address. */
		if (decision->flags & PODWIRE_CT_TRANSLATED_BACK)
			decision->flags &= ~PODWIRE_CT_MASQUERADE;
		if (!(decision->flags & CT_ANY_TRANSLATION) && quoted4_via_stack(&quoted)) {
			decision->flags |= PODWIRE_CT_VIA_STACK;
			decision->delivery = PODWIRE_DELIVERY_STACK;
		}
	} else {
		ret = ct4_record(packet, decision, source, destination);
		if (ret)
			return ret;
	}
	return deliver_any4(skb, packet, decision);
}
