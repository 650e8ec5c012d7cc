#include "clone/observe.h"

#include <arpa/inet.h>
#include <linux/sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "clone/calls.h"
#include "clone/tell.h"
#include "vmm/engine/walk.h"
#include "vmm/memory.h"
#include "base/trial.h"
#include "clone/packet.h"

#define PTE_WRITABLE 2u
#define PROT_EXECUTE 4u
#define VECTOR_PF    14u
#define RESOLVED_NS 1000000000u /* virtual; a page from the disk is there after 20 us (virtio_blk.c), behind others a little later */

void ft_observe_begin(struct ft_observer *o, const struct ft_observe_source *source, struct ft_report *report,
		      uint64_t cr3)
{
	memset(o, 0, sizeof(*o));
	o->source = *source;
	o->report = report;
	ft_observe_at(o, cr3);
}

/* ---- Address spaces ---- */

static uint64_t space(const struct ft_observer *o, uint64_t cr3)
{
	return cr3 & ~(o->isolation == FT_OBSERVE_ISOLATED ? FT_WALK_PAIR : (uint64_t)FT_PAGE_SIZE - 1);
}

void ft_observe_at(struct ft_observer *o, uint64_t cr3)
{
	if (o->isolation == FT_OBSERVE_UNKNOWN && o->source.isolated && o->source.isolated(o->source.context, cr3))
		o->isolation = FT_OBSERVE_ISOLATED;
	o->cr3 = space(o, cr3);
}

/* User code runs. Where tables are isolated it can be seen now, if not before. */
static void in_user(struct ft_observer *o)
{
	if (o->isolation != FT_OBSERVE_UNKNOWN)
		return;
	ft_observe_at(o, o->cr3);
	if (o->isolation == FT_OBSERVE_UNKNOWN)
		o->isolation = FT_OBSERVE_SHARED;
}

void ft_observe_become_clone(struct ft_observer *o, struct ft_report *report)
{
	/* Only a clone has noted faults. */
	for (unsigned i = 0; o->clone && i < FT_PROCESS_BUCKETS * FT_PROCESS_WAYS; i++)
		o->processes.entries[i].faulted = false;
	o->report = report;
	o->clone = true;
	o->line_length = 0;
}

/* ---- Calls under way ---------------------------------------------------------------------------------------- */

static struct ft_observe_call *find_call(struct ft_observer *o, uint64_t cr3, uint64_t rsp)
{
	for (unsigned i = 0; i < o->calls_used; i++)
		if (o->calls[i].cr3 == cr3 && o->calls[i].rsp == rsp)
			return &o->calls[i];
	return NULL;
}

static void forget_call(struct ft_observer *o, struct ft_observe_call *call)
{
	call->cr3 = 0;
	while (o->calls_used && !o->calls[o->calls_used - 1].cr3)
		o->calls_used--;
}

/* A place for a new call: the one of the same thread, whose return was not seen (a signal took it); else a free one;
 * else the oldest. */
static struct ft_observe_call *new_call(struct ft_observer *o, uint64_t cr3, uint64_t rsp)
{
	struct ft_observe_call *call = find_call(o, cr3, rsp);
	for (unsigned i = 0; i < FT_OBSERVE_CALLS && !call; i++)
		if (!o->calls[i].cr3)
			call = &o->calls[i];
	if (!call) {
		call = &o->calls[0];
		for (unsigned i = 1; i < FT_OBSERVE_CALLS; i++)
			if (o->calls[i].began < call->began)
				call = &o->calls[i];
	}
	*call = (struct ft_observe_call){.cr3 = cr3, .rsp = rsp, .began = ++o->calls_clock};
	unsigned index = (unsigned)(call - o->calls);
	if (index >= o->calls_used)
		o->calls_used = index + 1;
	return call;
}

static void forget_calls_of(struct ft_observer *o, uint64_t cr3)
{
	for (unsigned i = 0; i < FT_OBSERVE_CALLS; i++)
		if (o->calls[i].cr3 == cr3 && ft_call_kind(o->calls[i].nr) != FT_CALL_FORK)
			o->calls[i].cr3 = 0;
	while (o->calls_used && !o->calls[o->calls_used - 1].cr3)
		o->calls_used--;
}

/* ---- System calls ------------------------------------------------------------------------------------------- */

static void exit_process(struct ft_observer *o, uint64_t status)
{
	struct ft_process *p = ft_tell_process(o);
	/* It ends with a fault that was never resolved: its handler ends it. */
	if (p && o->clone)
		ft_tell_fault(o, p);
	if (o->clone)
		ft_tell_as(o, p, o->cr3, FT_EVENT_PROCESS_EXIT, (uint64_t[]){status & 0xff}, 1, NULL, NULL);
	forget_calls_of(o, o->cr3);
}

static bool waits_for_return(const struct ft_observer *o, enum ft_call_kind kind)
{
	switch (kind) {
	case FT_CALL_EXEC:
	case FT_CALL_FORK:
	case FT_CALL_IDENTITY:
	case FT_CALL_DIRECTORY:
	case FT_CALL_DIRECTORY_FD:
		return true;
	case FT_CALL_WAIT:
	case FT_CALL_CONNECT:
	case FT_CALL_BIND:
	case FT_CALL_LISTEN:
	case FT_CALL_FILE:
		return o->clone;
	default:
		return false;
	}
}

/* Executable memory that is not a file's text: anonymous, or writable at the same time. */
static bool makes_code(uint64_t nr, const uint64_t args[6])
{
	const uint64_t write = 2, anonymous = 0x20; /* PROT_WRITE, MAP_ANONYMOUS */
	if (nr == SYS_mmap)
		return (args[2] & PROT_EXECUTE) && ((args[2] & write) || (args[3] & anonymous));
	return (nr == SYS_mprotect || nr == SYS_pkey_mprotect) && (args[2] & PROT_EXECUTE);
}

static void tell_at_entry(struct ft_observer *o, enum ft_call_kind kind, uint64_t nr, const uint64_t args[6])
{
	if (kind == FT_CALL_SIGNAL) {
		int group = nr == SYS_tgkill;
		ft_tell_as(o, ft_tell_process(o), o->cr3, FT_EVENT_SIGNAL,
			   (uint64_t[]){args[group + 1], args[0]}, 2, NULL, NULL);
	} else if (nr == SYS_close) {
		ft_files_closed(&o->files, o->cr3, args[0]);
	} else if (nr == SYS_dup2 || nr == SYS_dup3) {
		ft_files_copied(&o->files, o->cr3, args[0], args[1]);
	} else if (kind == FT_CALL_NOTABLE || makes_code(nr, args)) {
		ft_tell_syscall(o, nr, args);
	} else if (kind == FT_CALL_RING) {
		if (o->rings_told < FT_OBSERVE_RINGS) {
			o->rings_told++;
			ft_tell_syscall(o, nr, args);
		}
	} else if (nr == SYS_mmap && (args[2] & PROT_EXECUTE)) {
		ft_tell_mapped(o, args[4], args[2]);
	} else if (kind != FT_CALL_HOT && o->syscalls_told < FT_OBSERVE_SYSCALLS) {
		o->syscalls_told++;
		ft_tell_syscall(o, nr, args);
	}
}

void ft_observe_syscall(struct ft_observer *o, uint64_t nr, const uint64_t args[6], uint64_t rip,
			uint64_t rsp)
{
	enum ft_call_kind kind = ft_call_kind(nr);
	o->user_seen = true;
	if (!o->clone && (kind == FT_CALL_OTHER || kind > FT_CALL_NAME))
		return;
	in_user(o);
	if (kind == FT_CALL_EXIT) {
		exit_process(o, args[0]);
		return;
	}
	if (kind == FT_CALL_NAME && (uint32_t)args[0] == PR_SET_NAME) {
		char name[FT_PROCESS_NAME];
		if (ft_tell_string(o, o->cr3, args[1], name, sizeof(name)))
			ft_process_set_name(ft_process_get(&o->processes, o->cr3), name);
	}
	if (waits_for_return(o, kind)) {
		struct ft_observe_call *call = new_call(o, o->cr3, rsp);
		call->nr = (uint16_t)nr;
		call->rip = rip;
		memcpy(call->args, args, sizeof(call->args));
		call->child_pid = kind == FT_CALL_FORK ? -1 : 0;
		ft_tell_strings(o, call);
	} else if (o->clone) {
		tell_at_entry(o, kind, nr, args);
	}
}

/* Where the child of a fork starts: on the caller's stack, or on the one it was given. */
static uint64_t child_stack(struct ft_observer *o, const struct ft_observe_call *call)
{
	uint64_t stack[2] = {0, 0};
	if (call->nr == SYS_clone && call->args[1])
		return call->args[1];
	if (call->nr == SYS_clone3 &&
	    o->source.peek(o->source.context, call->cr3, call->args[0] + 40, stack, sizeof(stack)) ==
		sizeof(stack) &&
	    stack[0])
		return stack[0] + stack[1];
	return call->rsp;
}

/* This address space is somebody else's now: who had it is dead, and how it died can be told. */
static void reuse(struct ft_observer *o)
{
	struct ft_process *before = ft_tell_process(o);
	if (before && o->clone)
		ft_tell_end(o, before);
}

/* A forked child's own id: the kernel writes it into the child's memory before its first instruction when it is asked to
 * (CLONE_CHILD_SETTID), and the C library's fork asks. -1: not known. */
static int64_t written_id(struct ft_observer *o, const struct ft_observe_call *call)
{
	uint64_t at = call->args[3]; /* of clone; of clone3 the third field of its struct */
	uint32_t id;
	if (!(call->flags & CLONE_CHILD_SETTID))
		return -1;
	if (call->nr == SYS_clone3 &&
	    o->source.peek(o->source.context, o->cr3, call->args[0] + 16, &at, sizeof(at)) != sizeof(at))
		return -1;
	bool known = o->source.peek(o->source.context, o->cr3, at, &id, sizeof(id)) == sizeof(id);
	return known && id && id <= INT32_MAX ? (int64_t)id : -1;
}

/* First return of a forked child, in its own address space. Processes of one program fork with equal stacks: where two do at
 * the same time, their returns tell which child is whose (here, or later in parent_returns). */
static bool child_returns(struct ft_observer *o, uint64_t rsp)
{
	struct ft_observe_call *found = NULL;
	int64_t id = -1;
	for (unsigned i = 0; i < o->calls_used; i++) {
		struct ft_observe_call *call = &o->calls[i];
		if (!call->cr3 || ft_call_kind(call->nr) != FT_CALL_FORK || call->child_ran ||
		    (call->flags & CLONE_VM) || call->nr == SYS_vfork || call->cr3 == o->cr3 ||
		    child_stack(o, call) != rsp)
			continue;
		int64_t own = written_id(o, call);
		bool other = own >= 0 && call->parent_ran && call->child_pid != own;
		if (other || (found && !(call->parent_ran && call->child_pid == own)))
			continue;
		found = call;
		id = own;
	}
	if (!found)
		return false;
	reuse(o);
	struct ft_process *child =
	    ft_process_copy(&o->processes, o->cr3, ft_process_find(&o->processes, found->cr3));
	child->pid = id >= 0 ? id : found->child_pid;
	if (o->clone)
		ft_files_forked(&o->files, found->cr3, o->cr3);
	found->child_ran = true;
	found->child_cr3 = o->cr3;
	if (found->parent_ran)
		forget_call(o, found);
	return true;
}

static bool has_child(struct ft_observer *o, const struct ft_observe_call *call, int64_t pid)
{
	const struct ft_process *child =
	    call->child_ran ? ft_process_find(&o->processes, call->child_cr3) : NULL;
	return child && child->pid == pid;
}

static void swap_children(struct ft_observe_call *a, struct ft_observe_call *b)
{
	struct ft_observe_call was = *a;
	a->child_ran = b->child_ran;
	a->child_cr3 = b->child_cr3;
	b->child_ran = was.child_ran;
	b->child_cr3 = was.child_cr3;
}

/* The parent hears its child's id, and another fork at the same stack was given that child, or this one another's. */
static void settle_children(struct ft_observer *o, struct ft_observe_call *call, int64_t pid)
{
	struct ft_observe_call *unborn = NULL;
	const struct ft_process *child = ft_process_find(&o->processes, call->child_cr3);
	if (has_child(o, call, pid) || (call->child_ran && (!child || child->pid < 0)))
		return;
	for (unsigned i = 0; i < o->calls_used; i++) {
		struct ft_observe_call *other = &o->calls[i];
		if (!other->cr3 || other == call || ft_call_kind(other->nr) != FT_CALL_FORK ||
		    other->rsp != call->rsp)
			continue;
		if (has_child(o, other, pid)) {
			swap_children(call, other);
			return;
		}
		if (!other->child_ran && !other->parent_ran)
			unborn = other;
	}
	if (call->child_ran && unborn)
		swap_children(call, unborn);
}

static void parent_returns(struct ft_observer *o, struct ft_observe_call *call, uint64_t rax)
{
	if (o->clone)
		ft_tell_call(o, call, rax);
	bool shares = (call->flags & CLONE_VM) || call->nr == SYS_vfork;
	bool thread = call->flags & CLONE_THREAD;
	struct ft_process *child = NULL;
	if (!shares && (int64_t)rax > 0)
		settle_children(o, call, (int64_t)rax);
	if (call->child_ran && !shares)
		child = ft_process_find(&o->processes, call->child_cr3);
	/* A vfork's child has its own address space once it called execve, before the parent goes on. */
	for (unsigned i = 0; shares && !thread && i < FT_PROCESS_BUCKETS * FT_PROCESS_WAYS; i++) {
		struct ft_process *p = &o->processes.entries[i];
		if (p->cr3 && p->born_of == call->cr3 && (!child || p->used > child->used))
			child = p;
	}
	/* Or it is between the two: told when it starts. */
	for (unsigned i = 0; shares && !thread && !child && i < o->calls_used; i++)
		if (o->calls[i].cr3 == call->cr3 && ft_call_kind(o->calls[i].nr) == FT_CALL_EXEC &&
		    !o->calls[i].child_pid)
			o->calls[i].child_pid = (int64_t)rax;
	if (child && (int64_t)rax > 0) {
		child->born_of = 0;
		if (child->pid < 0)
			child->pid = (int64_t)rax;
	}
	call->parent_ran = true;
	call->child_pid = (int64_t)rax;
	if (call->child_ran || shares || (int64_t)rax < 0)
		forget_call(o, call);
}

#define AUXV_EXECFN 31u /* AT_EXECFN: the path that execve was given */
#define STACK_WORDS 2048u

/* A new program starts with clean registers, on a stack of argument count, arguments, NULL, environment, NULL, auxiliary
 * vector (System V ABI, AMD64 supplement 3.4.1); in the vector is the path that execve was given. Finds that path. An old
 * process that comes back from an interrupt in the same moment fails one of these tests. */
static bool read_start(struct ft_observer *o, uint64_t rax, uint64_t rsp, char *path, size_t size)
{
	uint64_t words[64], argc = 0, nulls = 0, aux = 0;
	if (rax || (rsp & 15))
		return false;
	for (uint64_t at = 0; at < STACK_WORDS; at += 64) {
		size_t n = o->source.peek(o->source.context, o->cr3, rsp + 8 * at, words, sizeof(words)) / 8;
		for (uint64_t i = 0; i < n; i++) {
			uint64_t index = at + i, word = words[i];
			if (index == 0)
				argc = word;
			else if (nulls < 2 && word && (word <= rsp || word - rsp > 8u << 20))
				return false; /* arguments and environment point above */
			else if (nulls < 2)
				nulls += !word;
			else if (!aux)
				aux = index;
			if (aux && !((index - aux) & 1) && word == AUXV_EXECFN)
				return o->source.peek(o->source.context, o->cr3, rsp + 8 * (index + 1), &word,
						      8) == 8 &&
				       ft_tell_string(o, o->cr3, word, path, size);
			if (index > 0 && index <= argc && !word)
				return false;
		}
		if (n < 64 || argc > STACK_WORDS)
			return false;
	}
	return false;
}

/* The execve that started this program: by its path; of several, the one that was last seen to come here. */
static struct ft_observe_call *find_exec(struct ft_observer *o, const char *path)
{
	struct ft_observe_call *found = NULL;
	for (unsigned i = 0; i < o->calls_used; i++) {
		struct ft_observe_call *call = &o->calls[i];
		char resolved[FT_OBSERVE_STRING];
		if (!call->cr3 || ft_call_kind(call->nr) != FT_CALL_EXEC)
			continue;
		bool here = call->child_cr3 == o->cr3;
		ft_process_resolve(ft_process_find(&o->processes, call->cr3), path, resolved,
				   sizeof(resolved));
		if (strcmp(resolved, call->first) && strcmp(path, call->first) &&
		    !(here && call->nr == SYS_execveat) && call->has_strings)
			continue;
		if (!found || here || (found->child_cr3 != o->cr3 && call->began < found->began))
			found = call;
	}
	return found;
}

static bool of_vfork(const struct ft_observer *o, uint64_t cr3)
{
	for (unsigned i = 0; i < o->calls_used; i++) {
		const struct ft_observe_call *call = &o->calls[i];
		if (call->cr3 == cr3 && ft_call_kind(call->nr) == FT_CALL_FORK && !call->parent_ran &&
		    ((call->flags & CLONE_VM) || call->nr == SYS_vfork))
			return true;
	}
	return false;
}

static bool program_starts(struct ft_observer *o, uint64_t rax, uint64_t rsp)
{
	char path[FT_OBSERVE_STRING];
	bool any = false;
	for (unsigned i = 0; i < o->calls_used; i++)
		any |= o->calls[i].cr3 && ft_call_kind(o->calls[i].nr) == FT_CALL_EXEC;
	if (!any || !read_start(o, rax, rsp, path, sizeof(path)))
		return false;
	struct ft_observe_call *call = find_exec(o, path);
	if (!call)
		return false;
	if (!call->has_strings)
		snprintf(call->first, sizeof(call->first), "%s", path);
	reuse(o);
	struct ft_process *p =
	    ft_process_copy(&o->processes, o->cr3, ft_process_find(&o->processes, call->cr3));
	/* A vfork's child; its parent may have been told the process id before this moment. */
	if (call->child_pid > 0) {
		p->pid = call->child_pid;
	} else if (of_vfork(o, call->cr3)) {
		p->pid = -1;
		p->born_of = call->cr3;
	}
	ft_process_set_name(p, call->first);
	if (o->clone)
		ft_tell_call(o, call, 0);
	forget_call(o, call);
	return true;
}

static void call_returns(struct ft_observer *o, struct ft_observe_call *call, uint64_t rax)
{
	enum ft_call_kind kind = ft_call_kind(call->nr);
	if (kind == FT_CALL_FORK) {
		/* 0 on the caller's own stack: the child of a vfork; the parent comes later. */
		if (rax)
			parent_returns(o, call, rax);
		return;
	}
	if (!call->has_strings)
		ft_tell_strings(o, call);
	if (kind == FT_CALL_IDENTITY && (int64_t)rax > 0) {
		struct ft_process *p = ft_process_get(&o->processes, o->cr3);
		if (p->pid < 0)
			p->pid = (int64_t)rax;
	} else if (kind == FT_CALL_DIRECTORY && !rax) {
		struct ft_process *p = ft_process_get(&o->processes, o->cr3);
		snprintf(p->directory, sizeof(p->directory), "%.*s", (int)sizeof(p->directory) - 1,
			 call->first[0] == '/' ? call->first : "");
	} else if (kind == FT_CALL_DIRECTORY_FD && !rax) {
		ft_process_get(&o->processes, o->cr3)->directory[0] = 0;
	} else if (o->clone) {
		ft_tell_call(o, call, rax);
	}
	forget_call(o, call);
}

/* Back at the instruction whose page fault was the last thing seen of this address space. */
static bool tries_again(struct ft_observer *o, uint64_t rip)
{
	const struct ft_process *p = o->clone ? ft_tell_process(o) : NULL;
	return p && p->faulted && p->fault_vector == VECTOR_PF && p->fault_rip == rip;
}

/* The acting process runs on: its last exception did not kill it. A page fault is over when its instruction is tried
 * again; others, when the process runs at all. */
static void runs_on(struct ft_observer *o, uint64_t rip)
{
	struct ft_process *p = o->clone ? ft_tell_process(o) : NULL;
	if (p && p->faulted && (p->fault_vector != VECTOR_PF || p->fault_rip == rip))
		p->faulted = false;
}

void ft_observe_sysret(struct ft_observer *o, uint64_t rax, uint64_t rip, uint64_t rsp)
{
	in_user(o);
	struct ft_observe_call *call = o->calls_used ? find_call(o, o->cr3, rsp) : NULL;
	/* Back at the instruction that faulted: it runs on. Looked at first, because a child whose first instruction is not
	 * in memory yet comes by here twice with the stack and the result of a fork, and so of its sibling's fork, too. */
	bool again = tries_again(o, rip);
	/* A newcomer in an address space must not pass for who died in it. */
	if (!again && !call && o->calls_used && !rax && (child_returns(o, rsp) || program_starts(o, rax, rsp)))
		return;
	runs_on(o, rip);
	/* Back at the system call itself (2 bytes): interrupted, it starts again. */
	if (call && !((rip == call->rip || rip + 2 == call->rip) && rax == call->nr))
		call_returns(o, call, rax);
}

void ft_observe_cr3(struct ft_observer *o, uint64_t old, uint64_t new)
{
	old = space(o, old);
	new = space(o, new);
	o->cr3 = new;
	if (old == new)
		return;
	o->switches++;
	if (o->clone && o->switches_told < FT_OBSERVE_SWITCHES) {
		o->switches_told++;
		ft_tell_as(o, ft_process_find(&o->processes, new), new, FT_EVENT_CR3, (uint64_t[]){old, new},
			   2, NULL, NULL);
	}
	for (unsigned i = 0; i < o->calls_used; i++) {
		struct ft_observe_call *call = &o->calls[i];
		if (call->cr3 != old || ft_call_kind(call->nr) != FT_CALL_EXEC)
			continue;
		/* The last moment at which the old image can be read. */
		if (!call->has_strings)
			ft_tell_strings(o, call);
		call->child_cr3 = new;
	}
}

void ft_observe_fault(struct ft_observer *o, unsigned vector, uint32_t error, uint64_t address, uint64_t rip)
{
	if (!o->clone)
		return;
	in_user(o);
	struct ft_process *p = ft_process_get(&o->processes, o->cr3);
	p->faulted = true;
	p->fault_vector = (uint8_t)vector;
	p->fault_error = error;
	p->fault_address = address;
	p->fault_rip = rip;
	o->source.now(o->source.context, &p->fault_icount, &p->fault_ns);
	/* Page faults are how memory is given out: told only when they are not resolved. */
	if (vector != VECTOR_PF)
		ft_tell_as(o, p, o->cr3, FT_EVENT_FAULT, (uint64_t[]){vector, error, address, rip}, 4, NULL,
			   NULL);
}

void ft_observe_exec_page(struct ft_observer *o, uint64_t rip, uint64_t gpa, uint8_t page_flags,
			  uint64_t pte_flags)
{
	/* Text that the disk or the kernel brought in is no evidence; what user code wrote, or still can write, is. */
	if (!o->clone || !((page_flags & FT_PAGE_USER_WRITTEN) || (pte_flags & PTE_WRITABLE)) ||
	    o->pages_told >= FT_OBSERVE_PAGES)
		return;
	in_user(o);
	o->pages_told++;
	uint64_t flags = page_flags | (pte_flags & PTE_WRITABLE ? 0x100u : 0u);
	ft_tell_as(o, ft_tell_process(o), o->cr3, FT_EVENT_CODE_WRITTEN, (uint64_t[]){rip, gpa, flags}, 3,
		   NULL, NULL);
}

/* ---- Devices ------------------------------------------------------------------------------------------------ */

/* The transport's part of ft_observe_frame. */
static bool is_opening(const struct ft_packet *p, uint64_t source)
{
	const uint8_t *transport = p->payload;
	if (p->protocol == 6)
		return p->size > 13 && (transport[13] & 0x12) == 0x02;
	return p->protocol == 17 && source >= 1024;
}

bool ft_observe_frame(const void *data, size_t length, bool received, uint64_t values[6], char text[64])
{
	struct ft_packet p;
	uint16_t type;
	memset(values, 0, 6 * sizeof(*values));
	values[0] = length;
	text[0] = 0;
	if (!ft_packet_open(&p, data, length, &type))
		return false;
	const struct ft_address *other = received ? &p.source : &p.destination;
	char address[INET6_ADDRSTRLEN];
	ft_address_text(other, address);
	values[1] = p.protocol;
	/* Of an IPv6 address the last 32 bits; the text has all of it. */
	values[2] = (uint64_t)other->bytes[12] << 24 | (uint64_t)other->bytes[13] << 16 |
		    (uint64_t)other->bytes[14] << 8 | other->bytes[15];
	if ((p.protocol != 6 && p.protocol != 17) || p.size < 4 || p.piece) {
		values[5] = p.protocol == (p.six ? 58 : 1) && p.size && !p.piece && p.payload[0] == (p.six ? 128 : 8);
		snprintf(text, 64, "%s", address);
		return true;
	}
	uint64_t source = (uint64_t)(p.payload[0] << 8 | p.payload[1]);
	uint64_t destination = (uint64_t)(p.payload[2] << 8 | p.payload[3]);
	values[3] = received ? source : destination;
	values[4] = received ? destination : source;
	values[5] = is_opening(&p, source);
	snprintf(text, 64, p.six ? "[%s]:%u" : "%s:%u", address, (unsigned)values[3]);
	return true;
}

/* Is it an answer on a flow whose input is being tried? */
static bool is_answer(const struct ft_observer *o, const void *frame, size_t length)
{
	struct ft_packet p;
	uint16_t type;
	if (!o->held_count || !ft_packet_open(&p, frame, length, &type) || p.piece || p.size < 4)
		return false;
	for (uint32_t i = 0; i < o->held_count; i++) {
		const struct ft_trial_flow *held = &o->held[i];
		if (!memcmp(p.payload + 2, &held->client_port, 2) && !memcmp(p.payload, &held->server_port, 2) &&
		    p.protocol == held->protocol && ft_address_same(&p.source, &held->server_ip) &&
		    ft_address_same(&p.destination, &held->client_ip))
			return true;
	}
	return false;
}

void ft_observe_net_tx(struct ft_observer *o, const void *frame, size_t length)
{
	uint64_t values[6];
	char text[64];
	if (!o->clone || !ft_observe_frame(frame, length, false, values, text))
		return;
	/* A datagram shows nothing of who began; who answers the sender that is held does not. */
	if (values[5] && is_answer(o, frame, length))
		values[5] = 0;
	ft_observe_tell(o, FT_EVENT_NET_TX, values, 6, text, NULL);
}

void ft_observe_disk(struct ft_observer *o, bool write, uint64_t sector, uint32_t sectors)
{
	if (!o->clone || (!write && o->reads_told++ >= FT_OBSERVE_READS))
		return;
	ft_observe_tell(o, write ? FT_EVENT_DISK_WRITE : FT_EVENT_DISK_READ, (uint64_t[]){sector, sectors}, 2,
			NULL, NULL);
}

static void end_line(struct ft_observer *o)
{
	char text[4 * FT_OBSERVE_STRING];
	if (!o->line_length)
		return;
	ft_observe_printable(o->line, o->line_length, text, sizeof(text));
	if (o->clone)
		ft_observe_tell(o, FT_EVENT_CONSOLE, (uint64_t[]){o->line_length}, 1, text, NULL);
	const char *panic = strstr(text, "Kernel panic");
	if (panic)
		ft_observe_tell(o, FT_EVENT_PANIC, (uint64_t[]){0}, 1, panic, NULL);
	o->line_length = 0;
}

void ft_observe_console(struct ft_observer *o, const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (bytes[i] == '\n' || o->line_length == sizeof(o->line))
			end_line(o);
		if (bytes[i] != '\n' && bytes[i] != '\r')
			o->line[o->line_length++] = bytes[i];
	}
}

/* Is the fault so young that the kernel may still be about to resolve it? */
static bool is_pending(const struct ft_process *process, uint64_t now_ns)
{
	return process->faulted && process->fault_vector == VECTOR_PF && now_ns - process->fault_ns < RESOLVED_NS;
}

void ft_observe_end(struct ft_observer *o, bool cut)
{
	uint64_t icount, now_ns;
	o->source.now(o->source.context, &icount, &now_ns);
	end_line(o);
	for (unsigned i = 0; i < FT_OBSERVE_CALLS; i++) {
		struct ft_observe_call *call = &o->calls[i];
		/* An execve that did not come back may have worked: better told than missed. */
		if (call->cr3 && ft_call_kind(call->nr) == FT_CALL_EXEC)
			ft_tell_as(o, ft_process_find(&o->processes, call->cr3), call->cr3, FT_EVENT_EXEC,
				   (uint64_t[]){0}, 1, call->first, call->second);
	}
	for (unsigned i = 0; i < FT_PROCESS_BUCKETS * FT_PROCESS_WAYS; i++)
		if (o->processes.entries[i].cr3 && !(cut && is_pending(&o->processes.entries[i], now_ns)))
			ft_tell_end(o, &o->processes.entries[i]);
}
