#include "gateway/life.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/link.h"
#include "gateway/engine.h"
#include "gateway/files.h"
#include "gateway/hearing.h"
#include "gateway/journal.h"
#include "gateway/operate.h"
#include "gateway/rulefile.h"
#include "gateway/seed.h"
#include "gateway/share.h"
#include "gateway/snapshot.h"
#include "gateway/suppress.h"
#include "gateway/warm.h"

#define SECOND 1000000000ull

/* A start compiles rules and sets up DPDK; on a busy small machine that has taken 10 s. */
#define READY_TIMEOUT (60 * SECOND)
#define STABLE        (30 * SECOND) /* a child that ran this long starts with a clean record */

#define HUNG_MOST     (3600 * SECOND) /* until a guest that hangs is ended again */

#define GUEST_REBOOT   10
#define GUEST_POWEROFF 11 /* exit status of a vmm */

/* ---- Starting --------------------------------------------------------------------------------------------------- */

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

/* The page of base/durable.h for somebody who only reads it. */
static int open_durable(int durable)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", durable);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Of a guest that is to start from a snapshot. */
static int add_snapshot(struct ft_supervisor *s, struct ft_child *child, json_t *part, int *fds, int *count, struct ft_error *err)
{
	json_t *snapshot = NULL;
	int fd = ft_snapshot_start(s, child, &snapshot, err);
	child->isolated = fd >= 0 && !child->restore_attach;
	if (fd == -1)
		fd = ft_warm_start(s, child, &snapshot);
	else
		child->warm = child->save_settled = false;
	if (fd >= 0)
		fds[(*count)++] = fd;
	if (snapshot)
		json_object_set_new(part, "snapshot", snapshot);
	return fd < -1 ? fd : 0;
}

/* Of a guest that runs on the host's processor. */
static int add_engine(struct ft_supervisor *s, struct ft_child *child, json_t *part, int *fds, int *count, struct ft_error *err)
{
	int fd = -1, error = ft_engine_start(s->config, child->guest, part, &fd, err);
	child->kvm = fd >= 0;
	if (fd >= 0)
		fds[(*count)++] = fd;
	return error;
}

/* Of a guest that is recorded. One that must be and cannot does not start. */
static int add_journal(struct ft_supervisor *s, struct ft_child *child, json_t *part, int *fds, int *count, struct ft_error *err)
{
	int error = ft_journal_start(s, child, part, fds + *count, err);
	if (!error)
		*count += FT_JOURNAL_FILES;
	return error < 0 && !strcmp(ft_config_text(s->config, "journal.on_failure"), "hold") ? error : 0;
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
		if (!error)
			fds[count++] = fcntl(s->durable, F_DUPFD_CLOEXEC, 0);
		break;
	case FT_CHILD_DATAPLANE:
		part = ft_config_dataplane(s->config);
		ft_operate_patch(s, part);
		ft_rulefile_keep(s, part);
		json_object_set(part, "suppressions", ft_suppress_list(s));
		error = ft_files_first_hold(s->state_fd, &first, err);
		json_object_set_new(part, "first_hold", json_integer((json_int_t)first));
		fds[0] = fcntl(s->records[1], F_DUPFD_CLOEXEC, 0);
		fds[1] = open_durable(s->durable);
		count = fds[1] < 0 ? 1 : 2;
		break;
	case FT_CHILD_VMM:
		part = ft_config_vmm(s->config, child->guest);
		error = ft_files_vmm(s->config, child->guest, fds, err);
		count = error ? 0 : FT_FILES_VMM;
		if (!error)
			ft_warm_note_origin(s, child, fds);
		if (!error && json_object_get(part, "overlay")) {
			error = ft_files_overlay(s->state_fd, child->guest, fds + count, err);
			count += error ? 0 : 2;
		}
		error = error ? error : add_snapshot(s, child, part, fds, &count, err);
		error = error ? error : add_engine(s, child, part, fds, &count, err);
		error = error ? error : add_journal(s, child, part, fds, &count, err);
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
	ft_snapshot_wipe_seal(json_object_get(part, "snapshot"));
	ft_snapshot_wipe_seal(json_object_get(part, "journal"));
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

void ft_life_start(struct ft_supervisor *s, struct ft_child *child)
{
	char program[PATH_MAX];
	struct ft_error err = {0};
	int error = ft_child_program(child->kind, program, sizeof(program), &err);
	if (!error)
		error = ft_child_spawn(child, program, &err);
	if (!error) {
		child->state = FT_CHILD_STARTING;
		child->spawned_at = ft_loop_now();
		child->deadline = ft_loop_now() + READY_TIMEOUT;
		child->retry_at = UINT64_MAX;
		ft_loop_add(&s->loop, &child->channel, EPOLLIN);
		ft_loop_add(&s->loop, &child->output, EPOLLIN);
		ft_share_give(s, child);
		error = send_config(s, child, &err);
		/* Without a configuration it is of no use; its death is dealt with like any other. */
		if (error) {
			char why[sizeof(child->killed_why)];
			snprintf(why, sizeof(why), "it cannot be configured: %.200s", err.text);
			ft_child_kill(child, why);
		}
	}
	if (!error)
		return;
	if (s->phase == FT_PHASE_STARTING) {
		ft_supervisor_fail(s, ft_config_exit(error), "%s", err.text);
		return;
	}
	ft_supervisor_say("error", "%s", err.text);
	if (!child->pid) {
		child->failures++;
		child->retry_at = ft_loop_now() + backoff(child);
	}
}

/* ---- Ready, and linked ------------------------------------------------------------------------------------------------ */

/* Gives the dataplane and one vmm, both ready, the two ends of a new link. Who cannot take its end is replaced; who has
 * hung up meanwhile is dealt with where its channel ends, and its own exit status says more than our signal would. */
static void make_link(struct ft_supervisor *s, struct ft_child *vmm)
{
	if (vmm->isolated) {
		ft_child_send(ft_supervisor_dataplane(s), json_pack("{s:s, s:s}", "op", "guest-isolated", "guest", vmm->guest), NULL, 0);
		return;
	}
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	if (ft_link_create(ours, theirs, &err)) {
		ft_supervisor_say("error", "%s", err.text);
		ft_child_kill(vmm, err.text);
		return;
	}
	const struct {
		struct ft_child *child;
		const int *fds;
	} ends[] = {{ft_supervisor_dataplane(s), ours}, {vmm, theirs}};
	for (int i = 0; i < 2; i++) {
		int error =
		    ft_child_send(ends[i].child, json_pack("{s:s, s:s}", "op", "link", "guest", vmm->guest),
				  ends[i].fds, FT_LINK_FDS);
		if (error && error != -EPIPE) {
			ft_supervisor_say("error", "the %s process does not take its link: %s", ends[i].child->name,
			    strerror(-error));
			ft_child_kill(ends[i].child, "it does not take its link");
		}
	}
	ft_files_close(ours, FT_LINK_FDS);
	ft_files_close(theirs, FT_LINK_FDS);
}

void ft_life_link(struct ft_supervisor *s, struct ft_child *vmm)
{
	if (vmm->kind == FT_CHILD_VMM && vmm->state == FT_CHILD_READY && ft_supervisor_dataplane(s)->state == FT_CHILD_READY)
		make_link(s, vmm);
}

void ft_life_ready(struct ft_supervisor *s, struct ft_child *child)
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
	for (unsigned i = 0; i < s->count; i++)
		if (&s->children[i] == child || child->kind == FT_CHILD_DATAPLANE)
			ft_life_link(s, &s->children[i]);
	if (s->phase != FT_PHASE_STARTING)
		return;
	for (unsigned i = 0; i < s->count; i++)
		if (s->children[i].state != FT_CHILD_READY)
			return;
	s->phase = FT_PHASE_RUNNING;
	ft_supervisor_record(s, "start", NULL, NULL, "the gateway has started");
}

void ft_life_stop(struct ft_child *child)
{
	child->state = FT_CHILD_STOPPING;
	child->deadline = ft_loop_now() + FT_CHILD_STOP_TIMEOUT;
	if (ft_child_send(child, json_pack("{s:s}", "op", "stop"), NULL, 0))
		ft_child_kill(child, "it takes no messages");
}

uint64_t ft_life_unhang(struct ft_supervisor *s, struct ft_child *vmm, uint64_t now)
{
	if (vmm->state != FT_CHILD_READY || vmm->hung || vmm->isolated || vmm->restart == FT_RESTART_NEVER ||
	    !ft_canaries_hung(&s->canaries, vmm->guest, now))
		return UINT64_MAX;
	if (now < vmm->hung_next)
		return vmm->hung_next;
	/* One that did well for as long as it had to wait begins anew. */
	vmm->hangs = now - vmm->hung_next > vmm->hung_next - vmm->hung_at ? 1 : vmm->hangs + 1;
	uint64_t wait = s->canaries.recent_ns;
	for (unsigned i = 1; i < vmm->hangs && wait < HUNG_MOST; i++)
		wait *= 2;
	vmm->hung_at = now;
	vmm->hung_next = now + (wait < HUNG_MOST ? wait : HUNG_MOST);
	vmm->hung = true;
	ft_supervisor_record(s, "guest-hung", vmm->guest, NULL,
			     "guest %s answers no self-test any more: it is started anew, and not again for %.0f s", vmm->guest,
			     (double)(vmm->hung_next - now) / 1e9);
	ft_child_kill(vmm, "its guest answers no self-test any more");
	return UINT64_MAX;
}

/* ---- Deaths -------------------------------------------------------------------------------------------------- */

/* How a vmm says what became of its guest (gateway/protocol.md). */
static const struct {
	int status;
	const char *text;
} guest_ends[] = {
    {GUEST_REBOOT, "ended: its guest rebooted"},
    {GUEST_POWEROFF, "ended: its guest powered off"},
    {12, "ended: its guest stopped with a triple fault"},
};

#define DEATH 900u /* bytes */

/* How this process ended, and why, as far as anybody knows: what it said itself, or why we killed it. */
static void death_text(const struct ft_child *child, int status, char text[DEATH])
{
	int length = snprintf(text, DEATH, "ended with status %d", WEXITSTATUS(status));
	for (size_t i = 0; i < sizeof(guest_ends) / sizeof(*guest_ends); i++)
		if (child->kind == FT_CHILD_VMM && WIFEXITED(status) &&
		    WEXITSTATUS(status) == guest_ends[i].status)
			length = snprintf(text, DEATH, "%s", guest_ends[i].text);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		length = snprintf(text, DEATH, "was killed by its seccomp filter");
	else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && *child->killed_why)
		length = snprintf(text, DEATH, "was killed: %s", child->killed_why);
	else if (WIFSIGNALED(status))
		length = snprintf(text, DEATH, "was killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (child->failed_code)
		snprintf(text + length, DEATH - (size_t)length, ": %s", child->failed_text);
}

/* A child that never gets ready is the end of the start; the child's own sentence is the one worth reading. */
static void died_starting(struct ft_supervisor *s, struct ft_child *child, const char *how)
{
	if (child->failed_code)
		ft_supervisor_fail(s, child->failed_code, "%s", child->failed_text);
	else if (*child->killed_why)
		ft_supervisor_fail(s, EX_SOFTWARE, "the %s process %s", child->name, how);
	else
		ft_supervisor_fail(s, EX_SOFTWARE, "the %s process %s before it was ready", child->name, how);
}

void ft_life_guest_down(struct ft_supervisor *s, const struct ft_child *vmm, const char *why)
{
	if (ft_supervisor_dataplane(s)->state == FT_CHILD_READY)
		ft_child_send(ft_supervisor_dataplane(s),
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
	ft_life_guest_down(s, child, how);
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
	ft_life_start(s, child);
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
		ft_supervisor_record(s, "guest-down", child->guest, NULL, "guest %s is down: its vmm process %s", child->guest, how);
		ft_life_guest_down(s, child, how);
	}
	ft_supervisor_record(s, "restart", NULL, child->name, "the %s process %s; a new one starts%s", child->name, how,
			     wait ? " after a pause" : "");
}

void ft_life_died(struct ft_supervisor *s, struct ft_child *child, int status)
{
	char how[DEATH];
	ft_hearing_last(s, child);
	death_text(child, status, how);
	if (child->channel.fd >= 0)
		ft_loop_remove(&s->loop, &child->channel);
	if (child->output.fd >= 0)
		ft_loop_remove(&s->loop, &child->output);
	ft_child_close(child);
	ft_query_forget(&s->queries, child);
	ft_snapshot_ended(s, child);
	ft_journal_ended(s, child);
	ft_seed_ended(s, child);
	bool was_ready = child->state == FT_CHILD_READY, was_told = child->state == FT_CHILD_STOPPING;
	child->state = FT_CHILD_DOWN;
	child->deadline = child->retry_at = UINT64_MAX;
	if (child->kind == FT_CHILD_LEDGER)
		ft_sinks_ledger(&s->sinks, false);
	bool lasted = child->ready_at && ft_loop_now() - child->ready_at >= STABLE;
	bool rebooted = WIFEXITED(status) && WEXITSTATUS(status) == GUEST_REBOOT;
	bool boots = !was_told && ft_warm_ended(s, child, was_ready, lasted, rebooted, how);
	if (s->phase != FT_PHASE_STOPPING && boots)
		ft_life_start(s, child);
	else if (s->phase == FT_PHASE_STARTING && !was_ready)
		died_starting(s, child, how);
	else if (s->phase != FT_PHASE_STOPPING && was_told)
		has_stopped(s, child);
	else if (s->phase != FT_PHASE_STOPPING && stays_down(child, status))
		leave_down(s, child, how);
	else if (s->phase != FT_PHASE_STOPPING)
		replace(s, child, how);
}
