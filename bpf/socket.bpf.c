// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* bpf/socket.bpf.c - services, translated in the socket: attached to the node's control groups.
 *
 * A socket that connects to a frontend is connected to one of its backends instead, so its packets need no
 * translation at all. A datagram sent without connecting gets a backend when it is sent. Where the kernel
 * tells the address of the other end (recvmsg, getpeername), the frontend is shown again.
 *
 * What is no frontend is left alone; so is one without backends: the packet programs refuse it, which the
 * client hears from ICMP. No program here ever forbids anything.
 *
 * IPv6 sockets that talk IPv4 name addresses like ::ffff:192.0.2.1. The kernel sends their datagrams through
 * the IPv4 hook, so there is no program for sendmsg6. */
#include <linux/in.h>

#include "lib/common.h"
#include "lib/config.h"

#include "lib/service_socket.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define PROCEED 1

/* What a call names. Also how frontends are looked up. */
static __always_inline void destination4(const struct bpf_sock_addr *ctx, __be32 address,
					 struct podwire_service4_key *destination)
{
	destination->address = address;
	destination->port = ctx->user_port;
	destination->protocol = ctx->protocol;
	destination->pad = 0;
}

/* ::ffff:a.b.c.d */
static __always_inline bool mapped4(const struct bpf_sock_addr *ctx)
{
	return !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == bpf_htonl(0xffff);
}

SEC("cgroup/connect4")
int podwire_connect4(struct bpf_sock_addr *ctx)
{
	struct podwire_service4_key destination;
	struct podwire_choice4 backend;

	destination4(ctx, ctx->user_ip4, &destination);
	if (socket_connects(ctx, &destination, &backend)) {
		ctx->user_ip4 = backend.address;
		ctx->user_port = backend.port;
	}
	return PROCEED;
}

SEC("cgroup/connect6")
int podwire_connect6(struct bpf_sock_addr *ctx)
{
	struct podwire_service4_key destination;
	struct podwire_choice4 backend;

	if (!mapped4(ctx))
		return PROCEED;
	destination4(ctx, ctx->user_ip6[3], &destination);
	if (socket_connects(ctx, &destination, &backend)) {
		ctx->user_ip6[3] = backend.address;
		ctx->user_port = backend.port;
	}
	return PROCEED;
}

SEC("cgroup/sendmsg4")
int podwire_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct podwire_service4_key destination;
	struct podwire_choice4 backend;

	destination4(ctx, ctx->user_ip4, &destination);
	if (socket_sends(ctx, &destination, &backend)) {
		ctx->user_ip4 = backend.address;
		ctx->user_port = backend.port;
	}
	return PROCEED;
}

static __always_inline void show_frontend4(struct bpf_sock_addr *ctx)
{
	const struct podwire_sock_reverse4 *frontend =
		socket_frontend(ctx, ctx->user_ip4, ctx->user_port, ctx->protocol);

	if (frontend) {
		ctx->user_ip4 = frontend->address;
		ctx->user_port = frontend->port;
	}
}

static __always_inline void show_frontend6(struct bpf_sock_addr *ctx)
{
	const struct podwire_sock_reverse4 *frontend;

	if (!mapped4(ctx))
		return;
	frontend = socket_frontend(ctx, ctx->user_ip6[3], ctx->user_port, ctx->protocol);
	if (frontend) {
		ctx->user_ip6[3] = frontend->address;
		ctx->user_port = frontend->port;
	}
}

SEC("cgroup/recvmsg4")
int podwire_recvmsg4(struct bpf_sock_addr *ctx)
{
	show_frontend4(ctx);
	return PROCEED;
}

SEC("cgroup/recvmsg6")
int podwire_recvmsg6(struct bpf_sock_addr *ctx)
{
	show_frontend6(ctx);
	return PROCEED;
}

SEC("cgroup/getpeername4")
int podwire_getpeername4(struct bpf_sock_addr *ctx)
{
	show_frontend4(ctx);
	return PROCEED;
}

SEC("cgroup/getpeername6")
int podwire_getpeername6(struct bpf_sock_addr *ctx)
{
	show_frontend6(ctx);
	return PROCEED;
}
