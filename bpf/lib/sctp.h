/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/sctp.h - SCTP's checksum, a CRC32c over the whole packet, after a port was changed. Nothing but the
 * checksum is read: a CRC is linear, so what changes is the CRC of the difference alone, which is zero but
 * for two bytes. The zeros behind them multiply a polynomial by a power of x. */
#pragma once

#include "common.h"
#include "parse.h"

#define CRC32C_POLYNOMIAL 0x82f63b78U /* x^31 is the lowest bit */
#define CRC32C_ONE	  0x80000000U
#define SCTP_CHECKSUM	  8 /* offset */

/* Product of two polynomials modulo CRC32c's. Not static: the verifier then looks at it once, not at each
 * call. */
__attribute__((noinline)) __u32 podwire_crc32c_multiply(__u32 one, __u32 other)
{
	__u32 product = 0;
	int i;

	/* Neither branches nor masks of one bit: the verifier follows both values of each. */
#pragma unroll
	for (i = 31; i >= 0; i--) {
		product ^= other * ((one >> i) & 1);
		other = (other >> 1) ^ (CRC32C_POLYNOMIAL * (other & 1));
	}
	return product;
}

/* `remainder` times x^(8 * bytes): what becomes of it when so many zero bytes follow. */
static __always_inline __u32 crc32c_zeros(__u32 remainder, __u32 bytes)
{
	/* x^(8 * 2^k) for each bit k of a packet's length */
#define ZEROS(k, power) \
	remainder = podwire_crc32c_multiply(remainder, bytes & (1U << (k)) ? (power) : CRC32C_ONE)
	ZEROS(0, 0x00800000U);
	ZEROS(1, 0x00008000U);
	ZEROS(2, 0x82f63b78U);
	ZEROS(3, 0x6ea2d55cU);
	ZEROS(4, 0x18b8ea18U);
	ZEROS(5, 0x510ac59aU);
	ZEROS(6, 0xb82be955U);
	ZEROS(7, 0xb8fdb1e7U);
	ZEROS(8, 0x88e56f72U);
	ZEROS(9, 0x74c360a4U);
	ZEROS(10, 0xe4172b16U);
	ZEROS(11, 0x0d65762aU);
	ZEROS(12, 0x35d73a62U);
	ZEROS(13, 0x28461564U);
	ZEROS(14, 0xbf455269U);
	ZEROS(15, 0xe2ea32dcU);
#undef ZEROS
	return remainder;
}

/* Make the checksum right for a packet whose source or destination port becomes another. Returns 0 or a
 * refusal. */
static __always_inline int sctp_replace_port(struct __sk_buff *skb, struct podwire_packet *packet,
					     __be16 from, __be16 to, bool destination)
{
	__u32 length = packet->length + ETH_HLEN - packet->l4_offset;
	__u32 field = packet->l4_offset + SCTP_CHECKSUM;
	__u32 checksum;

	/* The first fragment does not tell how much follows. */
	if (packet->flags & PACKET_FIRST_FRAGMENT)
		return refuse(packet, PODWIRE_DROP_NAT_UNSUPPORTED_PROTOCOL);
	if (bpf_skb_load_bytes(skb, field, &checksum, sizeof(checksum)))
		return refuse(packet, PODWIRE_DROP_CT_INVALID_HEADER);
	/* Left for the device to compute. */
	if (!checksum)
		return 0;
	/* Little-endian, as the machines that this runs on: the first byte of a port is the lower one here.
	 */
	checksum ^= crc32c_zeros((__u16)(from ^ to), length - (destination ? 2 : 0));
	if (bpf_skb_store_bytes(skb, field, &checksum, sizeof(checksum), 0))
		return refuse(packet, PODWIRE_DROP_WRITE_ERROR);
	return 0;
}
