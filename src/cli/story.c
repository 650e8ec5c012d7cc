/* `foretaste show`: one hold told as a story. */
#include "cli/print.h"

#include <inttypes.h>
#include <string.h>

#include "base/event.h"
#include "base/printable.h"
#include "base/reason.h"
#include "base/units.h"

#define WIDTH 100

static json_int_t whole(const json_t *json, const char *path)
{
	return json_integer_value(ft_print_at(json, path));
}

/* The sentence that goes with a reason's label. */
static const char *reason_text(const char *label)
{
	for (int reason = 0; reason < FT_REASON_COUNT; reason++)
		if (!strcmp(ft_reason_label((enum ft_reason)reason), label))
			return ft_reason_text((enum ft_reason)reason);
	return "";
}

static const char *end_text(const char *label)
{
	for (unsigned end = 0; end < FT_TRIAL_END_COUNT; end++)
		if (!strcmp(ft_trial_end_label(end), label))
			return ft_trial_end_text(end);
	return label;
}

/* Writes text, broken into lines with that indent. */
static void wrapped(FILE *file, int indent, const char *text)
{
	while (*text) {
		int n = (int)strlen(text), most = WIDTH - indent;
		if (n > most)
			for (n = most; n > 1 && ((unsigned char)text[n] & 0xc0) == 0x80;)
				n--; /* not within a character */
		fprintf(file, "%*s%.*s\n", indent, "", n, text);
		text += n;
	}
}

static void who(FILE *file, const json_t *hold)
{
	char client[64], cport[16], server[64], sport[16], proto[16], service[48], guest[48], when[40];
	fprintf(file,
		"%s  %s:%s sent %" JSON_INTEGER_FORMAT " bytes in %" JSON_INTEGER_FORMAT
		" frame%s over %s to service %s of guest %s (%s:%s)\n",
		ft_print_time(whole(hold, "started_ns"), true, when),
		ft_print_text(hold, "flow.client", client, sizeof(client)),
		ft_print_text(hold, "flow.client_port", cport, sizeof(cport)), whole(hold, "input.bytes"),
		whole(hold, "input.frames"), whole(hold, "input.frames") == 1 ? "" : "s",
		ft_print_text(hold, "flow.proto", proto, sizeof(proto)),
		ft_print_text(hold, "service", service, sizeof(service)),
		ft_print_text(hold, "guest", guest, sizeof(guest)),
		ft_print_text(hold, "flow.server", server, sizeof(server)),
		ft_print_text(hold, "flow.server_port", sport, sizeof(sport)));
	char method[32], url[600], input[1200];
	if (ft_print_at(hold, "input.http.url"))
		fprintf(file, "    %s %s\n", ft_print_text(hold, "input.http.method", method, sizeof(method)),
			ft_print_text(hold, "input.http.url", url, sizeof(url)));
	else if (ft_print_at(hold, "input.printable"))
		wrapped(file, 4, ft_print_text(hold, "input.printable", input, sizeof(input)));
	if (ft_print_at(hold, "input.sha256"))
		fprintf(file, "    sha256 %s\n", ft_print_text(hold, "input.sha256", input, sizeof(input)));
}

static void why_held(FILE *file, const json_t *hold)
{
	char label[40], rule[300], sid[24], risk[100], mode[24];
	ft_print_text(hold, "trigger.reason", label, sizeof(label));
	ft_print_text(hold, "mode", mode, sizeof(mode));
	fprintf(file, "\nWHY IT WAS %s\n    %s (%s)\n", !strcmp(mode, "observe") ? "TRIED" : "HELD",
		reason_text(label), label);
	if (*ft_print_text(hold, "trigger.rule", rule, sizeof(rule)))
		fprintf(file, "    rule %s: %s\n", ft_print_text(hold, "trigger.sid", sid, sizeof(sid)),
			rule);
	if (*ft_print_text(hold, "trigger.risk", risk, sizeof(risk)))
		fprintf(file, "    risk: %s\n", risk);
}

static void trials(FILE *file, const json_t *hold)
{
	size_t i;
	json_t *trial;
	fprintf(file, "\nWHAT WAS TRIED\n");
	const json_t *group = json_object_get(hold, "group");
	if (whole(group, "size") > 1)
		fprintf(file, "    together with %" JSON_INTEGER_FORMAT " other holds, one after the other, on one clone\n",
			whole(group, "size") - 1);
	json_array_foreach(json_object_get(hold, "trials"), i, trial)
	{
		char role[24], end[48], virtual_time[FT_UNITS_TEXT], wall[FT_UNITS_TEXT],
		    pause[FT_UNITS_TEXT];
		ft_print_text(trial, "role", role, sizeof(role));
		ft_print_text(trial, "end", end, sizeof(end));
		bool twin = !strcmp(role, "twin");
		fprintf(file, "    %s: %s\n", twin ? "twin, without the input" : "clone, with the input",
			end_text(end));
		if (!twin)
			fprintf(file,
				"        took %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT
				" held bytes%s; the live guest paused %s\n",
				whole(trial, "taken_bytes"), whole(trial, "held_bytes"),
				json_is_true(json_object_get(trial, "handled")) ? " and came to rest" : "",
				ft_units_round_duration((uint64_t)whole(trial, "pause_ns"), pause));
		fprintf(file, "        %" JSON_INTEGER_FORMAT " instructions, %s of its time",
			whole(trial, "instructions"),
			ft_units_round_duration((uint64_t)whole(trial, "virtual_ns"), virtual_time));
		if (whole(trial, "wall_ns") > 0)
			fprintf(file, " in %s of ours",
				ft_units_round_duration((uint64_t)whole(trial, "wall_ns"), wall));
		fprintf(file, ", %" JSON_INTEGER_FORMAT " pages written\n", whole(trial, "pages_written"));
	}
}

/* The fields of an entry that its line does not show yet, as name value. */
static void other_fields(FILE *file, const json_t *entry)
{
	static const char *const shown[] = {"t_ns", "event", "pid", "process", "twin", "count", NULL};
	const char *name;
	json_t *value;
	json_object_foreach((json_t *)entry, name, value)
	{
		bool skip = false;
		char key[64], text[400];
		for (int i = 0; shown[i]; i++)
			skip |= !strcmp(shown[i], name);
		if (skip || json_is_null(value) || json_is_object(value) || json_is_array(value))
			continue;
		if (json_is_boolean(value))
			snprintf(text, sizeof(text), "%s", json_is_true(value) ? "yes" : "no");
		else
			ft_print_text(entry, name, text, sizeof(text));
		if (*text)
			fprintf(file, "  %s %s", ft_printable(key, sizeof(key), name, strlen(name)), text);
	}
}

static void evidence(FILE *file, const json_t *hold)
{
	size_t i, shown = 0;
	json_t *entry;
	fprintf(file, "\nWHAT THE CLONE DID, IN ORDER\n");
	json_array_foreach(json_object_get(hold, "evidence"), i, entry)
	{
		char event[40], process[40], when[FT_UNITS_TEXT], pid[24], says[500];
		bool twin = json_is_true(json_object_get(entry, "twin"));
		fprintf(file, "    %9s  ", ft_units_round_duration((uint64_t)whole(entry, "t_ns"), when));
		if (*ft_print_text(entry, "says", says, sizeof(says))) {
			fprintf(file, "%s", says);
		} else {
			fprintf(file, "%-14s %s", ft_print_text(entry, "event", event, sizeof(event)),
				ft_print_text(entry, "process", process, sizeof(process)));
			other_fields(file, entry);
		}
		if (whole(entry, "pid") > 0)
			fprintf(file, "  [process %s]", ft_print_text(entry, "pid", pid, sizeof(pid)));
		if (whole(entry, "count") > 1)
			fprintf(file, "  (%" JSON_INTEGER_FORMAT " times)", whole(entry, "count"));
		fprintf(file, "%s\n", twin ? "  [the twin did this too: it does not count]" : "");
		shown++;
	}
	if (!shown)
		fprintf(file, "    nothing that is recorded\n");
	if (whole(hold, "evidence_dropped") > 0)
		fprintf(file, "    %" JSON_INTEGER_FORMAT " more entries did not fit into the record\n",
			whole(hold, "evidence_dropped"));
}

void ft_print_story(FILE *file, const json_t *hold)
{
	char number[24], verdict[40], rule[100], text[400], label[40], disposition[40], took[FT_UNITS_TEXT],
	    when[40];
	json_int_t ns = whole(hold, "ended_ns") - whole(hold, "started_ns");
	fprintf(file, "Hold %s: %s, %s\n\n", ft_print_text(hold, "hold", number, sizeof(number)),
		ft_print_text(hold, "verdict", verdict, sizeof(verdict)),
		ft_print_text(hold, "disposition", disposition, sizeof(disposition)));
	who(file, hold);
	why_held(file, hold);
	trials(file, hold);
	evidence(file, hold);
	fprintf(file, "\nWHICH RULE DECIDED\n    %s", verdict);
	if (*ft_print_text(hold, "rule", rule, sizeof(rule)))
		fprintf(file, ": %s, severity %" JSON_INTEGER_FORMAT "\n    %s", rule,
			whole(hold, "severity"), ft_print_text(hold, "rule_text", text, sizeof(text)));
	ft_print_text(hold, "disposition_reason", label, sizeof(label));
	fprintf(file, "\n\nWHAT WAS DONE\n    %s  %s after %s: %s (%s)\n",
		ft_print_time(whole(hold, "ended_ns"), true, when), disposition,
		ft_units_round_duration(ns > 0 ? (uint64_t)ns : 0, took), reason_text(label), label);
	if (ft_print_at(hold, "frames_done"))
		fprintf(file, "    %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " held frame%s\n",
			whole(hold, "frames_done"), whole(hold, "input.frames"),
			whole(hold, "input.frames") == 1 ? "" : "s");
	if (*ft_print_text(hold, "quarantine.file", text, sizeof(text)))
		fprintf(file, "    packets kept in %s\n", text);
}
