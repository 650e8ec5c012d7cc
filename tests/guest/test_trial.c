/* Trials of a real guest: the stock Debian image behind the real vmm process, requests held and tried on clones. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
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
	assert_int_equal(a.trial.answered->event.a[0], 1);
	assert_int_equal(a.trial.answered->event.a[1], 1);
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

/* ---- Groups ----------------------------------------------------------------------------------------------------- */

#define GROUP 16u

/* Requests on connections of their own, tried together; the live guest never sees them. */
struct group {
	struct peer peers[GROUP];
	struct ft_trial_begin begin;
	struct ft_trial_flow flows[GROUP];
	struct stand_frame frames[GROUP];
	uint32_t bytes[GROUP]; /* of the flows up to this one */
	struct stand_trial trial;
};

static void gather(struct group *g, const char *const targets[GROUP])
{
	memset(g, 0, sizeof(*g));
	g->begin = stand_budgets(next_trial++);
	for (uint32_t i = 0; i < GROUP; i++) {
		char request[1024];
		peer_open(&g->peers[i], &s, next_port++);
		assert_true(peer_connect(&g->peers[i]));
		int n = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: guest\r\n\r\n", targets[i]);
		g->flows[i] = peer_flow(&g->peers[i], g->peers[i].sequence, (uint32_t)n, 1);
		peer_segment(&g->peers[i], request, (size_t)n, &g->frames[i]);
		g->bytes[i] = (i ? g->bytes[i - 1] : 0) + (uint32_t)n;
	}
}

static void collect_group(struct group *g)
{
	stand_collect(&s, g->begin.trial, &g->trial, false, peer_meanwhile, &g->peers[0]);
	if (verbose)
		stand_print(&g->trial);
	assert_non_null(g->trial.end);
}

static void try_group(struct group *g)
{
	stand_ask(&s, &g->begin, g->flows, GROUP, g->frames);
	collect_group(g);
}

static void try_first(struct group *g, uint32_t flows)
{
	stand_run(&s, g->begin.trial, &g->trial, flows, 0);
	collect_group(g);
}

/* The last trial was of so many flows: it took them all, and answered so many. */
static void took(const struct group *g, uint32_t flows, uint32_t answered)
{
	assert_string_equal(ft_trial_end_label((unsigned)g->trial.end->event.a[0]), "horizon");
	assert_int_equal(g->trial.end->event.a[4], 1);
	assert_int_equal(g->trial.handled->event.a[0], g->bytes[flows - 1]);
	assert_int_equal(g->trial.handled->event.a[1], g->bytes[flows - 1]);
	assert_int_equal(g->trial.handled->event.a[2], flows);
	assert_int_equal(g->trial.answered->event.a[0], flows);
	assert_int_equal(g->trial.answered->event.a[1], answered);
	assert_null(stand_find(&g->trial, FT_ROLE_TRIAL, FT_EVENT_LOST, NULL));
}

static unsigned executed(const struct group *g, const char *program)
{
	unsigned count = 0;
	for (size_t i = g->trial.first; i < g->trial.count; i++)
		count += g->trial.events[i].event.role == FT_ROLE_TRIAL && g->trial.events[i].event.type == FT_EVENT_EXEC &&
			 strstr(g->trial.events[i].strings[0], program);
	return count;
}

static void disband(struct group *g)
{
	stand_finish(&s, g->begin.trial, &g->trial);
	assert_int_equal(g->trial.gone->event.a[0], 0);
	peer_run(&g->peers[0], 50, NULL);
	for (uint32_t i = 0; i < GROUP; i++) {
		assert_int_equal(g->peers[i].length, 0);
		peer_close(&g->peers[i]);
	}
	stand_trial_free(&g->trial);
}

static void usual_targets(const char *targets[GROUP])
{
	for (uint32_t i = 0; i < GROUP; i++)
		targets[i] = i % 4 == 0   ? "/"
			     : i % 4 == 1 ? "/cgi-bin/health"
			     : i % 4 == 2 ? "/nothing/here"
					  : "/cgi-bin/lookup?host=localhost";
}

static void a_group_of_innocent_requests_is_taken_and_answered(void **state)
{
	static struct group g;
	const char *targets[GROUP];
	usual_targets(targets);
	gather(&g, targets);
	try_group(&g);
	took(&g, GROUP, GROUP);
	assert_int_equal(executed(&g, "/usr/lib/cgi-bin/health"), GROUP / 4);
	assert_int_equal(executed(&g, "/usr/lib/cgi-bin/lookup"), GROUP / 4);
	assert_null(stand_find(&g.trial, FT_ROLE_TRIAL, FT_EVENT_SIGNAL, NULL));
	disband(&g);
}

static void the_guilty_one_of_a_group_is_found_by_halving(void **state)
{
	static struct group g;
	const char *targets[GROUP];
	usual_targets(targets);
	targets[9] = "/cgi-bin/lookup?host=localhost;touch+/var/www/touched/group";
	gather(&g, targets);
	try_group(&g);
	took(&g, GROUP, GROUP);
	assert_int_equal(executed(&g, "/touch"), 1);
	/* The smallest prefix that shows it: the first `good` are innocent, the first `bad` are not. */
	uint32_t good = 0, bad = GROUP;
	while (bad - good > 1) {
		uint32_t middle = (good + bad) / 2;
		try_first(&g, middle);
		took(&g, middle, middle);
		if (executed(&g, "/touch"))
			bad = middle;
		else
			good = middle;
	}
	assert_int_equal(bad, 10);
	/* And the twin has nothing of any. */
	stand_run(&s, g.begin.trial, &g.trial, 0, g.trial.end->event.vtime_ns);
	stand_collect(&s, g.begin.trial, &g.trial, true, peer_meanwhile, &g.peers[0]);
	assert_non_null(g.trial.twin_end);
	assert_null(stand_find(&g.trial, FT_ROLE_TWIN, FT_EVENT_EXEC, "/usr/lib/cgi-bin"));
	disband(&g);
}

static pid_t child_of(pid_t parent)
{
	char path[300], line[64] = "";
	snprintf(path, sizeof(path), "/proc/%d/task", (int)parent);
	DIR *tasks = opendir(path);
	pid_t child = 0;
	for (struct dirent *task; tasks && !child && (task = readdir(tasks));) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/children", (int)parent, task->d_name);
		int fd = open(path, O_RDONLY);
		ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);
		if (n > 0)
			child = (pid_t)strtol(line, NULL, 10);
		if (fd >= 0)
			close(fd);
	}
	if (tasks)
		closedir(tasks);
	return child;
}

/* Stops the clone again and again while it runs, if it is told to. */
struct disturbance {
	struct peer *peer;
	bool on;
	unsigned times;
};

static void disturb(void *context)
{
	struct disturbance *d = context;
	pid_t seed = d->on ? child_of(s.pid) : 0, clone = seed ? child_of(seed) : 0;
	if (clone && !kill(clone, SIGSTOP)) {
		poll(NULL, 0, 7);
		d->times += !kill(clone, SIGCONT);
	}
	peer_meanwhile(d->peer);
}

/* The events of the last trial up to its end, in memory of their own. */
static struct stand_event *last_trial(const struct group *g, size_t *count)
{
	struct stand_event *events = calloc(g->trial.count - g->trial.first, sizeof(*events));
	*count = 0;
	for (size_t i = g->trial.first; i < g->trial.count; i++)
		if (g->trial.events[i].event.role == FT_ROLE_TRIAL)
			events[(*count)++] = g->trial.events[i];
	return events;
}

static void the_same_flows_of_a_seed_do_the_same_whatever_the_host_does(void **state)
{
	static struct group g;
	const char *targets[GROUP];
	usual_targets(targets);
	targets[5] = "/cgi-bin/lookup?host=localhost;touch+/var/www/touched/same";
	gather(&g, targets);
	try_group(&g);
	size_t count = 0, again;
	struct stand_event *first = NULL;
	/* The same prefix three times: at first, after a run of other flows, and on a clone that is stopped again and again. */
	for (unsigned round = 0; round < 3; round++) {
		struct disturbance d = {.peer = &g.peers[0], .on = round == 2};
		if (round == 1)
			try_first(&g, 3);
		stand_run(&s, g.begin.trial, &g.trial, 8, 0);
		stand_collect(&s, g.begin.trial, &g.trial, false, disturb, &d);
		took(&g, 8, 8);
		struct stand_event *events = last_trial(&g, &again);
		assert_true(again > 50 && g.trial.end->event.a[1] != 0);
		assert_true(!d.on || d.times > 0);
		if (!first) {
			first = events;
			count = again;
			continue;
		}
		assert_int_equal(count, again);
		for (size_t i = 0; i < count; i++) {
			if (events[i].event.type == FT_EVENT_TRIAL_END)
				events[i].event.a[5] = first[i].event.a[5]; /* how fast the host was */
			assert_memory_equal(&events[i].event, &first[i].event, sizeof(events[i].event));
			assert_string_equal(events[i].strings[0], first[i].strings[0]);
			assert_string_equal(events[i].strings[1], first[i].strings[1]);
		}
		free(events);
	}
	free(first);
	disband(&g);
}

/* The guest has three CGI workers. Who keeps them busy past the horizon hides what the requests behind would do: their bytes
 * are taken, the guest rests, nothing is seen. That they were not answered is. (The horizon is shorter than nginx's patience
 * with a worker, a minute: then it answers itself, and the worker comes to the next.) */
static void a_server_that_some_requests_keep_busy_is_noticed(void **state)
{
	static struct group g;
	const char *targets[GROUP];
	for (uint32_t i = 0; i < GROUP; i++)
		targets[i] = "/cgi-bin/health";
	for (uint32_t i = 5; i < 8; i++)
		targets[i] = "/cgi-bin/lookup?host=localhost;sleep+1";
	targets[9] = "/cgi-bin/lookup?host=localhost;touch+/var/www/touched/hidden";
	gather(&g, targets);
	g.begin.horizon_ns = 40000000000;
	try_group(&g);
	took(&g, GROUP, GROUP);
	assert_int_equal(executed(&g, "/touch"), 1);
	disband(&g);
	for (uint32_t i = 5; i < 8; i++)
		targets[i] = "/cgi-bin/lookup?host=localhost;sleep+130";
	gather(&g, targets);
	g.begin.horizon_ns = 40000000000;
	try_group(&g);
	took(&g, GROUP, 5);
	assert_int_equal(executed(&g, "/touch"), 0);
	try_first(&g, 5);
	took(&g, 5, 5);
	disband(&g);
	/* A late answer counts for nothing either: what it starts has less time to show itself. */
	for (uint32_t i = 5; i < 8; i++)
		targets[i] = "/cgi-bin/lookup?host=localhost;sleep+5";
	gather(&g, targets);
	g.begin.horizon_ns = 40000000000;
	try_group(&g);
	took(&g, GROUP, 5);
	assert_int_equal(executed(&g, "/touch"), 1);
	disband(&g);
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
	    cmocka_unit_test(a_group_of_innocent_requests_is_taken_and_answered),
	    cmocka_unit_test(the_guilty_one_of_a_group_is_found_by_halving),
	    cmocka_unit_test(the_same_flows_of_a_seed_do_the_same_whatever_the_host_does),
	    cmocka_unit_test(a_server_that_some_requests_keep_busy_is_noticed),
	    cmocka_unit_test(the_live_guest_still_serves),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, boot, shut);
}
