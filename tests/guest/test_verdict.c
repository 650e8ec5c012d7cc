/* A guest behind the real foretaste-vmm, trials of it, and the real foretaste-replay, which has to come to the same verdicts, bit for
 * bit: out of the guest's journal, from a seed that was kept, and (other ones) on another guest. The test plays the dataplane. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include <sodium.h>

#include "base/channel.h"
#include "detect/case.h"
#include "journal/reader.h"
#include "peer.h"
#include "replayed.h"

#define MEMORY 256
#define GROUP  3u

static const char *vmm, *images, *replay;
static char directory[] = "/tmp/foretaste-verdict-XXXXXX";
static char rules_file[128], rules_sha256[65];
static struct ft_rules *rules;
static struct ft_profile *profile;
static struct stand s;
static struct peer idle_peer;
static uint16_t next_port;
static uint64_t next_trial;

/* What the dataplane is given, kept as the supervisor keeps it. */
static const char rules_text[] =
    "{\"normal\":{\"http\":{\"may_exec\":[\"/usr/lib/cgi-bin/*\",\"/usr/bin/getent\",\"/bin/sh\",\"/usr/bin/dash\"]}},\"verdict_rules\":["
    "{\"sid\":2000001,\"rev\":1,\"name\":\"service-exec\",\"text\":\"a program that it never starts\",\"severity\":1,\"verdict\":\"malicious\","
    "\"any\":{\"event\":\"exec\",\"where\":{\"result\":0},\"unless\":{\"path\":{\"in\":\"may_exec\"}}}}]}";

/* ---- Files -------------------------------------------------------------------------------------------------------- */

static const char *path_of(const char *name)
{
	static char path[4][256];
	static unsigned next;
	char *to = path[next++ % 4];
	snprintf(to, sizeof(path[0]), "%s/%s", directory, name);
	return to;
}

static int make(const char *name)
{
	unlink(path_of(name));
	int fd = open(path_of(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

static void write_file(const char *name, const char *text)
{
	int fd = make(name);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static int prepare_rules(void **state)
{
	uint8_t hash[crypto_hash_sha256_BYTES];
	struct ft_error err = {0};
	if (!mkdtemp(directory))
		return -1;
	write_file("rules.json", rules_text);
	snprintf(rules_file, sizeof(rules_file), "%s", path_of("rules.json"));
	crypto_hash_sha256(hash, (const uint8_t *)rules_text, strlen(rules_text));
	sodium_bin2hex(rules_sha256, sizeof(rules_sha256), hash, sizeof(hash));
	json_t *json = json_loads(rules_text, 0, NULL);
	if (ft_rules_load(json_object_get(json, "verdict_rules"), FT_RULES_VERDICT, &rules, NULL, &err) ||
	    ft_profile_load(json_object_get(json_object_get(json, "normal"), "http"), &profile, NULL, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	json_decref(json);
	return 0;
}

static int remove_all(void **state)
{
	char command[128];
	ft_rules_free(rules);
	ft_profile_free(profile);
	snprintf(command, sizeof(command), "rm -rf %s", directory);
	return system(command);
}

/* ---- A guest ------------------------------------------------------------------------------------------------------- */

static void boot(bool recorded, const char *from)
{
	static const char *const names[] = {"000001.ring", "000001-000001.journal", "000001-000001.checkpoint"};
	s = (struct stand){0};
	assert_int_equal(stand_spawn(&s, vmm, NULL), 0);
	for (int i = 0; recorded && i < 3; i++)
		s.journal[i] = make(names[i]);
	s.journal_run = 1;
	if (recorded)
		assert_int_equal(ft_journal_ring_make(s.journal[0], NULL, NULL), 0);
	assert_int_equal(stand_configure(&s, from, "console=ttyS0 root=/dev/vda rw", MEMORY, 2), 0);
	for (int i = 0; recorded && i < 3; i++)
		close(s.journal[i]);
	stand_link(&s);
	peer_open(&idle_peer, &s, 41000);
	assert_true(stand_wait_console(&s, "foretaste-guest: services up", peer_meanwhile, &idle_peer));
	next_port = 42000;
	next_trial = 1;
}

/* What comes from here on is replayed without the guest's boot. */
static void checkpoint(void)
{
	json_t *message = json_pack("{s:s, s:i}", "op", "checkpoint", "number", 2);
	int fds[2] = {make("000001-000002.checkpoint"), make("000001-000002.journal")};
	json_decref(s.checkpoint);
	s.checkpoint = NULL;
	assert_int_equal(ft_channel_send(s.channel, message, fds, 2), 0);
	json_decref(message);
	close(fds[0]);
	close(fds[1]);
	for (int i = 0; i < STAND_PATIENCE_MS / 10 && !s.checkpoint; i++) {
		stand_message(&s, 10);
		peer_run(&idle_peer, 1, NULL);
	}
	assert_non_null(s.checkpoint);
	assert_null(json_object_get(s.checkpoint, "error"));
}

static void shut(void)
{
	json_t *message = json_pack("{s:s}", "op", "stop");
	ft_channel_send(s.channel, message, NULL, 0);
	json_decref(message);
	waitpid(s.pid, &s.status, 0);
	s.pid = 0;
	assert_true(WIFEXITED(s.status) && WEXITSTATUS(s.status) == 0);
	peer_close(&idle_peer);
	stand_end(&s);
}

/* ---- A trial, and its record as the dataplane makes it --------------------------------------------------------------- */

struct attempt {
	struct peer peers[GROUP];
	struct ft_trial_begin begin;
	struct ft_trial_flow flows[GROUP];
	struct stand_frame frames[GROUP];
	uint32_t count;
	struct stand_trial trial;
	size_t heard; /* events */
	struct ft_case *c;
};

static void hear(struct attempt *a)
{
	for (; a->heard < a->trial.count; a->heard++) {
		struct stand_event *e = &a->trial.events[a->heard];
		ft_case_add(a->c, &e->event, (const char *const *)e->strings);
	}
}

static json_t *record_of(struct attempt *a)
{
	char client[32], file[32];
	const struct ft_trial_flow *f = &a->flows[0];
	snprintf(client, sizeof(client), "%s", "10.0.2.9");
	json_t *record = json_pack("{s:I, s:s, s:s, s:{s:s, s:s, s:i, s:i}, s:{s:I, s:I, s:I}, s:s}", "hold", (json_int_t)a->begin.trial, "guest",
				   "test", "service", "http", "flow", "proto", "tcp", "client", client, "client_port",
				   (int)ntohs(f->client_port), "server_port", (int)ntohs(f->server_port), "input", "bytes",
				   (json_int_t)f->bytes, "first_sequence", (json_int_t)f->first_sequence, "next_sequence",
				   (json_int_t)f->next_sequence, "rules_sha256", rules_sha256);
	assert_non_null(record);
	assert_int_equal(ft_case_record(a->c, record), 0);
	if (a->count > 1)
		json_object_set_new(record, "group", json_pack("{s:i, s:i}", "size", (int)a->count, "runs", 1));
	snprintf(file, sizeof(file), "%" PRIu64 ".json", a->begin.trial);
	assert_int_equal(json_dump_file(record, path_of(file), JSON_COMPACT), 0);
	return record;
}

/* Requests on connections of their own, held and tried together; the live guest never sees them. keep: where the seed goes, NULL:
 * nowhere. The record, a new reference. */
static json_t *try(const char *const *targets, uint32_t count, const char *keep)
{
	static struct attempt a;
	memset(&a, 0, sizeof(a));
	a.begin = stand_budgets(next_trial++);
	a.count = count;
	for (uint32_t i = 0; i < count; i++) {
		char request[1024];
		peer_open(&a.peers[i], &s, next_port++);
		assert_true(peer_connect(&a.peers[i]));
		int n = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: guest\r\n\r\n", targets[i]);
		a.flows[i] = peer_flow(&a.peers[i], a.peers[i].sequence, (uint32_t)n, 1);
		peer_segment(&a.peers[i], request, (size_t)n, &a.frames[i]);
	}
	a.c = ft_case_new(a.begin.trial, rules, profile);
	stand_ask(&s, &a.begin, a.flows, count, a.frames);
	stand_collect(&s, a.begin.trial, &a.trial, false, peer_meanwhile, &a.peers[0]);
	assert_non_null(a.trial.end);
	/* It may come after all that the trial said. */
	for (int i = 0; i < 200 && !a.trial.ready; i++)
		stand_collect(&s, a.begin.trial, &a.trial, false, peer_meanwhile, &a.peers[0]);
	hear(&a);
	if (ft_case_step(a.c) == FT_CASE_TWIN) {
		stand_run(&s, a.begin.trial, &a.trial, 0, ft_case_until(a.c));
		stand_collect(&s, a.begin.trial, &a.trial, true, peer_meanwhile, &a.peers[0]);
		hear(&a);
	}
	assert_int_equal(ft_case_step(a.c), FT_CASE_JUDGED);
	json_t *record = record_of(&a);
	if (keep) {
		int file = make(keep);
		stand_keep(&s, a.begin.trial, a.begin.trial);
		for (int i = 0; i < STAND_PATIENCE_MS / 10 && !s.seed_wanted; i++)
			stand_message(&s, 10);
		assert_int_equal(s.seed_wanted, json_integer_value(json_object_get(json_object_get(record, "seed"), "number")));
		assert_int_equal(s.seed_hold, a.begin.trial);
		stand_keep_in(&s, file);
		/* Its trial is over at once, whatever it takes to write it. */
		stand_finish(&s, a.begin.trial, &a.trial);
		for (int i = 0; i < STAND_PATIENCE_MS / 10 && !s.seed_kept; i++)
			stand_message(&s, 10);
		assert_non_null(s.seed_kept);
		if (json_object_get(s.seed_kept, "error"))
			fail_msg("not kept: %s", json_string_value(json_object_get(s.seed_kept, "error")));
		json_decref(s.seed_kept);
		s.seed_kept = NULL;
		close(file);
	} else {
		stand_finish(&s, a.begin.trial, &a.trial);
	}
	stand_trial_free(&a.trial);
	ft_case_free(a.c);
	for (uint32_t i = 0; i < count; i++)
		peer_close(&a.peers[i]);
	return record;
}

static const char attack[] = "/cgi-bin/lookup?host=localhost;touch+/var/www/touched/verdict", innocent[] = "/cgi-bin/lookup?host=localhost";

static json_t *try_one(const char *target, const char *keep)
{
	return try(&target, 1, keep);
}

static const char *verdict_of(const json_t *record)
{
	return json_string_value(json_object_get(record, "verdict"));
}

/* ---- Replaying ----------------------------------------------------------------------------------------------------- */

static struct replayed play(const char *const *more)
{
	char image[700];
	const char *arguments[32] = {replay, "--json", "--disk", image};
	snprintf(image, sizeof(image), "%s/root.ext4", images);
	for (int i = 4; *more; i++)
		arguments[i] = *more++;
	struct replayed p = replayed_run(arguments, "");
	fprintf(stderr, "replay: exit %d %.300s%s\n", p.status, p.out, p.err);
	return p;
}

/* The verdict with this number, out of the journal or of a kept seed. */
static struct replayed again(json_int_t number, const char *kept, const char *option, const char *value)
{
	char record[32];
	snprintf(record, sizeof(record), "%d.json", (int)number);
	const char *words[] = {"--verdict", path_of(record), "--rules", rules_file, kept ? "--kept" : directory, kept ? path_of(kept) : option,
			       kept ? option : value, kept ? value : NULL, NULL};
	return play(words);
}

static void expect_same(const json_t *record, const char *kept)
{
	struct replayed p = again(json_integer_value(json_object_get(record, "hold")), kept, NULL, NULL);
	assert_int_equal(p.status, 0);
	assert_true(json_is_true(json_object_get(p.report, "same")));
	const json_t *now = json_object_get(p.report, "again");
	assert_string_equal(verdict_of(record), verdict_of(now));
	assert_int_equal(json_array_size(json_object_get(record, "evidence")), json_array_size(json_object_get(now, "evidence")));
	for (size_t i = 0; i < json_array_size(json_object_get(record, "evidence")); i++)
		assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(record, "evidence"), i), "says")),
				    json_string_value(json_object_get(json_array_get(json_object_get(now, "evidence"), i), "says")));
	for (size_t i = 0; i < json_array_size(json_object_get(record, "trials")); i++) {
		const json_t *a = json_array_get(json_object_get(record, "trials"), i), *b = json_array_get(json_object_get(now, "trials"), i);
		assert_string_equal(json_string_value(json_object_get(a, "sha256")), json_string_value(json_object_get(b, "sha256")));
		assert_string_equal(json_string_value(json_object_get(a, "state_hash")), json_string_value(json_object_get(b, "state_hash")));
		assert_true(json_integer_value(json_object_get(a, "events")) > 10);
	}
	replayed_free(&p);
}

/* Something is in its evidence. */
static bool shows(const json_t *record, const char *what)
{
	size_t i;
	const json_t *entry;
	json_array_foreach((json_t *)json_object_get(record, "evidence"), i, entry)
		if (strstr(json_string_value(json_object_get(entry, "says")), what))
			return true;
	return false;
}

/* ---- Tests --------------------------------------------------------------------------------------------------------- */

/* The journal again, one byte of what the guest was given first another one, and each hash made anew. */
static void change_input(const char *what)
{
	struct ft_segment_reader from;
	struct ft_segment_writer to;
	struct ft_segment_chunk chunk, written;
	struct ft_error err = {0};
	uint64_t torn;
	uint8_t *control = malloc(FT_SEGMENT_CHUNK), *payload = malloc(FT_SEGMENT_CHUNK);
	bool changed = false;
	int fd = open(path_of("000001-000002.journal"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(ft_segment_open(&from, fd, NULL, &err), 0);
	struct ft_segment_header header = from.header;
	assert_int_equal(ft_segment_writer_open(&to, &err), 0);
	memcpy(to.hash, header.before, sizeof(to.hash));
	assert_int_equal(ft_segment_begin(&to, make("changed"), &header, NULL, &err), 0);
	while (!ft_segment_next(&from, &chunk, control, payload, &torn, &err)) {
		uint8_t *at = changed ? NULL : memmem(payload, chunk.payload, what, strlen(what));
		if (at)
			*at ^= 1;
		changed |= at != NULL;
		assert_int_equal(ft_segment_put(&to, control, chunk.control, payload, chunk.payload, chunk.icount, chunk.ring, &written, &err), 0);
	}
	assert_true(changed);
	ft_segment_close(&from);
	ft_segment_writer_close(&to);
	close(fd);
	free(control);
	free(payload);
	assert_int_equal(rename(path_of("changed"), path_of("000001-000002.journal")), 0);
}

static void out_of_the_journal(void **state)
{
	static const char *const three[GROUP] = {"/", innocent, "/cgi-bin/greet?name=Ada"};
	boot(true, images);
	checkpoint();
	assert_true(peer_get(&s, next_port++, "/requests"));
	json_t *bad = try_one(attack, NULL);
	assert_string_equal(verdict_of(bad), "malicious");
	assert_true(shows(bad, "touch"));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(bad, "seed"), "run")), 1);
	assert_true(peer_get(&s, next_port++, innocent));
	json_t *clean = try_one(innocent, NULL), *group = try(three, GROUP, NULL);
	assert_string_equal(verdict_of(clean), "clean");
	assert_string_equal(verdict_of(group), "clean");
	/* Where its input was taken, and what was going on before. */
	shut();
	expect_same(bad, NULL);
	expect_same(clean, NULL);
	expect_same(group, NULL);
	struct replayed p = again(1, NULL, "--to", "verdict");
	assert_int_equal(p.status, 0);
	json_int_t at = json_integer_value(json_object_get(json_object_get(bad, "seed"), "instructions"));
	assert_int_equal(json_integer_value(json_object_get(p.report, "instructions")), at);
	replayed_free(&p);

	/* Other rules than those that judged it. */
	const char *other[] = {"--verdict", path_of("1.json"), "--rules", path_of("2.json"), directory, NULL};
	p = play(other);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "are not those that judged it"));
	replayed_free(&p);
	/* A record that says something else: what differs is named. */
	json_t *lie = json_deep_copy(bad), *run = json_array_get(json_object_get(lie, "trials"), 0);
	json_object_set_new(run, "state_hash", json_string("0x0123456789abcdef"));
	json_dump_file(lie, path_of("1.json"), JSON_COMPACT);
	p = again(1, NULL, NULL, NULL);
	assert_int_equal(p.status, 1);
	assert_non_null(strstr(json_string_value(json_object_get(p.report, "difference")), "run 1, state_hash"));
	replayed_free(&p);
	json_dump_file(bad, path_of("1.json"), JSON_COMPACT);
	/* The verdict's input is another one's. */
	json_object_set_new(json_object_get(lie, "input"), "bytes", json_integer(1));
	json_dump_file(lie, path_of("1.json"), JSON_COMPACT);
	p = again(1, NULL, NULL, NULL);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "about other input than this verdict"));
	replayed_free(&p);
	json_dump_file(bad, path_of("1.json"), JSON_COMPACT);
	json_decref(lie);

	/* What the live guest was given before is not what it was: the replay does not get to the seed. */
	change_input("GET /requests");
	p = again(1, NULL, NULL, NULL);
	assert_int_equal(p.status, 1);
	assert_non_null(strstr(p.err, "differs from what was recorded between instruction"));
	assert_non_null(strstr(p.err, "state of "));
	replayed_free(&p);
	json_decref(bad);
	json_decref(clean);
	json_decref(group);
}

static void change(const char *name, off_t at)
{
	uint8_t byte;
	int fd = open(path_of(name), O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* Another guest's image: the program with the hole is not there any more. */
static void patch_image(const char *to)
{
	char command[1024];
	mkdir(path_of(to), 0755);
	snprintf(command, sizeof(command),
		 "cd %s/%s && ln -sf %s/vmlinuz %s/initrd.img . && cp --sparse=always %s/root.ext4 . && debugfs -w -R 'rm /usr/lib/cgi-bin/lookup' "
		 "root.ext4 >/dev/null 2>&1",
		 directory, to, images, images, images);
	assert_int_equal(system(command), 0);
}

static void save_snapshot(const char *name)
{
	int file = make(name);
	json_t *message = json_pack("{s:s, s:i}", "op", "snapshot", "created_ns", 1);
	assert_int_equal(ft_channel_send(s.channel, message, &file, 1), 0);
	json_decref(message);
	for (int i = 0; i < STAND_PATIENCE_MS / 10 && !s.saved; i++) {
		stand_message(&s, 10);
		peer_run(&idle_peer, 1, NULL);
	}
	assert_non_null(s.saved);
	assert_null(json_object_get(s.saved, "error"));
	close(file);
}

static void from_a_kept_seed(void **state)
{
	boot(false, images);
	json_t *bad = try_one(attack, "bad.seed");
	assert_string_equal(verdict_of(bad), "malicious");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(bad, "seed"), "run")), 0);
	assert_true(peer_get(&s, next_port++, innocent));
	/* A place among the clones that is free again, and one that nobody keeps. */
	json_t *other = try_one(attack, "other.seed"), *none = try_one(attack, NULL);
	shut();
	expect_same(bad, "bad.seed");
	expect_same(other, "other.seed");
	json_decref(other);
	json_decref(none);
	struct replayed p = again(1, "other.seed", NULL, NULL);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "another verdict's seed"));
	replayed_free(&p);
	/* No journal has it. */
	p = again(1, NULL, NULL, NULL);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "no journal covers this verdict"));
	replayed_free(&p);

	/* A patched guest. */
	char images_there[300], disk_there[320];
	patch_image("patched");
	snprintf(images_there, sizeof(images_there), "%s", path_of("patched"));
	snprintf(disk_there, sizeof(disk_there), "%s/root.ext4", images_there);
	boot(false, images_there);
	save_snapshot("patched.snapshot");
	shut();
	const char *words[] = {"--verdict", path_of("1.json"), "--rules", rules_file, "--kept", path_of("bad.seed"), "--against",
			       path_of("patched.snapshot"), "--against-disk", disk_there, NULL};
	p = play(words);
	assert_int_equal(p.status, 0);
	assert_true(json_is_true(json_object_get(p.report, "same")));
	const json_t *there = json_object_get(p.report, "against");
	assert_string_equal(verdict_of(there), "clean");
	assert_false(shows(there, "touch"));
	/* The input was taken there, too. */
	const json_t *run = json_array_get(json_object_get(there, "trials"), 0);
	assert_true(json_is_true(json_object_get(run, "handled")));
	assert_int_equal(json_integer_value(json_object_get(run, "taken_bytes")), json_integer_value(json_object_get(run, "held_bytes")));
	bool touch = false;
	size_t i;
	const json_t *text;
	json_array_foreach((json_t *)json_object_get(there, "gone"), i, text) touch |= strstr(json_string_value(text), "touch") != NULL;
	assert_true(touch);
	replayed_free(&p);

	/* A changed one. */
	change("bad.seed", 5000);
	p = again(1, "bad.seed", NULL, NULL);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "was changed"));
	assert_non_null(strstr(p.err, "chunk"));
	replayed_free(&p);
	json_decref(bad);
}

int main(int argc, char **argv)
{
	vmm = getenv("FORETASTE_VMM");
	images = getenv("FORETASTE_IMAGES");
	replay = getenv("FORETASTE_REPLAY");
	char path[700];
	snprintf(path, sizeof(path), "%s/root.ext4", images ? images : "");
	if (!vmm || !replay || access(path, R_OK)) {
		printf("SKIP: no guest image (deploy/guest/build makes it)\n");
		return 77;
	}
	if (sodium_init() < 0)
		return 1;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {cmocka_unit_test(out_of_the_journal), cmocka_unit_test(from_a_kept_seed)};
	return cmocka_run_group_tests(tests, prepare_rules, remove_all);
}
