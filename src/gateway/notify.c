#include "gateway/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY 100000000ull /* ns until a full socket is tried again */

/* The whole text of a variable as a number; false: none, or no number. */
static bool number(const char *name, uint64_t *value)
{
	const char *text = getenv(name);
	char *end;
	errno = 0;
	if (!text || *text < '0' || *text > '9')
		return false;
	*value = strtoull(text, &end, 10);
	return !*end && !errno;
}

static int read_watchdog(struct ft_notify *notify, struct ft_error *err)
{
	uint64_t usec, pid;
	if (!getenv("WATCHDOG_USEC"))
		return 0;
	/* Meant for another process of the service: it is that one's business. */
	if (getenv("WATCHDOG_PID") && number("WATCHDOG_PID", &pid) && pid != (uint64_t)getpid())
		return 0;
	if (!number("WATCHDOG_USEC", &usec) || usec < 2 || usec > UINT64_MAX / 1000)
		return ft_error_set(err, -EINVAL, "WATCHDOG_USEC is \"%.32s\", expected microseconds",
				    getenv("WATCHDOG_USEC"));
	notify->watchdog = usec * 1000 / 2;
	return 0;
}

int ft_notify_open(struct ft_notify *notify, struct ft_error *err)
{
	*notify = (struct ft_notify){.fd = -1, .address.sun_family = AF_UNIX};
	const char *path = getenv("NOTIFY_SOCKET");
	if (!path)
		return 0;
	size_t length = strlen(path);
	if ((*path != '/' && *path != '@') || length < 2 || length >= sizeof(notify->address.sun_path))
		return ft_error_set(err, -EINVAL, "NOTIFY_SOCKET is \"%.120s\", expected a socket", path);
	memcpy(notify->address.sun_path, path, length + 1);
	if (*path == '@') /* the abstract name space: a zero byte, and no zero at the end */
		notify->address.sun_path[0] = 0;
	notify->address_length =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (*path == '/'));
	int error = read_watchdog(notify, err);
	if (error)
		return error;
	notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return notify->fd < 0 ? ft_error_set(err, -errno, "cannot open a socket: %s", strerror(errno)) : 0;
}

void ft_notify_close(struct ft_notify *notify)
{
	if (notify->fd >= 0)
		close(notify->fd);
	notify->fd = -1;
}

void ft_notify_set(struct ft_notify *notify, enum ft_notify_state state, const char *status)
{
	notify->state = state;
	snprintf(notify->status, sizeof(notify->status), "%s", status);
	/* A second line would be a second assignment. */
	for (char *p = notify->status; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
}

/* The manager wants to know when a reload began, to tell it from what it heard before. */
static int state_text(enum ft_notify_state state, uint64_t now, char *text, size_t size)
{
	switch (state) {
	case FT_NOTIFY_READY:
		return snprintf(text, size, "READY=1\n");
	case FT_NOTIFY_RELOADING:
		return snprintf(text, size, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\n", now / 1000);
	case FT_NOTIFY_STOPPING:
		return snprintf(text, size, "STOPPING=1\n");
	case FT_NOTIFY_STARTING:
		break;
	}
	return 0;
}

uint64_t ft_notify_serve(struct ft_notify *notify, uint64_t now)
{
	if (notify->fd < 0)
		return UINT64_MAX;
	bool state = notify->state != notify->told;
	bool status = strcmp(notify->status, notify->status_told) != 0;
	bool alive = notify->watchdog && !notify->withheld && notify->watchdog_at <= now;
	char text[FT_NOTIFY_STATUS + 128];
	int used = state ? state_text(notify->state, now, text, sizeof(text)) : 0;
	if (status)
		used += snprintf(text + used, sizeof(text) - (size_t)used, "STATUS=%s\n", notify->status);
	if (alive)
		used += snprintf(text + used, sizeof(text) - (size_t)used, "WATCHDOG=1\n");
	if (used) {
		ssize_t sent = sendto(notify->fd, text, (size_t)used, MSG_DONTWAIT | MSG_NOSIGNAL,
				      (const struct sockaddr *)&notify->address, notify->address_length);
		if (sent != used)
			return now + RETRY;
	}
	notify->told = notify->state;
	if (status)
		memcpy(notify->status_told, notify->status, sizeof(notify->status));
	if (alive)
		notify->watchdog_at = now + notify->watchdog;
	return notify->watchdog && !notify->withheld ? notify->watchdog_at : UINT64_MAX;
}
