/* The live loop as a process, confined as the product is; the guest is scripted (tests/clone/scripted.h). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <sodium.h>

#include "../clone/scripted.h"
#include "base/channel.h"
#include "guest/confinement.h"
#include "guest/live.h"
#include "stand.h"

static enum script script;

static int host(int channel)
{
	static struct ft_witness witness;
	static struct ft_slots slots;
	static struct ft_report report = {.fd = -1};
	static struct ft_live live = {
	    .guest = "test", .witness = &witness, .slots = &slots, .report = &report};
	struct ft_machine_config config = {
	    .memory = 64u << 20, .clock = FT_CLOCK_LIVE, .disk_fd = -1, .engine = &scripted_engine};
	struct ft_error err = {0};
	struct ft_confine_filter filter;
	uid_t uid = geteuid() ? geteuid() : 64321;
	gid_t gid = geteuid() ? getegid() : 64321;
	live.channel = channel;
	live.m = ft_machine_create(&config, &err);
	if (!live.m)
		return 99;
	script_set(live.m, script);
	ft_live_open(&live, -1);
	ft_witness_live(&witness, live.m, &report, 0);
	struct ft_slots_config slots_config = {.max = 2, .witness = &witness, .disk = -1, .overlay = -1, .kvm = -1};
	if (ft_slots_open(&slots, &slots_config, &err) || ft_guest_filter(&filter, false, 0, &err) ||
	    ft_guest_identity(uid, gid, &err) || ft_guest_confine(&filter, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 98;
	}
	enum ft_live_end end = ft_live_run(&live);
	ft_live_close(&live);
	return (int)end;
}

static void start(struct stand *s, enum script which)
{
	script = which;
	assert_int_equal(stand_spawn(s, NULL, host), 0);
	stand_link(s);
}

/* Waits for the process to end by itself. */
static int ended(struct stand *s)
{
	assert_int_equal(waitpid(s->pid, &s->status, 0), s->pid);
	s->pid = 0;
	stand_end(s);
	return s->status;
}

static bool linked(struct stand *s)
{
	json_t *status = stand_status(s);
	assert_non_null(status);
	bool is = json_is_true(json_object_get(status, "linked"));
	json_decref(status);
	return is;
}

static void it_ends_when_its_supervisor_is_gone(void **state)
{
	struct stand s;
	start(&s, SCRIPT_IDLE);
	assert_true(linked(&s));
	stand_end(&s);
	assert_true(WIFEXITED(s.status));
	assert_int_equal(WEXITSTATUS(s.status), FT_LIVE_STOPPED);
	/* The same while the guest never rests. */
	start(&s, SCRIPT_SPIN);
	assert_true(linked(&s));
	stand_end(&s);
	assert_int_equal(WEXITSTATUS(s.status), FT_LIVE_STOPPED);
}

static void the_exit_status_says_what_the_guest_did(void **state)
{
	struct stand s;
	start(&s, SCRIPT_REBOOT);
	assert_int_equal(WEXITSTATUS(ended(&s)), FT_LIVE_REBOOT);
	start(&s, SCRIPT_TRIPLE);
	assert_int_equal(WEXITSTATUS(ended(&s)), FT_LIVE_TRIPLE_FAULT);
	start(&s, SCRIPT_FAIL);
	assert_int_equal(WEXITSTATUS(ended(&s)), FT_LIVE_ERROR);
}

static void garbage_in_a_ring_costs_the_link_and_not_the_guest(void **state)
{
	static const uint64_t garbage[] = {UINT64_MAX, 12, FT_LINK_RX_SIZE * 2, 1ull << 63};
	struct stand s;
	start(&s, SCRIPT_IDLE);
	for (size_t i = 0; i < 2 * sizeof(garbage) / sizeof(*garbage); i++) {
		assert_true(linked(&s));
		struct ft_ring *ring = i & 1 ? &s.link.cmd : &s.link.rx;
		ring->shared->producer.index = garbage[i / 2];
		ft_ring_kick(ring);
		uint64_t one = 1;
		assert_int_equal(write(s.link.wake_peer, &one, 8), 8);
		while (linked(&s))
			poll(NULL, 0, 1);
		stand_link(&s);
	}
	assert_true(linked(&s));
	stand_end(&s);
	assert_int_equal(WEXITSTATUS(s.status), FT_LIVE_STOPPED);
}

static void records_that_are_no_frames_or_commands_cost_the_link(void **state)
{
	struct stand s;
	struct iovec part = {"garbage", 7};
	start(&s, SCRIPT_SPIN);
	assert_int_equal(ft_ring_put(&s.link.rx, 77, &part, 1), 0);
	ft_ring_kick(&s.link.rx);
	while (linked(&s))
		poll(NULL, 0, 1);
	stand_link(&s);
	assert_int_equal(ft_ring_put(&s.link.cmd, FT_TRIAL_GO, &part, 1), 0);
	ft_ring_kick(&s.link.cmd);
	while (linked(&s))
		poll(NULL, 0, 1);
	stand_end(&s);
}

static void a_trial_is_run_over_the_link(void **state)
{
	struct stand s;
	struct stand_trial trial = {0};
	struct stand_frame frame = {.length = 60};
	start(&s, SCRIPT_SPIN);
	struct ft_trial_begin begin = stand_budgets(5);
	struct ft_trial_flow flow = {.frames = 1, .protocol = 17};
	begin.handling_instructions = 5000000;
	stand_ask(&s, &begin, &flow, 1, &frame);
	stand_collect(&s, 5, &trial, false, NULL, NULL);
	assert_non_null(trial.ready);
	assert_non_null(trial.end);
	assert_int_equal(trial.end->event.a[0], FT_TRIAL_END_NEVER_IDLE);
	stand_run(&s, 5, &trial, 0, trial.end->event.vtime_ns);
	stand_collect(&s, 5, &trial, true, NULL, NULL);
	assert_non_null(trial.twin_end);
	stand_finish(&s, 5, &trial);
	assert_non_null(trial.gone);
	assert_int_equal(trial.gone->event.a[0], FT_SEED_FINISHED);
	stand_trial_free(&trial);
	stand_end(&s);
	assert_int_equal(WEXITSTATUS(s.status), FT_LIVE_STOPPED);
}

static uint64_t instructions(struct stand *s)
{
	json_t *status = stand_status(s);
	assert_non_null(status);
	uint64_t count = (uint64_t)json_integer_value(json_object_get(status, "instructions"));
	json_decref(status);
	return count;
}

/* Woken for nothing, thousands of times a second, the dataplane would take from the guest the CPU that it computes with. */
static void a_busy_guest_without_traffic_lets_the_dataplane_sleep(void **state)
{
	struct stand s;
	start(&s, SCRIPT_SPIN);
	assert_true(ft_ring_sleep(&s.link.tx));
	uint64_t began = instructions(&s);
	while (instructions(&s) < began + 20000000)
		;
	struct pollfd fd = {.fd = s.link.wake_own, .events = POLLIN};
	assert_int_equal(poll(&fd, 1, 0), 0);
	stand_end(&s);
}

static void a_forbidden_system_call_kills_this_vmm_and_no_other(void **state)
{
	struct stand good, bad;
	start(&good, SCRIPT_IDLE);
	start(&bad, SCRIPT_SOCKET);
	int status = ended(&bad);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
	assert_true(linked(&good));
	stand_end(&good);
	assert_int_equal(WEXITSTATUS(good.status), FT_LIVE_STOPPED);
}

static pid_t child_of(pid_t parent)
{
	char path[64], line[64] = "";
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
	for (int tries = 0; tries < STAND_PATIENCE_MS / 10; tries++) {
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

static void a_killed_vmm_leaves_no_process(void **state)
{
	struct stand s;
	struct stand_frame frame = {.length = 60};
	start(&s, SCRIPT_SPIN);
	struct ft_trial_begin begin = stand_budgets(5);
	struct ft_trial_flow flow = {.frames = 1, .protocol = 17};
	begin.handling_instructions = begin.horizon_instructions = UINT64_MAX;
	stand_ask(&s, &begin, &flow, 1, &frame);
	pid_t seed = child_of(s.pid), clone = child_of(seed);
	struct pollfd fds[2] = {{.fd = (int)syscall(SYS_pidfd_open, seed, 0), .events = POLLIN},
				{.fd = (int)syscall(SYS_pidfd_open, clone, 0), .events = POLLIN}};
	assert_true(fds[0].fd >= 0 && fds[1].fd >= 0);
	kill(s.pid, SIGKILL);
	assert_true(WIFSIGNALED(ended(&s)));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(poll(&fds[i], 1, STAND_PATIENCE_MS), 1);
		close(fds[i].fd);
	}
}

static void nonsense_of_the_supervisor_is_survived(void **state)
{
	struct stand s;
	start(&s, SCRIPT_IDLE);
	json_t *message = json_pack("{s:s}", "op", "link");
	assert_int_equal(ft_channel_send(s.channel, message, NULL, 0), 0);
	json_decref(message);
	message = json_pack("{s:i}", "op", 5);
	assert_int_equal(ft_channel_send(s.channel, message, NULL, 0), 0);
	json_decref(message);
	int fds[FT_LINK_FDS] = {1, 1, 1, 1};
	message = json_pack("{s:s}", "op", "link");
	assert_int_equal(ft_channel_send(s.channel, message, fds, FT_LINK_FDS), 0);
	json_decref(message);
	assert_false(linked(&s));
	stand_link(&s);
	assert_true(linked(&s));
	stand_end(&s);
}

int main(void)
{
	if (sodium_init() < 0)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_ends_when_its_supervisor_is_gone),
	    cmocka_unit_test(the_exit_status_says_what_the_guest_did),
	    cmocka_unit_test(garbage_in_a_ring_costs_the_link_and_not_the_guest),
	    cmocka_unit_test(records_that_are_no_frames_or_commands_cost_the_link),
	    cmocka_unit_test(a_trial_is_run_over_the_link),
	    cmocka_unit_test(a_busy_guest_without_traffic_lets_the_dataplane_sleep),
	    cmocka_unit_test(a_forbidden_system_call_kills_this_vmm_and_no_other),
	    cmocka_unit_test(a_killed_vmm_leaves_no_process),
	    cmocka_unit_test(nonsense_of_the_supervisor_is_survived),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
