#include "gateway/suppress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/units.h"
#include "gateway/answer.h"
#include "gateway/files.h"
#include "gateway/operate.h"

#define FILE_NAME "suppressions"
#define MOST      256u /* the dataplane's own bound */
#define COMMENT   200u
#define LONGEST   (8784ull * 3600 * 1000000000) /* a year */

static uint64_t wall_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t until_of(const json_t *entry)
{
	return (uint64_t)json_integer_value(json_object_get(entry, "until_ns"));
}

json_t *ft_suppress_list(const struct ft_supervisor *s)
{
	return json_object_get(s->suppressions, "list");
}

int ft_suppress_open(struct ft_supervisor *s, struct ft_error *err)
{
	int error = ft_files_read_json(s->state_fd, FILE_NAME, &s->suppressions, err);
	if (error)
		return error;
	if (!s->suppressions)
		s->suppressions = json_pack("{s:i, s:[]}", "next", 1, "list");
	if (json_is_integer(json_object_get(s->suppressions, "next")) && json_is_array(ft_suppress_list(s)))
		return 0;
	return ft_error_set(
	    err, -EINVAL, "the file %s in the state directory is damaged: expected next and list", FILE_NAME);
}

void ft_suppress_close(struct ft_supervisor *s)
{
	json_decref(s->suppressions);
	s->suppressions = NULL;
}

/* What it suppresses, in words. */
static const char *words(const json_t *entry, char *text, size_t size)
{
	const char *network = json_string_value(json_object_get(entry, "network"));
	const char *service = json_string_value(json_object_get(entry, "service"));
	json_int_t sid = json_integer_value(json_object_get(entry, "sid"));
	char rule[40] = "all findings";
	if (sid)
		snprintf(rule, sizeof(rule), "rule %" JSON_INTEGER_FORMAT, sid);
	snprintf(text, size, "%s%s%s%s%s", rule, network ? " of clients in " : "", network ? network : "",
		 service ? " at service " : "", service ? service : "");
	return text;
}

/* Makes list the one in force: in the file first, so that no crash brings back or forgets one, then in the dataplane. Takes
 * list over. */
static int put(struct ft_supervisor *s, json_t *list, json_int_t next, struct ft_error *err)
{
	json_t *made = json_pack("{s:I, s:o}", "next", next, "list", list);
	int error = made ? ft_files_write_json(s->state_fd, FILE_NAME, made, err) : -ENOMEM;
	if (error) {
		json_decref(made);
		return error;
	}
	json_decref(s->suppressions);
	s->suppressions = made;
	struct ft_child *dataplane = ft_supervisor_dataplane(s);
	if (dataplane->state == FT_CHILD_READY)
		ft_child_send(dataplane,
			      json_pack("{s:s, s:O}", "op", "suppress", "list", ft_suppress_list(s)), NULL,
			      0);
	return 0;
}

static json_t *without(const struct ft_supervisor *s, const json_t *entry)
{
	json_t *list = json_array(), *other;
	size_t i;
	json_array_foreach(ft_suppress_list(s), i, other) if (other != entry) json_array_append(list, other);
	return list;
}

uint64_t ft_suppress_expire(struct ft_supervisor *s, uint64_t now)
{
	uint64_t wall = wall_ns(), next = UINT64_MAX;
	size_t i = 0;
	while (i < json_array_size(ft_suppress_list(s))) {
		json_t *entry = json_incref(json_array_get(ft_suppress_list(s), i));
		uint64_t until = until_of(entry);
		char what[160];
		struct ft_error err = {0};
		if (until > wall) {
			/* Wall clocks are set: it is looked at again soon enough. */
			uint64_t left = until - wall < 60000000000ull ? until - wall : 60000000000ull;
			if (now + left < next)
				next = now + left;
			i++;
		} else if (put(s, without(s, entry),
			       json_integer_value(json_object_get(s->suppressions, "next")), &err)) {
			/* The dataplane has ended it by itself; the file keeps an entry that is over. */
			if (now + 60000000000ull < next)
				next = now + 60000000000ull;
			i++;
		} else {
			ft_supervisor_record(s, "suppress-end", NULL, NULL,
					     "suppression %" JSON_INTEGER_FORMAT " (%s) has ended",
					     json_integer_value(json_object_get(entry, "id")),
					     words(entry, what, sizeof(what)));
		}
		json_decref(entry);
	}
	return next;
}

/* ---- requests ---- */

static bool is_network(const char *text)
{
	char copy[INET6_ADDRSTRLEN + 8];
	unsigned char bytes[16];
	if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy))
		return false;
	char *slash = strchr(copy, '/'), *end;
	if (slash)
		*slash = 0;
	bool four = inet_pton(AF_INET, copy, bytes) == 1;
	if (!four && inet_pton(AF_INET6, copy, bytes) != 1)
		return false;
	return !slash || (slash[1] >= '0' && slash[1] <= '9' &&
			  strtoul(slash + 1, &end, 10) <= (four ? 32 : 128) && !*end);
}

/* Checks a request and makes an entry of it (without its number). NULL: *why says what is wrong. */
static json_t *entry_of(const struct ft_supervisor *s, const json_t *request, char why[160])
{
	const json_t *sid = json_object_get(request, "sid");
	const char *network = json_string_value(json_object_get(request, "network"));
	const char *service = json_string_value(json_object_get(request, "service"));
	const char *comment = json_string_value(json_object_get(request, "comment"));
	const char *lasts = json_string_value(json_object_get(request, "for"));
	uint64_t ns = 0;
	struct ft_error err = {0};
	if (sid &&
	    (!json_is_integer(sid) || json_integer_value(sid) <= 0 || json_integer_value(sid) > UINT32_MAX))
		snprintf(why, 160, "sid is no rule's number");
	else if (network && !is_network(network))
		snprintf(why, 160, "network is \"%.50s\", expected for example 10.0.0.0/8 or fd00::/64",
			 network);
	else if (service && !json_object_get(ft_config_get(s->config, "services"), service))
		snprintf(why, 160, "there is no service \"%.64s\"", service);
	else if (!sid && !network && !service)
		snprintf(why, 160,
			 "that would suppress everything: expected at least one of sid, network and service "
			 "(bypass switches inspection off)");
	else if (!lasts)
		snprintf(why, 160, "for is missing, expected how long it lasts, for example \"8 h\"");
	else if (ft_units_duration(lasts, &ns, &err))
		snprintf(why, 160, "for: %.150s", err.text);
	else if (!ns || ns > LONGEST)
		snprintf(why, 160, "for is \"%.40s\", expected more than nothing and at most a year (8784 h)",
			 lasts);
	else if (comment && strlen(comment) > COMMENT)
		snprintf(why, 160, "comment is longer than %u bytes", COMMENT);
	else if (json_array_size(ft_suppress_list(s)) >= MOST)
		snprintf(why, 160, "there are %u suppressions already, which is the most", MOST);
	else
		return json_pack("{s:O*, s:s*, s:s*, s:I, s:I, s:s}", "sid", sid, "network", network,
				 "service", service, "made_ns", (json_int_t)wall_ns(), "until_ns",
				 (json_int_t)(wall_ns() + ns), "comment", comment ? comment : "");
	return NULL;
}

static void answer(struct ft_supervisor *s, uint64_t connection, const json_t *request, json_t *result)
{
	ft_control_answer(&s->control, connection,
			  json_pack("{s:O?, s:O}", "id", json_object_get(request, "id"), "result", result));
}

void ft_suppress_add(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	char why[160] = "no memory", who[80], what[160], lasts[FT_UNITS_TEXT];
	struct ft_error err = {0};
	json_t *id = json_object_get(request, "id"), *entry = entry_of(s, request, why);
	if (!entry) {
		ft_query_refuse(&s->control, connection, id, EX_USAGE, "%s", why);
		return;
	}
	json_int_t number = json_integer_value(json_object_get(s->suppressions, "next"));
	json_object_set_new(entry, "id", json_integer(number));
	json_object_set_new(entry, "author", json_string(ft_control_who(&s->control, connection, who)));
	json_t *list = json_copy(ft_suppress_list(s));
	json_array_append(list, entry);
	if (put(s, list, number + 1, &err)) {
		ft_query_refuse(&s->control, connection, id, EX_IOERR, "%s", err.text);
	} else {
		const char *comment = json_string_value(json_object_get(entry, "comment"));
		uint64_t ns =
		    until_of(entry) - (uint64_t)json_integer_value(json_object_get(entry, "made_ns"));
		ft_supervisor_record(s, "suppress", NULL, NULL,
				     "suppression %" JSON_INTEGER_FORMAT " (%s) was made for %s by %s%s%s",
				     number, words(entry, what, sizeof(what)),
				     ft_units_round_duration(ns, lasts), who, *comment ? ": " : "", comment);
		answer(s, connection, request, entry);
	}
	json_decref(entry);
}

void ft_suppress_remove(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	char who[80], what[160];
	struct ft_error err = {0};
	json_int_t number = json_integer_value(json_object_get(request, "suppression"));
	json_t *id = json_object_get(request, "id"), *found = NULL, *entry;
	size_t i;
	json_array_foreach(ft_suppress_list(s), i,
			   entry) if (json_integer_value(json_object_get(entry, "id")) == number) found =
	    entry;
	if (!found) {
		ft_query_refuse(&s->control, connection, id, EX_DATAERR,
				"there is no suppression %" JSON_INTEGER_FORMAT, number);
		return;
	}
	json_incref(found);
	if (put(s, without(s, found), json_integer_value(json_object_get(s->suppressions, "next")), &err)) {
		ft_query_refuse(&s->control, connection, id, EX_IOERR, "%s", err.text);
	} else {
		ft_supervisor_record(s, "suppress-end", NULL, NULL,
				     "suppression %" JSON_INTEGER_FORMAT " (%s) was removed by %s", number,
				     words(found, what, sizeof(what)),
				     ft_control_who(&s->control, connection, who));
		answer(s, connection, request, found);
	}
	json_decref(found);
}

/* The dataplane knows how often each was used. */
void ft_suppress_show(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	ft_answer_ask(s, connection, request, FT_CHILD_DATAPLANE, json_pack("{s:s}", "what", "suppressions"));
}
