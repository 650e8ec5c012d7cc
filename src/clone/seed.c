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

#include "vmm/dev/devices.h"

struct run {
	pid_t pid; /* 0: none */
	int pidfd;
	bool late; /* we killed it for its wall-clock budget */
	uint64_t deadline_ns;
};

struct seed {
	const struct ft_seed_plan *plan;
	struct run run;
	enum ft_event_role role; /* of the run, or of the last one */
	unsigned runs;           /* so far */
	struct ft_seed_order next; /* waits until the run has gone; kind 0: none */
	struct ft_seed_order keep; /* so does this, with its file; kind 0: it has not come */
	int file;
	uint64_t idle_since_ns;
};

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Tells the end of a run that could not tell it itself. */
static void tell_end(const struct seed *s, enum ft_trial_end end, const char *detail)
{
	struct ft_report report;
	ft_report_begin(&report, s->plan->events, s->role, s->plan->request->begin.trial);
	struct ft_event event = {.type = FT_EVENT_TRIAL_END,
				 .pid = -1,
				 .icount = s->plan->witness->m->icount,
				 .vtime_ns = ft_machine_vtime(s->plan->witness->m),
				 .a = {(uint64_t)end}};
	ft_report_send(&report, &event, detail, NULL);
}

static int run_in_child(const struct seed *s, uint32_t flows, pid_t parent, uint64_t until_vtime_ns, uint64_t began_ns)
{
	const struct ft_seed_plan *p = s->plan;
	int keep[FT_HYGIENE_KEEP] = {p->events, p->disk, p->overlay, p->kvm, -1};
	struct ft_error err = {0};
	if (ft_hygiene_leave(parent, keep, FT_HYGIENE_KEEP))
		return 2;
	if (ft_machine_take_over(p->witness->m, &err)) {
		tell_end(s, FT_TRIAL_END_ERROR, err.text);
		return 0;
	}
	if (p->kvm >= 0)
		close(p->kvm);
	if (ft_confine_install(&p->hygiene->trial))
		return 2;
	struct ft_trial_plan plan = {.request = p->request,
				     .outside = p->outside,
				     .flows = flows,
				     .until_vtime_ns = until_vtime_ns,
				     .events = p->events,
				     .began_ns = began_ns};
	struct ft_trial_result result;
	return ft_trial_run(p->witness, &plan, &result) ? 3 : 0;
}

static void start(struct seed *s, uint32_t flows, uint64_t until_vtime_ns)
{
	struct run *run = &s->run;
	bool first = !s->runs++;
	s->role = flows ? FT_ROLE_TRIAL : FT_ROLE_TWIN;
	uint64_t wall = s->plan->request->begin.wall_ns;
	uint64_t began_ns = monotonic_ns();
	pid_t self = getpid();
	pid_t pid = fork();
	if (pid == 0)
		_exit(run_in_child(s, flows, self, until_vtime_ns, first ? s->plan->began_ns : began_ns));
	int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (pidfd < 0) {
		const char *why = strerror(errno);
		if (pid > 0) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		tell_end(s, FT_TRIAL_END_ERROR, why);
		return;
	}
	*run = (struct run){.pid = pid, .pidfd = pidfd};
	run->deadline_ns =
	    monotonic_ns() + (wall < FT_SEED_WALL_MAX_NS ? wall : FT_SEED_WALL_MAX_NS) + FT_SEED_GRACE_NS;
}

static void reap(struct seed *s)
{
	struct run *run = &s->run;
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
	tell_end(s, late ? FT_TRIAL_END_WALL : FT_TRIAL_END_KILLED, detail);
}

static void stop(struct seed *s)
{
	if (s->run.pid) {
		kill(s->run.pid, SIGKILL);
		waitpid(s->run.pid, NULL, 0);
	}
}

/* It becomes a file. Nothing runs, and nothing will. */
static void become_file(struct seed *s)
{
	struct ft_seed_kept kept = {0};
	uint64_t began = monotonic_ns();
	s->plan->keep(s->plan->context, s->plan, &s->keep, s->file, &kept);
	kept.took_ns = monotonic_ns() - began;
	close(s->file);
	send(s->plan->control, &kept, sizeof(kept), MSG_NOSIGNAL);
}

enum orders { GO_ON, NO_MORE, SENSELESS };

/* A run tells its end before its process is gone, so the next order may already be here: one waits. */
static enum orders take_order(struct seed *s)
{
	struct ft_seed_order order;
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} with;
	struct iovec part = {.iov_base = &order, .iov_len = sizeof(order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &with, .msg_controllen = sizeof(with)};
	ssize_t n = recvmsg(s->plan->control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *header = n < 0 ? NULL : CMSG_FIRSTHDR(&message);
	int file = -1;
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof(file)))
		memcpy(&file, CMSG_DATA(header), sizeof(file));
	if (n == sizeof(order) && order.kind == FT_SEED_KEEP && file >= 0 && s->plan->keep && !s->next.kind && !s->keep.kind) {
		s->keep = order;
		s->file = file;
		return GO_ON;
	}
	if (file >= 0)
		close(file);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? GO_ON : NO_MORE;
	if (n == 0 || (n == sizeof(order) && order.kind == FT_SEED_FINISH))
		return NO_MORE;
	if (n != sizeof(order) || order.kind != FT_SEED_RUN || order.flows > s->plan->request->flow_count ||
	    s->next.kind || s->keep.kind || s->runs == FT_SEED_RUNS)
		return SENSELESS;
	s->next = order;
	return GO_ON;
}

static void start_next(struct seed *s)
{
	struct ft_seed_order order = s->next;
	if (s->run.pid || !order.kind)
		return;
	s->next.kind = 0;
	s->idle_since_ns = monotonic_ns();
	start(s, order.flows, order.until_vtime_ns);
}

/* Kills what is too late; milliseconds until the next thing to do. -1: the seed has idled away. */
static int look_at_the_clock(struct seed *s)
{
	uint64_t now = monotonic_ns(), next = s->idle_since_ns + FT_SEED_IDLE_NS;
	struct run *run = &s->run;
	if (run->pid) {
		if (now >= run->deadline_ns && !run->late) {
			run->late = true;
			kill(run->pid, SIGKILL);
		}
		next = run->late ? now + 1000000000u : run->deadline_ns;
	} else if (now >= next) {
		return -1;
	}
	return (int)((next - now) / 1000000 + 1);
}

int ft_seed_run(const struct ft_seed_plan *plan)
{
	int keep[FT_HYGIENE_KEEP] = {plan->events, plan->control, plan->disk, plan->overlay, plan->kvm};
	if (ft_hygiene_seed(plan->hygiene, plan->parent, keep, FT_HYGIENE_KEEP))
		return 2;
	/* Of an engine that is this process's own memory all runs have a copy. */
	struct ft_error err = {0};
	if (plan->kvm < 0 && ft_machine_take_over(plan->witness->m, &err))
		return 2;
	ft_witness_meet(plan->witness);
	struct ft_devices *devices = plan->witness->m->devices;
	if (devices && devices->has_disk)
		ft_disk_seal(&devices->blk.disk);
	struct seed s = {.plan = plan, .idle_since_ns = monotonic_ns()};
	start(&s, plan->request->flow_count, 0);
	enum orders orders = GO_ON;
	while (orders == GO_ON) {
		int timeout = look_at_the_clock(&s);
		if (timeout < 0)
			break;
		struct pollfd fds[2] = {{.fd = plan->control, .events = POLLIN},
					{.fd = s.run.pid ? s.run.pidfd : -1, .events = POLLIN}};
		if (poll(fds, 2, timeout) < 0 && errno != EINTR)
			break;
		reap(&s);
		if (fds[0].revents)
			orders = take_order(&s);
		start_next(&s);
		if (s.keep.kind && !s.run.pid && orders == GO_ON) {
			become_file(&s);
			break;
		}
	}
	stop(&s);
	return orders == SENSELESS ? FT_SEED_SENSELESS : 0;
}
