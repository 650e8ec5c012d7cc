#include "clone/book.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VERSION	   1u
#define PROCESSES  (FT_PROCESS_BUCKETS * FT_PROCESS_WAYS)
#define SEEN	   1u
#define HAS_STRINGS 1u
#define CHILD_RAN  2u
#define PARENT_RAN 4u

/* ---- Saving -------------------------------------------------------------------------------------------------------- */

/* to NULL: only counts. */
struct out {
	uint8_t *to;
	size_t length;
};

static void put(struct out *out, const void *bytes, size_t length)
{
	if (out->to)
		memcpy(out->to + out->length, bytes, length);
	out->length += length;
}

static void put_number(struct out *out, uint64_t value, size_t bytes)
{
	put(out, &value, bytes); /* little endian */
}

static void put_process(struct out *out, unsigned place, const struct ft_process *p)
{
	size_t name = strnlen(p->name, sizeof(p->name)), directory = strnlen(p->directory, sizeof(p->directory));
	put_number(out, place, 2);
	put_number(out, name, 1);
	put_number(out, directory, 2);
	put_number(out, p->cr3, 8);
	put_number(out, p->used, 8);
	put_number(out, p->born_of, 8);
	put_number(out, (uint64_t)p->pid, 8);
	put(out, p->name, name);
	put(out, p->directory, directory);
}

static void put_call(struct out *out, unsigned place, const struct ft_observe_call *c)
{
	size_t first = strnlen(c->first, sizeof(c->first)), second = strnlen(c->second, sizeof(c->second));
	put_number(out, place, 2);
	put_number(out, c->nr, 2);
	put_number(out, (c->has_strings ? HAS_STRINGS : 0) | (c->child_ran ? CHILD_RAN : 0) | (c->parent_ran ? PARENT_RAN : 0), 1);
	put_number(out, first, 2);
	put_number(out, second, 2);
	put_number(out, c->cr3, 8);
	put_number(out, c->rsp, 8);
	put_number(out, c->rip, 8);
	put_number(out, c->began, 8);
	put(out, c->args, sizeof(c->args));
	put_number(out, c->child_cr3, 8);
	put_number(out, c->flags, 8);
	put_number(out, (uint64_t)c->child_pid, 8);
	put(out, c->first, first);
	put(out, c->second, second);
}

static void put_all(struct out *out, const struct ft_observer *o)
{
	unsigned processes = 0, calls = 0;
	for (unsigned i = 0; i < PROCESSES; i++)
		processes += o->processes.entries[i].cr3 != 0;
	for (unsigned i = 0; i < o->calls_used; i++)
		calls += o->calls[i].cr3 != 0;
	put_number(out, VERSION, 4);
	put_number(out, o->user_seen ? SEEN : 0, 4);
	put_number(out, o->cr3, 8);
	put_number(out, o->processes.clock, 8);
	put_number(out, o->calls_clock, 8);
	put_number(out, processes, 4);
	put_number(out, calls, 4);
	for (unsigned i = 0; i < PROCESSES; i++)
		if (o->processes.entries[i].cr3)
			put_process(out, i, &o->processes.entries[i]);
	for (unsigned i = 0; i < o->calls_used; i++)
		if (o->calls[i].cr3)
			put_call(out, i, &o->calls[i]);
}

int ft_book_save(const struct ft_observer *o, uint8_t **bytes, size_t *length)
{
	struct out out = {0};
	put_all(&out, o);
	out.to = malloc(out.length);
	if (!out.to)
		return -ENOMEM;
	out.length = 0;
	put_all(&out, o);
	*bytes = out.to;
	*length = out.length;
	return 0;
}

/* ---- Loading ------------------------------------------------------------------------------------------------------- */

struct in {
	const uint8_t *at;
	size_t left;
	bool bad;
};

static void get(struct in *in, void *to, size_t length)
{
	if (in->bad || in->left < length) {
		in->bad = true;
		memset(to, 0, length);
		return;
	}
	memcpy(to, in->at, length);
	in->at += length;
	in->left -= length;
}

static uint64_t number(struct in *in, size_t bytes)
{
	uint64_t value = 0;
	get(in, &value, bytes);
	return value;
}

/* Into zeroed room of `size` bytes, one of which stays 0; without one among its bytes. */
static void text(struct in *in, char *to, size_t length, size_t size)
{
	in->bad |= length >= size;
	if (in->bad)
		return;
	get(in, to, length);
	in->bad |= memchr(to, 0, length) != NULL;
}

/* The next place: behind the one before, and in the table. */
static unsigned place(struct in *in, unsigned next, unsigned most)
{
	unsigned at = (unsigned)number(in, 2);
	in->bad |= at < next || at >= most;
	return in->bad ? 0 : at;
}

static unsigned get_process(struct in *in, struct ft_processes *table, unsigned next)
{
	unsigned at = place(in, next, PROCESSES);
	size_t name = number(in, 1), directory = number(in, 2);
	struct ft_process p = {.cr3 = number(in, 8)};
	p.used = number(in, 8);
	p.born_of = number(in, 8);
	p.pid = (int64_t)number(in, 8);
	text(in, p.name, name, sizeof(p.name));
	text(in, p.directory, directory, sizeof(p.directory));
	in->bad |= !p.cr3 || p.used > table->clock;
	if (!in->bad)
		table->entries[at] = p;
	return at + 1;
}

static unsigned get_call(struct in *in, struct ft_observer *o, unsigned next)
{
	unsigned at = place(in, next, FT_OBSERVE_CALLS);
	struct ft_observe_call *c = &o->calls[at];
	uint16_t nr = (uint16_t)number(in, 2);
	unsigned flags = (unsigned)number(in, 1);
	size_t first = number(in, 2), second = number(in, 2);
	struct ft_observe_call call = {.nr = nr,
				       .has_strings = flags & HAS_STRINGS,
				       .child_ran = flags & CHILD_RAN,
				       .parent_ran = flags & PARENT_RAN};
	call.cr3 = number(in, 8);
	call.rsp = number(in, 8);
	call.rip = number(in, 8);
	call.began = number(in, 8);
	get(in, call.args, sizeof(call.args));
	call.child_cr3 = number(in, 8);
	call.flags = number(in, 8);
	call.child_pid = (int64_t)number(in, 8);
	text(in, call.first, first, sizeof(call.first));
	text(in, call.second, second, sizeof(call.second));
	in->bad |= !call.cr3 || call.began > o->calls_clock || flags > (HAS_STRINGS | CHILD_RAN | PARENT_RAN);
	if (!in->bad)
		*c = call;
	return at + 1;
}

int ft_book_load(struct ft_observer *o, const uint8_t *bytes, size_t length, struct ft_error *err)
{
	struct in in = {.at = bytes, .left = length};
	uint64_t cr3 = o->cr3;
	in.bad = number(&in, 4) != VERSION;
	uint64_t flags = number(&in, 4);
	o->cr3 = number(&in, 8);
	o->processes.clock = number(&in, 8);
	o->calls_clock = number(&in, 8);
	uint64_t processes = number(&in, 4), calls = number(&in, 4);
	in.bad |= flags > SEEN || processes > PROCESSES || calls > FT_OBSERVE_CALLS || (o->cr3 & 0xfff);
	o->user_seen = flags & SEEN;
	unsigned next = 0;
	for (uint64_t i = 0; i < processes && !in.bad; i++)
		next = get_process(&in, &o->processes, next);
	next = 0;
	for (uint64_t i = 0; i < calls && !in.bad; i++)
		next = get_call(&in, o, next);
	if (!in.bad && !in.left) {
		o->calls_used = next;
		return 0;
	}
	ft_processes_clear(&o->processes);
	memset(o->calls, 0, sizeof(o->calls));
	o->calls_clock = 0;
	o->user_seen = false;
	o->cr3 = cr3;
	return ft_error_set(err, -EBADMSG, "what was known of the guest's processes is damaged at byte %zu", length - in.left);
}
