/* SPDX-License-Identifier: Apache-2.0 */
/* cni/queue.h - DELs that the agent could not take are kept on disk, one file per attachment, for the agent
 * to carry out when it is back. Written so that a crash leaves either the whole file or none. */
#ifndef PODWIRE_CNI_QUEUE_H
#define PODWIRE_CNI_QUEUE_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

/* mkdir -p; directories that are created get mode 0700. */
static inline bool queue_mkdirs(char *path)
{
	for (char *slash = path + 1; *slash; slash++) {
		if (*slash != '/')
			continue;
		*slash = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST) {
			*slash = '/';
			return false;
		}
		*slash = '/';
	}
	return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static inline bool queue_write(int fd, const struct text *body)
{
	for (size_t done = 0; done < body->len;) {
		ssize_t n = write(fd, body->at + done, body->len - done);

		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0)
			done += (size_t)n;
	}
	return fsync(fd) == 0;
}

/* Store `body` as DIRECTORY/NAME.json. False with errno set when it could not be made durable. */
static inline bool queue_store(const char *directory, const char *name, const struct text *body)
{
	char temporary[256], final[256], path[4096];
	int dir, fd, error;
	bool ok;

	if (snprintf(path, sizeof(path), "%s", directory) >= (int)sizeof(path) ||
	    snprintf(final, sizeof(final), "%s.json", name) >= (int)sizeof(final) ||
	    snprintf(temporary, sizeof(temporary), ".%s.%d", name, (int)getpid()) >= (int)sizeof(temporary)) {
		errno = ENAMETOOLONG;
		return false;
	}
	if (!queue_mkdirs(path))
		return false;
	dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return false;
	fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	ok = fd >= 0 && queue_write(fd, body);
	error = errno;
	if (fd >= 0)
		close(fd);
	if (ok) {
		ok = renameat(dir, temporary, dir, final) == 0 && fsync(dir) == 0;
		error = errno;
	}
	if (!ok)
		unlinkat(dir, temporary, 0);
	close(dir);
	errno = error;
	return ok;
}

#endif
