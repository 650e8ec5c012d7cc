#include "gateway/child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/printable.h"

static const struct {
	const char *program;
	const char *room; /* where the build tree has it, beside our own directory */
	const char *name;
} kinds[] = {
    [FT_CHILD_LEDGER] = {"foretaste-ledger", "log", "ledger"},
    [FT_CHILD_DATAPLANE] = {"foretaste-dataplane", "dataplane", "dataplane"},
    [FT_CHILD_VMM] = {"foretaste-vmm", "guest", "vmm"},
    [FT_CHILD_METRICS] = {"foretaste-metrics", "metrics", "metrics"},
};

const char *ft_child_state_name(enum ft_child_state state)
{
	static const char *const names[] = {"down", "starting", "ready", "stopping"};
	return names[state];
}

void ft_child_prepare(struct ft_child *child, enum ft_child_kind kind, const char *guest, uid_t uid)
{
	*child = (struct ft_child){.kind = kind,
				   .uid = uid,
				   .channel.fd = -1,
				   .output.fd = -1,
				   .deadline = UINT64_MAX,
				   .retry_at = UINT64_MAX,
				   .journal_due = UINT64_MAX};
	snprintf(child->guest, sizeof(child->guest), "%s", guest ? guest : "");
	snprintf(child->name, sizeof(child->name), "%s%s%s", kinds[kind].name, guest ? " " : "",
		 guest ? guest : "");
}

static bool runnable(char *path, size_t size, const char *directory, const char *below, const char *program)
{
	int n = snprintf(path, size, "%s/%s%s%s", directory, below, *below ? "/" : "", program);
	return n > 0 && (size_t)n < size && !access(path, X_OK);
}

int ft_child_program(enum ft_child_kind kind, char *path, size_t size, struct ft_error *err)
{
	const char *program = kinds[kind].program, *given = getenv("FORETASTE_LIBEXEC");
	if (given) {
		if (runnable(path, size, given, "", program))
			return 0;
		return ft_error_set(err, -ENOENT, "there is no %s in %s (FORETASTE_LIBEXEC)", program, given);
	}
	char own[PATH_MAX], room[64];
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);
	if (n < 0)
		return ft_error_set(err, -errno, "cannot find our own executable: %s", strerror(errno));
	own[n] = 0;
	*strrchr(own, '/') = 0;
	snprintf(room, sizeof(room), "../%s", kinds[kind].room);
	if (runnable(path, size, own, "", program) || runnable(path, size, own, room, program) ||
	    runnable(path, size, own, "../libexec/foretaste", program))
		return 0;
	return ft_error_set(err, -ENOENT, "there is no %s beside %s", program, own);
}

#define ENVIRONMENT 32

/* What a child inherits of the environment: our own variables, the directory below /run that a service has to itself
 * (DPDK makes one there, and could nowhere else), and what steers the sanitizers of instrumented builds; but nothing else
 * that an operator's shell happens to hold. */
static void child_environment(const char *kept[ENVIRONMENT])
{
	static const char *const passed[] = {
	    "FORETASTE_", "RUNTIME_DIRECTORY=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS="};
	size_t count = 0;
	kept[count++] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	kept[count++] = "LANG=C.UTF-8";
	for (char **entry = environ; *entry; entry++)
		for (size_t i = 0; i < sizeof(passed) / sizeof(*passed) && count < ENVIRONMENT - 1; i++)
			if (!strncmp(*entry, passed[i], strlen(passed[i])))
				kept[count++] = *entry;
	kept[count] = NULL;
}

/* In the child. Descriptors: 0 nothing, 1 and 2 the pipe to our log, 3 the channel; no others. */
static void become(const char *program, pid_t parent, int channel, int output, const char **environment)
{
	sigset_t none;
	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Away from the terminal: Ctrl-C is for the supervisor, which stops the children in order. */
	setsid();
	if (ft_confine_die_with(parent, SIGKILL))
		_exit(127);
	/* Sources first out of the way of 0..3, so that no dup2 closes what a later one needs. */
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	nothing = fcntl(nothing, F_DUPFD_CLOEXEC, 10);
	channel = fcntl(channel, F_DUPFD_CLOEXEC, 10);
	output = fcntl(output, F_DUPFD_CLOEXEC, 10);
	if (nothing < 0 || channel < 0 || output < 0 || dup2(nothing, 0) < 0 || dup2(output, 1) < 0 ||
	    dup2(output, 2) < 0 || dup2(channel, FT_CHANNEL_FD) < 0 || close_range(FT_CHANNEL_FD + 1, ~0u, 0))
		_exit(127);
	char *arguments[] = {(char *)program, NULL};
	execve(program, arguments, (char **)environment);
	dprintf(2, "cannot execute %s: %s\n", program, strerror(errno));
	_exit(127);
}

int ft_child_spawn(struct ft_child *child, const char *program, struct ft_error *err)
{
	int pair[2] = {-1, -1}, output[2] = {-1, -1};
	pid_t parent = getpid(), pid = -1;
	int error = 0;
	const char *environment[ENVIRONMENT];
	child_environment(environment);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) || pipe2(output, O_CLOEXEC))
		error = -errno;
	else if ((pid = fork()) < 0)
		error = -errno;
	if (pid == 0)
		become(program, parent, pair[1], output[1], environment);
	if (pair[1] >= 0)
		close(pair[1]);
	if (output[1] >= 0)
		close(output[1]);
	if (error) {
		if (pair[0] >= 0)
			close(pair[0]);
		if (output[0] >= 0)
			close(output[0]);
		return ft_error_set(err, error, "cannot start the %s process: %s", child->name,
				    strerror(-error));
	}
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	fcntl(output[0], F_SETFL, O_NONBLOCK);
	child->pid = pid;
	child->channel.fd = pair[0];
	child->output.fd = output[0];
	child->line_length = 0;
	child->failed_code = 0;
	child->killed_why[0] = 0;
	child->running = child->hung = false;
	return 0;
}

int ft_child_send(struct ft_child *child, json_t *message, const int *fds, int count)
{
	int error = !message ? -ENOMEM : child->channel.fd < 0 ? -EPIPE : 0;
	if (!error)
		error = ft_channel_send(child->channel.fd, message, fds, count);
	json_decref(message);
	return error;
}

/* Takes one finished line (or a full buffer) out of child->line. */
static bool take_line(struct ft_child *child, char *line, size_t size, bool end)
{
	char *newline = memchr(child->line, '\n', child->line_length);
	size_t length = newline ? (size_t)(newline - child->line) : child->line_length;
	if (!newline && !(end && length) && length < sizeof(child->line))
		return false;
	ft_printable(line, size, child->line, length);
	size_t used = length + (newline != NULL);
	memmove(child->line, child->line + used, child->line_length - used);
	child->line_length -= used;
	return true;
}

bool ft_child_output(struct ft_child *child, char *line, size_t size)
{
	if (take_line(child, line, size, child->output.fd < 0))
		return true;
	if (child->output.fd < 0)
		return false;
	ssize_t n = read(child->output.fd, child->line + child->line_length,
			 sizeof(child->line) - child->line_length);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		close(child->output.fd);
		child->output.fd = -1;
	} else {
		child->line_length += (size_t)n;
	}
	return take_line(child, line, size, n <= 0);
}

bool ft_child_may_log(struct ft_child *child, unsigned *lost)
{
	uint64_t now = ft_loop_now();
	*lost = 0;
	if (now - child->window_start >= 1000000000u) {
		*lost = child->window_lost;
		child->window_start = now;
		child->window_lines = child->window_lost = 0;
	}
	if (child->window_lines < FT_CHILD_LINES) {
		child->window_lines++;
		return true;
	}
	child->window_lost++;
	return false;
}

/* A process may be ended by who has its uid. Taking that for the moment needs nothing beyond what gives children their
 * uids; CAP_KILL would let us end any process of the machine. */
void ft_child_kill(struct ft_child *child, const char *why)
{
	uid_t own = geteuid();
	if (!*child->killed_why)
		snprintf(child->killed_why, sizeof(child->killed_why), "%s", why);
	if (child->pid <= 0 || !kill(child->pid, SIGKILL) || errno != EPERM || seteuid(child->uid))
		return;
	kill(child->pid, SIGKILL);
	if (seteuid(own))
		abort(); /* we may go back to what our real uid is */
}

void ft_child_close(struct ft_child *child)
{
	if (child->channel.fd >= 0)
		close(child->channel.fd);
	if (child->output.fd >= 0)
		close(child->output.fd);
	child->channel.fd = child->output.fd = -1;
	child->pid = 0;
	child->running = false;
}
