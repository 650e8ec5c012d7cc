/* Trials of a real guest: the stock Debian image behind the real vmm process, requests held and tried on clones. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "peer.h"

static struct stand s;
static uint16_t next_port = 50000;
static uint64_t next_trial = 1;
static bool verbose;

static int boot(void **state)
{
	const char *images = getenv("FORETASTE_IMAGES"), *vmm = getenv("FORETASTE_VMM");
	struct peer p;
	if (stand_spawn(&s, vmm, NULL) ||
	    stand_configure(&s, images, "console=ttyS0 root=/dev/vda rw foretaste.ticker=30", 256, 4))
		return -1;
	stand_link(&s);
	peer_open(&p, &s, 49999);
	if (!stand_wait_console(&s, "foretaste-guest: services up", peer_meanwhile, &p))
		return -1;
	return 0;
}

static int shut(void **state)
{
	stand_end(&s);
	return WIFEXITED(s.status) && WEXITSTATUS(s.status) == 0 ? 0 : -1;
}

/* What one trial needs: a connection of its own, and a request on it that the live guest never sees. */
struct attempt {
	struct peer peer;
	struct ft_trial_begin begin;
	struct ft_trial_flow flow;
	struct stand_frame frames[16];
	struct stand_trial trial;
};

static void prepare(struct attempt *a, const char *target)
{
	char request[8192];
	memset(a, 0, sizeof(*a));
	peer_open(&a->peer, &s, next_port++);
	assert_true(peer_connect(&a->peer));
	int n = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: guest\r\n\r\n", target);
	assert_in_range(n, 1, sizeof(request) - 1);
	a->begin = stand_budgets(next_trial++);
	a->flow = peer_flow(&a->peer, a->peer.sequence, (uint32_t)n, 0);
	for (int at = 0; at < n; at += 1400)
		peer_segment(&a->peer, request + at, (size_t)(n - at < 1400 ? n - at : 1400),
			     &a->frames[a->flow.frames++]);
}

static void try(struct attempt *a)
{
	stand_ask(&s, &a->begin, &a->flow, 1, a->frames);
	stand_collect(&s, a->begin.trial, &a->trial, false, peer_meanwhile, &a->peer);
	if (verbose)
		stand_print(&a->trial);
	assert_non_null(a->trial.ready);
	assert_non_null(a->trial.end);
}

static void twin(struct attempt *a)
{
	stand_run(&s, a->begin.trial, &a->trial, 0, a->trial.end->event.vtime_ns);
	stand_collect(&s, a->begin.trial, &a->trial, true, peer_meanwhile, &a->peer);
	assert_non_null(a->trial.twin_end);
}

static void finish(struct attempt *a)
{
	stand_finish(&s, a->begin.trial, &a->trial);
	assert_int_equal(a->trial.gone->event.a[0], 0);
	/* Whatever the clone answered: nothing of it came out. */
	peer_run(&a->peer, 50, NULL);
	assert_int_equal(a->peer.length, 0);
	assert_false(a->peer.reset);
	assert_int_equal(a->peer.acknowledged, a->flow.first_sequence);
	stand_trial_free(&a->trial);
	peer_close(&a->peer);
}

static void ends(const struct attempt *a, enum ft_trial_end end, bool handled)
{
	assert_string_equal(ft_trial_end_label((unsigned)a->trial.end->event.a[0]), ft_trial_end_label(end));
	assert_int_equal(a->trial.end->event.a[4], handled);
	assert_int_equal(a->trial.handled != NULL, handled);
}

static bool saw(const struct attempt *a, enum ft_event_type type, const char *text)
{
	return stand_find(&a->trial, FT_ROLE_TRIAL, type, text) != NULL;
}

static void an_innocent_request_is_handled_and_shows_only_what_it_should(void **state)
{
	struct attempt a;
	prepare(&a, "/cgi-bin/lookup?host=localhost&note=a;touch+/var/www/touched/x");
	try(&a);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(a.trial.handled->event.a[0], a.flow.bytes);
	assert_true(saw(&a, FT_EVENT_EXEC, "/usr/lib/cgi-bin/lookup"));
	assert_true(saw(&a, FT_EVENT_EXEC, "/usr/bin/getent"));
	assert_false(saw(&a, FT_EVENT_EXEC, "touch"));
	assert_false(saw(&a, FT_EVENT_CODE_WRITTEN, NULL));
	assert_false(saw(&a, FT_EVENT_SIGNAL, NULL));
	assert_false(saw(&a, FT_EVENT_FAULT, NULL));
	assert_false(saw(&a, FT_EVENT_FILE_WRITE, "touched"));
	assert_false(saw(&a, FT_EVENT_LOST, NULL));
	finish(&a);
}

static void an_injected_command_is_seen_as_the_program_it_starts(void **state)
{
	struct attempt a;
	prepare(&a, "/cgi-bin/lookup?host=localhost;touch+/var/www/touched/inject");
	try(&a);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	const struct stand_event *exec = stand_find(&a.trial, FT_ROLE_TRIAL, FT_EVENT_EXEC, "/touch");
	assert_non_null(exec);
	assert_int_equal(exec->event.a[0], 0);
	assert_string_equal(exec->strings[1], "touch /var/www/touched/inject");
	assert_string_equal(exec->event.process, "touch");
	assert_true(exec->event.pid > 1);
	assert_true(saw(&a, FT_EVENT_FILE_WRITE, "/var/www/touched/inject"));
	finish(&a);
	assert_false(peer_get(&s, next_port++, "/touched/inject"));
}

static void a_shell_builtin_is_seen_by_the_file_it_writes(void **state)
{
	struct attempt a;
	prepare(&a, "/cgi-bin/lookup?host=localhost%3Becho+x%3E%2Fvar%2Fwww%2Ftouched%2Fbuiltin");
	try(&a);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	const struct stand_event *write =
	    stand_find(&a.trial, FT_ROLE_TRIAL, FT_EVENT_FILE_WRITE, "/var/www/touched/builtin");
	assert_non_null(write);
	assert_int_equal(write->event.a[1], 0);
	assert_string_equal(write->event.process, "lookup");
	finish(&a);
}

static void percent(char *to, const void *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sprintf(to + 3 * i, "%%%02x", ((const uint8_t *)bytes)[i]);
}

/* /cgi-bin/greet: 256 bytes of buffer, a saved register, the return address; `jmp *%rsp` is at 0x480000. */
static void overflow(char *target, size_t size, const void *code, size_t length)
{
	uint8_t payload[600];
	uint64_t gadget = 0x480000;
	char text[3 * sizeof(payload) + 1];
	memset(payload, 'A', 264);
	memcpy(payload + 264, &gadget, 8);
	memcpy(payload + 272, code, length);
	percent(text, payload, 272 + length);
	snprintf(target, size, "/cgi-bin/greet?name=%s", text);
}

static void machine_code_on_the_stack_is_seen_when_it_runs(void **state)
{
	/* mov $0, %edi; mov $231 (exit_group), %eax; syscall */
	static const uint8_t code[] = {0xbf, 0, 0, 0, 0, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05};
	struct attempt a;
	char target[4096];
	overflow(target, sizeof(target), code, sizeof(code));
	prepare(&a, target);
	try(&a);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	const struct stand_event *event = stand_find(&a.trial, FT_ROLE_TRIAL, FT_EVENT_CODE_WRITTEN, NULL);
	assert_non_null(event);
	assert_string_equal(event->event.process, "greet");
	finish(&a);
	/* The innocent twin: as long, but no code. */
	prepare(&a, "/cgi-bin/greet?name=Ada+Lovelace");
	try(&a);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	assert_false(saw(&a, FT_EVENT_CODE_WRITTEN, NULL));
	assert_false(saw(&a, FT_EVENT_SIGNAL, NULL));
	finish(&a);
}

static void a_crash_is_seen_by_its_signal(void **state)
{
	static const uint8_t code[] = {0x0f, 0x0b}; /* ud2 */
	struct attempt a;
	char target[4096];
	overflow(target, sizeof(target), code, sizeof(code));
	prepare(&a, target);
	try(&a);
	assert_true(saw(&a, FT_EVENT_FAULT, NULL));
	const struct stand_event *event = stand_find(&a.trial, FT_ROLE_TRIAL, FT_EVENT_SIGNAL, NULL);
	assert_non_null(event);
	assert_int_equal(event->event.a[0], SIGILL);
	finish(&a);
}

static void what_sleeps_first_is_seen_in_the_horizon(void **state)
{
	struct attempt a;
	prepare(&a, "/cgi-bin/remind?after=30&text=tea%24%28touch+/var/www/touched/late%29");
	try(&a);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	const struct stand_event *exec = stand_find(&a.trial, FT_ROLE_TRIAL, FT_EVENT_EXEC, "/touch");
	assert_non_null(exec);
	assert_true(exec->event.vtime_ns - a.trial.handled->event.vtime_ns > 29000000000ull);
	finish(&a);
}

/* The same request to two seeds, until both were forked at the same instruction: the live guest may run in between. */
static void fork_two(struct attempt *a, struct attempt *b)
{
	for (int tries = 0; tries < 20; tries++) {
		prepare(a, "/cgi-bin/lookup?host=localhost;touch+/var/www/touched/again");
		*b = *a;
		b->begin.trial = next_trial++;
		stand_ask(&s, &a->begin, &a->flow, 1, a->frames);
		stand_ask(&s, &b->begin, &b->flow, 1, b->frames);
		stand_collect_two(&s, a->begin.trial, &a->trial, b->begin.trial, &b->trial);
		if (a->trial.ready->event.a[1] == b->trial.ready->event.a[1])
			return;
		stand_finish(&s, b->begin.trial, &b->trial);
		stand_trial_free(&b->trial);
		finish(a);
	}
	fail_msg("the two seeds were never forked at the same instruction");
}

static void the_same_trial_twice_is_the_same(void **state)
{
	struct attempt a, b;
	fork_two(&a, &b);
	size_t j = 0, compared = 0;
	for (size_t i = 0; i < a.trial.count; i++) {
		const struct stand_event *one = &a.trial.events[i];
		if (one->event.role != FT_ROLE_TRIAL)
			continue;
		while (j < b.trial.count && b.trial.events[j].event.role != FT_ROLE_TRIAL)
			j++;
		assert_true(j < b.trial.count);
		struct stand_event other = b.trial.events[j++];
		other.event.trial = one->event.trial;
		if (one->event.type == FT_EVENT_TRIAL_END)
			other.event.a[5] = one->event.a[5]; /* how fast the host was */
		assert_memory_equal(&one->event, &other.event, sizeof(one->event));
		assert_string_equal(one->strings[0], other.strings[0]);
		assert_string_equal(one->strings[1], other.strings[1]);
		compared++;
	}
	assert_true(compared > 10);
	assert_true(a.trial.end->event.a[1] != 0);
	assert_int_equal(a.trial.end->event.a[1], b.trial.end->event.a[1]);
	stand_finish(&s, b.begin.trial, &b.trial);
	stand_trial_free(&b.trial);
	finish(&a);
}

static void a_clone_without_the_connection_proves_nothing(void **state)
{
	struct attempt a;
	prepare(&a, "/");
	/* The frames of a connection that the guest never had. */
	for (uint32_t i = 0; i < a.flow.frames; i++) {
		a.frames[i].bytes[34] ^= 0x20;
		/* Incremental checksum: port changed by 0x2000 (RFC 1624). */
		uint32_t sum = (uint32_t)(a.frames[i].bytes[50] << 8 | a.frames[i].bytes[51]);
		bool up = a.frames[i].bytes[34] & 0x20;
		sum = up ? sum + 0xdfff : sum + 0x2000;
		sum = (sum & 0xffff) + (sum >> 16);
		a.frames[i].bytes[50] = (uint8_t)(sum >> 8);
		a.frames[i].bytes[51] = (uint8_t)sum;
	}
	a.flow.client_port ^= 0x20;
	try(&a);
	assert_null(a.trial.handled);
	assert_int_equal(a.trial.end->event.a[4], 0);
	finish(&a);
}

static void budgets_end_what_would_not_end(void **state)
{
	struct attempt a;
	prepare(&a, "/abuse/dirty");
	a.begin.memory_pages = 8192;
	try(&a);
	assert_int_equal(a.trial.end->event.a[0], FT_TRIAL_END_MEMORY);
	finish(&a);
	prepare(&a, "/abuse/spin");
	a.begin.handling_instructions = 300000000;
	try(&a);
	ends(&a, FT_TRIAL_END_NEVER_IDLE, false);
	assert_int_equal(a.trial.end->event.a[2], 300000000);
	finish(&a);
	prepare(&a, "/abuse/fork");
	a.begin.handling_instructions = 300000000;
	try(&a);
	assert_in_set(a.trial.end->event.a[0],
		      ((LargestIntegralType[]){FT_TRIAL_END_NEVER_IDLE, FT_TRIAL_END_MEMORY}), 2);
	assert_true(saw(&a, FT_EVENT_PROCESS_NEW, NULL));
	finish(&a);
}

static void a_twin_shows_what_would_have_happened_anyway(void **state)
{
	struct attempt a;
	prepare(&a, "/");
	try(&a);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	/* The guest's own ticker: in two minutes of horizon both see it. */
	twin(&a);
	assert_int_equal(a.trial.twin_end->event.vtime_ns, a.trial.end->event.vtime_ns);
	assert_true(saw(&a, FT_EVENT_EXEC, "/usr/bin/date"));
	assert_non_null(stand_find(&a.trial, FT_ROLE_TWIN, FT_EVENT_EXEC, "/usr/bin/date"));
	finish(&a);
}

static void a_request_in_many_segments_and_on_a_kept_connection(void **state)
{
	struct attempt a;
	prepare(&a, "/");
	/* The first request is released: it goes to the live guest. */
	for (uint32_t i = 0; i < a.flow.frames; i++)
		peer_put(&a.peer, &a.frames[i]);
	peer_run(&a.peer, 1000, NULL);
	assert_true(a.peer.length > 0);
	size_t before = a.peer.length;
	/* The second is held, one byte a segment for its first ten. */
	static const char request[] =
	    "GET /cgi-bin/lookup?host=localhost;touch+/tmp/x HTTP/1.1\r\nHost: g\r\n\r\n";
	struct stand_frame frames[11];
	uint32_t from = a.peer.sequence;
	for (int i = 0; i < 10; i++)
		peer_segment(&a.peer, request + i, 1, &frames[i]);
	peer_segment(&a.peer, request + 10, sizeof(request) - 11, &frames[10]);
	a.begin = stand_budgets(next_trial++);
	a.flow = peer_flow(&a.peer, from, sizeof(request) - 1, 11);
	stand_ask(&s, &a.begin, &a.flow, 1, frames);
	stand_collect(&s, a.begin.trial, &a.trial, false, peer_meanwhile, &a.peer);
	if (verbose)
		stand_print(&a.trial);
	ends(&a, FT_TRIAL_END_HORIZON, true);
	assert_true(saw(&a, FT_EVENT_EXEC, "/touch"));
	stand_finish(&s, a.begin.trial, &a.trial);
	peer_run(&a.peer, 50, NULL);
	assert_int_equal(a.peer.length, before);
	assert_int_equal(a.peer.acknowledged, from);
	stand_trial_free(&a.trial);
	peer_close(&a.peer);
}

static void the_live_guest_still_serves(void **state)
{
	assert_true(peer_get(&s, next_port++, "/"));
	assert_true(peer_get(&s, next_port++, "/cgi-bin/health"));
	json_t *status = stand_status(&s);
	assert_int_equal(json_integer_value(json_object_get(status, "clones")), 0);
	json_decref(status);
}

int main(int argc, char **argv)
{
	if (!getenv("FORETASTE_IMAGES") || !getenv("FORETASTE_VMM"))
		return 77;
	if (access(getenv("FORETASTE_IMAGES"), R_OK)) {
		printf("SKIP: there are no guest images in %s (deploy/guest/build web makes them)\n",
		       getenv("FORETASTE_IMAGES"));
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	verbose = getenv("VERBOSE") != NULL;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_innocent_request_is_handled_and_shows_only_what_it_should),
	    cmocka_unit_test(an_injected_command_is_seen_as_the_program_it_starts),
	    cmocka_unit_test(a_shell_builtin_is_seen_by_the_file_it_writes),
	    cmocka_unit_test(machine_code_on_the_stack_is_seen_when_it_runs),
	    cmocka_unit_test(a_crash_is_seen_by_its_signal),
	    cmocka_unit_test(what_sleeps_first_is_seen_in_the_horizon),
	    cmocka_unit_test(the_same_trial_twice_is_the_same),
	    cmocka_unit_test(a_clone_without_the_connection_proves_nothing),
	    cmocka_unit_test(budgets_end_what_would_not_end),
	    cmocka_unit_test(a_twin_shows_what_would_have_happened_anyway),
	    cmocka_unit_test(a_request_in_many_segments_and_on_a_kept_connection),
	    cmocka_unit_test(the_live_guest_still_serves),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, boot, shut);
}
