/* What observers hear of user code in pages that user code wrote: a process with one page mapped twice, to write and to
 * execute, tries to run its own bytes unseen. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "vmm/machine.h"

#define PML4 0x1000u
#define PDPT 0x2000u
#define PD   0x3000u
#define PT   0x4000u
#define CODE 0x200000u /* the process' own text; nothing writes it */
#define RUN  0x201000u /* the page in question, to execute */
#define DATA 0x202000u /* the same page, to write */
#define KERN 0x203000u /* the same, as a kernel sees it */
#define PAGE 0x300000u /* where it is */

enum { PRESENT = 1, WRITABLE = 2, USER = 4 };

struct heard {
	unsigned times;
	uint64_t rip, gpa;
	uint8_t flags;
};

static struct ft_machine *m;
static struct heard heard;

static void exec_page(void *context, uint64_t rip, uint64_t gpa, uint8_t page_flags, uint64_t pte_flags)
{
	struct heard *h = context;
	h->times++;
	h->rip = rip;
	h->gpa = gpa;
	h->flags = page_flags;
}

static void put(uint64_t at, uint64_t value)
{
	assert_true(ft_memory_write(&m->ram, ft_gpa_make(at), &value, 8));
}

/* A device brings bytes into the page. */
static void device_fills(unsigned offset, const void *bytes, unsigned length, unsigned total)
{
	uint8_t image[FT_PAGE_SIZE];
	memset(image, 0x90, sizeof(image));
	memcpy(image, bytes, length);
	assert_true(ft_memory_write(&m->ram, ft_gpa_make(PAGE + offset), image, total));
}

static void make_cpu(void)
{
	struct ft_error err = {0};
	struct ft_cpu_state s = {.rip = CODE,
				 .rflags = 2,
				 .cr0 = 0x80050033,
				 .cr3 = PML4,
				 .cr4 = 0x6a0,
				 .efer = 0xd01,
				 .dr = {[6] = 0xffff0ff0, [7] = 0x400},
				 .pat = 0x0007040600070406,
				 .icount = m->icount};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] =
		    (struct ft_segment){.limit = 0xffffffff, .selector = 0x2b, .attributes = 0xc0f3};
	s.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x33, .attributes = 0xa0fb};
	s.gpr[FT_RAX] = 0xc3; /* RET */
	s.gpr[FT_RBX] = RUN;
	s.gpr[FT_RDI] = DATA;
	s.gpr[FT_RSP] = CODE + 0x1000 * 8; /* a page of its own */
	s.fxsave[0] = 0x7f;
	s.fxsave[1] = 0x03;
	s.fxsave[24] = 0x80;
	s.fxsave[25] = 0x1f;
	if (m->engine_ops->set(m->engine, &s, &err))
		fail_msg("%s", err.text);
}

static int open_machine(void **state)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .engine_options = {.cache_bytes = 1 << 20, .verify = true}};
	m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	put(PML4, PDPT | PRESENT | WRITABLE | USER);
	put(PDPT, PD | PRESENT | WRITABLE | USER);
	put(PD + 8, PT | PRESENT | WRITABLE | USER);
	put(PT, CODE | PRESENT | USER);
	put(PT + 8, PAGE | PRESENT | USER);
	put(PT + 16, PAGE | PRESENT | WRITABLE | USER);
	put(PT + 24, PAGE | PRESENT | WRITABLE);
	put(PT + 7 * 8, (CODE + 7 * 0x1000) | PRESENT | WRITABLE | USER);
	heard = (struct heard){0};
	m->hooks = (struct ft_hooks){.mask = FT_HOOK_EXEC_PAGE, .context = &heard, .exec_page = exec_page};
	make_cpu();
	return 0;
}

static int close_machine(void **state)
{
	ft_machine_destroy(m);
	return 0;
}

static void text(const char *bytes, size_t length)
{
	assert_true(ft_memory_write(&m->ram, ft_gpa_make(CODE), bytes, length));
	ft_memory_mark(&m->ram);
	m->engine_ops->observe(m->engine);
}

static void set_ring(unsigned ring, uint64_t to)
{
	struct ft_error err = {0};
	struct ft_cpu_state s;
	m->engine_ops->get(m->engine, &s);
	s.segment[FT_CS].selector = ring ? 0x33 : 0x10;
	s.segment[FT_CS].attributes = ring ? 0xa0fb : 0xa09b;
	s.segment[FT_SS].selector = ring ? 0x2b : 0x18;
	s.segment[FT_SS].attributes = ring ? 0xc0f3 : 0xc093;
	s.gpr[FT_RDI] = to;
	assert_int_equal(m->engine_ops->set(m->engine, &s, &err), 0);
}

static void run(uint64_t instructions)
{
	struct ft_run_limits limits = {.icount = m->icount + instructions, .vtime_ns = UINT64_MAX};
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_COUNT);
}

static void expect_heard(unsigned times)
{
	assert_int_equal(heard.times, times);
	if (!times)
		return;
	assert_int_equal(heard.rip & ~0xfffull, RUN);
	assert_int_equal(heard.gpa, PAGE);
	assert_true(heard.flags & FT_PAGE_USER_WRITTEN);
}

static void what_a_device_brought_is_no_evidence(void **state)
{
	text("\x88\x07\xff\xd3\xeb\xfe", 6); /* mov [rdi],al; call rbx; jmp . */
	run(1);
	device_fills(0, "\xc3", 1, FT_PAGE_SIZE);
	run(4);
	expect_heard(0);
}

/* Direct I/O into a buffer that the process has written, and a store over it: the write tag of the first store is of no
 * use for the second. */
static void a_store_over_what_a_device_filled_is_seen(void **state)
{
	text("\x88\x07\x88\x07\xff\xd3\xeb\xfe", 8); /* mov [rdi],al; mov [rdi],al; call rbx; jmp . */
	run(1);
	device_fills(0, "\xcc", 1, FT_PAGE_SIZE);
	run(4);
	expect_heard(1);
}

/* The same when the device fills but a part of the page. */
static void a_store_over_a_filled_sector_is_seen(void **state)
{
	text("\x88\x07\x88\x07\xff\xd3\xeb\xfe", 8);
	run(1);
	device_fills(0, "\xcc", 1, 512);
	run(4);
	expect_heard(1);
}

/* The page is run while it is still clean (which is no evidence), then written where it is mapped to be written, and run
 * again: all without a change of the address space that would make the engine look anew. */
static void a_store_to_a_page_that_has_run_is_seen(void **state)
{
	text("\xff\xd3\x88\x07\xff\xd3\xeb\xfe", 8); /* call rbx; mov [rdi],al; call rbx; jmp . */
	device_fills(0, "\xc3", 1, FT_PAGE_SIZE);
	run(2);
	expect_heard(0);
	run(4);
	expect_heard(1);
}

/* The run begins in the file's sector and goes on into the process' own. */
static void running_into_a_written_sector_is_seen(void **state)
{
	text("\x88\x87\x00\x02\x00\x00\x48\x81\xc3\xf8\x01\x00\x00\xff\xd3\xeb\xfe",
	     17); /* mov [rdi+512],al; add rbx,504; call rbx; jmp . */
	run(1);
	device_fills(0, "\x90", 1, 512);
	run(2);
	expect_heard(0);
	run(12);
	expect_heard(1);
	assert_int_equal(heard.rip, RUN + 512);
}

/* read() into memory that is then made executable: the kernel stores, by the process' own mapping. */
static void what_the_kernel_stores_for_a_process_is_the_process_own(void **state)
{
	text("\x88\x07\xff\xd3\xeb\xfe", 6);
	set_ring(0, DATA);
	run(1);
	set_ring(3, DATA);
	run(3);
	expect_heard(1);
}

/* A page of a file, which the kernel fills by its own mapping. */
static void what_the_kernel_stores_for_itself_is_no_evidence(void **state)
{
	text("\x88\x07\xff\xd3\xeb\xfe", 6);
	set_ring(0, KERN);
	run(1);
	set_ring(3, DATA);
	run(3);
	expect_heard(0);
}

/* Both at once: a device fills the buffer that the kernel has written for the process, and the kernel writes again. */
static void a_kernels_store_over_what_a_device_filled_is_seen(void **state)
{
	text("\x88\x07\x88\x07\xff\xd3\xeb\xfe", 8);
	set_ring(0, DATA);
	run(1);
	device_fills(0, "\xcc", 1, FT_PAGE_SIZE);
	run(1);
	set_ring(3, DATA);
	run(3);
	expect_heard(1);
}

/* One page, two owners in turn: that all translations were dropped in between (the code cache was full) must not make
 * the second one's code pass for the first one's. */
static void told_pages_are_told_again_when_translations_are_gone(void **state)
{
	text("\x88\x07\xff\xd3\x88\x07\xff\xd3\xeb\xfe", 10); /* twice: mov [rdi],al; call rbx */
	run(3);
	expect_heard(1);
	m->engine_ops->flush(m->engine);
	run(4);
	expect_heard(2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(what_a_device_brought_is_no_evidence, open_machine,
					    close_machine),
	    cmocka_unit_test_setup_teardown(a_store_over_what_a_device_filled_is_seen, open_machine,
					    close_machine),
	    cmocka_unit_test_setup_teardown(a_store_over_a_filled_sector_is_seen, open_machine,
					    close_machine),
	    cmocka_unit_test_setup_teardown(a_store_to_a_page_that_has_run_is_seen, open_machine,
					    close_machine),
	    cmocka_unit_test_setup_teardown(running_into_a_written_sector_is_seen, open_machine,
					    close_machine),
	    cmocka_unit_test_setup_teardown(what_the_kernel_stores_for_a_process_is_the_process_own,
					    open_machine, close_machine),
	    cmocka_unit_test_setup_teardown(what_the_kernel_stores_for_itself_is_no_evidence, open_machine,
					    close_machine),
	    cmocka_unit_test_setup_teardown(a_kernels_store_over_what_a_device_filled_is_seen, open_machine,
					    close_machine),
	    cmocka_unit_test_setup_teardown(told_pages_are_told_again_when_translations_are_gone,
					    open_machine, close_machine),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
