/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_socket.h - which backend a socket gets for a frontend. Remembers it in the tables of
 * sockets. */
#pragma once

#include "common.h"
#include "config.h"
#include "direction.h"
#include "event_budget.h"
#include "events.h"
#include "service.h"
#include "service_socket_map.h"

/* A socket that sends datagrams without connecting keeps its backend until it was silent for this long. */
#define SOCKET_IDLE_NANOSECONDS (120ULL * 1000000000)

/* The kernel's first network namespace stands for the host's where user space could not learn the cookie. */
static __always_inline bool socket_of_host(struct bpf_sock_addr *ctx)
{
	__u64 host = cfg_host_netns_cookie ? cfg_host_netns_cookie : bpf_get_netns_cookie(NULL);

	return bpf_get_netns_cookie(ctx) == host;
}

/* 0.0.0.0 as a destination means this host, too. */
static __always_inline bool is_loopback4(__be32 address)
{
	return !address || (address & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

static __always_inline bool is_node_port(__be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= cfg_node_port_min && number <= cfg_node_port_max;
}

/* The frontend that a destination means, and its key. Every namespace has its own loopback addresses, and
 * only the host's lead to node ports and host ports. */
static __always_inline const struct podwire_service4 *
socket_service(struct bpf_sock_addr *ctx, const struct podwire_service4_key *destination,
	       struct podwire_service4_key *key)
{
	const struct podwire_service4 *service;
	bool loopback = is_loopback4(destination->address);

	if (loopback && !socket_of_host(ctx))
		return NULL;
	/* The host's own packets to its own addresses meet no packet program, so its host ports are found
	 * here. */
	if (!loopback && (is_node_port(destination->port) || socket_of_host(ctx)))
		return service4_find(destination->address, destination->port, destination->protocol, key);
	*key = *destination;
	service = service4_lookup(key);
	if (service || !loopback)
		return service;
	key->address = 0;
	return service4_lookup(key);
}

/* The same, if the socket may have one of its backends. Source ranges name addresses: the host's own is
 * known; a pod's is known to the packet programs, so pods' connections are left to them. */
static __always_inline const struct podwire_service4 *
socket_usable(struct bpf_sock_addr *ctx, const struct podwire_service4_key *destination,
	      struct podwire_service4_key *key)
{
	const struct podwire_service4 *service = socket_service(ctx, destination, key);

	if (!service || !service->count)
		return NULL;
	if ((service->flags & PODWIRE_SERVICE_SOURCE_RANGES) &&
	    !(socket_of_host(ctx) && source_range4_allows(service->id, cfg_node_ip4)))
		return NULL;
	return service;
}

static __always_inline bool socket_pick(struct bpf_sock_addr *ctx, const struct podwire_service4_key *key,
					struct podwire_choice4 *choice)
{
	struct podwire_client4 client = {
		.id = bpf_get_netns_cookie(ctx),
		.kind = PODWIRE_AFFINITY_NETNS,
		.index = SERVICE_INDEX_RANDOM,
	};

	return service4_pick(key, &client, choice) == PODWIRE_PICK_OK;
}

/* What the socket must be shown in place of the backend. */
static __always_inline void remember_frontend(struct podwire_sock4_key *socket,
					      const struct podwire_service4_key *frontend,
					      const struct podwire_choice4 *backend)
{
	struct podwire_sock_reverse4 fresh = { .address = frontend->address,
					       .port = frontend->port,
					       .service = backend->service };
	const struct podwire_sock_reverse4 *known;

	socket->address = backend->address;
	socket->port = backend->port;
	known = bpf_map_lookup_elem(&podwire_sock_reverse4, socket);
	if (!known || known->address != fresh.address || known->port != fresh.port ||
	    known->service != fresh.service)
		bpf_map_update_elem(&podwire_sock_reverse4, socket, &fresh, BPF_ANY);
}

/* The socket means `destination` itself now, not a frontend that it stood for. */
static __always_inline void forget_frontend(struct podwire_sock4_key *socket)
{
	if (bpf_map_lookup_elem(&podwire_sock_reverse4, socket))
		bpf_map_delete_elem(&podwire_sock_reverse4, socket);
}

static __always_inline void sock4_key(struct bpf_sock_addr *ctx, __be32 address, __be16 port, __u8 protocol,
				      struct podwire_sock4_key *key)
{
	key->cookie = bpf_get_socket_cookie(ctx);
	key->address = address;
	key->port = port;
	key->protocol = protocol;
	key->pad = 0;
}

/* Report that a socket asked for a frontend and got a backend. */
static __noinline int send_socket_event(struct bpf_sock_addr *ctx, __u8 program,
					const struct podwire_service4_key *frontend,
					const struct podwire_choice4 *backend)
{
	__u64 now = bpf_ktime_get_ns();
	struct podwire_event_budget *budget = event_budget(PODWIRE_BUDGET_TRANSLATE, now);
	struct podwire_translate_event *event;
	const struct bpf_sock *socket = ctx->sk;

	if (!budget)
		return 0;
	event = bpf_ringbuf_reserve(&podwire_events, sizeof(*event), 0);
	if (!event) {
		budget->suppressed++;
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->version = PODWIRE_EVENT_VERSION;
	event->type = PODWIRE_EVENT_TRANSLATE;
	event->direction = PODWIRE_DIRECTION_EGRESS;
	event->program = program;
	event->family = 4;
	event->protocol = frontend->protocol;
	event->suppressed = budget->suppressed;
	event->timestamp = now;
	if (socket) {
		event->source_address = socket->src_ip4;
		event->source_port = bpf_htons(socket->src_port);
	}
	event->destination_address = frontend->address;
	event->destination_port = frontend->port;
	event->new_source_address = event->source_address;
	event->new_source_port = event->source_port;
	event->new_destination_address = backend->address;
	event->new_destination_port = backend->port;
	event->service = backend->service;
	event->cpu = bpf_get_smp_processor_id();
	bpf_ringbuf_submit(event, 0);
	budget->sent++;
	budget->suppressed = 0;
	return 0;
}

/* A socket connects. True: to `backend` instead of `destination`. */
static __always_inline bool socket_connects(struct bpf_sock_addr *ctx,
					    const struct podwire_service4_key *destination,
					    struct podwire_choice4 *backend)
{
	struct podwire_service4_key key;
	const struct podwire_service4 *service;
	struct podwire_sock4_key socket;

	if (destination->protocol != IPPROTO_TCP && destination->protocol != IPPROTO_UDP)
		return false;
	service = socket_usable(ctx, destination, &key);
	if (service && socket_pick(ctx, &key, backend)) {
		sock4_key(ctx, 0, 0, destination->protocol, &socket);
		remember_frontend(&socket, destination, backend);
		send_socket_event(ctx, PODWIRE_PROGRAM_CONNECT, destination, backend);
		return true;
	}
	/* A stream connects once, a datagram socket as often as it likes. */
	if (destination->protocol == IPPROTO_UDP) {
		sock4_key(ctx, destination->address, destination->port, destination->protocol, &socket);
		forget_frontend(&socket);
	}
	return false;
}

static __always_inline bool service4_has(__u32 service, const struct podwire_choice4 *backend)
{
	struct podwire_affinity_backend4_key member = { .service = service,
							.address = backend->address,
							.port = backend->port };

	return bpf_map_lookup_elem(&podwire_affinity_backends4, &member);
}

/* The backend that the socket's datagrams to this frontend go to: the one they went to before, as long as the
 * service has it. */
static __always_inline bool backend4_keep(const struct podwire_service4 *service,
					  const struct podwire_sock4_key *socket, __u64 now,
					  struct podwire_choice4 *backend)
{
	struct podwire_sock_forward4 *last = bpf_map_lookup_elem(&podwire_sock_forward4, socket);

	if (!last || elapsed(last->used, now) > (__s64)SOCKET_IDLE_NANOSECONDS)
		return false;
	backend->address = last->address;
	backend->port = last->port;
	if (last->list != service->list) {
		if (!service4_has(service->id, backend))
			return false;
		last->list = service->list;
	}
	backend->service = service->id;
	last->used = now;
	return true;
}

/* A connected socket may still name an address with each datagram, and hears from nobody but its other end.
 * True: the datagram goes there, which is `backend`. */
static __always_inline bool socket_is_connected_to(struct bpf_sock_addr *ctx,
						   const struct podwire_service4_key *destination,
						   struct podwire_choice4 *backend)
{
	const struct podwire_sock_reverse4 *frontend;
	const struct bpf_sock *socket = ctx->sk;
	struct podwire_sock4_key key;

	if (!socket || socket->state != BPF_TCP_ESTABLISHED)
		return false;
	backend->address = socket->dst_ip4;
	backend->port = socket->dst_port;
	/* An IPv6 socket that is connected to an IPv4 address does so by itself. */
	if (backend->address == destination->address && backend->port == destination->port)
		return true;
	sock4_key(ctx, backend->address, backend->port, destination->protocol, &key);
	frontend = bpf_map_lookup_elem(&podwire_sock_reverse4, &key);
	return frontend && frontend->address == destination->address && frontend->port == destination->port;
}

/* A socket sends a datagram. True: to `backend` instead of `destination`. */
static __always_inline bool socket_sends(struct bpf_sock_addr *ctx,
					 const struct podwire_service4_key *destination,
					 struct podwire_choice4 *backend)
{
	struct podwire_service4_key key;
	const struct podwire_service4 *service;
	struct podwire_sock_forward4 fresh = {};
	struct podwire_sock4_key socket;

	if (destination->protocol != IPPROTO_UDP)
		return false;
	if (socket_is_connected_to(ctx, destination, backend))
		return true;
	sock4_key(ctx, destination->address, destination->port, destination->protocol, &socket);
	service = socket_usable(ctx, destination, &key);
	if (!service) {
		forget_frontend(&socket);
		return false;
	}
	fresh.used = bpf_ktime_get_ns();
	if (!backend4_keep(service, &socket, fresh.used, backend)) {
		fresh.list = service->list;
		if (!socket_pick(ctx, &key, backend))
			return false;
		fresh.address = backend->address;
		fresh.port = backend->port;
		bpf_map_update_elem(&podwire_sock_forward4, &socket, &fresh, BPF_ANY);
		send_socket_event(ctx, PODWIRE_PROGRAM_SENDMSG, destination, backend);
	}
	remember_frontend(&socket, destination, backend);
	return true;
}

/* What the socket asked for when it got this other end; NULL when that is what it asked for. */
static __always_inline const struct podwire_sock_reverse4 *
socket_frontend(struct bpf_sock_addr *ctx, __be32 address, __be16 port, __u8 protocol)
{
	struct podwire_sock4_key socket;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return NULL;
	sock4_key(ctx, address, port, protocol, &socket);
	return bpf_map_lookup_elem(&podwire_sock_reverse4, &socket);
}
