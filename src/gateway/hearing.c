#include "gateway/hearing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/printable.h"
#include "gateway/files.h"
#include "gateway/journal.h"
#include "gateway/seed.h"
#include "gateway/life.h"
#include "gateway/snapshot.h"
#include "gateway/warm.h"

static void child_says(struct ft_child *child, const char *level, const char *text)
{
	unsigned lost;
	bool may = ft_child_may_log(child, &lost);
	if (lost)
		ft_supervisor_say("warning", "%s: %u lines suppressed", child->name, lost);
	if (may)
		ft_supervisor_say(level, "%s: %s", child->name, text);
}

static void handle_ready(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	if (child->state != FT_CHILD_STARTING)
		return;
	size_t i;
	json_t *sentence;
	json_array_foreach(json_object_get(message, "said"), i, sentence) if (json_is_string(sentence))
	    child_says(child, "", json_string_value(sentence));
	ft_life_ready(s, child);
}

static void handle_failed(struct ft_child *child, const json_t *message)
{
	const char *text = json_string_value(json_object_get(message, "text"));
	json_int_t code = json_integer_value(json_object_get(message, "code"));
	if (!text)
		text = "it did not say why";
	child->failed_code = code >= EX_USAGE && code <= EX_CONFIG ? (int)code : EX_SOFTWARE;
	ft_printable(child->failed_text, sizeof(child->failed_text), text, strlen(text));
	if (child->deadline > ft_loop_now() + FT_CHILD_STOP_TIMEOUT)
		child->deadline = ft_loop_now() + FT_CHILD_STOP_TIMEOUT; /* it should end by itself now */
}

static void handle_running(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	json_int_t ns = json_integer_value(json_object_get(message, "boot_ns"));
	if (child->kind != FT_CHILD_VMM || child->state != FT_CHILD_READY || child->running || ns < 0)
		return;
	child->running = true;
	child->boot_ns = (uint64_t)ns;
	/* In between it waits for the dataplane, which takes longer when the whole gateway starts. */
	if (child->warm)
		ft_supervisor_record(s, "guest-up", child->guest, NULL,
				     "guest %s goes on from its snapshot: restored within %.2f s, running %.2f s after it was linked", child->guest,
				     (double)(child->ready_at - child->spawned_at) / 1e9, (double)ns / 1e9);
	else
		ft_supervisor_record(s, "guest-up", child->guest, NULL, "guest %s is up, %.1f s after its start", child->guest, (double)ns / 1e9);
}

static void handle_disk(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	static const char *const types[] = {"disk-recovered", "disk-failed", "disk-works", "disk-history"};
	const char *type = json_string_value(json_object_get(message, "type"));
	const char *text = json_string_value(json_object_get(message, "text"));
	char clean[512];
	for (size_t i = 0; child->kind == FT_CHILD_VMM && type && text && i < sizeof(types) / sizeof(*types); i++) {
		unsigned lost;
		if (strcmp(type, types[i]) || !ft_child_may_log(child, &lost))
			continue;
		ft_printable(clean, sizeof(clean), text, strnlen(text, 250));
		ft_supervisor_record(s, types[i], child->guest, NULL, "the disk of guest %s: %s", child->guest, clean);
		return;
	}
	child_says(child, "warning", "a message about a disk that is none");
}

static void handle_canary(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	if (child->kind != FT_CHILD_DATAPLANE || !ft_canaries_note(&s->canaries, message, ft_loop_now()))
		child_says(child, "warning", "a self-test's result that is none");
}

static void handle_sink_lost(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "name"));
	const char *why = json_string_value(json_object_get(message, "why"));
	char text[256];
	if (child->kind != FT_CHILD_LEDGER || !ft_sinks_lost(&s->sinks, name))
		return;
	snprintf(text, sizeof(text), "feed.%.16s: the connection is gone: %.160s", name, why ? why : "");
	child_says(child, "warning", text);
}

static void handle_log(struct ft_child *child, const json_t *message)
{
	const char *level = json_string_value(json_object_get(message, "level"));
	const char *text = json_string_value(json_object_get(message, "text"));
	if (!level || !text || (strcmp(level, "error") && strcmp(level, "warning") && strcmp(level, "info")))
		child_says(child, "warning", "a log message that is none");
	else
		child_says(child, strcmp(level, "info") ? level : "", text);
}

static void handle(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	const char *op = json_string_value(json_object_get(message, "op"));
	if (!op)
		op = "";
	if (!strcmp(op, "ready"))
		handle_ready(s, child, message);
	else if (!strcmp(op, "failed"))
		handle_failed(child, message);
	else if (!strcmp(op, "running"))
		handle_running(s, child, message);
	else if (!strcmp(op, "settled"))
		ft_warm_settled(s, child);
	else if (!strcmp(op, "log"))
		handle_log(child, message);
	else if (!strcmp(op, "disk"))
		handle_disk(s, child, message);
	else if (!strcmp(op, "snapshot") && ft_snapshot_told(s, child, message))
		;
	else if ((!strcmp(op, "journal") || !strcmp(op, "checkpoint")) && ft_journal_told(s, child, message))
		;
	else if ((!strcmp(op, "seed") || !strcmp(op, "seed-kept")) && ft_seed_told(s, child, message))
		;
	else if (!strcmp(op, "sink-lost"))
		handle_sink_lost(s, child, message);
	else if (!strcmp(op, "canary"))
		handle_canary(s, child, message);
	else if (strcmp(op, "answer"))
		child_says(child, "warning", "a message of an unknown kind");
	else if (!ft_query_answer(&s->queries, child, message))
		child_says(child, "warning", "an answer that nobody waits for");
}

/* The channel is at its end: the child is about to end, and its exit status is worth waiting for. One that goes on
 * without a channel is killed in a while. */
static void hang_up(struct ft_supervisor *s, struct ft_child *child)
{
	if (child->channel.fd < 0)
		return;
	ft_loop_remove(&s->loop, &child->channel);
	close(child->channel.fd);
	child->channel.fd = -1;
	if (child->deadline > ft_loop_now() + FT_CHILD_STOP_TIMEOUT)
		child->deadline = ft_loop_now() + FT_CHILD_STOP_TIMEOUT;
}

/* Serves one message. false: no more for now, or the channel is closed. */
static bool receive(struct ft_supervisor *s, struct ft_child *child)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	int error =
	    child->channel.fd < 0 ? -EPIPE : ft_channel_receive(child->channel.fd, &message, fds, &count);
	if (error == -EAGAIN)
		return false;
	if (error == -EPROTO || error == -EMSGSIZE) {
		ft_supervisor_say("error", "the %s process sent what is no message, it is replaced", child->name);
		ft_child_kill(child, "it sent what is no message");
	}
	if (error) {
		hang_up(s, child);
		return false;
	}
	ft_files_close(fds, count); /* nobody sends us descriptors */
	handle(s, child, message);
	json_decref(message);
	return true;
}

void ft_hearing_message(void *context, uint32_t events)
{
	struct ft_child *child = context;
	receive(child->owner, child);
}

static void drain_output(struct ft_child *child, unsigned most)
{
	char line[4 * FT_CHILD_LINE + 1];
	while (most-- && ft_child_output(child, line, sizeof(line)))
		child_says(child, "", line);
}

void ft_hearing_output(void *context, uint32_t events)
{
	struct ft_child *child = context;
	drain_output(child, 16);
}

void ft_hearing_last(struct ft_supervisor *s, struct ft_child *child)
{
	for (int i = 0; i < 256 && receive(s, child); i++)
		;
	drain_output(child, 64);
}
