/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_socket_map.h - what sockets believe to talk to, and what they really talk to. Written by
 * the socket programs. */
#pragma once

#include "common.h"

/* A socket and an address that it talks to. */
struct podwire_sock4_key {
	__u64 cookie; /* of the socket */
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 pad; /* always 0 */
};
ASSERT_SIZE(struct podwire_sock4_key, 16);

/* Socket and backend -> the frontend that it asked for. */
struct podwire_sock_reverse4 {
	__be32 address;
	__be16 port;
	__u16 pad;
	__u32 service; /* the frontend's; by it user space knows whose sockets to end when the backend leaves
			*/
};
ASSERT_SIZE(struct podwire_sock_reverse4, 12);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct podwire_sock4_key);
	__type(value, struct podwire_sock_reverse4);
} podwire_sock_reverse4 SEC(".maps");

/* Socket and frontend -> the backend that its datagrams go to. Only for sockets that are not connected: a
 * connected one knows its backend by itself. */
struct podwire_sock_forward4 {
	__u64 used; /* last datagram, nanoseconds, CLOCK_MONOTONIC */
	__u32 list; /* the list that the backend was found in; another one is a reason to look again */
	__be32 address;
	__be16 port;
	__u16 pad[3];
};
ASSERT_SIZE(struct podwire_sock_forward4, 24);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct podwire_sock4_key);
	__type(value, struct podwire_sock_forward4);
} podwire_sock_forward4 SEC(".maps");
