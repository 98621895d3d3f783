/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/service_maglev_map.h - Maglev tables: external_list -> an array with one element, the table: as
 * many 16-bit indexes into the list as cfg_maglev_size says. User space makes the value of the inner map that
 * large before the load, and writes a list's table before a frontend points to the list. */
#pragma once

#include "common.h"

/* The default; a prime that is larger than a hundred times the backends. */
#define PODWIRE_MAGLEV_SIZE 16381

struct podwire_maglev_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, PODWIRE_MAGLEV_SIZE * sizeof(__u16));
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(__u32)); /* list */
	__array(values, struct podwire_maglev_table);
} podwire_maglev SEC(".maps");
