/* The block cache: finding, keeping, chaining and dropping translations. See block.h.
 *
 * Runs between translated instructions; only translation itself happens with the FPU parked. */
#include <errno.h>

#include "vmm/engine/soft/block.h"
#include "vmm/engine/soft/emit.h"
#include "vmm/engine/soft/system.h"
#include "vmm/engine/soft/verify.h"

#define PAGE_MASK ((uint64_t)FT_PAGE_SIZE - 1)

struct parked {
	uint8_t image[512] __attribute__((aligned(16)));
};

/* The translator, Zydis and the verifier are ordinary code. */
static int translate(struct soft_cpu *cpu, struct soft_block *block, const uint8_t *bytes, uint32_t available,
		     uint32_t most)
{
	static const uint32_t mxcsr = 0x1f80;
	struct soft_blocks *b = cpu->blocks;
	struct parked parked;
	__asm__ volatile("fxsave64 %0; fninit; ldmxcsr %1" : "=m"(parked.image) : "m"(mxcsr) : "memory");
	int result = soft_translate_block(cpu, block, bytes, available, most);
	if (!result && b->verify)
		result = soft_verify(cpu, b->code + block->entry - SOFT_RESUME, block->size, SOFT_RESUME,
				     block->mode, &cpu->m->error);
	__asm__ volatile("fxrstor64 %0" : : "m"(parked.image) : "memory");
	return result;
}

/* ---- Hash ---------------------------------------------------------------------------------------------------- */

/* Well mixed on purpose: code addresses share most of their bits. */
static uint32_t hash_of(uint64_t rip, uint64_t gpa, uint8_t mode)
{
	uint64_t x = (rip ^ gpa << 20 ^ (uint64_t)mode << 60) * 0x9e3779b97f4a7c15ull;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	return (uint32_t)(x >> 32);
}

static bool is_young(const struct soft_blocks *b, uint32_t index)
{
	return b->young.block && index >= b->young.block;
}

static uint32_t *head_of(struct soft_blocks *b, uint32_t hash, bool young)
{
	return young ? &b->young.hash[hash % SOFT_YOUNG_HASH] : &b->hash[hash & b->hash_mask];
}

static void hash_insert(struct soft_blocks *b, struct soft_block *block)
{
	uint32_t index = soft_block_index(b, block);
	uint32_t *head = head_of(b, hash_of(block->rip, block->gpa, block->mode), is_young(b, index));
	block->next_hash = *head;
	*head = index;
}

static void hash_remove(struct soft_blocks *b, const struct soft_block *block)
{
	uint32_t index = soft_block_index(b, block);
	uint32_t *at = head_of(b, hash_of(block->rip, block->gpa, block->mode), is_young(b, index));
	while (*at != SOFT_NONE && *at != index)
		at = &b->block[*at].next_hash;
	if (*at == index)
		*at = block->next_hash;
}

/* ---- Which blocks have code of a page. Lists of (block << 1 | second page). ------------------------------------ */

static void page_insert(struct soft_cpu *cpu, struct soft_block *block, uint64_t gpa, unsigned second)
{
	struct soft_blocks *b = cpu->blocks;
	uint64_t page = gpa >> 12;
	block->next_page[second] = b->page[page];
	b->page[page] = soft_block_index(b, block) << 1 | second;
	uint8_t *flags = &cpu->m->ram.page_flags[page];
	if (!(*flags & FT_PAGE_CODE)) {
		*flags |= FT_PAGE_CODE;
		soft_tlb_protect(cpu, gpa);
	}
}

/* Whoever still jumps to it is sent to C, where `dropped` is seen. */
static void drop(struct soft_blocks *b, struct soft_block *block)
{
	if (block->dropped)
		return;
	block->dropped = true;
	uint8_t *entry = b->code + block->entry;
	entry[0] = 0xeb;
	entry[1] = (uint8_t) - (int)(SOFT_RESUME + 2);
	hash_remove(b, block);
	b->invalidated = true;
}

static bool overlaps(const struct soft_block *block, unsigned second, uint32_t low, uint32_t high)
{
	if (second)
		return low < block->high2;
	return low < block->high && high > block->low;
}

static void drop_in_page(struct soft_cpu *cpu, uint64_t page, uint32_t low, uint32_t high)
{
	struct soft_blocks *b = cpu->blocks;
	uint32_t *at = &b->page[page];
	while (*at != SOFT_NONE) {
		unsigned second = *at & 1;
		struct soft_block *block = &b->block[*at >> 1];
		if (overlaps(block, second, low, high))
			drop(b, block);
		if (block->dropped)
			*at = block->next_page[second];
		else
			at = &block->next_page[second];
	}
	if (b->page[page] == SOFT_NONE)
		cpu->m->ram.page_flags[page] &= (uint8_t)~FT_PAGE_CODE;
}

/* ---- Fetching ------------------------------------------------------------------------------------------------- */

static void jumps_clear(struct soft_cpu *cpu, enum soft_jump_cache cache)
{
	struct soft_jumps *j = &cpu->blocks->jumps[cache];
	if (j->filled_count <= SOFT_JUMPS_LISTED) {
		for (uint32_t i = 0; i < j->filled_count; i++)
			j->set[j->filled[i]][0].tag = j->set[j->filled[i]][1].tag = 0;
	} else {
		soft_zero(j->set, (cpu->jump_mask[cache] + 1) * sizeof(j->set[0]));
	}
	j->set[0][0].tag = j->set[0][1].tag = 1;
	j->filled_count = 0;
	j->first = UINT64_MAX;
	j->last = 0;
	j->local = false;
}

static void fetch_clear(struct soft_blocks *b, unsigned user)
{
	for (unsigned i = 0; i < SOFT_FETCHES; i++)
		b->fetch[user][i].page = 1;
}

static void forget(struct soft_cpu *cpu, unsigned user)
{
	jumps_clear(cpu, user ? SOFT_JUMPS_USER : SOFT_JUMPS_KERNEL);
	fetch_clear(cpu->blocks, user);
}

void soft_jumps_flush(struct soft_cpu *cpu)
{
	forget(cpu, 0);
	forget(cpu, 1);
}

void soft_jumps_flush_space(struct soft_cpu *cpu)
{
	forget(cpu, 1);
	if (cpu->blocks->jumps[SOFT_JUMPS_KERNEL].local)
		forget(cpu, 0);
}

void soft_jumps_flush_page(struct soft_cpu *cpu, uint64_t va)
{
	/* A page has 1 GiB at most. */
	uint64_t low = va & ~((1ull << 30) - 1), high = low | ((1ull << 30) - 1);
	fetch_clear(cpu->blocks, 0);
	fetch_clear(cpu->blocks, 1);
	for (unsigned cache = 0; cache < SOFT_JUMP_CACHES; cache++)
		if (cpu->blocks->jumps[cache].first <= high && cpu->blocks->jumps[cache].last >= low)
			jumps_clear(cpu, (enum soft_jump_cache)cache);
}

static bool told(const struct soft_blocks *b, uint64_t page)
{
	return b->told[page >> 3] >> (page & 7) & 1;
}

/* User code in a page that was or can be written: observers hear of it once, until the page changes again. */
static void tell_page(struct soft_cpu *cpu, uint64_t rip, const struct soft_page *page)
{
	struct soft_blocks *b = cpu->blocks;
	uint64_t n = page->gpa >> 12;
	uint8_t flags = cpu->m->ram.page_flags[n];
	if (!(cpu->m->hooks.mask & FT_HOOK_EXEC_PAGE) || told(b, n) ||
	    !(ft_memory_user_wrote(&cpu->m->ram, ft_gpa_make(page->gpa | (rip & PAGE_MASK))) || page->writable))
		return;
	b->told[n >> 3] |= (uint8_t)(1u << (n & 7));
	soft_hook_exec_page(cpu, rip, page->gpa, flags, page->entry);
}

/* The physical page that instructions at rip come from. false: fault pending. */
static bool fetch(struct soft_cpu *cpu, uint64_t rip, struct soft_fetch *to)
{
	bool user = cpu->cpl == 3;
	uint64_t page = rip & ~PAGE_MASK;
	struct soft_fetch *f = &cpu->blocks->fetch[user][(rip >> 12) % SOFT_FETCHES];
	if (f->page != page || f->mixed) {
		struct soft_page walked;
		if (!soft_walk(cpu, rip, SOFT_EXECUTE, user, &walked))
			return false;
		if (!walked.ram) {
			/* Nothing answers there; no machine runs code from a device. */
			soft_raise(cpu, SOFT_UD, false, 0, 0);
			return false;
		}
		if (user)
			tell_page(cpu, rip, &walked);
		bool mixed = user && (cpu->m->hooks.mask & FT_HOOK_EXEC_PAGE) &&
			     (cpu->m->ram.page_flags[walked.gpa >> 12] & FT_PAGE_USER_WRITTEN) &&
			     cpu->m->ram.page_filled[walked.gpa >> 12];
		*f = (struct soft_fetch){page, walked.gpa, walked.global, mixed};
		if (!walked.global)
			cpu->blocks->jumps[user ? SOFT_JUMPS_USER : SOFT_JUMPS_KERNEL].local = true;
	}
	*to = *f;
	return true;
}

bool soft_peek_code(struct soft_cpu *cpu, uint64_t rip, uint8_t *byte)
{
	const struct soft_fetch *f = &cpu->blocks->fetch[cpu->cpl == 3][(rip >> 12) % SOFT_FETCHES];
	if (f->page != (rip & ~PAGE_MASK))
		return false;
	*byte = *ft_memory_host(&cpu->m->ram, f->gpa | (rip & PAGE_MASK));
	return true;
}

/* ---- Making ---------------------------------------------------------------------------------------------------- */

static bool room(const struct soft_blocks *b)
{
	const struct soft_room *most = &b->most[b->young.block != 0];
	return b->code_used + SOFT_BLOCK_ROOM <= most->code && b->block_used < most->block &&
	       b->place_used + SOFT_BLOCK_MOST <= most->place && b->link_used + 4 * SOFT_BLOCK_MOST <= most->link &&
	       b->record_used + SOFT_BLOCK_MOST <= most->record;
}

void soft_block_flush(struct soft_cpu *cpu)
{
	struct soft_blocks *b = cpu->blocks;
	for (uint64_t page = 0; page < b->pages; page++) {
		if (b->page[page] == SOFT_NONE)
			continue;
		b->page[page] = SOFT_NONE;
		cpu->m->ram.page_flags[page] &= (uint8_t)~FT_PAGE_CODE;
	}
	b->code_used = b->code_first;
	b->block_used = b->place_used = b->link_used = b->record_used = 0;
	for (uint64_t i = 0; i <= b->hash_mask; i++)
		b->hash[i] = SOFT_NONE;
	b->young.code = b->young.block = 0;
	b->once = b->once_home;
	/* What is written from now on is not seen here, so nothing told is known to be as it was. */
	soft_zero(b->told, (b->pages + 7) / 8);
	b->invalidated = true;
	b->flushes++;
	soft_jumps_flush(cpu);
}

/* Bytes of an instruction that goes on in the next page. */
static int translate_crossing(struct soft_cpu *cpu, struct soft_block *block, uint32_t available)
{
	struct soft_fetch second;
	uint8_t both[32];
	if (!fetch(cpu, (block->rip | PAGE_MASK) + 1, &second))
		return -EFAULT;
	soft_copy(both, ft_memory_host(&cpu->m->ram, block->gpa), available);
	soft_copy(both + available, ft_memory_host(&cpu->m->ram, second.gpa), 15);
	block->gpa2 = second.gpa;
	return translate(cpu, block, both, available + 15, 1);
}

static int make(struct soft_cpu *cpu, struct soft_block *block, uint64_t rip, uint64_t gpa, uint8_t mode,
		uint32_t most)
{
	uint32_t available = (uint32_t)(FT_PAGE_SIZE - (rip & PAGE_MASK));
	const uint8_t *bytes = ft_memory_host(&cpu->m->ram, gpa);
	block->rip = rip;
	block->gpa = gpa;
	block->gpa2 = UINT64_MAX;
	block->mode = mode;
	block->dropped = false;
	int result = translate(cpu, block, bytes, available, most);
	if (result == -EAGAIN)
		result = translate_crossing(cpu, block, available);
	cpu->blocks->translated += !result;
	return result;
}

static const struct soft_block *fail(int result, bool *error)
{
	*error = result != -EFAULT;
	return NULL;
}

/* The block in one of the hash tables; NULL: it is not there, or with *faulted set a fault is pending. */
static const struct soft_block *look_up(struct soft_cpu *cpu, uint64_t rip, uint64_t gpa, uint8_t mode, bool young, bool *faulted)
{
	struct soft_blocks *b = cpu->blocks;
	struct soft_fetch second;
	for (uint32_t n = *head_of(b, hash_of(rip, gpa, mode), young); n != SOFT_NONE; n = b->block[n].next_hash) {
		const struct soft_block *block = &b->block[n];
		if (block->rip != rip || block->gpa != gpa || block->mode != mode)
			continue;
		if (block->gpa2 == UINT64_MAX)
			return block;
		*faulted = !fetch(cpu, (rip | PAGE_MASK) + 1, &second);
		if (*faulted)
			return NULL;
		if (second.gpa == block->gpa2)
			return block;
	}
	return NULL;
}

const struct soft_block *soft_block_find(struct soft_cpu *cpu, uint64_t rip, uint8_t mode, bool *error)
{
	struct soft_blocks *b = cpu->blocks;
	struct soft_fetch f;
	*error = false;
	if (!fetch(cpu, rip, &f))
		return NULL;
	uint64_t gpa = f.gpa | (rip & PAGE_MASK);
	bool faulted = false;
	const struct soft_block *found = b->young.block ? look_up(cpu, rip, gpa, mode, true, &faulted) : NULL;
	if (!found && !faulted)
		found = look_up(cpu, rip, gpa, mode, false, &faulted);
	if (found || faulted)
		return found;
	if (!room(b))
		soft_block_flush(cpu);
	struct soft_block *block = &b->block[b->block_used];
	block->entry = ((b->code_used + SOFT_RESUME + 15) & ~15u);
	block->places = b->place_used;
	/* Where code is partly a file's, each instruction is asked for by itself: none is reached by running into it. */
	int result = make(cpu, block, rip, gpa, mode, f.mixed ? 1 : b->block_limit);
	if (result)
		return fail(result, error);
	b->block_used++;
	b->place_used += block->count;
	b->code_used = block->entry - SOFT_RESUME + block->size;
	hash_insert(b, block);
	page_insert(cpu, block, block->gpa, 0);
	if (block->gpa2 != UINT64_MAX)
		page_insert(cpu, block, block->gpa2, 1);
	return block;
}

const struct soft_block *soft_block_once(struct soft_cpu *cpu, uint64_t rip, uint8_t mode, uint32_t most,
					 bool *error)
{
	struct soft_blocks *b = cpu->blocks;
	struct soft_fetch f;
	*error = false;
	if (!fetch(cpu, rip, &f))
		return NULL;
	b->once_block.entry = b->once + 16;
	int result = make(cpu, &b->once_block, rip, f.gpa | (rip & PAGE_MASK),
			  (uint8_t)(mode | SOFT_MODE_ONCE), most < b->block_limit ? most : b->block_limit);
	return result ? fail(result, error) : &b->once_block;
}

/* ---- Going from one to another --------------------------------------------------------------------------------- */

uint8_t soft_block_mode(const struct soft_cpu *cpu)
{
	return (uint8_t)((cpu->cpl == 3 ? SOFT_MODE_USER : 0) |
			 ((cpu->cr0 & (CR0_TS | CR0_EM)) || !(cpu->cr4 & CR4_OSFXSR) ? SOFT_MODE_NO_FPU : 0));
}

void soft_block_link(struct soft_cpu *cpu, uint32_t link, const struct soft_block *to)
{
	struct soft_blocks *b = cpu->blocks;
	/* A block that crosses is valid only while the next page is what it was: never without asking. */
	if (to->gpa2 != UINT64_MAX || to->dropped)
		return;
	if (b->link[link].site < b->young.code && ++b->young.links[link % SOFT_YOUNG_LINKS] < SOFT_YOUNG_PATIENCE)
		return;
	emit_patch(b->code + b->link[link].site, b->code + to->entry);
}

void soft_block_redirect(struct soft_cpu *cpu, const struct soft_block *from, const struct soft_block *to)
{
	if (to->gpa2 != UINT64_MAX || from->gpa2 != UINT64_MAX || to->dropped || to->rip != from->rip ||
	    to->gpa != from->gpa || to->mode != from->mode)
		return;
	struct emit e = {cpu->blocks->code + from->entry};
	emit_jump_to(&e, cpu->blocks->code + to->entry);
}

void soft_block_cache_jump(struct soft_cpu *cpu, const struct soft_block *to)
{
	enum soft_jump_cache cache = to->mode & SOFT_MODE_USER ? SOFT_JUMPS_USER : SOFT_JUMPS_KERNEL;
	struct soft_jumps *j = &cpu->blocks->jumps[cache];
	uint32_t i = (uint32_t)(to->rip & cpu->jump_mask[cache]);
	struct soft_jump *way = j->set[i];
	way[1] = way[0];
	way[0] = (struct soft_jump){-to->rip, (uint64_t)(uintptr_t)(cpu->blocks->code + to->entry)};
	if (to->rip < j->first)
		j->first = to->rip;
	if (to->rip > j->last)
		j->last = to->rip;
	if (j->filled_count < SOFT_JUMPS_LISTED)
		j->filled[j->filled_count] = (uint16_t)i;
	j->filled_count += j->filled_count <= SOFT_JUMPS_LISTED;
}

const struct soft_place *soft_block_places(const struct soft_blocks *b, const struct soft_block *block)
{
	return block == &b->once_block ? b->once_place : b->place + block->places;
}

const struct soft_block *soft_block_at(const struct soft_blocks *b, const void *host)
{
	const uint8_t *at = host;
	if (at < b->code || at >= b->code + b->most[1].code)
		return NULL;
	uint32_t offset = (uint32_t)(at - b->code);
	if (offset >= b->once && offset < b->once + SOFT_BLOCK_ROOM)
		return &b->once_block;
	/* Blocks lie in the cache in the order in which they were made. */
	bool young = offset >= b->young.code;
	uint32_t low = young ? b->young.block : 0, first = low, high = young ? b->block_used : b->young.block_end;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (b->block[middle].entry - SOFT_RESUME <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == first)
		return NULL;
	const struct soft_block *block = &b->block[low - 1];
	return offset < block->entry - SOFT_RESUME + block->size ? block : NULL;
}

/* ---- Changes from outside --------------------------------------------------------------------------------------- */

/* The page is not what observers were told of any more. */
static void untell(struct soft_cpu *cpu, uint64_t page)
{
	struct soft_blocks *b = cpu->blocks;
	if (!told(b, page))
		return;
	b->told[page >> 3] &= (uint8_t) ~(1u << (page & 7));
	forget(cpu, 1);
}

void soft_code_write(struct soft_cpu *cpu, uint64_t gpa, uint32_t size)
{
	uint32_t low = (uint32_t)(gpa & PAGE_MASK), high = low + size;
	drop_in_page(cpu, gpa >> 12, low, high > FT_PAGE_SIZE ? FT_PAGE_SIZE : high);
	untell(cpu, gpa >> 12);
}

void soft_block_drop_page(struct soft_cpu *cpu, uint64_t page)
{
	drop_in_page(cpu, page, 0, FT_PAGE_SIZE);
	untell(cpu, page);
}

void soft_block_observe(struct soft_cpu *cpu)
{
	soft_tlb_drop_grants(cpu);
	soft_zero(cpu->blocks->told, (cpu->blocks->pages + 7) / 8);
	forget(cpu, 1);
}

/* ---- Apart from the parent --------------------------------------------------------------------------------------- */

void soft_block_part(struct soft_cpu *cpu)
{
	struct soft_blocks *b = cpu->blocks;
	if (b->young.block)
		return;
	const struct soft_room *from = &b->most[0];
	b->young.code = b->most[1].code - SOFT_YOUNG_CODE;
	b->young.block = from->block;
	b->young.block_end = b->block_used;
	for (uint32_t i = 0; i < SOFT_YOUNG_HASH; i++)
		b->young.hash[i] = SOFT_NONE;
	soft_zero(b->young.links, sizeof(b->young.links));
	b->once = b->young.code;
	b->code_used = b->young.code + SOFT_BLOCK_ROOM;
	b->block_used = from->block;
	b->place_used = from->place;
	b->link_used = from->link;
	b->record_used = from->record;
}
