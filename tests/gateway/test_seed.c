/* Seeds that are kept: what is there afterwards, under which bounds, and what an operator is told. The supervisor's own code on real
 * files in a directory of the test's own; the test is the vmm that is asked to write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/seed.h"
#include "snapshot/file.h"

#define CONTENT 20000u /* bytes that do not get smaller */
#define HOUR	3600u
#define HOUR_NS 3600000000000ull

static struct ft_supervisor s;
static struct ft_config config;
static char state_path[] = "/tmp/foretaste-seeds-XXXXXX";
static int vmms[2], feed; /* the other ends of channels and records */
static int seeds;	  /* the directory */
static uint64_t size;	  /* of one file */

/* ---- The scene ------------------------------------------------------------------------------------------------------- */

static void write_seed(int fd, const char *guest)
{
	static uint8_t content[CONTENT];
	static const uint8_t key[randombytes_SEEDBYTES];
	struct ft_snapshot_writer w;
	struct ft_snapshot_header header = {.memory = FT_SNAPSHOT_CHUNK};
	struct ft_error err = {0};
	snprintf(header.guest, sizeof(header.guest), "%s", guest);
	randombytes_buf_deterministic(content, sizeof(content), key);
	if (ft_snapshot_begin(&w, fd, &header, NULL, &err) || ft_snapshot_put(&w, FT_SNAPSHOT_STATE, 0, content, sizeof(content), &err) ||
	    ft_snapshot_end(&w, NULL, &err))
		fail_msg("%s", err.text);
	ft_snapshot_writer_free(&w);
}

static uint64_t size_of(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

static void configure(uint64_t quota, const char *keep, const char *every)
{
	char texts[3][64];
	const char *sets[] = {texts[0], texts[1], texts[2]};
	struct ft_error err = {0};
	snprintf(texts[0], sizeof(texts[0]), "seeds.quota=%llu B", (unsigned long long)quota);
	snprintf(texts[1], sizeof(texts[1]), "seeds.keep=%s", keep);
	snprintf(texts[2], sizeof(texts[2]), "seeds.every=%s", every);
	ft_config_free(&config);
	if (ft_config_load(&config, SOURCE "/config/quickstart.yaml", sets, 3, &err))
		fail_msg("%s", err.text);
}

static void empty(void)
{
	DIR *all = fdopendir(openat(seeds, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(all);
	for (struct dirent *e; (e = readdir(all));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlinkat(seeds, e->d_name, 0))
			assert_int_equal(unlinkat(seeds, e->d_name, AT_REMOVEDIR), 0);
	closedir(all);
}

static int begin(void **state)
{
	static const char *const guests[] = {"web", "mail"};
	int pair[2], memory = memfd_create("seed", MFD_CLOEXEC);
	s = (struct ft_supervisor){.config = &config, .phase = FT_PHASE_RUNNING, .count = 2};
	assert_int_equal(ft_config_load(&config, SOURCE "/config/quickstart.yaml", NULL, 0, NULL), 0);
	assert_non_null(mkdtemp(state_path));
	s.state_fd = open(state_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(s.state_fd, "seeds", 0700), 0);
	seeds = openat(s.state_fd, "seeds", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s.records), 0);
	feed = s.records[0];
	for (int i = 0; i < 2; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
		ft_child_prepare(&s.children[i], FT_CHILD_VMM, guests[i], 0);
		s.children[i].channel.fd = pair[0];
		vmms[i] = pair[1];
	}
	write_seed(memory, "web");
	size = size_of(memory);
	close(memory);
	return 0;
}

static int end(void **state)
{
	empty();
	for (int i = 0; i < 2; i++) {
		close(vmms[i]);
		close(s.children[i].channel.fd);
	}
	close(s.records[0]);
	close(s.records[1]);
	close(seeds);
	assert_int_equal(unlinkat(s.state_fd, "seeds", AT_REMOVEDIR), 0);
	close(s.state_fd);
	ft_config_free(&config);
	return rmdir(state_path);
}

/* Each test begins with nothing kept, and nothing asked for. */
static int fresh(void **state)
{
	json_t *event;
	int fds[FT_CHANNEL_FDS], count;
	empty();
	while (!ft_channel_receive(feed, &event, fds, &count))
		json_decref(event);
	for (int i = 0; i < 2; i++) {
		struct ft_child *vmm = &s.children[i];
		vmm->seed_at = vmm->seeds_kept = vmm->seeds_skipped = vmm->seeds_failed = vmm->seeds_untold = 0;
		assert_int_equal(vmm->seed, 0);
	}
	s.seeds_removed = 0;
	return 0;
}

/* What the feed was told next; false: nothing more. */
static bool told(const char *type, const char *word)
{
	json_t *event;
	int fds[FT_CHANNEL_FDS], count;
	if (ft_channel_receive(feed, &event, fds, &count))
		return false;
	const char *text = json_string_value(json_object_get(event, "text"));
	bool good = !strcmp(json_string_value(json_object_get(event, "type")), type) && strstr(text, word);
	if (!good)
		print_error("told: %s\n", text);
	json_decref(event);
	return good;
}

static void say(int which, json_t *message, bool good)
{
	assert_int_equal(ft_seed_told(&s, &s.children[which], message), good);
	json_decref(message);
}

/* The vmm asks for a seed to be kept, and has its answer: the file, or -1. */
static int ask(int which, uint64_t number, uint64_t hold)
{
	json_t *answer;
	int fds[FT_CHANNEL_FDS], count;
	say(which, json_pack("{s:s, s:I, s:I}", "op", "seed", "number", (json_int_t)number, "hold", (json_int_t)hold), true);
	assert_int_equal(ft_channel_receive(vmms[which], &answer, fds, &count), 0);
	assert_string_equal(json_string_value(json_object_get(answer, "op")), "seed");
	assert_int_equal(json_integer_value(json_object_get(answer, "number")), number);
	assert_in_range(count, 0, 1);
	assert_int_equal(json_is_integer(json_object_get(answer, "created_ns")), count);
	json_decref(answer);
	return fds[0];
}

static void finish(int which, uint64_t number)
{
	say(which, json_pack("{s:s, s:I, s:I, s:I}", "op", "seed-kept", "number", (json_int_t)number, "bytes", (json_int_t)size, "took_ns", (json_int_t)1), true);
}

static void keep(int which, uint64_t number, uint64_t hold)
{
	int fd = ask(which, number, hold);
	assert_true(fd >= 0);
	write_seed(fd, s.children[which].guest);
	close(fd);
	finish(which, number);
}

static void age(const char *name, unsigned seconds)
{
	struct timespec times[2];
	clock_gettime(CLOCK_REALTIME, &times[0]);
	times[0].tv_sec -= seconds;
	times[1] = times[0];
	assert_int_equal(utimensat(seeds, name, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void make_old(const char *name)
{
	int fd = openat(seeds, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	age(name, 1000 * HOUR);
}

/* Exactly these are there, besides `others` of other names. */
static void there(const char *names, unsigned others)
{
	char copy[256];
	unsigned wanted = 0, found = 0;
	snprintf(copy, sizeof(copy), "%s", names);
	for (char *name = strtok(copy, " "); name; name = strtok(NULL, " "), wanted++)
		if (faccessat(seeds, name, F_OK, AT_SYMLINK_NOFOLLOW))
			fail_msg("%s is not there", name);
	DIR *all = fdopendir(openat(seeds, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(all);
	for (struct dirent *e; (e = readdir(all));)
		found += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(all);
	assert_int_equal(found, wanted + others);
}

static uint64_t status(const char *key)
{
	json_t *json = ft_seed_status(&s);
	json_t *value = json_object_get(json, key);
	assert_true(json_is_integer(value));
	uint64_t number = (uint64_t)json_integer_value(value);
	json_decref(json);
	return number;
}

/* ---- Tests ----------------------------------------------------------------------------------------------------------- */

static void what_is_kept_is_there_whole(void **state)
{
	configure(100 * size, "1 h", "0 s");
	int fd = ask(0, 3, 1000007);
	assert_true(fd >= 0);
	write_seed(fd, "web");
	assert_int_equal(faccessat(seeds, "web-1000007", F_OK, 0), -1); /* not before it is on disk */
	close(fd);
	finish(0, 3);
	there("web-1000007", 0);
	fd = openat(seeds, "web-1000007", O_RDONLY | O_CLOEXEC);
	struct ft_snapshot snapshot;
	assert_int_equal(ft_snapshot_open(&snapshot, fd, NULL, NULL), 0);
	assert_string_equal(snapshot.header.guest, "web");
	ft_snapshot_close(&snapshot);
	close(fd);
	assert_true(told("seed-kept", "on hold 1000007 of guest web is kept"));
	assert_false(told("", ""));
	assert_int_equal(status("kept"), 1);
	assert_int_equal(status("files"), 1);
	assert_int_equal(status("bytes"), size);
	assert_int_equal(status("quota"), 100 * size);
	assert_in_range(ft_seed_oldest(&s), time(NULL) - 60, time(NULL));
}

/* The oldest go first, whatever their names; what fits exactly stays. */
static void the_quota_is_that_of_all(void **state)
{
	configure(3 * size, "1000 h", "0 s");
	for (uint64_t hold = 1; hold <= 3; hold++)
		keep(hold == 2, hold, hold);
	there("web-1 mail-2 web-3", 0);
	age("web-1", 5 * HOUR);
	age("mail-2", 7 * HOUR);
	age("web-3", 6 * HOUR);
	keep(0, 4, 4);
	there("web-1 web-3 web-4", 0);
	assert_int_equal(status("bytes"), 3 * size);
	assert_int_equal(status("removed"), 1);
	/* A quota that a reload made smaller: with the next one that is kept. */
	configure(3 * size - 1, "1000 h", "0 s");
	there("web-1 web-3 web-4", 0);
	keep(1, 5, 5);
	there("web-4 mail-5", 0);
	assert_int_equal(status("removed"), 3);
	assert_int_equal(status("kept"), 5);
	unsigned kept = 0, pruned = 0;
	json_t *event;
	int fds[FT_CHANNEL_FDS], count;
	while (!ft_channel_receive(feed, &event, fds, &count)) {
		const char *type = json_string_value(json_object_get(event, "type")), *text = json_string_value(json_object_get(event, "text"));
		kept += !strcmp(type, "seed-kept");
		pruned += !strcmp(type, "seeds-pruned") && *text == (pruned ? '2' : '1');
		json_decref(event);
	}
	assert_int_equal(kept, 5);
	assert_int_equal(pruned, 2);
}

static void what_is_too_old_goes_with_the_next(void **state)
{
	configure(100 * size, "2 h", "0 s");
	for (uint64_t hold = 1; hold <= 4; hold++)
		keep(0, hold, hold);
	age("web-1", 2 * HOUR - 60);
	age("web-2", 2 * HOUR + 60);
	age("web-4", 9 * HOUR);
	/* What is no kept seed is nobody's to remove: one that is being written, what somebody else put there. */
	make_old(".mail-9.new");
	assert_int_equal(symlinkat("web-1", seeds, "web-8"), 0);
	age("web-8", 1000 * HOUR);
	assert_int_equal(mkdirat(seeds, "web-9", 0700), 0);
	age("web-9", 1000 * HOUR);
	there("web-1 web-2 web-3 web-4", 3);
	assert_int_equal(status("files"), 4);
	keep(1, 5, 5);
	there("web-1 web-3 mail-5 .mail-9.new web-8 web-9", 0);
	assert_int_equal(status("removed"), 2);
	assert_int_equal(status("files"), 3);
	assert_int_equal(status("bytes"), 3 * size);
}

/* However often bad input comes. */
static void of_one_guest_there_is_one_in_a_time(void **state)
{
	struct ft_child *web = &s.children[0];
	configure(100 * size, "1000 h", "1 h");
	keep(0, 1, 1);
	assert_true(told("seed-kept", "is kept"));
	for (uint64_t n = 2; n <= 4; n++)
		assert_int_equal(ask(0, n, n), -1);
	there("web-1", 0);
	assert_int_equal(status("skipped"), 3);
	assert_true(told("seed-skipped", "younger than seeds.every")); /* once */
	assert_false(told("", ""));
	keep(1, 1, 5); /* another guest's */
	assert_true(told("seed-kept", "is kept"));
	there("web-1 mail-5", 0);
	/* Time passes. */
	web->seed_at -= HOUR_NS - 60000000000ull;
	assert_int_equal(ask(0, 6, 6), -1);
	web->seed_at -= 60000000000ull;
	keep(0, 7, 7);
	assert_true(told("seed-kept", "since the last one 4 were not"));
	there("web-1 mail-5 web-7", 0);
	assert_int_equal(status("skipped"), 4);
	/* Not while one is being written, however short the time is. */
	configure(100 * size, "1000 h", "0 s");
	int fd = ask(0, 8, 8);
	assert_true(fd >= 0);
	assert_int_equal(ask(0, 9, 9), -1);
	write_seed(fd, "web");
	close(fd);
	finish(0, 9); /* that one never was */
	there("web-1 mail-5 web-7 .web-8.new", 0);
	finish(0, 8);
	there("web-1 mail-5 web-7 web-8", 0);
	assert_true(told("seed-skipped", "younger than seeds.every"));
	assert_true(told("seed-kept", "since the last one 1 were not"));
}

static void without_room_for_any_none_is_kept(void **state)
{
	configure(0, "1000 h", "0 s");
	assert_int_equal(ask(0, 1, 1), -1);
	there("", 0);
	assert_false(told("", ""));
	assert_int_equal(status("skipped") + status("failed") + status("kept"), 0);
	/* Nor while the gateway stops. */
	configure(100 * size, "1000 h", "0 s");
	s.phase = FT_PHASE_STOPPING;
	assert_int_equal(ask(0, 2, 2), -1);
	s.phase = FT_PHASE_RUNNING;
	there("", 0);
}

/* Nothing is left of what could not be kept, and the feed says why. */
static void what_fails_leaves_nothing(void **state)
{
	struct ft_child *web = &s.children[0];
	configure(100 * size, "1000 h", "0 s");
	int fd = ask(0, 1, 1);
	close(fd);
	say(0, json_pack("{s:s, s:i, s:s}", "op", "seed-kept", "number", 1, "error", "there is no\x1b room"), true);
	assert_true(told("seed-failed", "there is no\\x1b room"));
	there("", 0);
	/* Another guest's, and what is no snapshot at all. */
	fd = ask(0, 2, 2);
	write_seed(fd, "mail");
	close(fd);
	finish(0, 2);
	assert_true(told("seed-failed", "wrote another guest's snapshot"));
	fd = ask(0, 3, 3);
	assert_int_equal(write(fd, "garbage", 7), 7);
	close(fd);
	finish(0, 3);
	assert_true(told("seed-failed", "hold 3 of guest web is not kept"));
	there("", 0);
	/* What is in the way of its name. */
	assert_int_equal(mkdirat(seeds, "web-6", 0700), 0);
	fd = ask(0, 6, 6);
	write_seed(fd, "web");
	close(fd);
	finish(0, 6);
	assert_true(told("seed-failed", "hold 6 of guest web is not kept"));
	there("web-6", 0);
	assert_int_equal(unlinkat(seeds, "web-6", AT_REMOVEDIR), 0);
	/* It dies while it writes. */
	fd = ask(0, 4, 4);
	write_seed(fd, "web");
	close(fd);
	ft_seed_ended(&s, web);
	assert_true(told("seed-failed", "its vmm process has ended"));
	there("", 0);
	finish(0, 4);
	there("", 0);
	assert_false(told("", ""));
	assert_int_equal(status("failed"), 5);
	assert_int_equal(status("kept"), 0);
	assert_int_equal(status("bytes"), 0);
	assert_true(ft_seed_oldest(&s) == INT64_MAX);
	/* Words that make no sense. */
	say(0, json_pack("{s:s, s:i, s:i}", "op", "seed", "number", 0, "hold", 5), false);
	say(0, json_pack("{s:s, s:i, s:i}", "op", "seed", "number", 5, "hold", -5), false);
	say(0, json_pack("{s:s}", "op", "seed-kept"), false);
	there("", 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(what_is_kept_is_there_whole, fresh),	       cmocka_unit_test_setup(the_quota_is_that_of_all, fresh),
	    cmocka_unit_test_setup(what_is_too_old_goes_with_the_next, fresh), cmocka_unit_test_setup(of_one_guest_there_is_one_in_a_time, fresh),
	    cmocka_unit_test_setup(without_room_for_any_none_is_kept, fresh),  cmocka_unit_test_setup(what_fails_leaves_nothing, fresh),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, begin, end);
}
