#include "clone/seed.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct run {
	pid_t pid; /* 0: none */
	int pidfd;
	bool late; /* we killed it for its wall-clock budget */
	uint64_t deadline_ns;
};

struct seed {
	const struct ft_seed_plan *plan;
	struct run runs[2]; /* trial, twin */
	bool twin_made;
	uint64_t idle_since_ns;
};

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static enum ft_event_role role_of(unsigned index)
{
	return index ? FT_ROLE_TWIN : FT_ROLE_TRIAL;
}

/* Tells the end of a run that could not tell it itself. */
static void tell_end(const struct seed *s, unsigned index, enum ft_trial_end end, const char *detail)
{
	struct ft_report report;
	ft_report_begin(&report, s->plan->events, role_of(index), s->plan->request->begin.hold);
	struct ft_event event = {.type = FT_EVENT_TRIAL_END,
				 .pid = -1,
				 .icount = s->plan->witness->m->icount,
				 .vtime_ns = ft_machine_vtime(s->plan->witness->m),
				 .a = {(uint64_t)end}};
	ft_report_send(&report, &event, detail, NULL);
}

static int run_in_child(const struct seed *s, unsigned index, pid_t parent, uint64_t until_vtime_ns,
			uint64_t began_ns)
{
	const struct ft_seed_plan *p = s->plan;
	int keep[FT_HYGIENE_KEEP] = {p->events, p->disk, -1, -1};
	if (ft_hygiene_trial(p->hygiene, parent, keep, FT_HYGIENE_KEEP))
		return 2;
	struct ft_trial_plan plan = {.request = p->request,
				     .outside = p->outside,
				     .role = role_of(index),
				     .until_vtime_ns = until_vtime_ns,
				     .events = p->events,
				     .began_ns = began_ns};
	struct ft_trial_result result;
	return ft_trial_run(p->witness, &plan, &result) ? 3 : 0;
}

static void start(struct seed *s, unsigned index, uint64_t until_vtime_ns)
{
	struct run *run = &s->runs[index];
	uint64_t wall = s->plan->request->begin.wall_ns;
	uint64_t began_ns = monotonic_ns();
	pid_t self = getpid();
	pid_t pid = fork();
	if (pid == 0)
		_exit(run_in_child(s, index, self, until_vtime_ns, index ? began_ns : s->plan->began_ns));
	int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (pidfd < 0) {
		const char *why = strerror(errno);
		if (pid > 0) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		tell_end(s, index, FT_TRIAL_END_ERROR, why);
		return;
	}
	*run = (struct run){.pid = pid, .pidfd = pidfd};
	run->deadline_ns =
	    monotonic_ns() + (wall < FT_SEED_WALL_MAX_NS ? wall : FT_SEED_WALL_MAX_NS) + FT_SEED_GRACE_NS;
}

static void reap(struct seed *s, unsigned index)
{
	struct run *run = &s->runs[index];
	int status;
	if (!run->pid || waitpid(run->pid, &status, WNOHANG) != run->pid)
		return;
	close(run->pidfd);
	bool late = run->late;
	*run = (struct run){0};
	s->idle_since_ns = monotonic_ns();
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	char detail[64];
	if (late)
		snprintf(detail, sizeof(detail), "killed at its wall-clock budget");
	else if (WIFSIGNALED(status))
		snprintf(detail, sizeof(detail),
			 WTERMSIG(status) == SIGSYS ? "made a forbidden system call" : "killed by signal %d",
			 WTERMSIG(status));
	else
		snprintf(detail, sizeof(detail), "ended with status %d", WEXITSTATUS(status));
	tell_end(s, index, late ? FT_TRIAL_END_WALL : FT_TRIAL_END_KILLED, detail);
}

static void stop(struct seed *s)
{
	for (unsigned i = 0; i < 2; i++)
		if (s->runs[i].pid) {
			kill(s->runs[i].pid, SIGKILL);
			waitpid(s->runs[i].pid, NULL, 0);
		}
}

/* False: no more is wanted of us. */
static bool take_order(struct seed *s)
{
	struct ft_seed_order order;
	ssize_t n = recv(s->plan->control, &order, sizeof(order), MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n != sizeof(order) || order.kind != FT_SEED_TWIN)
		return false;
	s->idle_since_ns = monotonic_ns();
	if (!s->twin_made)
		start(s, 1, order.until_vtime_ns);
	s->twin_made = true;
	return true;
}

/* Kills what is too late; milliseconds until the next thing to do. -1: the seed has idled away. */
static int look_at_the_clock(struct seed *s)
{
	uint64_t now = monotonic_ns(), next = UINT64_MAX;
	for (unsigned i = 0; i < 2; i++) {
		struct run *run = &s->runs[i];
		if (!run->pid)
			continue;
		if (now >= run->deadline_ns && !run->late) {
			run->late = true;
			kill(run->pid, SIGKILL);
		}
		if (!run->late && run->deadline_ns < next)
			next = run->deadline_ns;
	}
	bool idle = !s->runs[0].pid && !s->runs[1].pid;
	if (idle && now - s->idle_since_ns >= FT_SEED_IDLE_NS)
		return -1;
	if (idle)
		next = s->idle_since_ns + FT_SEED_IDLE_NS;
	return next == UINT64_MAX ? 1000 : (int)((next - now) / 1000000 + 1);
}

int ft_seed_run(const struct ft_seed_plan *plan)
{
	int keep[FT_HYGIENE_KEEP] = {plan->events, plan->control, plan->disk, -1};
	if (ft_hygiene_seed(plan->hygiene, plan->parent, keep, FT_HYGIENE_KEEP))
		return 2;
	struct seed s = {.plan = plan, .idle_since_ns = monotonic_ns()};
	start(&s, 0, 0);
	for (;;) {
		int timeout = look_at_the_clock(&s);
		if (timeout < 0)
			break;
		struct pollfd fds[3] = {{.fd = plan->control, .events = POLLIN}};
		for (unsigned i = 0; i < 2; i++)
			fds[i + 1] =
			    (struct pollfd){.fd = s.runs[i].pid ? s.runs[i].pidfd : -1, .events = POLLIN};
		if (poll(fds, 3, timeout) < 0 && errno != EINTR)
			break;
		reap(&s, 0);
		reap(&s, 1);
		if (fds[0].revents && !take_order(&s))
			break;
	}
	stop(&s);
	return 0;
}
