/* SPDX-License-Identifier: Apache-2.0 */
/* podwire-cni - the CNI plugin: hands the runtime's call to podwire-agent and prints the answer.
 *
 * Static and small on purpose: the runtime starts it for every pod, often 50 at once, and with an environment
 * (library path, PATH) that belongs to somebody else's packages. All logic lives in the agent; what is
 * decided here is only what must work without it: VERSION, unreadable input, ADD refused in a way that is
 * retried, DEL kept on disk. Build: gcc -static -O2 -Wall -Wextra -Werror -o podwire-cni podwire-cni.c */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http.h"
#include "json.h"
#include "queue.h"
#include "text.h"

#define DEFAULT_SOCKET	  "/run/podwire/cni.sock"
#define DEFAULT_QUEUE	  "/var/lib/podwire/cni-queue"
#define DEFAULT_TIMEOUT_S 90 /* below the runtime's own limit (kubelet: 2 minutes and more) */
#define MAX_INPUT	  (4u << 20)
#define MAX_CONTAINER_ID  128 /* part of a file name, here and in the agent */

/* Error codes of the CNI specification, and ours from 100 on. */
enum cni_code {
	CNI_INCOMPATIBLE_VERSION = 1,
	CNI_INVALID_ENVIRONMENT = 4,
	CNI_IO_FAILURE = 5,
	CNI_DECODING_FAILURE = 6,
	CNI_TRY_AGAIN_LATER = 11,
	CNI_NOT_AVAILABLE = 50, /* STATUS only: no ADD can be served */
	CNI_BAD_ANSWER = 100,
};

static const char *const versions[] = { "0.3.1", "0.4.0", "1.0.0", "1.1.0" };
#define VERSIONS (sizeof(versions) / sizeof(versions[0]))

static const char *const forwarded[] = { "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS",		"CNI_IFNAME",
					 "CNI_ARGS",	"CNI_PATH",	   "CNI_NETNS_OVERRIDE" };

struct call {
	const char *command;
	const char *url;
	struct text input; /* the network configuration, verbatim */
	char version[32];  /* its cniVersion; our newest when it has none or it is unreadable */
	char socket[108];
	char queue[2048];
	long timeout_ms;
};

static void print(const struct text *out)
{
	fwrite(out->at, 1, out->len, stdout);
	fputc('\n', stdout);
	fflush(stdout);
}

/* Print a CNI error object and leave. `details` may be NULL. */
static void fail(const struct call *call, enum cni_code code, const char *msg, const char *details)
{
	struct text out = {};
	char number[32];

	snprintf(number, sizeof(number), ",\"code\":%d,\"msg\":", code);
	text_str(&out, "{\"cniVersion\":");
	text_json(&out, call->version);
	text_str(&out, number);
	text_json(&out, msg);
	if (details) {
		text_str(&out, ",\"details\":");
		text_json(&out, details);
	}
	text_str(&out, "}");
	print(&out);
	exit(1);
}

static void read_input(struct call *call)
{
	for (;;) {
		ssize_t n;

		text_reserve(&call->input, 4096);
		n = read(STDIN_FILENO, call->input.at + call->input.len, 4096);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			fail(call, CNI_IO_FAILURE, "cannot read the network configuration from stdin",
			     strerror(errno));
		if (n == 0)
			break;
		call->input.len += (size_t)n;
		call->input.at[call->input.len] = '\0';
		if (call->input.len > MAX_INPUT)
			fail(call, CNI_DECODING_FAILURE,
			     "the network configuration on stdin is larger than 4 MiB", NULL);
	}
}

static void read_path(const struct call *call, struct json_slice raw, const char *name, char *out,
		      size_t size)
{
	char msg[128];

	if (!raw.at)
		return;
	if (json_text(raw, out, size) && out[0] == '/')
		return;
	snprintf(msg, sizeof(msg), "\"%s\" in the network configuration must be an absolute path", name);
	fail(call, CNI_DECODING_FAILURE, msg, NULL);
}

static void parse_input(struct call *call)
{
	enum {
		VERSION,
		SOCKET,
		QUEUE,
		TIMEOUT,
		MEMBERS
	};
	struct json_member members[MEMBERS] = { [VERSION] = { .name = "cniVersion" },
						[SOCKET] = { .name = "agentSocket" },
						[QUEUE] = { .name = "queueDir" },
						[TIMEOUT] = { .name = "agentTimeout" } };
	char version[sizeof(call->version)];

	if (!json_parse_object(call->input.at, call->input.len, members, MEMBERS))
		fail(call, CNI_DECODING_FAILURE, "the network configuration on stdin is not a JSON object",
		     NULL);
	if (members[VERSION].value.at) {
		if (!json_text(members[VERSION].value, version, sizeof(version)))
			fail(call, CNI_DECODING_FAILURE,
			     "\"cniVersion\" in the network configuration must be a version string", NULL);
		strcpy(call->version, version);
	}
	read_path(call, members[SOCKET].value, "agentSocket", call->socket, sizeof(call->socket));
	read_path(call, members[QUEUE].value, "queueDir", call->queue, sizeof(call->queue));
	if (members[TIMEOUT].value.at) {
		double seconds =
			strtod(members[TIMEOUT].value.at, NULL); /* stops at the , or } that follows */

		if (!(seconds > 0 && seconds <= 3600))
			fail(call, CNI_DECODING_FAILURE,
			     "\"agentTimeout\" in the network configuration must be seconds, at most 3600",
			     NULL);
		call->timeout_ms = (long)(seconds * 1000);
	}
	if (!members[VERSION].value.at)
		strcpy(call->version, "0.1.0"); /* what the specification says an absent version means */
}

static void answer_version(struct call *call)
{
	struct json_member member = { .name = "cniVersion" };
	struct text out = {};

	/* Whatever the runtime sent: it asks which versions it may send. Echo its version when it is
	 * readable. */
	if (json_parse_object(call->input.at, call->input.len, &member, 1) && member.value.at) {
		char version[sizeof(call->version)];

		if (json_text(member.value, version, sizeof(version)))
			strcpy(call->version, version);
	}
	text_str(&out, "{\"cniVersion\":");
	text_json(&out, call->version);
	text_str(&out, ",\"supportedVersions\":[");
	for (size_t i = 0; i < VERSIONS; i++) {
		if (i)
			text_str(&out, ",");
		text_json(&out, versions[i]);
	}
	text_str(&out, "]}");
	print(&out);
	exit(0);
}

static void check_version(const struct call *call)
{
	char msg[192];

	for (size_t i = 0; i < VERSIONS; i++)
		if (!strcmp(call->version, versions[i]))
			return;
	snprintf(msg, sizeof(msg),
		 "cniVersion %s is not supported by podwire-cni (supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0)",
		 call->version);
	fail(call, CNI_INCOMPATIBLE_VERSION, msg, NULL);
}

/* The names below become file names, here and in the agent: nothing that could leave a directory gets
 * through. */
static bool container_id_ok(const char *id)
{
	size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");

	return len > 0 && id[len] == '\0' && len <= MAX_CONTAINER_ID && id[0] != '.' && id[0] != '_' &&
	       id[0] != '-';
}

static bool interface_ok(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > 15 || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (size_t i = 0; i < len; i++)
		if (name[i] == '/' || name[i] == ':' || (unsigned char)name[i] <= ' ' ||
		    (unsigned char)name[i] > '~')
			return false;
	return true;
}

static void require(const struct call *call, const char *name, bool (*ok)(const char *))
{
	const char *value = getenv(name);
	char msg[256];

	if (value && *value && (!ok || ok(value)))
		return;
	snprintf(msg, sizeof(msg), "environment variable %s is %s (command %s needs it)", name,
		 value && *value ? "invalid" : "missing", call->command);
	fail(call, CNI_INVALID_ENVIRONMENT, msg, NULL);
}

static bool needs_attachment(const struct call *call)
{
	return !strcmp(call->command, "ADD") || !strcmp(call->command, "DEL") ||
	       !strcmp(call->command, "CHECK");
}

static void check_environment(const struct call *call)
{
	if (!needs_attachment(call))
		return;
	require(call, "CNI_CONTAINERID", container_id_ok);
	require(call, "CNI_IFNAME", interface_ok);
	if (strcmp(call->command, "DEL") != 0) /* the namespace may be gone by then */
		require(call, "CNI_NETNS", NULL);
}

static void choose_url(struct call *call)
{
	static const struct {
		const char *command, *url;
	} urls[] = { { "ADD", "/v1/cni/add" },
		     { "DEL", "/v1/cni/del" },
		     { "CHECK", "/v1/cni/check" },
		     { "GC", "/v1/cni/gc" },
		     { "STATUS", "/v1/cni/status" } };
	char msg[128];

	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++)
		if (!strcmp(call->command, urls[i].command))
			call->url = urls[i].url;
	if (call->url)
		return;
	snprintf(msg, sizeof(msg),
		 "CNI_COMMAND \"%.32s\" is unknown (known: ADD, DEL, CHECK, GC, STATUS, VERSION)",
		 call->command);
	fail(call, CNI_INVALID_ENVIRONMENT, msg, NULL);
}

static struct text build_request(const struct call *call)
{
	struct text body = {};
	bool first = true;

	text_str(&body, "{\"env\":{");
	for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++) {
		const char *value = getenv(forwarded[i]);

		if (!value)
			continue;
		if (!first)
			text_str(&body, ",");
		first = false;
		text_json(&body, forwarded[i]);
		text_str(&body, ":");
		text_json(&body, value);
	}
	text_str(&body, "},\"config\":");
	text_add(&body, call->input.at, call->input.len);
	text_str(&body, "}");
	return body;
}

static void keep_for_later(const struct call *call, const struct text *body)
{
	char name[MAX_CONTAINER_ID + 32], msg[4096];

	snprintf(name, sizeof(name), "%s-%s", getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME"));
	if (queue_store(call->queue, name, body))
		exit(0);
	snprintf(msg, sizeof(msg),
		 "podwire-agent cannot be reached and the DEL could not be stored in %s: %s", call->queue,
		 strerror(errno));
	fail(call, CNI_IO_FAILURE, msg, "see `systemctl status podwire-agent` on this node");
}

/* The agent did not take the call. DEL must not fail for that: it is kept. Anything else may be repeated. */
static void agent_away(const struct call *call, const struct text *body, const char *why)
{
	char msg[512];

	if (!strcmp(call->command, "DEL"))
		keep_for_later(call, body);
	snprintf(msg, sizeof(msg),
		 "podwire-agent %s on %s; see `systemctl status podwire-agent` on this node", why,
		 call->socket);
	fail(call, strcmp(call->command, "STATUS") ? CNI_TRY_AGAIN_LATER : CNI_NOT_AVAILABLE, msg, NULL);
}

static void relay(const struct call *call, const struct text *body, const struct http_answer *answer)
{
	bool object = json_parse_object(answer->body, answer->body_len, NULL, 0);
	char msg[128];

	if (answer->status == 503 && !strcmp(call->command, "DEL"))
		keep_for_later(call, body);
	if (answer->status == 200 && answer->body_len == 0)
		exit(0); /* DEL, CHECK, GC and STATUS have no result */
	if (!object) {
		snprintf(msg, sizeof(msg), "podwire-agent answered HTTP %d without a CNI result on %s",
			 answer->status, call->socket);
		fail(call, CNI_BAD_ANSWER, msg, NULL);
	}
	fwrite(answer->body, 1, answer->body_len, stdout);
	fputc('\n', stdout);
	fflush(stdout);
	exit(answer->status == 200 ? 0 : 1);
}

int main(void)
{
	struct call call = { .version = "1.1.0",
			     .socket = DEFAULT_SOCKET,
			     .queue = DEFAULT_QUEUE,
			     .timeout_ms = DEFAULT_TIMEOUT_S * 1000L };
	struct http_answer answer = {};
	struct text body;
	char why[160];

	call.command = getenv("CNI_COMMAND");
	if (!call.command || !*call.command) {
		call.command = "?";
		fail(&call, CNI_INVALID_ENVIRONMENT,
		     "environment variable CNI_COMMAND is missing: podwire-cni is started by a container "
		     "runtime",
		     NULL);
	}
	read_input(&call);
	if (!strcmp(call.command, "VERSION"))
		answer_version(&call);
	choose_url(&call);
	parse_input(&call);
	check_version(&call);
	check_environment(&call);

	body = build_request(&call);
	switch (http_post(call.socket, call.url, &body, call.timeout_ms, &answer)) {
	case HTTP_OK:
		relay(&call, &body, &answer);
		break;
	case HTTP_UNREACHABLE:
		snprintf(why, sizeof(why), "does not listen (%s)", strerror(answer.error));
		agent_away(&call, &body, why);
		break;
	case HTTP_TIMEOUT:
		snprintf(why, sizeof(why), "gave no answer within %.1f s", (double)call.timeout_ms / 1000);
		agent_away(&call, &body, why);
		break;
	case HTTP_BROKEN:
		snprintf(why, sizeof(why), "closed the connection early (%s)",
			 answer.error ? strerror(answer.error) : "no complete answer");
		agent_away(&call, &body, why);
		break;
	}
	return 1;
}
