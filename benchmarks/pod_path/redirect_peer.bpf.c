/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* benchmarks/pod_path/redirect_peer.bpf.c - the yardstick: a program that only calls bpf_redirect_peer.
 * No parsing, no conntrack, no policy: what a pod-to-pod path on one node costs at least. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

/* Host-side veth of the other pod. */
const volatile __u32 cfg_peer_ifindex = 0;

SEC("tc")
int redirect_peer(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_redirect_peer(cfg_peer_ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
