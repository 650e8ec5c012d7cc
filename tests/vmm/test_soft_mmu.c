/* Page walks, the TLB, and accesses of any size. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "soft_stand.h"

#define P  1u
#define W  2u
#define U  4u
#define A  0x20u
#define D  0x40u
#define PS 0x80u
#define G  0x100u
#define NX (1ull << 63)

static struct soft_page page;

static bool walk(uint64_t va, enum soft_access access, bool user)
{
	stand->cpu.fault.pending = false;
	return soft_walk(&stand->cpu, va, access, user, &page);
}

static void rights_of_a_page(void **state)
{
	/* Every combination of U, W, NX of the leaf against every access, WP and SMEP. */
	for (unsigned n = 0; n < 32; n++) {
		bool w = n & 1, u = n & 2, nx = n & 4, wp = n & 8, smep = n & 16;
		stand->cpu.cr0 = (stand->cpu.cr0 & ~(uint64_t)CR0_WP) | (wp ? CR0_WP : 0);
		stand->cpu.cr4 = (stand->cpu.cr4 & ~(uint64_t)CR4_SMEP) | (smep ? CR4_SMEP : 0);
		for (unsigned access = SOFT_READ; access <= SOFT_EXECUTE; access++)
			for (unsigned user = 0; user < 2; user++) {
				uint64_t *entry = stand_entry(0x5000);
				*entry = 0x5000 | P | (w ? W : 0) | (u ? U : 0) | (nx ? NX : 0);
				bool may = (!user || u) && !(access == SOFT_WRITE && !w && (user || wp)) &&
					   !(access == SOFT_EXECUTE && (nx || (smep && !user && u)));
				assert_int_equal(walk(0x5123, access, user), may);
				if (may) {
					assert_int_equal(page.gpa, 0x5000);
					assert_int_equal(*entry & (A | D),
							 access == SOFT_WRITE ? (A | D) : A);
					assert_int_equal(page.dirty, access == SOFT_WRITE);
				} else {
					stand_expect_page_fault(P | (access == SOFT_WRITE ? 2 : 0) |
								    (user ? 4 : 0) |
								    (access == SOFT_EXECUTE ? 16 : 0),
								0x5123);
					assert_int_equal(*entry & (A | D), 0);
				}
			}
	}
}

static void upper_levels_take_rights_away(void **state)
{
	uint64_t *levels[] = {stand_ram(STAND_PML4), stand_ram(STAND_PDPT), stand_ram(STAND_PD)};
	for (unsigned i = 0; i < 3; i++) {
		uint64_t good = *levels[i];
		*levels[i] = good & ~(uint64_t)W;
		assert_false(walk(0x5000, SOFT_WRITE, true));
		stand_expect_page_fault(7, 0x5000);
		assert_true(walk(0x5000, SOFT_READ, true));
		assert_false(page.writable);
		*levels[i] = good & ~(uint64_t)U;
		assert_false(walk(0x5000, SOFT_READ, true));
		stand_expect_page_fault(5, 0x5000);
		*levels[i] = good | NX;
		assert_false(walk(0x5000, SOFT_EXECUTE, true));
		stand_expect_page_fault(21, 0x5000);
		*levels[i] = good & ~(uint64_t)P;
		assert_false(walk(0x5000, SOFT_WRITE, false));
		stand_expect_page_fault(2, 0x5000);
		*levels[i] = good;
		assert_true(walk(0x5000, SOFT_WRITE, true));
		assert_true(*levels[i] & A);
		assert_false(*levels[i] & D);
	}
}

static void reserved_bits_fault(void **state)
{
	uint64_t *pml4 = stand_ram(STAND_PML4), *pdpt = stand_ram(STAND_PDPT), *pd = stand_ram(STAND_PD);
	uint64_t *leaf = stand_entry(0x5000);
	*pml4 |= PS;
	assert_false(walk(0x5000, SOFT_READ, true));
	stand_expect_page_fault(8 | 5, 0x5000);
	*pml4 &= ~(uint64_t)PS;
	*leaf |= 1ull << 45;
	assert_false(walk(0x5000, SOFT_READ, false));
	stand_expect_page_fault(8 | 1, 0x5000);
	*leaf &= ~(1ull << 45);
	*leaf |= NX;
	stand->cpu.efer &= ~(uint64_t)EFER_NXE;
	assert_false(walk(0x5000, SOFT_EXECUTE, false));
	stand_expect_page_fault(8 | 1, 0x5000); /* I/D is not reported without NX and SMEP */
	stand->cpu.efer |= EFER_NXE;
	*pd = 0x1000 | PS | 7; /* 2 MiB page: bits 13..20 are reserved, 12 is PAT */
	assert_true(walk(0x5000, SOFT_READ, false));
	*pd = 0x2000 | PS | 7;
	assert_false(walk(0x5000, SOFT_READ, false));
	stand_expect_page_fault(8 | 1, 0x5000);
	*pdpt = 0x200000 | PS | 7;
	assert_false(walk(0x5000, SOFT_READ, false));
	stand_expect_page_fault(8 | 1, 0x5000);
}

static void large_pages(void **state)
{
	uint64_t *pd = stand_ram(STAND_PD), *pdpt = stand_ram(STAND_PDPT);
	pd[1] = 0x200000 | PS | 7;
	assert_true(walk(0x200000 + 0x12345, SOFT_WRITE, true));
	assert_int_equal(page.gpa, 0x212000);
	assert_true(page.large && page.ram && !page.giant);
	assert_int_equal(pd[1] & (A | D), A | D);
	pdpt[1] = 0 | PS | 7;
	assert_true(walk(0x40000000 + 0x3fffff, SOFT_READ, true));
	assert_int_equal(page.gpa, 0x3ff000);
	assert_true(page.giant && !page.dirty);
	assert_true(walk(0x40000000 + 0x400000, SOFT_READ, true));
	assert_false(page.ram);
}

static void addresses_must_be_canonical(void **state)
{
	assert_false(walk(0x800000000000, SOFT_READ, false));
	stand_expect_fault(SOFT_GP, 0);
	uint64_t value;
	assert_false(soft_load(&stand->cpu, 0x7ffffffffffc, &value, 8, true));
	assert_int_equal(stand->cpu.fault.vector, SOFT_PF); /* the first page comes first */
}

static void tables_outside_of_ram(void **state)
{
	uint64_t *pml4 = stand_ram(STAND_PML4);
	*pml4 = 0x10000000 | 7; /* all ones there: reserved bits */
	assert_false(walk(0x5000, SOFT_READ, false));
	stand_expect_page_fault(9, 0x5000);
	stand->cpu.cr3 = STAND_RAM - 4096;
	assert_false(walk(0x5000, SOFT_READ, false));
	stand_expect_page_fault(0, 0x5000);
	stand->cpu.cr3 = 0xfffffff000;
	assert_false(walk(0x5000, SOFT_READ, false));
	stand_expect_page_fault(9, 0x5000);
}

static void writes_are_granted_and_counted(void **state)
{
	bool mmio;
	uint64_t gpa;
	uint8_t *flags = stand->machine.ram.page_flags;
	soft_tlb_flush(&stand->cpu, false);
	uint64_t before = stand->machine.ram.written;
	assert_ptr_equal(soft_translate(&stand->cpu, 0x6008, SOFT_READ, true, &mmio, &gpa),
			 stand_ram(0x6008));
	assert_int_equal(gpa, 0x6008);
	assert_int_equal(flags[6], 0);
	assert_non_null(soft_translate(&stand->cpu, 0x6008, SOFT_WRITE, true, &mmio, &gpa));
	assert_int_equal(flags[6], FT_PAGE_WRITTEN | FT_PAGE_USER_WRITTEN);
	/* That page, and the page table with its dirty bits. */
	assert_true(stand->machine.ram.written > before);
	assert_true(flags[STAND_PT >> 12] & FT_PAGE_WRITTEN);
	/* Once granted, no more walks: an entry taken away is not noticed before a flush. */
	*stand_entry(0x6000) = 0;
	assert_non_null(soft_translate(&stand->cpu, 0x6010, SOFT_WRITE, true, &mmio, &gpa));
	soft_tlb_flush_page(&stand->cpu, 0x6fff);
	assert_null(soft_translate(&stand->cpu, 0x6010, SOFT_WRITE, true, &mmio, &gpa));
	stand_expect_page_fault(6, 0x6010);
	assert_false(mmio);
}

static void a_read_does_not_give_the_right_to_write(void **state)
{
	bool mmio;
	uint64_t gpa;
	*stand_entry(0x6000) = 0x6000 | P | U;
	assert_non_null(soft_translate(&stand->cpu, 0x6000, SOFT_READ, true, &mmio, &gpa));
	assert_null(soft_translate(&stand->cpu, 0x6000, SOFT_WRITE, true, &mmio, &gpa));
	stand_expect_page_fault(7, 0x6000);
	/* Neither does a supervisor's right help the user. */
	assert_non_null(soft_translate(&stand->cpu, KERNEL + 0x7000, SOFT_WRITE, false, &mmio, &gpa));
	assert_null(soft_translate(&stand->cpu, KERNEL + 0x7000, SOFT_READ, true, &mmio, &gpa));
	stand_expect_page_fault(5, KERNEL + 0x7000);
}

static void code_pages_get_no_write_tag(void **state)
{
	bool mmio;
	uint64_t gpa, value = 0x55;
	stand->machine.ram.page_flags[6] |= FT_PAGE_CODE;
	for (unsigned i = 1; i <= 3; i++) {
		assert_true(soft_store(&stand->cpu, 0x6100, &value, 8, true));
		assert_int_equal(stand->code_writes, i);
		assert_int_equal(stand->code_gpa, 0x6100);
		assert_int_equal(stand->code_size, 8);
		/* Translated code must not find a way past that. */
		assert_int_equal(stand->tlb[1].wtag[6], soft_tlb_invalid(6));
		assert_int_equal(stand->tlb[1].rtag[6], -0x6000ull);
	}
	/* A page that gets code later. */
	assert_true(soft_store(&stand->cpu, 0x7100, &value, 8, true));
	assert_true(soft_store(&stand->cpu, KERNEL + 0x7100, &value, 8, false));
	assert_int_equal(stand->code_writes, 3);
	stand->machine.ram.page_flags[7] |= FT_PAGE_CODE;
	soft_tlb_protect(&stand->cpu, 0x7000);
	assert_true(soft_store(&stand->cpu, 0x7100, &value, 8, true));
	assert_true(soft_store(&stand->cpu, KERNEL + 0x7100, &value, 8, false));
	assert_int_equal(stand->code_writes, 5);
	assert_non_null(soft_translate(&stand->cpu, 0x7ffc, SOFT_WRITE, true, &mmio, &gpa));
	assert_int_equal(stand->code_writes, 5); /* finding the place is no write yet */
	assert_true(soft_store(&stand->cpu, 0x7ffc, &value, 8, true));
	assert_int_equal(stand->code_gpa, 0x7ffc);
	assert_int_equal(stand->code_size, 4); /* never beyond the page */
}

static void grants_are_given_anew_after_a_mark(void **state)
{
	uint64_t value = 1;
	assert_true(soft_store(&stand->cpu, 0x6000, &value, 8, true));
	stand->machine.ram.page_flags[6] = 0;
	assert_true(soft_store(&stand->cpu, 0x6000, &value, 8, true));
	assert_int_equal(stand->machine.ram.page_flags[6], 0);
	soft_tlb_drop_grants(&stand->cpu);
	assert_true(soft_store(&stand->cpu, 0x6000, &value, 8, true));
	assert_int_equal(stand->machine.ram.page_flags[6], FT_PAGE_WRITTEN | FT_PAGE_USER_WRITTEN);
}

/* As translated code finds it: by what the TLB says. */
static uint64_t read_at(uint64_t va, bool user)
{
	bool mmio;
	uint64_t gpa;
	const uint64_t *host = soft_translate(&stand->cpu, va, SOFT_READ, user, &mmio, &gpa);
	assert_non_null(host);
	assert_int_equal(gpa, 0x6100);
	return *host;
}

static void a_page_that_moves_is_found_by_all_its_addresses(void **state)
{
	struct ft_memory *ram = &stand->machine.ram;
	*stand_entry(0x9000) = 0x6000 | P | W | U;
	*(uint64_t *)stand_ram(0x6100) = 7;
	stand_part();
	/* Read, so remembered, by three addresses; written by one of them. */
	assert_int_equal(read_at(0x6100, true), 7);
	assert_int_equal(read_at(KERNEL + 0x6100, false), 7);
	assert_int_equal(read_at(0x9100, true), 7);
	const uint8_t *before = stand_ram(0x6100);
	uint64_t value = 8;
	assert_true(soft_store(&stand->cpu, 0x9100, &value, 8, true));
	assert_ptr_not_equal(stand_ram(0x6100), before);
	assert_int_equal(*before, 7);
	assert_int_equal(read_at(0x6100, true), 8);
	assert_int_equal(read_at(KERNEL + 0x6100, false), 8);
	assert_int_equal(read_at(0x9100, true), 8);
	/* Once: from there on it stays. */
	const uint8_t *next = ram->own_next;
	value = 9;
	assert_true(soft_store(&stand->cpu, 0x6100, &value, 8, true));
	assert_true(soft_store(&stand->cpu, 0x9100, &value, 8, true));
	assert_ptr_equal(ram->own_next, next);
	/* Page tables move, too: by accessed bits. */
	assert_ptr_not_equal(stand_ram(STAND_PT), ram->base + STAND_PT);
	assert_true(*stand_entry(0x9000) & D);
	assert_false(*(uint64_t *)(void *)(ram->base + STAND_PT + 9 * 8) & A);
	soft_tlb_protect(&stand->cpu, 0x6000);
	assert_int_equal(stand->tlb[1].wtag[6], soft_tlb_invalid(6));
	assert_int_equal(stand->tlb[1].wtag[9], soft_tlb_invalid(9));
}

/* Whoever was granted writes keeps the right, but asks for the copy first; no page table is looked at for it. */
static void what_is_granted_is_copied_by_the_next_store(void **state)
{
	bool mmio;
	uint64_t gpa, value = 5;
	assert_true(soft_store(&stand->cpu, 0x6100, &value, 8, true));
	assert_int_equal(read_at(KERNEL + 0x6100, false), 5);
	assert_true(soft_load(&stand->cpu, 0x7100, &value, 8, true));
	const uint8_t *before = stand_ram(0x6000);
	uint64_t wtag = stand->tlb[1].wtag[6], none = stand->tlb[1].wtag[7];
	struct ft_memory *ram = &stand->machine.ram;
	soft_tlb_share_granted(&stand->cpu);
	assert_int_equal(stand->tlb[1].wtag[6], soft_tlb_shared(6));
	assert_int_equal(stand->tlb[1].wtag[7], none);
	/* As ft_memory_part, which leaves the TLB alone. */
	ram->where = calloc(STAND_RAM >> 12, sizeof(*ram->where));
	ram->own = ram->own_next = aligned_alloc(4096, STAND_RAM);
	ram->parted = true;
	assert_true(soft_load(&stand->cpu, 0x6100, &value, 8, true));
	assert_ptr_equal(stand_ram(0x6000), before);
	*stand_entry(0x6000) &= ~(uint64_t)D;
	uint64_t *host = soft_translate(&stand->cpu, 0x6100, SOFT_WRITE, true, &mmio, &gpa);
	assert_false(*stand_entry(0x6000) & D);
	assert_int_equal(gpa, 0x6100);
	assert_ptr_not_equal(stand_ram(0x6000), before);
	assert_ptr_equal(stand_ram(0x7000), ram->base + 0x7000);
	assert_ptr_equal(host, stand_ram(0x6100));
	assert_int_equal(stand->tlb[1].wtag[6], wtag);
	*host = 6;
	assert_int_equal(read_at(KERNEL + 0x6100, false), 6);
	assert_int_equal(*(const uint64_t *)(const void *)(before + 0x100), 5);
	/* Another page in the same slot has nothing of it. */
	soft_tlb_share_granted(&stand->cpu);
	uint64_t far = 0x6000 + ((uint64_t)1 << (stand->cpu.tlb_bits + 12));
	*stand_entry(far) = 0;
	assert_null(soft_translate(&stand->cpu, far, SOFT_WRITE, true, &mmio, &gpa));
}

/* The second page's walk sets an accessed bit in the first page, which moves by it. */
static void an_access_across_pages_sees_what_its_own_walk_has_changed(void **state)
{
	uint64_t seen[2];
	*stand_entry(0x1fe000) = STAND_PT | P | W | U | A;
	*stand_entry(0x1ff000) &= ~(uint64_t)A;
	stand_part();
	assert_true(soft_load(&stand->cpu, 0x1feff8, seen, 16, true));
	assert_ptr_not_equal(stand_ram(STAND_PT), stand->machine.ram.base + STAND_PT);
	assert_int_equal(seen[0] & (P | A), P | A);
}

static void accesses_across_pages(void **state)
{
	uint64_t value = 0x8877665544332211, got = 0;
	*stand_entry(0x7000) = 0x9000 | 7;
	assert_true(soft_store(&stand->cpu, 0x6ffd, &value, 8, true));
	assert_memory_equal(stand_ram(0x6ffd), &value, 3);
	assert_memory_equal(stand_ram(0x9000), (uint8_t *)&value + 3, 5);
	assert_true(soft_load(&stand->cpu, 0x6ffd, &got, 8, true));
	assert_int_equal(got, value);
	/* The second page refuses: nothing may have changed on the first. */
	*stand_entry(0x7000) = 0x9000 | P | U;
	soft_tlb_flush(&stand->cpu, false);
	uint64_t other = 0;
	assert_false(soft_store(&stand->cpu, 0x6ffd, &other, 8, true));
	stand_expect_page_fault(7, 0x7000);
	assert_memory_equal(stand_ram(0x6ffd), &value, 3);
}

static void devices_are_reached_in_natural_units(void **state)
{
	uint8_t buffer[8];
	*stand_entry(0x7000) = STAND_MMIO | 7;
	stand->bus_answer = 0xaabbccdd;
	assert_true(soft_load(&stand->cpu, 0x7010, buffer, 4, true));
	assert_int_equal(stand->bus_reads, 1);
	assert_int_equal(stand->bus_address, STAND_MMIO + 0x10);
	assert_int_equal(stand->bus_size, 4);
	assert_int_equal(buffer[0], 0xdd);
	assert_true(soft_store(&stand->cpu, 0x7012, buffer, 8, true)); /* 2 + 4 + 2 */
	assert_int_equal(stand->bus_writes, 3);
	assert_int_equal(stand->bus_address, STAND_MMIO + 0x18);
	assert_int_equal(stand->bus_size, 2);
	bool mmio;
	uint64_t gpa;
	assert_null(soft_translate(&stand->cpu, 0x7ff8, SOFT_READ, true, &mmio, &gpa));
	assert_true(mmio);
	assert_int_equal(gpa, STAND_MMIO + 0xff8);
	assert_false(stand->cpu.fault.pending);
}

static void global_entries_outlive_a_new_space(void **state)
{
	uint8_t byte;
	*stand_entry(0x6000) |= G;
	assert_true(soft_load(&stand->cpu, 0x6000, &byte, 1, true));
	assert_true(soft_load(&stand->cpu, 0x7000, &byte, 1, true));
	*stand_entry(0x6000) = *stand_entry(0x7000) = 0;
	soft_tlb_flush(&stand->cpu, true);
	assert_true(soft_load(&stand->cpu, 0x6000, &byte, 1, true));
	assert_false(soft_load(&stand->cpu, 0x7000, &byte, 1, true));
	soft_tlb_flush(&stand->cpu, false);
	assert_false(soft_load(&stand->cpu, 0x6000, &byte, 1, true));
}

static void what_is_filled_after_the_list_is_full_is_flushed_too(void **state)
{
	uint8_t byte;
	stand->cpu.tlb_bits = SOFT_TLB_BITS_MAX;
	soft_tlb_flush(&stand->cpu, false);
	/* Two pages that share a slot push each other out. */
	uint64_t *pd = stand_ram(STAND_PD);
	pd[4] = 0x200000 | PS | 7;
	for (unsigned n = 0; n < SOFT_TLB_MAX; n++)
		assert_true(soft_load(&stand->cpu, n & 1 ? 0x801000 : 0x1000, &byte, 1, true));
	assert_true(soft_load(&stand->cpu, 0x9000, &byte, 1, true));
	*stand_entry(0x9000) = 0;
	assert_true(soft_load(&stand->cpu, 0x9000, &byte, 1, true));
	soft_tlb_flush(&stand->cpu, true);
	assert_false(soft_load(&stand->cpu, 0x9000, &byte, 1, true));
}

/* More fills than the list of filled slots holds: the flush must still find them all. */
static void a_flush_forgets_everything_however_much_was_filled(void **state)
{
	uint8_t byte;
	for (unsigned n = 0; n < 3 * SOFT_TLB_MAX; n++)
		assert_true(soft_load(&stand->cpu, (n % 512) << 12, &byte, 1, true));
	soft_tlb_flush(&stand->cpu, true);
	for (unsigned i = 0; i < 512; i++)
		*stand_entry((uint64_t)i << 12) = 0;
	for (unsigned i = 0; i < 512; i++)
		assert_false(soft_load(&stand->cpu, (uint64_t)i << 12, &byte, 1, true));
}

static void flushing_any_part_of_a_large_page_flushes_all_of_it(void **state)
{
	uint64_t *pd = stand_ram(STAND_PD), *pdpt = stand_ram(STAND_PDPT);
	uint8_t byte;
	for (unsigned bits = 3; bits <= SOFT_TLB_BITS_MAX; bits += 4) {
		stand->cpu.tlb_bits = bits;
		pd[1] = 0x200000 | PS | 7;
		pdpt[1] = 0 | PS | 7;
		soft_tlb_flush(&stand->cpu, false);
		assert_true(soft_load(&stand->cpu, 0x201000, &byte, 1, true));
		assert_true(soft_load(&stand->cpu, 0x302000, &byte, 1, true));
		assert_true(soft_load(&stand->cpu, 0x40003000, &byte, 1, true));
		assert_true(soft_load(&stand->cpu, 0x4000, &byte, 1, true));
		pd[1] = pdpt[1] = 0;
		uint64_t keep = *stand_entry(0x4000);
		*stand_entry(0x4000) = 0;
		soft_tlb_flush_page(&stand->cpu, 0x3ff000);
		assert_false(soft_load(&stand->cpu, 0x201000, &byte, 1, true));
		assert_false(soft_load(&stand->cpu, 0x302000, &byte, 1, true));
		assert_true(soft_load(&stand->cpu, 0x40003000, &byte, 1, true));
		assert_true(soft_load(&stand->cpu, 0x4000, &byte, 1, true));
		soft_tlb_flush_page(&stand->cpu, 0x7ffff000);
		assert_false(soft_load(&stand->cpu, 0x40003000, &byte, 1, true));
		*stand_entry(0x4000) = keep;
	}
}

static void no_address_hits_an_empty_entry(void **state)
{
	uint8_t byte;
	for (unsigned i = 0; i < 512; i++)
		*stand_entry((uint64_t)i << 12) = 0;
	uint64_t *pml4 = stand_ram(STAND_PML4);
	pml4[511] = 0;
	for (unsigned i = 0; i < 512; i++) {
		assert_false(soft_load(&stand->cpu, (uint64_t)i << 12, &byte, 1, true));
		assert_false(soft_store(&stand->cpu, (uint64_t)i << 12, &byte, 1, true));
		assert_false(soft_load(&stand->cpu, -((uint64_t)i + 1) << 12, &byte, 1, true));
	}
}

static void without_paging_addresses_are_physical(void **state)
{
	stand->cpu.cr0 &= ~(uint64_t)CR0_PG;
	soft_tlb_flush(&stand->cpu, false);
	uint32_t value = 0x1234;
	assert_true(soft_store(&stand->cpu, 0x3f0000, &value, 4, false));
	assert_memory_equal(stand_ram(0x3f0000), &value, 4);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, stand_make, stand_drop)
	const struct CMUnitTest tests[] = {
	    TEST(rights_of_a_page),
	    TEST(upper_levels_take_rights_away),
	    TEST(reserved_bits_fault),
	    TEST(large_pages),
	    TEST(addresses_must_be_canonical),
	    TEST(tables_outside_of_ram),
	    TEST(writes_are_granted_and_counted),
	    TEST(a_read_does_not_give_the_right_to_write),
	    TEST(code_pages_get_no_write_tag),
	    TEST(grants_are_given_anew_after_a_mark),
	    TEST(a_page_that_moves_is_found_by_all_its_addresses),
	    TEST(what_is_granted_is_copied_by_the_next_store),
	    TEST(an_access_across_pages_sees_what_its_own_walk_has_changed),
	    TEST(accesses_across_pages),
	    TEST(devices_are_reached_in_natural_units),
	    TEST(global_entries_outlive_a_new_space),
	    TEST(what_is_filled_after_the_list_is_full_is_flushed_too),
	    TEST(a_flush_forgets_everything_however_much_was_filled),
	    TEST(flushing_any_part_of_a_large_page_flushes_all_of_it),
	    TEST(no_address_hits_an_empty_entry),
	    TEST(without_paging_addresses_are_physical),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
