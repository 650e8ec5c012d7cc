#include "clone/slots.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int ft_slots_open(struct ft_slots *slots, const struct ft_slots_config *config, struct ft_error *err)
{
	memset(slots, 0, sizeof(*slots));
	slots->config = *config;
	slots->events = -1;
	if (slots->config.max > FT_SLOTS_MAX)
		slots->config.max = FT_SLOTS_MAX;
	return ft_hygiene_prepare(&slots->hygiene, config->kvm >= 0 ? config->witness->m->vcpus : 0, err);
}

/* ---- Answers -------------------------------------------------------------------------------------------------- */

bool ft_slots_room(const struct ft_slots *slots)
{
	/* Each seed that runs, and each request that is ready, still has answers to come. */
	return slots->answer_count + slots->running + FT_REQUESTS + 2 < FT_SLOTS_ANSWERS;
}

static void flush_answers(struct ft_slots *slots)
{
	while (slots->answer_count && slots->events >= 0) {
		struct ft_slots_answer *a = &slots->answers[slots->first_answer];
		struct ft_report report;
		ft_report_begin(&report, slots->events, FT_ROLE_SEED, a->event.trial);
		report.wait = false;
		/* A seed's writer is a short one: READY is its first record, GONE its second. */
		report.sequence = a->event.type == FT_EVENT_SEED_GONE;
		ft_report_send(&report, &a->event, a->detail, NULL);
		if (report.lost && !report.dead)
			return;
		slots->first_answer = (slots->first_answer + 1) % FT_SLOTS_ANSWERS;
		slots->answer_count--;
	}
}

static struct ft_event *answer(struct ft_slots *slots, uint64_t trial, enum ft_event_type type, uint64_t value,
			       const char *detail)
{
	if (slots->events < 0 || slots->answer_count == FT_SLOTS_ANSWERS)
		return NULL;
	const struct ft_machine *m = slots->config.witness->m;
	struct ft_slots_answer *a =
	    &slots->answers[(slots->first_answer + slots->answer_count++) % FT_SLOTS_ANSWERS];
	a->event = (struct ft_event){.type = (uint16_t)type,
				     .trial = trial,
				     .icount = m->icount,
				     .pid = -1,
				     .vtime_ns = ft_machine_vtime(m),
				     .a = {value}};
	snprintf(a->detail, sizeof(a->detail), "%s", detail);
	return &a->event;
}

static void refuse(struct ft_slots *slots, uint64_t trial, enum ft_seed_gone code, const char *detail)
{
	slots->refused++;
	answer(slots, trial, FT_EVENT_SEED_GONE, code, detail);
}

/* ---- Seeds ---------------------------------------------------------------------------------------------------- */

static struct ft_slot *find_slot(struct ft_slots *slots, uint64_t trial)
{
	for (unsigned i = 0; i < FT_SLOTS_ALL; i++)
		if (slots->slots[i].pid && slots->slots[i].trial == trial)
			return &slots->slots[i];
	return NULL;
}

static struct ft_slot *free_slot(struct ft_slots *slots)
{
	for (unsigned i = 0; i < slots->config.max; i++)
		if (!slots->slots[i].pid)
			return &slots->slots[i];
	return NULL;
}

static int seed(struct ft_slots *slots, const struct ft_request *request, int control, pid_t parent,
		uint64_t began_ns)
{
	if (slots->config.prepare && slots->config.prepare(slots->config.context))
		return 2;
	struct ft_seed_plan plan = {.witness = slots->config.witness,
				    .request = request,
				    .outside = &slots->config.outside,
				    .hygiene = &slots->hygiene,
				    .events = slots->events,
				    .control = control,
				    .disk = slots->config.disk,
				    .overlay = slots->config.overlay,
				    .kvm = slots->config.kvm,
				    .number = slots->numbered,
				    .keep = slots->config.write,
				    .context = slots->config.context,
				    .parent = parent,
				    .began_ns = began_ns};
	return ft_seed_run(&plan);
}

static void fork_seed(struct ft_slots *slots, const struct ft_request *request)
{
	uint64_t trial = request->begin.trial, began = monotonic_ns();
	struct ft_slot *slot = free_slot(slots);
	int pair[2];
	if (!slot) {
		refuse(slots, trial, FT_SEED_BUSY, "all clone slots are taken");
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
		refuse(slots, trial, FT_SEED_FAILED, strerror(errno));
		return;
	}
	uint32_t run = slots->config.note ? slots->config.note(slots->config.context, request, slots->numbered + 1) : 0;
	slots->numbered++;
	struct ft_machine *m = slots->config.witness->m;
	m->engine_ops->before_fork(m->engine);
	if (m->error.code) {
		close(pair[0]);
		close(pair[1]);
		refuse(slots, trial, FT_SEED_FAILED, m->error.text);
		return;
	}
	pid_t self = getpid(), pid = fork();
	if (pid == 0)
		_exit(seed(slots, request, pair[1], self, began));
	int error = errno;
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		refuse(slots, trial, FT_SEED_FAILED, strerror(error));
		return;
	}
	m->engine_ops->share(m->engine);
	slots->running++;
	slots->forked++;
	*slot = (struct ft_slot){.pid = pid, .control = pair[0], .trial = trial, .number = 2 * slots->forked, .seed = slots->numbered, .run = run};
	slots->last_pause_ns = monotonic_ns() - began;
	ft_histogram_note(&slots->pauses, FT_HISTOGRAM_PAUSE, slots->last_pause_ns);
	struct ft_event *ready = answer(slots, trial, FT_EVENT_SEED_READY, slots->last_pause_ns, "");
	if (ready) {
		ready->a[1] = m->icount;
		ready->a[2] = run;
		ready->a[3] = slots->numbered;
	}
}

static void order(const struct ft_slot *slot, uint32_t kind, uint32_t flows, uint64_t until_vtime_ns)
{
	struct ft_seed_order message = {.kind = kind, .flows = flows, .until_vtime_ns = until_vtime_ns};
	/* A seed that takes no orders has idled away or hangs: both end with its death. */
	if (send(slot->control, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(message))
		kill(slot->pid, SIGKILL);
}

/* What it said before it went. */
static void end_keeping(struct ft_slots *slots, const struct ft_slot *slot)
{
	struct ft_seed_kept kept;
	ssize_t n = recv(slot->control, &kept, sizeof(kept), MSG_DONTWAIT);
	kept.text[sizeof(kept.text) - 1] = 0;
	slots->config.kept(slots->config.context, slot->seed, n == sizeof(kept) ? &kept : NULL);
}

static void bury(struct ft_slots *slots, struct ft_slot *slot, int status)
{
	char detail[96] = "";
	enum ft_seed_gone code = FT_SEED_FINISHED;
	if (slot->stopped) {
		code = WIFEXITED(status) ? FT_SEED_FINISHED : FT_SEED_STOPPED;
	} else if (WIFSIGNALED(status)) {
		code = FT_SEED_DIED;
		snprintf(detail, sizeof(detail), "killed by signal %d", WTERMSIG(status));
	} else if (WEXITSTATUS(status) == FT_SEED_SENSELESS) {
		code = FT_SEED_REFUSED;
		snprintf(detail, sizeof(detail), "an order made no sense");
	} else if (WEXITSTATUS(status)) {
		code = FT_SEED_DIED;
		snprintf(detail, sizeof(detail), "ended with status %d", WEXITSTATUS(status));
	}
	if (slot == &slots->slots[FT_SLOTS_MAX])
		end_keeping(slots, slot);
	slots->died += code == FT_SEED_DIED;
	slots->finished += code != FT_SEED_DIED;
	close(slot->control);
	if (!slot->answered)
		answer(slots, slot->trial, FT_EVENT_SEED_GONE, code, detail);
	*slot = (struct ft_slot){0};
	slots->running--;
}

static void reap(struct ft_slots *slots)
{
	for (unsigned i = 0; slots->running && i < FT_SLOTS_ALL; i++) {
		int status;
		if (slots->slots[i].pid &&
		    waitpid(slots->slots[i].pid, &status, WNOHANG) == slots->slots[i].pid)
			bury(slots, &slots->slots[i], status);
	}
}

static void kill_all(struct ft_slots *slots)
{
	for (unsigned i = 0; i < FT_SLOTS_ALL; i++) {
		struct ft_slot *slot = &slots->slots[i];
		if (!slot->pid)
			continue;
		int status = 0;
		slot->stopped = true;
		/* Its trials die with it: PR_SET_PDEATHSIG. */
		kill(slot->pid, SIGKILL);
		while (waitpid(slot->pid, &status, 0) < 0 && errno == EINTR)
			;
		bury(slots, slot, status);
	}
}

/* ---- Requests ------------------------------------------------------------------------------------------------- */

static void make_ready(struct ft_slots *slots, struct ft_request *request)
{
	uint64_t wall = request->begin.wall_ns;
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		if (!slots->ready[i].request) {
			slots->ready[i].request = request;
			slots->ready[i].deadline_ns =
			    monotonic_ns() + (wall < FT_SEED_WALL_MAX_NS ? wall : FT_SEED_WALL_MAX_NS);
			return;
		}
}

static void finish(struct ft_slots *slots, uint64_t trial)
{
	struct ft_slot *slot = find_slot(slots, trial);
	if (slot == &slots->slots[FT_SLOTS_MAX]) {
		/* The trial is over; that it is still there is nobody's clone. */
		if (!slot->answered)
			answer(slots, trial, FT_EVENT_SEED_GONE, FT_SEED_FINISHED, "");
		slot->answered = true;
		return;
	}
	if (slot) {
		slot->stopped = true;
		order(slot, FT_SEED_FINISH, 0, 0);
		return;
	}
	for (unsigned i = 0; i < FT_REQUESTS; i++) {
		struct ft_request *r = &slots->requests.entries[i];
		if (!r->used || r->begin.trial != trial)
			continue;
		for (unsigned j = 0; j < FT_REQUESTS; j++)
			if (slots->ready[j].request == r)
				slots->ready[j].request = NULL;
		ft_request_drop(r);
		answer(slots, trial, FT_EVENT_SEED_GONE, FT_SEED_FINISHED, "");
	}
}

/* One at a time. It leaves its place among the clones. */
static int take_keep(struct ft_slots *slots, const void *data, size_t length)
{
	struct ft_trial_keep keep;
	struct ft_slot *last = &slots->slots[FT_SLOTS_MAX];
	if (length != sizeof(keep))
		return -EPROTO;
	memcpy(&keep, data, sizeof(keep));
	struct ft_slot *slot = find_slot(slots, keep.trial);
	if (!slot || slot->stopped || last->pid || !slots->config.keep || slots->config.keep(slots->config.context, slot->seed, keep.hold))
		return 0;
	*last = *slot;
	*slot = (struct ft_slot){0};
	return 0;
}

static struct ft_slot *kept_slot(struct ft_slots *slots, uint64_t number)
{
	struct ft_slot *last = &slots->slots[FT_SLOTS_MAX];
	return last->pid && last->seed == number && !last->stopped ? last : NULL;
}

void ft_slots_keep(struct ft_slots *slots, uint64_t number, struct ft_seed_order *order, int file)
{
	struct ft_slot *slot = kept_slot(slots, number);
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} with = {.room = {0}};
	struct iovec part = {.iov_base = order, .iov_len = sizeof(*order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &with, .msg_controllen = sizeof(with)};
	with.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(file))};
	memcpy(CMSG_DATA(&with.header), &file, sizeof(file));
	order->kind = FT_SEED_KEEP;
	if (slot && sendmsg(slot->control, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(*order))
		kill(slot->pid, SIGKILL);
	if (slot)
		slot->stopped = true;
	close(file);
}

void ft_slots_no_keep(struct ft_slots *slots, uint64_t number)
{
	struct ft_slot *slot = kept_slot(slots, number);
	if (!slot)
		return;
	slot->stopped = true;
	order(slot, FT_SEED_FINISH, 0, 0);
}

int ft_slots_command(struct ft_slots *slots, uint32_t kind, const void *data, size_t length)
{
	struct ft_request *request = NULL;
	struct ft_trial_run run;
	uint64_t trial = 0;
	if (kind == FT_TRIAL_KEEP)
		return take_keep(slots, data, length);
	switch (ft_request_take(&slots->requests, kind, data, length, &request, &run, &trial)) {
	case FT_REQUEST_NONE:
		return 0;
	case FT_REQUEST_READY:
		if (find_slot(slots, request->begin.trial)) {
			ft_request_drop(request);
			refuse(slots, trial, FT_SEED_REFUSED, "this request has a seed already");
		} else if (!free_slot(slots)) {
			ft_request_drop(request);
			refuse(slots, trial, FT_SEED_BUSY, "all clone slots are taken");
		} else {
			make_ready(slots, request);
		}
		return 0;
	case FT_REQUEST_BAD:
		refuse(slots, trial, FT_SEED_REFUSED, "the request contradicts itself");
		return 0;
	case FT_REQUEST_FULL:
		refuse(slots, trial, FT_SEED_BUSY, "too many requests at a time");
		return 0;
	case FT_REQUEST_RUN: {
		struct ft_slot *slot = find_slot(slots, trial);
		if (slot)
			order(slot, FT_SEED_RUN, run.flows, run.until_vtime_ns);
		return 0;
	}
	case FT_REQUEST_FINISH:
		finish(slots, trial);
		return 0;
	case FT_REQUEST_UNKNOWN:
		break;
	}
	return -EPROTO;
}

void ft_slots_work(struct ft_slots *slots, uint64_t rx_index, bool *fork_pending)
{
	*fork_pending = false;
	for (unsigned i = 0; i < FT_REQUESTS; i++) {
		struct ft_request *r = slots->ready[i].request;
		if (!r)
			continue;
		if (r->begin.rx_index > rx_index) {
			if (monotonic_ns() < slots->ready[i].deadline_ns) {
				*fork_pending = true;
				continue;
			}
			refuse(slots, r->begin.trial, FT_SEED_REFUSED,
			       "frames that were to come before never came");
		} else {
			fork_seed(slots, r);
		}
		slots->ready[i].request = NULL;
		ft_request_drop(r);
	}
	if (slots->running)
		reap(slots);
	flush_answers(slots);
}

uint64_t ft_slots_fork_at(const struct ft_slots *slots)
{
	uint64_t lowest = UINT64_MAX;
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		if (slots->ready[i].request && slots->ready[i].request->begin.rx_index < lowest)
			lowest = slots->ready[i].request->begin.rx_index;
	return lowest;
}

uint64_t ft_slots_oldest(const struct ft_slots *slots)
{
	uint64_t oldest = UINT64_MAX;
	for (unsigned i = 0; i < FT_SLOTS_ALL; i++)
		if (slots->slots[i].pid && slots->slots[i].number < oldest)
			oldest = slots->slots[i].number;
	return oldest;
}

unsigned ft_slots_poll(const struct ft_slots *slots, struct pollfd *fds)
{
	unsigned n = 0;
	for (unsigned i = 0; i < FT_SLOTS_ALL; i++)
		if (slots->slots[i].pid)
			fds[n++] = (struct pollfd){.fd = slots->slots[i].control, .events = POLLIN};
	return n;
}

void ft_slots_attach(struct ft_slots *slots, int events)
{
	kill_all(slots);
	memset(slots->ready, 0, sizeof(slots->ready));
	ft_requests_clear(&slots->requests);
	slots->first_answer = slots->answer_count = 0;
	slots->events = events;
}

void ft_slots_close(struct ft_slots *slots)
{
	kill_all(slots);
	flush_answers(slots);
	ft_requests_clear(&slots->requests);
	ft_hygiene_free(&slots->hygiene);
}
