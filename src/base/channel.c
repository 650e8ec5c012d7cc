#include "base/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * FT_CHANNEL_FDS)];
};

int ft_channel_send(int fd, json_t *message, const int *fds, int count)
{
	if (count < 0 || count > FT_CHANNEL_FDS)
		return -EINVAL;
	char *text = json_dumps(message, JSON_COMPACT);
	if (!text)
		return -EINVAL;
	size_t length = strlen(text);
	if (length > FT_CHANNEL_MESSAGE) {
		free(text);
		return -EMSGSIZE;
	}
	union control control;
	memset(&control, 0, sizeof(control));
	struct iovec part = {.iov_base = text, .iov_len = length};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	if (count) {
		header.msg_control = control.bytes;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
		struct cmsghdr *c = CMSG_FIRSTHDR(&header);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
	}
	ssize_t n;
	do
		n = sendmsg(fd, &header, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	int error = n < 0 ? -errno : 0;
	explicit_bzero(text, length); /* it may have been the key of a snapshot */
	free(text);
	return error;
}

int ft_channel_receive(int fd, json_t **message, int fds[FT_CHANNEL_FDS], int *count)
{
	*message = NULL;
	*count = 0;
	for (int i = 0; i < FT_CHANNEL_FDS; i++)
		fds[i] = -1;
	char *text = malloc(FT_CHANNEL_MESSAGE);
	if (!text)
		return -ENOMEM;
	union control control;
	struct iovec part = {.iov_base = text, .iov_len = FT_CHANNEL_MESSAGE};
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
	ssize_t n;
	do
		n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	int error = n < 0 ? -errno : n == 0 ? -EPIPE : 0;
	if (!error) {
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
			if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
				continue;
			int got = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)got);
			*count = got;
		}
		if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
			error = -EMSGSIZE;
		} else {
			*message = json_loadb(text, (size_t)n, 0, NULL);
			if (!json_is_object(*message)) {
				json_decref(*message);
				*message = NULL;
				error = -EPROTO;
			}
		}
		for (int i = 0; error && i < *count; i++) {
			close(fds[i]);
			fds[i] = -1;
		}
		if (error)
			*count = 0;
	}
	if (n > 0)
		explicit_bzero(text, (size_t)n);
	free(text);
	return error;
}
