// SPDX-License-Identifier: Apache-2.0
/* UDP server of the probes: answers every datagram with the client's address, from the address that was asked.
 * One process and no fork: a datagram that arrives while another is served waits in the socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void answer(int fd)
{
	char data[64], control[CMSG_SPACE(sizeof(struct in_pktinfo))];
	struct sockaddr_in client;
	struct iovec part = { .iov_base = data, .iov_len = sizeof(data) };
	struct msghdr message = {
		.msg_name = &client,
		.msg_namelen = sizeof(client),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;

	if (recvmsg(fd, &message, 0) < 0)
		return;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_type == IP_PKTINFO)
		((struct in_pktinfo *)CMSG_DATA(header))->ipi_ifindex = 0; /* routes decide */
	if (!inet_ntop(AF_INET, &client.sin_addr, data, sizeof(data) - 1))
		return;
	strcat(data, "\n");
	part.iov_len = strlen(data);
	/* Who does not listen any more gets no answer; the next one does. */
	if (sendmsg(fd, &message, 0) < 0 && errno == EBADF)
		exit(EXIT_FAILURE);
}

int main(int count, char **arguments)
{
	struct sockaddr_in own = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;

	if (count != 2 || atoi(arguments[1]) <= 0) {
		fprintf(stderr, "usage: %s PORT\n", arguments[0]);
		return EXIT_FAILURE;
	}
	own.sin_port = htons((in_port_t)atoi(arguments[1]));
	if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&own, sizeof(own))) {
		perror(arguments[0]);
		return EXIT_FAILURE;
	}
	for (;;)
		answer(fd);
}
