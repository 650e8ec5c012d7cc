#include "gateway/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/link.h"
#include "base/printable.h"
#include "gateway/answer.h"
#include "gateway/operate.h"
#include "gateway/reload.h"
#include "gateway/suppress.h"
#include "gateway/files.h"
#include "gateway/guest.h"

#define SECOND 1000000000ull

/* A start compiles rules and sets up DPDK; on a busy small machine that has taken 10 s. */
#define READY_TIMEOUT (60 * SECOND)
#define STOP_TIMEOUT  (5 * SECOND)
#define BACKOFF_FIRST (SECOND / 5) /* of the ledger and the dataplane; a guest has its own */
#define BACKOFF_MOST  (10 * SECOND)
#define STABLE        (30 * SECOND) /* a child that ran this long starts with a clean record */

#define GUEST_POWEROFF 11 /* exit status of a vmm */

#define RECORD_BUFFER (4 << 20) /* bytes of records that may wait for a ledger */

static void child_message(void *context, uint32_t events);
static void child_output(void *context, uint32_t events);

static void say(const char *level, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(const char *level, const char *format, ...)
{
	char text[1024], clean[1100];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fprintf(stderr, "foretasted: %s%s%s\n", level, *level ? ": " : "",
		ft_printable(clean, sizeof(clean), text, strlen(text)));
}

/* ---- Records of our own for the feed ------------------------------------------------------------------------- */

void ft_supervisor_record(struct ft_supervisor *s, const char *type, const char *guest, const char *process,
			  const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	json_t *event = json_pack("{s:s, s:s, s:s, s:I}", "op", "event", "type", type, "text", text, "ns",
				  (json_int_t)now.tv_sec * 1000000000 + now.tv_nsec);
	if (guest)
		json_object_set_new(event, "guest", json_string(guest));
	if (process)
		json_object_set_new(event, "process", json_string(process));
	/* Non-blocking: when even the buffer is full the line on stderr is what remains. */
	int error = event ? ft_channel_send(s->records[1], event, NULL, 0) : -ENOMEM;
	json_decref(event);
	say(error ? "error" : "", "%s%s", text, error ? " (the feed could not take this)" : "");
}

/* ---- Starting children ---------------------------------------------------------------------------------------- */

static void fail(struct ft_supervisor *s, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Ends the run because of an error; the first one counts. */
static void fail(struct ft_supervisor *s, int code, const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (!s->exit_code) {
		s->exit_code = code;
		ft_error_set(&s->why, -ECANCELED, "%s", text);
	}
	if (s->phase != FT_PHASE_STOPPING) {
		s->phase = FT_PHASE_STOPPING;
		s->stop_step = 0;
	}
}

/* What foretaste-metrics has: the socket that it serves, and a connection to our control socket for one question. */
static int give_metrics(struct ft_supervisor *s, int fds[2], struct ft_error *err)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		return ft_error_set(err, -errno, "cannot make a pair of sockets: %s", strerror(errno));
	fds[0] = fcntl(s->metrics.fd, F_DUPFD_CLOEXEC, 0);
	fds[1] = pair[1];
	int error = ft_control_adopt(&s->control, pair[0], "metrics");
	if (error) {
		ft_files_close(fds, 2);
		ft_error_set(err, error, "no control connection is left for the metrics process");
	}
	return error;
}

static int send_config(struct ft_supervisor *s, struct ft_child *child, struct ft_error *err)
{
	int fds[FT_CHANNEL_FDS], count = 0, error = 0;
	long long first = 0;
	json_t *part = NULL;
	switch (child->kind) {
	case FT_CHILD_LEDGER:
		part = ft_config_ledger(s->config);
		fds[0] = fcntl(s->records[0], F_DUPFD_CLOEXEC, 0);
		error = ft_files_ledger(s->config, child->uid, fds + 1, err);
		count = error ? 1 : 1 + FT_FILES_LEDGER;
		break;
	case FT_CHILD_DATAPLANE:
		part = ft_config_dataplane(s->config);
		ft_operate_patch(s, part);
		json_object_set(part, "suppressions", ft_suppress_list(s));
		error = ft_files_first_hold(s->state_fd, &first, err);
		json_object_set_new(part, "first_hold", json_integer((json_int_t)first));
		fds[0] = fcntl(s->records[1], F_DUPFD_CLOEXEC, 0);
		count = 1;
		break;
	case FT_CHILD_VMM:
		part = ft_config_vmm(s->config, child->guest);
		error = ft_files_vmm(s->config, child->guest, fds, err);
		count = error ? 0 : FT_FILES_VMM;
		break;
	case FT_CHILD_METRICS:
		part = json_object();
		error = give_metrics(s, fds, err);
		count = error ? 0 : 2;
		break;
	}
	if (!error) {
		error = ft_child_send(child,
				      json_pack("{s:s, s:I, s:I, s:O}", "op", "config", "uid",
						(json_int_t)child->uid, "gid", (json_int_t)child->uid,
						"config", part),
				      fds, count);
		if (error == -EMSGSIZE)
			ft_error_set(err, -E2BIG,
				     "the configuration and its rules are larger than the %u KiB that "
				     "the %s process takes",
				     FT_CHANNEL_MESSAGE >> 10, child->name);
		else if (error == -EPIPE)
			error = 0; /* it ended already: its end is dealt with, and says more than this */
		else if (error)
			ft_error_set(err, error, "cannot configure the %s process: %s", child->name,
				     strerror(-error));
	}
	json_decref(part);
	ft_files_close(fds, count);
	return error;
}

static uint64_t backoff(const struct ft_child *child)
{
	uint64_t wait = child->backoff_first;
	for (unsigned i = 1; i < child->failures && wait < child->backoff_most; i++)
		wait *= 2;
	return wait < child->backoff_most ? wait : child->backoff_most;
}

/* Does it ask for more than the kernel gives to anybody? */
static bool wants_share(const struct ft_child *vmm)
{
	return vmm->kind == FT_CHILD_VMM && (vmm->cpu || vmm->cpu_weight != FT_CGROUP_WEIGHT);
}

static void lacks_share(struct ft_supervisor *s, struct ft_child *vmm, const char *why)
{
	char bound[32] = "", weight[32] = "";
	snprintf(vmm->cpu_why, sizeof(vmm->cpu_why), "%s", why);
	if (vmm->cpu)
		snprintf(bound, sizeof(bound), "cpu: %u %%", vmm->cpu);
	if (vmm->cpu_weight != FT_CGROUP_WEIGHT)
		snprintf(weight, sizeof(weight), "%scpu_weight: %u", *bound ? " and " : "", vmm->cpu_weight);
	ft_supervisor_record(s, "cpu-unbounded", vmm->guest, NULL, "guest %s: %s%s is not in force: %s", vmm->guest, bound,
			     weight, why);
}

/* Before it gets its configuration, and so before its guest or a clone runs. A share that cannot be had is said, and
 * stops nothing: traffic comes first. */
static void give_share(struct ft_supervisor *s, struct ft_child *child)
{
	struct ft_error err = {0};
	if (child->kind != FT_CHILD_VMM || s->cgroup.own < 0)
		return;
	child->cpu_why[0] = 0;
	if (ft_cgroup_put(&s->cgroup, child->guest, child->cpu, child->cpu_weight, child->pid, &err) && wants_share(child))
		lacks_share(s, child, err.text);
}

void ft_supervisor_start(struct ft_supervisor *s, struct ft_child *child)
{
	char program[PATH_MAX];
	struct ft_error err = {0};
	int error = ft_child_program(child->kind, program, sizeof(program), &err);
	if (!error)
		error = ft_child_spawn(child, program, &err);
	if (!error) {
		child->state = FT_CHILD_STARTING;
		child->deadline = ft_loop_now() + READY_TIMEOUT;
		child->retry_at = UINT64_MAX;
		ft_loop_add(&s->loop, &child->channel, EPOLLIN);
		ft_loop_add(&s->loop, &child->output, EPOLLIN);
		give_share(s, child);
		error = send_config(s, child, &err);
		/* Without a configuration it is of no use; its death is dealt with like any other. */
		if (error)
			ft_child_kill(child);
	}
	if (!error)
		return;
	if (s->phase == FT_PHASE_STARTING) {
		fail(s, ft_config_exit(error), "%s", err.text);
		return;
	}
	say("error", "%s", err.text);
	if (!child->pid) {
		child->failures++;
		child->retry_at = ft_loop_now() + backoff(child);
	}
}

/* ---- Links ------------------------------------------------------------------------------------------------ */

static struct ft_child *ledger_of(struct ft_supervisor *s)
{
	return &s->children[0];
}

static struct ft_child *dataplane_of(struct ft_supervisor *s)
{
	return &s->children[1];
}

struct ft_child *ft_supervisor_ledger(struct ft_supervisor *s)
{
	return ledger_of(s);
}

struct ft_child *ft_supervisor_dataplane(struct ft_supervisor *s)
{
	return dataplane_of(s);
}

/* Gives the dataplane and one vmm, both ready, the two ends of a new link. Who cannot take its end is replaced; who has
 * hung up meanwhile is dealt with where its channel ends, and its own exit status says more than our signal would. */
static void make_link(struct ft_supervisor *s, struct ft_child *vmm)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	if (ft_link_create(ours, theirs, &err)) {
		say("error", "%s", err.text);
		ft_child_kill(vmm);
		return;
	}
	const struct {
		struct ft_child *child;
		const int *fds;
	} ends[] = {{dataplane_of(s), ours}, {vmm, theirs}};
	for (int i = 0; i < 2; i++) {
		int error =
		    ft_child_send(ends[i].child, json_pack("{s:s, s:s}", "op", "link", "guest", vmm->guest),
				  ends[i].fds, FT_LINK_FDS);
		if (error && error != -EPIPE) {
			say("error", "the %s process does not take its link: %s", ends[i].child->name,
			    strerror(-error));
			ft_child_kill(ends[i].child);
		}
	}
	ft_files_close(ours, FT_LINK_FDS);
	ft_files_close(theirs, FT_LINK_FDS);
}

static void child_ready(struct ft_supervisor *s, struct ft_child *child)
{
	child->state = FT_CHILD_READY;
	child->deadline = UINT64_MAX;
	child->ready_at = ft_loop_now();
	if (child->kind == FT_CHILD_LEDGER)
		ft_sinks_ledger(&s->sinks, true);
	/* It may have been configured before the last change. */
	if (child->kind == FT_CHILD_DATAPLANE) {
		ft_child_send(child, json_pack("{s:s, s:O}", "op", "suppress", "list", ft_suppress_list(s)), NULL, 0);
		ft_canaries_forget(&s->canaries, child->ready_at);
	}
	for (unsigned i = 0; i < s->count; i++) {
		struct ft_child *vmm = &s->children[i];
		bool concerned = vmm == child || child->kind == FT_CHILD_DATAPLANE;
		if (vmm->kind == FT_CHILD_VMM && concerned && vmm->state == FT_CHILD_READY &&
		    dataplane_of(s)->state == FT_CHILD_READY)
			make_link(s, vmm);
	}
	if (s->phase != FT_PHASE_STARTING)
		return;
	for (unsigned i = 0; i < s->count; i++)
		if (s->children[i].state != FT_CHILD_READY)
			return;
	s->phase = FT_PHASE_RUNNING;
	ft_supervisor_record(s, "start", NULL, NULL, "the gateway has started");
}

/* ---- What children say ------------------------------------------------------------------------------------- */

static void child_says(struct ft_child *child, const char *level, const char *text)
{
	unsigned lost;
	bool may = ft_child_may_log(child, &lost);
	if (lost)
		say("warning", "%s: %u lines suppressed", child->name, lost);
	if (may)
		say(level, "%s: %s", child->name, text);
}

static void handle_ready(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	if (child->state != FT_CHILD_STARTING)
		return;
	size_t i;
	json_t *sentence;
	json_array_foreach(json_object_get(message, "said"), i, sentence) if (json_is_string(sentence))
	    child_says(child, "", json_string_value(sentence));
	child_ready(s, child);
}

static void handle_failed(struct ft_child *child, const json_t *message)
{
	const char *text = json_string_value(json_object_get(message, "text"));
	json_int_t code = json_integer_value(json_object_get(message, "code"));
	if (!text)
		text = "it did not say why";
	child->failed_code = code >= EX_USAGE && code <= EX_CONFIG ? (int)code : EX_SOFTWARE;
	ft_printable(child->failed_text, sizeof(child->failed_text), text, strlen(text));
	if (child->deadline > ft_loop_now() + STOP_TIMEOUT)
		child->deadline = ft_loop_now() + STOP_TIMEOUT; /* it should end by itself now */
}

static void handle_running(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	json_int_t ns = json_integer_value(json_object_get(message, "boot_ns"));
	if (child->kind != FT_CHILD_VMM || child->state != FT_CHILD_READY || child->running || ns < 0)
		return;
	child->running = true;
	child->boot_ns = (uint64_t)ns;
	ft_supervisor_record(s, "guest-up", child->guest, NULL, "guest %s is up, %.1f s after its start", child->guest,
	       (double)ns / 1e9);
}

static void handle_canary(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	if (child->kind != FT_CHILD_DATAPLANE || !ft_canaries_note(&s->canaries, message, ft_loop_now()))
		child_says(child, "warning", "a self-test's result that is none");
}

static void handle_sink_lost(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "name"));
	const char *why = json_string_value(json_object_get(message, "why"));
	char text[256];
	if (child->kind != FT_CHILD_LEDGER || !ft_sinks_lost(&s->sinks, name))
		return;
	snprintf(text, sizeof(text), "feed.%.16s: the connection is gone: %.160s", name, why ? why : "");
	child_says(child, "warning", text);
}

static void handle_log(struct ft_child *child, const json_t *message)
{
	const char *level = json_string_value(json_object_get(message, "level"));
	const char *text = json_string_value(json_object_get(message, "text"));
	if (!level || !text || (strcmp(level, "error") && strcmp(level, "warning") && strcmp(level, "info")))
		child_says(child, "warning", "a log message that is none");
	else
		child_says(child, strcmp(level, "info") ? level : "", text);
}

static void handle(struct ft_supervisor *s, struct ft_child *child, const json_t *message)
{
	const char *op = json_string_value(json_object_get(message, "op"));
	if (!op)
		op = "";
	if (!strcmp(op, "ready"))
		handle_ready(s, child, message);
	else if (!strcmp(op, "failed"))
		handle_failed(child, message);
	else if (!strcmp(op, "running"))
		handle_running(s, child, message);
	else if (!strcmp(op, "log"))
		handle_log(child, message);
	else if (!strcmp(op, "sink-lost"))
		handle_sink_lost(s, child, message);
	else if (!strcmp(op, "canary"))
		handle_canary(s, child, message);
	else if (strcmp(op, "answer"))
		child_says(child, "warning", "a message of an unknown kind");
	else if (!ft_query_answer(&s->queries, child, message))
		child_says(child, "warning", "an answer that nobody waits for");
}

/* The channel is at its end: the child is about to end, and its exit status is worth waiting for. One that goes on
 * without a channel is killed in a while. */
static void hang_up(struct ft_supervisor *s, struct ft_child *child)
{
	if (child->channel.fd < 0)
		return;
	ft_loop_remove(&s->loop, &child->channel);
	close(child->channel.fd);
	child->channel.fd = -1;
	if (child->deadline > ft_loop_now() + STOP_TIMEOUT)
		child->deadline = ft_loop_now() + STOP_TIMEOUT;
}

/* Serves one message. false: no more for now, or the channel is closed. */
static bool receive(struct ft_supervisor *s, struct ft_child *child)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	int error =
	    child->channel.fd < 0 ? -EPIPE : ft_channel_receive(child->channel.fd, &message, fds, &count);
	if (error == -EAGAIN)
		return false;
	if (error == -EPROTO || error == -EMSGSIZE) {
		say("error", "the %s process sent what is no message, it is replaced", child->name);
		ft_child_kill(child);
	}
	if (error) {
		hang_up(s, child);
		return false;
	}
	ft_files_close(fds, count); /* nobody sends us descriptors */
	handle(s, child, message);
	json_decref(message);
	return true;
}

static void child_message(void *context, uint32_t events)
{
	struct ft_child *child = context;
	receive(child->owner, child);
}

static void drain_output(struct ft_child *child, unsigned most)
{
	char line[4 * FT_CHILD_LINE + 1];
	while (most-- && ft_child_output(child, line, sizeof(line)))
		child_says(child, "", line);
}

static void child_output(void *context, uint32_t events)
{
	struct ft_child *child = context;
	drain_output(child, 16);
}

/* ---- Deaths -------------------------------------------------------------------------------------------------- */

/* How a vmm says what became of its guest (gateway/protocol.md). */
static const struct {
	int status;
	const char *text;
} guest_ends[] = {
    {10, "ended: its guest rebooted"},
    {GUEST_POWEROFF, "ended: its guest powered off"},
    {12, "ended: its guest stopped with a triple fault"},
};

static const char *death_text(const struct ft_child *child, int status, char text[80])
{
	snprintf(text, 80, "ended with status %d", WEXITSTATUS(status));
	for (size_t i = 0; i < sizeof(guest_ends) / sizeof(*guest_ends); i++)
		if (child->kind == FT_CHILD_VMM && WIFEXITED(status) &&
		    WEXITSTATUS(status) == guest_ends[i].status)
			snprintf(text, 80, "%s", guest_ends[i].text);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		snprintf(text, 80, "was killed by its seccomp filter");
	else if (WIFSIGNALED(status))
		snprintf(text, 80, "was killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	return text;
}

/* A child that never gets ready is the end of the start; the child's own sentence is the one worth reading. */
static void died_starting(struct ft_supervisor *s, struct ft_child *child, const char *how)
{
	if (child->failed_code)
		fail(s, child->failed_code, "%s", child->failed_text);
	else
		fail(s, EX_SOFTWARE, "the %s process %s before it was ready", child->name, how);
}

void ft_supervisor_guest_down(struct ft_supervisor *s, const struct ft_child *vmm, const char *why)
{
	if (dataplane_of(s)->state == FT_CHILD_READY)
		ft_child_send(dataplane_of(s),
			      json_pack("{s:s, s:s, s:s}", "op", "guest-down", "guest", vmm->guest, "why", why),
			      NULL, 0);
}

/* A guest that stays down when it ended like this. */
static bool stays_down(const struct ft_child *child, int status)
{
	bool poweroff = WIFEXITED(status) && WEXITSTATUS(status) == GUEST_POWEROFF;
	return child->kind == FT_CHILD_VMM && (child->restart == FT_RESTART_NEVER ||
					       (child->restart == FT_RESTART_ON_CRASH && poweroff));
}

static void leave_down(struct ft_supervisor *s, struct ft_child *child, const char *how)
{
	child->unwanted = true;
	child->ready_at = 0;
	child->failures = 0;
	ft_supervisor_record(s, "guest-down", child->guest, NULL,
			     "guest %s is down and stays so (restart: %s): its vmm process %s", child->guest,
			     child->restart == FT_RESTART_NEVER ? "never" : "on-crash", how);
	ft_supervisor_guest_down(s, child, how);
}

/* An operator stopped it. */
static void has_stopped(struct ft_supervisor *s, struct ft_child *child)
{
	child->ready_at = 0;
	child->failures = 0;
	ft_supervisor_record(s, "guest-down", child->guest, NULL, "guest %s has stopped", child->guest);
	if (!child->again)
		return;
	child->again = false;
	ft_supervisor_start(s, child);
}

static void replace(struct ft_supervisor *s, struct ft_child *child, const char *how)
{
	bool lasted = child->ready_at && ft_loop_now() - child->ready_at >= STABLE;
	child->failures = lasted ? 0 : child->failures + 1;
	child->ready_at = 0;
	child->restarts++;
	uint64_t wait = lasted ? 0 : backoff(child);
	child->retry_at = ft_loop_now() + wait;
	if (child->kind == FT_CHILD_VMM) {
		ft_supervisor_record(s, "guest-down", child->guest, NULL,
				     "guest %s is down: its vmm process %s%s%s", child->guest, how,
				     child->failed_code ? ": " : "",
				     child->failed_code ? child->failed_text : "");
		ft_supervisor_guest_down(s, child, how);
	}
	ft_supervisor_record(s, "restart", NULL, child->name, "the %s process %s%s%s; a new one starts%s", child->name, how,
	       child->failed_code ? ": " : "", child->failed_code ? child->failed_text : "",
	       wait ? " after a pause" : "");
}

static void child_died(struct ft_supervisor *s, struct ft_child *child, int status)
{
	char how[80];
	death_text(child, status, how);
	/* Its last messages and words are still in the sockets. Bounded: it may have filled them. */
	for (int i = 0; i < 256 && receive(s, child); i++)
		;
	drain_output(child, 64);
	if (child->channel.fd >= 0)
		ft_loop_remove(&s->loop, &child->channel);
	if (child->output.fd >= 0)
		ft_loop_remove(&s->loop, &child->output);
	ft_child_close(child);
	ft_query_forget(&s->queries, child);
	bool was_ready = child->state == FT_CHILD_READY, was_told = child->state == FT_CHILD_STOPPING;
	child->state = FT_CHILD_DOWN;
	child->deadline = child->retry_at = UINT64_MAX;
	if (child->kind == FT_CHILD_LEDGER)
		ft_sinks_ledger(&s->sinks, false);
	if (s->phase == FT_PHASE_STARTING && !was_ready)
		died_starting(s, child, how);
	else if (s->phase != FT_PHASE_STOPPING && was_told)
		has_stopped(s, child);
	else if (s->phase != FT_PHASE_STOPPING && stays_down(child, status))
		leave_down(s, child, how);
	else if (s->phase != FT_PHASE_STOPPING)
		replace(s, child, how);
}

/* Also reaps what is no child of ours by birth: clones of a vmm that died are handed to us. */
static void reap(struct ft_supervisor *s)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		for (unsigned i = 0; i < s->count; i++)
			if (s->children[i].pid == pid)
				child_died(s, &s->children[i], status);
}

/* ---- Stopping ----------------------------------------------------------------------------------------------- */

/* The dataplane first: it resolves what it holds and tells the ledger. The ledger last: it writes down the rest. */
static const enum ft_child_kind stop_order[] = {FT_CHILD_METRICS, FT_CHILD_DATAPLANE, FT_CHILD_VMM, FT_CHILD_LEDGER};

#define STOP_STEPS (sizeof(stop_order) / sizeof(*stop_order))

void ft_supervisor_stop(struct ft_child *child)
{
	child->state = FT_CHILD_STOPPING;
	child->deadline = ft_loop_now() + STOP_TIMEOUT;
	if (ft_child_send(child, json_pack("{s:s}", "op", "stop"), NULL, 0))
		ft_child_kill(child);
}

/* Goes on with the stop as far as it can; true when nobody is left. */
static bool stop_step(struct ft_supervisor *s)
{
	while (s->stop_step < STOP_STEPS) {
		bool left = false;
		for (unsigned i = 0; i < s->count; i++) {
			struct ft_child *child = &s->children[i];
			if (child->kind != stop_order[s->stop_step] || !child->pid)
				continue;
			left = true;
			if (child->state != FT_CHILD_STOPPING)
				ft_supervisor_stop(child);
		}
		if (left)
			return false;
		s->stop_step++;
	}
	return true;
}

static void signal_came(void *context, uint32_t events)
{
	struct ft_supervisor *s = context;
	struct signalfd_siginfo info;
	if (read(s->signals.fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCHLD) {
		reap(s);
	} else if (info.ssi_signo == SIGHUP || info.ssi_signo == SIGUSR1) {
		if (s->phase != FT_PHASE_STOPPING)
			(info.ssi_signo == SIGHUP ? ft_reload_signal : ft_reopen_signal)(s);
	} else if (s->phase == FT_PHASE_STOPPING) {
		say("", "a second signal: killing what is left");
		for (unsigned i = 0; i < s->count; i++)
			ft_child_kill(&s->children[i]);
	} else {
		if (s->phase == FT_PHASE_RUNNING)
			ft_supervisor_record(s, "stop", NULL, NULL, "the gateway stops: %s",
			       info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
		s->phase = FT_PHASE_STOPPING;
		s->stop_step = 0;
	}
}

/* ---- Timers ------------------------------------------------------------------------------------------------ */

static void say_text(const char *level, const char *text)
{
	say(level, "%s", text);
}

static void tell_canary(void *context, const char *guest, bool failing, const char *text)
{
	ft_supervisor_record(context, failing ? "self-test-failed" : "self-test-passed", guest, NULL, "%s", text);
}

static uint64_t serve_canaries(struct ft_supervisor *s, uint64_t now)
{
	if (s->phase != FT_PHASE_RUNNING)
		return UINT64_MAX;
	uint64_t next = ft_canaries_serve(&s->canaries, now, tell_canary, s);
	bool live = ft_canaries_live(&s->canaries, now);
	if (!live && !s->notify.withheld)
		say("error", "the service manager's watchdog gets no sign of life: input is not inspected any more");
	s->notify.withheld = !live;
	return next;
}

/* Tells the service manager how we are. Derived from the state, so that no change of it can be forgotten. */
static uint64_t serve_notify(struct ft_supervisor *s, uint64_t now)
{
	static const enum ft_notify_state states[] = {[FT_PHASE_STARTING] = FT_NOTIFY_STARTING,
						      [FT_PHASE_RUNNING] = FT_NOTIFY_READY,
						      [FT_PHASE_STOPPING] = FT_NOTIFY_STOPPING};
	static const char *const phases[] = {"starting", "running", "stopping"};
	unsigned guests = 0, up = 0;
	char text[FT_NOTIFY_STATUS], lacks[128] = "";
	for (unsigned i = 0; i < s->count; i++) {
		const struct ft_child *child = &s->children[i];
		guests += child->kind == FT_CHILD_VMM;
		up += child->kind == FT_CHILD_VMM && child->running;
		if (s->phase == FT_PHASE_RUNNING && child->kind != FT_CHILD_VMM &&
		    child->state != FT_CHILD_READY)
			snprintf(lacks, sizeof(lacks), "; the %s process is %s", child->name,
				 ft_child_state_name(child->state));
	}
	for (size_t i = 0; i < s->canaries.count; i++)
		if (s->canaries.list[i].failing)
			snprintf(lacks, sizeof(lacks), "; the self-test of service %s fails", s->canaries.list[i].service);
	snprintf(text, sizeof(text), "%s: %u of %u guests up%s", phases[s->phase], up, guests, lacks);
	ft_notify_set(&s->notify, states[s->phase], text);
	return ft_notify_serve(&s->notify, now);
}

static uint64_t serve_timers(struct ft_supervisor *s)
{
	uint64_t now = ft_loop_now(), next = ft_query_expire(&s->queries, now);
	uint64_t sinks = ft_sinks_serve(&s->sinks, ledger_of(s), say_text);
	if (sinks < next)
		next = sinks;
	uint64_t suppressions = ft_suppress_expire(s, now);
	if (suppressions < next)
		next = suppressions;
	for (unsigned i = 0; i < s->count; i++) {
		struct ft_child *child = &s->children[i];
		if (child->retry_at <= now && s->phase != FT_PHASE_STOPPING)
			ft_supervisor_start(s, child);
		if (child->deadline <= now) {
			child->deadline = UINT64_MAX;
			say("error", "the %s process %s, it is killed", child->name,
			    child->channel.fd < 0               ? "has no channel any more and goes on"
			    : child->state == FT_CHILD_STOPPING ? "did not stop in time"
								: "was not ready in time");
			ft_child_kill(child);
		}
		if (child->deadline < next)
			next = child->deadline;
		if (child->retry_at < next && s->phase != FT_PHASE_STOPPING)
			next = child->retry_at;
	}
	uint64_t canaries = serve_canaries(s, now);
	if (canaries < next)
		next = canaries;
	uint64_t notify = serve_notify(s, now); /* last: it tells what came of the rest */
	return notify < next ? notify : next;
}

/* ---- The whole --------------------------------------------------------------------------------------------- */

static int open_signals(struct ft_supervisor *s)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	signal(SIGPIPE, SIG_IGN); /* a closed log must not end the gateway */
	if (sigprocmask(SIG_BLOCK, &set, NULL) || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		return -errno;
	s->signals = (struct ft_watch){signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), signal_came, s};
	return s->signals.fd < 0 ? -errno : ft_loop_add(&s->loop, &s->signals, EPOLLIN);
}

static int open_records(struct ft_supervisor *s)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->records))
		return -errno;
	int size = RECORD_BUFFER;
	setsockopt(s->records[1], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	return fcntl(s->records[1], F_SETFL, O_NONBLOCK) ? -errno : 0;
}

static void add_child(struct ft_supervisor *s, enum ft_child_kind kind, const char *guest)
{
	uid_t base = (uid_t)json_integer_value(ft_config_get(s->config, "uid_base"));
	struct ft_child *child = &s->children[s->count];
	ft_child_prepare(child, kind, guest, base + s->count);
	child->backoff_first = BACKOFF_FIRST;
	child->backoff_most = BACKOFF_MOST;
	if (guest)
		ft_guest_settings(s->config, child);
	child->owner = s;
	child->channel.ready = child_message;
	child->output.ready = child_output;
	child->channel.context = child->output.context = child;
	s->count++;
}

static int open_all(struct ft_supervisor *s, struct ft_error *err)
{
	if (!ft_confine_may_become())
		return ft_error_set(
		    err, -EPERM,
		    "the gateway has to be started by root, or with the capabilities that its unit has: it opens "
		    "ports and gives each of its processes a uid of its own");
	/* Before anything else happens: what is missing now would be missing later, with half a gateway running. */
	int error = ft_files_check(s->config, err);
	if (error)
		return error;
	error = ft_loop_open(&s->loop);
	if (!error)
		error = open_signals(s);
	if (!error)
		error = open_records(s);
	if (error)
		return ft_error_set(err, error, "cannot start: %s", strerror(-error));
	struct ft_error why = {0};
	if (ft_notify_open(&s->notify, &why))
		say("warning", "the service manager is not told how we are: %s", why.text);
	s->state_fd = ft_files_lock(s->config, err);
	if (s->state_fd < 0)
		return s->state_fd;
	error = ft_suppress_open(s, err);
	if (error)
		return error;
	s->control.loop = &s->loop;
	s->control.request = ft_answer_request;
	s->control.closed = ft_answer_closed;
	s->control.context = s;
	s->queries.control = &s->control;
	s->queries.acted = ft_operate_acted;
	s->queries.context = s;
	error = ft_control_open(&s->control, ft_config_text(s->config, "control"), err);
	const char *metrics = ft_config_text(s->config, "metrics.listen");
	if (!error && metrics)
		error = ft_listen_local(&s->metrics, metrics, "metrics socket", err);
	return error;
}

/* Without a wish for a share no process is moved; with one each guest has a group, for a weight is one among others. */
static void open_shares(struct ft_supervisor *s)
{
	struct ft_error err = {0};
	bool wanted = false;
	for (unsigned i = 0; i < s->count; i++)
		wanted |= wants_share(&s->children[i]);
	if (!wanted || !ft_cgroup_open(&s->cgroup, &err))
		return;
	for (unsigned i = 0; i < s->count; i++) {
		if (wants_share(&s->children[i]))
			lacks_share(s, &s->children[i], err.text);
	}
}

static void close_all(struct ft_supervisor *s)
{
	json_decref(s->live);
	ft_suppress_close(s);
	if (s->pending)
		ft_config_free(s->pending);
	free(s->pending);
	ft_cgroup_close(&s->cgroup);
	if (s->control.listener.path)
		ft_control_close(&s->control);
	ft_listen_close(&s->metrics);
	ft_canaries_close(&s->canaries);
	ft_notify_close(&s->notify);
	ft_files_close((int[]){s->records[0], s->records[1], s->state_fd, s->signals.fd}, 4);
	ft_loop_close(&s->loop);
}

int ft_supervisor_run(struct ft_config *config, struct ft_error *err)
{
	struct ft_supervisor s = {.config = config,
				  .loop.epoll = -1,
				  .signals.fd = -1,
				  .state_fd = -1,
				  .notify.fd = -1,
				  .cgroup.own = -1,
				  .metrics.fd = -1,
				  .records = {-1, -1},
				  .started = ft_loop_now()};
	int error = open_all(&s, err);
	if (error) {
		close_all(&s);
		return ft_config_exit(error);
	}
	ft_sinks_prepare(&s.sinks, config);
	if (ft_canaries_open(&s.canaries, config, s.started))
		say("error", "no memory to keep what comes of self-tests");
	add_child(&s, FT_CHILD_LEDGER, NULL);
	add_child(&s, FT_CHILD_DATAPLANE, NULL);
	const char *guest;
	json_t *value;
	json_object_foreach((json_t *)ft_config_get(config, "guests"), guest,
			    value) if (s.count < FT_SUPERVISOR_CHILDREN - 1) add_child(&s, FT_CHILD_VMM, guest);
	if (s.metrics.fd >= 0)
		add_child(&s, FT_CHILD_METRICS, NULL);
	open_shares(&s);
	for (unsigned i = 0; i < s.count && s.phase == FT_PHASE_STARTING; i++)
		ft_supervisor_start(&s, &s.children[i]);
	while (s.phase != FT_PHASE_STOPPING || !stop_step(&s))
		ft_loop_step(&s.loop, serve_timers(&s));
	close_all(&s);
	if (s.exit_code)
		ft_error_set(err, s.why.code, "%s", s.why.text);
	return s.exit_code;
}
