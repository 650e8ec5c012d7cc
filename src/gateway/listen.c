#include "gateway/listen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/loopback.h"

#define BACKLOG 64

/* Something is at path: whose is it? 0: it was a dead gateway's socket and is gone now. */
static int take_over(const char *path, const struct sockaddr_un *address, const char *what, struct ft_error *err)
{
	struct stat st;
	if (lstat(path, &st))
		return errno == ENOENT ? 0
				       : ft_error_set(err, -errno, "cannot look at the %s %s: %s", what, path,
						      strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return ft_error_set(err, -EEXIST,
				    "the %s cannot be made: %s exists and is no socket", what, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ft_error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
	int error = connect(fd, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;
	close(fd);
	/* EAGAIN: somebody listens, and is busy. */
	if (!error || error == EAGAIN || error == EINPROGRESS)
		return ft_error_set(err, -EADDRINUSE,
				    "the %s %s is in use: another gateway answers there", what, path);
	if (error != ECONNREFUSED)
		return ft_error_set(err, -error, "cannot look at the %s %s: %s", what, path,
				    strerror(error));
	if (unlink(path) && errno != ENOENT)
		return ft_error_set(err, -errno, "cannot remove the dead %s %s: %s", what, path,
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

int ft_listen_unix(struct ft_listen *listener, const char *path, mode_t mode, const char *what, struct ft_error *err)
{
	*listener = (struct ft_listen){.fd = -1};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address.sun_path))
		return ft_error_set(err, -ENAMETOOLONG, "the %s's name %s is too long", what, path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	int error = make_directory(path, err);
	if (!error)
		error = take_over(path, &address, what, err);
	if (error)
		return error;
	listener->path = strdup(path);
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Nobody else may connect in the moment between bind and a chmod. */
	mode_t mask = umask(0777 & ~mode);
	if (!listener->path || listener->fd < 0 || bind(listener->fd, (struct sockaddr *)&address, sizeof(address)))
		error = -errno;
	umask(mask);
	if (!error && (lstat(path, &listener->made) || listen(listener->fd, BACKLOG)))
		error = -errno;
	if (error) {
		ft_error_set(err, error, "cannot make the %s %s: %s", what, path, strerror(-error));
		ft_listen_close(listener);
	}
	return error;
}

int ft_listen_local(struct ft_listen *listener, const char *where, const char *what, struct ft_error *err)
{
	struct sockaddr_in address;
	*listener = (struct ft_listen){.fd = -1};
	/* Monitoring runs as somebody else; the group of the service may be given to it. */
	if (*where == '/')
		return ft_listen_unix(listener, where, 0660, what, err);
	int error = ft_loopback_parse(where, &address, err);
	if (error)
		return error;
	listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* What is left of a gateway's connections must not keep the next one from starting. */
	if (listener->fd < 0 || setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) ||
	    bind(listener->fd, (struct sockaddr *)&address, sizeof(address)) || listen(listener->fd, BACKLOG)) {
		error = -errno;
		ft_error_set(err, error, "cannot listen on %s for the %s: %s", where, what, strerror(-error));
		ft_listen_close(listener);
	}
	return error;
}

void ft_listen_close(struct ft_listen *listener)
{
	struct stat st;
	if (listener->made.st_ino && !lstat(listener->path, &st) && st.st_ino == listener->made.st_ino &&
	    st.st_dev == listener->made.st_dev)
		unlink(listener->path);
	if (listener->fd >= 0)
		close(listener->fd);
	free(listener->path);
	*listener = (struct ft_listen){.fd = -1};
}
