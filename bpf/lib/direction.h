/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bpf/lib/direction.h - which way something goes, as counters and events say it. */
#pragma once

#include "common.h"

enum podwire_direction {
	PODWIRE_DIRECTION_INGRESS = 1, /* towards a pod */
	PODWIRE_DIRECTION_EGRESS = 2,  /* away from a pod */
};

EXPORT_TYPE(enum podwire_direction, direction);
