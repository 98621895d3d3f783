/* SPDX-License-Identifier: Apache-2.0 */
/* cni/json.h - just enough JSON for the CNI client: is this text one JSON object, and what are a few of its
 * top-level members? Nothing is copied or allocated; the text itself goes to the agent verbatim. */
#ifndef PODWIRE_CNI_JSON_H
#define PODWIRE_CNI_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define JSON_MAX_DEPTH 64 /* recursion bound: hostile nesting must not exhaust the stack */

struct json_slice {
	const char *at; /* NULL = absent */
	size_t len;
};

/* One top-level member that the caller wants to see. `value` is the raw text of the value, quotes included.
 */
struct json_member {
	const char *name;
	struct json_slice value;
};

struct json_cursor {
	const char *at;
	const char *end;
};

static inline void json_space(struct json_cursor *c)
{
	while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
		c->at++;
}

static inline bool json_take(struct json_cursor *c, char wanted)
{
	if (c->at >= c->end || *c->at != wanted)
		return false;
	c->at++;
	return true;
}

static inline bool json_word(struct json_cursor *c, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(c->end - c->at) < len || memcmp(c->at, word, len) != 0)
		return false;
	c->at += len;
	return true;
}

static inline bool json_is_hex(char ch)
{
	return (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'f') || (ch >= 'A' && ch <= 'F');
}

static inline bool json_string(struct json_cursor *c)
{
	if (!json_take(c, '"'))
		return false;
	while (c->at < c->end) {
		unsigned char ch = (unsigned char)*c->at++;

		if (ch == '"')
			return true;
		if (ch < 0x20)
			return false;
		if (ch != '\\')
			continue;
		if (c->at >= c->end)
			return false;
		ch = (unsigned char)*c->at++;
		if (ch == 'u') {
			for (int i = 0; i < 4; i++)
				if (c->at >= c->end || !json_is_hex(*c->at++))
					return false;
		} else if (ch == '\0' || !strchr("\"\\/bfnrt", ch)) {
			return false;
		}
	}
	return false;
}

static inline bool json_digits(struct json_cursor *c)
{
	const char *start = c->at;

	while (c->at < c->end && *c->at >= '0' && *c->at <= '9')
		c->at++;
	return c->at > start;
}

static inline bool json_number(struct json_cursor *c)
{
	json_take(c, '-');
	if (!json_take(c, '0') && !json_digits(c))
		return false;
	if (json_take(c, '.') && !json_digits(c))
		return false;
	if (json_take(c, 'e') || json_take(c, 'E')) {
		if (!json_take(c, '+'))
			json_take(c, '-');
		return json_digits(c);
	}
	return true;
}

static inline bool json_value(struct json_cursor *c, int depth);

static inline bool json_array(struct json_cursor *c, int depth)
{
	if (!json_take(c, '['))
		return false;
	json_space(c);
	if (json_take(c, ']'))
		return true;
	do {
		if (!json_value(c, depth + 1))
			return false;
	} while (json_take(c, ','));
	return json_take(c, ']');
}

static inline void json_note(struct json_member *wanted, size_t count, struct json_slice name,
			     struct json_slice value)
{
	for (size_t i = 0; i < count; i++)
		if (strlen(wanted[i].name) == name.len && memcmp(wanted[i].name, name.at, name.len) == 0)
			wanted[i].value = value; /* the last of equal names wins, as in the agent's parser */
}

static inline bool json_object(struct json_cursor *c, int depth, struct json_member *wanted, size_t count)
{
	if (!json_take(c, '{'))
		return false;
	json_space(c);
	if (json_take(c, '}'))
		return true;
	do {
		struct json_slice name, value;

		json_space(c);
		name.at = c->at + 1;
		if (!json_string(c))
			return false;
		name.len = (size_t)(c->at - name.at - 1);
		json_space(c);
		if (!json_take(c, ':'))
			return false;
		json_space(c);
		value.at = c->at;
		if (!json_value(c, depth + 1))
			return false;
		value.len = (size_t)(c->at - value.at); /* may end in white space that json_value skipped */
		while (value.len && strchr(" \t\r\n", value.at[value.len - 1]))
			value.len--;
		json_note(wanted, count, name, value);
	} while (json_take(c, ','));
	return json_take(c, '}');
}

static inline bool json_value(struct json_cursor *c, int depth)
{
	bool ok;

	if (depth > JSON_MAX_DEPTH)
		return false;
	json_space(c);
	if (c->at >= c->end)
		return false;
	switch (*c->at) {
	case '{':
		ok = json_object(c, depth, NULL, 0);
		break;
	case '[':
		ok = json_array(c, depth);
		break;
	case '"':
		ok = json_string(c);
		break;
	case 't':
		ok = json_word(c, "true");
		break;
	case 'f':
		ok = json_word(c, "false");
		break;
	case 'n':
		ok = json_word(c, "null");
		break;
	default:
		ok = json_number(c);
	}
	json_space(c);
	return ok;
}

/* Is `text` exactly one JSON object? Fills `wanted` with the raw values of the members named there. */
static inline bool json_parse_object(const char *text, size_t len, struct json_member *wanted, size_t count)
{
	struct json_cursor c = { .at = text, .end = text + len };

	json_space(&c);
	if (!json_object(&c, 0, wanted, count))
		return false;
	json_space(&c);
	return c.at == c.end;
}

/* Decode a raw string value into `out` (NUL-terminated). False when it is not a string, does not fit, or uses
 * an escape that has no place in a path or a version (control characters, \u). */
static inline bool json_text(struct json_slice raw, char *out, size_t size)
{
	size_t used = 0;

	if (!raw.at || raw.len < 2 || raw.at[0] != '"')
		return false;
	for (size_t i = 1; i + 1 < raw.len; i++) {
		char ch = raw.at[i];

		if (ch == '\\') {
			ch = raw.at[++i];
			if (!strchr("\"\\/", ch))
				return false;
		}
		if (used + 1 >= size)
			return false;
		out[used++] = ch;
	}
	out[used] = '\0';
	return true;
}

#endif
