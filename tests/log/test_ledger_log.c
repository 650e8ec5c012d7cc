/* The tamper-evident log as the ledger's process keeps it: what becomes an entry, what outlives a kill, what the feed proves. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/channel.h"
#include "ledger/entry.h"
#include "ledger/segment.h"
#include "tests/log/conversation.h"

#define MOST 400u

struct entries {
	unsigned count;
	unsigned type[MOST];
	json_t *body[MOST];
};

static int take(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	struct entries *e = context;
	assert_true(e->count < MOST && length > 9);
	e->type[e->count] = entry[0];
	e->body[e->count] = json_loadb((const char *)entry + 9, length - 9, 0, NULL);
	assert_non_null(e->body[e->count]);
	e->count++;
	return 0;
}

/* What the verifier says, by its exit status; *size: how many entries are signed. */
static int verify(const struct conversation *c, const char *since, uint64_t *size)
{
	char command[600], line[4096] = "";
	snprintf(command, sizeof(command), "%s %s --key %s/vkey --json %s %s", FT_VERIFY, c->state, c->state, since ? "--since" : "",
		 since ? since : "");
	FILE *out = popen(command, "r");
	assert_non_null(out);
	assert_non_null(fgets(line, sizeof(line), out));
	int status = pclose(out);
	json_t *json = json_loads(line, 0, NULL);
	*size = (uint64_t)json_integer_value(json_object_get(json, "entries"));
	if (WEXITSTATUS(status) == 1)
		print_message("%s", line);
	json_decref(json);
	return WEXITSTATUS(status);
}

/* Entries of a log that verifies. */
static struct entries *read_log(const struct conversation *c)
{
	struct entries *e = calloc(1, sizeof(*e));
	char path[160];
	uint64_t size, bytes;
	assert_int_equal(verify(c, NULL, &size), 3);
	snprintf(path, sizeof(path), "%s/entries/000000000000000", c->state);
	int fd = open(path, O_RDONLY);
	assert_int_equal(ft_segment_walk(fd, size, take, e, &bytes), 0);
	close(fd);
	return e;
}

static void free_entries(struct entries *e)
{
	for (unsigned i = 0; i < e->count; i++)
		json_decref(e->body[i]);
	free(e);
}

/* How many entries of this type, about this hold (0: any). */
static unsigned count(const struct entries *e, unsigned type, json_int_t hold)
{
	unsigned n = 0;
	for (unsigned i = 0; i < e->count; i++)
		n += e->type[i] == type && (!hold || json_integer_value(json_object_get(e->body[i], "hold")) == hold);
	return n;
}

static const json_t *first(const struct entries *e, unsigned type)
{
	for (unsigned i = 0; i < e->count; i++)
		if (e->type[i] == type)
			return e->body[i];
	fail_msg("there is no %s entry", ft_entry_name(type));
	return NULL;
}

static json_t *decided(json_int_t hold, json_int_t sequence)
{
	return json_pack("{s:s, s:I, s:I, s:s, s:s}", "op", "decided", "hold", hold, "sequence", sequence, "verdict", "clean",
			 "disposition", "released");
}

static json_t *event(const char *type, const char *text)
{
	return json_pack("{s:s, s:s, s:s}", "op", "event", "type", type, "text", text);
}

static json_int_t log_number(struct conversation *c, const char *key)
{
	json_t *answer = conversation_ask(c, json_pack("{s:s}", "what", "status"));
	json_int_t n = json_integer_value(json_object_get(json_object_get(json_object_get(answer, "result"), "log"), key));
	json_decref(answer);
	return n;
}

static void everything_of_consequence_is_an_entry(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 1 << 20, 0);
	conversation_send(&c, conversation_packets(17, 3, 100));
	conversation_send(&c, conversation_hold(17, "malicious"));
	conversation_send(&c, conversation_hold(18, "clean"));
	conversation_send(&c, event("bypass-on", "inspection was switched off by uid 0 (root)"));
	conversation_send(&c, event("guest-up", "guest web is up"));
	conversation_send(&c, event("self-test-failed", "the self-test of http failed"));
	conversation_send(&c, json_pack("{s:s}", "op", "nonsense"));
	conversation_stop(&c);
	struct entries *e = read_log(&c);
	assert_int_equal(e->type[0], FT_ENTRY_START);
	assert_int_equal(e->type[e->count - 1], FT_ENTRY_STOP);
	for (json_int_t hold = 17; hold <= 18; hold++)
		for (unsigned type = FT_ENTRY_HOLD; type <= FT_ENTRY_DONE; type++)
			assert_int_equal(count(e, type, hold), 1);
	const json_t *done = first(e, FT_ENTRY_DONE), *hold = first(e, FT_ENTRY_HOLD);
	assert_string_equal(json_string_value(json_object_get(done, "disposition")), "dropped");
	assert_string_equal(json_string_value(json_object_get(json_object_get(done, "quarantine"), "file")), "hold-17.pcap");
	assert_string_equal(json_string_value(json_object_get(json_object_get(hold, "flow"), "client")), "10.0.2.9");
	assert_non_null(strstr(json_string_value(json_object_get(first(e, FT_ENTRY_OPERATOR), "text")), "by uid 0"));
	assert_int_equal(count(e, FT_ENTRY_EVENT, 0), 1);
	/* The failed self-test, and the record that was none. */
	assert_int_equal(count(e, FT_ENTRY_ERROR, 0), 2);
	free_entries(e);
	conversation_remove(&c);
}

/* The digest in the log is that of the record in the feed: jq -caS '.alert.context.foretaste' | sha256sum. */
static void the_evidence_in_the_feed_is_the_one_in_the_log(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 1 << 20, 0);
	conversation_send(&c, conversation_hold(3, "malicious"));
	conversation_stop(&c);
	char command[700], line[100] = "";
	snprintf(command, sizeof(command),
		 "/usr/bin/python3 -c 'import json,hashlib,sys\n"
		 "for l in open(\"%s\"):\n"
		 "  a=json.loads(l).get(\"alert\")\n"
		 "  if a: print(hashlib.sha256(json.dumps(a[\"context\"][\"foretaste\"],sort_keys=True,separators=(\",\",\":\"))"
		 ".encode()).hexdigest())'", c.feed);
	FILE *out = popen(command, "r");
	assert_non_null(fgets(line, sizeof(line), out));
	pclose(out);
	struct entries *e = read_log(&c);
	const char *digest = json_string_value(json_object_get(first(e, FT_ENTRY_EVIDENCE), "sha256"));
	assert_int_equal(strlen(digest), 64);
	assert_memory_equal(digest, line, 64);
	free_entries(e);
	conversation_remove(&c);
}

/* The gateway dies between a decision and its outcome: the next run says that nobody knows. */
static void a_decision_without_an_outcome_is_closed_at_the_next_start(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 0, 0);
	conversation_send(&c, decided(5, 1));
	conversation_send(&c, decided(6, 2));
	conversation_send(&c, conversation_hold(6, "clean"));
	while (log_number(&c, "signed") < 6)
		;
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	close(c.channel);
	close(c.records);
	conversation_restart(&c);
	conversation_stop(&c);
	struct entries *e = read_log(&c);
	assert_int_equal(count(e, FT_ENTRY_DECIDED, 5), 1);
	assert_int_equal(count(e, FT_ENTRY_DECIDED, 6), 1);
	assert_int_equal(count(e, FT_ENTRY_UNKNOWN, 5), 1);
	assert_int_equal(count(e, FT_ENTRY_UNKNOWN, 0), 1);
	assert_false(json_boolean_value(json_object_get(first(e, FT_ENTRY_GAP), "clean")));
	free_entries(e);
	/* And only once. */
	conversation_restart(&c);
	conversation_stop(&c);
	e = read_log(&c);
	assert_int_equal(count(e, FT_ENTRY_UNKNOWN, 0), 1);
	assert_int_equal(count(e, FT_ENTRY_START, 0), 3);
	free_entries(e);
	conversation_remove(&c);
}

/* What the dataplane waits for: the number of a decision on the page means that it is on the disk, with its checkpoint. */
static void a_decision_on_the_page_is_on_the_disk(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 0, 0);
	uint64_t run = atomic_load(&c.durable->run), size, before = 0;
	assert_true(run > 0);
	assert_int_equal(atomic_load(&c.durable->working), 1);
	for (json_int_t i = 1; i <= 20; i++) {
		conversation_send(&c, decided(i, 1000 + i));
		while (atomic_load(&c.durable->sequence) < 1000u + (uint64_t)i)
			;
		if (i % 5)
			continue;
		/* Killed at this very moment, nothing of it is lost. */
		kill(c.pid, SIGKILL);
		waitpid(c.pid, NULL, 0);
		close(c.channel);
		close(c.records);
		struct entries *e = read_log(&c);
		for (json_int_t j = 1; j <= i; j++)
			assert_int_equal(count(e, FT_ENTRY_DECIDED, j), 1);
		free_entries(e);
		assert_int_equal(verify(&c, NULL, &size), 3);
		assert_true(size > before);
		before = size;
		conversation_restart(&c);
		/* Who waits for the dead one's decisions sees that it is dead. */
		assert_true(atomic_load(&c.durable->run) > run);
		run = atomic_load(&c.durable->run);
	}
	/* An outcome alone, of a hold that the feed has not. */
	conversation_send(&c, decided(50, 2000));
	conversation_send(&c, json_pack("{s:s, s:i, s:s, s:s, s:i}", "op", "done", "hold", 50, "disposition", "released",
					"disposition_reason", "release.clean", "frames_done", 1));
	conversation_stop(&c);
	assert_int_equal(atomic_load(&c.durable->working), 0);
	struct entries *e = read_log(&c);
	assert_int_equal(count(e, FT_ENTRY_DONE, 50), 1);
	free_entries(e);
	conversation_remove(&c);
}

/* Whoever keeps the feed is a witness. */
static void the_feed_proves_that_nothing_was_taken_off(void **state)
{
	struct conversation c;
	uint64_t before, after;
	char saved[128], command[512];
	conversation_begin(&c, 0, 0, 0);
	conversation_stop(&c);
	snprintf(saved, sizeof(saved), "%s/saved", c.directory);
	snprintf(command, sizeof(command), "cp -a %s %s", c.state, saved);
	assert_int_equal(system(command), 0);
	c.publish_every = 1000000;
	conversation_restart(&c);
	for (unsigned i = 1; i < 5; i++)
		conversation_send(&c, conversation_hold(i, "clean"));
	conversation_stop(&c);
	assert_int_equal(verify(&c, c.feed, &before), 0);
	snprintf(command, sizeof(command), "rm -r %s && cp -a %s %s", c.state, saved, c.state);
	assert_int_equal(system(command), 0);
	assert_int_equal(verify(&c, NULL, &after), 3);
	assert_true(after < before);
	assert_int_equal(verify(&c, c.feed, &after), 1);
	conversation_remove(&c);
}

/* A disk that is full: what waits is written later; nothing else stops. */
static void a_full_disk_delays_entries(void **state)
{
	struct conversation c;
	/* Files may not grow beyond 1 MiB; the keys have 128 KiB. */
	conversation_begin(&c, 0, 0, 1 << 20);
	for (unsigned i = 0; i < 3000; i++)
		conversation_send(&c, event("guest-up", "a sentence that makes the log longer, of which there are a great many of the same "
							"length so that the file comes to its limit before the test comes to its end, "
							"and some more words that say nothing but take room in a file that may not grow "
							"beyond what the test allows, and that is all there is to say of these events"));
	json_t *answer;
	const char *trouble = NULL;
	for (unsigned i = 0; i < 20000 && !trouble; i++) {
		answer = conversation_ask(&c, json_pack("{s:s}", "what", "status"));
		trouble = json_string_value(json_object_get(json_object_get(json_object_get(answer, "result"), "log"), "trouble"));
		trouble = trouble ? strdup(trouble) : NULL;
		json_decref(answer);
	}
	assert_non_null(trouble);
	free((char *)trouble);
	assert_int_equal(log_number(&c, "lost"), 0);
	conversation_stop(&c);
	/* Without the limit: what was not signed is cut, and that is an entry. */
	conversation_restart(&c);
	conversation_stop(&c);
	uint64_t size;
	assert_int_equal(verify(&c, NULL, &size), 3);
	conversation_remove(&c);
}

/* Somebody changed the log while the gateway was away: it is not gone on with, and everything else works. */
static void a_changed_log_is_told_and_left_alone(void **state)
{
	struct conversation c;
	char path[160];
	uint64_t size;
	conversation_begin(&c, 0, 0, 0);
	conversation_stop(&c);
	snprintf(path, sizeof(path), "%s/entries/000000000000000", c.state);
	int fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, "2", 1, 20), 1);
	close(fd);
	conversation_restart(&c);
	conversation_send(&c, conversation_hold(1, "clean"));
	assert_int_equal(log_number(&c, "signed"), 0);
	conversation_stop(&c);
	json_t *lines = conversation_feed(&c);
	bool told = false, alert = false;
	for (size_t i = 0; i < json_array_size(lines); i++) {
		const json_t *line = json_array_get(lines, i);
		const char *text = json_string_value(json_object_get(json_object_get(line, "engine"), "error"));
		told |= text && strstr(text, "not those that were signed");
		alert |= json_object_get(line, "alert") != NULL;
	}
	assert_true(told);
	assert_true(alert);
	json_decref(lines);
	assert_int_equal(verify(&c, NULL, &size), 1);
	conversation_remove(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(everything_of_consequence_is_an_entry),
	    cmocka_unit_test(the_evidence_in_the_feed_is_the_one_in_the_log),
	    cmocka_unit_test(a_decision_without_an_outcome_is_closed_at_the_next_start),
	    cmocka_unit_test(a_decision_on_the_page_is_on_the_disk),
	    cmocka_unit_test(the_feed_proves_that_nothing_was_taken_off),
	    cmocka_unit_test(a_full_disk_delays_entries),
	    cmocka_unit_test(a_changed_log_is_told_and_left_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
