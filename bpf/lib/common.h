/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/common.h - what every other header needs: kernel types, helpers, small macros. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_ALEN 6
#define ETH_HLEN 14

/* Layouts that user space reads are fixed: a change must be a decision, never an accident of padding. */
#define ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "layout shared with user space")

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Structs whose only users are map values or ring-buffer records would not reach the object's BTF as
 * complete types otherwise; user space finds layouts and enum values there by name. */
#define EXPORT_TYPE(type, name) type *podwire_export_##name __attribute__((unused))

/* Nanoseconds between two readings of the clock; negative when another CPU wrote `since` after this one read
 * `now`. */
static __always_inline __s64 elapsed(__u64 since, __u64 now)
{
	return (__s64)(now - since);
}

/* Start and end of the linear part. Loaded by hand: left to itself the compiler shares or widens these loads
 * across branches, and the verifier no longer recognises the pointers. */
static __always_inline void *packet_data(const struct __sk_buff *skb)
{
	void *pointer;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(pointer)
		     : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return pointer;
}

static __always_inline void *packet_end(const struct __sk_buff *skb)
{
	void *pointer;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(pointer)
		     : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return pointer;
}
