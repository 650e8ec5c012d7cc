#include "cli/print.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/printable.h"
#include "base/units.h"

const json_t *ft_print_at(const json_t *json, const char *path)
{
	while (json && *path) {
		char name[64];
		size_t length = strcspn(path, ".");
		if (length >= sizeof(name))
			return NULL;
		memcpy(name, path, length);
		name[length] = 0;
		json = json_object_get(json, name);
		path += length + (path[length] == '.');
	}
	return json;
}

const char *ft_print_text(const json_t *json, const char *path, char *text, size_t size)
{
	const json_t *value = ft_print_at(json, path);
	if (json_is_string(value))
		return ft_printable(text, size, json_string_value(value), json_string_length(value));
	if (json_is_integer(value))
		snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else
		text[0] = 0;
	return text;
}

static json_int_t whole(const json_t *json, const char *path)
{
	return json_integer_value(ft_print_at(json, path));
}

const char *ft_print_time(json_int_t ns, bool date, char text[40])
{
	time_t seconds = (time_t)(ns / 1000000000);
	struct tm local;
	text[0] = 0;
	if (ns > 0 && localtime_r(&seconds, &local)) {
		size_t n = strftime(text, 40, date ? "%Y-%m-%d %H:%M:%S" : "%H:%M:%S", &local);
		snprintf(text + n, 40 - n, ".%03d", (int)(ns / 1000000 % 1000));
	}
	return text;
}

static const char *span(const json_t *hold, char text[FT_UNITS_TEXT])
{
	json_int_t ns = whole(hold, "ended_ns") - whole(hold, "started_ns");
	return ft_units_round_duration(ns > 0 ? (uint64_t)ns : 0, text);
}

/* ---- The verdict table ------------------------------------------------------------------------------------- */

#define ROW        "%-12s  %5s  %-12s  %-9s  %-10s  %-21s  %8s  %s\n"
#define WHY_INDENT 21 /* below the verdict */

void ft_print_head(FILE *file)
{
	fprintf(file, ROW, "TIME", "HOLD", "VERDICT", "DONE", "SERVICE", "CLIENT", "TOOK",
		"TRIGGER, THEN WHY");
}

/* What pointed at the input: the rule's name says more than the reason's label. */
static const char *trigger_text(const json_t *hold, char *text, size_t size)
{
	ft_print_text(hold, "trigger.rule", text, size);
	if (!*text)
		ft_print_text(hold, "trigger.risk", text, size);
	if (!*text)
		ft_print_text(hold, "trigger.reason", text, size);
	return text;
}

/* A record has the flow as a part of it, a summary has its fields at the top. */
static const char *client_text(const json_t *hold, char *text, size_t size)
{
	char address[64], port[16];
	bool whole_record = json_object_get(hold, "flow") != NULL;
	ft_print_text(hold, whole_record ? "flow.client" : "client", address, sizeof(address));
	ft_print_text(hold, whole_record ? "flow.client_port" : "client_port", port, sizeof(port));
	snprintf(text, size, "%s:%s", address, port);
	return text;
}

void ft_print_row(FILE *file, const json_t *hold)
{
	char when[40], number[24], verdict[32], done[32], service[40], client[96], took[FT_UNITS_TEXT];
	char trigger[200], why[300];
	fprintf(file, ROW, ft_print_time(whole(hold, "ended_ns"), false, when),
		ft_print_text(hold, "hold", number, sizeof(number)),
		ft_print_text(hold, "verdict", verdict, sizeof(verdict)),
		ft_print_text(hold, "disposition", done, sizeof(done)),
		ft_print_text(hold, "service", service, sizeof(service)),
		client_text(hold, client, sizeof(client)), span(hold, took),
		trigger_text(hold, trigger, sizeof(trigger)));
	if (*ft_print_text(hold, "rule_text", why, sizeof(why)))
		fprintf(file, "%*s-> %s\n", WHY_INDENT, "", why);
}

void ft_print_verdicts(FILE *file, const json_t *verdicts)
{
	size_t i;
	json_t *hold;
	if (!json_array_size(verdicts)) {
		fprintf(file, "no verdicts yet\n");
		return;
	}
	ft_print_head(file);
	json_array_foreach(verdicts, i, hold) ft_print_row(file, hold);
}

void ft_print_holds(FILE *file, const json_t *holds)
{
	size_t i;
	json_t *hold;
	if (!json_array_size(holds)) {
		fprintf(file, "nothing is held\n");
		return;
	}
	fprintf(file, "%5s  %-12s  %-10s  %-21s  %8s  %6s  %-12s  %s\n", "HOLD", "SINCE", "SERVICE", "CLIENT",
		"BYTES", "FRAMES", "STATE", "TRIGGER");
	json_array_foreach(holds, i, hold)
	{
		char number[24], when[40], service[40], client[96], bytes[24], frames[24], state[40],
		    trigger[200];
		if (json_object_get(hold, "more")) {
			fprintf(file, "and %" JSON_INTEGER_FORMAT " more\n", whole(hold, "more"));
			continue;
		}
		fprintf(file, "%5s  %-12s  %-10s  %-21s  %8s  %6s  %-12s  %s\n",
			ft_print_text(hold, "hold", number, sizeof(number)),
			ft_print_time(whole(hold, "started_ns"), false, when),
			ft_print_text(hold, "service", service, sizeof(service)),
			client_text(hold, client, sizeof(client)),
			ft_print_text(hold, "input.bytes", bytes, sizeof(bytes)),
			ft_print_text(hold, "input.frames", frames, sizeof(frames)),
			ft_print_text(hold, "state", state, sizeof(state)),
			trigger_text(hold, trigger, sizeof(trigger)));
	}
}

/* ---- Status --------------------------------------------------------------------------------------------------- */

/* Scalars of a child's own status, one line; nested things are for --json. */
static void print_scalars(FILE *file, const json_t *status)
{
	const char *name;
	json_t *value;
	bool first = true;
	json_object_foreach((json_t *)status, name, value)
	{
		char key[64], text[128];
		if (json_is_string(value) || json_is_integer(value))
			ft_print_text(status, name, text, sizeof(text));
		else if (json_is_real(value))
			snprintf(text, sizeof(text), "%.3g", json_real_value(value));
		else if (json_is_boolean(value))
			snprintf(text, sizeof(text), "%s", json_is_true(value) ? "yes" : "no");
		else
			continue;
		fprintf(file, "%s%s %s", first ? "    " : ", ",
			ft_printable(key, sizeof(key), name, strlen(name)), text);
		first = false;
	}
	if (!first)
		fputc('\n', file);
}

/* Where the feed goes: the file, and who gets it live. */
static void print_feed(FILE *file, const json_t *status)
{
	char name[64], text[256];
	const json_t *feed = ft_print_at(status, "processes.ledger.status.feed");
	const char *key;
	json_t *sink;
	fprintf(file, "feed: %s", ft_print_text(status, "feed", text, sizeof(text)));
	if (feed)
		fprintf(file, ": %d lines, %d wait, %d lost", (int)whole(feed, "lines"),
			(int)whole(feed, "waiting"), (int)whole(feed, "lost"));
	fputc('\n', file);
	json_object_foreach(json_object_get(feed, "sinks"), key, sink)
	{
		fprintf(file, "feed.%s: %s: ", ft_printable(name, sizeof(name), key, strlen(key)),
			ft_print_text(sink, "path", text, sizeof(text)));
		if (json_is_true(json_object_get(sink, "connected")))
			fprintf(file, "connected");
		else
			fprintf(file, "not connected (%s)",
				ft_print_text(sink, "trouble", text, sizeof(text)));
		fprintf(file, ": %d lines, %d wait, %d lost", (int)whole(sink, "lines"),
			(int)whole(sink, "waiting"), (int)whole(sink, "lost"));
		if (whole(sink, "again"))
			fprintf(file, ", %d sent again", (int)whole(sink, "again"));
		if (whole(sink, "shortened"))
			fprintf(file, ", %d shortened", (int)whole(sink, "shortened"));
		fputc('\n', file);
	}
}

/* What is not inspected, in the first line that somebody reads. */
static void print_bypassed(FILE *file, const json_t *bypass)
{
	size_t i;
	json_t *name;
	if (!bypass)
		return;
	fprintf(file, "!!! BYPASS: inspection is OFF for %s",
		json_is_true(json_object_get(bypass, "all")) ? "all services" : "");
	json_array_foreach(json_object_get(bypass, "services"), i, name)
	{
		char text[64];
		fprintf(file, "%s%s", i || json_is_true(json_object_get(bypass, "all")) ? ", " : "",
			ft_printable(text, sizeof(text), json_string_value(name), json_string_length(name)));
	}
	fprintf(file, " (`foretaste bypass off` ends it)\n");
}

void ft_print_status(FILE *file, const json_t *status)
{
	char a[128], b[128], c[256], took[FT_UNITS_TEXT];
	const char *name;
	json_t *value;
	double up = json_number_value(json_object_get(status, "up_s"));
	print_bypassed(file, json_object_get(status, "bypass"));
	fprintf(file, "%s: %s for %s (foretaste %s)\n", ft_print_text(status, "sensor", a, sizeof(a)),
		ft_print_text(status, "state", b, sizeof(b)),
		ft_units_round_duration((uint64_t)(up * 1e9), took),
		ft_print_text(status, "version", c, sizeof(c)));
	print_feed(file, status);
	json_object_foreach(json_object_get(status, "guests"), name, value)
	{
		fprintf(file, "guest %s: %s", ft_printable(a, sizeof(a), name, strlen(name)),
			ft_print_text(value, "state", b, sizeof(b)));
		const json_t *boot = json_object_get(value, "boot_s");
		if (boot)
			fprintf(file, ", up %.1f s after its start", json_number_value(boot));
		fputc('\n', file);
	}
	json_object_foreach(json_object_get(status, "processes"), name, value)
	{
		fprintf(file, "process %s: %s, pid %d, %d restarts\n",
			ft_printable(a, sizeof(a), name, strlen(name)),
			ft_print_text(value, "state", b, sizeof(b)), (int)whole(value, "pid"),
			(int)whole(value, "restarts"));
		if (json_object_get(value, "error"))
			fprintf(file, "    %s\n", ft_print_text(value, "error", c, sizeof(c)));
		print_scalars(file, json_object_get(value, "status"));
	}
}

void ft_print_guests(FILE *file, const json_t *guests)
{
	const char *name;
	json_t *guest;
	fprintf(file, "%-16s  %-8s  %-16s  %-9s  %-17s  %-15s  %8s  %5s  %5s\n", "GUEST", "STATE", "UPLINK",
		"VLAN", "MAC", "ADDRESS", "RESTARTS", "FLOWS", "HOLDS");
	json_object_foreach((json_t *)guests, name, guest)
	{
		char a[64], state[32], uplink[64], mac[32], address[64], vlan[32], why[300];
		const json_t *tag = json_object_get(guest, "vlan");
		if (json_is_integer(tag))
			snprintf(vlan, sizeof(vlan), "%d", (int)json_integer_value(tag));
		else
			ft_print_text(guest, "vlan", vlan, sizeof(vlan));
		fprintf(file, "%-16s  %-8s  %-16s  %-9s  %-17s  %-15s  %8d  %5d  %5d\n",
			ft_printable(a, sizeof(a), name, strlen(name)),
			ft_print_text(guest, "state", state, sizeof(state)),
			ft_print_text(guest, "uplink", uplink, sizeof(uplink)), vlan,
			ft_print_text(guest, "mac", mac, sizeof(mac)),
			ft_print_text(guest, "address", address, sizeof(address)), (int)whole(guest, "restarts"),
			(int)whole(guest, "flows"), (int)whole(guest, "holds"));
		if (json_object_get(guest, "cpu_not_in_force"))
			fprintf(file, "    its processor share is not in force: %s\n",
				ft_print_text(guest, "cpu_not_in_force", why, sizeof(why)));
	}
}

/* ---- Suppressions ------------------------------------------------------------------------------------------- */

void ft_print_suppression(FILE *file, const json_t *entry)
{
	static const char *const parts[] = {"sid", "network", "service"};
	char number[24], text[200], until[40];
	fprintf(file, "%s:", ft_print_text(entry, "id", number, sizeof(number)));
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		if (*ft_print_text(entry, parts[i], text, sizeof(text)))
			fprintf(file, " %s %s", parts[i], text);
	fprintf(file, ", until %s", ft_print_time(whole(entry, "until_ns"), true, until));
	if (json_object_get(entry, "hits"))
		fprintf(file, ", used %" JSON_INTEGER_FORMAT " times", whole(entry, "hits"));
	fprintf(file, ", by %s", ft_print_text(entry, "author", text, sizeof(text)));
	if (*ft_print_text(entry, "comment", text, sizeof(text)))
		fprintf(file, ": %s", text);
	fputc('\n', file);
}

void ft_print_suppressions(FILE *file, const json_t *entries)
{
	size_t i;
	json_t *entry;
	if (!json_array_size(entries))
		fprintf(file, "nothing is suppressed\n");
	json_array_foreach(entries, i, entry) ft_print_suppression(file, entry);
}

/* ---- The savings report ------------------------------------------------------------------------------------- */

static const char *duration(const json_t *json, const char *path, char text[FT_UNITS_TEXT])
{
	json_int_t ns = whole(json, path);
	return ft_units_round_duration(ns > 0 ? (uint64_t)ns : 0, text);
}

void ft_print_shadow(FILE *file, const json_t *report)
{
	char service[64], a[FT_UNITS_TEXT], b[FT_UNITS_TEXT], c[FT_UNITS_TEXT], d[FT_UNITS_TEXT], since[40];
	const char *name;
	size_t i;
	json_t *value;
	fprintf(file, "service %s: shadow mode since %s, for %s%s\n",
		ft_print_text(report, "service", service, sizeof(service)),
		ft_print_time(whole(report, "since_ns"), true, since), duration(report, "lasted_ns", a),
		json_is_true(json_object_get(report, "ended")) ? " (ended)" : "");
	fprintf(file,
		"  would have held   %" JSON_INTEGER_FORMAT " times, %" JSON_INTEGER_FORMAT
		" packets, %" JSON_INTEGER_FORMAT " bytes\n",
		whole(report, "held"), whole(report, "held_frames"), whole(report, "held_bytes"));
	fprintf(file,
		"  would have dropped %" JSON_INTEGER_FORMAT " of them, and %" JSON_INTEGER_FORMAT
		" packets that came behind on their connections\n",
		whole(report, "dropped"), whole(report, "dropped_behind"));
	fprintf(file, "  would have delayed p50 %s, p90 %s, p99 %s, longest %s\n",
		duration(report, "delay_ns.p50", a), duration(report, "delay_ns.p90", b),
		duration(report, "delay_ns.p99", c), duration(report, "delay_ns.longest", d));
	fprintf(file, "  not tried, because no clone was free at once: %" JSON_INTEGER_FORMAT "\n",
		whole(report, "untried"));
	fprintf(file, "  clones ran for %s\n", duration(report, "clone_ns", a));
	json_object_foreach(json_object_get(report, "outcomes"), name, value)
	{
		char label[64];
		fprintf(file, "  outcome %-22s %" JSON_INTEGER_FORMAT "\n",
			ft_printable(label, sizeof(label), name, strlen(name)), json_integer_value(value));
	}
	json_array_foreach(json_object_get(report, "rules"), i, value)
	{
		char rule[80];
		fprintf(file, "  rule %-25s held %" JSON_INTEGER_FORMAT ", dropped %" JSON_INTEGER_FORMAT "\n",
			ft_print_text(value, "name", rule, sizeof(rule)), whole(value, "held"),
			whole(value, "dropped"));
	}
}
