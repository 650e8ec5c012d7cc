#include "gateway/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

static void close_connection(struct ft_control_connection *connection)
{
	if (connection->watch.fd < 0)
		return;
	ft_loop_remove(connection->control->loop, &connection->watch);
	close(connection->watch.fd);
	free(connection->in);
	free(connection->out);
	struct ft_control *control = connection->control;
	uint64_t number = connection->number;
	*connection = (struct ft_control_connection){.control = control, .watch.fd = -1};
	control->closed(control->context, number);
}

/* Writes what the socket takes; asks to be called again for the rest. */
static void flush(struct ft_control_connection *connection)
{
	while (connection->out_done < connection->out_length) {
		ssize_t n = send(connection->watch.fd, connection->out + connection->out_done,
				 connection->out_length - connection->out_done, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			close_connection(connection);
			return;
		}
		connection->out_done += (size_t)n;
	}
	if (connection->out_done == connection->out_length) {
		free(connection->out);
		connection->out = NULL;
		connection->out_done = connection->out_length = 0;
	}
	ft_loop_change(connection->control->loop, &connection->watch,
		       EPOLLIN | (connection->out ? EPOLLOUT : 0));
}

static void answer_to(struct ft_control_connection *connection, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
	size_t length = text ? strlen(text) : 0;
	size_t waiting = connection->out_length - connection->out_done;
	char *out = text && waiting + length + 1 <= FT_CONTROL_UNREAD ? malloc(waiting + length + 1) : NULL;
	if (!out) {
		free(text);
		close_connection(connection);
		return;
	}
	if (waiting)
		memcpy(out, connection->out + connection->out_done, waiting);
	memcpy(out + waiting, text, length);
	out[waiting + length] = '\n';
	free(text);
	free(connection->out);
	connection->out = out;
	connection->out_done = 0;
	connection->out_length = waiting + length + 1;
	flush(connection);
}

void ft_control_answer(struct ft_control *control, uint64_t connection, json_t *answer)
{
	for (unsigned i = 0; i < FT_CONTROL_CONNECTIONS; i++)
		if (control->connections[i].watch.fd >= 0 && control->connections[i].number == connection) {
			answer_to(&control->connections[i], answer);
			return;
		}
	json_decref(answer);
}

static void serve_line(struct ft_control_connection *connection, const char *line, size_t length)
{
	struct ft_control *control = connection->control;
	json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
	const char *what = json_string_value(json_object_get(request, "what"));
	if (what && connection->only && strcmp(what, connection->only))
		answer_to(connection, json_pack("{s:n, s:s, s:i}", "id", "error", "this connection may not ask that",
						"code", EX_NOPERM));
	else if (what)
		control->request(control->context, connection->number, request);
	else
		answer_to(connection,
			  json_pack("{s:n, s:s, s:i}", "id", "error",
				    "a request is one JSON object a line with a \"what\"", "code", EX_USAGE));
	json_decref(request);
}

static void serve_connection(void *context, uint32_t events)
{
	struct ft_control_connection *connection = context;
	uint64_t number = connection->number;
	if (events & EPOLLOUT) {
		flush(connection);
		if (connection->number != number || connection->watch.fd < 0)
			return;
	}
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	ssize_t n = recv(connection->watch.fd, connection->in + connection->in_length,
			 FT_CONTROL_LINE - connection->in_length, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_connection(connection);
		return;
	}
	connection->in_length += (size_t)n;
	for (;;) {
		char *newline = memchr(connection->in, '\n', connection->in_length);
		if (!newline)
			break;
		size_t length = (size_t)(newline - connection->in);
		serve_line(connection, connection->in, length);
		if (connection->watch.fd < 0 || connection->number != number)
			return;
		connection->in_length -= length + 1;
		memmove(connection->in, newline + 1, connection->in_length);
	}
	if (connection->in_length == FT_CONTROL_LINE) {
		answer_to(connection, json_pack("{s:n, s:s, s:i}", "id", "error", "a request is too long",
						"code", EX_USAGE));
		close_connection(connection);
	}
}

static struct ft_control_peer peer_of(int fd)
{
	struct ucred credentials = {0};
	socklen_t length = sizeof(credentials);
	char path[64];
	unsigned login = UINT32_MAX;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length))
		credentials = (struct ucred){.uid = (uid_t)-1};
	snprintf(path, sizeof(path), "/proc/%d/loginuid", (int)credentials.pid);
	FILE *file = fopen(path, "re");
	if (!file || fscanf(file, "%u", &login) != 1)
		login = UINT32_MAX;
	if (file)
		fclose(file);
	return (struct ft_control_peer){credentials.uid, credentials.pid, login == UINT32_MAX ? -1 : (long)login};
}

const char *ft_control_who(const struct ft_control *control, uint64_t connection, char text[80])
{
	snprintf(text, 80, "a client that has gone");
	for (unsigned i = 0; i < FT_CONTROL_CONNECTIONS; i++) {
		const struct ft_control_connection *c = &control->connections[i];
		char login[40] = "";
		if (c->watch.fd < 0 || c->number != connection)
			continue;
		if (c->peer.login >= 0)
			snprintf(login, sizeof(login), " (login uid %ld)", c->peer.login);
		snprintf(text, 80, "uid %u%s, pid %d", (unsigned)c->peer.uid, login, (int)c->peer.pid);
	}
	return text;
}

static struct ft_control_connection *add_connection(struct ft_control *control, int fd)
{
	for (unsigned i = 0; i < FT_CONTROL_CONNECTIONS; i++) {
		struct ft_control_connection *connection = &control->connections[i];
		if (connection->watch.fd >= 0)
			continue;
		connection->in = malloc(FT_CONTROL_LINE);
		connection->number = ++control->next;
		connection->peer = peer_of(fd);
		connection->watch = (struct ft_watch){fd, serve_connection, connection};
		if (connection->in && !ft_loop_add(control->loop, &connection->watch, EPOLLIN))
			return connection;
		close_connection(connection);
		return NULL;
	}
	static const char busy[] = "{\"id\":null,\"error\":\"too many control connections\",\"code\":75}\n";
	send(fd, busy, sizeof(busy) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
	return NULL;
}

static void accept_connection(void *context, uint32_t events)
{
	struct ft_control *control = context;
	int fd = accept4(control->watch.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		add_connection(control, fd);
}

int ft_control_adopt(struct ft_control *control, int fd, const char *only)
{
	struct ft_control_connection *connection = add_connection(control, fd);
	if (!connection)
		return -EBUSY;
	connection->only = only;
	return 0;
}

int ft_control_open(struct ft_control *control, const char *path, struct ft_error *err)
{
	control->watch = (struct ft_watch){-1, accept_connection, control};
	control->listener.fd = -1;
	for (unsigned i = 0; i < FT_CONTROL_CONNECTIONS; i++)
		control->connections[i] = (struct ft_control_connection){.control = control, .watch.fd = -1};
	int error = ft_listen_unix(&control->listener, path, 0600, "control socket", err);
	if (error)
		return error;
	control->watch.fd = control->listener.fd;
	error = ft_loop_add(control->loop, &control->watch, EPOLLIN);
	if (error) {
		ft_error_set(err, error, "cannot make the control socket %s: %s", path, strerror(-error));
		ft_control_close(control);
	}
	return error;
}

void ft_control_close(struct ft_control *control)
{
	for (unsigned i = 0; i < FT_CONTROL_CONNECTIONS; i++)
		close_connection(&control->connections[i]);
	if (control->watch.fd >= 0)
		ft_loop_remove(control->loop, &control->watch);
	control->watch.fd = -1;
	ft_listen_close(&control->listener);
}
