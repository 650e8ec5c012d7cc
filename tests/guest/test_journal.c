/* A guest under requests is recorded by the real foretaste-vmm, ended at a moment that nobody chose, and replayed by the real
 * foretaste-replay: to its last input, with every state hash as recorded and the same frames sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <sodium.h>

#include "base/channel.h"
#include "journal/reader.h"
#include "peer.h"
#include "replayed.h"

#define MEMORY	 256
#define HEADER	 208 /* bytes of a segment */
#define REMEMBER 65536u /* frames */
#define LATE	 256u	/* frames that a guest may have sent in the slice that it was killed in */

static const char *vmm, *images, *replay;

struct recording {
	struct stand stand;
	struct peer peer;
	char directory[64];
	crypto_generichash_state hash; /* of the frames that the guest sent */
	uint64_t frames;
	char (*after)[65]; /* the hash after each of them */
	const uint8_t *key; /* NULL: not encrypted */
};

/* ---- Recording ----------------------------------------------------------------------------------------------------- */

static void seen(void *context, const void *frame, size_t length)
{
	struct recording *r = context;
	uint32_t n = (uint32_t)length;
	uint8_t bytes[32];
	crypto_generichash_update(&r->hash, (const uint8_t *)&n, sizeof(n));
	crypto_generichash_update(&r->hash, frame, length);
	crypto_generichash_state so_far = r->hash;
	crypto_generichash_final(&so_far, bytes, sizeof(bytes));
	assert_true(r->frames < REMEMBER);
	sodium_bin2hex(r->after[r->frames++], 65, bytes, sizeof(bytes));
}

static int make(const struct recording *r, const char *format, unsigned number)
{
	char path[128];
	int n = snprintf(path, sizeof(path), "%s/", r->directory);
	if (strstr(format, "ring"))
		snprintf(path + n, sizeof(path) - (size_t)n, FT_JOURNAL_RING, 1u);
	else if (strstr(format, "journal"))
		snprintf(path + n, sizeof(path) - (size_t)n, FT_JOURNAL_SEGMENT, 1u, number);
	else
		snprintf(path + n, sizeof(path) - (size_t)n, FT_JOURNAL_CHECKPOINT, 1u, number);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

struct how {
	bool holds, commits;
	const char *segment; /* instead of a file of its own */
	const uint8_t *key;  /* the operator's */
};

static json_t *seal_json(const struct ft_snapshot_seal *seal)
{
	char salt[65], key[65];
	sodium_bin2hex(salt, sizeof(salt), seal->salt, sizeof(seal->salt));
	sodium_bin2hex(key, sizeof(key), seal->key, sizeof(seal->key));
	return json_pack("{s:s, s:s}", "salt", salt, "key", key);
}

static void begin_as(struct recording *r, const struct how *how)
{
	*r = (struct recording){.directory = "/tmp/foretaste-journal-XXXXXX"};
	assert_non_null(mkdtemp(r->directory));
	r->after = calloc(REMEMBER, sizeof(*r->after));
	crypto_generichash_init(&r->hash, NULL, 0, 32);
	assert_int_equal(stand_spawn(&r->stand, vmm, NULL), 0);
	r->stand.seen = seen;
	r->stand.seen_context = r;
	r->stand.journal_run = 1;
	r->stand.journal_holds = how->holds;
	r->stand.journal_commits = how->commits;
	r->stand.journal[0] = make(r, "ring", 0);
	r->stand.journal[1] = how->segment ? open(how->segment, O_WRONLY | O_CLOEXEC) : make(r, "journal", 1);
	r->stand.journal[2] = make(r, "checkpoint", 1);
	struct ft_snapshot_seal seal;
	r->key = how->key;
	if (how->key) {
		ft_snapshot_seal(&seal, how->key);
		r->stand.journal_seal = seal_json(&seal);
	}
	assert_int_equal(ft_journal_ring_make(r->stand.journal[0], how->key ? &seal : NULL, NULL), 0);
	assert_int_equal(stand_configure(&r->stand, images, "console=ttyS0 root=/dev/vda rw", MEMORY, 2), 0);
	json_decref(r->stand.journal_seal);
	for (int i = 0; i < 3; i++)
		close(r->stand.journal[i]);
	stand_link(&r->stand);
	peer_open(&r->peer, &r->stand, 41000);
	assert_true(stand_wait_console(&r->stand, "foretaste-guest: services up", peer_meanwhile, &r->peer));
	assert_non_null(r->stand.checkpoint);
	assert_null(json_object_get(r->stand.checkpoint, "error"));
}

static void begin(struct recording *r, bool holds)
{
	begin_as(r, &(struct how){.holds = holds});
}

static void checkpoint(struct recording *r, unsigned number)
{
	json_t *message = json_pack("{s:s, s:i}", "op", "checkpoint", "number", (int)number);
	struct ft_snapshot_seal seal;
	if (r->key) {
		ft_snapshot_seal(&seal, r->key);
		json_object_set_new(message, "seal", seal_json(&seal));
	}
	int fds[2] = {make(r, "checkpoint", number), make(r, "journal", number)};
	json_decref(r->stand.checkpoint);
	r->stand.checkpoint = NULL;
	assert_int_equal(ft_channel_send(r->stand.channel, message, fds, 2), 0);
	json_decref(message);
	close(fds[0]);
	close(fds[1]);
	for (int i = 0; i < STAND_PATIENCE_MS / 10 && !r->stand.checkpoint; i++) {
		stand_message(&r->stand, 10);
		peer_run(&r->peer, 1, NULL);
	}
	assert_non_null(r->stand.checkpoint);
	assert_null(json_object_get(r->stand.checkpoint, "error"));
}

/* The process that writes the journal: the vmm's first child. */
static pid_t scribe_of(pid_t pid)
{
	char path[64];
	int child = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fscanf(file, "%d", &child), 1);
	fclose(file);
	return child;
}

/* Takes what the guest had sent when it ended. */
static void drain(struct recording *r)
{
	uint64_t before;
	do {
		before = r->frames;
		peer_run(&r->peer, 20, NULL);
	} while (r->frames != before);
}

static bool is_established(const struct peer *p)
{
	return p->established;
}

static void kill_it(struct recording *r)
{
	kill(r->stand.pid, SIGKILL);
	waitpid(r->stand.pid, &r->stand.status, 0);
	r->stand.pid = 0;
	assert_true(WIFSIGNALED(r->stand.status));
	drain(r);
}

static void forget(struct recording *r)
{
	char command[128];
	peer_close(&r->peer);
	stand_end(&r->stand);
	free(r->after);
	snprintf(command, sizeof(command), "rm -rf %s", r->directory);
	assert_int_equal(system(command), 0);
}

/* ---- Replaying ----------------------------------------------------------------------------------------------------- */

static struct replayed play(const struct recording *r, const char *disk, const char *const *more)
{
	char image[700];
	const char *arguments[24] = {replay, r->directory, "--json", "--disk", image};
	snprintf(image, sizeof(image), "%s", disk ? disk : "");
	if (!disk)
		snprintf(image, sizeof(image), "%s/root.ext4", images);
	for (int i = 5; more && *more; i++)
		arguments[i] = *more++;
	return replayed_run(arguments, "{\"end\"");
}

static uint64_t number(const struct replayed *p, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(p->report, key));
}

static const char *text(const struct replayed *p, const char *key)
{
	const char *value = json_string_value(json_object_get(p->report, key));
	return value ? value : "";
}

static void expect_same(const struct recording *r, const struct replayed *p, uint64_t checks)
{
	fprintf(stderr, "replay: status %d %s%s; recorded %llu frames\n", p->status, p->out, p->err, (unsigned long long)r->frames);
	assert_true(p->status == 0);
	assert_true(number(p, "checks") >= checks);
	uint64_t frames = number(p, "frames_out");
	assert_true(frames && frames <= r->frames && r->frames - frames <= LATE);
	assert_string_equal(text(p, "frames_hash"), r->after[frames - 1]);
	assert_true(number(p, "frames_in") >= 4);
}

/* ---- Tests ----------------------------------------------------------------------------------------------------------- */

/* Killed in the middle of requests, and replayed; then from a later checkpoint to the same end. */
static void killed_at_random(void **state)
{
	static struct recording r;
	struct timespec now;
	begin(&r, false);
	clock_gettime(CLOCK_MONOTONIC, &now);
	unsigned seed = (unsigned)now.tv_nsec;
	fprintf(stderr, "seed %u\n", seed);
	srandom(seed);
	for (uint16_t i = 0; i < 4; i++)
		assert_true(peer_get(&r.stand, (uint16_t)(41001 + i), i % 2 ? "/cgi-bin/lookup?host=localhost" : "/"));
	checkpoint(&r, 2);
	for (uint16_t i = 0; i < 4; i++)
		assert_true(peer_get(&r.stand, (uint16_t)(41101 + i), i % 2 ? "/cgi-bin/lookup?host=localhost" : "/"));
	/* One more that never ends. */
	struct peer p;
	struct stand_frame frame;
	static const char request[] = "GET /cgi-bin/lookup?host=localhost HTTP/1.0\r\n\r\n";
	peer_open(&p, &r.stand, 41201);
	assert_true(peer_connect(&p));
	peer_segment(&p, request, sizeof(request) - 1, &frame);
	peer_put(&p, &frame);
	peer_run(&p, (int)(random() % 40), NULL);
	kill_it(&r);
	peer_close(&p);

	const char *first[] = {"--from", "1", NULL}, *middle[] = {"--from", "1", "--to", NULL, NULL};
	struct replayed a = play(&r, NULL, first);
	expect_same(&r, &a, 20);
	assert_int_equal(number(&a, "checkpoint"), 1);
	/* The same end from the later checkpoint: fewer instructions, the same state. */
	struct replayed b = play(&r, NULL, NULL);
	fprintf(stderr, "replay: %s%s", b.out, b.err);
	assert_int_equal(b.status, 0);
	assert_int_equal(number(&b, "checkpoint"), 2);
	assert_true(number(&b, "from") > 0);
	assert_string_equal(text(&a, "state"), text(&b, "state"));
	assert_int_equal(number(&a, "instructions"), number(&b, "instructions"));
	/* To a count in between. */
	char count[32];
	snprintf(count, sizeof(count), "%llu", (unsigned long long)(number(&b, "from") + 1234567));
	middle[3] = count;
	struct replayed c = play(&r, NULL, middle);
	fprintf(stderr, "replay: %s%s", c.out, c.err);
	assert_string_equal(text(&c, "end"), "reached");
	assert_int_equal(number(&c, "instructions"), number(&b, "from") + 1234567);
	replayed_free(&a);
	replayed_free(&b);
	replayed_free(&c);
	forget(&r);
}

/* Ended in order: the last thing that was recorded is a hash of everything written. */
static void stopped(void **state)
{
	static struct recording r;
	begin(&r, false);
	assert_true(peer_get(&r.stand, 41001, "/"));
	json_t *message = json_pack("{s:s}", "op", "stop");
	ft_channel_send(r.stand.channel, message, NULL, 0);
	json_decref(message);
	waitpid(r.stand.pid, &r.stand.status, 0);
	r.stand.pid = 0;
	assert_int_equal(WEXITSTATUS(r.stand.status), 0);
	drain(&r);
	struct replayed p = play(&r, NULL, NULL);
	expect_same(&r, &p, 20);
	assert_int_equal(number(&p, "frames_out"), r.frames);
	assert_int_equal(number(&p, "checked"), number(&p, "instructions"));
	assert_int_equal(number(&p, "in_ring"), 0);
	replayed_free(&p);
	forget(&r);
}

/* An exploit, and the guest is gone as soon as it has answered: the replay shows what nobody logged. */
static void exploited(void **state)
{
	static struct recording r;
	begin(&r, false);
	assert_true(peer_get(&r.stand, 41001, "/cgi-bin/lookup?host=localhost;touch%20/var/www/touched/replayed"));
	/* With the process that writes the journal: what it had not written is in the ring's file. */
	kill(scribe_of(r.stand.pid), SIGKILL);
	kill_it(&r);
	const char *trace[] = {"--trace", "syscalls,network", NULL};
	struct replayed p = play(&r, NULL, trace);
	fprintf(stderr, "replay: status %d, %zu bytes of trace, ...%s%s", p.status, strlen(p.out), strstr(p.out, "{\"end\""), p.err);
	assert_int_equal(p.status, 0);
	assert_true(number(&p, "in_ring") > 0);
	char *exec = strstr(p.out, "/touch\"");
	assert_non_null(exec);
	assert_non_null(strstr(p.out, "/var/www/touched/replayed"));
	assert_non_null(strstr(p.out, "net.rx"));
	assert_true(number(&p, "checks") >= 20);
	replayed_free(&p);
	/* Without it there is nothing of the kind. */
	const char *before[] = {"--trace", "syscalls", "--to", "1000000000", NULL};
	p = play(&r, NULL, before);
	assert_null(strstr(p.out, "/var/www/touched/replayed"));
	replayed_free(&p);
	forget(&r);
}

static bool has_bytes(const struct peer *p)
{
	return p->length || p->reset;
}

/* The same, but the guest is gone within a millisecond of the first frame in which its service says that it has done it. */
static void exploited_and_gone(void **state)
{
	static struct recording r;
	static const char request[] = "GET /cgi-bin/lookup?host=localhost;touch%20/var/www/touched/gone HTTP/1.0\r\n\r\n";
	struct peer p;
	struct stand_frame frame;
	struct timespec before, after;
	begin(&r, false);
	pid_t scribe = scribe_of(r.stand.pid);
	peer_open(&p, &r.stand, 41001);
	assert_true(peer_connect(&p));
	peer_segment(&p, request, sizeof(request) - 1, &frame);
	peer_put(&p, &frame);
	assert_true(peer_run(&p, STAND_PATIENCE_MS, has_bytes));
	clock_gettime(CLOCK_MONOTONIC, &before);
	kill(r.stand.pid, SIGKILL);
	kill(scribe, SIGKILL);
	clock_gettime(CLOCK_MONOTONIC, &after);
	kill_it(&r);
	fprintf(stderr, "killed within %lld us\n", ((long long)after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000);
	const char *trace[] = {"--trace", "syscalls", NULL};
	struct replayed again = play(&r, NULL, trace);
	fprintf(stderr, "replay: status %d, ...%s%s", again.status, strstr(again.out, "{\"end\""), again.err);
	assert_int_equal(again.status, 0);
	assert_non_null(strstr(again.out, "/var/www/touched/gone"));
	/* What it had sent is sent again, and nothing else. */
	uint64_t frames = number(&again, "frames_out");
	assert_true(frames && frames <= r.frames);
	assert_string_equal(text(&again, "frames_hash"), r.after[frames - 1]);
	replayed_free(&again);
	peer_close(&p);
	forget(&r);
}

/* Frames that the guest throws away, until the ring has no room for more. */
static bool flood(struct recording *r, bool (*until)(struct recording *), unsigned most)
{
	uint8_t frame[1514] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 2, 2, 0x88, 0xb5};
	struct iovec part = {.iov_base = frame, .iov_len = sizeof(frame)};
	for (unsigned i = 0; i < most && !until(r); i++) {
		/* Random, or zstd would make nothing of them. */
		randombytes_buf(frame + 14, sizeof(frame) - 14);
		for (unsigned n = 0; n < 200 && !ft_ring_put(&r->stand.link.rx, FT_LINK_FRAME, &part, 1); n++)
			;
		ft_ring_kick(&r->stand.link.rx);
		stand_message(&r->stand, 5);
		/* A guest that waits takes no frames, and a peer that answers it has no room for them. */
		if (!r->stand.journal_holds)
			peer_run(&r->peer, 1, NULL);
	}
	return until(r);
}

static bool was_lost(struct recording *r)
{
	return r->stand.journal_lost != 0;
}

static uint64_t instructions(struct recording *r)
{
	json_t *status = stand_status(&r->stand);
	uint64_t count = (uint64_t)json_integer_value(json_object_get(status, "instructions"));
	json_decref(status);
	return count;
}

static uint64_t taken(struct recording *r)
{
	json_t *status = stand_status(&r->stand);
	uint64_t count = (uint64_t)json_integer_value(json_object_get(status, "rx_frames"));
	json_decref(status);
	return count;
}

static bool stands_still(struct recording *r)
{
	uint64_t count = instructions(r);
	for (int i = 0; i < 5; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
		if (instructions(r) != count)
			return false;
	}
	return true;
}

/* The journal cannot be written, and the ring is full: with `continue` the guest goes on, there is a gap, and a checkpoint
 * ends it; a replay does not step over it. */
static void full_goes_on(void **state)
{
	static struct recording r;
	begin(&r, false);
	pid_t scribe = scribe_of(r.stand.pid);
	kill(scribe, SIGSTOP);
	assert_true(flood(&r, was_lost, 2000));
	assert_true(peer_get(&r.stand, 41001, "/"));
	kill(scribe, SIGCONT);
	/* Room again, some time. */
	for (int i = 0; i < STAND_PATIENCE_MS / 100 && r.stand.chunks < 16; i++)
		stand_message(&r.stand, 100);
	r.frames = 0;
	crypto_generichash_init(&r.hash, NULL, 0, 32);
	checkpoint(&r, 2);
	r.frames = 0;
	crypto_generichash_init(&r.hash, NULL, 0, 32);
	assert_true(peer_get(&r.stand, 41002, "/"));
	assert_true(peer_get(&r.stand, 41003, "/cgi-bin/lookup?host=localhost"));
	kill_it(&r);
	const char *first[] = {"--from", "1", NULL};
	struct replayed p = play(&r, NULL, first);
	fprintf(stderr, "over a gap: status %d: %s", p.status, p.err);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "the journal has a gap"));
	replayed_free(&p);
	p = play(&r, NULL, NULL);
	fprintf(stderr, "behind it: %s%s", p.out, p.err);
	assert_int_equal(p.status, 0);
	assert_int_equal(number(&p, "checkpoint"), 2);
	assert_true(number(&p, "frames_out") > 5);
	replayed_free(&p);
	forget(&r);
}

/* With `hold` the guest waits, and nothing is missing. */
static void full_holds(void **state)
{
	static struct recording r;
	begin(&r, true);
	pid_t scribe = scribe_of(r.stand.pid);
	kill(scribe, SIGSTOP);
	for (unsigned i = 0; i < 5 && !stands_still(&r); i++)
		flood(&r, was_lost, 60);
	assert_true(stands_still(&r));
	assert_int_equal(r.stand.journal_lost, 0);
	kill(scribe, SIGCONT);
	/* It goes on with all that had come. */
	uint64_t had = 0, has = taken(&r);
	for (int i = 0; i < STAND_PATIENCE_MS / 500 && (has != had || !i); i++) {
		nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
		had = has;
		has = taken(&r);
	}
	assert_true(peer_get(&r.stand, 41001, "/"));
	kill_it(&r);
	struct replayed p = play(&r, NULL, NULL);
	expect_same(&r, &p, 20);
	replayed_free(&p);
	forget(&r);
}

static void change(const struct recording *r, const char *name, off_t at, int truncate_to)
{
	char path[128];
	struct stat st;
	uint8_t byte;
	snprintf(path, sizeof(path), "%s/%s", r->directory, name);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0 && !fstat(fd, &st));
	if (truncate_to) {
		assert_int_equal(ftruncate(fd, st.st_size + truncate_to), 0);
	} else {
		at = at < 0 ? st.st_size + at : at;
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	close(fd);
}

/* ---- Encryption ------------------------------------------------------------------------------------------------------ */

/* Does this text stand anywhere in the recording's files? */
static bool is_on_disk(const struct recording *r, const char *text)
{
	char command[256];
	snprintf(command, sizeof(command), "grep -qrF -e '%s' %s", text, r->directory);
	return system(command) == 0;
}

static int key_file(char path[32], const uint8_t key[32])
{
	strcpy(path, "/tmp/foretaste-key-XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, key, 32), 32);
	return close(fd);
}

/* With a key nothing of the guest is on the disk in the clear, and the same is replayed; key, none, another one, and a changed file are
 * told apart. */
static void encrypted(void **state)
{
	static const uint8_t keys[2][32] = {{7, 7, 7}, {7, 7, 8}};
	static struct recording r;
	char right[32], wrong[32];
	static const char word[] = "nobody-may-read-this";
	key_file(right, keys[0]);
	key_file(wrong, keys[1]);
	for (int with = 0; with < 2; with++) {
		begin_as(&r, &(struct how){.key = with ? keys[0] : NULL});
		assert_true(peer_get(&r.stand, 41001, "/?nobody-may-read-this"));
		checkpoint(&r, 2);
		assert_true(peer_get(&r.stand, 41002, "/cgi-bin/lookup?host=localhost&nobody-may-read-this"));
		kill_it(&r);
		assert_int_equal(is_on_disk(&r, word), !with);
		if (with)
			break;
		forget(&r);
	}
	const char *good[] = {"--from", "1", "--key", right, NULL}, *bad[] = {"--key", wrong, NULL};
	struct replayed p = play(&r, NULL, good);
	expect_same(&r, &p, 10);
	replayed_free(&p);
	p = play(&r, NULL, NULL);
	assert_int_equal(p.status, 77); /* EX_NOPERM */
	assert_non_null(strstr(p.err, "encrypted, and no key was given"));
	replayed_free(&p);
	p = play(&r, NULL, bad);
	assert_int_equal(p.status, 77);
	assert_non_null(strstr(p.err, "encrypted with another key"));
	replayed_free(&p);
	change(&r, "000001-000001.journal", HEADER + 80 + 3, 0);
	p = play(&r, NULL, good);
	assert_int_equal(p.status, 65); /* EX_DATAERR */
	assert_non_null(strstr(p.err, "chunk 0 of segment 1 was changed"));
	replayed_free(&p);
	change(&r, "000001-000001.journal", HEADER + 80 + 3, 0);
	change(&r, "000001-000001.checkpoint", 300, 0);
	p = play(&r, NULL, good);
	assert_int_equal(p.status, 65);
	replayed_free(&p);
	unlink(right);
	unlink(wrong);
	forget(&r);
}

/* ---- Output commit --------------------------------------------------------------------------------------------------- */

/* A number of its status below "journal". */
static uint64_t journal_number(struct recording *r, const char *key)
{
	json_t *status = stand_status(&r->stand);
	uint64_t count = (uint64_t)json_integer_value(json_object_get(json_object_get(status, "journal"), key));
	json_decref(status);
	return count;
}

/* The guest has answered, and the answer waits. Frames that come are seen meanwhile. */
static void let_it_answer(struct recording *r, struct peer *p, uint16_t port)
{
	struct stand_frame frame;
	peer_open(p, &r->stand, port);
	peer_syn(p, &frame);
	peer_put(p, &frame);
	for (int i = 0; i < STAND_PATIENCE_MS / 20 && !journal_number(r, "output_waiting_bytes"); i++)
		peer_run(&r->peer, 20, NULL);
	assert_true(journal_number(r, "output_waiting_bytes") > 0);
}

/* The journal is not made durable: nothing leaves; then it is. */
static void replies_wait_for_the_journal(void **state)
{
	static struct recording r;
	struct peer p;
	begin_as(&r, &(struct how){.commits = true});
	assert_true(peer_get(&r.stand, 41001, "/"));
	pid_t scribe = scribe_of(r.stand.pid);
	kill(scribe, SIGSTOP);
	drain(&r);
	uint64_t before = r.frames, ran = instructions(&r);
	let_it_answer(&r, &p, 41002);
	for (int i = 0; i < 20; i++)
		peer_run(&r.peer, 20, NULL);
	assert_int_equal(r.frames, before);
	assert_true(instructions(&r) > ran);
	assert_false(p.established);
	kill(scribe, SIGCONT);
	assert_true(peer_run(&p, STAND_PATIENCE_MS, is_established));
	assert_true(r.frames > before);
	peer_close(&p);
	assert_true(peer_get(&r.stand, 41003, "/cgi-bin/lookup?host=localhost"));
	assert_int_equal(journal_number(&r, "output_uncommitted"), 0);
	assert_true(journal_number(&r, "output_frames") >= r.frames);
	forget(&r);
}

/* Whatever had left before the power went is in the segments: the ring's pages are gone with it. */
static void what_left_can_be_replayed(void **state)
{
	static struct recording r;
	char ring[128];
	begin_as(&r, &(struct how){.commits = true});
	for (uint16_t i = 0; i < 6; i++)
		assert_true(peer_get(&r.stand, (uint16_t)(41001 + i), i % 2 ? "/cgi-bin/lookup?host=localhost" : "/"));
	kill(scribe_of(r.stand.pid), SIGKILL);
	kill_it(&r);
	snprintf(ring, sizeof(ring), "%s/" FT_JOURNAL_RING, r.directory, 1u);
	assert_int_equal(unlink(ring), 0);
	struct replayed p = play(&r, NULL, NULL);
	fprintf(stderr, "without the ring: status %d %s%s; %llu frames had left\n", p.status, p.out, p.err, (unsigned long long)r.frames);
	assert_int_equal(p.status, 0);
	assert_true(r.frames > 24 && number(&p, "frames_out") >= r.frames);
	if (number(&p, "frames_out") == r.frames)
		assert_string_equal(text(&p, "frames_hash"), r.after[r.frames - 1]);
	replayed_free(&p);
	forget(&r);
}

/* A disk that takes nothing. hold: nothing leaves; continue: everything does, and is counted. */
static void replies_and_a_failing_disk(void **state)
{
	static struct recording r;
	struct peer p;
	begin_as(&r, &(struct how){.commits = true, .holds = true, .segment = "/dev/full"});
	let_it_answer(&r, &p, 41001);
	for (int i = 0; i < 300 && !r.stand.journal_error; i++)
		stand_message(&r.stand, 100);
	assert_non_null(strstr(r.stand.journal_error, "No space left"));
	for (int i = 0; i < 20; i++)
		peer_run(&r.peer, 20, NULL);
	assert_int_equal(r.frames, 0);
	assert_int_equal(journal_number(&r, "output_uncommitted"), 0);
	peer_close(&p);
	forget(&r);
	begin_as(&r, &(struct how){.commits = true, .segment = "/dev/full"});
	assert_true(peer_get(&r.stand, 41001, "/"));
	assert_true(journal_number(&r, "output_uncommitted") >= 4);
	forget(&r);
}

/* What was changed is refused, and by name. */
static void tampered(void **state)
{
	static struct recording r;
	begin(&r, false);
	assert_true(peer_get(&r.stand, 41001, "/"));
	for (int i = 0; i < 300 && r.stand.chunks < 2; i++)
		stand_message(&r.stand, 100);
	checkpoint(&r, 2);
	for (int i = 0; i < 300 && r.stand.chunks < 4; i++)
		stand_message(&r.stand, 100);
	kill_it(&r);
	const char *from1[] = {"--from", "1", NULL};
	struct {
		const char *file;
		off_t at;
		int cut;
		const char *says;
	} cases[] = {
	    {"000001-000001.journal", HEADER + 80 + 3, 0, "chunk 0 of segment 1 was changed"},
	    {"000001-000001.journal", HEADER + 24, 0, "chunk 0 of segment 1 was changed"},
	    {"000001-000001.journal", HEADER + 9, 0, "chunk 0 of segment 1 was changed"},
	    {"000001-000001.journal", -1, 0, "of segment 1 was changed"},
	    {"000001-000001.journal", 9, 0, "header.version"},
	    /* The guest's name in one of the headers; the hash in the second that is to be the first one's last. */
	    {"000001-000001.journal", 90, 0, "does not go on where segment 1 ends"},
	    {"000001-000002.journal", 90, 0, "does not go on where segment 1 ends"},
	    {"000001-000002.journal", 60, 0, "segment 1 ends before"},
	    {"000001-000001.checkpoint", 300, 0, "chunk 0"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		change(&r, cases[i].file, cases[i].at, 0);
		struct replayed p = play(&r, NULL, from1);
		fprintf(stderr, "changed %s at %lld: status %d: %s", cases[i].file, (long long)cases[i].at, p.status, p.err);
		assert_true(p.status > 1);
		assert_non_null(strstr(p.err, cases[i].says));
		replayed_free(&p);
		change(&r, cases[i].file, cases[i].at, 0);
	}
	/* Another base image. */
	char other[] = "/tmp/foretaste-other-XXXXXX", from[700];
	int fd = mkstemp(other);
	snprintf(from, sizeof(from), "cp --sparse=always %s/root.ext4 %s", images, other);
	assert_int_equal(system(from), 0);
	assert_int_equal(pwrite(fd, "changed", 7, 1024 + 120), 7);
	close(fd);
	struct replayed p = play(&r, other, NULL);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "another base image"));
	replayed_free(&p);
	unlink(other);
	/* The end cut off: inside of a segment that another follows, and at the very end, where the ring knows. */
	change(&r, "000001-000002.journal", 0, -1);
	p = play(&r, NULL, NULL);
	fprintf(stderr, "cut: %s%s", p.out, p.err);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "chunks at the end of segment 2 are missing"));
	replayed_free(&p);
	change(&r, "000001-000001.journal", 0, -1);
	p = play(&r, NULL, from1);
	assert_true(p.status > 1);
	assert_non_null(strstr(p.err, "segment 1 ends before what segment 2 goes on from"));
	replayed_free(&p);
	forget(&r);
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
	const struct CMUnitTest tests[] = {cmocka_unit_test(stopped), cmocka_unit_test(killed_at_random), cmocka_unit_test(exploited), cmocka_unit_test(exploited_and_gone),
					   cmocka_unit_test(full_goes_on), cmocka_unit_test(full_holds),
					   cmocka_unit_test(replies_wait_for_the_journal), cmocka_unit_test(what_left_can_be_replayed),
					   cmocka_unit_test(replies_and_a_failing_disk), cmocka_unit_test(encrypted),
					   cmocka_unit_test(tampered)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
