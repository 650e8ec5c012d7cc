/* Seeds and clones as processes: real forks, real filters, real budgets; the guest is scripted (scripted.h). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <sodium.h>

#include "base/link.h"
#include "clone/slots.h"
#include "scripted.h"

#define PATIENCE_MS 60000 /* a machine under load is not a failure */

static struct ft_machine *machine;
static struct ft_witness witness;
static struct ft_report live;
static struct ft_slots slots;
static struct ft_link link_vmm, link_dataplane;

static void new_link(void)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	assert_int_equal(ft_link_create(ours, theirs, NULL), 0);
	assert_int_equal(ft_link_open(&link_dataplane, FT_LINK_DATAPLANE, ours, NULL), 0);
	assert_int_equal(ft_link_open(&link_vmm, FT_LINK_VMM, theirs, NULL), 0);
	assert_int_equal(madvise(link_vmm.memory, link_vmm.length, MADV_DONTFORK), 0);
	assert_int_equal(madvise(link_dataplane.memory, link_dataplane.length, MADV_DONTFORK), 0);
	ft_slots_attach(&slots, link_vmm.events);
}

static int fresh(void **state)
{
	struct ft_machine_config config = {
	    .memory = 64u << 20, .clock = FT_CLOCK_FREE, .disk_fd = -1, .engine = &scripted_engine};
	struct ft_error err = {0};
	machine = ft_machine_create(&config, &err);
	assert_non_null(machine);
	ft_report_begin(&live, -1, FT_ROLE_LIVE, 0);
	ft_witness_live(&witness, machine, &live, 0);
	struct ft_slots_config slots_config = {.max = 2, .witness = &witness, .disk = -1, .overlay = -1, .kvm = -1};
	assert_int_equal(ft_slots_open(&slots, &slots_config, &err), 0);
	new_link();
	return 0;
}

static int done(void **state)
{
	ft_slots_close(&slots);
	assert_int_equal(slots.running, 0);
	assert_true(slots.forked == slots.finished + slots.died);
	ft_link_close(&link_vmm);
	ft_link_close(&link_dataplane);
	ft_machine_destroy(machine);
	/* Whatever happened, no process is left. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	return 0;
}

static struct ft_trial_begin usual(uint64_t trial)
{
	return (struct ft_trial_begin){.trial = trial,
				       .flows = 1,
				       .frames = 1,
				       .seed = 1234,
				       .handling_instructions = 10000000,
				       .horizon_ns = 1000000000,
				       .horizon_instructions = 10000000,
				       .wall_ns = 30000000000,
				       .memory_pages = 100000};
}

static void ask(const struct ft_trial_begin *begin)
{
	uint8_t frame[8 + 60] = {0};
	memcpy(frame, &begin->trial, 8);
	struct ft_trial_go go = {.trial = begin->trial};
	bool pending;
	assert_int_equal(ft_slots_command(&slots, FT_TRIAL_BEGIN, begin, sizeof(*begin)), 0);
	for (uint32_t i = 0; i < begin->flows; i++) {
		struct ft_trial_flow flow = {.trial = begin->trial,
					     .frames = 1,
					     .bytes = 10,
					     .protocol = 17,
					     .client_port = (uint16_t)(1000 + i)};
		assert_int_equal(ft_slots_command(&slots, FT_TRIAL_FLOW, &flow, sizeof(flow)), 0);
	}
	for (uint32_t i = 0; i < begin->flows; i++)
		assert_int_equal(ft_slots_command(&slots, FT_TRIAL_FRAME, frame, sizeof(frame)), 0);
	assert_int_equal(ft_slots_command(&slots, FT_TRIAL_GO, &go, sizeof(go)), 0);
	ft_slots_work(&slots, 0, &pending);
}

static void order_run(uint64_t trial, uint32_t flows, uint64_t until)
{
	struct ft_trial_run run = {.trial = trial, .flows = flows, .until_vtime_ns = until};
	assert_int_equal(ft_slots_command(&slots, FT_TRIAL_RUN, &run, sizeof(run)), 0);
}

static void order_finish(uint64_t trial)
{
	struct ft_trial_go go = {.trial = trial};
	assert_int_equal(ft_slots_command(&slots, FT_TRIAL_FINISH, &go, sizeof(go)), 0);
}

static struct ft_event event;
static char detail[256];
static uint64_t others; /* records passed over */

/* The next event of this type; the vmm's loop goes on meanwhile. */
static void wait_for(enum ft_event_type type, uint64_t trial)
{
	static uint8_t message[FT_EVENTS_MAX];
	static size_t at, end; /* what is left of the last one */
	const char *strings[FT_EVENT_STRINGS];
	others = 0;
	for (int waited = 0; waited < PATIENCE_MS;) {
		bool pending;
		ft_slots_work(&slots, 0, &pending);
		ssize_t n = at < end ? 0 : recv(link_dataplane.events, message, sizeof(message), MSG_DONTWAIT);
		if (n < 0) {
			struct pollfd fd = {.fd = link_dataplane.events, .events = POLLIN};
			waited += poll(&fd, 1, 10) == 0 ? 10 : 0;
			continue;
		}
		if (at == end) {
			at = 0;
			end = (size_t)n;
		}
		size_t length = ft_event_first(message + at, end - at);
		assert_int_equal(ft_event_check(message + at, length, &event, strings), 0);
		at += length;
		if (event.type == type && event.trial == trial) {
			snprintf(detail, sizeof(detail), "%s", strings[0]);
			return;
		}
		others++;
	}
	fail_msg("no %s came for trial %lu", ft_event_name(type), (unsigned long)trial);
}

static void trial_ends(uint64_t trial, enum ft_trial_end end)
{
	wait_for(FT_EVENT_TRIAL_END, trial);
	assert_string_equal(ft_trial_end_label((unsigned)event.a[0]), ft_trial_end_label(end));
	struct ft_event ended = event;
	order_finish(trial);
	wait_for(FT_EVENT_SEED_GONE, trial);
	assert_int_equal(event.a[0], FT_SEED_FINISHED);
	event = ended;
}

static pid_t child_of(pid_t parent)
{
	char path[64], line[64] = "";
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
	for (int tries = 0; tries < PATIENCE_MS / 10; tries++) {
		int fd = open(path, O_RDONLY);
		ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
		if (fd >= 0)
			close(fd);
		if (n > 0)
			return (pid_t)strtol(line, NULL, 10);
		poll(NULL, 0, 10);
	}
	fail_msg("process %d never had a child", (int)parent);
	return 0;
}

/* ---- How runs end --------------------------------------------------------------------------------------------- */

static void a_run_that_proves_nothing_ends_at_its_horizon(void **state)
{
	/* This machine's guest has no driver: the frame is not taken. */
	struct ft_trial_begin begin = usual(1);
	ask(&begin);
	assert_true(slots.last_pause_ns > 0);
	wait_for(FT_EVENT_TRIAL_ANSWERED, 1);
	assert_int_equal(event.a[0], 1);
	assert_int_equal(event.a[1], 0);
	trial_ends(1, FT_TRIAL_END_HORIZON);
	assert_int_equal(event.a[4], 0);
	assert_int_equal(event.role, FT_ROLE_TRIAL);
}

static void a_clone_that_never_idles_stops_at_its_instruction_budget(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.handling_instructions = 1234567;
	script_set(machine, SCRIPT_SPIN);
	ask(&begin);
	trial_ends(1, FT_TRIAL_END_NEVER_IDLE);
	assert_int_equal(event.a[2], 1234567);
}

static void a_clone_that_writes_all_memory_stops_at_its_memory_budget(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.memory_pages = 1000;
	begin.handling_instructions = UINT64_MAX;
	script_set(machine, SCRIPT_DIRTY);
	ask(&begin);
	trial_ends(1, FT_TRIAL_END_MEMORY);
	assert_in_range(event.a[3], 1001, 1000 + FT_TRIAL_SLICE / 1000 + 1);
}

static void resets_are_told_apart(void **state)
{
	struct ft_trial_begin begin = usual(1);
	script_set(machine, SCRIPT_REBOOT);
	ask(&begin);
	trial_ends(1, FT_TRIAL_END_RESET);
	begin = usual(2);
	script_set(machine, SCRIPT_TRIPLE);
	ask(&begin);
	trial_ends(2, FT_TRIAL_END_TRIPLE_FAULT);
	begin = usual(3);
	script_set(machine, SCRIPT_FAIL);
	ask(&begin);
	trial_ends(3, FT_TRIAL_END_ERROR);
}

static void wall_time_is_bounded_by_the_clone_itself(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.wall_ns = 1;
	begin.handling_instructions = UINT64_MAX;
	script_set(machine, SCRIPT_SPIN);
	ask(&begin);
	trial_ends(1, FT_TRIAL_END_WALL);
}

static void a_clone_that_hangs_is_killed_by_its_seed(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.wall_ns = 1;
	script_set(machine, SCRIPT_HANG);
	ask(&begin);
	trial_ends(1, FT_TRIAL_END_WALL);
}

static void a_clone_that_crashes_is_told_as_killed(void **state)
{
	struct ft_trial_begin begin = usual(1);
	/* cmocka's handlers must not catch what kills a clone. */
	signal(SIGILL, SIG_DFL);
	signal(SIGSEGV, SIG_DFL);
	script_set(machine, SCRIPT_CRASH);
	ask(&begin);
	wait_for(FT_EVENT_TRIAL_END, 1);
	assert_int_equal(event.a[0], FT_TRIAL_END_KILLED);
	assert_non_null(strstr(detail, "signal"));
}

static void a_forbidden_system_call_kills_the_clone_alone(void **state)
{
	struct ft_trial_begin begin = usual(1);
	script_set(machine, SCRIPT_SOCKET);
	ask(&begin);
	wait_for(FT_EVENT_TRIAL_END, 1);
	assert_int_equal(event.a[0], FT_TRIAL_END_KILLED);
	assert_string_equal(detail, "made a forbidden system call");
	/* Its seed lives: a twin of a better mind can still be made. */
	order_run(1, 0, 0);
	wait_for(FT_EVENT_TRIAL_END, 1);
	assert_int_equal(event.role, FT_ROLE_TWIN);
	order_finish(1);
	wait_for(FT_EVENT_SEED_GONE, 1);
	assert_int_equal(event.a[0], FT_SEED_FINISHED);
}

static void a_flood_of_events_is_bounded_and_said(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.handling_instructions = 100000;
	script_set(machine, SCRIPT_FLOOD);
	ask(&begin);
	wait_for(FT_EVENT_LOST, 1);
	assert_true(event.a[0] == 100000 - FT_REPORT_LIMIT);
	trial_ends(1, FT_TRIAL_END_NEVER_IDLE);
}

/* ---- Repeatable ------------------------------------------------------------------------------------------------- */

static void the_same_trial_twice_is_the_same(void **state)
{
	struct ft_event first[2];
	uint64_t records[2];
	script_set(machine, SCRIPT_DIRTY);
	for (uint64_t trial = 1; trial <= 2; trial++) {
		struct ft_trial_begin begin = usual(trial);
		ask(&begin);
		wait_for(FT_EVENT_TRIAL_END, trial);
		first[trial - 1] = event;
		records[trial - 1] = others;
		order_finish(trial);
		wait_for(FT_EVENT_SEED_GONE, trial);
	}
	assert_int_equal(first[0].a[0], FT_TRIAL_END_NEVER_IDLE);
	first[0].a[5] = first[1].a[5]; /* how fast the host was */
	assert_memory_equal(first[0].a, first[1].a, sizeof(first[0].a));
	assert_int_equal(first[0].vtime_ns, first[1].vtime_ns);
	assert_int_equal(first[0].sequence, first[1].sequence);
	assert_int_equal(records[0], records[1]);
	/* And the guest they came from has not moved. */
	assert_int_equal(machine->icount, 0);
}

static void a_twin_stops_where_the_trial_did(void **state)
{
	struct ft_trial_begin begin = usual(1);
	script_set(machine, SCRIPT_SPIN);
	ask(&begin);
	wait_for(FT_EVENT_TRIAL_END, 1);
	uint64_t until = event.vtime_ns;
	assert_true(until > 0);
	order_run(1, 0, until);
	wait_for(FT_EVENT_TRIAL_END, 1);
	assert_int_equal(event.role, FT_ROLE_TWIN);
	assert_int_equal(event.a[0], FT_TRIAL_END_HORIZON);
	assert_int_equal(event.vtime_ns, until);
	order_finish(1);
	wait_for(FT_EVENT_SEED_GONE, 1);
}

/* ---- One run after the other -------------------------------------------------------------------------------------- */

/* Ends as the next run of the request has to. */
static void next_run_ends(uint64_t trial, enum ft_event_role role, enum ft_trial_end end)
{
	wait_for(FT_EVENT_TRIAL_END, trial);
	assert_int_equal(event.role, role);
	assert_string_equal(ft_trial_end_label((unsigned)event.a[0]), ft_trial_end_label(end));
}

static void a_seed_makes_one_run_after_the_other(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.flows = begin.frames = 3;
	script_set(machine, SCRIPT_DIRTY);
	ask(&begin);
	next_run_ends(1, FT_ROLE_TRIAL, FT_TRIAL_END_NEVER_IDLE);
	uint64_t hash = event.a[1];
	for (uint32_t i = 0; i < 3; i++) {
		/* At once: the process of the run before is still there. */
		order_run(1, 3 - i, 0);
		next_run_ends(1, FT_ROLE_TRIAL, FT_TRIAL_END_NEVER_IDLE);
		assert_true(hash == event.a[1]);
	}
	order_run(1, 2, 0);
	wait_for(FT_EVENT_TRIAL_ANSWERED, 1);
	assert_int_equal(event.a[0], 2);
	next_run_ends(1, FT_ROLE_TRIAL, FT_TRIAL_END_NEVER_IDLE);
	/* The twin says nothing of answers: its end comes first. */
	order_run(1, 0, 5000);
	next_run_ends(1, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON);
	assert_int_equal(others, 0);
	assert_int_equal(event.vtime_ns, 5000);
	order_finish(1);
	wait_for(FT_EVENT_SEED_GONE, 1);
	assert_int_equal(event.a[0], FT_SEED_FINISHED);
}

static void an_order_waits_for_the_run_and_a_second_one_makes_no_sense(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.wall_ns = 1;
	script_set(machine, SCRIPT_HANG);
	ask(&begin);
	order_run(1, 0, 1);
	next_run_ends(1, FT_ROLE_TRIAL, FT_TRIAL_END_WALL);
	next_run_ends(1, FT_ROLE_TWIN, FT_TRIAL_END_WALL);
	order_run(1, 1, 0);
	order_run(1, 1, 0);
	order_run(1, 1, 0);
	wait_for(FT_EVENT_SEED_GONE, 1);
	assert_int_equal(event.a[0], FT_SEED_REFUSED);
	assert_string_equal(detail, "an order made no sense");
}

static void more_flows_than_there_are_or_too_many_runs_end_the_seed(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.flows = begin.frames = 2;
	script_set(machine, SCRIPT_REBOOT);
	ask(&begin);
	next_run_ends(1, FT_ROLE_TRIAL, FT_TRIAL_END_RESET);
	order_run(1, 3, 0);
	wait_for(FT_EVENT_SEED_GONE, 1);
	assert_int_equal(event.a[0], FT_SEED_REFUSED);
	begin = usual(2);
	ask(&begin);
	for (unsigned i = 0; i < FT_SEED_RUNS; i++) {
		next_run_ends(2, FT_ROLE_TRIAL, FT_TRIAL_END_RESET);
		order_run(2, 1, 0);
	}
	wait_for(FT_EVENT_SEED_GONE, 2);
	assert_int_equal(event.a[0], FT_SEED_REFUSED);
	assert_int_equal(others, 0);
}

/* A link that is closed and a seed that is told to finish end a run that is under way, and what waits behind it. */
static void the_end_of_a_request_ends_its_run_and_what_waits(void **state)
{
	struct ft_trial_begin begin = usual(1);
	script_set(machine, SCRIPT_HANG);
	ask(&begin);
	order_run(1, 1, 0);
	order_finish(1);
	wait_for(FT_EVENT_SEED_GONE, 1);
	assert_int_equal(event.a[0], FT_SEED_FINISHED);
	assert_int_equal(others, 1); /* SEED_READY */
}

/* ---- Admission and account --------------------------------------------------------------------------------------- */

static void more_than_the_slots_is_refused_as_busy(void **state)
{
	script_set(machine, SCRIPT_HANG);
	for (uint64_t trial = 1; trial <= 3; trial++) {
		struct ft_trial_begin begin = usual(trial);
		ask(&begin);
	}
	wait_for(FT_EVENT_SEED_GONE, 3);
	assert_int_equal(event.a[0], FT_SEED_BUSY);
	assert_int_equal(slots.running, 2);
	order_finish(1);
	wait_for(FT_EVENT_SEED_GONE, 1);
	script_set(machine, SCRIPT_REBOOT);
	struct ft_trial_begin begin = usual(4);
	ask(&begin);
	trial_ends(4, FT_TRIAL_END_RESET);
}

static void a_request_waits_for_the_frames_before_it(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.rx_index = 640;
	bool pending;
	script_set(machine, SCRIPT_REBOOT);
	ask(&begin);
	ft_slots_work(&slots, 639, &pending);
	assert_true(pending);
	assert_int_equal(slots.running, 0);
	ft_slots_work(&slots, 640, &pending);
	assert_false(pending);
	assert_int_equal(slots.running, 1);
	trial_ends(1, FT_TRIAL_END_RESET);
}

static void a_finished_request_is_never_forked(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.rx_index = 640;
	ask(&begin);
	order_finish(1);
	wait_for(FT_EVENT_SEED_GONE, 1);
	bool pending;
	ft_slots_work(&slots, 640, &pending);
	assert_int_equal(slots.forked, 0);
}

static void nonsense_is_refused(void **state)
{
	struct ft_trial_begin begin = usual(1);
	begin.frames = 5;
	ask(&begin);
	wait_for(FT_EVENT_SEED_GONE, 1);
	assert_int_equal(event.a[0], FT_SEED_REFUSED);
	assert_int_equal(ft_slots_command(&slots, 99, &begin, sizeof(begin)), -EPROTO);
	assert_int_equal(ft_slots_command(&slots, FT_TRIAL_GO, &begin, sizeof(begin)), -EPROTO);
	/* Orders for a trial that was never there. */
	order_run(77, 0, 1);
	order_finish(77);
}

/* ---- Processes --------------------------------------------------------------------------------------------------- */

static void a_killed_seed_takes_its_clone_along(void **state)
{
	struct ft_trial_begin begin = usual(1);
	script_set(machine, SCRIPT_HANG);
	ask(&begin);
	pid_t seed = slots.slots[0].pid, clone = child_of(seed);
	int pidfd = (int)syscall(SYS_pidfd_open, clone, 0);
	assert_true(pidfd >= 0);
	kill(seed, SIGKILL);
	wait_for(FT_EVENT_SEED_GONE, 1);
	assert_int_equal(event.a[0], FT_SEED_DIED);
	struct pollfd fd = {.fd = pidfd, .events = POLLIN};
	assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
	close(pidfd);
}

static void a_new_link_ends_everything_of_the_old_one(void **state)
{
	struct ft_trial_begin begin = usual(1);
	script_set(machine, SCRIPT_HANG);
	ask(&begin);
	pid_t seed = slots.slots[0].pid;
	ft_slots_attach(&slots, -1);
	ft_link_close(&link_vmm);
	ft_link_close(&link_dataplane);
	new_link();
	assert_int_equal(slots.running, 0);
	assert_int_equal(kill(seed, 0), -1);
	script_set(machine, SCRIPT_REBOOT);
	ask(&begin);
	trial_ends(1, FT_TRIAL_END_RESET);
}

static unsigned descriptors(pid_t pid, char *what, size_t size)
{
	char path[300], target[256];
	unsigned count = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	what[0] = 0;
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, entry->d_name);
		ssize_t n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = 0;
		snprintf(what + strlen(what), size - strlen(what), "%s ", target);
		count++;
	}
	if (dir)
		closedir(dir);
	return count;
}

static bool file_has(pid_t pid, const char *file, const char *needle)
{
	char path[64], line[1024];
	bool found = false;
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		found |= strstr(line, needle) != NULL;
	if (f)
		fclose(f);
	return found;
}

static void a_clone_has_the_descriptors_and_maps_it_should_have(void **state)
{
	struct ft_trial_begin begin = usual(1);
	char what[2048];
	script_set(machine, SCRIPT_HANG);
	ask(&begin);
	pid_t seed = slots.slots[0].pid, clone = child_of(seed);
	/* It confines itself before it runs the guest: wait until both filters are there. */
	for (int tries = 0; tries < PATIENCE_MS / 10 && !file_has(clone, "status", "Seccomp_filters:\t2\n");
	     tries++)
		poll(NULL, 0, 10);
	assert_true(file_has(clone, "status", "Seccomp_filters:\t2\n"));
	assert_true(file_has(clone, "status", "NoNewPrivs:\t1\n"));
	if (geteuid()) {
		/* Not dumpable: to others of the same uid it is closed. */
		assert_int_equal(descriptors(clone, what, sizeof(what)), 0);
	} else {
		assert_int_equal(descriptors(clone, what, sizeof(what)), 1);
		assert_memory_equal(what, "socket:", 7);
		/* Events, orders, and the clone's pidfd, which it may not have yet. */
		for (int tries = 0; tries < PATIENCE_MS / 10 && descriptors(seed, what, sizeof(what)) < 3; tries++)
			poll(NULL, 0, 10);
		assert_int_equal(descriptors(seed, what, sizeof(what)), 3);
		assert_false(file_has(clone, "maps", "foretaste-link"));
		assert_false(file_has(clone, "maps", "rw-s"));
		assert_true(file_has(getpid(), "maps", "foretaste-link"));
	}
	order_finish(1);
	wait_for(FT_EVENT_SEED_GONE, 1);
}

static void nothing_of_a_clone_reaches_the_rings(void **state)
{
	struct ft_trial_begin begin = usual(1);
	uint8_t before[2 * FT_RING_LINE], after[2 * FT_RING_LINE];
	memcpy(before, link_vmm.tx.shared, sizeof(before));
	script_set(machine, SCRIPT_DIRTY);
	ask(&begin);
	trial_ends(1, FT_TRIAL_END_NEVER_IDLE);
	memcpy(after, link_vmm.tx.shared, sizeof(after));
	assert_memory_equal(before, after, sizeof(before));
}

int main(void)
{
	if (sodium_init() < 0)
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(a_run_that_proves_nothing_ends_at_its_horizon, fresh, done),
	    cmocka_unit_test_setup_teardown(a_clone_that_never_idles_stops_at_its_instruction_budget, fresh,
					    done),
	    cmocka_unit_test_setup_teardown(a_clone_that_writes_all_memory_stops_at_its_memory_budget, fresh,
					    done),
	    cmocka_unit_test_setup_teardown(resets_are_told_apart, fresh, done),
	    cmocka_unit_test_setup_teardown(wall_time_is_bounded_by_the_clone_itself, fresh, done),
	    cmocka_unit_test_setup_teardown(a_clone_that_hangs_is_killed_by_its_seed, fresh, done),
	    cmocka_unit_test_setup_teardown(a_clone_that_crashes_is_told_as_killed, fresh, done),
	    cmocka_unit_test_setup_teardown(a_forbidden_system_call_kills_the_clone_alone, fresh, done),
	    cmocka_unit_test_setup_teardown(a_flood_of_events_is_bounded_and_said, fresh, done),
	    cmocka_unit_test_setup_teardown(the_same_trial_twice_is_the_same, fresh, done),
	    cmocka_unit_test_setup_teardown(a_twin_stops_where_the_trial_did, fresh, done),
	    cmocka_unit_test_setup_teardown(a_seed_makes_one_run_after_the_other, fresh, done),
	    cmocka_unit_test_setup_teardown(an_order_waits_for_the_run_and_a_second_one_makes_no_sense, fresh, done),
	    cmocka_unit_test_setup_teardown(more_flows_than_there_are_or_too_many_runs_end_the_seed, fresh, done),
	    cmocka_unit_test_setup_teardown(the_end_of_a_request_ends_its_run_and_what_waits, fresh, done),
	    cmocka_unit_test_setup_teardown(more_than_the_slots_is_refused_as_busy, fresh, done),
	    cmocka_unit_test_setup_teardown(a_request_waits_for_the_frames_before_it, fresh, done),
	    cmocka_unit_test_setup_teardown(a_finished_request_is_never_forked, fresh, done),
	    cmocka_unit_test_setup_teardown(nonsense_is_refused, fresh, done),
	    cmocka_unit_test_setup_teardown(a_killed_seed_takes_its_clone_along, fresh, done),
	    cmocka_unit_test_setup_teardown(a_new_link_ends_everything_of_the_old_one, fresh, done),
	    cmocka_unit_test_setup_teardown(a_clone_has_the_descriptors_and_maps_it_should_have, fresh, done),
	    cmocka_unit_test_setup_teardown(nothing_of_a_clone_reaches_the_rings, fresh, done),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
