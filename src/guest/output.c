#include "guest/output.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

struct waiting {
	uint64_t position, since_ns;
	uint32_t length, kind;
};

static size_t span(size_t length)
{
	return sizeof(struct waiting) + ((length + 7) & ~(size_t)7);
}

int ft_output_open(struct ft_output *o, struct ft_error *err)
{
	*o = (struct ft_output){0};
	void *map = mmap(NULL, FT_OUTPUT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return ft_error_set(err, -ENOMEM, "no memory for frames that wait for the journal");
	madvise(map, FT_OUTPUT_SIZE, MADV_DONTFORK);
	o->bytes = map;
	return 0;
}

void ft_output_close(struct ft_output *o)
{
	if (o->bytes)
		munmap(o->bytes, FT_OUTPUT_SIZE);
	o->bytes = NULL;
}

bool ft_output_full(const struct ft_output *o)
{
	return o->end - o->first > FT_OUTPUT_SIZE - FT_OUTPUT_SPARE;
}

bool ft_output_put(struct ft_output *o, uint32_t kind, const void *frame, size_t length, uint64_t now)
{
	struct waiting w = {.since_ns = now, .length = (uint32_t)length, .kind = kind};
	if (o->end + span(length) > FT_OUTPUT_SIZE && o->first) {
		memmove(o->bytes, o->bytes + o->first, o->end - o->first);
		o->marked -= o->first;
		o->end -= o->first;
		o->first = 0;
	}
	if (o->end + span(length) > FT_OUTPUT_SIZE)
		return false;
	memcpy(o->bytes + o->end, &w, sizeof(w));
	memcpy(o->bytes + o->end + sizeof(w), frame, length);
	o->end += span(length);
	o->frames++;
	return true;
}

void ft_output_mark(struct ft_output *o, uint64_t position)
{
	while (o->marked != o->end) {
		struct waiting w;
		memcpy(&w, o->bytes + o->marked, sizeof(w));
		w.position = position;
		memcpy(o->bytes + o->marked, &w, sizeof(w));
		o->marked += span(w.length);
	}
}

unsigned ft_output_release(struct ft_output *o, uint64_t durable, bool failing, uint64_t now,
			   void (*send)(void *context, uint32_t kind, const void *frame, size_t length), void *context)
{
	unsigned count = 0;
	while (o->first != o->marked) {
		struct waiting w;
		memcpy(&w, o->bytes + o->first, sizeof(w));
		if (w.position > durable)
			break;
		ft_histogram_note(&o->waits, FT_HISTOGRAM_PAUSE, now - w.since_ns);
		o->uncommitted += failing;
		send(context, w.kind, o->bytes + o->first + sizeof(w), w.length);
		o->first += span(w.length);
		count++;
	}
	if (o->first == o->end)
		o->first = o->marked = o->end = 0;
	return count;
}
