#include "journal/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "FTJRING1"

int ft_journal_ring_make(int fd, struct ft_error *err)
{
	struct ft_journal_ring_page page = {.magic = MAGIC, .size = FT_JOURNAL_RING_SIZE};
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
	if (memcmp(ring->page->magic, MAGIC, sizeof(ring->page->magic)) || ring->page->size != FT_JOURNAL_RING_SIZE) {
		ft_journal_ring_close(ring);
		return ft_error_set(err, -EBADMSG, "this is no journal's ring");
	}
	return 0;
}

void ft_journal_ring_close(struct ft_journal_ring *ring)
{
	if (ring->page)
		munmap(ring->page, FT_JOURNAL_RING_FILE);
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
	if (first)
		memcpy(ring->bytes + place, from, first);
	if (length > first)
		memcpy(ring->bytes, (const uint8_t *)from + first, length - first);
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
	size_t length = head - from < most ? (size_t)(head - from) : most;
	size_t place = from % FT_JOURNAL_RING_SIZE, first = FT_JOURNAL_RING_SIZE - place;
	if (first > length)
		first = length;
	memcpy(to, ring->bytes + place, first);
	memcpy(to + first, ring->bytes, length - first);
	return (long)length;
}

void ft_journal_ring_release(struct ft_journal_ring *ring, uint64_t tail)
{
	__atomic_store_n(&ring->page->tail, tail, __ATOMIC_RELEASE);
}
