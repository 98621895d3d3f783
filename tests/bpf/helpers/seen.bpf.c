// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Lets a test run begin as if an earlier program had seen the packet: test runs cannot set tc_index
 * themselves. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 cfg_seen = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

SEC("tc")
int seen_before(struct __sk_buff *skb)
{
	skb->tc_index = cfg_seen;
	bpf_tail_call(skb, &under_test, 0);
	return -100;
}
