#include "log/syslog_message.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define SYSLOG_NAMES /* the C library's tables of names */
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "log/eve.h"

#define JSON_FLAGS (JSON_COMPACT | JSON_ENSURE_ASCII)

static int find(const CODE *names, const char *name)
{
	while (names->c_name && strcmp(names->c_name, name))
		names++;
	return names->c_name ? names->c_val : -1;
}

int ft_syslog_open(struct ft_syslog *syslog, const char *facility, const char *severity, bool cee,
		   size_t limit, struct ft_error *err)
{
	int f = find(facilitynames, facility), s = find(prioritynames, severity);
	*syslog = (struct ft_syslog){.priority = f | s, .pid = (int)getpid(), .cee = cee, .limit = limit};
	if (f < 0 || (f & LOG_PRIMASK) || s < 0 || (s & ~LOG_PRIMASK))
		return ft_error_set(err, -EINVAL, "syslog has no facility \"%.32s\" or no severity \"%.32s\"",
				    facility, severity);
	if (limit < FT_SYSLOG_LEAST)
		return ft_error_set(err, -EINVAL, "a syslog message of %zu bytes is too short", limit);
	return 0;
}

/* The local time of day, as every sender on this socket writes it. localtime_r needs no file here: the process has read
 * its time zone before it was confined. */
static size_t write_header(const struct ft_syslog *syslog, char header[96])
{
	char when[32] = "";
	time_t now = time(NULL);
	struct tm local;
	if (localtime_r(&now, &local))
		strftime(when, sizeof(when), "%b %e %H:%M:%S", &local);
	int n = snprintf(header, 96, "<%d>%s foretaste[%d]: %s", syslog->priority, when, syslog->pid,
			 syslog->cee ? "@cee: " : "");
	return (size_t)n;
}

static char *join(const char *header, size_t header_length, const json_t *line, size_t *length)
{
	size_t size = json_dumpb(line, NULL, 0, JSON_FLAGS);
	char *text = size ? malloc(header_length + size) : NULL;
	if (!text)
		return NULL;
	memcpy(text, header, header_length);
	json_dumpb(line, text + header_length, size, JSON_FLAGS);
	*length = header_length + size;
	return text;
}

/* What a record can be long by. The numbers, names and reasons of the verdict stay. */
static json_t *without_evidence(const json_t *line, size_t whole)
{
	json_t *copy = json_deep_copy(line);
	json_t *ours =
	    json_object_get(json_object_get(json_object_get(copy, "alert"), "context"), "foretaste");
	json_t *evidence = json_object_get(ours, "evidence");
	if (!ours)
		return copy;
	json_int_t dropped = json_integer_value(json_object_get(ours, "evidence_dropped")) +
			     (json_int_t)json_array_size(evidence);
	json_object_set_new(ours, "evidence_dropped", json_integer(dropped));
	json_object_set_new(ours, "shortened_from", json_integer((json_int_t)whole));
	json_object_del(ours, "evidence");
	json_object_del(ours, "trials");
	json_object_del(ours, "input");
	json_object_del(copy, "payload_printable");
	json_object_del(copy, "http");
	return copy;
}

static json_t *only_named(const char *sensor, const json_t *line, size_t whole)
{
	static const char *const where[] = {"alert", "context", "foretaste", "hold"};
	const char *type = json_string_value(json_object_get(line, "event_type"));
	const json_t *hold = line;
	char text[256], number[48] = "";
	for (size_t i = 0; i < sizeof(where) / sizeof(*where); i++)
		hold = json_object_get(hold, where[i]);
	if (json_is_integer(hold))
		snprintf(number, sizeof(number), " of hold %" JSON_INTEGER_FORMAT, json_integer_value(hold));
	snprintf(text, sizeof(text),
		 "a line of type %.32s%s with %zu bytes is too long for syslog; the feed file has it",
		 type ? type : "?", number, whole);
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return ft_eve_engine(sensor, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, "feed", text,
			     1);
}

char *ft_syslog_message(const struct ft_syslog *syslog, const char *sensor, const json_t *line,
			size_t *length, bool *shortened)
{
	char header[96];
	size_t header_length = write_header(syslog, header);
	char *text = join(header, header_length, line, length);
	*shortened = text && *length > syslog->limit;
	for (int step = 0; step < 2 && text && *length > syslog->limit; step++) {
		size_t whole = json_dumpb(line, NULL, 0, JSON_FLAGS);
		json_t *shorter = step ? only_named(sensor, line, whole) : without_evidence(line, whole);
		free(text);
		text = join(header, header_length, shorter, length);
		json_decref(shorter);
	}
	return text;
}
