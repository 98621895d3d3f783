/* SPDX-License-Identifier: Apache-2.0 */
/* cni/text.h - a growing byte buffer and JSON escaping. Running out of memory ends the program: there is
 * nothing sensible left to do, and the runtime repeats the call. */
#ifndef PODWIRE_CNI_TEXT_H
#define PODWIRE_CNI_TEXT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
	char *at;
	size_t len;
	size_t size;
};

static inline void text_reserve(struct text *t, size_t more)
{
	size_t size = t->size ? t->size : 4096;

	while (size < t->len + more + 1)
		size *= 2;
	if (size == t->size)
		return;
	t->at = realloc(t->at, size);
	if (!t->at) {
		fputs("podwire-cni: out of memory\n", stderr);
		exit(1);
	}
	t->size = size;
}

static inline void text_add(struct text *t, const char *bytes, size_t len)
{
	text_reserve(t, len);
	memcpy(t->at + t->len, bytes, len);
	t->len += len;
	t->at[t->len] = '\0';
}

static inline void text_str(struct text *t, const char *s)
{
	text_add(t, s, strlen(s));
}

/* Append `s` as a JSON string, quotes included. Bytes that are not ASCII pass: the agent checks the encoding.
 */
static inline void text_json(struct text *t, const char *s)
{
	text_str(t, "\"");
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;
		char escape[8];

		if (ch == '"' || ch == '\\') {
			escape[0] = '\\';
			escape[1] = (char)ch;
			text_add(t, escape, 2);
		} else if (ch < 0x20 || ch == 0x7f) {
			snprintf(escape, sizeof(escape), "\\u%04x", ch);
			text_str(t, escape);
		} else {
			text_add(t, s, 1);
		}
	}
	text_str(t, "\"");
}

#endif
