#include "replay/retrial.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/dev/devices.h"

#define LOOK_MS 200 /* between two looks whether the seed lives */

int ft_retrial_open(struct ft_retrial *r, struct ft_error *err)
{
	*r = (struct ft_retrial){.events = {-1, -1}, .control = {-1, -1}};
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, r->events) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, r->control))
		return ft_error_set(err, -errno, "a clone cannot be talked to: %s", strerror(errno));
	return ft_hygiene_prepare(&r->hygiene, 0, err);
}

void ft_retrial_close(struct ft_retrial *r)
{
	for (int i = 0; i < 2; i++) {
		if (r->events[i] >= 0)
			close(r->events[i]);
		if (r->control[i] >= 0)
			close(r->control[i]);
	}
	ft_hygiene_free(&r->hygiene);
	*r = (struct ft_retrial){.events = {-1, -1}, .control = {-1, -1}};
}

static int be_seed(const struct ft_retrial *r, const struct ft_retrial_plan *plan, const struct ft_request *request, pid_t parent)
{
	struct ft_machine *m = plan->witness->m;
	bool disk = m->devices->has_disk;
	struct ft_seed_plan seed = {.witness = plan->witness,
				    .request = request,
				    .outside = plan->outside,
				    .hygiene = &r->hygiene,
				    .events = r->events[1],
				    .control = r->control[1],
				    .disk = disk ? m->devices->blk.disk.fd : -1,
				    .overlay = disk ? m->devices->blk.disk.read_fd : -1,
				    .kvm = -1,
				    .parent = parent};
	return ft_seed_run(&seed);
}

/* What the vmm says of each seed. */
static void say_ready(struct ft_case *c, const struct ft_retrial_plan *plan)
{
	static const char *const none[FT_EVENT_STRINGS] = {"", ""};
	const struct ft_machine *m = plan->witness->m;
	struct ft_event ready = {.type = FT_EVENT_SEED_READY,
				 .role = FT_ROLE_SEED,
				 .trial = plan->request->begin.trial,
				 .icount = m->icount,
				 .vtime_ns = ft_machine_vtime(m),
				 .pid = -1,
				 .a = {0, plan->seed.icount, plan->seed.run, plan->seed.number}};
	ft_case_add(c, &ready, none);
}

/* Events that are here. False: none was. */
static bool hear(const struct ft_retrial *r, struct ft_case *c)
{
	uint8_t message[FT_EVENTS_MAX];
	const char *strings[FT_EVENT_STRINGS];
	struct ft_event event;
	ssize_t n = recv(r->events[0], message, sizeof(message), MSG_DONTWAIT);
	if (n <= 0)
		return false;
	for (size_t at = 0, length; at < (size_t)n; at += length) {
		length = ft_event_first(message + at, (size_t)n - at);
		if (!ft_event_check(message + at, length, &event, strings))
			ft_case_add(c, &event, strings);
	}
	return true;
}

static void say(const struct ft_retrial *r, uint32_t kind, uint64_t until_vtime_ns)
{
	struct ft_seed_order order = {.kind = kind, .until_vtime_ns = until_vtime_ns};
	/* One that cannot hear is dead, which is seen. */
	if (send(r->control[0], &order, sizeof(order), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

static void judge(const struct ft_retrial *r, struct ft_case *c, pid_t seed)
{
	bool gone = false;
	for (;;) {
		enum ft_case_step step = ft_case_step(c);
		if (step == FT_CASE_JUDGED)
			break;
		if (step == FT_CASE_TWIN)
			say(r, FT_SEED_RUN, ft_case_until(c));
		if (hear(r, c))
			continue;
		if (gone)
			ft_case_abandon(c, FT_TRIAL_END_KILLED, "its seed ended early");
		struct pollfd fd = {.fd = r->events[0], .events = POLLIN};
		poll(&fd, 1, LOOK_MS);
		/* What it said before it went is looked at first. */
		gone = gone || waitpid(seed, NULL, WNOHANG) == seed;
	}
	say(r, FT_SEED_FINISH, 0);
	while (!gone && waitpid(seed, NULL, 0) < 0 && errno == EINTR)
		;
	/* Nothing of this one is left for the next. */
	uint8_t rest[FT_EVENTS_MAX];
	while (recv(r->events[0], rest, sizeof(rest), MSG_DONTWAIT) > 0 || recv(r->control[1], rest, sizeof(rest), MSG_DONTWAIT) > 0)
		;
}

int ft_retrial_run(struct ft_retrial *r, const struct ft_retrial_plan *plan, struct ft_case **out, struct ft_error *err)
{
	/* The host's time decides nothing here. */
	struct ft_request request = *plan->request;
	request.begin.wall_ns = FT_SEED_WALL_MAX_NS;
	*out = ft_case_new(request.begin.trial, plan->rules, plan->profile);
	if (!*out)
		return ft_error_set(err, -ENOMEM, "no memory for a trial");
	pid_t self = getpid(), seed = fork();
	if (seed == 0)
		_exit(be_seed(r, plan, &request, self));
	if (seed < 0) {
		ft_case_free(*out);
		return ft_error_set(err, -errno, "a clone cannot be forked: %s", strerror(errno));
	}
	say_ready(*out, plan);
	judge(r, *out, seed);
	return 0;
}
