/* Each case runs in a forked child, because confinement is for good. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/confine.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static const struct ft_confine_rule base[] = {
    {"exit_group", "the test ends"},
    {"write", "the test reports"},
    {"getpid", "the test tries it"},
    {"seccomp", "a second filter"},
    {"prctl", "thread names", .arg = 1, .equals = PR_SET_NAME},
    {"prctl", "before a second filter", .arg = 1, .equals = PR_SET_NO_NEW_PRIVS},
    {"socket", "only unix sockets", .arg = 1, .equals = AF_UNIX},
    {"mmap", "never executable", .arg = 3, .mask = 4, .equals = 0},
    {"clone3", "answered, not fatal", .error = ENOSYS},
};

/* Runs body in a child under the base filter; returns its wait status. */
static int confined(int (*body)(void))
{
	struct ft_confine_filter filter;
	assert_int_equal(ft_confine_compile(base, COUNT(base), &filter, NULL), 0);
	pid_t child = fork();
	if (child == 0) {
		if (ft_confine_install(&filter))
			_exit(99);
		_exit(body());
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	ft_confine_filter_free(&filter);
	return status;
}

static int allowed_calls(void)
{
	if (syscall(SYS_getpid) <= 0 || prctl(PR_SET_NAME, "x", 0, 0, 0))
		return 1;
	int fd = (int)syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0)
		return 2;
	return syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS ? 0 : 3;
}

static int refused_call(void)
{
	syscall(SYS_kill, 1, 0);
	return 0;
}

static int refused_argument(void)
{
	syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
	return 0;
}

static int refused_mask(void)
{
#if defined(__SANITIZE_ADDRESS__)
	syscall(SYS_kill, 1, 0); /* instrumented builds need any mmap */
#else
	syscall(SYS_mmap, 0, 4096, 7, 0x22, -1, 0);
#endif
	return 0;
}

static void only_what_is_listed_runs(void **state)
{
	int status = confined(allowed_calls);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	int (*const bad[])(void) = {refused_call, refused_argument, refused_mask};
	for (size_t i = 0; i < COUNT(bad); i++) {
		status = confined(bad[i]);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGSYS);
	}
}

/* A process that ends by exit() runs what was registered for that, such as a sanitizer's leak check. */
static int leaves_by_exit(void)
{
	exit(0);
}

static void a_confined_process_can_end(void **state)
{
	assert_int_equal(confined(leaves_by_exit), 0);
}

/* What a clone does: a tighter filter, compiled before the fork, on top. */
static struct ft_confine_filter tighter;

static int second_filter_forbids_more(void)
{
	if (syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0) < 0 || ft_confine_install(&tighter))
		return 1;
	syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
	return 0;
}

static void filters_stack(void **state)
{
	/* It also allows kill, which the first does not: the stricter of the two counts. */
	static const struct ft_confine_rule rules[] = {{"exit_group", "the test ends"},
						       {"kill", "the test tries it"}};
	assert_int_equal(ft_confine_compile(rules, COUNT(rules), &tighter, NULL), 0);
	int status = confined(second_filter_forbids_more);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
	ft_confine_filter_free(&tighter);
}

static void a_wrong_table_is_named(void **state)
{
	struct ft_confine_filter filter;
	struct ft_error err = {0};
	assert_int_equal(ft_confine_compile(&(struct ft_confine_rule){"raed", "x"}, 1, &filter, &err),
			 -EINVAL);
	assert_string_equal(err.text, "seccomp table: there is no syscall \"raed\"");
	err = (struct ft_error){0};
	assert_int_equal(ft_confine_compile(&(struct ft_confine_rule){"read", ""}, 1, &filter, &err),
			 -EINVAL);
	assert_string_equal(err.text, "seccomp table: read has no reason");
}

static long status_field(const char *name)
{
	char line[256];
	long value = -1;
	FILE *file = fopen("/proc/self/status", "r");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			value = (long)strtoul(line + strlen(name) + 1, NULL, 16);
	if (file)
		fclose(file);
	return value;
}

static int identity(void)
{
	struct ft_error err = {0};
	gid_t groups[] = {4, 24};
	if (setgroups(2, groups) || ft_confine_die_with(getppid(), SIGKILL))
		return 1;
	if (ft_confine_identity(64999, 64998, FT_CONFINE_UNDUMPABLE, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 2;
	}
	int death = 0;
	prctl(PR_GET_PDEATHSIG, &death, 0, 0, 0);
	if (getuid() != 64999 || geteuid() != 64999 || getgid() != 64998 || getgroups(0, NULL) != 0)
		return 3;
	if (death != SIGKILL || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 ||
	    prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
		return 4;
	if (setuid(0) == 0 || socket(AF_INET, SOCK_RAW, 6) >= 0)
		return 5;
	if (status_field("CapPrm") || status_field("CapEff") || status_field("CapInh") ||
	    status_field("CapAmb"))
		return 6;
	return status_field("CapBnd") == 0 ? 0 : 7;
}

static void identity_is_given_up_for_good(void **state)
{
	if (geteuid() != 0) {
		print_message("skipped: changing the uid needs root\n");
		skip();
	}
	pid_t child = fork();
	if (child == 0)
		_exit(identity());
	int status;
	waitpid(child, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void root_is_refused(void **state)
{
	struct ft_error err = {0};
	assert_int_equal(ft_confine_identity(0, 64000, 0, &err), -EINVAL);
	assert_string_equal(err.text, "cannot run as uid 0, gid 64000: a confined process is not root");
}

/* The middle process dies; its child, which would wait for ever, has to be gone: the pipe's end says so. */
static void the_parents_death_is_ours(void **state)
{
	int pipe_fds[2];
	assert_int_equal(pipe(pipe_fds), 0);
	pid_t middle = fork();
	if (middle == 0) {
		pid_t self = getpid();
		int ready[2];
		if (pipe(ready))
			_exit(1);
		if (fork() == 0) {
			if (ft_confine_die_with(self, SIGKILL) || write(ready[1], "r", 1) != 1)
				_exit(1);
			for (;;)
				pause();
		}
		char byte;
		_exit(read(ready[0], &byte, 1) == 1 ? 0 : 1);
	}
	close(pipe_fds[1]);
	int status;
	waitpid(middle, &status, 0);
	assert_int_equal(status, 0);
	char byte;
	assert_int_equal(read(pipe_fds[0], &byte, 1), 0);
	close(pipe_fds[0]);
	assert_int_equal(ft_confine_die_with(1 << 30, SIGKILL), -ESRCH);
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(only_what_is_listed_runs),      cmocka_unit_test(filters_stack),
	    cmocka_unit_test(a_confined_process_can_end),    cmocka_unit_test(a_wrong_table_is_named),
	    cmocka_unit_test(identity_is_given_up_for_good), cmocka_unit_test(root_is_refused),
	    cmocka_unit_test(the_parents_death_is_ours),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
