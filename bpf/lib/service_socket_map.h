/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_socket_map.h - what sockets believe to talk to. A socket whose destination was translated
 * finds here, for the backend it really talks to, the frontend that it asked for. Written by the socket
 * programs. */
#pragma once

#include "common.h"

struct podwire_sock_reverse4_key {
	__u64 cookie; /* of the socket */
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 pad; /* always 0 */
};
ASSERT_SIZE(struct podwire_sock_reverse4_key, 16);

struct podwire_sock_reverse4 {
	__be32 address;
	__be16 port;
	__u16 pad;
};
ASSERT_SIZE(struct podwire_sock_reverse4, 8);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct podwire_sock_reverse4_key);
	__type(value, struct podwire_sock_reverse4);
} podwire_sock_reverse4 SEC(".maps");
