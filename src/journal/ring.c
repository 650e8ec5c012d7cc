#include "journal/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC  "FTJRING1"
#define STREAM 4096u

/* The bytes that hide a stretch of the ring: made for a page at a time, as most records are a few bytes long. */
struct ft_journal_ring_stream {
	uint8_t key[crypto_stream_chacha20_KEYBYTES];
	uint64_t from; /* position of the first, a multiple of STREAM; UINT64_MAX: none are there */
	uint8_t bytes[STREAM];
};

/* ---- Encryption ------------------------------------------------------------------------------------------------------ */

int ft_journal_ring_unseal(struct ft_journal_ring *ring, const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	uint8_t id[16];
	ft_snapshot_identify(seal, id);
	if (sodium_memcmp(id, ring->page->key_id, sizeof(id)))
		return ft_error_set(err, -EKEYREJECTED, "the journal's ring is encrypted with another key");
	void *map = mmap(NULL, sizeof(*ring->stream), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return ft_error_set(err, -ENOMEM, "no memory for the key of the journal's ring");
	madvise(map, sizeof(*ring->stream), MADV_DONTDUMP);
	ring->stream = map;
	ring->stream->from = UINT64_MAX;
	ft_snapshot_key_for(seal, "foretaste journal ring", ring->stream->key);
	return 0;
}

void ft_journal_ring_private(struct ft_journal_ring *ring)
{
	madvise(ring->page, FT_JOURNAL_RING_FILE, MADV_DONTFORK);
	if (ring->stream)
		madvise(ring->stream, sizeof(*ring->stream), MADV_DONTFORK);
}

/* Copies, hiding or showing. */
static void copy(const struct ft_journal_ring *ring, uint64_t at, uint8_t *to, const uint8_t *from, size_t length)
{
	static const uint8_t nonce[crypto_stream_chacha20_NONCEBYTES];
	struct ft_journal_ring_stream *s = ring->stream;
	if (!s) {
		if (length)
			memcpy(to, from, length);
		return;
	}
	while (length) {
		size_t within = at % STREAM, n = STREAM - within < length ? STREAM - within : length;
		if (s->from != at - within) {
			s->from = at - within;
			memset(s->bytes, 0, sizeof(s->bytes));
			crypto_stream_chacha20_xor_ic(s->bytes, s->bytes, STREAM, nonce, s->from / 64, s->key);
		}
		for (size_t i = 0; i < n; i++)
			to[i] = from[i] ^ s->bytes[within + i];
		at += n;
		to += n;
		from += n;
		length -= n;
	}
}

/* ---- The ring ---------------------------------------------------------------------------------------------------------- */

int ft_journal_ring_make(int fd, const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	struct ft_journal_ring_page page = {.magic = MAGIC, .size = FT_JOURNAL_RING_SIZE, .encrypted = seal != NULL};
	if (seal) {
		memcpy(page.salt, seal->salt, sizeof(page.salt));
		ft_snapshot_identify(seal, page.key_id);
	}
	int error = posix_fallocate(fd, 0, FT_JOURNAL_RING_FILE);
	if (!error && pwrite(fd, &page, sizeof(page), 0) != sizeof(page))
		error = errno;
	return error ? ft_error_set(err, -error, "the journal's ring cannot be made: %s", strerror(error)) : 0;
}

int ft_journal_ring_open(struct ft_journal_ring *ring, int fd, bool writable, struct ft_error *err)
{
	struct stat st;
	*ring = (struct ft_journal_ring){0};
	if (fstat(fd, &st))
		return ft_error_set(err, -errno, "the journal's ring cannot be read: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size != FT_JOURNAL_RING_FILE)
		return ft_error_set(err, -EBADMSG, "the journal's ring has %lld bytes", (long long)st.st_size);
	void *map = mmap(NULL, FT_JOURNAL_RING_FILE, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return ft_error_set(err, -errno, "the journal's ring cannot be mapped: %s", strerror(errno));
	ring->page = map;
	ring->bytes = (uint8_t *)map + 4096;
	ring->head = __atomic_load_n(&ring->page->head, __ATOMIC_ACQUIRE);
	if (memcmp(ring->page->magic, MAGIC, sizeof(ring->page->magic)) || ring->page->size != FT_JOURNAL_RING_SIZE ||
	    ring->page->encrypted > 1) {
		ft_journal_ring_close(ring);
		return ft_error_set(err, -EBADMSG, "this is no journal's ring");
	}
	return 0;
}

void ft_journal_ring_close(struct ft_journal_ring *ring)
{
	if (ring->page)
		munmap(ring->page, FT_JOURNAL_RING_FILE);
	if (ring->stream) {
		sodium_memzero(ring->stream, sizeof(*ring->stream));
		munmap(ring->stream, sizeof(*ring->stream));
	}
	*ring = (struct ft_journal_ring){0};
}

uint64_t ft_journal_ring_room(const struct ft_journal_ring *ring)
{
	uint64_t used = ring->head - __atomic_load_n(&ring->page->tail, __ATOMIC_ACQUIRE);
	return used > FT_JOURNAL_RING_SIZE ? 0 : FT_JOURNAL_RING_SIZE - used;
}

static void copy_in(struct ft_journal_ring *ring, uint64_t at, const void *from, size_t length)
{
	size_t place = at % FT_JOURNAL_RING_SIZE, first = FT_JOURNAL_RING_SIZE - place;
	if (first > length)
		first = length;
	if (!length)
		return;
	copy(ring, at, ring->bytes + place, from, first);
	copy(ring, at + first, ring->bytes, (const uint8_t *)from + first, length - first);
}

bool ft_journal_ring_put(struct ft_journal_ring *ring, const void *a, size_t a_length, const void *b, size_t b_length)
{
	if (ft_journal_ring_room(ring) < a_length + b_length)
		return false;
	copy_in(ring, ring->head, a, a_length);
	copy_in(ring, ring->head + a_length, b, b_length);
	ring->head += a_length + b_length;
	__atomic_store_n(&ring->page->head, ring->head, __ATOMIC_RELEASE);
	return true;
}

void ft_journal_ring_progress(struct ft_journal_ring *ring, uint64_t icount)
{
	__atomic_store_n(&ring->page->icount, icount, __ATOMIC_RELEASE);
}

long ft_journal_ring_peek(const struct ft_journal_ring *ring, uint64_t from, uint8_t *to, size_t most)
{
	uint64_t head = __atomic_load_n(&ring->page->head, __ATOMIC_ACQUIRE);
	if (head < from || head - from > FT_JOURNAL_RING_SIZE)
		return -EBADMSG;
	if (ring->page->encrypted && !ring->stream)
		return -EACCES;
	size_t length = head - from < most ? (size_t)(head - from) : most;
	size_t place = from % FT_JOURNAL_RING_SIZE, first = FT_JOURNAL_RING_SIZE - place;
	if (first > length)
		first = length;
	copy(ring, from, to, ring->bytes + place, first);
	copy(ring, from + first, to + first, ring->bytes, length - first);
	return (long)length;
}

void ft_journal_ring_release(struct ft_journal_ring *ring, uint64_t tail)
{
	__atomic_store_n(&ring->page->tail, tail, __ATOMIC_RELEASE);
}
