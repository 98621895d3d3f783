/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stand-in for the programs of the node's devices. */
#include "standin.h"

SEC("tc")
int podwire_from_netdev(struct __sk_buff *skb)
{
	return count(skb, 3);
}

SEC("tc")
int podwire_to_netdev(struct __sk_buff *skb)
{
	return count(skb, 4);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
