/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stand-in for the endpoint programs: names and constants as in bpf/, behaviour reduced to counting. */
#include "standin.h"

SEC("tc")
int podwire_from_pod(struct __sk_buff *skb)
{
	return count(skb, 1);
}

SEC("tc")
int podwire_to_pod(struct __sk_buff *skb)
{
	return count(skb, 2);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
