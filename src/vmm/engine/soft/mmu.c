/* Paging and the software TLB: SDM Vol. 3A 4.5 (4-level paging), 4.6 (rights), 4.7 (page faults), 4.8 (A and
 * D).
 *
 * What is remembered here is no part of the state: engine.h says when that shows.
 *
 * A walk sets accessed and dirty bits only when the access is permitted; nothing else changes memory. Writes
 * to RAM are granted here: ft_memory_grant for whoever counts pages, soft_code_write for translated code. */
#include "vmm/engine/soft/system.h"

#define PTE_P  0x1u
#define PTE_W  0x2u
#define PTE_U  0x4u
#define PTE_A  0x20u
#define PTE_D  0x40u
#define PTE_PS 0x80u
#define PTE_G  0x100u
#define PTE_NX (1ull << 63)

#define PTE_ADDRESS  (((1ull << SOFT_PHYSICAL_BITS) - 1) & ~0xfffull)
#define PTE_RESERVED (((1ull << 52) - 1) & ~((1ull << SOFT_PHYSICAL_BITS) - 1))

#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_ID   16u

#define PAGE_MASK 0xfffull

/* struct soft_tlb.kind */
#define KIND_GLOBAL 1u
#define KIND_LARGE  2u /* part of a 2 MiB page */
#define KIND_GIANT  4u /* part of a 1 GiB page */

static bool page_fault(struct soft_cpu *cpu, uint64_t va, enum soft_access access, bool user, uint32_t why)
{
	uint32_t error = why | (access == SOFT_WRITE ? PF_W : 0) | (user ? PF_U : 0);
	if (access == SOFT_EXECUTE && ((cpu->efer & EFER_NXE) || (cpu->cr4 & CR4_SMEP)))
		error |= PF_ID;
	soft_raise(cpu, SOFT_PF, true, error, va);
	return false;
}

/* Outside of RAM there is nothing: all ones, as on a bus without a device. */
static uint64_t entry_read(struct soft_cpu *cpu, uint64_t gpa)
{
	const struct ft_memory *ram = &cpu->m->ram;
	if (gpa >= ram->size || ram->size - gpa < 8)
		return UINT64_MAX;
	if (ft_memory_absent(ram, gpa))
		soft_fetch(cpu, gpa);
	return *(const uint64_t *)(const void *)ft_memory_host(ram, gpa);
}

static void entry_set(struct soft_cpu *cpu, uint64_t gpa, uint64_t bits)
{
	struct ft_memory *ram = &cpu->m->ram;
	if ((entry_read(cpu, gpa) & bits) == bits)
		return;
	if (ram->page_flags[gpa >> 12] & FT_PAGE_CODE)
		soft_code_write(cpu, gpa, 8);
	if (ft_memory_grant(ram, gpa >> 12, false))
		soft_tlb_follow(cpu, gpa >> 12);
	*(uint64_t *)(void *)ft_memory_host(ram, gpa) |= bits;
}

/* What was translated is reached by its host address from now on. */
static void bring(struct soft_cpu *cpu, const struct soft_page *page)
{
	if (page->ram && ft_memory_absent(&cpu->m->ram, page->gpa))
		soft_fetch(cpu, page->gpa);
}

static bool walk_unpaged(struct soft_cpu *cpu, uint64_t va, struct soft_page *page)
{
	uint64_t gpa = va & 0xfffff000u;
	*page = (struct soft_page){.gpa = gpa,
				   .entry = gpa | PTE_P | PTE_W | PTE_U,
				   .ram = gpa < cpu->m->ram.size,
				   .writable = true,
				   .user = true,
				   .executable = true,
				   .dirty = true};
	bring(cpu, page);
	return true;
}

bool soft_walk(struct soft_cpu *cpu, uint64_t va, enum soft_access access, bool user, struct soft_page *page)
{
	if (!(cpu->cr0 & CR0_PG))
		return walk_unpaged(cpu, va, page);
	if (!soft_canonical(va)) {
		soft_gp(cpu, 0);
		return false;
	}

	uint64_t at[4], entry, table = cpu->cr3 & PTE_ADDRESS, rights = PTE_W | PTE_U, nx = 0;
	uint64_t reserved = PTE_RESERVED | (cpu->efer & EFER_NXE ? 0 : PTE_NX);
	int level = 3;
	for (;; level--) {
		at[level] = table + ((va >> (12 + 9 * level)) & 511) * 8;
		entry = entry_read(cpu, at[level]);
		if (!(entry & PTE_P))
			return page_fault(cpu, va, access, user, 0);
		bool leaf = level == 0 || (level < 3 && (entry & PTE_PS));
		uint64_t wrong = reserved;
		if (level == 3)
			wrong |= PTE_PS;
		else if (leaf && level)
			wrong |= ((1ull << (12 + 9 * level)) - 1) & ~0x1fffull; /* bit 12 is PAT */
		if (entry & wrong)
			return page_fault(cpu, va, access, user, PF_P | PF_RSVD);
		rights &= entry;
		nx |= entry & PTE_NX;
		if (leaf)
			break;
		table = entry & PTE_ADDRESS;
	}

	bool writable = (rights & PTE_W) || (!user && !(cpu->cr0 & CR0_WP));
	bool executable = !nx && !(!user && (rights & PTE_U) && (cpu->cr4 & CR4_SMEP));
	if ((user && !(rights & PTE_U)) || (access == SOFT_WRITE && !writable) ||
	    (access == SOFT_EXECUTE && !executable))
		return page_fault(cpu, va, access, user, PF_P);

	for (int i = 3; i > level; i--)
		entry_set(cpu, at[i], PTE_A);
	entry_set(cpu, at[level], access == SOFT_WRITE ? PTE_A | PTE_D : PTE_A);
	entry = entry_read(cpu, at[level]);

	uint64_t within = (1ull << (12 + 9 * level)) - 1;
	uint64_t gpa = (entry & PTE_ADDRESS & ~within) | (va & within & ~PAGE_MASK);
	*page = (struct soft_page){.gpa = gpa,
				   .entry = (entry & ~(uint64_t)(PTE_W | PTE_U)) | rights,
				   .ram = gpa < cpu->m->ram.size,
				   .large = level == 1,
				   .giant = level == 2,
				   .global = (entry & PTE_G) && (cpu->cr4 & CR4_PGE),
				   .writable = writable,
				   .user = (rights & PTE_U) != 0,
				   .executable = executable,
				   .dirty = (entry & PTE_D) != 0};
	bring(cpu, page);
	return true;
}

/* ---- TLB
 * ------------------------------------------------------------------------------------------------------ */

static inline uint64_t tag_of(uint64_t va)
{
	return -(va & ~PAGE_MASK);
}

static inline size_t slot_of(const struct soft_cpu *cpu, uint64_t va)
{
	return (va >> 12) & ((1ull << cpu->tlb_bits) - 1);
}

static void drop(struct soft_tlb *tlb, size_t slot)
{
	tlb->rtag[slot] = tlb->wtag[slot] = soft_tlb_invalid(slot);
	tlb->kind[slot] = 0;
}

static void fill(struct soft_cpu *cpu, uint64_t va, enum soft_access access, bool user,
		 const struct soft_page *page)
{
	struct soft_tlb *tlb = cpu->tlb[user];
	size_t slot = slot_of(cpu, va);
	uint64_t tag = tag_of(va);
	uint64_t add = (uint64_t)(uintptr_t)ft_memory_host(&cpu->m->ram, page->gpa) - (va & ~PAGE_MASK);
	if (tlb->rtag[slot] != tag || tlb->add[slot] != add)
		tlb->wtag[slot] = soft_tlb_invalid(slot);
	tlb->rtag[slot] = tag;
	tlb->add[slot] = add;
	tlb->page[slot] = (uint32_t)(page->gpa >> 12);
	tlb->kind[slot] = (uint8_t)((page->global ? KIND_GLOBAL : 0) | (page->large ? KIND_LARGE : 0) |
				    (page->giant ? KIND_GIANT : 0));
	if (page->giant)
		tlb->giants = true;
	if (!page->global && tlb->filled_count < SOFT_TLB_MAX)
		tlb->filled[tlb->filled_count++] = (uint16_t)slot;
	if (access == SOFT_WRITE && !(cpu->m->ram.page_flags[page->gpa >> 12] & FT_PAGE_CODE))
		tlb->wtag[slot] = tag;
}

/* A page whose code was looked at, whole or in part, when it was not user code's work: it becomes that now, and must be
 * looked at again before it runs. */
static void grant(struct soft_cpu *cpu, uint64_t page, bool user)
{
	struct ft_memory *ram = &cpu->m->ram;
	uint8_t flags = ram->page_flags[page];
	bool news = !(flags & FT_PAGE_USER_WRITTEN) || ram->page_filled[page];
	if (ft_memory_grant(ram, page, user))
		soft_tlb_follow(cpu, page);
	if (user && news && (flags & FT_PAGE_CODE))
		soft_jumps_flush_space(cpu);
}

/* Host address for one access that stays within a page; NULL: *mmio or a fault. Code is not told (the caller
 * knows how many bytes change, and when). */
static void *locate(struct soft_cpu *cpu, uint64_t va, enum soft_access access, bool user, bool *mmio,
		    uint64_t *gpa)
{
	struct ft_memory *ram = &cpu->m->ram;
	struct soft_tlb *tlb = cpu->tlb[user];
	size_t slot = slot_of(cpu, va);
	*mmio = false;
	if (access == SOFT_WRITE && tlb->wtag[slot] == soft_tlb_shared(slot) && tlb->rtag[slot] == tag_of(va)) {
		if (ft_memory_copy(ram, tlb->page[slot]))
			soft_tlb_follow(cpu, tlb->page[slot]);
		tlb->wtag[slot] = tag_of(va);
	}
	if (access != SOFT_EXECUTE && (access == SOFT_WRITE ? tlb->wtag : tlb->rtag)[slot] == tag_of(va)) {
		*gpa = (uint64_t)tlb->page[slot] << 12 | (va & PAGE_MASK);
		return (uint8_t *)(uintptr_t)(va + tlb->add[slot]);
	}
	struct soft_page page;
	if (!soft_walk(cpu, va, access, user, &page))
		return NULL;
	*gpa = page.gpa | (va & PAGE_MASK);
	if (!page.ram) {
		*mmio = true;
		return NULL;
	}
	if (access == SOFT_WRITE)
		/* What the kernel stores by a process' mapping it stores for the process: read(), recv(). Files' pages it
		 * fills by its own. */
		grant(cpu, page.gpa >> 12, user || page.user);
	if (access != SOFT_EXECUTE && !cpu->always_slow)
		fill(cpu, va, access, user, &page);
	return ft_memory_host(ram, *gpa);
}

static void tell_code(struct soft_cpu *cpu, uint64_t gpa, uint32_t size)
{
	if (cpu->m->ram.page_flags[gpa >> 12] & FT_PAGE_CODE)
		soft_code_write(cpu, gpa, size);
}

void *soft_translate(struct soft_cpu *cpu, uint64_t va, enum soft_access access, bool user, bool *mmio,
		     uint64_t *gpa)
{
	return locate(cpu, va, access, user, mmio, gpa);
}

void *soft_span(struct soft_cpu *cpu, uint64_t va, uint64_t n, uint32_t size, bool back,
		enum soft_access access, bool user, bool *bus)
{
	uint64_t gpa;
	uint8_t *host = locate(cpu, va, access, user, bus, &gpa);
	if (host && access == SOFT_WRITE)
		tell_code(cpu, back ? gpa - (n - 1) * size : gpa, (uint32_t)n * size);
	return host;
}

/* ---- Any size
 * ---------------------------------------------------------------------------------------------- */

/* One page's part of an access. By its physical address: the walk to the other part, or the device that it is, may move the page. */
struct part {
	uint64_t gpa;
	uint32_t size;
	bool mmio;
};

/* Splits at the page boundary and checks both pages; the number of parts, 0 on a fault. */
static unsigned prepare(struct soft_cpu *cpu, uint64_t va, uint32_t size, enum soft_access access, bool user,
			struct part part[2])
{
	uint32_t room = FT_PAGE_SIZE - (uint32_t)(va & PAGE_MASK);
	unsigned n = size > room ? 2 : 1;
	for (unsigned i = 0; i < n; i++) {
		part[i].size = i ? size - room : (n == 2 ? room : size);
		if (!locate(cpu, i ? va + room : va, access, user, &part[i].mmio, &part[i].gpa) && !part[i].mmio)
			return 0;
	}
	return n;
}

static unsigned bus_unit(uint64_t gpa, uint32_t left)
{
	unsigned unit = 8;
	while (unit > left || (gpa & (unit - 1)))
		unit >>= 1;
	return unit;
}

static void bus_load(struct soft_cpu *cpu, uint64_t gpa, uint8_t *to, uint32_t size)
{
	while (size) {
		unsigned unit = bus_unit(gpa, size);
		uint64_t value = soft_bus_read(cpu, FT_SPACE_MEMORY, gpa, unit);
		soft_copy(to, &value, unit);
		gpa += unit;
		to += unit;
		size -= unit;
	}
}

static void bus_store(struct soft_cpu *cpu, uint64_t gpa, const uint8_t *from, uint32_t size)
{
	while (size) {
		unsigned unit = bus_unit(gpa, size);
		uint64_t value = 0;
		soft_copy(&value, from, unit);
		soft_bus_write(cpu, FT_SPACE_MEMORY, gpa, unit, value);
		gpa += unit;
		from += unit;
		size -= unit;
	}
}

static void copy_small(uint8_t *to, const uint8_t *from, uint32_t size)
{
	switch (size) {
	case 8:
		*(uint64_t *)(void *)to = *(const uint64_t *)(const void *)from;
		break;
	case 4:
		*(uint32_t *)(void *)to = *(const uint32_t *)(const void *)from;
		break;
	case 2:
		*(uint16_t *)(void *)to = *(const uint16_t *)(const void *)from;
		break;
	case 1:
		*to = *from;
		break;
	default:
		soft_copy(to, from, size);
	}
}

static bool load_as(struct soft_cpu *cpu, uint64_t va, uint8_t *to, uint32_t size, bool user,
		    enum soft_access access)
{
	struct part part[2];
	unsigned n = prepare(cpu, va, size, access, user, part);
	for (unsigned i = 0; i < n; i++) {
		if (part[i].mmio)
			bus_load(cpu, part[i].gpa, to, part[i].size);
		else
			copy_small(to, ft_memory_host(&cpu->m->ram, part[i].gpa), part[i].size);
		to += part[i].size;
	}
	return n > 0;
}

bool soft_load(struct soft_cpu *cpu, uint64_t va, void *to, uint32_t size, bool user)
{
	return load_as(cpu, va, to, size, user, SOFT_READ);
}

bool soft_load_for_write(struct soft_cpu *cpu, uint64_t va, void *to, uint32_t size, bool user)
{
	return load_as(cpu, va, to, size, user, SOFT_WRITE);
}

bool soft_store(struct soft_cpu *cpu, uint64_t va, const void *from, uint32_t size, bool user)
{
	struct part part[2];
	const uint8_t *source = from;
	unsigned n = prepare(cpu, va, size, SOFT_WRITE, user, part);
	for (unsigned i = 0; i < n; i++) {
		if (part[i].mmio) {
			bus_store(cpu, part[i].gpa, source, part[i].size);
		} else {
			tell_code(cpu, part[i].gpa, part[i].size);
			copy_small(ft_memory_host(&cpu->m->ram, part[i].gpa), source, part[i].size);
		}
		source += part[i].size;
	}
	return n > 0;
}

/* ---- Flushes
 * ------------------------------------------------------------------------------------------------- */

static void flush_all(struct soft_cpu *cpu, struct soft_tlb *tlb)
{
	size_t entries = 1ull << cpu->tlb_bits;
	for (size_t slot = 0; slot < entries; slot++)
		tlb->rtag[slot] = tlb->wtag[slot] = soft_tlb_invalid(slot);
	soft_zero(tlb->kind, entries);
	tlb->giants = false;
	tlb->filled_count = 0;
}

/* What was filled since the last flush and is not global is on the list, unless the list has overflowed. */
static void flush_not_global(struct soft_cpu *cpu, struct soft_tlb *tlb)
{
	size_t entries = 1ull << cpu->tlb_bits;
	if (tlb->filled_count < SOFT_TLB_MAX) {
		for (uint32_t i = 0; i < tlb->filled_count; i++)
			if (!(tlb->kind[tlb->filled[i]] & KIND_GLOBAL))
				drop(tlb, tlb->filled[i]);
	} else {
		for (size_t slot = 0; slot < entries; slot++)
			if (!(tlb->kind[slot] & KIND_GLOBAL))
				drop(tlb, slot);
	}
	tlb->filled_count = 0;
}

void soft_tlb_flush(struct soft_cpu *cpu, bool keep_global)
{
	for (unsigned user = 0; user < 2; user++) {
		if (keep_global)
			flush_not_global(cpu, cpu->tlb[user]);
		else
			flush_all(cpu, cpu->tlb[user]);
	}
	if (keep_global)
		soft_jumps_flush_space(cpu);
	else
		soft_jumps_flush(cpu);
}

static void flush_around(struct soft_cpu *cpu, struct soft_tlb *tlb, uint64_t va)
{
	size_t entries = 1ull << cpu->tlb_bits, slot = slot_of(cpu, va);
	if (tlb->rtag[slot] == tag_of(va))
		drop(tlb, slot);
	/* Other parts of the same large page: in the 512 slots that its addresses map to. */
	size_t first = entries > 512 ? slot & ~(size_t)511 : 0, last = entries > 512 ? first + 512 : entries;
	for (size_t i = first; i < last; i++)
		if ((tlb->kind[i] & KIND_LARGE) && ((-tlb->rtag[i] ^ va) >> 21) == 0)
			drop(tlb, i);
	for (size_t i = 0; tlb->giants && i < entries; i++)
		if ((tlb->kind[i] & KIND_GIANT) && ((-tlb->rtag[i] ^ va) >> 30) == 0)
			drop(tlb, i);
}

void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t va)
{
	for (unsigned user = 0; user < 2; user++)
		flush_around(cpu, cpu->tlb[user], va);
	soft_jumps_flush_page(cpu, va);
}

void soft_tlb_protect(struct soft_cpu *cpu, uint64_t gpa)
{
	for (unsigned user = 0; user < 2; user++) {
		struct soft_tlb *tlb = cpu->tlb[user];
		for (size_t i = 0; i < 1ull << cpu->tlb_bits; i++)
			if (tlb->page[i] == gpa >> 12)
				tlb->wtag[i] = soft_tlb_invalid(i);
	}
}

void soft_tlb_follow(struct soft_cpu *cpu, uint64_t page)
{
	uint64_t host = (uint64_t)(uintptr_t)ft_memory_host(&cpu->m->ram, page << 12);
	for (unsigned user = 0; user < 2; user++) {
		struct soft_tlb *tlb = cpu->tlb[user];
		for (size_t i = 0; i < 1ull << cpu->tlb_bits; i++)
			if (tlb->page[i] == page)
				tlb->add[i] = host + tlb->rtag[i];
	}
}

void soft_tlb_share_granted(struct soft_cpu *cpu)
{
	for (unsigned user = 0; user < 2; user++) {
		struct soft_tlb *tlb = cpu->tlb[user];
		for (size_t i = 0; i < 1ull << cpu->tlb_bits; i++)
			if (tlb->wtag[i] != soft_tlb_invalid(i))
				tlb->wtag[i] = soft_tlb_shared(i);
	}
}

void soft_tlb_drop_grants(struct soft_cpu *cpu)
{
	for (unsigned user = 0; user < 2; user++)
		for (size_t i = 0; i < 1ull << cpu->tlb_bits; i++)
			cpu->tlb[user]->wtag[i] = soft_tlb_invalid(i);
}
