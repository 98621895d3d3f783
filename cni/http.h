/* SPDX-License-Identifier: Apache-2.0 */
/* cni/http.h - one HTTP POST over a unix stream socket, under one deadline for the whole exchange. */
#ifndef PODWIRE_CNI_HTTP_H
#define PODWIRE_CNI_HTTP_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define HTTP_MAX_ANSWER (4u << 20)

enum http_outcome {
	HTTP_OK,	  /* an answer was read; see status and body */
	HTTP_UNREACHABLE, /* nothing listens: the request was certainly not handled */
	HTTP_TIMEOUT, /* connected or not, no complete answer in time: the request may have been handled */
	HTTP_BROKEN,  /* the connection ended early or the answer is not HTTP: likewise */
};

struct http_answer {
	int status;
	struct text raw;
	const char *body;
	size_t body_len;
	int error; /* errno for HTTP_UNREACHABLE and HTTP_BROKEN, 0 = not a system error */
};

static inline long http_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

/* Wait for `events`; false when the deadline has passed. */
static inline bool http_wait(int fd, short events, long deadline)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		long left = deadline - http_now_ms();
		int n;

		if (left <= 0)
			return false;
		n = poll(&p, 1, (int)left);
		if (n > 0)
			return true;
		if (n < 0 && errno != EINTR)
			return true; /* let the read or write report what is wrong */
	}
}

static inline enum http_outcome http_connect(int fd, const char *path, long deadline,
					     struct http_answer *answer)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(to.sun_path)) {
		answer->error = ENAMETOOLONG;
		return HTTP_UNREACHABLE;
	}
	strcpy(to.sun_path, path);
	while (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		struct timespec pause = { .tv_nsec = 10 * 1000000L };

		if (errno == EINTR)
			continue;
		if (errno != EAGAIN) {
			answer->error = errno;
			return HTTP_UNREACHABLE;
		}
		/* The listen queue is full. A unix socket offers nothing to poll for here. */
		if (http_now_ms() >= deadline)
			return HTTP_TIMEOUT;
		nanosleep(&pause, NULL);
	}
	return HTTP_OK;
}

static inline enum http_outcome http_send(int fd, const struct text *request, long deadline,
					  struct http_answer *answer)
{
	for (size_t sent = 0; sent < request->len;) {
		ssize_t n;

		if (!http_wait(fd, POLLOUT, deadline))
			return HTTP_TIMEOUT;
		n = send(fd, request->at + sent, request->len - sent, MSG_NOSIGNAL);
		if (n >= 0) {
			sent += (size_t)n;
		} else if (errno != EINTR && errno != EAGAIN) {
			answer->error = errno;
			return HTTP_BROKEN;
		}
	}
	return HTTP_OK;
}

/* Read to the end of the connection: the request says "Connection: close", so that is the end of the answer
 * too. */
static inline enum http_outcome http_receive(int fd, long deadline, struct http_answer *answer)
{
	for (;;) {
		ssize_t n;

		if (answer->raw.len >= HTTP_MAX_ANSWER)
			return HTTP_BROKEN;
		text_reserve(&answer->raw, 4096);
		if (!http_wait(fd, POLLIN, deadline))
			return HTTP_TIMEOUT;
		n = recv(fd, answer->raw.at + answer->raw.len, 4096, 0);
		if (n == 0)
			return HTTP_OK;
		if (n > 0) {
			answer->raw.len += (size_t)n;
			answer->raw.at[answer->raw.len] = '\0';
		} else if (errno != EINTR && errno != EAGAIN) {
			answer->error = errno;
			return HTTP_BROKEN;
		}
	}
}

static inline bool http_content_length(const char *headers, size_t *length)
{
	const char *line = strcasestr(headers, "\r\nContent-Length:");
	char *end;

	if (!line)
		return false;
	line += strlen("\r\nContent-Length:");
	*length = strtoul(line, &end, 10);
	return end != line;
}

static inline enum http_outcome http_parse(struct http_answer *answer)
{
	char *end = answer->raw.len ? strstr(answer->raw.at, "\r\n\r\n") : NULL;
	size_t length;

	if (!end || sscanf(answer->raw.at, "HTTP/1.%*1d %3d", &answer->status) != 1)
		return HTTP_BROKEN;
	answer->body = end + 4;
	answer->body_len = answer->raw.len - (size_t)(answer->body - answer->raw.at);
	end[2] = '\0'; /* headers end here */
	if (http_content_length(answer->raw.at, &length) && length != answer->body_len)
		return HTTP_BROKEN; /* cut short, or more than was announced */
	return HTTP_OK;
}

/* POST `body` to `url` on the unix socket `path`. `timeout_ms` bounds connect, send and receive together. */
static inline enum http_outcome http_post(const char *path, const char *url, const struct text *body,
					  long timeout_ms, struct http_answer *answer)
{
	long deadline = http_now_ms() + timeout_ms;
	struct text request = {};
	enum http_outcome outcome;
	char length[32];
	int fd;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		answer->error = errno;
		return HTTP_UNREACHABLE;
	}
	snprintf(length, sizeof(length), "%zu", body->len);
	text_str(&request, "POST ");
	text_str(&request, url);
	text_str(&request,
		 " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
		 "Content-Length: ");
	text_str(&request, length);
	text_str(&request, "\r\n\r\n");
	text_add(&request, body->at, body->len);

	outcome = http_connect(fd, path, deadline, answer);
	if (outcome == HTTP_OK)
		outcome = http_send(fd, &request, deadline, answer);
	if (outcome == HTTP_OK)
		outcome = http_receive(fd, deadline, answer);
	if (outcome == HTTP_OK)
		outcome = http_parse(answer);
	close(fd);
	free(request.at);
	return outcome;
}

#endif
