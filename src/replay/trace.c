#include "replay/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/event.h"
#include "base/printable.h"
#include "clone/book.h"

static const struct {
	const char *name;
	unsigned kind;
} kinds[] = {{"syscalls", FT_TRACE_SYSCALLS},
	     {"network", FT_TRACE_NETWORK},
	     {"disk", FT_TRACE_DISK},
	     {"console", FT_TRACE_CONSOLE},
	     {"inputs", FT_TRACE_INPUTS}};

int ft_trace_kinds(const char *words, unsigned *found)
{
	*found = 0;
	while (*words) {
		size_t length = strcspn(words, ","), i = 0, count = sizeof(kinds) / sizeof(*kinds);
		while (i < count && (strlen(kinds[i].name) != length || strncmp(words, kinds[i].name, length)))
			i++;
		if (i == count)
			return -EINVAL;
		*found |= kinds[i].kind;
		words += length + (words[length] == ',');
	}
	return *found ? 0 : -EINVAL;
}

static unsigned kind_of(unsigned type)
{
	switch (type) {
	case FT_EVENT_DISK_READ:
	case FT_EVENT_DISK_WRITE:
		return FT_TRACE_DISK;
	case FT_EVENT_CONSOLE:
		return FT_TRACE_CONSOLE;
	case FT_EVENT_NET_TX: /* every frame is told by the card itself */
	case FT_EVENT_NET_RX:
	case FT_EVENT_CR3:
	case FT_EVENT_CPU:
		return 0;
	case FT_EVENT_CONNECT:
	case FT_EVENT_LISTEN:
		return FT_TRACE_SYSCALLS | FT_TRACE_NETWORK;
	default:
		return FT_TRACE_SYSCALLS;
	}
}

static void begin_line(struct ft_trace *t, uint64_t icount, uint64_t vtime_ns)
{
	t->lines++;
	fprintf(t->to, "%14" PRIu64 " %6" PRIu64 ".%06" PRIu64 " ", icount, vtime_ns / 1000000000u, vtime_ns / 1000u % 1000000u);
}

static void take(void *context, const void *record, size_t length)
{
	struct ft_trace *t = context;
	const char *strings[FT_EVENT_STRINGS];
	struct ft_event e;
	char field[FT_EVENT_FIELD_NAME], clean[FT_EVENT_MAX];
	/* A clone tells so many of a kind and no more; a replay tells all. */
	struct ft_observer *o = &t->witness.observer;
	o->syscalls_told = o->switches_told = o->reads_told = o->rings_told = o->pages_told = 0;
	if (ft_event_check(record, length, &e, strings) || !(kind_of(e.type) & t->kinds))
		return;
	begin_line(t, e.icount, e.vtime_ns);
	ft_printable(clean, sizeof(clean), e.process, strnlen(e.process, sizeof(e.process)));
	fprintf(t->to, "%s[%" PRId64 "] %s", *clean ? clean : "?", e.pid, ft_event_name(e.type));
	for (int i = 0; i < (int)FT_EVENT_ARGS; i++)
		if (ft_event_field_name(e.type, i, field)) {
			bool address = e.a[i] > 0xffffffff && (int64_t)e.a[i] > 0;
			if (address)
				fprintf(t->to, " %s=0x%" PRIx64, field, e.a[i]);
			else
				fprintf(t->to, " %s=%" PRId64, field, (int64_t)e.a[i]);
		}
	for (unsigned i = 0; i < e.strings; i++) {
		ft_printable(clean, sizeof(clean), strings[i], strlen(strings[i]));
		if (*clean)
			fprintf(t->to, " \"%s\"", clean);
	}
	putc('\n', t->to);
}

void ft_trace_begin(struct ft_trace *t, struct ft_replay *r, unsigned which, FILE *to, const uint8_t *book, size_t book_length)
{
	*t = (struct ft_trace){.kinds = which, .to = to, .m = r->m};
	if (!(which & ~(unsigned)(FT_TRACE_NETWORK | FT_TRACE_INPUTS)))
		return;
	ft_report_begin(&t->report, 0, FT_ROLE_LIVE, 0);
	t->report.take = take;
	t->report.context = t;
	ft_witness_live(&t->witness, r->m, &t->report, 0);
	/* Without it names are missing, and nothing else. */
	if (book)
		ft_book_load(&t->witness.observer, book, book_length, NULL);
	ft_observe_become_clone(&t->witness.observer, &t->report);
	r->m->hooks.mask |= FT_HOOK_FAULT | FT_HOOK_EXEC_PAGE | FT_HOOK_DISK;
	r->m->engine_ops->observe(r->m->engine);
}

void ft_trace_end(struct ft_trace *t)
{
	if (!t->report.take)
		return;
	ft_observe_end(&t->witness.observer, true);
	t->m->hooks.mask = 0;
	t->report.take = NULL;
}

static void frame(struct ft_trace *t, const void *bytes, size_t length, bool received)
{
	uint64_t values[6] = {0};
	char text[64] = "";
	bool known = ft_observe_frame(bytes, length, received, values, text);
	begin_line(t, t->m->icount, ft_machine_vtime(t->m));
	fprintf(t->to, "%s %zu bytes", received ? "net.rx" : "net.tx", length);
	if (known)
		fprintf(t->to, " protocol=%" PRIu64 " %s %s port %" PRIu64, values[1], received ? "from" : "to", text, values[4]);
	putc('\n', t->to);
}

void ft_trace_record(struct ft_trace *t, const struct ft_record *r)
{
	if (t->kinds & FT_TRACE_INPUTS) {
		begin_line(t, t->m->icount, ft_machine_vtime(t->m));
		fprintf(t->to, "input %s value=%" PRIu64 " length=%" PRIu32 "\n", ft_record_name(r->kind), r->value, r->length);
	}
	if (r->kind == FT_INPUT_FRAME && t->kinds & FT_TRACE_NETWORK)
		frame(t, r->data, r->length, true);
}

void ft_trace_net_tx(struct ft_trace *t, const void *bytes, size_t length)
{
	if (t->kinds & FT_TRACE_NETWORK)
		frame(t, bytes, length, false);
}
