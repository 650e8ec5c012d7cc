#include "clone/tell.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define VECTOR_PF 14u

struct ft_process *ft_tell_process(struct ft_observer *o)
{
	return ft_process_find(&o->processes, o->cr3);
}

void ft_tell_as(struct ft_observer *o, const struct ft_process *process, uint64_t cr3,
		enum ft_event_type type, const uint64_t *values, unsigned count, const char *string0,
		const char *string1)
{
	struct ft_event event = {.type = (uint16_t)type, .cr3 = cr3, .pid = process ? process->pid : -1};
	o->source.now(o->source.context, &event.icount, &event.vtime_ns);
	if (process)
		memcpy(event.process, process->name, sizeof(event.process));
	for (unsigned i = 0; i < count && i < FT_EVENT_ARGS; i++)
		event.a[i] = values[i];
	ft_report_send(o->report, &event, string0, string1);
}

void ft_observe_tell(struct ft_observer *o, enum ft_event_type type, const uint64_t *values, unsigned count,
		     const char *string0, const char *string1)
{
	ft_tell_as(o, NULL, 0, type, values, count, string0, string1);
}

void ft_observe_printable(const char *bytes, size_t length, char *to, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	size_t at = 0;
	for (size_t i = 0; i < length; i++) {
		uint8_t c = (uint8_t)bytes[i];
		bool plain = c >= 0x20 && c < 0x7f;
		if (at + (plain ? 1 : 4) >= size)
			break;
		if (plain) {
			to[at++] = (char)c;
			continue;
		}
		to[at++] = '\\';
		to[at++] = 'x';
		to[at++] = digits[c >> 4];
		to[at++] = digits[c & 15];
	}
	to[at] = 0;
}

bool ft_tell_string(struct ft_observer *o, uint64_t cr3, uint64_t va, char *to, size_t size)
{
	char bytes[FT_OBSERVE_STRING];
	size_t n = o->source.peek(o->source.context, cr3, va, bytes, sizeof(bytes));
	size_t length = strnlen(bytes, n);
	ft_observe_printable(bytes, length, to, size);
	return n != 0 && (length < n || n == sizeof(bytes));
}

static uint64_t peek_number(struct ft_observer *o, uint64_t cr3, uint64_t va, size_t size)
{
	uint64_t value = 0;
	return o->source.peek(o->source.context, cr3, va, &value, size) == size ? value : 0;
}

/* argv, joined by spaces. */
static void read_argv(struct ft_observer *o, uint64_t cr3, uint64_t argv, char *to, size_t size)
{
	size_t at = 0;
	to[0] = 0;
	for (unsigned i = 0; i < 64 && at + 2 < size; i++) {
		uint64_t va = peek_number(o, cr3, argv + 8 * i, 8);
		if (!va)
			return;
		if (i)
			to[at++] = ' ';
		ft_tell_string(o, cr3, va, to + at, size - at);
		at += strlen(to + at);
	}
}

/* "10.0.2.3:53", "[2001:db8::1]:443", "unix:/run/app.sock". Family, address and port as numbers. */
static void read_address(struct ft_observer *o, struct ft_observe_call *call)
{
	uint8_t raw[128] = {0};
	size_t length = call->args[2] < sizeof(raw) ? (size_t)call->args[2] : sizeof(raw);
	size_t n = o->source.peek(o->source.context, call->cr3, call->args[1], raw, length);
	uint16_t family;
	if (n < sizeof(family))
		return;
	memcpy(&family, raw, sizeof(family));
	call->has_strings = true;
	call->flags = family;
	char text[INET6_ADDRSTRLEN];
	if (family == AF_INET && n >= sizeof(struct sockaddr_in)) {
		struct sockaddr_in in;
		memcpy(&in, raw, sizeof(in));
		call->child_cr3 = ntohl(in.sin_addr.s_addr);
		call->child_pid = ntohs(in.sin_port);
		inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
		snprintf(call->first, sizeof(call->first), "%s:%u", text, ntohs(in.sin_port));
	} else if (family == AF_INET6 && n >= offsetof(struct sockaddr_in6, sin6_scope_id)) {
		struct sockaddr_in6 in = {0};
		memcpy(&in, raw, n < sizeof(in) ? n : sizeof(in));
		for (int i = 8; i < 16; i++)
			call->child_cr3 = call->child_cr3 << 8 | in.sin6_addr.s6_addr[i];
		call->child_pid = ntohs(in.sin6_port);
		inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof(text));
		snprintf(call->first, sizeof(call->first), "[%s]:%u", text, ntohs(in.sin6_port));
	} else if (family == AF_UNIX) {
		char path[FT_OBSERVE_STRING - 8];
		size_t most = n - sizeof(family);
		const char *name = (const char *)raw + sizeof(family);
		/* An abstract name starts with NUL; written with an @ as everywhere. */
		bool abstract = most && !name[0];
		ft_observe_printable(name + abstract, abstract ? most - 1 : strnlen(name, most), path,
				     sizeof(path));
		snprintf(call->first, sizeof(call->first), "unix:%s%s", abstract ? "@" : "", path);
	} else {
		snprintf(call->first, sizeof(call->first), "family %u", family);
	}
}

static bool writes(uint64_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
}

static void resolve(struct ft_observer *o, const struct ft_observe_call *call, int directory,
		    const char *path, char *to)
{
	bool here = directory < 0 || (int32_t)call->args[directory] == AT_FDCWD;
	/* Below a directory descriptor: where that is, is known when it was opened since the fork. */
	const char *above = here || path[0] == '/'
				? NULL
				: ft_files_name(&o->files, call->cr3, call->args[directory]);
	if (above && path[0])
		snprintf(to, FT_OBSERVE_STRING, "%s/%s", above, path);
	else if (above)
		snprintf(to, FT_OBSERVE_STRING, "%s", above);
	else
		ft_process_resolve(here ? ft_process_find(&o->processes, call->cr3) : NULL, path, to,
				   FT_OBSERVE_STRING);
}

/* What a symbolic link says, from the directory it is in. */
static void resolve_target(const char *target, const char *link, char *to)
{
	const char *slash = strrchr(link, '/');
	if (target[0] == '/' || !slash)
		snprintf(to, FT_OBSERVE_STRING, "%s", target);
	else
		snprintf(to, FT_OBSERVE_STRING, "%.*s/%s", (int)(slash - link), link, target);
}

static void name_descriptor(struct ft_observer *o, uint64_t cr3, uint64_t fd, char *to)
{
	const char *name = ft_files_name(&o->files, cr3, fd);
	if (name)
		snprintf(to, FT_OBSERVE_STRING, "%s", name);
	else
		snprintf(to, FT_OBSERVE_STRING, "descriptor %d", (int)fd);
}

static void read_file(struct ft_observer *o, struct ft_observe_call *call)
{
	const struct ft_call_file *file = ft_call_file(call->nr);
	char raw[FT_OBSERVE_STRING];
	call->flags = file->value < 0 ? file->fixed : call->args[(int)file->value];
	if (call->nr == SYS_openat2)
		call->flags = peek_number(o, call->cr3, call->args[2], 8);
	if (file->path < 0) {
		call->has_strings = true;
		name_descriptor(o, call->cr3, call->args[(int)file->directory], call->first);
		return;
	}
	call->has_strings = ft_tell_string(o, call->cr3, call->args[(int)file->path], raw, sizeof(raw));
	resolve(o, call, file->directory, raw, call->first);
	if (file->path2 >= 0) {
		char target[FT_OBSERVE_STRING];
		memcpy(target, raw, sizeof(target));
		call->has_strings &=
		    ft_tell_string(o, call->cr3, call->args[(int)file->path2], raw, sizeof(raw));
		resolve(o, call, file->directory2, raw, call->second);
		if (call->nr == SYS_symlink || call->nr == SYS_symlinkat)
			resolve_target(target, call->second, call->first);
	}
}

void ft_tell_strings(struct ft_observer *o, struct ft_observe_call *call)
{
	char raw[FT_OBSERVE_STRING];
	int at = call->nr == SYS_execveat;
	switch (ft_call_kind(call->nr)) {
	case FT_CALL_EXEC:
		call->has_strings = ft_tell_string(o, call->cr3, call->args[at], raw, sizeof(raw));
		resolve(o, call, at ? 0 : -1, raw, call->first);
		if (at && !raw[0])
			snprintf(call->first, sizeof(call->first), "descriptor %d", (int)call->args[0]);
		read_argv(o, call->cr3, call->args[at + 1], call->second, sizeof(call->second));
		return;
	case FT_CALL_DIRECTORY:
		call->has_strings = ft_tell_string(o, call->cr3, call->args[0], raw, sizeof(raw));
		resolve(o, call, -1, raw, call->first);
		return;
	case FT_CALL_CONNECT:
	case FT_CALL_BIND:
		read_address(o, call);
		return;
	case FT_CALL_FILE:
		read_file(o, call);
		return;
	case FT_CALL_FORK:
		call->has_strings = true;
		if (call->nr == SYS_clone)
			call->flags = call->args[0];
		else if (call->nr == SYS_clone3)
			call->flags = peek_number(o, call->cr3, call->args[0], 8);
		return;
	default:
		call->has_strings = true;
		return;
	}
}

/* path holds something else now than it did at the fork. */
static void note_new(struct ft_observer *o, const char *path)
{
	if (!ft_files_wrote(&o->files, path))
		ft_observe_tell(o, FT_EVENT_LOST, (uint64_t[]){1}, 1, NULL, NULL);
}

/* Keeps book of what worked. */
static void note_file(struct ft_observer *o, const struct ft_observe_call *call,
		      const struct ft_call_file *file, uint64_t result)
{
	bool opens = call->nr == SYS_open || call->nr == SYS_openat || call->nr == SYS_openat2 ||
		     call->nr == SYS_creat;
	if (opens)
		ft_files_opened(&o->files, call->cr3, result, call->first);
	if (file->event == FT_EVENT_FILE_WRITE && writes(call->flags))
		note_new(o, call->first);
	else if (file->event == FT_EVENT_FILE_RENAME || file->event == FT_EVENT_FILE_LINK)
		note_new(o, call->second);
}

static void tell_file(struct ft_observer *o, const struct ft_observe_call *call, uint64_t result)
{
	const struct ft_call_file *file = ft_call_file(call->nr);
	const struct ft_process *p = ft_tell_process(o);
	/* What an open returns is a descriptor; what matters is whether it worked. */
	uint64_t outcome = (int64_t)result < 0 ? result : 0;
	if (!outcome)
		note_file(o, call, file, result);
	switch (file->event) {
	case FT_EVENT_FILE_WRITE:
		if (writes(call->flags))
			ft_tell_as(o, p, o->cr3, FT_EVENT_FILE_WRITE, (uint64_t[]){call->flags, outcome}, 2,
				   call->first, NULL);
		else if (o->syscalls_told++ < FT_OBSERVE_SYSCALLS)
			/* What is read tells a story, too; that it was refused even more. */
			ft_tell_as(o, p, o->cr3, FT_EVENT_SYSCALL,
				   (uint64_t[]){call->nr, call->args[0], call->args[1], call->flags, result},
				   5, call->first, NULL);
		return;
	case FT_EVENT_FILE_LINK:
		ft_tell_as(o, p, o->cr3, FT_EVENT_FILE_WRITE, (uint64_t[]){call->flags, outcome}, 2,
			   call->second, NULL);
		ft_tell_as(o, p, o->cr3, FT_EVENT_FILE_LINK, &outcome, 1, call->first, call->second);
		return;
	case FT_EVENT_FILE_MODE:
		ft_tell_as(o, p, o->cr3, FT_EVENT_FILE_MODE, (uint64_t[]){call->flags, outcome}, 2,
			   call->first, NULL);
		return;
	default:
		ft_tell_as(o, p, o->cr3, (enum ft_event_type)file->event, &outcome, 1, call->first,
			   call->second);
		return;
	}
}

/* A process that its parent found dead by a signal: told as of the dead. */
static void tell_death(struct ft_observer *o, int64_t pid, uint64_t signal)
{
	if (pid <= 0 || pid == o->last_death)
		return;
	o->last_death = pid;
	struct ft_process *dead = ft_process_find_pid(&o->processes, pid);
	struct ft_process unknown = {.pid = pid};
	if (dead) {
		if (signal == SIGSEGV || signal == SIGBUS)
			ft_tell_fault(o, dead);
		dead->faulted = false;
	}
	ft_tell_as(o, dead ? dead : &unknown, dead ? dead->cr3 : 0, FT_EVENT_SIGNAL,
		   (uint64_t[]){signal, (uint64_t)pid}, 2, NULL, NULL);
}

static void tell_wait(struct ft_observer *o, const struct ft_observe_call *call, uint64_t result)
{
	if (call->nr == SYS_wait4) {
		uint64_t status = peek_number(o, call->cr3, call->args[1], 4);
		if ((int64_t)result > 0 && (status & 0x7f) && (status & 0x7f) != 0x7f)
			tell_death(o, (int64_t)result, status & 0x7f);
		return;
	}
	/* waitid: siginfo_t has si_code at 8, si_pid at 12 + 4, si_status at 24. */
	uint64_t code = peek_number(o, call->cr3, call->args[2] + 8, 4);
	if (!result && (code == CLD_KILLED || code == CLD_DUMPED))
		tell_death(o, (int32_t)peek_number(o, call->cr3, call->args[2] + 16, 4),
			   peek_number(o, call->cr3, call->args[2] + 24, 4) & 0x7f);
}

static void tell_socket(struct ft_observer *o, const struct ft_observe_call *call, uint64_t result)
{
	const struct ft_process *p = ft_tell_process(o);
	enum ft_call_kind kind = ft_call_kind(call->nr);
	if (kind == FT_CALL_CONNECT) {
		uint64_t values[] = {call->flags, call->child_cr3, (uint64_t)call->child_pid, result};
		ft_tell_as(o, p, o->cr3, FT_EVENT_CONNECT, values, 4, call->first, NULL);
		return;
	}
	if (kind == FT_CALL_BIND) {
		struct ft_observe_socket *s = &o->sockets[o->next_socket++ % FT_OBSERVE_SOCKETS];
		*s = (struct ft_observe_socket){.cr3 = call->cr3,
						.fd = call->args[0],
						.family = call->flags,
						.address = call->child_cr3,
						.port = (uint64_t)call->child_pid};
		snprintf(s->text, sizeof(s->text), "%.*s", (int)sizeof(s->text) - 1, call->first);
		return;
	}
	const struct ft_observe_socket *s = NULL;
	for (unsigned i = 1; i <= FT_OBSERVE_SOCKETS && !s; i++) {
		const struct ft_observe_socket *each = &o->sockets[(o->next_socket - i) % FT_OBSERVE_SOCKETS];
		if (each->cr3 == call->cr3 && each->fd == call->args[0])
			s = each;
	}
	uint64_t values[] = {s ? s->family : 0, s ? s->address : 0, s ? s->port : 0, result};
	ft_tell_as(o, p, o->cr3, FT_EVENT_LISTEN, values, 4, s ? s->text : "*:0", NULL);
}

static void tell_map(struct ft_observer *o, const char *path, uint64_t protection)
{
	ft_tell_as(o, ft_tell_process(o), o->cr3, FT_EVENT_FILE_MAP, &protection, 1, path, NULL);
}

void ft_tell_mapped(struct ft_observer *o, uint64_t fd, uint64_t protection)
{
	char path[FT_OBSERVE_STRING];
	const char *name = ft_files_name(&o->files, o->cr3, fd);
	/* A loader opens what it maps. What was opened before the fork and is mapped only now the twin maps, too. */
	if (name && !ft_files_new(&o->files, name))
		return;
	name_descriptor(o, o->cr3, fd, path);
	tell_map(o, path, protection);
}

void ft_tell_call(struct ft_observer *o, const struct ft_observe_call *call, uint64_t result)
{
	const struct ft_process *p = ft_tell_process(o);
	switch (ft_call_kind(call->nr)) {
	case FT_CALL_EXEC:
		ft_tell_as(o, p, o->cr3, FT_EVENT_EXEC, &result, 1, call->first, call->second);
		if (!result && ft_files_new(&o->files, call->first))
			tell_map(o, call->first, PROT_READ | PROT_EXEC);
		return;
	case FT_CALL_FORK:
		ft_tell_as(o, p, o->cr3, FT_EVENT_PROCESS_NEW, (uint64_t[]){result, call->flags}, 2, NULL,
			   NULL);
		return;
	case FT_CALL_WAIT:
		tell_wait(o, call, result);
		return;
	case FT_CALL_CONNECT:
	case FT_CALL_BIND:
	case FT_CALL_LISTEN:
		tell_socket(o, call, result);
		return;
	case FT_CALL_FILE:
		tell_file(o, call, result);
		return;
	default:
		return;
	}
}

/* Which arguments of a call that is told as it is are strings; bit i: argument i. */
static unsigned string_arguments(uint64_t nr)
{
	switch (nr) {
	case SYS_mount:
	case SYS_pivot_root:
	case SYS_rename:
		return 3;
	case SYS_memfd_create:
	case SYS_chroot:
	case SYS_umount2:
	case SYS_swapon:
	case SYS_delete_module:
	case SYS_access:
	case SYS_stat:
	case SYS_lstat:
	case SYS_readlink:
	case SYS_statfs:
		return 1;
	case SYS_newfstatat:
	case SYS_faccessat:
	case SYS_readlinkat:
	case SYS_statx:
	case SYS_finit_module:
		return 2;
	default:
		return 0;
	}
}

void ft_tell_syscall(struct ft_observer *o, uint64_t nr, const uint64_t args[6])
{
	char texts[2][FT_OBSERVE_STRING] = {"", ""};
	unsigned strings = string_arguments(nr);
	for (unsigned i = 0, at = 0; i < 2; i++)
		if (strings & 1u << i)
			ft_tell_string(o, o->cr3, args[i], texts[at++], FT_OBSERVE_STRING);
	uint64_t values[6] = {nr, args[0], args[1], args[2], args[3], args[4]};
	ft_tell_as(o, ft_tell_process(o), o->cr3, FT_EVENT_SYSCALL, values, 6, texts[0], texts[1]);
}

/* Tells of a moment in the past. */
static void tell_then(struct ft_observer *o, const struct ft_process *process, enum ft_event_type type,
		      const uint64_t *values, unsigned count)
{
	struct ft_event event = {.type = (uint16_t)type,
				 .cr3 = process->cr3,
				 .pid = process->pid,
				 .icount = process->fault_icount,
				 .vtime_ns = process->fault_ns};
	memcpy(event.process, process->name, sizeof(event.process));
	for (unsigned i = 0; i < count && i < FT_EVENT_ARGS; i++)
		event.a[i] = values[i];
	ft_report_send(o->report, &event, NULL, NULL);
}

void ft_tell_fault(struct ft_observer *o, struct ft_process *process)
{
	if (!process->faulted || process->fault_vector != VECTOR_PF)
		return;
	process->faulted = false;
	uint64_t values[] = {VECTOR_PF, process->fault_error, process->fault_address, process->fault_rip};
	tell_then(o, process, FT_EVENT_FAULT, values, 4);
}

/* arch/x86/kernel/traps.c and mm/fault.c of Linux, by vector. */
static uint64_t signal_of(uint8_t vector)
{
	switch (vector) {
	case 0:
	case 16:
	case 19:
		return SIGFPE;
	case 6:
		return SIGILL;
	case 11:
	case 12:
	case 17:
		return SIGBUS;
	case 13:
	case VECTOR_PF:
		return SIGSEGV;
	default:
		return 0;
	}
}

void ft_tell_end(struct ft_observer *o, struct ft_process *process)
{
	uint64_t signal = process->faulted ? signal_of(process->fault_vector) : 0;
	if (!signal)
		return;
	ft_tell_fault(o, process);
	process->faulted = false;
	if (process->pid > 0)
		o->last_death = process->pid;
	tell_then(o, process, FT_EVENT_SIGNAL, (uint64_t[]){signal, (uint64_t)process->pid}, 2);
}
