/* Where the engine's CPU, TLBs and jump caches are: a huge page that changes its place at forks. A small page that both sides of a fork
 * write is copied by a fault in each, some 50 us on a host that shadows page tables; a hundred of them are written within the first
 * milliseconds. All of it is copied in 0.1 ms, and 0.2 ms more where its new place is no memory yet. */
#include <string.h>
#include <sys/mman.h>

#include "vmm/engine/soft/run.h"

#define GUARD (64u << 10)
#define PLACE (2ull << 20) /* a huge page */

_Static_assert(sizeof(struct soft_hot) <= PLACE, "one huge page");

struct soft_hot *soft_hot_map(void)
{
	uint64_t whole = 2 * PLACE + 2 * GUARD;
	uint8_t *area = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return NULL;
	uint8_t *at = (uint8_t *)(((uintptr_t)area + GUARD + PLACE - 1) & ~(uintptr_t)(PLACE - 1));
	if (at - GUARD > area)
		munmap(area, (size_t)(at - GUARD - area));
	if (at + PLACE + GUARD < area + whole)
		munmap(at + PLACE + GUARD, (size_t)(area + whole - (at + PLACE + GUARD)));
	/* Mapped over, not unprotected: a clone may call mmap(), but not mprotect(). */
	if (mmap(at, PLACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
		munmap(at - GUARD, PLACE + 2 * GUARD);
		return NULL;
	}
	madvise(at, PLACE, MADV_HUGEPAGE); /* without huge pages it is slower, not wrong */
	return (void *)at;
}

void soft_hot_unmap(struct soft_hot *hot)
{
	if (hot)
		munmap((uint8_t *)hot - GUARD, PLACE + 2 * GUARD);
}

void soft_hot_settle(struct ft_engine *engine, struct soft_hot *hot)
{
	engine->hot = hot;
	engine->cpu = &hot->cpu;
	engine->blocks = &hot->blocks;
	hot->cpu.blocks = &hot->blocks;
	hot->cpu.tlb[0] = &hot->tlb[0];
	hot->cpu.tlb[1] = &hot->tlb[1];
	hot->blocks.jumps[SOFT_JUMPS_KERNEL].set = hot->kernel;
	hot->blocks.jumps[SOFT_JUMPS_USER].set = hot->user;
}

void soft_hot_move(struct ft_engine *engine)
{
	struct soft_hot *from = engine->hot, *to = engine->next ? engine->next : soft_hot_map();
	if (!to)
		return;
	if (engine->next)
		madvise(to, PLACE, MADV_DOFORK);
	memcpy(to, from, sizeof(*to));
	soft_hot_settle(engine, to);
	soft_hot_unmap(engine->last);
	engine->last = from;
	engine->next = NULL;
}

void soft_hot_rest(struct ft_engine *engine)
{
	soft_hot_unmap(engine->last);
	engine->last = NULL;
	if (engine->next)
		return;
	engine->next = soft_hot_map();
	if (!engine->next)
		return;
	/* A fork that had it, too, would make a copy of it necessary that it is there to spare. */
	if (madvise(engine->next, PLACE, MADV_DONTFORK)) {
		soft_hot_unmap(engine->next);
		engine->next = NULL;
		return;
	}
	*(volatile uint8_t *)engine->next = 0; /* it is memory from here on */
}
