#include "cli/client.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#define ANSWER_MOST (8u << 20) /* above what the gateway lets one client leave unread */
#define PATIENCE    10         /* seconds; the gateway itself gives up on its processes after three */

static unsigned patience_s = PATIENCE;

void ft_client_patience(unsigned seconds)
{
	patience_s = seconds;
}

static int dial(const char *path, int *fd, struct ft_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address.sun_path)) {
		ft_error_set(err, -ENAMETOOLONG, "the control socket's name %s is too long", path);
		return EX_USAGE;
	}
	memcpy(address.sun_path, path, strlen(path) + 1);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval patience = {.tv_sec = (time_t)patience_s};
	if (*fd >= 0 && !setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) &&
	    !connect(*fd, (struct sockaddr *)&address, sizeof(address)))
		return 0;
	int error = errno;
	if (*fd >= 0)
		close(*fd);
	if (error == ENOENT || error == ECONNREFUSED) {
		ft_error_set(err, -error, "no gateway is running: nobody answers at %s", path);
		return EX_UNAVAILABLE;
	}
	ft_error_set(err, -error, "cannot talk to the gateway at %s: %s", path, strerror(error));
	return error == EACCES || error == EPERM ? EX_NOPERM : EX_UNAVAILABLE;
}

static int send_all(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t n = send(fd, text, length, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		length -= (size_t)n;
	}
	return 0;
}

/* Reads one line; *text is the caller's. */
static int receive_line(int fd, char **text, size_t *length)
{
	size_t room = 0;
	*text = NULL;
	*length = 0;
	for (;;) {
		if (*length == room) {
			room = room ? 2 * room : 64u << 10;
			char *more = room <= ANSWER_MOST ? realloc(*text, room) : NULL;
			if (!more)
				return -EMSGSIZE;
			*text = more;
		}
		ssize_t n = recv(fd, *text + *length, room - *length, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? (errno == EAGAIN ? -ETIMEDOUT : -errno) : -EPIPE;
		char *newline = memchr(*text + *length, '\n', (size_t)n);
		*length += (size_t)n;
		if (newline) {
			*length = (size_t)(newline - *text);
			return 0;
		}
	}
}

static int take_result(const char *text, size_t length, json_t **result, struct ft_error *err)
{
	json_t *answer = json_loadb(text, length, 0, NULL);
	const char *sentence = json_string_value(json_object_get(answer, "error"));
	int code = 0;
	*result = json_incref(json_object_get(answer, "result"));
	if (sentence) {
		code = (int)json_integer_value(json_object_get(answer, "code"));
		ft_error_set(err, -EIO, "%s", sentence);
		if (code < EX_USAGE || code > EX_CONFIG)
			code = EX_UNAVAILABLE;
	} else if (!*result) {
		ft_error_set(err, -EPROTO, "the gateway's answer is none");
		code = EX_PROTOCOL;
	}
	if (code) {
		json_decref(*result);
		*result = NULL;
	}
	json_decref(answer);
	return code;
}

int ft_client_ask(const char *path, json_t *request, json_t **result, struct ft_error *err)
{
	int fd;
	*result = NULL;
	json_object_set_new(request, "id", json_integer(1));
	char *text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	int code = text ? dial(path, &fd, err) : EX_OSERR;
	if (!code) {
		char *line = NULL;
		size_t length = 0;
		int error = send_all(fd, text, strlen(text));
		if (!error)
			error = send_all(fd, "\n", 1);
		if (!error)
			error = receive_line(fd, &line, &length);
		if (error) {
			ft_error_set(err, error,
				     error == -EPIPE ? "the gateway closed the connection%.0s"
						     : "the gateway does not answer: %s",
				     strerror(-error));
			code = EX_UNAVAILABLE;
		} else {
			code = take_result(line, length, result, err);
		}
		free(line);
		close(fd);
	}
	free(text);
	return code;
}
