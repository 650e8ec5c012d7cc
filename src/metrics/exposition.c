#include "metrics/exposition.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "base/histogram.h"
#include "base/printable.h"
#include "base/reason.h"
#include "metrics/health.h"

/* ---- The format ------------------------------------------------------------------------------------------------- */

#define LABELS 3

struct label {
	const char *name, *value;
};

static void head(FILE *file, const char *metric, const char *type, const char *help)
{
	fprintf(file, "# HELP foretaste_%s %s\n# TYPE foretaste_%s %s\n", metric, help, metric, type);
}

/* A label's value: names come from the configuration and from processes that a guest may have broken. */
static void print_value(FILE *file, const char *text)
{
	char clean[256];
	for (const char *p = ft_printable(clean, sizeof(clean), text, strlen(text)); *p; p++)
		fprintf(file, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
}

/* Labels without a value are left out. suffix: of a histogram's parts. */
static void name_of(FILE *file, const char *metric, const char *suffix, const struct label labels[LABELS],
		    const char *bound)
{
	char open = '{';
	fprintf(file, "foretaste_%s%s", metric, suffix);
	for (unsigned i = 0; i < LABELS; i++) {
		if (!labels[i].name || !labels[i].value)
			continue;
		fprintf(file, "%c%s=\"", open, labels[i].name);
		print_value(file, labels[i].value);
		fputc('"', file);
		open = ',';
	}
	if (bound)
		fprintf(file, "%cle=\"%s\"", open, bound);
	fputs(open == ',' || bound ? "} " : " ", file);
}

/* Numbers and truth values; anything else is no sample. */
static void sample(FILE *file, const char *metric, const struct label labels[LABELS], const json_t *value)
{
	if (!json_is_number(value) && !json_is_boolean(value))
		return;
	name_of(file, metric, "", labels, NULL);
	if (json_is_real(value))
		fprintf(file, "%.17g\n", json_real_value(value));
	else
		fprintf(file, "%" JSON_INTEGER_FORMAT "\n",
			json_is_integer(value) ? json_integer_value(value) : json_is_true(value));
}

static void print_histogram(FILE *file, const char *metric, const struct label labels[LABELS],
			    enum ft_histogram_kind kind, const json_t *value)
{
	struct ft_histogram histogram;
	uint64_t count = 0;
	char bound[32];
	if (!value || ft_histogram_read(value, &histogram))
		return;
	for (unsigned i = 0; i <= FT_HISTOGRAM_BUCKETS; i++) {
		count += histogram.counts[i];
		snprintf(bound, sizeof(bound), "%.9g",
			 i < FT_HISTOGRAM_BUCKETS ? (double)ft_histogram_bounds[kind][i] / 1e9 : 0);
		name_of(file, metric, "_bucket", labels, i < FT_HISTOGRAM_BUCKETS ? bound : "+Inf");
		fprintf(file, "%" PRIu64 "\n", count);
	}
	name_of(file, metric, "_sum", labels, NULL);
	fprintf(file, "%.9f\n", (double)histogram.sum_ns / 1e9);
	name_of(file, metric, "_count", labels, NULL);
	fprintf(file, "%" PRIu64 "\n", count);
}

static const json_t *at(const json_t *json, const char *const *path)
{
	for (; json && *path; path++)
		json = json_object_get(json, *path);
	return json;
}

#define AT(json, ...) at(json, (const char *const[]){__VA_ARGS__, NULL})

/* What a process says of itself; NULL when it does not answer. */
static const json_t *said(const json_t *state, const char *process)
{
	return AT(state, "processes", process, "status");
}

/* ---- The gateway and its processes ------------------------------------------------------------------------------ */

static bool is(const json_t *json, const char *key, const char *word)
{
	const char *text = json_string_value(json_object_get(json, key));
	return text && !strcmp(text, word);
}

static void print_gateway(FILE *file, const json_t *state)
{
	const struct label none[LABELS] = {{NULL, NULL}};
	const struct label build[LABELS] = {{"version", json_string_value(json_object_get(state, "version"))}};
	head(file, "build_info", "gauge", "Always 1; the version is in the label.");
	sample(file, "build_info", build, json_true());
	head(file, "uptime_seconds", "gauge", "How long the gateway has been running.");
	sample(file, "uptime_seconds", none, json_object_get(state, "up_s"));
	head(file, "healthy", "gauge", "Whether /healthz says 200.");
	sample(file, "healthy", none, ft_health_live(state, NULL) ? json_true() : json_false());
	head(file, "ready", "gauge", "Whether /readyz says 200.");
	sample(file, "ready", none, ft_health_ready(state, NULL) ? json_true() : json_false());
}

static void print_processes(FILE *file, const json_t *state)
{
	json_t *processes = json_object_get(state, "processes"), *process;
	const char *name;
	head(file, "process_up", "gauge", "Whether a process runs, is ready and answers.");
	json_object_foreach(processes, name, process)
	{
		bool up = is(process, "state", "ready") && !json_object_get(process, "error");
		sample(file, "process_up", (struct label[LABELS]){{"process", name}}, up ? json_true() : json_false());
	}
	head(file, "restarts_total", "counter", "Processes that died and were replaced.");
	json_object_foreach(processes, name, process)
		sample(file, "restarts_total", (struct label[LABELS]){{"process", name}},
		       json_object_get(process, "restarts"));
}

/* ---- Packets ------------------------------------------------------------------------------------------------------ */

static void print_reasons(FILE *file, const char *guest, const json_t *reasons, const json_t *less)
{
	for (int i = 0; i < FT_REASON_COUNT; i++) {
		const char *label = ft_reason_label((enum ft_reason)i);
		json_int_t count = json_integer_value(json_object_get(reasons, label)) -
				   json_integer_value(json_object_get(less, label));
		json_t *value = json_integer(count > 0 ? count : 0);
		sample(file, "packets_total", (struct label[LABELS]){{"guest", guest}, {"reason", label}}, value);
		json_decref(value);
	}
}

/* Per guest, and under an empty name what was for none. */
static void print_packets(FILE *file, const json_t *counters)
{
	json_t *guests = json_object_get(counters, "guests"), *guest, *sum = json_object(), *count;
	const char *name, *reason;
	head(file, "packets_total", "counter",
	     "Packets by what was done with them and why; the guest is empty for what was for none.");
	if (counters) {
		json_object_foreach(guests, name, guest)
		{
			print_reasons(file, name, json_object_get(guest, "reasons"), NULL);
			json_object_foreach(json_object_get(guest, "reasons"), reason, count)
				json_object_set_new(sum, reason,
						    json_integer(json_integer_value(json_object_get(sum, reason)) +
								 json_integer_value(count)));
		}
		print_reasons(file, "", json_object_get(counters, "reasons"), sum);
	}
	json_decref(sum);
	head(file, "checksums_completed_total", "counter", "Checksums that the sender's kernel had left to hardware.");
	sample(file, "checksums_completed_total", (struct label[LABELS]){{NULL, NULL}},
	       json_object_get(counters, "checksums_completed"));
	head(file, "urgent_cleared_total", "counter", "Urgent pointers cleared on the way to an enforced service.");
	sample(file, "urgent_cleared_total", (struct label[LABELS]){{NULL, NULL}},
	       json_object_get(counters, "urgent_cleared"));
}

/* ---- Tables: a number of each guest, service, uplink or sink ------------------------------------------------------ */

struct column {
	const char *metric, *key, *type, *help;
	const char *label; /* the number is a map of numbers: what its keys are */
};

/* One metric of each object in a map. by: the label that their names go to. */
static void print_column(FILE *file, const struct column *column, const char *by, const json_t *objects)
{
	const char *name, *key;
	json_t *object, *value;
	head(file, column->metric, column->type, column->help);
	json_object_foreach((json_t *)objects, name, object)
	{
		const json_t *cell = json_object_get(object, column->key);
		struct label labels[LABELS] = {{by, name}, {NULL, NULL}, {column->label, NULL}};
		if (!strcmp(by, "service"))
			labels[1] = (struct label){"guest", json_string_value(json_object_get(object, "guest"))};
		if (!column->label)
			sample(file, column->metric, labels, cell);
		else
			json_object_foreach((json_t *)cell, key, value)
			{
				labels[2].value = key;
				sample(file, column->metric, labels, value);
			}
	}
}

static void print_table(FILE *file, const struct column *columns, const char *by, const json_t *objects)
{
	for (; columns->metric; columns++)
		print_column(file, columns, by, objects);
}

static const struct column guest_columns[] = {
    {"flows", "flows", "gauge", "Connections that are followed.", NULL},
    {"open_holds", "holds", "gauge", "Holds that are open.", NULL},
    {"clones", "clones", "gauge", "Clones that run.", NULL},
    {"held_bytes", "held_bytes", "gauge", "Bytes of packets that are held or came early.", NULL},
    {"batches_total", "batches", "counter", "Requests for a clone, by how many holds it tried: the label is the upper end of its class.",
     "size"},
    {"clone_runs_total", "runs", "counter", "Runs of clones that were asked for, twins included.", NULL},
    {"group_searches_total", "searches", "counter", "Group tests that looked for the hold that made the difference.", NULL},
    {"groups_dissolved_total", "dissolved", "counter", "Group tests that decided nothing, or that a member left.", NULL},
    {"events_lost_total", "events_lost", "counter", "Events of the guest that its process could not hand over.", NULL},
    {NULL}};

static const struct column vmm_columns[] = {
    {"guest_instructions_total", "instructions", "counter", "Instructions that the guest has executed.", NULL},
    {"guest_received_frames_total", "rx_frames", "counter", "Frames that the guest's card took.", NULL},
    {"guest_sent_frames_total", "tx_frames", "counter", "Frames that the guest sent.", NULL},
    {"guest_send_full_total", "tx_full", "counter", "Frames of the guest lost because the ring to the dataplane was full.",
     NULL},
    {"guest_receive_dropped_total", "rx_dropped", "counter", "Frames that the guest had no buffer for.", NULL},
    {"clones_forked_total", "clones_forked", "counter", "Clones made.", NULL},
    {"clones_refused_total", "clones_refused", "counter", "Clones that could not be made.", NULL},
    {"clones_died_total", "clones_died", "counter", "Clones that ended without being asked to.", NULL},
    {NULL}};

/* What the supervisor knows of a guest's journal, and what its process does. */
static const struct column journal_columns[] = {
    {"journal_recording", "recording", "gauge", "Whether the guest's journal is complete at the moment.", NULL},
    {"journal_failing", "failing", "gauge", "Whether its journal cannot be written at the moment, or its checkpoint.", NULL},
    {"journal_gaps_total", "gaps", "counter", "Gaps in its journal, from which on nothing is recorded until the next checkpoint.", NULL},
    {"journal_failures_total", "failures", "counter", "Chunks, checkpoints and files of its journal that could not be written.", NULL},
    {"journal_checkpoints_total", "checkpoints", "counter", "Checkpoints that were saved.", NULL},
    {"journal_bytes", "bytes", "gauge", "Size of its checkpoints and segments.", NULL},
    {"journal_records_total", "records", "counter", "Records, of inputs and states.", NULL},
    {"journal_recorded_bytes_total", "recorded_bytes", "counter", "Bytes of these, before they are packed.", NULL},
    {"journal_waiting_bytes", "waiting_bytes", "gauge", "Bytes of records that are not on disk yet.", NULL},
    {"journal_stands_still", "stands_still", "gauge", "Whether the guest stands still because its journal has no room.", NULL},
    {"journal_stood_still_seconds_total", "stood_still_s", "counter", "For how long it did.", NULL},
    {"journal_referred_frames_total", "referred_frames", "counter", "Frames of other recorded guests that are in their journals (journal.by_reference).", NULL},
    {"journal_referred_bytes_total", "referred_bytes", "counter", "Bytes of these.", NULL},
    {"journal_output_frames_total", "output_frames", "counter", "Frames of the guest that waited for its journal (output_commit).", NULL},
    {"journal_output_uncommitted_total", "output_uncommitted", "counter", "Of these, those that left without it, because it could not be written.", NULL},
    {"journal_output_waiting_bytes", "output_waiting_bytes", "gauge", "Bytes of frames that wait.", NULL},
    {NULL}};

static const struct column overlay_columns[] = {
    {"disk_failing", "failing", "gauge", "Whether the guest's writes fail at the moment.", NULL},
    {"disk_failures_total", "failures", "counter", "How often they began to.", NULL},
    {"disk_overlay_bytes", "bytes", "gauge", "Room that what the guest wrote takes.", NULL},
    {"disk_overlay_quota_bytes", "quota_bytes", "gauge", "Room that it may take.", NULL},
    {"disk_overlay_records_total", "records", "counter", "Records that were appended.", NULL},
    {"disk_overlay_written_bytes_total", "written_bytes", "counter", "Bytes that were appended.", NULL},
    {"disk_overlay_compactions_total", "compactions", "counter", "Segments that were copied together.", NULL},
    {"disk_overlay_copied_blocks_total", "copied_blocks", "counter", "Blocks of 4 KiB that this copied.", NULL},
    {"disk_overlay_freed_segments_total", "freed_segments", "counter", "Segments that were given back.", NULL},
    {"disk_overlay_shortened_segments_total", "shortened_segments", "counter", "Of these, those whose past went before overlay.retention, for want of room.", NULL},
    {"disk_overlay_unwritten_bytes", "unwritten_bytes", "gauge", "Bytes that wait in memory because the file did not take them.", NULL},
    {NULL}};

/* Seeds of trials that were to be kept, for want of a journal (gateway/seed.h). */
static const struct column seed_columns[] = {
    {"seeds_kept_total", "kept", "counter", "Seeds of verdicts that were kept as snapshots.", NULL},
    {"seeds_skipped_total", "skipped", "counter", "Seeds that were not kept, for the one before was younger than seeds.every.", NULL},
    {"seeds_failed_total", "failed", "counter", "Seeds that were to be kept and could not be: their verdicts cannot be made again.", NULL},
    {NULL}};

static const struct column service_columns[] = {
    {"service_holds", "holds", "gauge", "Holds of the service that are open.", NULL},
    {"service_clones", "clones", "gauge", "Clones that run for it.", NULL},
    {"service_held_bytes", "held_bytes", "gauge", "Bytes of its held packets.", NULL},
    {"service_bypass", "bypass", "gauge", "Whether inspection is switched off.", NULL},
    {"service_verdicts_total", "verdicts", "counter", "Holds that are over, by verdict.", "verdict"},
    {"service_holds_total", "dispositions", "counter", "Holds that are over, by what was done with their input.",
     "disposition"},
    {"service_exceptions_total", "exceptions", "counter", "Holds on which no verdict came, by why.", "exception"},
    {"service_limits_total", "limits", "counter", "How often a limit was reached.", "limit"},
    {NULL}};

static const struct column uplink_columns[] = {
    {"uplink_missed_total", "missed", "counter", "Frames that a port received and nobody fetched in time.", NULL}, {NULL}};

static const struct column feed_columns[] = {
    {"feed_lines_total", "lines", "counter", "Lines of the feed that were written.", NULL},
    {"feed_lost_total", "lost", "counter", "Lines of the feed that a sink could not be given.", NULL},
    {"feed_again_total", "again", "counter",
     "Lines sent a second time, because a reader went away and may not have read them.", NULL},
    {"feed_shortened_total", "shortened", "counter", "Lines longer than a message may be, sent without their evidence.",
     NULL},
    {"feed_waiting", "waiting", "gauge", "Lines of the feed that wait in memory.", NULL},
    {"feed_connected", "connected", "gauge", "Whether a sink is connected.", NULL},
    {NULL}};

static const struct column canary_columns[] = {
    {"canary_ok", "ok", "gauge", "Whether the self-test of the service passes and is recent.", NULL},
    {"canary_age_seconds", "age_s", "gauge", "Since it passed last.", NULL},
    {"canary_seconds", "took_s", "gauge", "How long the one took that passed last.", NULL},
    {"canary_runs_total", "results", "counter", "Runs of the self-test by result.", "result"},
    {NULL}};

/* ---- What needs more than a table --------------------------------------------------------------------------------- */

/* The supervisor's gaps and failures are those since it started, whatever became of the guest's process: they count. */
static json_t *journal_of(const json_t *own, const json_t *vmm)
{
	json_t *all = json_object();
	bool failing = json_is_true(json_object_get(own, "failing")) || json_is_true(json_object_get(vmm, "failing"));
	if (vmm)
		json_object_update(all, (json_t *)vmm);
	json_object_update(all, (json_t *)own);
	json_object_set_new(all, "failing", json_boolean(failing));
	if (!json_object_get(all, "recording"))
		json_object_set_new(all, "recording", json_false());
	return all;
}

static void print_guests(FILE *file, const json_t *state)
{
	json_t *guests = json_object_get(state, "guests"), *guest, *vmms = json_object(), *journals = json_object(), *overlays = json_object();
	json_t *seeds = json_object();
	const char *name;
	head(file, "guest_up", "gauge", "Whether a guest has reached its userspace.");
	json_object_foreach(guests, name, guest)
		sample(file, "guest_up", (struct label[LABELS]){{"guest", name}},
		       is(guest, "state", "up") ? json_true() : json_false());
	json_object_foreach(guests, name, guest)
	{
		char process[80];
		snprintf(process, sizeof(process), "vmm %s", name);
		json_t *vmm = (json_t *)said(state, process), *own = json_object_get(guest, "journal");
		if (vmm)
			json_object_set(vmms, name, vmm);
		if (own)
			json_object_set_new(journals, name, journal_of(own, json_object_get(vmm, "journal")));
		if (json_object_get(guest, "seeds"))
			json_object_set(seeds, name, json_object_get(guest, "seeds"));
		if (json_object_get(vmm, "overlay"))
			json_object_set(overlays, name, json_object_get(vmm, "overlay"));
	}
	print_table(file, guest_columns, "guest", AT(said(state, "dataplane"), "guests"));
	print_table(file, vmm_columns, "guest", vmms);
	head(file, "clone_pause_seconds", "histogram", "For how long the guest stood still for the fork of a clone.");
	json_object_foreach(vmms, name, guest)
		print_histogram(file, "clone_pause_seconds", (struct label[LABELS]){{"guest", name}}, FT_HISTOGRAM_PAUSE,
				json_object_get(guest, "pauses"));
	print_table(file, journal_columns, "guest", journals);
	head(file, "journal_output_wait_seconds", "histogram", "For how long what the guest sent waited for its journal (output_commit).");
	json_object_foreach(journals, name, guest)
		print_histogram(file, "journal_output_wait_seconds", (struct label[LABELS]){{"guest", name}}, FT_HISTOGRAM_PAUSE,
				json_object_get(guest, "output_waits"));
	print_table(file, seed_columns, "guest", seeds);
	print_table(file, overlay_columns, "guest", overlays);
	head(file, "disk_history_start_timestamp_seconds", "gauge", "What was overwritten before this is not all there any more; 0: it is.");
	json_object_foreach(overlays, name, guest)
	{
		json_t *since = json_real((double)json_integer_value(json_object_get(guest, "history_since_ns")) / 1e9);
		sample(file, "disk_history_start_timestamp_seconds", (struct label[LABELS]){{"guest", name}}, since);
		json_decref(since);
	}
	json_decref(vmms);
	json_decref(journals);
	json_decref(seeds);
	json_decref(overlays);
}

/* One directory has those of all guests, and one quota. */
static void print_kept_seeds(FILE *file, const json_t *seeds)
{
	static const struct column columns[] = {
	    {"kept_seeds", "files", "gauge", "Kept seeds that there are.", NULL},
	    {"kept_seeds_bytes", "bytes", "gauge", "Room that they take.", NULL},
	    {"kept_seeds_quota_bytes", "quota", "gauge", "Room that they may take (seeds.quota); 0: none is kept.", NULL},
	    {"kept_seeds_removed_total", "removed", "counter", "Of these, those that went for want of room or for their age.", NULL},
	};
	const struct label none[LABELS] = {{NULL, NULL}};
	for (size_t i = 0; i < sizeof(columns) / sizeof(*columns); i++) {
		head(file, columns[i].metric, columns[i].type, columns[i].help);
		sample(file, columns[i].metric, none, json_object_get(seeds, columns[i].key));
	}
}

static void print_services(FILE *file, const json_t *services)
{
	const char *name;
	json_t *service;
	head(file, "service_mode", "gauge", "Always 1; the service's mode is in the label.");
	json_object_foreach((json_t *)services, name, service)
		sample(file, "service_mode",
		       (struct label[LABELS]){{"service", name},
					      {"guest", json_string_value(json_object_get(service, "guest"))},
					      {"mode", json_string_value(json_object_get(service, "mode"))}},
		       json_true());
	print_table(file, service_columns, "service", services);
	head(file, "hold_seconds", "histogram", "From a hold's first packet to the decision.");
	json_object_foreach((json_t *)services, name, service)
		print_histogram(file, "hold_seconds",
				(struct label[LABELS]){{"service", name},
						       {"guest", json_string_value(json_object_get(service, "guest"))}},
				FT_HISTOGRAM_HOLD, json_object_get(service, "hold_time"));
}

/* The file is a sink like the others. */
static void print_feed(FILE *file, const json_t *feed)
{
	json_t *sinks = json_object();
	if (feed)
		json_object_set(sinks, "file", (json_t *)feed);
	json_object_update(sinks, json_object_get(feed, "sinks"));
	print_table(file, feed_columns, "sink", sinks);
	json_decref(sinks);
}

void ft_exposition_print(FILE *file, const json_t *state)
{
	const struct label none[LABELS] = {{NULL, NULL}};
	const json_t *dataplane = said(state, "dataplane");
	print_gateway(file, state);
	print_processes(file, state);
	print_packets(file, json_object_get(dataplane, "counters"));
	print_guests(file, state);
	print_kept_seeds(file, json_object_get(state, "seeds"));
	print_services(file, json_object_get(dataplane, "services"));
	print_table(file, uplink_columns, "uplink", json_object_get(dataplane, "uplinks"));
	print_feed(file, json_object_get(said(state, "ledger"), "feed"));
	head(file, "records_lost_total", "counter", "Records that the dataplane could not hand to the ledger.");
	sample(file, "records_lost_total", none, json_object_get(dataplane, "records_lost"));
	print_table(file, canary_columns, "service", AT(state, "canary", "services"));
}
