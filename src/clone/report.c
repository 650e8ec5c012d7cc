#include "clone/report.h"

#include <errno.h>
#include <sys/socket.h>

void ft_report_begin(struct ft_report *report, int fd, enum ft_event_role role, uint64_t trial)
{
	*report = (struct ft_report){.fd = fd, .role = role, .wait = role != FT_ROLE_LIVE, .trial = trial};
	report->limit = report->wait ? FT_REPORT_LIMIT : UINT64_MAX;
}

static bool put(struct ft_report *report, struct ft_event *event, const char *string0, const char *string1)
{
	uint8_t record[FT_EVENT_MAX];
	event->role = (uint8_t)report->role;
	event->trial = report->trial;
	event->sequence = report->sequence;
	size_t length = ft_event_build(record, event, string0, string1);
	ssize_t n;
	if (report->take) {
		report->take(report->context, record, length);
		report->sequence++;
		return true;
	}
	do
		n = send(report->fd, record, length, MSG_NOSIGNAL | (report->wait ? 0 : MSG_DONTWAIT));
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		report->dead |= errno != EAGAIN && errno != ENOBUFS;
		return false;
	}
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
}
