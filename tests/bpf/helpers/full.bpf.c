// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Stand-ins with the datapath's layouts that, unlike its LRU tables, refuse what does not fit. */
#include "lib/config.h"
#include "lib/conntrack_types.h"
#include "lib/nat_map.h"

char _license[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct podwire_tuple4);
	__type(value, struct podwire_ct4);
} full_ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct podwire_tuple4);
	__type(value, struct podwire_nat4);
} full_nat4 SEC(".maps");

SEC("tc")
int keep_maps(struct __sk_buff *skb)
{
	struct podwire_tuple4 key = {};

	return skb->len && (bpf_map_lookup_elem(&full_ct4, &key) || bpf_map_lookup_elem(&full_nat4, &key));
}
