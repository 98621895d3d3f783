/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/config.h - load-time constants, one set per node, never per endpoint.
 * User space writes them into .rodata before the load; the verifier then removes what is off. */
#pragma once

#include "common.h"

enum podwire_host_routing {
	PODWIRE_HOST_ROUTING_LEGACY = 0, /* every packet crosses the host's stack and its netfilter hooks */
	PODWIRE_HOST_ROUTING_EBPF = 1,	 /* bpf_redirect_peer and bpf_redirect_neigh */
};

/* How packets are delivered: enum podwire_host_routing. */
const volatile __u32 cfg_host_routing = PODWIRE_HOST_ROUTING_LEGACY;
/* The node's own address, network order: source of masqueraded packets, unless podwire_masquerade4 names
 * another for the device. */
const volatile __be32 cfg_node_ip4 = 0;
/* The pods' gateway, network order (169.254.1.1): ARP requests for it are answered in place. */
const volatile __be32 cfg_gateway_ip4 = 0;
/* MAC address of every host-side veth: the gateway's MAC address as pods see it. */
const volatile __u8 cfg_host_mac[ETH_ALEN] __attribute__((aligned(4))) = { 0 };
/* Ports and ICMP ids that masqueraded flows use, host order, both included. The host must not use them:
 * the range lies above Linux' own ephemeral ports (32768 to 60999) and above node ports. */
const volatile __u16 cfg_nat_port_min = 61000;
const volatile __u16 cfg_nat_port_max = 65535;
/* Bytes of the largest IP packet that pods and the node's devices carry. Larger ones go to the stack, which
 * answers "fragmentation needed" or fragments. */
const volatile __u32 cfg_mtu = 1500;
/* 1: packets from pods to destinations outside the cluster leave with the node's address. */
const volatile __u8 cfg_masquerade = 1;
/* 1: endpoints' policies are enforced. After switching it on, every slot's revision must be bumped. */
const volatile __u8 cfg_policy = 1;
/* Drop events per second and CPU; 0 sends none. The counters always count. */
const volatile __u32 cfg_event_rate = 100;

/* 1: the datapath translates services; 0: that is kube-proxy's business, and nothing below matters. */
const volatile __u8 cfg_services = 0;
/* Node ports, host order, both included. */
const volatile __u16 cfg_node_port_min = 30000;
const volatile __u16 cfg_node_port_max = 32767;
/* Cookie of the host's network namespace: what sockets of the host and of host-network pods belong to. */
const volatile __u64 cfg_host_netns_cookie = 0;
/* Entries of each Maglev table (a prime); the inner map's value has twice as many bytes. */
const volatile __u32 cfg_maglev_size = 16381;
/* 1: backends on other nodes answer clients outside directly; 0: through this node. */
const volatile __u8 cfg_dsr = 0;

static __always_inline bool ebpf_host_routing(void)
{
	return cfg_host_routing == PODWIRE_HOST_ROUTING_EBPF;
}

/* Not memcpy: dropping `volatile` would make the compiler use the zeros it sees here. */
static __always_inline void host_mac_to(void *mac)
{
	const volatile __u16 *from = (const volatile __u16 *)cfg_host_mac;
	__u16 *to = mac;

	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}
