/* A stock guest on engine kvm behind the real vmm process: it serves, and is cloned again and again while it does. Each clone finds
 * the memory that its guest had at the fork, and each side keeps what it writes after it to itself. Nor do clones wear their guest out:
 * the last ones stop it for no longer than the first.
 *
 *   test_clones [CLONES]     FORETASTE_CLONE_ENGINE: what the clones run on; FORETASTE_ENGINE=soft: the guest, too; FORETASTE_VCPUS: how
 *                            many it has. What the first of them writes the last one reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "../guest/ask.h"

#define MOST	   1000u
#define TELLING	   20u	 /* clones: fewer say nothing of how pauses go on */
#define SOME_PAGES 2048u /* of 4 KiB: four huge ones */

static struct stand s;
static uint16_t held_port;
static unsigned clones = 20, served, leaked;
static uint64_t pauses[MOST], pages[MOST], instructions;

/* Another one for each connection; of hundreds of clones there are more than fit behind the first. */
static uint16_t next_port(void)
{
	static uint16_t last = 49999;
	last = last < 65535 ? last + 1 : 10000;
	return last;
}

static bool over(const struct peer *p)
{
	return p->finished || p->reset;
}

/* Somebody else's requests, one after the other, while a clone tries its. Never waited for: the clone waits for whoever reads what
 * it tells. */
static struct {
	struct peer p;
	bool open, asked;
} other;

static void go_on(void)
{
	static const char get[] = "GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n";
	struct stand_frame frame;
	peer_meanwhile(&other.p);
	if (other.p.established && !other.asked) {
		peer_segment(&other.p, get, sizeof(get) - 1, &frame);
		peer_put(&other.p, &frame);
		other.asked = true;
	}
	if (!over(&other.p))
		return;
	assert_non_null(other.p.bytes);
	assert_memory_equal(other.p.bytes, "HTTP/1.1 200", 12);
	peer_close(&other.p);
	other.open = false;
	served++;
}

static void load(void *context)
{
	struct stand_frame frame;
	if (!other.open) {
		peer_open(&other.p, &s, next_port());
		peer_syn(&other.p, &frame);
		peer_put(&other.p, &frame);
		other.open = true;
		other.asked = false;
	}
	go_on();
}

static void end_load(void)
{
	for (int waited = 0; other.open && waited < STAND_PATIENCE_MS; waited += 10) {
		peer_run(&other.p, 10, over);
		go_on();
	}
	assert_false(other.open);
}

/* Bytes that the guest sends on the connection whose input is held: it has not got that. */
static void look_for_leaks(void *context, const void *bytes, size_t length)
{
	const uint8_t *f = bytes;
	if (length < 54 || f[12] != 8 || f[13] || f[23] != 6 || (f[36] << 8 | f[37]) != held_port)
		return;
	leaked += (unsigned)((f[16] << 8 | f[17]) - 20 - (f[46] >> 4) * 4);
}

/* Which processor does it, as words before a command. */
static const char *on(unsigned processor)
{
	static char words[2][24];
	if (s.vcpus == 1)
		return "";
	char *to = words[processor != 0];
	snprintf(to, sizeof(words[0]), "taskset -c %u ", processor);
	return to;
}

static const char *on_last(void)
{
	return on(s.vcpus - 1);
}

/* Commands, each with its processor. In a clone the hash of the file is the number of a port: it shows nothing more on any engine. */
#define TELL(address) "h=$(%ssha256sum /dev/shm/m);echo x>/dev/udp/" address "/$((0x${h:0:4}|1))"
#define CHANGE	      "%shead -c 400000 /dev/urandom>/dev/shm/m"
#define HASH	      "echo it is $(%ssha256sum /dev/shm/m)"
/* What the last processor is busy with at the fork, on both sides: for two seconds, how many different hashes a file has. */
#define BUSY	      "rm -f /dev/shm/r;(SECONDS=0;while [ $SECONDS -lt 3 ];do %ssha256sum</bin/bash||echo x;done|sort -u|wc -l>/dev/shm/r)>/dev/null 2>&1&"
#define NO_MORE_BUSY  "until [ -s /dev/shm/r ];do sleep .1;done;"
#define TELL_BUSY     NO_MORE_BUSY "echo x>/dev/udp/10.0.2.79/$((1000+$(cat /dev/shm/r)))"
#define ASK_BUSY      NO_MORE_BUSY "echo it is $(cat /dev/shm/r)"

static unsigned port_of(const char *hash)
{
	unsigned port;
	assert_int_equal(sscanf(hash, "%4x", &port), 1);
	return port | 1;
}

/* 4 KiB pages of a process that its fork has to copy one by one: what the pause depends on most. */
static uint64_t small_pages(pid_t pid)
{
	char path[64], line[256];
	unsigned long kib, anonymous = 0, huge = 0;
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	FILE *rollup = fopen(path, "re");
	assert_non_null(rollup);
	while (fgets(line, sizeof(line), rollup)) {
		if (sscanf(line, "Anonymous: %lu", &kib) == 1)
			anonymous = kib;
		else if (sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			huge = kib;
	}
	fclose(rollup);
	return (anonymous - huge) / 4;
}

static void try_clone(uint64_t number, const char *live_hash)
{
	struct stand_frame frames[8];
	struct stand_trial trial = {0};
	struct peer p;
	char command[500], text[4096], expected[64];
	snprintf(command, sizeof(command), TELL("10.0.2.77") ";" CHANGE ";" TELL("10.0.2.78") ";%s", on_last(), on(0), on_last(),
		 s.vcpus > 1 ? TELL_BUSY : "");
	size_t n = ask_request(text, sizeof(text), command);
	peer_open(&p, &s, held_port = next_port());
	assert_true(peer_connect(&p));
	struct ft_trial_begin begin = stand_budgets(number);
	/* On kvm a clone's time is the host's, and its instructions are what its time makes of them: here both its processors are
	 * emulated. */
	begin.horizon_ns = s.clone_kvm ? 40000000000 : 1000000000;
	begin.handling_instructions = begin.horizon_instructions = 1000000000000;
	begin.wall_ns = 600000000000;
	struct ft_trial_flow flow = peer_flow(&p, p.sequence, (uint32_t)n, 0);
	for (size_t at = 0; at < n; at += 1400)
		peer_segment(&p, text + at, n - at < 1400 ? n - at : 1400, &frames[flow.frames++]);
	pages[number - 1] = small_pages(s.pid);
	stand_ask(&s, &begin, &flow, 1, frames);
	stand_collect(&s, number, &trial, false, load, NULL);
	end_load();
	assert_non_null(trial.ready);
	assert_non_null(trial.end);
	pauses[number - 1] = trial.ready->event.a[0];
	instructions += trial.end->event.a[2];
	snprintf(expected, sizeof(expected), "10.0.2.77:%u", port_of(live_hash));
	if (trial.end->event.a[0] != FT_TRIAL_END_HORIZON || !stand_find(&trial, FT_ROLE_TRIAL, FT_EVENT_NET_TX, expected) ||
	    !stand_find(&trial, FT_ROLE_TRIAL, FT_EVENT_NET_TX, "10.0.2.78:")) {
		stand_print(&trial);
		fail_msg("clone %llu does not tell %s", (unsigned long long)number, expected);
	}
	if (s.vcpus > 1 && !stand_find(&trial, FT_ROLE_TRIAL, FT_EVENT_NET_TX, "10.0.2.79:1001")) {
		stand_print(&trial);
		fail_msg("clone %llu: its last processor does not go on where its guest's was", (unsigned long long)number);
	}
	snprintf(expected, sizeof(expected), "10.0.2.78:%u", port_of(live_hash));
	assert_null(stand_find(&trial, FT_ROLE_TRIAL, FT_EVENT_NET_TX, expected));
	stand_finish(&s, number, &trial);
	assert_int_equal(trial.gone->event.a[0], 0);
	/* Nothing of what the clone answered came out. */
	peer_run(&p, 50, NULL);
	assert_int_equal(p.length, 0);
	assert_int_equal(leaked, 0);
	stand_trial_free(&trial);
	peer_close(&p);
}

static int smaller(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static uint64_t median(const uint64_t *of, unsigned count)
{
	static uint64_t sorted[MOST];
	memcpy(sorted, of, count * sizeof(*of));
	qsort(sorted, count, sizeof(*sorted), smaller);
	return sorted[count / 2];
}

/* That they stay flat is for whoever reads it, as all that is timed; what they come from is asked for below. */
static void tell_pauses(void)
{
	unsigned quarter = clones / 4;
	uint64_t first = median(pauses, quarter), middle = median(pauses + (clones - quarter) / 2, quarter),
		 end = median(pauses + clones - quarter, quarter);
	printf("medians of the first %u, of as many in the middle, of the last: %llu, %llu, %llu us\n", quarter, (unsigned long long)first / 1000,
	       (unsigned long long)middle / 1000, (unsigned long long)end / 1000);
}

/* Its guest writes while a clone lives: huge pages fall apart. In the end they are whole again. */
static void pages_are_mended(void)
{
	struct peer p;
	uint64_t most = pages[0] * 2 + SOME_PAGES, is;
	peer_open(&p, &s, next_port());
	for (unsigned waited = 0; (is = small_pages(s.pid)) > most && waited < STAND_PATIENCE_MS; waited += 100)
		peer_run(&p, 100, NULL);
	printf("small pages: %llu before the first clone, %llu before the last, %llu in the end\n", (unsigned long long)pages[0],
	       (unsigned long long)pages[clones - 1], (unsigned long long)is);
	assert_true(is <= most);
	peer_close(&p);
}

static int boot(void **state)
{
	const char *images = getenv("FORETASTE_IMAGES"), *vmm = getenv("FORETASTE_VMM");
	struct peer p;
	if (stand_spawn(&s, vmm, NULL))
		return -1;
	const char *engine = getenv("FORETASTE_ENGINE");
	s.kvm = !engine || strcmp(engine, "soft");
	if (stand_configure(&s, images, "console=ttyS0 root=/dev/vda rw psi=0 nowatchdog sysctl.vm.compaction_proactiveness=0 sysctl.vm.stat_interval=120", 256, 4))
		return -1;
	stand_link(&s);
	s.seen = look_for_leaks;
	peer_open(&p, &s, 49999);
	return stand_wait_console(&s, "foretaste-guest: services up", peer_meanwhile, &p) ? 0 : -1;
}

static int shut(void **state)
{
	stand_end(&s);
	return WIFEXITED(s.status) && WEXITSTATUS(s.status) == 0 ? 0 : -1;
}

static void each_clone_has_its_guests_memory_and_both_keep_theirs(void **state)
{
	char busy[200], change[400], hash[100], before[65], after[65];
	snprintf(busy, sizeof(busy), BUSY, on_last());
	snprintf(change, sizeof(change), CHANGE ";" HASH ";%s", on(0), on_last(), s.vcpus > 1 ? busy : "");
	snprintf(hash, sizeof(hash), HASH, on(0));
	for (uint64_t i = 1; i <= clones; i++) {
		ask_live(&s, next_port(), change, before, sizeof(before));
		try_clone(i, before);
		ask_live(&s, next_port(), hash, after, sizeof(after));
		assert_string_equal(before, after);
		if (s.vcpus > 1) {
			ask_live(&s, next_port(), ASK_BUSY, after, sizeof(after));
			assert_string_equal(after, "1");
		}
		printf("%s%llu", i > 1 ? " " : "pauses in us: ", (unsigned long long)pauses[i - 1] / 1000);
		fflush(stdout); /* some take a minute each */
	}
	assert_true(served >= clones);
	json_t *status = stand_status(&s);
	assert_int_equal(json_integer_value(json_object_get(status, "clones_died")), 0);
	json_decref(status);
	printf("; %llu million instructions each; %u requests served meanwhile\n", (unsigned long long)(instructions / clones / 1000000), served);
	if (clones >= TELLING)
		tell_pauses();
	pages_are_mended();
}

int main(int argc, char **argv)
{
	if (!getenv("FORETASTE_IMAGES") || !getenv("FORETASTE_VMM"))
		return 77;
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1)
		clones = (unsigned)atoi(argv[1]);
	if (!clones || clones > MOST)
		return 64;
	const struct CMUnitTest tests[] = {cmocka_unit_test(each_clone_has_its_guests_memory_and_both_keep_theirs)};
	return cmocka_run_group_tests(tests, boot, shut);
}
