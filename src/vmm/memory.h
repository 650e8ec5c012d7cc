/* Guest memory, and the one door into it.
 *
 * ft_gpa cannot be dereferenced or added to by accident; ft_memory_span turns (gpa, length) into a host pointer or
 * NULL. RAM is one private anonymous mapping from guest physical 0, which is what makes fork() a copy-on-write clone.
 * Whoever gets a writable span has announced the write: the page is marked and translated code in it is dropped.
 *
 * In a fork (ft_memory_part) pages do not stay where they are: the first write to each copies it to memory of the fork's own,
 * before the kernel would. So bytes of two pages need not lie side by side, and a host address of a page is good only until
 * the next write to that page is announced; a span may be kept until then, and no longer than until the caller returns to
 * the engine.
 *
 * Only the thread that runs the machine may call these. */
#ifndef FT_VMM_MEMORY_H
#define FT_VMM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FT_PAGE_SIZE 4096u
#define FT_RAM_MIN   (64ull << 20)
#define FT_RAM_MAX   (3ull << 30) /* RAM ends below the PCI hole */

typedef struct {
	uint64_t at;
} ft_gpa;

static inline ft_gpa ft_gpa_make(uint64_t at)
{
	return (ft_gpa){at};
}

static inline ft_gpa ft_gpa_add(ft_gpa gpa, uint64_t n)
{
	return (ft_gpa){gpa.at + n};
}

/* What is known of a 4 KiB page; one byte a page. */
enum ft_page_flag {
	FT_PAGE_WRITTEN = 1,      /* since the mark (ft_memory_mark): by anybody */
	FT_PAGE_USER_WRITTEN = 2, /* since the mark: a store by a user mapping was granted, and no device filled the page since */
	FT_PAGE_DMA_WRITTEN = 4,  /* since the mark: by a device */
	FT_PAGE_CODE = 8          /* the engine holds translations of bytes in this page */
};

/* RAM whose contents come when they are first needed (a restored snapshot): by parts of FT_MEMORY_PART. Owned by who fills
 * it in, who keeps it until everything is here or the machine is gone. A fork has its own copy. */
#define FT_MEMORY_PART (2ull << 20)

struct ft_memory_source {
	uint8_t *here;   /* a byte a part, 0: its contents are elsewhere */
	uint64_t absent; /* parts that are */
	/* Writes the part's FT_MEMORY_PART bytes. A failure is the machine's end (m->error); the part stays zero. */
	void (*fetch)(void *context, uint64_t part, uint8_t *to);
	void *context;
};

struct ft_memory {
	uint8_t *base; /* MAP_PRIVATE|MAP_ANONYMOUS, MADV_HUGEPAGE, 2 MiB aligned, guard pages around it */
	uint64_t size;
	/* In a fork (ft_memory_part): where[page] says how many pages from its place in `base` the page's bytes are. NULL: all are
	 * in their places. What this process has copied lies from `own` on, in the order of first writes, up to own_next. */
	int32_t *where;
	uint8_t *own, *own_next;
	uint8_t *page_flags;   /* size / FT_PAGE_SIZE entries */
	uint8_t *page_filled; /* a bit a 512-byte sector: a device filled it since user code was last let write the page */
	uint64_t written;      /* pages with FT_PAGE_WRITTEN, and disk overlay blocks written since the mark: the memory
	                          budget counts these */
	uint32_t marks;        /* ft_memory_mark was called this often */
	/* Engine: a page with FT_PAGE_CODE is about to be written by somebody else than translated code. */
	void (*code_written)(void *engine, uint64_t page);
	/* Engine: somebody else's write has moved the page: its host address is another one. */
	void (*moved)(void *engine, uint64_t page);
	/* Engine: a device fills sectors of a page that user code may have been granted: its next store is to be seen. */
	void (*user_filled)(void *engine, uint64_t page);
	void *engine;
	struct ft_memory_source *source; /* NULL: everything is here */
};

int ft_memory_create(struct ft_memory *memory, uint64_t size, struct ft_error *err);
void ft_memory_destroy(struct ft_memory *memory);

/* Whoever reaches RAM by another way than the functions below asks here before, for each part; and fetches it. */
static inline bool ft_memory_absent(const struct ft_memory *memory, uint64_t at)
{
	return memory->source && memory->source->absent && !memory->source->here[at / FT_MEMORY_PART];
}
void ft_memory_fetch(const struct ft_memory *memory, uint64_t at);
void ft_memory_fetch_all(const struct ft_memory *memory);

/* Where the byte at gpa, which is in RAM, is now; the rest of its page follows. */
static inline uint8_t *ft_memory_host(const struct ft_memory *memory, uint64_t gpa)
{
	int64_t away = memory->where ? memory->where[gpa / FT_PAGE_SIZE] : 0;
	return memory->base + gpa + away * FT_PAGE_SIZE;
}

/* Is [gpa, gpa + length) RAM? No when length is 0. */
static inline bool ft_memory_has(const struct ft_memory *memory, ft_gpa gpa, uint64_t length)
{
	return length && length <= memory->size && gpa.at <= memory->size - length;
}

/* [gpa, gpa + *length) as host memory, as far as it lies in one piece: *length becomes that piece's length, which ends at a
 * page's end or with the range. NULL when any byte of the range is outside RAM, or there is none. */
const void *ft_memory_span(const struct ft_memory *memory, ft_gpa gpa, uint64_t *length);
void *ft_memory_span_writable(struct ft_memory *memory, ft_gpa gpa, uint64_t *length);

/* Copies; false (and nothing written) when out of range. */
bool ft_memory_read(const struct ft_memory *memory, ft_gpa gpa, void *to, uint64_t length);
bool ft_memory_write(struct ft_memory *memory, ft_gpa gpa, const void *from, uint64_t length);

/* Engine side: a write grant for one page (by a mapping that CPL 3 has: user = true), whose contents are here. Marks, counts.
 * true: the page has moved, no host address of it is good any more. May run with the guest's state in vector registers. */
static inline bool ft_memory_grant(struct ft_memory *memory, uint64_t page, bool user)
{
	uint8_t old = memory->page_flags[page];
	memory->written += !(old & FT_PAGE_WRITTEN);
	memory->page_flags[page] = (uint8_t)(old | FT_PAGE_WRITTEN | (user ? FT_PAGE_USER_WRITTEN : 0));
	if (user)
		memory->page_filled[page] = 0;
	if (!memory->where)
		return false;
	const void *from = ft_memory_host(memory, page * FT_PAGE_SIZE);
	if ((uint64_t)((const uint8_t *)from - memory->own) < memory->size)
		return false;
	/* There is room: a place for each page of RAM. */
	void *to = memory->own_next;
	uint64_t words = FT_PAGE_SIZE / 8;
	memory->own_next += FT_PAGE_SIZE;
	memory->where[page] = (int32_t)(((uint8_t *)to - memory->base) / FT_PAGE_SIZE - (int64_t)page);
	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
	return true;
}

/* Are the bytes at gpa what a store by a user mapping may have left there since the mark? Not if a device has filled their
 * sector since: the text of a file whose end, or whose hole, the kernel fills with zeros never covers its page whole. */
static inline bool ft_memory_user_wrote(const struct ft_memory *memory, ft_gpa gpa)
{
	uint64_t page = gpa.at / FT_PAGE_SIZE;
	return (memory->page_flags[page] & FT_PAGE_USER_WRITTEN) &&
	       !(memory->page_filled[page] >> (gpa.at % FT_PAGE_SIZE / 512) & 1);
}

/* This process is a fork that does not live for long: pages are copied when they are first written from here on, into huge
 * pages. The kernel would do that as well, with a fault for each (measured: 52-62 us of CPU time, against 3-4 us). Where
 * there is no memory for it, that is how it is. */
void ft_memory_part(struct ft_memory *memory);

/* Forgets who wrote what: the flags WRITTEN, USER_WRITTEN, DMA_WRITTEN and the count. A clone does this right after
 * its fork, together with the engine's `observe`, which makes later write grants visible again. */
void ft_memory_mark(struct ft_memory *memory);

#endif
