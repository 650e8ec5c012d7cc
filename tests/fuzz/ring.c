/* A ring with both its ends, and a peer that writes whatever it likes into the shared memory: behind honest use every
 * record comes out once, in order and whole; behind a lie there are only refusals, and no byte outside of the shared
 * memory or of the reader's buffer is touched. */
#include "input.h"

#include <errno.h>

#include "base/ring.h"

#define SIZE   (2u * FT_RING_RECORD_MAX)
#define EXPECT 4096u

struct expected {
	uint32_t kind, length;
	uint8_t first;
};

struct world {
	struct ft_ring producer, consumer;
	struct ft_ring_shared *shared;
	uint8_t *buffer;
	bool lied;
	struct expected queue[EXPECT];
	unsigned put, got;
	uint8_t next;
};

static void put(struct world *w, struct input *in)
{
	static uint8_t bytes[FT_RING_RECORD_MAX + 64];
	uint32_t length = input16(in) % sizeof(bytes), kind = input8(in) & 3;
	uint8_t first = w->next++;
	memset(bytes, first, length);
	if (length)
		bytes[length - 1] = (uint8_t)~first;
	uint32_t cut = length / 3;
	struct iovec parts[2] = {{bytes, cut}, {bytes + cut, length - cut}};
	size_t room = ft_ring_room(&w->producer);
	int error = ft_ring_put(&w->producer, kind, parts, 2);
	MUST(!error || error == -ENOBUFS || error == -EMSGSIZE || error == -EPROTO);
	MUST((error == -EMSGSIZE) == (length > FT_RING_RECORD_MAX));
	if (w->lied)
		return;
	MUST(error != -EPROTO);
	if (length <= room && room)
		MUST(!error);
	if (!error && w->put < EXPECT)
		w->queue[w->put] = (struct expected){.kind = kind, .length = length, .first = first};
	w->put += !error;
}

static void get(struct world *w)
{
	uint32_t kind = 0xabcd;
	long length = ft_ring_get(&w->consumer, &kind, w->buffer, FT_RING_RECORD_MAX);
	MUST(length == -EAGAIN || length == -EPROTO || (length >= 0 && length <= (long)FT_RING_RECORD_MAX));
	if (w->lied)
		return;
	if (w->got == w->put) {
		MUST(length == -EAGAIN);
		return;
	}
	const struct expected *e = &w->queue[w->got++];
	MUST(length == (long)e->length && kind == e->kind);
	if (length)
		MUST(w->buffer[length - 1] == (uint8_t)~e->first);
	if (length > 2)
		MUST(w->buffer[0] == e->first && w->buffer[length / 2] == e->first);
}

/* The peer of either end, at work on what is not its own. */
static void lie(struct world *w, struct input *in)
{
	uint64_t *index = input8(in) & 1 ? &w->shared->producer.index : &w->shared->consumer.index;
	w->lied = true;
	switch (input8(in) % 6) {
	case 0:
		*index = input64(in);
		break;
	case 1:
		*index += (uint64_t)(int8_t)input8(in) * 8;
		break;
	case 2:
		*index += (uint64_t)input16(in) * 8;
		break;
	case 3: { /* the header of the record that is read next */
		uint64_t at = w->consumer.index & (SIZE - 1);
		input_copy(in, w->shared->data + at, 8);
		break;
	}
	case 4: { /* a small change of its length */
		uint64_t at = w->consumer.index & (SIZE - 1);
		w->shared->data[at + (input8(in) & 7)] ^= input8(in);
		break;
	}
	case 5:
		input_copy(in, w->shared->data + input16(in) % (SIZE - 8), 8);
		break;
	}
}

static void check(const struct world *w)
{
	/* What an end believes of the other is possible, whatever was told. */
	MUST(w->producer.index - w->producer.other <= SIZE && !(w->producer.index & 7));
	MUST(w->consumer.other - w->consumer.index <= SIZE && !(w->consumer.index & 7));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	static struct world w;
	struct ft_ring odd;
	memset(&w, 0, sizeof(w));
	w.shared = calloc(1, ft_ring_footprint(SIZE));
	w.buffer = malloc(FT_RING_RECORD_MAX);
	MUST(!ft_ring_attach(&w.producer, w.shared, SIZE, -1) &&
	     !ft_ring_attach(&w.consumer, w.shared, SIZE, -1));
	uint64_t wrong = input32(&in);
	if (!ft_ring_attach(&odd, w.shared, wrong, -1))
		MUST(wrong >= SIZE && !(wrong & (wrong - 1)));
	while (in.left && w.put < EXPECT) {
		switch (input8(&in) % 8) {
		case 0:
		case 1:
		case 2:
			put(&w, &in);
			break;
		case 3:
		case 4:
			get(&w);
			break;
		case 5: {
			int waiting = ft_ring_waiting(&w.consumer);
			MUST(waiting == 0 || waiting == 1 || (w.lied && waiting == -EPROTO));
			break;
		}
		case 6:
			if (ft_ring_sleep(&w.consumer) && !w.lied)
				MUST(w.put == w.got);
			ft_ring_kick(&w.producer);
			ft_ring_awake(&w.consumer);
			break;
		case 7:
			lie(&w, &in);
			break;
		}
		check(&w);
	}
	while (!w.lied && w.got < w.put)
		get(&w);
	free(w.buffer);
	free(w.shared);
	return 0;
}
