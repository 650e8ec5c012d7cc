#include "gateway/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/durable.h"
#include "base/printable.h"
#include "gateway/answer.h"
#include "gateway/files.h"
#include "gateway/guest.h"
#include "gateway/hearing.h"
#include "gateway/life.h"
#include "gateway/operate.h"
#include "gateway/reload.h"
#include "gateway/share.h"
#include "gateway/journal.h"
#include "gateway/snapshot.h"
#include "gateway/suppress.h"

#define BACKOFF_FIRST 200000000ull /* ns; of the ledger and the dataplane; a guest has its own */
#define BACKOFF_MOST  10000000000ull

#define RECORD_BUFFER (4 << 20) /* bytes of records that may wait for a ledger */

void ft_supervisor_say(const char *level, const char *format, ...)
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
	ft_supervisor_say(error ? "error" : "", "%s%s", text, error ? " (the feed could not take this)" : "");
}

void ft_supervisor_fail(struct ft_supervisor *s, int code, const char *format, ...)
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

struct ft_child *ft_supervisor_ledger(struct ft_supervisor *s)
{
	return &s->children[0];
}

struct ft_child *ft_supervisor_dataplane(struct ft_supervisor *s)
{
	return &s->children[1];
}

/* ---- Deaths ---------------------------------------------------------------------------------------------------- */

/* Also reaps what is no child of ours by birth: clones of a vmm that died are handed to us. */
static void reap(struct ft_supervisor *s)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		for (unsigned i = 0; i < s->count; i++)
			if (s->children[i].pid == pid)
				ft_life_died(s, &s->children[i], status);
}

/* ---- Stopping ----------------------------------------------------------------------------------------------- */

/* The dataplane first: it resolves what it holds and tells the ledger. The ledger last: it writes down the rest. */
static const enum ft_child_kind stop_order[] = {FT_CHILD_METRICS, FT_CHILD_DATAPLANE, FT_CHILD_VMM, FT_CHILD_LEDGER};

#define STOP_STEPS (sizeof(stop_order) / sizeof(*stop_order))

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
				ft_life_stop(child);
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
		ft_supervisor_say("", "a second signal: killing what is left");
		for (unsigned i = 0; i < s->count; i++)
			ft_child_kill(&s->children[i], "a second signal came");
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
	ft_supervisor_say(level, "%s", text);
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
	for (unsigned i = 0; i < s->count; i++) {
		uint64_t again = s->children[i].kind == FT_CHILD_VMM ? ft_life_unhang(s, &s->children[i], now) : UINT64_MAX;
		if (again < next)
			next = again;
	}
	bool live = ft_canaries_live(&s->canaries, now);
	if (!live && !s->notify.withheld)
		ft_supervisor_say("error", "the service manager's watchdog gets no sign of life: input is not inspected any more");
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
	uint64_t sinks = ft_sinks_serve(&s->sinks, ft_supervisor_ledger(s), say_text);
	if (sinks < next)
		next = sinks;
	uint64_t suppressions = ft_suppress_expire(s, now);
	if (suppressions < next)
		next = suppressions;
	for (unsigned i = 0; i < s->count; i++) {
		struct ft_child *child = &s->children[i];
		if (child->retry_at <= now && s->phase != FT_PHASE_STOPPING)
			ft_life_start(s, child);
		if (child->deadline <= now) {
			child->deadline = UINT64_MAX;
			const char *why = child->channel.fd < 0		      ? "has no channel any more and goes on"
					  : child->state == FT_CHILD_STOPPING ? "did not stop in time"
									      : "was not ready in time";
			char clause[64];
			ft_supervisor_say("error", "the %s process %s, it is killed", child->name, why);
			snprintf(clause, sizeof(clause), "it %s", why);
			ft_child_kill(child, clause);
		}
		if (child->deadline < next)
			next = child->deadline;
		if (child->retry_at < next && s->phase != FT_PHASE_STOPPING)
			next = child->retry_at;
	}
	uint64_t journals = ft_journal_serve(s, now);
	if (journals < next)
		next = journals;
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
	s->durable = memfd_create("foretaste-durable", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (s->durable < 0 || ftruncate(s->durable, sizeof(struct ft_durable)) ||
	    fcntl(s->durable, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
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
	child->channel.ready = ft_hearing_message;
	child->output.ready = ft_hearing_output;
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
	error = ft_snapshot_read_key(s, err);
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
		ft_supervisor_say("warning", "the service manager is not told how we are: %s", why.text);
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

static void close_all(struct ft_supervisor *s)
{
	json_decref(s->live);
	ft_suppress_close(s);
	if (s->pending)
		ft_config_free(s->pending);
	free(s->pending);
	ft_snapshot_forget_key(s);
	ft_cgroup_close(&s->cgroup);
	if (s->control.listener.path)
		ft_control_close(&s->control);
	ft_listen_close(&s->metrics);
	ft_canaries_close(&s->canaries);
	ft_notify_close(&s->notify);
	ft_files_close((int[]){s->records[0], s->records[1], s->state_fd, s->signals.fd, s->durable}, 5);
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
				  .durable = -1,
				  .started = ft_loop_now()};
	int error = open_all(&s, err);
	if (error) {
		close_all(&s);
		return ft_config_exit(error);
	}
	ft_sinks_prepare(&s.sinks, config);
	if (ft_canaries_open(&s.canaries, config, s.started))
		ft_supervisor_say("error", "no memory to keep what comes of self-tests");
	add_child(&s, FT_CHILD_LEDGER, NULL);
	add_child(&s, FT_CHILD_DATAPLANE, NULL);
	const char *guest;
	json_t *value;
	json_object_foreach((json_t *)ft_config_get(config, "guests"), guest,
			    value) if (s.count < FT_SUPERVISOR_CHILDREN - 1) add_child(&s, FT_CHILD_VMM, guest);
	if (s.metrics.fd >= 0)
		add_child(&s, FT_CHILD_METRICS, NULL);
	ft_share_open(&s);
	for (unsigned i = 0; i < s.count && s.phase == FT_PHASE_STARTING; i++)
		ft_life_start(&s, &s.children[i]);
	while (s.phase != FT_PHASE_STOPPING || !stop_step(&s))
		ft_loop_step(&s.loop, serve_timers(&s));
	close_all(&s);
	if (s.exit_code)
		ft_error_set(err, s.why.code, "%s", s.why.text);
	return s.exit_code;
}
