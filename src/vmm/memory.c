#include "vmm/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2ull << 20)
#define SECTOR    512u /* the unit in which a disk fills memory */

/* Address space around RAM that faults: an engine bug that runs off either end must not find something to read. */
#define GUARD HUGE_PAGE

int ft_memory_create(struct ft_memory *memory, uint64_t size, struct ft_error *err)
{
	*memory = (struct ft_memory){0};
	if (size < FT_RAM_MIN || size > FT_RAM_MAX || size % HUGE_PAGE)
		return ft_error_set(
		    err, -EINVAL,
		    "memory of %llu bytes: it must be a multiple of 2 MiB from %llu MiB to %llu MiB",
		    (unsigned long long)size, (unsigned long long)(FT_RAM_MIN >> 20),
		    (unsigned long long)(FT_RAM_MAX >> 20));
	uint64_t whole = size + 2 * GUARD + HUGE_PAGE;
	uint8_t *area = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return ft_error_set(err, -errno, "cannot reserve %llu MiB for guest memory: %s",
				    (unsigned long long)(size >> 20), strerror(errno));
	uint8_t *base = (uint8_t *)(((uintptr_t)area + GUARD + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	munmap(area, (size_t)(base - GUARD - area));
	munmap(base + size + GUARD, (size_t)(area + whole - (base + size + GUARD)));
	/* One allocation: a byte of flags and one of sectors a page. */
	uint8_t *flags = calloc(size / FT_PAGE_SIZE, 2);
	if (!flags || mprotect(base, size, PROT_READ | PROT_WRITE)) {
		int code = flags ? -errno : -ENOMEM;
		free(flags);
		munmap(base - GUARD, size + 2 * GUARD);
		return ft_error_set(err, code, "cannot get %llu MiB of guest memory: %s",
				    (unsigned long long)(size >> 20), strerror(-code));
	}
	madvise(base, size, MADV_HUGEPAGE); /* without huge pages it is slower, not wrong */
	memory->base = base;
	memory->size = size;
	memory->page_flags = flags;
	memory->page_filled = flags + size / FT_PAGE_SIZE;
	return 0;
}

/* ---- Forks ---------------------------------------------------------------------------------------------------------- */

/* What a fork writes lies together, in huge pages of its own: this, the table `where`, page_flags and page_filled, then room
 * for a copy of each page. Only what is used becomes memory. */
struct region {
	uint64_t size;
	struct region *before; /* the parent's: of its pages those are left that have not been written since */
	uint8_t *flags;        /* before the first part */
	int32_t where[];
};

static struct region *region_of(const struct ft_memory *memory)
{
	return (struct region *)(void *)((uint8_t *)memory->where - offsetof(struct region, where));
}

static uint8_t *map_huge(uint64_t size)
{
	uint8_t *area = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return NULL;
	uint8_t *at = (uint8_t *)(((uintptr_t)area + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	if (at > area)
		munmap(area, (size_t)(at - area));
	if (at < area + HUGE_PAGE)
		munmap(at + size, (size_t)(area + HUGE_PAGE - at));
	madvise(at, size, MADV_HUGEPAGE); /* without huge pages it is slower, not wrong */
	return at;
}

void ft_memory_part(struct ft_memory *memory)
{
	uint64_t pages = memory->size / FT_PAGE_SIZE;
	uint64_t head = (sizeof(struct region) + pages * (sizeof(int32_t) + 2) + FT_PAGE_SIZE - 1) & ~(uint64_t)(FT_PAGE_SIZE - 1);
	uint64_t size = (head + memory->size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	uint8_t *at = map_huge(size);
	if (!at)
		return;
	int64_t away = (at - memory->base) / (int64_t)FT_PAGE_SIZE, most = INT32_MAX - (int64_t)(2 * size / FT_PAGE_SIZE);
	if (away > most || away < -most) {
		munmap(at, size);
		return;
	}
	struct region *region = (struct region *)(void *)at;
	uint8_t *flags = (uint8_t *)(region->where + pages);
	region->size = size;
	region->before = memory->where ? region_of(memory) : NULL;
	region->flags = memory->where ? region->before->flags : memory->page_flags;
	if (memory->where)
		memcpy(region->where, memory->where, pages * sizeof(*region->where));
	memcpy(flags, memory->page_flags, 2 * pages);
	memory->where = region->where;
	memory->page_flags = flags;
	memory->page_filled = flags + pages;
	memory->own = memory->own_next = at + head;
}

void ft_memory_destroy(struct ft_memory *memory)
{
	uint8_t *flags = memory->page_flags;
	for (struct region *region = memory->where ? region_of(memory) : NULL; region;) {
		struct region *before = region->before;
		flags = region->flags;
		munmap(region, region->size);
		region = before;
	}
	if (memory->base)
		munmap(memory->base - GUARD, memory->size + 2 * GUARD);
	free(flags);
	*memory = (struct ft_memory){0};
}

/* ---- The door ------------------------------------------------------------------------------------------------------- */

void ft_memory_fetch(const struct ft_memory *memory, uint64_t at)
{
	struct ft_memory_source *source = memory->source;
	uint64_t part = at / FT_MEMORY_PART;
	if (!ft_memory_absent(memory, at))
		return;
	source->here[part] = 1;
	source->absent--;
	/* In its place: of a page that is not here nobody has written anything. */
	source->fetch(source->context, part, memory->base + part * FT_MEMORY_PART);
}

void ft_memory_fetch_all(const struct ft_memory *memory)
{
	for (uint64_t at = 0; memory->source && memory->source->absent && at < memory->size; at += FT_MEMORY_PART)
		ft_memory_fetch(memory, at);
}

static bool enter(const struct ft_memory *memory, ft_gpa gpa, uint64_t length)
{
	if (!ft_memory_has(memory, gpa, length))
		return false;
	if (memory->source && memory->source->absent)
		for (uint64_t part = gpa.at / FT_MEMORY_PART; part <= (gpa.at + length - 1) / FT_MEMORY_PART; part++)
			ft_memory_fetch(memory, part * FT_MEMORY_PART);
	return true;
}

/* Bytes from gpa to the end of its page. */
static uint64_t room(ft_gpa gpa)
{
	return FT_PAGE_SIZE - gpa.at % FT_PAGE_SIZE;
}

const void *ft_memory_span(const struct ft_memory *memory, ft_gpa gpa, uint64_t *length)
{
	if (!enter(memory, gpa, *length))
		return NULL;
	const uint8_t *at = ft_memory_host(memory, gpa.at);
	uint64_t n = room(gpa);
	while (n < *length && ft_memory_host(memory, gpa.at + n) == at + n)
		n += FT_PAGE_SIZE;
	if (n < *length)
		*length = n;
	return at;
}

/* A device writes [from, to). A page that devices have filled whole, sector by sector, holds nothing of its former owner:
 * text read from disk into memory that some process had used is no written code. */
static void fill(struct ft_memory *memory, uint64_t page, uint64_t from, uint64_t to)
{
	uint64_t start = page * FT_PAGE_SIZE, end = start + FT_PAGE_SIZE;
	unsigned first = from <= start ? 0 : (unsigned)((from - start + SECTOR - 1) / SECTOR);
	unsigned last = to >= end ? FT_PAGE_SIZE / SECTOR : (unsigned)((to - start) / SECTOR);
	if (first >= last)
		return;
	/* A process that has written the page (the buffer of direct I/O) may go on without asking, and what it stores over
	 * the device's bytes would pass for theirs. Sectors that are marked already: nobody was granted anything since. */
	if ((memory->page_flags[page] & FT_PAGE_USER_WRITTEN) && !memory->page_filled[page] && memory->user_filled)
		memory->user_filled(memory->engine, page);
	memory->page_filled[page] |= (uint8_t)((1u << last) - (1u << first));
	if (memory->page_filled[page] == 0xff)
		memory->page_flags[page] &= (uint8_t)~FT_PAGE_USER_WRITTEN;
}

/* A device is about to write [from, to) of the page. */
static void announce(struct ft_memory *memory, uint64_t page, uint64_t from, uint64_t to)
{
	if ((memory->page_flags[page] & FT_PAGE_CODE) && memory->code_written)
		memory->code_written(memory->engine, page);
	if (ft_memory_grant(memory, page, false) && memory->moved)
		memory->moved(memory->engine, page);
	fill(memory, page, from, to);
	memory->page_flags[page] |= FT_PAGE_DMA_WRITTEN;
}

void *ft_memory_span_writable(struct ft_memory *memory, ft_gpa gpa, uint64_t *length)
{
	if (!enter(memory, gpa, *length))
		return NULL;
	uint64_t end = gpa.at + *length, n = room(gpa);
	announce(memory, gpa.at / FT_PAGE_SIZE, gpa.at, end);
	uint8_t *at = ft_memory_host(memory, gpa.at);
	for (; n < *length; n += FT_PAGE_SIZE) {
		announce(memory, (gpa.at + n) / FT_PAGE_SIZE, gpa.at, end);
		if (ft_memory_host(memory, gpa.at + n) != at + n)
			break;
	}
	if (n < *length)
		*length = n;
	return at;
}

bool ft_memory_read(const struct ft_memory *memory, ft_gpa gpa, void *to, uint64_t length)
{
	if (!enter(memory, gpa, length))
		return false;
	uint8_t *out = to;
	for (uint64_t n; length; length -= n, out += n, gpa = ft_gpa_add(gpa, n)) {
		n = length;
		memcpy(out, ft_memory_span(memory, gpa, &n), n);
	}
	return true;
}

bool ft_memory_write(struct ft_memory *memory, ft_gpa gpa, const void *from, uint64_t length)
{
	if (!enter(memory, gpa, length))
		return false;
	const uint8_t *in = from;
	for (uint64_t n; length; length -= n, in += n, gpa = ft_gpa_add(gpa, n)) {
		n = length < room(gpa) ? length : room(gpa);
		memcpy(ft_memory_span_writable(memory, gpa, &n), in, n);
	}
	return true;
}

void ft_memory_mark(struct ft_memory *memory)
{
	uint8_t keep = (uint8_t) ~(FT_PAGE_WRITTEN | FT_PAGE_USER_WRITTEN | FT_PAGE_DMA_WRITTEN);
	for (uint64_t page = 0; page < memory->size / FT_PAGE_SIZE; page++)
		memory->page_flags[page] &= keep;
	memory->written = 0;
	memory->marks++;
}
