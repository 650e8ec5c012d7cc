#include "log/ledger.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"
#include "base/units.h"
#include "log/eve.h"
#include "log/feed.h"
#include "log/index.h"
#include "log/quarantine.h"
#include "log/record.h"

/* What an answer may take of a message, the rest of it aside. */
#define ANSWER (FT_CHANNEL_MESSAGE - 1024u)

/* Refusals told one by one; a peer that only talks nonsense is summed up once a tick. */
#define REFUSALS_TOLD 8u

struct sink {
	struct ft_sink sink;
	bool connected;       /* by the supervisor; until we have told it that this is over */
	bool down;            /* told: it is not connected */
	bool losing;          /* told: it loses lines */
	uint64_t lost_before; /* lines lost until then */
};

struct ft_ledger {
	struct ft_ledger_config config;
	struct ft_feed feed;
	struct sink sinks[FT_LEDGER_SINKS];
	struct ft_quarantine *quarantine;
	struct ft_index *index;
	struct ft_notary *notary; /* NULL: there is no tamper-evident log */
	uint64_t run;		  /* of base/durable.h, 0: not begun */
	uint64_t holds, events, refused, remembered;
	uint64_t refused_told, refused_untold; /* since the last tick */
	int trouble;                           /* the feed's, as last logged */
};

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The file and the sinks, but not `except`, which the line is about. */
static void write_line_except(struct ft_ledger *l, json_t *line, const void *except)
{
	if (!line)
		return;
	if (except != &l->feed)
		ft_feed_write(&l->feed, line);
	for (unsigned i = 0; i < l->config.sink_count; i++)
		if (except != &l->sinks[i])
			ft_sink_write(&l->sinks[i].sink, line);
}

static void write_line(struct ft_ledger *l, json_t *line)
{
	write_line_except(l, line, NULL);
	json_decref(line);
}

static void tell_except(struct ft_ledger *l, const char *module, const char *text, bool error,
			const void *except)
{
	json_t *line = ft_eve_engine(l->config.sensor, now_ns(), module, text, error);
	write_line_except(l, line, except);
	json_decref(line);
	if (error && l->notary) {
		json_t *body = json_pack("{s:s, s:s}", "module", module, "text", text);
		ft_notary_note(l->notary, FT_ENTRY_ERROR, now_ns(), body);
		json_decref(body);
	}
}

static void tell(struct ft_ledger *l, const char *module, const char *text, bool error)
{
	tell_except(l, module, text, error, NULL);
}

/* Tells when the feed's file begins to fail, and when it works again: the sinks too, which still take lines. */
static void watch_file(struct ft_ledger *l)
{
	char text[160];
	if (l->feed.trouble == l->trouble)
		return;
	l->trouble = l->feed.trouble;
	const char *trouble = ft_feed_trouble(&l->feed, text);
	const char *says = trouble ? trouble : "the feed can be written again";
	l->config.log(l->config.context, trouble ? "error" : "info", says);
	tell_except(l, "feed", says, trouble != NULL, &l->feed);
}

static void tell_of(struct ft_ledger *l, const struct sink *s, bool error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void tell_of(struct ft_ledger *l, const struct sink *s, bool error, const char *format, ...)
{
	char text[400];
	int n = snprintf(text, sizeof(text), "feed.%s ", s->sink.config.name);
	va_list args;
	va_start(args, format);
	vsnprintf(text + n, sizeof(text) - (size_t)n, format, args);
	va_end(args);
	tell_except(l, "feed", text, error, s);
}

static void tell_down(struct ft_ledger *l, struct sink *s)
{
	if (!s->down)
		tell_of(l, s, true, "is not connected: %s", s->sink.trouble);
	s->down = true;
}

static bool watch_connection(struct ft_ledger *l, struct sink *s)
{
	if (!s->connected || s->sink.fd >= 0)
		return false;
	s->connected = false;
	l->config.hung_up(l->config.context, s->sink.config.name, s->sink.trouble);
	tell_down(l, s);
	return true;
}

static bool watch_loss(struct ft_ledger *l, struct sink *s)
{
	const struct ft_sink *sink = &s->sink;
	char size[FT_UNITS_TEXT], text[128];
	bool was_losing = s->losing;
	s->losing = sink->losing;
	if (!s->losing) {
		if (was_losing)
			tell_of(l, s, true, "takes lines again: it has lost %" PRIu64,
				sink->lost - s->lost_before);
		s->lost_before = sink->lost;
		return was_losing;
	}
	if (was_losing)
		return false;
	ft_units_format_size(sink->config.buffer, size);
	tell_of(l, s, true, "loses lines: its buffer of %s is full", size);
	snprintf(text, sizeof(text), "feed.%s loses lines: its buffer of %s is full", sink->config.name,
		 size);
	l->config.log(l->config.context, "error", text);
	return true;
}

/* Tells when the file or a sink goes, comes, begins to lose lines and takes them again. That is written to the others,
 * never to the sink that it is about: that has the place of its gap marked. How often is bounded, by the supervisor's
 * back-off and by half a buffer of lines between the beginning and the end of a loss. What is told to one sink may be
 * the end of its own connection, hence the rounds. */
static void watch(struct ft_ledger *l)
{
	watch_file(l);
	bool told = true;
	for (unsigned round = 0; told && round < 4; round++) {
		told = false;
		for (unsigned i = 0; i < l->config.sink_count; i++) {
			told |= watch_connection(l, &l->sinks[i]);
			told |= watch_loss(l, &l->sinks[i]);
		}
	}
}

int ft_ledger_sink(struct ft_ledger *l, const char *name, int fd, const char *why)
{
	struct sink *s = NULL;
	for (unsigned i = 0; i < l->config.sink_count && name; i++)
		if (!strcmp(l->config.sinks[i].name, name))
			s = &l->sinks[i];
	if (!s) {
		if (fd >= 0)
			close(fd);
		return -ENOENT;
	}
	if (fd >= 0) {
		ft_sink_connect(&s->sink, fd);
		/* It may be gone already: then that is seen, too, and another one is asked for. */
		s->connected = true;
		if (s->down)
			tell_of(l, s, false, "is connected");
		s->down = false;
	} else {
		ft_sink_refuse(&s->sink, why ? why : "it cannot be connected");
		if (s->sink.fd < 0)
			tell_down(l, s);
	}
	watch(l);
	return 0;
}

void ft_ledger_poll(const struct ft_ledger *l, struct pollfd fds[FT_LEDGER_SINKS])
{
	for (unsigned i = 0; i < FT_LEDGER_SINKS; i++) {
		bool there = i < l->config.sink_count;
		fds[i] = (struct pollfd){.fd = there ? l->sinks[i].sink.fd : -1,
					 .events = there ? ft_sink_events(&l->sinks[i].sink) : 0};
	}
}

void ft_ledger_polled(struct ft_ledger *l, const struct pollfd fds[FT_LEDGER_SINKS])
{
	for (unsigned i = 0; i < l->config.sink_count; i++)
		if (fds[i].revents && fds[i].fd == l->sinks[i].sink.fd)
			ft_sink_ready(&l->sinks[i].sink, fds[i].revents);
	watch(l);
}

void ft_ledger_end(struct ft_ledger *l)
{
	for (unsigned i = 0; i < l->config.sink_count; i++) {
		const struct ft_sink *sink = &l->sinks[i].sink;
		uint64_t missing = sink->waiting + sink->lost_untold;
		if (!missing)
			continue;
		char text[160];
		snprintf(text, sizeof(text),
			 "feed.%s has not taken the last %" PRIu64 " lines, which only the feed file has",
			 sink->config.name, missing);
		tell_except(l, "feed", text, true, &l->sinks[i]);
		l->config.log(l->config.context, "warning", text);
	}
	ft_feed_retry(&l->feed);
}

int ft_ledger_open(struct ft_ledger **out, const struct ft_ledger_config *config, struct ft_error *err)
{
	*out = NULL;
	struct ft_ledger *l = calloc(1, sizeof(*l));
	if (!l)
		return ft_error_set(err, -ENOMEM, "no memory for the ledger");
	l->config = *config;
	for (unsigned i = 0; i < config->sink_count; i++)
		ft_sink_open(&l->sinks[i].sink, &config->sinks[i]);
	l->index = ft_index_new();
	int status = l->index ? 0 : ft_error_set(err, -ENOMEM, "no memory for the ledger's index");
	if (!status)
		status =
		    ft_quarantine_open(&l->quarantine, config->quarantine, config->quarantine_quota, err);
	if (!status) {
		ft_quarantine_shares(l->quarantine, config->quarantine_quota, config->quarantine_shares);
		status = ft_feed_open(&l->feed, config->feed, config->feed_reader, config->feed_quota,
				      config->sensor, err);
	}
	if (status) {
		ft_ledger_close(l);
		return status;
	}
	if (config->feed_reader >= 0)
		l->remembered = ft_index_read_feed(l->index, config->feed_reader);
	watch(l);
	*out = l;
	return 0;
}

/* ---- The tamper-evident log ------------------------------------------------------------------------------------- */

static void notary_tells(void *context, const char *text, bool error)
{
	struct ft_ledger *l = context;
	tell(l, "ledger", text, error);
	l->config.log(l->config.context, error ? "error" : "info", text);
}

/* Whoever keeps the feed is a witness: of what the log was, and that it was no shorter. */
static void notary_publishes(void *context, const char *note)
{
	struct ft_ledger *l = context;
	write_line(l, ft_eve_engine(l->config.sensor, now_ns(), "checkpoint", note, false));
}

/* A new process, or a decision that was not taken: who waits sends again. */
static void publish_durable(struct ft_ledger *l)
{
	struct ft_durable *page = l->config.durable;
	if (!page)
		return;
	if (!l->run)
		l->run = atomic_load(&page->run) + 1;
	uint64_t durable = ft_notary_durable(l->notary);
	atomic_store(&page->run, l->run + ft_notary_missed(l->notary));
	if (durable > atomic_load(&page->sequence))
		atomic_store(&page->sequence, durable);
	atomic_store(&page->working, ft_notary_works(l->notary));
}

int ft_ledger_notarise(struct ft_ledger *l, struct ft_notary_config *config, const char *config_sha256, struct ft_error *err)
{
	config->tell = notary_tells;
	config->publish = notary_publishes;
	config->context = l;
	int error = ft_notary_open(&l->notary, config, err);
	if (!error)
		ft_ledger_configured(l, config_sha256);
	/* Before we are said to be ready: who waits for an earlier process must see that it is gone. */
	publish_durable(l);
	return error;
}

void ft_ledger_configured(struct ft_ledger *l, const char *config_sha256)
{
	json_t *body = config_sha256 ? json_pack("{s:s}", "sha256", config_sha256) : NULL;
	if (body)
		ft_notary_note(l->notary, FT_ENTRY_CONFIG, now_ns(), body);
	json_decref(body);
}

int ft_ledger_work(struct ft_ledger *l)
{
	int wait = ft_notary_work(l->notary);
	publish_durable(l);
	return wait;
}

void ft_ledger_seal(struct ft_ledger *l)
{
	struct ft_notary *notary = l->notary;
	if (!notary)
		return;
	json_t *counts = json_pack("{s:I, s:I, s:I}", "holds", (json_int_t)l->holds, "events", (json_int_t)l->events, "refused",
				   (json_int_t)l->refused);
	ft_notary_note(notary, FT_ENTRY_COUNTS, now_ns(), counts);
	json_decref(counts);
	l->notary = NULL;
	ft_notary_close(notary);
	publish_durable(l);
}

void ft_ledger_close(struct ft_ledger *l)
{
	if (!l)
		return;
	ft_ledger_seal(l);
	ft_feed_close(&l->feed);
	for (unsigned i = 0; i < l->config.sink_count; i++)
		ft_sink_close(&l->sinks[i].sink);
	ft_quarantine_close(l->quarantine);
	ft_index_free(l->index);
	free(l);
}

int ft_ledger_reopen(struct ft_ledger *l, int fd, struct ft_error *err)
{
	int error = ft_feed_reopen(&l->feed, fd, err);
	if (!error)
		watch(l);
	return error;
}

void ft_ledger_quotas(struct ft_ledger *l, uint64_t feed, uint64_t quarantine, const json_t *shares)
{
	l->feed.quota = feed;
	ft_quarantine_shares(l->quarantine, quarantine, shares);
	ft_feed_retry(&l->feed);
	watch(l);
}

void ft_ledger_refuse(struct ft_ledger *l, const char *why)
{
	l->refused++;
	if (l->refused_told >= REFUSALS_TOLD) {
		l->refused_untold++;
		return;
	}
	l->refused_told++;
	char text[640];
	snprintf(text, sizeof(text), "a record was refused: %s", why);
	tell(l, "ledger", text, true);
	l->config.log(l->config.context, "warning", text);
}

static void take_hold(struct ft_ledger *l, const json_t *message)
{
	struct ft_error err = {0};
	json_t *record;
	if (ft_record_check(message, &record, &err)) {
		ft_ledger_refuse(l, err.text);
		return;
	}
	uint64_t hold = (uint64_t)json_integer_value(json_object_get(record, "hold"));
	struct ft_quarantined kept;
	struct ft_eve_file file = {0};
	bool has_file = ft_quarantine_take(l->quarantine, hold, &kept) == 1;
	if (has_file) {
		file = (struct ft_eve_file){.name = kept.name, .sha256 = kept.sha256, .size = kept.size};
		json_object_set_new(record, "quarantine",
				    json_pack("{s:s, s:I, s:s}", "file", kept.name, "bytes",
					      (json_int_t)kept.size, "sha256", kept.sha256));
	}
	json_t *lines = ft_eve_hold(l->config.sensor, record, has_file ? &file : NULL);
	size_t i;
	json_t *line;
	ft_notary_hold(l->notary, record);
	json_array_foreach(lines, i, line) write_line_except(l, line, NULL);
	if (!lines || ft_index_add(l->index, record))
		l->config.log(l->config.context, "error", "no memory for the record of a hold");
	l->holds++;
	json_decref(lines);
	json_decref(record);
}

/* A copy of a correlation event with what a finding may have, texts cut, everything else left behind. */
static json_t *check_finding(const json_t *message)
{
	static const char *const texts[] = {"guest", "rule", "text", "process", "detail"};
	static const char *const numbers[] = {"sid",      "rev", "severity", "since_ns",
					      "vtime_ns", "pid", "count"};
	json_t *finding = json_object();
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		json_t *text = ft_record_text(json_object_get(message, texts[i]), 256);
		if (text)
			json_object_set_new(finding, texts[i], text);
	}
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		json_t *number = json_object_get(message, numbers[i]);
		if (json_is_integer(number) && json_integer_value(number) >= 0)
			json_object_set(finding, numbers[i], number);
	}
	return finding;
}

static void take_event(struct ft_ledger *l, const json_t *message)
{
	const json_t *type = json_object_get(message, "type"), *ns = json_object_get(message, "ns");
	json_t *text = ft_record_text(json_object_get(message, "text"), 512);
	json_t *name = ft_record_text(type, 64);
	if (!text || !name) {
		json_decref(text);
		json_decref(name);
		ft_ledger_refuse(l, "an event without type or text");
		return;
	}
	uint64_t time =
	    json_is_integer(ns) && json_integer_value(ns) > 0 ? (uint64_t)json_integer_value(ns) : now_ns();
	const char *what = json_string_value(name);
	ft_notary_event(l->notary, what, time, message);
	if (!strcmp(what, "correlation")) {
		json_t *finding = check_finding(message);
		write_line(l, ft_eve_correlation(l->config.sensor, time, finding));
		json_decref(finding);
	} else {
		bool bad = !strcmp(what, "error") || !strcmp(what, "guest-down") || !strcmp(what, "bypass-on") || !strcmp(what, "self-test-failed") || !strcmp(what, "restart") ||
			   !strcmp(what, "disk-failed");
		write_line(l, ft_eve_engine(l->config.sensor, time, what, json_string_value(text), bad));
	}
	l->events++;
	json_decref(text);
	json_decref(name);
}

static void take_packets(struct ft_ledger *l, const json_t *message)
{
	struct ft_error err = {0};
	int status = ft_quarantine_packets(l->quarantine, message, &err);
	if (status == -EINVAL) {
		ft_ledger_refuse(l, err.text);
	} else if (status) {
		tell(l, "quarantine", err.text, true);
		l->config.log(l->config.context, "error", err.text);
	}
}

void ft_ledger_record(struct ft_ledger *l, const json_t *message)
{
	const char *op = json_string_value(json_object_get(message, "op"));
	if (op && !strcmp(op, "hold"))
		take_hold(l, message);
	else if (op && !strcmp(op, "event"))
		take_event(l, message);
	else if (op && !strcmp(op, "packets"))
		take_packets(l, message);
	else if (op && !strcmp(op, "decided")) {
		if (ft_notary_decided(l->notary, message))
			ft_ledger_refuse(l, "a decision without hold, verdict, disposition or sequence");
	} else if (op && !strcmp(op, "done")) {
		if (ft_notary_done(l->notary, message))
			ft_ledger_refuse(l, "an outcome without hold, disposition, reason or frames");
	} else if (op && !strcmp(op, "journal")) {
		if (ft_notary_journal(l->notary, now_ns(), message))
			ft_ledger_refuse(l, "a journal's hash without guest, run or hash");
	} else
		ft_ledger_refuse(l, "neither a hold nor a decision nor an event nor packets nor a journal's hash");
	watch(l);
}

bool ft_ledger_tick(struct ft_ledger *l)
{
	if (l->refused_untold) {
		char text[96];
		snprintf(text, sizeof(text), "%" PRIu64 " more records were refused", l->refused_untold);
		tell(l, "ledger", text, true);
	}
	bool again = l->refused_told != 0;
	l->refused_told = l->refused_untold = 0;
	ft_feed_retry(&l->feed);
	watch(l);
	return again || l->feed.trouble;
}

static json_t *status_of(const struct ft_ledger *l)
{
	char text[160];
	const char *trouble = ft_feed_trouble(&l->feed, text);
	json_t *feed = json_pack("{s:I, s:I, s:I, s:I, s:I}", "bytes", (json_int_t)ft_feed_size(&l->feed),
				 "quota", (json_int_t)l->feed.quota, "lines", (json_int_t)l->feed.written,
				 "waiting", (json_int_t)l->feed.waiting, "lost", (json_int_t)l->feed.lost);
	if (trouble)
		json_object_set_new(feed, "trouble", json_string(trouble));
	json_t *sinks = json_object();
	for (unsigned i = 0; i < l->config.sink_count; i++)
		json_object_set_new(sinks, l->config.sinks[i].name, ft_sink_status(&l->sinks[i].sink));
	json_object_set_new(feed, "sinks", sinks);
	return json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "holds", (json_int_t)l->holds, "events",
			 (json_int_t)l->events, "refused", (json_int_t)l->refused, "remembered",
			 (json_int_t)l->remembered, "feed", feed, "quarantine",
			 ft_quarantine_status(l->quarantine), "verdicts", ft_index_counts(l->index), "log",
			 ft_notary_status(l->notary));
}

/* A record that is too long for one message loses evidence from its end, counted. */
static json_t *fit(json_t *record)
{
	json_t *evidence = json_object_get(record, "evidence");
	size_t size = json_dumpb(record, NULL, 0, JSON_COMPACT);
	json_int_t cut = 0;
	while (size > ANSWER && json_array_size(evidence)) {
		size_t last = json_array_size(evidence) - 1;
		size -= json_dumpb(json_array_get(evidence, last), NULL, 0, JSON_COMPACT);
		json_array_remove(evidence, last);
		cut++;
	}
	if (cut) {
		json_int_t dropped = json_integer_value(json_object_get(record, "evidence_dropped"));
		json_object_set_new(record, "evidence_dropped", json_integer(dropped + cut));
	}
	return record;
}

json_t *ft_ledger_query(struct ft_ledger *l, const json_t *message, const char **error)
{
	const char *what = json_string_value(json_object_get(message, "what"));
	*error = NULL;
	if (what && !strcmp(what, "status"))
		return status_of(l);
	if (what && !strcmp(what, "verdicts")) {
		json_int_t limit = json_integer_value(json_object_get(message, "limit"));
		return ft_index_list(l->index, limit > 0 ? (uint64_t)limit : FT_INDEX_HOLDS, ANSWER);
	}
	if (what && !strcmp(what, "show")) {
		const json_t *hold = json_object_get(message, "hold");
		int known = 0;
		json_t *record = json_is_integer(hold)
				     ? ft_index_show(l->index, (uint64_t)json_integer_value(hold), &known)
				     : NULL;
		if (record)
			return fit(record);
		*error = known ? "the record of this hold is no longer in memory; the feed has it"
			       : "there is no verdict on a hold with this number";
		return NULL;
	}
	*error = "the ledger has no such thing to tell";
	return NULL;
}
