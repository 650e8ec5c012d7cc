#include "gateway/sink.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SECOND        1000000000ull
#define BACKOFF_FIRST (SECOND / 5)
#define BACKOFF_MOST  (10 * SECOND)
#define STABLE        (30 * SECOND) /* a connection that lasted this long is replaced at once */

/* Room for one message of syslog.limit at its largest; what the kernel does not send at once stays in our own queue. */
#define DATAGRAM_ROOM (256 << 10)

void ft_sinks_prepare(struct ft_sinks *sinks, const struct ft_config *config)
{
	*sinks = (struct ft_sinks){
	    {{.name = "socket", .path = ft_config_text(config, "feed.socket"), .type = SOCK_STREAM},
	     {.name = "syslog", .path = ft_config_text(config, "feed.syslog.socket"), .type = SOCK_DGRAM}}};
	ft_sinks_ledger(sinks, false);
}

void ft_sinks_ledger(struct ft_sinks *sinks, bool ready)
{
	for (unsigned i = 0; i < FT_SINKS; i++) {
		struct ft_sink_link *link = &sinks->links[i];
		link->retry_at = ready && link->path ? 0 : UINT64_MAX;
		link->connected_at = 0;
		link->failures = 0;
	}
}

static uint64_t backoff(unsigned failures)
{
	uint64_t wait = BACKOFF_FIRST;
	for (unsigned i = 1; i < failures && wait < BACKOFF_MOST; i++)
		wait *= 2;
	return wait < BACKOFF_MOST ? wait : BACKOFF_MOST;
}

bool ft_sinks_lost(struct ft_sinks *sinks, const char *name)
{
	for (unsigned i = 0; i < FT_SINKS && name; i++) {
		struct ft_sink_link *link = &sinks->links[i];
		if (strcmp(link->name, name) || !link->connected_at)
			continue;
		uint64_t now = ft_loop_now();
		bool lasted = now - link->connected_at >= STABLE;
		link->failures = lasted ? 0 : link->failures + 1;
		link->retry_at = lasted ? now : now + backoff(link->failures);
		link->connected_at = 0;
		return true;
	}
	return false;
}

/* A connected socket or -errno. */
static int dial(const struct ft_sink_link *link)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	if (strlen(link->path) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	memcpy(to.sun_path, link->path, strlen(link->path) + 1);
	int fd = socket(AF_UNIX, link->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int room = DATAGRAM_ROOM, error = 0;
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		error = -errno;
	/* The feed goes one way: whatever a reader sends ends at once and never reaches the ledger. */
	if (!error && link->type == SOCK_STREAM && shutdown(fd, SHUT_RD))
		error = -errno;
	if (link->type == SOCK_DGRAM)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	if (!error)
		return fd;
	close(fd);
	return error;
}

/* What keeps us from connecting. Of a socket that is not for us, whom it is for: the operator can then choose a group. */
static void explain(const struct ft_sink_link *link, int error, char text[160])
{
	struct stat st;
	if (error == -EACCES && !stat(link->path, &st))
		snprintf(text, 160, "%s: it is for uid %u and gid %u (mode %04o), the gateway has uid %u and gid %u", strerror(EACCES),
			 (unsigned)st.st_uid, (unsigned)st.st_gid, (unsigned)st.st_mode & 07777u, (unsigned)geteuid(),
			 (unsigned)getegid());
	else
		snprintf(text, 160, "%s", error == -EPROTOTYPE ? "it is a socket of another type" : strerror(-error));
}

static void try(struct ft_sink_link *link, struct ft_child *ledger, ft_sinks_say *say)
{
	char text[400], why[160];
	int fd = dial(link), error;
	if (fd >= 0) {
		error =
		    ft_child_send(ledger, json_pack("{s:s, s:s}", "op", "sink", "name", link->name), &fd, 1);
		close(fd);
		if (!error) {
			link->connected_at = ft_loop_now();
			link->retry_at = UINT64_MAX;
			snprintf(text, sizeof(text), "feed.%s: connected to %s", link->name, link->path);
			say("", text);
			link->said = false;
			return;
		}
		snprintf(text, sizeof(text), "feed.%s: the ledger does not take its connection: %s",
			 link->name, strerror(-error));
	} else {
		explain(link, fd, why);
		snprintf(text, sizeof(text), "feed.%s: cannot connect to %s: %s", link->name, link->path, why);
		/* The ledger may be too busy to be told; then it says in its status what it knows. */
		ft_child_send(ledger,
			      json_pack("{s:s, s:s, s:s}", "op", "sink", "name", link->name, "error",
					text + strlen("feed.") + strlen(link->name) + strlen(": ")),
			      NULL, 0);
	}
	link->retry_at = ft_loop_now() + backoff(++link->failures);
	if (!link->said) {
		strncat(text, "; its lines wait, and it is tried again", sizeof(text) - strlen(text) - 1);
		say("warning", text);
	}
	link->said = true;
}

uint64_t ft_sinks_serve(struct ft_sinks *sinks, struct ft_child *ledger, ft_sinks_say *say)
{
	uint64_t next = UINT64_MAX;
	for (unsigned i = 0; i < FT_SINKS; i++) {
		struct ft_sink_link *link = &sinks->links[i];
		if (link->retry_at <= ft_loop_now())
			try(link, ledger, say);
		if (link->retry_at < next)
			next = link->retry_at;
	}
	return next;
}
