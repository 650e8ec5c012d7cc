#include "clone/report.h"

#include <errno.h>
#include <sys/socket.h>

void ft_report_begin(struct ft_report *report, int fd, enum ft_event_role role, uint64_t trial)
{
	*report = (struct ft_report){.fd = fd, .role = role, .wait = role != FT_ROLE_LIVE, .trial = trial};
	report->limit = report->wait ? FT_REPORT_LIMIT : UINT64_MAX;
}

static bool send_message(struct ft_report *report, const uint8_t *bytes, size_t length)
{
	ssize_t n;
	do
		n = send(report->fd, bytes, length, MSG_NOSIGNAL | (report->wait ? 0 : MSG_DONTWAIT));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		report->dead |= errno != EAGAIN && errno != ENOBUFS;
	return n >= 0;
}

void ft_report_gather(struct ft_report *report, uint8_t room[FT_EVENTS_MAX])
{
	report->room = room;
	report->gathered = 0;
}

void ft_report_flush(struct ft_report *report)
{
	if (report->gathered)
		send_message(report, report->room, report->gathered);
	report->gathered = 0;
}

static bool put(struct ft_report *report, struct ft_event *event, const char *string0, const char *string1)
{
	uint8_t record[FT_EVENT_MAX], *at = record;
	event->role = (uint8_t)report->role;
	event->trial = report->trial;
	event->sequence = report->sequence;
	if (report->room && report->gathered > FT_EVENTS_MAX - FT_EVENT_MAX)
		ft_report_flush(report);
	if (report->room)
		at = report->room + report->gathered;
	size_t length = ft_event_build(at, event, string0, string1);
	if (report->take)
		report->take(report->context, record, length);
	else if (report->room)
		report->gathered += length;
	else if (!send_message(report, record, length))
		return false;
	report->sequence++;
	return true;
}

/* The life of a trial is told even when its evidence was too much. */
static bool vital(unsigned type)
{
	return type <= FT_EVENT_SEED_GONE;
}

void ft_report_send(struct ft_report *report, struct ft_event *event, const char *string0,
		    const char *string1)
{
	if (report->fd < 0 || report->dead)
		return;
	if (!vital(event->type)) {
		if (!report->limit) {
			report->lost++;
			return;
		}
		report->limit--;
	}
	if (report->lost && (!report->wait || vital(event->type))) {
		struct ft_event lost = {.type = FT_EVENT_LOST,
					.icount = event->icount,
					.vtime_ns = event->vtime_ns,
					.pid = -1,
					.a = {report->lost}};
		if (!put(report, &lost, NULL, NULL)) {
			report->lost++;
			return;
		}
		report->lost = 0;
	}
	if (!put(report, event, string0, string1))
		report->lost++;
	if (vital(event->type))
		ft_report_flush(report);
}
