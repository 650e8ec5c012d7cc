#include "dataplane/backlog.h"

#include <errno.h>
#include <string.h>

#include "base/channel.h"

int ft_backlog_open(struct ft_backlog *backlog, int fd)
{
	*backlog = (struct ft_backlog){.fd = fd, .waiting = json_array()};
	return backlog->waiting ? 0 : -ENOMEM;
}

void ft_backlog_close(struct ft_backlog *backlog)
{
	json_decref(backlog->waiting);
	backlog->waiting = NULL;
}

static bool is_full(int error)
{
	return error == -EAGAIN || error == -ENOBUFS;
}

static bool may_wait(const struct ft_backlog *backlog, const json_t *record)
{
	const char *op = json_string_value(json_object_get(record, "op"));
	return op && strcmp(op, "packets") && json_array_size(backlog->waiting) < FT_BACKLOG_MOST;
}

int ft_backlog_send(struct ft_backlog *backlog, json_t *record)
{
	ft_backlog_flush(backlog);
	int error = ft_backlog_waits(backlog) ? -EAGAIN : ft_channel_send(backlog->fd, record, NULL, 0);
	if (is_full(error) && may_wait(backlog, record) && !json_array_append(backlog->waiting, record))
		return 0;
	backlog->lost += error != 0;
	return error;
}

void ft_backlog_flush(struct ft_backlog *backlog)
{
	size_t sent = 0, count = json_array_size(backlog->waiting);
	for (; sent < count; sent++) {
		int error = ft_channel_send(backlog->fd, json_array_get(backlog->waiting, sent), NULL, 0);
		if (is_full(error))
			break;
		backlog->lost += error != 0;
	}
	json_t *rest = sent ? json_array() : NULL;
	if (!rest)
		return; /* nothing sent; or no memory, and then some are sent twice rather than lost */
	for (size_t i = sent; i < count; i++)
		json_array_append(rest, json_array_get(backlog->waiting, i));
	json_decref(backlog->waiting);
	backlog->waiting = rest;
}
