/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service.h - is an address and port a service's frontend, and which backend does a client get?
 * Shared by packet and socket programs. Reads the service maps, endpoints and the ipcache; writes affinity.
 */
#pragma once

#include "common.h"
#include "endpoints.h"
#include "ipcache.h"
#include "service_map.h"

/* struct podwire_client4's index: pick at random. */
#define SERVICE_INDEX_RANDOM 0xffffffffU

#define SERVICE_NANOSECONDS_PER_SECOND 1000000000LL

enum podwire_pick {
	PODWIRE_PICK_OK = 0,
	PODWIRE_PICK_NO_SERVICE = 1, /* the frontend is gone */
	PODWIRE_PICK_NO_BACKEND = 2,
	PODWIRE_PICK_LIST_GONE = 3, /* the frontend's list lacks the backend: it is being replaced */
};

struct podwire_client4 {
	__u64 id;      /* whom affinity remembers: see `kind` */
	__u32 kind;    /* PODWIRE_AFFINITY_ADDRESS or PODWIRE_AFFINITY_NETNS */
	__u32 index;   /* SERVICE_INDEX_RANDOM, or which backend of the list */
	bool external; /* outside of the cluster: the external list */
};

struct podwire_choice4 {
	__be32 address; /* of the backend */
	__be16 port;
	__u16 flags;   /* enum podwire_service_flags, of the service */
	__u32 service; /* its id */
};

static __always_inline const struct podwire_service4 *service4_lookup(const struct podwire_service4_key *key)
{
	return bpf_map_lookup_elem(&podwire_services4, key);
}

/* The frontend that a client means by address and port, and its key. A node port is one on every node's
 * addresses, with two exceptions: a host port is one on its own node's, and with externalTrafficPolicy: Local
 * the other node must choose, because it knows what is local there. */
static __noinline const struct podwire_service4 *service4_find(__be32 address, __be16 port, __u8 protocol,
							       struct podwire_service4_key *key)
{
	const struct podwire_service4 *service;
	const struct podwire_endpoint4 *endpoint;
	const struct podwire_ipcache4 *known;
	bool other = false;

	__builtin_memset(key, 0, sizeof(*key));
	key->address = address;
	key->port = port;
	key->protocol = protocol;
	service = service4_lookup(key);
	if (service)
		return service;
	endpoint = endpoint4_lookup(address);
	if (endpoint) {
		if (!(endpoint->flags & PODWIRE_ENDPOINT_HOST))
			return NULL;
	} else {
		known = ipcache4_lookup(address);
		if (!known || !(known->flags & PODWIRE_IPCACHE_NODE))
			return NULL;
		other = true;
	}
	key->address = 0;
	service = service4_lookup(key);
	if (service && other &&
	    (service->flags & (PODWIRE_SERVICE_HOST_PORT | PODWIRE_SERVICE_EXTERNAL_LOCAL)))
		return NULL;
	return service;
}

static __always_inline __u32 affinity_kind(const struct podwire_service4 *service,
					   const struct podwire_client4 *client)
{
	if (client->external && service->list != service->external_list)
		return PODWIRE_AFFINITY_EXTERNAL;
	return client->kind;
}

/* The backend this client had before, if it may still have it. */
static __always_inline bool affinity4_recall(const struct podwire_affinity4_key *key, __u32 seconds,
					     struct podwire_choice4 *choice)
{
	struct podwire_affinity4 *before = bpf_map_lookup_elem(&podwire_affinity4, key);
	struct podwire_affinity_backend4_key member = { .service = key->service };
	__u64 now;

	if (!before)
		return false;
	now = bpf_ktime_get_ns();
	if (elapsed(before->used, now) > seconds * SERVICE_NANOSECONDS_PER_SECOND)
		return false;
	member.address = before->address;
	member.port = before->port;
	if (!bpf_map_lookup_elem(&podwire_affinity_backends4, &member))
		return false;
	before->used = now;
	choice->address = member.address;
	choice->port = member.port;
	return true;
}

static __always_inline void affinity4_remember(const struct podwire_affinity4_key *key,
					       const struct podwire_choice4 *choice)
{
	struct podwire_affinity4 value = {
		.used = bpf_ktime_get_ns(),
		.address = choice->address,
		.port = choice->port,
	};

	/* A failure costs this client its affinity, not its connection. */
	bpf_map_update_elem(&podwire_affinity4, key, &value, BPF_ANY);
}

/* One attempt of service4_pick(). */
static __noinline int service4_try(const struct podwire_service4_key *key,
				   const struct podwire_client4 *client, struct podwire_choice4 *choice)
{
	const struct podwire_service4 *service = service4_lookup(key);
	const struct podwire_backend4 *backend;
	struct podwire_affinity4_key affinity;
	struct podwire_backend4_key slot;
	__u32 count, index;

	if (!service)
		return PODWIRE_PICK_NO_SERVICE;
	choice->service = service->id;
	choice->flags = service->flags;
	slot.list = client->external ? service->external_list : service->list;
	count = client->external ? service->external_count : service->count;
	if (!count)
		return PODWIRE_PICK_NO_BACKEND;
	affinity.client = client->id;
	affinity.service = service->id;
	affinity.kind = affinity_kind(service, client);
	if (service->affinity_seconds && affinity4_recall(&affinity, service->affinity_seconds, choice))
		return PODWIRE_PICK_OK;
	index = client->index == SERVICE_INDEX_RANDOM ? bpf_get_prandom_u32() : client->index;
	slot.index = index % count;
	backend = bpf_map_lookup_elem(&podwire_backends4, &slot);
	if (!backend)
		return PODWIRE_PICK_LIST_GONE;
	choice->address = backend->address;
	choice->port = backend->port;
	if (service->affinity_seconds)
		affinity4_remember(&affinity, choice);
	return PODWIRE_PICK_OK;
}

/* Choose a backend of the frontend `key` for `client`. Returns an enum podwire_pick; `choice` names the
 * service unless that is NO_SERVICE. */
static __always_inline int service4_pick(const struct podwire_service4_key *key,
					 const struct podwire_client4 *client, struct podwire_choice4 *choice)
{
	int picked = service4_try(key, client, choice);

	/* The list was replaced and deleted between two lookups: by now the frontend names the new one. */
	return picked == PODWIRE_PICK_LIST_GONE ? service4_try(key, client, choice) : picked;
}

/* May the client use a service with PODWIRE_SERVICE_SOURCE_RANGES? */
static __always_inline bool source_range4_allows(__u32 service, __be32 client)
{
	struct podwire_source_range4_key key = { .prefix_length = 64, .service = service, .address = client };

	return bpf_map_lookup_elem(&podwire_source_ranges4, &key);
}
