#include "gateway/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "gateway/files.h"

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
	if (json_is_object(request) && json_is_string(json_object_get(request, "what")))
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

static void accept_connection(void *context, uint32_t events)
{
	struct ft_control *control = context;
	int fd = accept4(control->watch.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	for (unsigned i = 0; i < FT_CONTROL_CONNECTIONS; i++) {
		struct ft_control_connection *connection = &control->connections[i];
		if (connection->watch.fd >= 0)
			continue;
		connection->in = malloc(FT_CONTROL_LINE);
		connection->number = ++control->next;
		connection->peer = peer_of(fd);
		connection->watch = (struct ft_watch){fd, serve_connection, connection};
		if (connection->in && !ft_loop_add(control->loop, &connection->watch, EPOLLIN))
			return;
		close_connection(connection);
		return;
	}
	static const char busy[] = "{\"id\":null,\"error\":\"too many control connections\",\"code\":75}\n";
	send(fd, busy, sizeof(busy) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

/* Something is at path: whose is it? 0: it was a dead gateway's socket and is gone now. */
static int take_over(const char *path, const struct sockaddr_un *address, struct ft_error *err)
{
	struct stat st;
	if (lstat(path, &st))
		return errno == ENOENT ? 0
				       : ft_error_set(err, -errno, "cannot look at the control socket %s: %s",
						      path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return ft_error_set(err, -EEXIST,
				    "the control socket cannot be made: %s exists and is no socket", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ft_error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
	int error = connect(fd, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;
	close(fd);
	/* EAGAIN: somebody listens, and is busy. */
	if (!error || error == EAGAIN || error == EINPROGRESS)
		return ft_error_set(err, -EADDRINUSE,
				    "the control socket %s is in use: another gateway answers there", path);
	if (error != ECONNREFUSED)
		return ft_error_set(err, -error, "cannot look at the control socket %s: %s", path,
				    strerror(error));
	if (unlink(path) && errno != ENOENT)
		return ft_error_set(err, -errno, "cannot remove the dead control socket %s: %s", path,
				    strerror(errno));
	return 0;
}

static int make_directory(const char *path, struct ft_error *err)
{
	char *above = strdup(path);
	if (!above)
		return -ENOMEM;
	char *slash = strrchr(above, '/');
	int error = 0;
	if (slash && slash != above) {
		*slash = 0;
		error = ft_files_directory(above, 0755, err);
	}
	free(above);
	return error;
}

int ft_control_open(struct ft_control *control, const char *path, struct ft_error *err)
{
	control->watch = (struct ft_watch){-1, accept_connection, control};
	for (unsigned i = 0; i < FT_CONTROL_CONNECTIONS; i++)
		control->connections[i] = (struct ft_control_connection){.control = control, .watch.fd = -1};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address.sun_path))
		return ft_error_set(err, -ENAMETOOLONG, "the control socket's name %s is too long", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	int error = make_directory(path, err);
	if (!error)
		error = take_over(path, &address, err);
	if (error)
		return error;
	control->path = strdup(path);
	control->watch.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Nobody else may connect in the moment between bind and a chmod. */
	mode_t mask = umask(0177);
	if (!control->path || control->watch.fd < 0 ||
	    bind(control->watch.fd, (struct sockaddr *)&address, sizeof(address)))
		error = -errno;
	umask(mask);
	if (!error && (lstat(path, &control->made) || listen(control->watch.fd, 64)))
		error = -errno;
	if (!error)
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
	struct stat st;
	if (control->made.st_ino && !lstat(control->path, &st) && st.st_ino == control->made.st_ino &&
	    st.st_dev == control->made.st_dev)
		unlink(control->path);
	if (control->watch.fd >= 0) {
		ft_loop_remove(control->loop, &control->watch);
		close(control->watch.fd);
	}
	free(control->path);
	control->path = NULL;
	control->watch.fd = -1;
	control->made = (struct stat){0};
}
