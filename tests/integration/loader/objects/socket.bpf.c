/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stand-in for the programs of sockets: connections are counted, and the tables are there. */
#include "standin.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__uint(key_size, sizeof(__u32));
			__uint(value_size, 2 * 16381);
		});
} podwire_maglev SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} podwire_sockets SEC(".maps");

static __always_inline int count_call(__u32 hook)
{
	struct standin_count *found = bpf_map_lookup_elem(&podwire_counts, &hook);

	bpf_map_lookup_elem(&podwire_maglev, &hook);
	bpf_map_lookup_elem(&podwire_sockets, &hook);
	if (found) {
		__sync_fetch_and_add(&found->packets, 1);
		found->generation = GENERATION;
	}
	return 1;
}

#define PROGRAM(hook, number)                                                 \
	SEC("cgroup/" #hook)                                                  \
	int podwire_##hook(struct bpf_sock_addr *ctx __attribute__((unused))) \
	{                                                                     \
		return count_call(number);                                    \
	}

PROGRAM(connect4, 5)
PROGRAM(connect6, 6)
PROGRAM(sendmsg4, 7)
PROGRAM(recvmsg4, 7)
PROGRAM(recvmsg6, 7)
PROGRAM(getpeername4, 7)
PROGRAM(getpeername6, 7)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
