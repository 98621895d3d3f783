/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the loader's tests load: one program that counts, one map of each kind podwire uses. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct sample_key {
	__be32 address;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct sample_value {
	__u32 ifindex;
	__u8 mac[6];
	__u16 flags;
	union {
		__be32 peer4;
		__be32 peer6[4];
	};
	__u64 packets;
};

struct sample_prefix {
	__u32 prefix_len;
	__be32 address;
};

const volatile __be32 cfg_address = 0;
const volatile __u8 cfg_mac[6] = {};
const volatile __u32 cfg_verdict = 7;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct sample_key);
	__type(value, struct sample_value);
} sample_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sample_prefix);
	__type(value, struct sample_value);
} sample_lpm SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} sample_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} sample_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} sample_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__uint(key_size, sizeof(__u32));
			__uint(value_size, 16);
		});
} sample_tables SEC(".maps");

/* Refuses every connection of the control group that it is attached to, and counts them. */
SEC("cgroup/connect4")
int sample_connect4(struct bpf_sock_addr *ctx)
{
	__u32 counter = 4, *count = bpf_map_lookup_elem(&sample_array, &counter);

	if (count)
		__sync_fetch_and_add(count, 1);
	return ctx->user_port == 0xffff;
}

SEC("tc")
int sample_count(struct __sk_buff *skb)
{
	struct sample_key key = { .address = cfg_address, .port = 0x5000, .proto = 6 };
	struct sample_value fresh = { .ifindex = skb->ifindex };
	struct sample_value *value = bpf_map_lookup_elem(&sample_hash, &key);
	__u32 counter = 1;
	__u64 *count, one = 1;

	if (!value) {
		bpf_map_update_elem(&sample_hash, &key, &fresh, BPF_ANY);
		value = bpf_map_lookup_elem(&sample_hash, &key);
	}
	if (value) {
		value->packets++;
		value->peer4 = cfg_address;
		for (int i = 0; i < 6; i++)
			value->mac[i] = cfg_mac[i];
	}
	count = bpf_map_lookup_elem(&sample_counters, &counter);
	if (count)
		*count += 1;
	else
		bpf_map_update_elem(&sample_counters, &counter, &one, BPF_ANY);
	bpf_map_lookup_elem(&sample_lpm, &key);
	bpf_map_lookup_elem(&sample_array, &counter);
	bpf_ringbuf_output(&sample_events, &key, sizeof(key), 0);
	skb->mark = cfg_verdict;
	return cfg_verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
