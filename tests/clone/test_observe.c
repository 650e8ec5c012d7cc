/* The observer against a scripted guest: what it makes of system calls, returns and switches. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <cmocka.h>

#include "base/trial.h"
#include "clone/observe.h"
#include "clone/pulse.h"
#include "vmm/memory.h"

#define SHELL 0x1000u
#define CHILD 0x2000u
#define OTHER 0x3000u
#define NEWER 0x4000u
#define STACK 0x7000ull

/* Guest memory: the same bytes in every address space, at BASE. */
#define BASE 0x10000u
static uint8_t memory[8192];
static size_t used;
static int pair[2];
static struct ft_observer observer;
static struct ft_report report;

static uint64_t moment = 2; /* virtual time, ns */

static size_t peek(void *context, uint64_t cr3, uint64_t va, void *to, size_t length)
{
	if (va < BASE || va >= BASE + sizeof(memory))
		return 0;
	if (length > BASE + sizeof(memory) - va)
		length = BASE + sizeof(memory) - va;
	memcpy(to, memory + (va - BASE), length);
	return length;
}

static void now(void *context, uint64_t *icount, uint64_t *vtime_ns)
{
	*icount = 1;
	*vtime_ns = moment;
}

static uint64_t place(const void *bytes, size_t length)
{
	used = (used + 15) & ~(size_t)15;
	assert_true(used + length <= sizeof(memory));
	memcpy(memory + used, bytes, length);
	used += length;
	return BASE + used - length;
}

static uint64_t text(const char *string)
{
	return place(string, strlen(string) + 1);
}

static int fresh(void **state)
{
	struct ft_observe_source source = {.peek = peek, .now = now};
	memset(memory, 0, sizeof(memory));
	used = 0;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	ft_report_begin(&report, pair[0], FT_ROLE_TRIAL, 42);
	ft_observe_begin(&observer, &source, &report, SHELL);
	ft_observe_become_clone(&observer, &report);
	observer.syscalls_told = FT_OBSERVE_SYSCALLS; /* ordinary calls are not what these tests look at */
	observer.switches_told = FT_OBSERVE_SWITCHES;
	return 0;
}

static int done(void **state)
{
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static struct ft_event event;
static const char *strings[FT_EVENT_STRINGS];

static bool next(void)
{
	static uint8_t record[FT_EVENT_MAX];
	ssize_t n = recv(pair[1], record, sizeof(record), MSG_DONTWAIT);
	if (n < 0)
		return false;
	assert_int_equal(ft_event_check(record, (size_t)n, &event, strings), 0);
	return true;
}

static void expect(enum ft_event_type type)
{
	assert_true(next());
	assert_string_equal(ft_event_name(event.type), ft_event_name(type));
}

static void call(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	ft_observe_syscall(&observer, nr, (uint64_t[6]){a, b, c, d, 0, 0}, 0x400000, STACK);
}

static void back(uint64_t rax)
{
	ft_observe_sysret(&observer, rax, 0x400002, STACK);
}

static void switch_to(uint64_t cr3)
{
	ft_observe_cr3(&observer, observer.cr3, cr3);
}

static uint64_t arguments(const char *a, const char *b, const char *c)
{
	uint64_t argv[4] = {text(a), b ? text(b) : 0, c ? text(c) : 0, 0};
	return place(argv, sizeof(argv));
}

/* The first return to user mode of a new program: clean registers; arguments, environment and the path on the stack. */
static void program_starts(const char *path)
{
	uint64_t at = text(path), above = BASE + sizeof(memory) - 8;
	uint64_t stack[64] = {1, above, 0, above, above, 0, 6, 4096, 31, at, 0, 0};
	ft_observe_sysret(&observer, 0, 0x7f0000, place(stack, sizeof(stack)));
}

static void a_failed_execve_says_so_and_names_nobody(void **state)
{
	call(SYS_execve, text("/usr/local/bin/id"), arguments("id", NULL, NULL), 0, 0);
	assert_false(next());
	back((uint64_t)-2);
	expect(FT_EVENT_EXEC);
	assert_int_equal((int64_t)event.a[0], -2);
	assert_string_equal(strings[0], "/usr/local/bin/id");
	assert_int_equal(event.process[0], 0);
}

static void execve_is_told_when_the_new_program_starts(void **state)
{
	call(SYS_execve, text("/bin/sh"), arguments("sh", "-c", "id; true"), 0, 0);
	/* It waits for the disk meanwhile: others run, one of them returns from an interrupt. */
	switch_to(OTHER);
	ft_observe_sysret(&observer, 5, 0x1234, 0x9000);
	switch_to(SHELL);
	switch_to(NEWER);
	assert_false(next());
	program_starts("/bin/other");
	assert_false(next());
	program_starts("/bin/sh");
	expect(FT_EVENT_EXEC);
	assert_int_equal(event.a[0], 0);
	assert_int_equal(event.cr3, NEWER);
	assert_string_equal(event.process, "sh");
	assert_string_equal(strings[0], "/bin/sh");
	assert_string_equal(strings[1], "sh -c id; true");
	assert_false(next());
	ft_observe_end(&observer, false);
	assert_false(next());
}

static void an_execve_that_was_not_seen_to_end_is_told_at_the_end(void **state)
{
	call(SYS_execve, text("/bin/sh"), arguments("sh", NULL, NULL), 0, 0);
	switch_to(NEWER);
	ft_observe_end(&observer, false);
	expect(FT_EVENT_EXEC);
	assert_int_equal(event.a[0], 0);
}

static void an_execve_whose_old_address_space_is_reused_meanwhile_is_still_found(void **state)
{
	ft_process_get(&observer.processes, SHELL)->pid = 31;
	call(SYS_execve, text("bin/tool"), arguments("tool", NULL, NULL), 0, 0);
	switch_to(NEWER);
	/* It waits for the disk; its old CR3 now belongs to another process, which runs and goes. */
	switch_to(SHELL);
	switch_to(OTHER);
	switch_to(NEWER);
	program_starts("bin/tool");
	expect(FT_EVENT_EXEC);
	assert_string_equal(strings[0], "bin/tool");
	assert_int_equal(event.pid, 31);
	ft_observe_end(&observer, false);
	assert_false(next());
}

static void a_forked_child_has_its_parents_name_and_its_own_id(void **state)
{
	ft_process_set_name(ft_process_get(&observer.processes, SHELL), "/usr/sbin/nginx");
	call(SYS_fork, 0, 0, 0, 0);
	switch_to(CHILD);
	back(0);
	call(SYS_unlink, text("/tmp/x"), 0, 0, 0);
	back(0);
	expect(FT_EVENT_FILE_REMOVE);
	assert_string_equal(event.process, "nginx");
	assert_int_equal(event.pid, -1);
	switch_to(SHELL);
	back(321);
	expect(FT_EVENT_PROCESS_NEW);
	assert_int_equal(event.a[0], 321);
	assert_int_equal(event.cr3, SHELL);
	switch_to(CHILD);
	call(SYS_unlink, text("/tmp/x"), 0, 0, 0);
	back(0);
	expect(FT_EVENT_FILE_REMOVE);
	assert_int_equal(event.pid, 321);
}

static void the_parent_may_return_first(void **state)
{
	ft_process_set_name(ft_process_get(&observer.processes, SHELL), "sh");
	call(SYS_clone, SIGCHLD, 0, 0, 0);
	back(55);
	expect(FT_EVENT_PROCESS_NEW);
	assert_int_equal(event.a[1], SIGCHLD);
	switch_to(CHILD);
	back(0);
	call(SYS_exit_group, 3, 0, 0, 0);
	expect(FT_EVENT_PROCESS_EXIT);
	assert_int_equal(event.a[0], 3);
	assert_int_equal(event.pid, 55);
	assert_string_equal(event.process, "sh");
}

/* Two workers of one server fork at the same moment, with equal stacks. The kernel has written each child's id into its
 * memory; whoever comes first, no child has its sibling's. */
static void two_forks_at_one_moment_are_told_apart(void **state)
{
	for (int order = 0; order < 4; order++) {
		fresh(NULL);
		uint32_t zero = 0;
		uint64_t at = place(&zero, sizeof(zero));
		const uint64_t parents[2] = {SHELL, OTHER}, children[2] = {CHILD, NEWER};
		const uint32_t ids[2] = {101, 102};
		for (int i = 0; i < 2; i++) {
			switch_to(parents[i]);
			call(SYS_clone, SIGCHLD | 0x01000000 | 0x00200000, 0, 0, at);
		}
		for (int step = 0; step < 4; step++) {
			/* 0: children, the second one first, then parents; 1: the other way round; 2, 3: mixed. */
			static const int steps[4][4] = {
			    {3, 2, 0, 1}, {0, 1, 3, 2}, {0, 3, 1, 2}, {3, 1, 2, 0}};
			int who = steps[order][step];
			switch_to(who < 2 ? parents[who] : children[who - 2]);
			if (who >= 2)
				memcpy(memory + (at - BASE), &ids[who - 2], sizeof(ids[0]));
			back(who < 2 ? ids[who] : 0);
			if (who < 2)
				expect(FT_EVENT_PROCESS_NEW);
		}
		assert_int_equal(observer.calls_used, 0);
		for (int i = 0; i < 2; i++) {
			switch_to(children[i]);
			call(SYS_exit_group, 0, 0, 0, 0);
			expect(FT_EVENT_PROCESS_EXIT);
			assert_int_equal(event.pid, ids[i]);
		}
		done(NULL);
	}
}

static void a_vfork_child_that_executes_gets_its_id_from_the_parents_return(void **state)
{
	ft_process_get(&observer.processes, SHELL)->pid = 7;
	call(SYS_vfork, 0, 0, 0, 0);
	back(0);
	ft_observe_syscall(&observer, SYS_execve,
			   (uint64_t[6]){text("/usr/bin/id"), arguments("id", NULL, NULL)}, 0x400100,
			   STACK - 64);
	switch_to(NEWER);
	program_starts("/usr/bin/id");
	expect(FT_EVENT_EXEC);
	assert_int_equal(event.pid, -1);
	switch_to(SHELL);
	back(88);
	expect(FT_EVENT_PROCESS_NEW);
	assert_int_equal(event.pid, 7);
	switch_to(NEWER);
	call(SYS_exit_group, 0, 0, 0, 0);
	expect(FT_EVENT_PROCESS_EXIT);
	assert_int_equal(event.pid, 88);
}

static void relative_paths_follow_the_working_directory(void **state)
{
	call(SYS_chdir, text("/var/www"), 0, 0, 0);
	back(0);
	call(SYS_openat, (uint64_t)AT_FDCWD, text("./up.php"), O_WRONLY | O_CREAT, 0644);
	back(5);
	expect(FT_EVENT_FILE_WRITE);
	assert_string_equal(strings[0], "/var/www/up.php");
	assert_int_equal(event.a[1], 0);
	call(SYS_openat, 7, text("up.php"), O_RDWR, 0);
	back((uint64_t)-13);
	expect(FT_EVENT_FILE_WRITE);
	assert_string_equal(strings[0], "up.php");
	assert_int_equal((int64_t)event.a[1], -13);
	call(SYS_openat, (uint64_t)AT_FDCWD, text("index.html"), O_RDONLY, 0);
	back(5);
	assert_false(next());
}

static void descriptors_have_the_names_they_were_opened_by(void **state)
{
	call(SYS_openat, (uint64_t)AT_FDCWD, text("/tmp/x"), O_RDONLY, 0);
	back(5);
	call(SYS_fchmod, 5, 04755, 0, 0);
	back(0);
	expect(FT_EVENT_FILE_MODE);
	assert_string_equal(strings[0], "/tmp/x");
	assert_int_equal(event.a[0], 04755);
	/* dup2 and fork keep it, close ends it; what nobody saw opened is told all the same. */
	call(SYS_dup2, 5, 9, 0, 0);
	back(9);
	call(SYS_close, 5, 0, 0, 0);
	back(0);
	call(SYS_fchmod, 5, 04755, 0, 0);
	back((uint64_t)-9);
	expect(FT_EVENT_FILE_MODE);
	assert_string_equal(strings[0], "descriptor 5");
	assert_int_equal((int64_t)event.a[1], -9);
	call(SYS_clone, SIGCHLD, 0, 0, 0);
	switch_to(CHILD);
	back(0);
	call(SYS_fchmod, 9, 0755, 0, 0);
	back(0);
	expect(FT_EVENT_FILE_MODE);
	assert_string_equal(strings[0], "/tmp/x");
	/* By a directory's descriptor, and by an empty path. */
	call(SYS_openat, (uint64_t)AT_FDCWD, text("/tmp"), O_RDONLY | O_DIRECTORY, 0);
	back(3);
	call(SYS_unlinkat, 3, text("y"), 0, 0);
	back(0);
	expect(FT_EVENT_FILE_REMOVE);
	assert_string_equal(strings[0], "/tmp/y");
	call(452, 9, text(""), 0755, AT_EMPTY_PATH);
	back(0);
	expect(FT_EVENT_FILE_MODE);
	assert_string_equal(strings[0], "/tmp/x");
	/* More than there is room for: the newest are known. */
	for (uint64_t fd = 100; fd < 100 + 2 * FT_FILES_OPEN; fd++) {
		used = 1024;
		call(SYS_open, text("/tmp/many"), O_RDONLY, 0, 0);
		back(fd);
	}
	call(SYS_fchmod, 99 + 2 * FT_FILES_OPEN, 0755, 0, 0);
	back(0);
	expect(FT_EVENT_FILE_MODE);
	assert_string_equal(strings[0], "/tmp/many");
	call(SYS_fchmod, 9, 0755, 0, 0);
	back(0);
	expect(FT_EVENT_FILE_MODE);
	assert_string_equal(strings[0], "descriptor 9");
	assert_false(next());
}

static void links_tell_where_they_lead(void **state)
{
	static const struct {
		const char *target, *name, *resolved;
	} links[] = {
	    {"/etc", "/var/lib/nginx/l", "/etc"},
	    {"sub/x", "/var/lib/nginx/l", "/var/lib/nginx/sub/x"},
	    {"../../x", "/var/lib/nginx/l", "/var/lib/nginx/../../x"},
	};
	for (unsigned i = 0; i < 3; i++) {
		call(SYS_symlinkat, text(links[i].target), (uint64_t)AT_FDCWD, text(links[i].name), 0);
		back(0);
		expect(FT_EVENT_FILE_WRITE);
		assert_string_equal(strings[0], links[i].name);
		expect(FT_EVENT_FILE_LINK);
		assert_string_equal(strings[0], links[i].resolved);
		assert_string_equal(strings[1], links[i].name);
	}
	call(SYS_chdir, text("/etc"), 0, 0, 0);
	back(0);
	call(SYS_link, text("passwd"), text("/var/lib/nginx/l"), 0, 0);
	back((uint64_t)-17);
	expect(FT_EVENT_FILE_WRITE);
	expect(FT_EVENT_FILE_LINK);
	assert_string_equal(strings[0], "/etc/passwd");
	assert_int_equal((int64_t)event.a[0], -17);
}

/* Opens path to read it, maps it to run code, and closes it again, as a loader does. */
static void load(const char *path)
{
	call(SYS_openat, (uint64_t)AT_FDCWD, text(path), O_RDONLY | O_CLOEXEC, 0);
	back(3);
	ft_observe_syscall(&observer, SYS_mmap, (uint64_t[6]){0, 4096, 1, 2, 3, 0}, 0x400000, STACK);
	back(0x7f0000000000);
	ft_observe_syscall(&observer, SYS_mmap, (uint64_t[6]){0, 4096, 5, 2, 3, 0}, 0x400000, STACK);
	back(0x7f0000000000);
	call(SYS_close, 3, 0, 0, 0);
	back(0);
}

static void made(uint64_t nr, const char *a, const char *b)
{
	call(nr, text(a), b ? text(b) : O_WRONLY | O_CREAT, 0, 0);
	back(nr == SYS_open ? 8 : 0);
	expect(nr == SYS_rename ? FT_EVENT_FILE_RENAME : FT_EVENT_FILE_WRITE);
	if (nr == SYS_symlink || nr == SYS_link)
		expect(FT_EVENT_FILE_LINK);
}

static void code_of_new_files_is_told_whatever_their_names(void **state)
{
	load("/usr/lib/x.so");
	load("/tmp/x.so");
	assert_false(next());
	made(SYS_open, "/tmp/x.so", NULL);
	load("/usr/lib/x.so");
	assert_false(next());
	load("/tmp/x.so");
	expect(FT_EVENT_FILE_MAP);
	assert_string_equal(strings[0], "/tmp/x.so");
	assert_int_equal(event.a[0], 5);
	load("/tmp/.//a/../x.so");
	expect(FT_EVENT_FILE_MAP);
	load("x.so"); /* it cannot be told which: no working directory is known */
	expect(FT_EVENT_FILE_MAP);
	made(SYS_rename, "/tmp/x.so", "/opt/y.so");
	load("/opt/y.so");
	expect(FT_EVENT_FILE_MAP);
	made(SYS_symlink, "/tmp", "/srv/l");
	load("/srv/l/z.so");
	expect(FT_EVENT_FILE_MAP);
	made(SYS_link, "/tmp/x.so", "/srv/k.so");
	load("/srv/k.so");
	expect(FT_EVENT_FILE_MAP);
	/* A descriptor that nobody saw opened. */
	ft_observe_syscall(&observer, SYS_mmap, (uint64_t[6]){0, 4096, 5, 2, 77, 0}, 0x400000, STACK);
	expect(FT_EVENT_FILE_MAP);
	assert_string_equal(strings[0], "descriptor 77");
	/* execve maps, too. */
	call(SYS_execve, text("/opt/y.so"), arguments("y", NULL, NULL), 0, 0);
	switch_to(NEWER);
	program_starts("/opt/y.so");
	expect(FT_EVENT_EXEC);
	expect(FT_EVENT_FILE_MAP);
	assert_string_equal(strings[0], "/opt/y.so");
	assert_false(next());
}

static void too_many_new_files_are_lost_evidence(void **state)
{
	char path[32];
	for (unsigned i = 0; i < FT_FILES_NEW + 3; i++) {
		used = 1024;
		snprintf(path, sizeof(path), "/tmp/%u", i);
		call(SYS_creat, text(path), 0, 0, 0);
		back(8);
		if (i == FT_FILES_NEW)
			expect(FT_EVENT_LOST);
		expect(FT_EVENT_FILE_WRITE);
		made(SYS_open, path, NULL); /* the same again takes no room */
	}
	assert_false(next());
}

static void addresses_are_decoded(void **state)
{
	struct sockaddr_in in = {
	    .sin_family = AF_INET, .sin_port = htons(4444), .sin_addr.s_addr = htonl(0xc0000201)};
	call(SYS_connect, 3, place(&in, sizeof(in)), sizeof(in), 0);
	back((uint64_t)-115);
	expect(FT_EVENT_CONNECT);
	assert_string_equal(strings[0], "192.0.2.1:4444");
	assert_int_equal(event.a[1], 0xc0000201);
	assert_int_equal(event.a[2], 4444);
	assert_int_equal((int64_t)event.a[3], -115);
	call(SYS_bind, 4, place(&in, sizeof(in)), sizeof(in), 0);
	back(0);
	call(SYS_listen, 4, 10, 0, 0);
	back(0);
	expect(FT_EVENT_LISTEN);
	assert_string_equal(strings[0], "192.0.2.1:4444");
	char local[] = "\1\0/run/app.sock";
	call(SYS_connect, 3, place(local, sizeof(local)), sizeof(local), 0);
	back(0);
	expect(FT_EVENT_CONNECT);
	assert_string_equal(strings[0], "unix:/run/app.sock");
	/* A length that lies, an address that is not there. */
	call(SYS_connect, 3, place(local, sizeof(local)), UINT64_MAX, 0);
	back(0);
	expect(FT_EVENT_CONNECT);
	call(SYS_connect, 3, 0xdead0000, 16, 0);
	back((uint64_t)-14);
	expect(FT_EVENT_CONNECT);
}

static void a_restarted_call_is_told_once(void **state)
{
	call(SYS_unlink, text("/tmp/x"), 0, 0, 0);
	ft_observe_sysret(&observer, SYS_unlink, 0x400000, STACK);
	assert_false(next());
	call(SYS_unlink, text("/tmp/x"), 0, 0, 0);
	back(0);
	expect(FT_EVENT_FILE_REMOVE);
	assert_false(next());
}

static void a_segmentation_fault_is_told_when_it_kills(void **state)
{
	struct ft_process *p = ft_process_get(&observer.processes, CHILD);
	p->pid = 99;
	ft_process_set_name(p, "/usr/lib/cgi-bin/greet");
	switch_to(CHILD);
	/* One that is resolved, one that is not. */
	ft_observe_fault(&observer, 14, 4, 0x8000, 0x401000);
	ft_observe_sysret(&observer, 17, 0x401000, STACK);
	ft_observe_fault(&observer, 14, 0x15, 0x4141414141, 0x4141414141);
	switch_to(SHELL);
	assert_false(next());
	uint32_t status = SIGSEGV;
	uint64_t at = place(&status, sizeof(status));
	call(SYS_wait4, (uint64_t)-1, at, 0, 0);
	back(99);
	expect(FT_EVENT_FAULT);
	assert_int_equal(event.a[0], 14);
	assert_true(event.a[2] == 0x4141414141);
	assert_string_equal(event.process, "greet");
	expect(FT_EVENT_SIGNAL);
	assert_int_equal(event.a[0], SIGSEGV);
	assert_int_equal(event.a[1], 99);
	assert_int_equal(event.pid, 99);
	/* waitid with and without WNOWAIT: one death. */
	call(SYS_wait4, (uint64_t)-1, at, 0, 0);
	back(99);
	assert_false(next());
}

static void other_exceptions_are_told_at_once(void **state)
{
	ft_observe_fault(&observer, 6, 0, 0, 0x401234);
	expect(FT_EVENT_FAULT);
	assert_int_equal(event.a[0], 6);
	assert_int_equal(event.a[3], 0x401234);
	/* Its handler runs: no death. */
	ft_observe_sysret(&observer, 0, 0x405000, 0x6f00);
	ft_observe_end(&observer, false);
	assert_false(next());
}

static void a_death_that_nobody_waits_for_is_told(void **state)
{
	ft_process_set_name(ft_process_get(&observer.processes, CHILD), "/usr/lib/cgi-bin/greet");
	ft_process_get(&observer.processes, CHILD)->pid = 99;
	switch_to(CHILD);
	ft_observe_fault(&observer, 6, 0, 0, 0x401234);
	expect(FT_EVENT_FAULT);
	switch_to(SHELL);
	/* Its address space goes to a new process. */
	call(SYS_fork, 0, 0, 0, 0);
	switch_to(CHILD);
	back(0);
	expect(FT_EVENT_SIGNAL);
	assert_int_equal(event.a[0], SIGILL);
	assert_int_equal(event.pid, 99);
	assert_string_equal(event.process, "greet");
	/* And one whose address space stays unused. */
	ft_observe_fault(&observer, 14, 6, 0, 0x402000);
	switch_to(SHELL);
	ft_observe_end(&observer, false);
	expect(FT_EVENT_FAULT);
	expect(FT_EVENT_SIGNAL);
	assert_int_equal(event.a[0], SIGSEGV);
	assert_false(next());
}

/* A budget ends a trial wherever it is: the page that somebody waits for just then is no crash. */
static void a_page_fault_when_time_is_up_is_no_death(void **state)
{
	switch_to(CHILD);
	ft_observe_fault(&observer, 14, 6, 0x8000, 0x402000);
	switch_to(SHELL);
	moment += 1000000;
	ft_observe_end(&observer, true);
	assert_false(next());
	/* One that has been waited for in vain. */
	moment += 1000000000;
	ft_observe_end(&observer, true);
	expect(FT_EVENT_FAULT);
	expect(FT_EVENT_SIGNAL);
	assert_false(next());
	/* Other exceptions kill at once. */
	switch_to(CHILD);
	ft_observe_fault(&observer, 6, 0, 0, 0x401234);
	expect(FT_EVENT_FAULT);
	ft_observe_end(&observer, true);
	expect(FT_EVENT_SIGNAL);
	moment = 2;
}

/* Two processes of one program fork at the same place, and the first child's text is not in memory yet: when it comes back
 * from that page fault it looks like the other's child, and must not be taken for it (the first would be called dead). */
static void a_child_back_from_its_first_page_fault_is_no_sibling(void **state)
{
	switch_to(SHELL);
	call(SYS_fork, 0, 0, 0, 0);
	switch_to(CHILD);
	back(0);
	ft_observe_fault(&observer, 14, 0x14, 0x400002, 0x400002);
	switch_to(OTHER);
	call(SYS_fork, 0, 0, 0, 0);
	switch_to(CHILD);
	back(0);
	switch_to(NEWER);
	back(0);
	ft_observe_end(&observer, false);
	assert_false(next());
}

static void a_way_around_system_calls_is_told(void **state)
{
	call(SYS_io_uring_setup, 8, 0, 0, 0);
	expect(FT_EVENT_SYSCALL);
	assert_int_equal(event.a[0], 425);
	/* One that was there before the fork is used: told, but not as often as it is. */
	for (unsigned i = 0; i < 2 * FT_OBSERVE_RINGS; i++) {
		call(SYS_io_uring_enter, 3, 1, 0, 0);
		back(1);
	}
	for (unsigned i = 0; i < FT_OBSERVE_RINGS; i++) {
		expect(FT_EVENT_SYSCALL);
		assert_int_equal(event.a[0], 426);
	}
	assert_false(next());
}

static void code_counts_when_user_stores_made_it(void **state)
{
	ft_observe_exec_page(&observer, 0x1000, 0x5000, FT_PAGE_WRITTEN | FT_PAGE_DMA_WRITTEN, 1);
	ft_observe_exec_page(&observer, 0x1000, 0x5000, FT_PAGE_WRITTEN, 5);
	assert_false(next());
	ft_observe_exec_page(&observer, 0x1000, 0x5000, FT_PAGE_WRITTEN | FT_PAGE_USER_WRITTEN, 5);
	expect(FT_EVENT_CODE_WRITTEN);
	ft_observe_exec_page(&observer, 0x2000, 0x6000, 0, 7);
	expect(FT_EVENT_CODE_WRITTEN);
}

static void console_lines_are_whole_and_a_panic_is_one(void **state)
{
	ft_observe_console(&observer, "Kernel pa", 9);
	assert_false(next());
	ft_observe_console(&observer, "nic - not syncing: \x1b[1m\r\nnext", 29);
	expect(FT_EVENT_CONSOLE);
	assert_string_equal(strings[0], "Kernel panic - not syncing: \\x1b[1m");
	expect(FT_EVENT_PANIC);
	ft_observe_end(&observer, false);
	expect(FT_EVENT_CONSOLE);
	assert_string_equal(strings[0], "next");
}

static void the_live_guest_only_keeps_book(void **state)
{
	observer.clone = false;
	call(SYS_unlink, text("/etc/passwd"), 0, 0, 0);
	back(0);
	call(SYS_execve, text("/usr/sbin/cron"), arguments("cron", NULL, NULL), 0, 0);
	switch_to(NEWER);
	program_starts("/usr/sbin/cron");
	ft_observe_syscall(&observer, SYS_set_tid_address, (uint64_t[6]){0}, 0x400000, STACK);
	back(12);
	ft_observe_disk(&observer, true, 1, 1);
	ft_observe_fault(&observer, 6, 0, 0, 0);
	assert_false(next());
	struct ft_process *p = ft_process_find(&observer.processes, NEWER);
	assert_non_null(p);
	assert_string_equal(p->name, "cron");
	assert_int_equal(p->pid, 12);
}

/* A guest may do anything, in any order: bounded memory, records that are always well formed. */
static void a_random_guest_is_survived(void **state)
{
	static const uint64_t calls[] = {SYS_execve,  SYS_clone,      SYS_clone3, SYS_vfork, SYS_openat,
					 SYS_connect, SYS_bind,       SYS_listen, SYS_wait4, SYS_waitid,
					 SYS_rename,  SYS_exit_group, SYS_chdir,  SYS_kill,  SYS_mmap,
					 SYS_openat2, SYS_execveat,   SYS_prctl,  SYS_mount, SYS_symlinkat,
					 SYS_linkat,  SYS_fchmod,     SYS_dup2,   SYS_close, 1000000};
	unsigned seed = 3;
	uint64_t records = 0;
	report.limit = UINT64_MAX;
	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (uint8_t)rand_r(&seed);
	for (int round = 0; round < 100000; round++) {
		uint64_t args[6];
		for (int i = 0; i < 6; i++)
			args[i] = rand_r(&seed) % 3 ? BASE + (uint64_t)rand_r(&seed) % (sizeof(memory) + 64)
				  : (uint64_t)rand_r(&seed) % 2 ? UINT64_MAX
								: (uint64_t)rand_r(&seed);
		uint64_t rsp = STACK + 16 * ((uint64_t)rand_r(&seed) % 100);
		switch (rand_r(&seed) % 5) {
		case 0:
		case 1:
			ft_observe_syscall(&observer,
					   calls[(size_t)rand_r(&seed) % (sizeof(calls) / sizeof(*calls))],
					   args, 0x400000, rsp);
			break;
		case 2:
			ft_observe_sysret(&observer, rand_r(&seed) % 2 ? 0 : (uint64_t)rand_r(&seed),
					  0x400002, rsp);
			break;
		case 3:
			switch_to(0x1000 * (1 + (uint64_t)rand_r(&seed) % 2000));
			break;
		default:
			ft_observe_fault(&observer, (unsigned)rand_r(&seed) % 32, 0, args[0], args[1]);
			break;
		}
		while (next())
			records++;
	}
	ft_observe_end(&observer, false);
	assert_true(records > 10000);
}

static void frames_are_described(void **state)
{
	uint64_t values[6];
	char address[64];
	uint8_t frame[64] = {0};
	frame[12] = 8;
	frame[14] = 0x45;
	frame[17] = 46;
	frame[23] = 6;
	memcpy(frame + 26, "\x0a\x00\x02\x0f\xc0\x00\x02\x01", 8);
	memcpy(frame + 34, "\x9c\x40\x11\x5c", 4);
	frame[47] = 2;
	assert_true(ft_observe_frame(frame, 60, false, values, address));
	assert_string_equal(address, "192.0.2.1:4444");
	assert_int_equal(values[3], 4444);
	assert_int_equal(values[4], 40000);
	assert_int_equal(values[5], 1);
	frame[47] = 0x12;
	assert_true(ft_observe_frame(frame, 60, false, values, address));
	assert_int_equal(values[5], 0);
	for (size_t n = 0; n < 60; n++)
		ft_observe_frame(frame, n, n & 1, values, address);
	frame[14] = 0x4f;
	for (size_t n = 34; n < 64; n++)
		ft_observe_frame(frame, n, false, values, address);
}

/* The same behind a tag and over IPv6 with destination options: nothing is less visible for that. */
static void frames_of_ipv6_and_vlans_are_described(void **state)
{
	uint64_t values[6];
	char address[64];
	uint8_t frame[90] = {[12] = 0x81, [15] = 5, [16] = 0x86, [17] = 0xdd};
	uint8_t *ip = frame + 18;
	ip[0] = 0x60;
	ip[5] = 28;
	ip[6] = 60;
	ip[8] = ip[24] = 0xfd;
	ip[23] = 15;
	ip[39] = 9;
	ip[40] = 6;
	ip[42] = 1;
	ip[43] = 4;
	memcpy(ip + 48, "\x9c\x40\x11\x5c", 4);
	ip[61] = 2;
	assert_true(ft_observe_frame(frame, 86, false, values, address));
	assert_string_equal(address, "[fd00::9]:4444");
	assert_int_equal(values[1], 6);
	assert_int_equal(values[4], 40000);
	assert_int_equal(values[5], 1);
	for (size_t n = 0; n < 86; n++)
		assert_false(ft_observe_frame(frame, n, n & 1, values, address));
	/* An echo request begins something; neighbour discovery does not. */
	ip[40] = 58;
	for (int type = 0; type < 256; type++) {
		ip[48] = (uint8_t)type;
		assert_true(ft_observe_frame(frame, 86, false, values, address));
		assert_int_equal(values[5], type == 128);
	}
}

/* A datagram does not show who began: it is an answer when it goes back to a sender whose input is tried, whichever. */
static void answers_to_held_flows_open_nothing(void **state)
{
	static uint8_t frame[60] = {[12] = 0x08, [14] = 0x45, [17] = 46, [22] = 64, [23] = 17};
	struct ft_trial_flow held[3] = {0};
	const uint8_t guest[4] = {10, 0, 2, 15}, client[4] = {10, 0, 2, 9};
	memcpy(frame + 26, guest, 4);
	memcpy(frame + 30, client, 4);
	frame[34] = 5353 >> 8;
	frame[35] = 5353 & 255;
	for (unsigned i = 0; i < 3; i++)
		held[i] = (struct ft_trial_flow){.client_ip = ft_address_v4(client),
						 .server_ip = ft_address_v4(guest),
						 .client_port = htons((uint16_t)(40000 + i)),
						 .server_port = htons(5353),
						 .protocol = 17};
	held[1].protocol = 6;
	observer.held = held;
	observer.held_count = 3;
	const bool opens[5] = {false, true, false, true, true};
	for (unsigned i = 0; i < 5; i++) {
		frame[36] = (uint8_t)((40000 + i) >> 8);
		frame[37] = (uint8_t)(40000 + i);
		if (i == 4) { /* not the client's address */
			frame[37] -= 4;
			frame[33]++;
		}
		ft_observe_net_tx(&observer, frame, sizeof(frame));
		expect(FT_EVENT_NET_TX);
		assert_int_equal(event.a[5], opens[i]);
	}
	frame[33]--;
	observer.held_count = 0;
	ft_observe_net_tx(&observer, frame, sizeof(frame));
	expect(FT_EVENT_NET_TX);
	assert_int_equal(event.a[5], 1);
}

/* A datagram between the guest, 10.0.2.15:port, and 192.0.2.peer:5000, as the pulse of the live guest sees it. What it tells
 * `opens`; -1: nothing was told. */
static int datagram(struct ft_pulse *pulse, uint8_t peer, uint16_t port, bool received)
{
	uint8_t frame[60] = {[12] = 8, [14] = 0x45, [17] = 46, [23] = IPPROTO_UDP};
	uint8_t guest[] = {10, 0, 2, 15}, other[] = {192, 0, 2, peer};
	uint8_t ports[2][2] = {{(uint8_t)(port >> 8), (uint8_t)port}, {5000 >> 8, 5000 & 0xff}};
	memcpy(frame + 26, received ? other : guest, 4);
	memcpy(frame + 30, received ? guest : other, 4);
	memcpy(frame + 34, ports[received], 2);
	memcpy(frame + 36, ports[!received], 2);
	ft_pulse_frame(pulse, frame, sizeof(frame), received);
	if (!next() || received)
		return -1;
	assert_int_equal(event.type, FT_EVENT_NET_TX);
	return (int)event.a[5];
}

static void an_answer_to_a_datagram_opens_nothing(void **state)
{
	struct ft_pulse pulse;
	ft_pulse_begin(&pulse, &observer, 0);
	assert_int_equal(datagram(&pulse, 1, 5353, false), 1);
	assert_int_equal(datagram(&pulse, 2, 5353, true), -1);
	assert_int_equal(datagram(&pulse, 2, 5353, false), 0);
	/* That one asked does not excuse what goes to others, or to the same one from elsewhere. */
	assert_int_equal(datagram(&pulse, 3, 5353, false), 1);
	assert_int_equal(datagram(&pulse, 2, 40000, false), 1);
	/* Servers have more clients than are kept, one after the other. */
	for (unsigned round = 0; round < 3; round++)
		for (unsigned peer = 10; peer < 250; peer++) {
			ft_pulse_ran(&pulse, 0, (uint64_t)(round * 1000 + peer) * 2 * FT_PULSE_WINDOW_NS);
			while (next())
				;
			datagram(&pulse, (uint8_t)peer, 5353, true);
			assert_int_equal(datagram(&pulse, (uint8_t)peer, 5353, false), 0);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(a_failed_execve_says_so_and_names_nobody, fresh, done),
	    cmocka_unit_test_setup_teardown(execve_is_told_when_the_new_program_starts, fresh, done),
	    cmocka_unit_test_setup_teardown(an_execve_that_was_not_seen_to_end_is_told_at_the_end, fresh,
					    done),
	    cmocka_unit_test_setup_teardown(
		an_execve_whose_old_address_space_is_reused_meanwhile_is_still_found, fresh, done),
	    cmocka_unit_test_setup_teardown(a_forked_child_has_its_parents_name_and_its_own_id, fresh, done),
	    cmocka_unit_test_setup_teardown(the_parent_may_return_first, fresh, done),
	    cmocka_unit_test(two_forks_at_one_moment_are_told_apart),
	    cmocka_unit_test_setup_teardown(a_vfork_child_that_executes_gets_its_id_from_the_parents_return,
					    fresh, done),
	    cmocka_unit_test_setup_teardown(relative_paths_follow_the_working_directory, fresh, done),
	    cmocka_unit_test_setup_teardown(descriptors_have_the_names_they_were_opened_by, fresh, done),
	    cmocka_unit_test_setup_teardown(links_tell_where_they_lead, fresh, done),
	    cmocka_unit_test_setup_teardown(code_of_new_files_is_told_whatever_their_names, fresh, done),
	    cmocka_unit_test_setup_teardown(too_many_new_files_are_lost_evidence, fresh, done),
	    cmocka_unit_test_setup_teardown(addresses_are_decoded, fresh, done),
	    cmocka_unit_test_setup_teardown(a_restarted_call_is_told_once, fresh, done),
	    cmocka_unit_test_setup_teardown(a_segmentation_fault_is_told_when_it_kills, fresh, done),
	    cmocka_unit_test_setup_teardown(other_exceptions_are_told_at_once, fresh, done),
	    cmocka_unit_test_setup_teardown(a_death_that_nobody_waits_for_is_told, fresh, done),
	    cmocka_unit_test_setup_teardown(a_page_fault_when_time_is_up_is_no_death, fresh, done),
	    cmocka_unit_test_setup_teardown(a_child_back_from_its_first_page_fault_is_no_sibling, fresh,
					    done),
	    cmocka_unit_test_setup_teardown(a_way_around_system_calls_is_told, fresh, done),
	    cmocka_unit_test_setup_teardown(code_counts_when_user_stores_made_it, fresh, done),
	    cmocka_unit_test_setup_teardown(console_lines_are_whole_and_a_panic_is_one, fresh, done),
	    cmocka_unit_test_setup_teardown(the_live_guest_only_keeps_book, fresh, done),
	    cmocka_unit_test_setup_teardown(a_random_guest_is_survived, fresh, done),
	    cmocka_unit_test_setup_teardown(answers_to_held_flows_open_nothing, fresh, done),
	    cmocka_unit_test_setup_teardown(frames_are_described, fresh, done),
	    cmocka_unit_test_setup_teardown(an_answer_to_a_datagram_opens_nothing, fresh, done),
	    cmocka_unit_test_setup_teardown(frames_of_ipv6_and_vlans_are_described, fresh, done),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
