/* What was known of a guest's processes, as a checkpoint or a kept seed brings it, whose writer was in the hands of its guest. Held to
 * be true: what was saved is taken; what is taken is what was saved, byte for byte, with its texts ended and its clocks ahead of all that
 * they timed, and an observer can go on from it; what is refused leaves an observer that knows nothing, and says why. */
#include <errno.h>

#include "input.h"

#include "clone/book.h"

#define PROCESSES (FT_PROCESS_BUCKETS * FT_PROCESS_WAYS)
#define CR3	  0x1000u

static struct ft_observer made, loaded, begun;

static size_t peek(void *context, uint64_t cr3, uint64_t va, void *to, size_t length)
{
	memset(to, 'p', length);
	return va & 1 ? 0 : length;
}

static void now(void *context, uint64_t *icount, uint64_t *vtime_ns)
{
	*icount = *vtime_ns = 1;
}

static const struct ft_observe_source source = {.peek = peek, .now = now};
static struct ft_report nobody = {.fd = -1};

static void begin(struct ft_observer *o)
{
	memset(o, 0, sizeof(*o));
	ft_observe_begin(o, &source, &nobody, CR3);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	begin(&begun);
	return 0;
}

/* ---- A book of the input's making ------------------------------------------------------------------------------------- */

static void fill(struct input *in, char *to, size_t size)
{
	size_t length = input8(in) * (size - 1) / 255;
	memset(to, 'a' + input8(in) % 26, length);
}

static void make(struct input *in)
{
	begin(&made);
	made.user_seen = input8(in) & 1;
	made.cr3 = (uint64_t)input32(in) << 12;
	made.processes.clock = input16(in);
	made.calls_clock = input16(in);
	for (unsigned i = 0; in->left && i < 32; i++) {
		uint8_t what = input8(in);
		uint16_t at = input16(in);
		if (what & 1) {
			struct ft_process *p = &made.processes.entries[at % PROCESSES];
			*p = (struct ft_process){.cr3 = 1 + (uint64_t)at, .used = made.processes.clock * (what >> 4) / 15, .pid = what & 2 ? -1 : at};
			p->born_of = what & 4 ? input64(in) : 0;
			fill(in, p->name, sizeof(p->name));
			fill(in, p->directory, sizeof(p->directory));
		} else {
			unsigned n = at % FT_OBSERVE_CALLS;
			struct ft_observe_call *c = &made.calls[n];
			*c = (struct ft_observe_call){.cr3 = 1 + (uint64_t)at, .rsp = at, .nr = (uint16_t)(what >> 3), .began = made.calls_clock * (what >> 4) / 15};
			c->has_strings = what & 2;
			c->child_ran = what & 4;
			c->parent_ran = what & 8;
			c->child_pid = what & 8 ? at : 0;
			input_copy(in, c->args, 8);
			fill(in, c->first, sizeof(c->first));
			fill(in, c->second, sizeof(c->second));
			made.calls_used = made.calls_used <= n ? n + 1 : made.calls_used;
		}
	}
}

/* ---- What must be true ------------------------------------------------------------------------------------------------ */

static void check(const struct ft_observer *o)
{
	MUST(o->calls_used <= FT_OBSERVE_CALLS && !(o->cr3 & 0xfff));
	for (unsigned i = 0; i < PROCESSES; i++) {
		const struct ft_process *p = &o->processes.entries[i];
		MUST(p->used <= o->processes.clock && memchr(p->name, 0, sizeof(p->name)) && memchr(p->directory, 0, sizeof(p->directory)));
	}
	for (unsigned i = 0; i < FT_OBSERVE_CALLS; i++) {
		const struct ft_observe_call *c = &o->calls[i];
		MUST(c->began <= o->calls_clock && memchr(c->first, 0, sizeof(c->first)) && memchr(c->second, 0, sizeof(c->second)));
		MUST(!c->cr3 || i < o->calls_used);
	}
}

/* All that a clone's observer does with what it inherited. */
static void go_on(struct ft_observer *o)
{
	char path[FT_PROCESS_PATH];
	uint64_t args[6] = {2, 4, 6, 8, 10, 12};
	ft_observe_become_clone(o, &nobody);
	for (unsigned i = 0; i < PROCESSES; i += 3) {
		const struct ft_process *p = &o->processes.entries[i];
		ft_process_resolve(p, "there", path, sizeof(path));
		if (p->cr3)
			ft_process_copy(&o->processes, p->cr3 + 0x1000 * i, p);
	}
	for (unsigned i = 0; i < o->calls_used; i++) {
		struct ft_observe_call c = o->calls[i];
		if (!c.cr3)
			continue;
		ft_observe_cr3(o, o->cr3, c.cr3 & ~0xfffull);
		ft_observe_sysret(o, i % 5 ? i : -2ull, c.rip, c.rsp);
		ft_observe_syscall(o, i * 7 % 440, args, c.rip, c.rsp + 8);
	}
	ft_observe_end(o, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct ft_error err = {0};
	uint8_t how = input8(&in), *bytes, *saved;
	uint32_t changes[8][2] = {{0}};
	size_t length, saved_length;
	unsigned count = how & 2 ? how >> 5 : 0;
	for (unsigned i = 0; i < count; i++) {
		changes[i][0] = input16(&in);
		changes[i][1] = input8(&in);
	}
	if (how & 1) {
		const uint8_t *raw = input_bytes(&in, in.left, &length);
		bytes = malloc(length + !length);
		if (length)
			memcpy(bytes, raw, length);
	} else {
		make(&in);
		MUST(!ft_book_save(&made, &bytes, &length));
	}
	for (unsigned i = 0; i < count && length; i++)
		bytes[changes[i][0] % length] ^= (uint8_t)changes[i][1];
	begin(&loaded);
	int error = ft_book_load(&loaded, bytes, how & 4 && length ? length - 1 : length, &err);
	MUST(!error || (error == -EBADMSG && *err.text && !memcmp(&loaded, &begun, sizeof(loaded))));
	MUST(!error || (how & 7) || count);
	if (!error) {
		check(&loaded);
		MUST(!ft_book_save(&loaded, &saved, &saved_length));
		MUST(saved_length == length - (how & 4 && length) && !memcmp(saved, bytes, saved_length));
		free(saved);
		go_on(&loaded);
	}
	free(bytes);
	return 0;
}
