/* The machine's state as bytes: what is saved comes back, all of it; what is wrong is refused by the field's name, before
 * anything has changed. The whole machine with a running guest goes through the same door in invariance.c. */
#include <asm/kvm.h>
#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

#include "bare.h"
#include "driver.h"
#include "vmm/dev/devices.h"
#include "vmm/engine/model.h"
#include "vmm/state/format.h"
#include "vmm/state/image.h"

/* ---- Shapes --------------------------------------------------------------------------------------------------------- */

#define SAME(ours, theirs) _Static_assert(sizeof(struct ours) == sizeof(struct theirs), #theirs)
#define AT(ours, a, theirs, b) _Static_assert(offsetof(struct ours, a) == offsetof(struct theirs, b), #theirs "." #b)
SAME(ft_kvm_regs, kvm_regs);
AT(ft_kvm_regs, rsp, kvm_regs, rsp);
AT(ft_kvm_regs, rflags, kvm_regs, rflags);
SAME(ft_kvm_segment, kvm_segment);
AT(ft_kvm_segment, unusable, kvm_segment, unusable);
SAME(ft_kvm_table, kvm_dtable);
SAME(ft_kvm_sregs, kvm_sregs2);
AT(ft_kvm_sregs, ldt, kvm_sregs2, ldt);
AT(ft_kvm_sregs, cr8, kvm_sregs2, cr8);
AT(ft_kvm_sregs, apic_base, kvm_sregs2, apic_base);
SAME(ft_kvm_debugregs, kvm_debugregs);
SAME(ft_kvm_msr, kvm_msr_entry);
SAME(ft_kvm_cpuid, kvm_cpuid_entry2);
SAME(ft_kvm_events, kvm_vcpu_events);
AT(ft_kvm_events, interrupt.shadow, kvm_vcpu_events, interrupt.shadow);
AT(ft_kvm_events, nmi.masked, kvm_vcpu_events, nmi.masked);
AT(ft_kvm_events, flags, kvm_vcpu_events, flags);
AT(ft_kvm_events, exception_has_payload, kvm_vcpu_events, exception_has_payload);
AT(ft_kvm_events, exception_payload, kvm_vcpu_events, exception_payload);
SAME(ft_kvm_mp, kvm_mp_state);
SAME(ft_kvm_pic, kvm_pic_state);
AT(ft_kvm_pic, elcr, kvm_pic_state, elcr);
SAME(ft_kvm_ioapic, kvm_ioapic_state);
AT(ft_kvm_ioapic, redirtbl, kvm_ioapic_state, redirtbl);
SAME(ft_kvm_lapic, kvm_lapic_state);
SAME(ft_kvm_pit_channel, kvm_pit_channel_state);
AT(ft_kvm_pit_channel, gate, kvm_pit_channel_state, gate);
SAME(ft_kvm_pit, kvm_pit_state2);
AT(ft_kvm_pit, flags, kvm_pit_state2, flags);
_Static_assert(sizeof(struct ft_kvm_xsave) <= sizeof(struct kvm_xsave), "its beginning");

/* ---- Saving and restoring -------------------------------------------------------------------------------------------- */

struct bytes {
	uint8_t *at;
	size_t length;
};

static struct bytes save(struct ft_machine *m)
{
	struct bytes b;
	struct ft_error err = {0};
	if (ft_state_save(m, &b.at, &b.length, &err))
		fail_msg("%s", err.text);
	return b;
}

static void restore(struct ft_machine *m, const struct bytes *b)
{
	struct ft_error err = {0};
	if (ft_state_restore(m, b->at, b->length, &err))
		fail_msg("%s", err.text);
}

/* b becomes what a is, and saves the same bytes. */
static void move(struct ft_machine *a, struct ft_machine *b)
{
	struct bytes first = save(a);
	memcpy(b->ram.base, a->ram.base, a->ram.size);
	restore(b, &first);
	struct bytes second = save(b);
	assert_int_equal(first.length, second.length);
	assert_memory_equal(first.at, second.at, first.length);
	assert_true(ft_machine_hash(a) == ft_machine_hash(b));
	free(first.at);
	free(second.at);
}

/* ---- Devices ---------------------------------------------------------------------------------------------------------- */

/* Every chip in a state of its own: nothing that has its value after a reset. */
static void disturb(struct pc *pc)
{
	pc_pass(pc, 12345);
	/* PIC: initialised with automatic end of interrupt, one request waiting; in the middle of the second's ICWs. */
	static const uint8_t icw[] = {0x11, 0x30, 4, 3};
	for (unsigned i = 0; i < 4; i++)
		pc_out(pc, i ? 0x21 : 0x20, 1, icw[i]);
	pc_out(pc, 0x21, 1, 0xa5);
	pc_out(pc, 0x20, 1, 0xc3);
	pc_out(pc, 0xa0, 1, 0x11);
	pc_out(pc, 0xa1, 1, 0x38);
	pc_out(pc, 0x4d0, 1, 0x20);
	ft_irq_set(pc->m, 5, true);
	/* PIT: channel 0 periodic, 1 with half a count written, 2 gated and latched. */
	pc_out(pc, 0x43, 1, 0x34);
	pc_out(pc, 0x40, 1, 0x12);
	pc_out(pc, 0x40, 1, 0x34);
	pc_out(pc, 0x43, 1, 0x70);
	pc_out(pc, 0x41, 1, 0x77);
	pc_out(pc, 0x61, 1, 3);
	pc_out(pc, 0x43, 1, 0xb6);
	pc_out(pc, 0x42, 1, 0x99);
	pc_out(pc, 0x42, 1, 0x01);
	pc_out(pc, 0x43, 1, 0x80);
	pc_in(pc, 0x42, 1);
	pc_out(pc, 0x43, 1, 0xe2);
	/* RTC: periodic and update interrupts, another year. */
	static const uint8_t rtc[][2] = {{0x0a, 0x26}, {0x0b, 0x52}, {0x32, 0x19}, {0x09, 0x85}, {0x40, 0x5a}};
	for (unsigned i = 0; i < 5; i++) {
		pc_out(pc, 0x70, 1, rtc[i][0]);
		pc_out(pc, 0x71, 1, rtc[i][1]);
	}
	/* Serial port: bytes in the FIFO and behind it, the transmitter about to ask for more. */
	uint8_t typed[40];
	for (unsigned i = 0; i < sizeof(typed); i++)
		typed[i] = (uint8_t)(i + 1);
	pc_out(pc, 0x3fa, 1, 1);
	pc_out(pc, 0x3fc, 1, 0xb);
	pc_out(pc, 0x3f9, 1, 3);
	pc_out(pc, 0x3f8, 1, 'x');
	assert_int_equal(ft_machine_input(pc->m, FT_INPUT_CONSOLE, 0, typed, sizeof(typed)), 0);
	/* Keyboard: an answer waits, an argument is expected. */
	pc_out(pc, 0x64, 1, 0xaa);
	pc_out(pc, 0x60, 1, 0xed);
	pc_out(pc, 0x64, 1, 0xd1);
	/* ACPI. */
	pc_out(pc, 0x602, 2, 0x120);
	pc_out(pc, 0x604, 2, 0x1402);
	/* I/O APIC: a level-triggered pin that is being served. */
	pc_store(pc, 0xfec00000, 4, 0x10 + 2 * 9);
	pc_store(pc, 0xfec00010, 4, 0x8051);
	ft_irq_set(pc->m, 9, true);
	pc_store(pc, 0xfec00000, 4, 0);
	pc_store(pc, 0xfec00010, 4, 0x07000000);
	/* Local APIC: a vector in service, one waiting, an error latched, one to come, a periodic timer. */
	ft_irq_acknowledge(pc->m);
	pc_store(pc, 0xfee00370, 4, 0x61);
	pc_store(pc, 0xfee00300, 4, 0x00040005);
	pc_store(pc, 0xfee00280, 4, 0);
	pc_store(pc, 0xfee00300, 4, 0x00040007);
	pc_store(pc, 0xfee00080, 4, 0x20);
	pc_store(pc, 0xfee003e0, 4, 3);
	pc_store(pc, 0xfee00320, 4, 0x20071);
	pc_store(pc, 0xfee00380, 4, 5000);
	uint64_t value;
	assert_int_equal(ft_platform_wrmsr(pc->m, 0x3b, 777), 0);
	assert_int_equal(ft_platform_rdmsr(pc->m, 0x10, &value), 0);
	pc_config_write(pc, 1, 0x10, 4, 0xe1230000);
}

/* The same that a guest could do next, on both machines. */
static void go_on(struct pc *pc)
{
	for (unsigned i = 0; i < 50; i++) {
		pc_pass(pc, 97001);
		if (pc->m->interrupt)
			ft_irq_acknowledge(pc->m);
		pc_store(pc, 0xfee000b0, 4, 0);
		pc_in(pc, 0x40, 1);
		pc_in(pc, 0x42, 1);
		pc_out(pc, 0x41, 1, i);
		pc_in(pc, 0x3f8, 1);
		pc_in(pc, 0x3fa, 1);
		pc_in(pc, 0x60, 1);
		pc_out(pc, 0x60, 1, 1);
		pc_out(pc, 0x70, 1, i);
		pc_in(pc, 0x71, 1);
		pc_out(pc, 0xa1, 1, i);
		pc_load(pc, 0xe1230000 + 4 * i, 4);
		pc_load(pc, 0xfee00390, 4);
	}
}

static void devices(void **state)
{
	struct pc a, b;
	pc_open(&a, -1);
	pc_open(&b, -1);
	disturb(&a);
	move(a.m, b.m);
	go_on(&a);
	go_on(&b);
	assert_true(ft_machine_hash(a.m) == ft_machine_hash(b.m));
	assert_int_equal(a.m->interrupt, b.m->interrupt);
	/* And back, into the machine that is in use. */
	move(b.m, a.m);
	pc_close(&a);
	pc_close(&b);
}

/* A device with work under way in one machine, that the other must end. */
static void with_driver(unsigned slot, int disk, void (*begin)(struct driver *), void (*end)(struct driver *))
{
	struct driver a, b;
	driver_open(&a, slot, disk);
	begin(&a);
	driver_open(&b, slot, disk);
	move(a.pc.m, b.pc.m);
	memcpy(b.available, a.available, sizeof(a.available));
	memcpy(b.seen, a.seen, sizeof(a.seen));
	uint64_t before = ft_machine_hash(a.pc.m);
	end(&a);
	assert_true(ft_machine_hash(a.pc.m) != before);
	end(&b);
	assert_true(ft_machine_hash(a.pc.m) == ft_machine_hash(b.pc.m));
	driver_close(&a);
	driver_close(&b);
}

static void frame_in(struct driver *d, uint8_t tag, size_t length)
{
	uint8_t frame[200];
	memset(frame, tag, sizeof(frame));
	assert_int_equal(ft_machine_input(d->pc.m, FT_INPUT_FRAME, 0, frame, length), 0);
}

static void frames_wait(struct driver *d)
{
	/* One was taken already: the queue does not begin at its first slot. */
	driver_describe(d, 0, 0, DRIVER_DATA, 1526, DRIVER_WRITE, 0);
	frame_in(d, 1, 60);
	frame_in(d, 2, 61);
	driver_offer(d, 0, 0);
	driver_notify(d, 0);
	for (uint8_t i = 3; i < 9; i++)
		frame_in(d, i, 60u + i);
	assert_int_equal(ft_machine_frames_waiting(d->pc.m), 7);
}

static void frames_taken(struct driver *d)
{
	uint32_t head;
	for (unsigned i = 1; i < 9; i++) {
		driver_describe(d, 0, i, DRIVER_DATA + 2048 * i, 1526, DRIVER_WRITE, 0);
		driver_offer(d, 0, (uint16_t)i);
	}
	driver_notify(d, 0);
	assert_int_equal(ft_machine_frames_waiting(d->pc.m), 0);
	assert_int_equal(driver_used(d, 0, &head), 72);
	/* In order, the first of those that waited. */
	assert_int_equal(driver_used(d, 0, &head), 12 + 61);
	assert_int_equal(driver_get(d, DRIVER_DATA + 2048 + 12, 1), 2);
	frame_in(d, 77, 80);
}

static void frames(void **state)
{
	with_driver(1, -1, frames_wait, frames_taken);
}

static void entropy_wait(struct driver *d)
{
	for (unsigned i = 0; i < 3; i++) {
		driver_describe(d, 0, i, DRIVER_DATA + 512 * i, 64, DRIVER_WRITE, 0);
		driver_offer(d, 0, (uint16_t)i);
	}
	driver_notify(d, 0);
	assert_int_equal(d->pc.entropy_wanted, 3 * 64);
}

static void entropy_comes(struct driver *d)
{
	uint8_t random[100];
	uint32_t head;
	memset(random, 0x5a, sizeof(random));
	assert_int_equal(ft_machine_input(d->pc.m, FT_INPUT_ENTROPY, 0, random, sizeof(random)), 0);
	assert_int_equal(driver_used(d, 0, &head), 64);
	assert_int_equal(driver_used(d, 0, &head), 36);
	assert_int_equal(driver_used(d, 0, &head), -1);
}

static void entropy(void **state)
{
	with_driver(2, -1, entropy_wait, entropy_comes);
}

static void requests_wait(struct driver *d)
{
	for (unsigned i = 0; i < 4; i++) {
		uint64_t header[2] = {i & 1, 3 + i}; /* read, write, read, write */
		uint64_t at = DRIVER_DATA + 4096 * i;
		driver_put(d, at, header, sizeof(header));
		driver_describe(d, 0, (uint16_t)(3 * i), at, 16, DRIVER_NEXT, (uint16_t)(3 * i + 1));
		driver_describe(d, 0, 3 * i + 1, at + 512, 512, (uint16_t)(DRIVER_NEXT | (i & 1 ? 0 : DRIVER_WRITE)),
				(uint16_t)(3 * i + 2));
		driver_describe(d, 0, 3 * i + 2, at + 1024, 1, DRIVER_WRITE, 0);
		driver_offer(d, 0, (uint16_t)(3 * i));
		driver_notify(d, 0);
		pc_pass(&d->pc, 3000);
	}
	assert_false(ft_machine_quiet(d->pc.m));
}

static void requests_end(struct driver *d)
{
	uint32_t head;
	pc_pass(&d->pc, 15000); /* some are done, others not */
	assert_int_equal(driver_used(d, 0, &head), 513);
	assert_int_equal(head, 0);
	assert_int_equal(driver_used(d, 0, &head), 1);
	pc_pass(&d->pc, 100000);
	assert_int_equal(driver_used(d, 0, &head), 513);
	assert_int_equal(driver_used(d, 0, &head), 1);
	assert_int_equal(driver_used(d, 0, &head), -1);
	assert_int_equal(d->pc.m->devices->blk.s.count, 0);
}

static void requests(void **state)
{
	int disk = pc_disk_image(1 << 20);
	with_driver(3, disk, requests_wait, requests_end);
	close(disk);
}

/* ---- The processor ----------------------------------------------------------------------------------------------------- */

static struct ft_machine *machine(const struct ft_engine_ops *engine)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .mac = {0x52, 0x54, 0, 1, 2, 3},
					   .disk_fd = -1,
					   .engine = engine,
					   .engine_options = {.cache_bytes = 3u << 20}};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	return m;
}

/* 64-bit user code by a conforming segment of ring 0: its privilege is in the selector alone. Each field another value. */
static struct ft_cpu_state peculiar(void)
{
	struct ft_cpu_state s = {.rip = 0x401234,
				 .rflags = 0x40293,
				 .ldt = {0xffff800000012000, 0x67, 0x48, 0x82},
				 .tr = {0xffffc90000003000, 0x206f, 0x40, 0x8b},
				 .gdt = {0xfffffe0000001000, 0x7f},
				 .idt = {0xfffffe0000000000, 0xfff},
				 .cr0 = 0x80050033,
				 .cr2 = 0x7f1234567000,
				 .cr3 = 0x2345000,
				 .cr4 = 0x1006e0,
				 .efer = 0xd01,
				 .dr = {0x401000, 0x402000, 0xffff888000001000, 0x403000, 0, 0, 0xffff4ff1, 0x455},
				 .star = 0x23001000000000,
				 .lstar = 0xffffffff81e00000,
				 .cstar = 0xffffffff81e01000,
				 .fmask = 0x257fd5,
				 .kernel_gs_base = 0xffff88800f400000,
				 .tsc_aux = 7,
				 .sysenter_cs = 0x10,
				 .sysenter_esp = 0xfffffe0000003000,
				 .sysenter_eip = 0xffffffff81e02000,
				 .pat = 0x0407050600070106,
				 .misc_enable = 1,
				 .interrupt_shadow = 1,
				 .nmi_masked = 1,
				 .nmi_pending = 1,
				 .exception_pending = 1,
				 .exception_vector = 14,
				 .exception_has_error = 1,
				 .exception_error = 6,
				 .exception_address = 0x7fffdeadbeef,
				 .icount = 1234567};
	for (unsigned i = 0; i < 16; i++)
		s.gpr[i] = 0x1111111111111111ull * i + 0x8000000000000001;
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] = (struct ft_segment){0x1000u * i, 0xffffffff, (uint16_t)(0x2b + 8 * i), 0xc0f3};
	s.segment[FT_CS] = (struct ft_segment){0, 0xffffffff, 0x33, 0xa09f}; /* conforming, DPL 0 */
	s.segment[FT_FS] = (struct ft_segment){0x7f00deadb000, 0, 0, 0};    /* unusable, yet with a base */
	s.fxsave[0] = 0x7f;
	s.fxsave[1] = 3;
	s.fxsave[4] = 0x81;
	s.fxsave[24] = 0xa0;
	s.fxsave[25] = 0x1f;
	s.fxsave[28] = s.fxsave[29] = 0xff;
	for (unsigned i = 0; i < 8; i++)
		for (unsigned n = 0; n < 10; n++)
			s.fxsave[32 + 16 * i + n] = (uint8_t)(16 * i + n + 1);
	for (unsigned i = 160; i < 416; i++)
		s.fxsave[i] = (uint8_t)(i * 7);
	return s;
}

static struct bytes save_after(struct ft_machine *m, const struct ft_cpu_state *set)
{
	struct ft_error err = {0};
	assert_int_equal(m->engine_ops->set(m->engine, set, &err), 0);
	return save(m);
}

static void processor(void **state)
{
	struct ft_machine *a = machine(&ft_engine_soft), *b = machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state set = peculiar(), got;
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	move(a, b);
	memset(&got, 0xee, sizeof(got));
	b->engine_ops->get(b->engine, &got);
	assert_memory_equal(&got, &set, sizeof(set));
	assert_int_equal(b->icount, 1234567);
	assert_true(b->nmi);
	set.exception_pending = set.exception_vector = set.exception_has_error = 0;
	set.exception_error = 0;
	set.exception_address = 0;
	set.halted = 1;
	set.interrupt_shadow = set.nmi_pending = set.nmi_masked = 0;
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	move(a, b);
	b->engine_ops->get(b->engine, &got);
	assert_memory_equal(&got, &set, sizeof(set));
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* A conforming segment does not lift who runs in it to its own privilege: a state that went through get and set still
 * refuses HLT to ring 3. */
static void privilege(void **state)
{
	struct ft_machine *a = machine(&ft_engine_soft), *b = machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state set = peculiar(), got;
	/* One 2 MiB page for user code at 0x400000, of which the first instruction is HLT. */
	const uint64_t tables[][2] = {{0x1000, 0x2007}, {0x2000, 0x3007}, {0x3000 + 8 * 2, 0x400087}};
	for (unsigned i = 0; i < 3; i++)
		memcpy(a->ram.base + tables[i][0], &tables[i][1], 8);
	a->ram.base[0x401234] = 0xf4;
	set.cr3 = 0x1000;
	set.exception_pending = set.exception_vector = set.exception_has_error = set.nmi_pending = 0;
	set.exception_error = 0;
	set.exception_address = 0;
	set.rflags = 2;
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	move(a, b);
	/* #GP, not a halt; no IDT is mapped, so that the end is a triple fault. */
	struct ft_run_limits limits = {.icount = set.icount + 100, .vtime_ns = UINT64_MAX};
	assert_int_equal(ft_machine_run(b, &limits, NULL), FT_STOP_RESET);
	b->engine_ops->get(b->engine, &got);
	assert_int_equal(got.halted, 0);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* ---- What an engine remembers --------------------------------------------------------------------------------------------- */

/* A guest that ages a page as Linux does under memory pressure: it clears the accessed bit without a flush, and acts upon
 * what it finds there. What is remembered of the page is no part of the state: the bit is set again by who has forgotten, not
 * by who has not. So the original and the restored go apart, unless the original forgets where it is saved, too. */
static void remembered(void **state)
{
	/* again: mov rax,[rbx]; mov rsi,[rcx]; add rdx,rsi; and qword [rcx],-33; jmp again */
	static const uint8_t code[] = {0x48, 0x8b, 0x03, 0x48, 0x8b, 0x31, 0x48, 0x01, 0xf2, 0x48, 0x83, 0x21, 0xdf, 0xeb, 0xf1};
	const uint64_t kernel = 0xffff800000000000, at = kernel + 0x40000, page_table = kernel + 0x7000; /* bare.c */
	static const struct ft_engine_options options = {.cache_bytes = 3u << 20};
	for (unsigned forget = 0; forget < 2; forget++) {
		struct ft_error err = {0};
		struct ft_machine *a = bare_open(&options, &err), *b = bare_open(&options, &err);
		struct ft_cpu_state set = peculiar();
		assert_non_null(a);
		assert_non_null(b);
		set.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xa09b};
		set.rip = at;
		set.rflags = 2;
		set.cr3 = 0x1000;
		set.gpr[FT_RBX] = CASE_DATA;
		set.gpr[FT_RCX] = page_table;
		set.exception_pending = set.exception_vector = set.exception_has_error = set.nmi_pending = 0;
		set.exception_error = 0;
		set.exception_address = 0;
		set.icount = 0;
		assert_true(ft_memory_write(&a->ram, ft_gpa_make(0x40000), code, sizeof(code)));
		assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
		struct ft_run_limits limits = {.icount = 1003, .vtime_ns = UINT64_MAX};
		assert_int_equal(ft_machine_run(a, &limits, NULL), FT_STOP_COUNT);
		if (forget)
			ft_machine_forget(a);
		move(a, b);
		limits.icount = 5000;
		assert_int_equal(ft_machine_run(a, &limits, NULL), FT_STOP_COUNT);
		assert_int_equal(ft_machine_run(b, &limits, NULL), FT_STOP_COUNT);
		assert_int_equal(ft_machine_hash(a) == ft_machine_hash(b), forget);
		bare_close(a);
		bare_close(b);
	}
}

/* The frequency of the TSC is part of the state, and what CPUID says of it follows it. */
static void frequency(void **state)
{
	struct ft_machine *a = machine(&ft_engine_soft), *b = machine(&ft_engine_soft);
	struct ft_cpu_state set = peculiar();
	struct ft_error err = {0};
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	a->clock.tsc_khz = 2400000;
	move(a, b);
	assert_int_equal(b->clock.tsc_khz, 2400000);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* ---- Several processors -------------------------------------------------------------------------------------------------- */

/* An engine that only holds what a state has: no kernel is needed for that. */
struct ft_engine {
	struct ft_machine *m;
	struct ft_cpu_state cpu;
};

static struct ft_engine *holder_create(struct ft_machine *m, const struct ft_engine_options *options, struct ft_error *err)
{
	struct ft_engine *engine = calloc(1, sizeof(*engine));
	engine->m = m;
	return engine;
}

static void holder_destroy(struct ft_engine *engine)
{
	free(engine);
}

static void holder_get(struct ft_engine *engine, struct ft_cpu_state *state)
{
	*state = engine->cpu;
}

static int holder_set(struct ft_engine *engine, const struct ft_cpu_state *state, struct ft_error *err)
{
	engine->cpu = *state;
	engine->m->icount = state->icount;
	engine->m->nmi = state->nmi_pending;
	return 0;
}

static void holder_cpuid(struct ft_engine *engine, const struct ft_model *model, unsigned vcpu, uint64_t tsc_khz, uint32_t leaf, uint32_t subleaf,
			 uint32_t registers[4])
{
	ft_model_cpuid(model, (struct ft_model_place){vcpu, engine->m->vcpus}, (uint32_t)tsc_khz, leaf, subleaf, registers);
}

static int holder_model_msr(struct ft_engine *engine, const struct ft_model *model, uint32_t index, uint64_t *value)
{
	return ft_model_msr(model, index, value) ? 0 : -1;
}

static void holder_flush(struct ft_engine *engine)
{
}

static const struct ft_engine_ops holder = {
    .name = "holder",
    .create = holder_create,
    .destroy = holder_destroy,
    .get = holder_get,
    .set = holder_set,
    .cpuid = holder_cpuid,
    .model_msr = holder_model_msr,
    .cr4_known = FT_MODEL_CR4,
    .flush = holder_flush,
};

static struct ft_machine *machine_of(unsigned vcpus)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {
	    .memory = FT_RAM_MIN, .vcpus = vcpus, .clock = FT_CLOCK_FREE, .mac = {0x52, 0x54, 0, 1, 2, 3}, .disk_fd = -1, .engine = &holder};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	return m;
}

/* Four: one that runs, one as a reset leaves it, one that INIT has come to, one halted in the middle of its work. */
static struct ft_machine *machine_of_four(void)
{
	struct ft_machine *m = machine_of(4);
	struct ft_error err = {0};
	struct ft_cpu_state cpu = peculiar();
	assert_int_equal(m->engine_ops->set(m->engine, &cpu, &err), 0);
	struct ft_processor *others = m->devices->others;
	for (unsigned i = 0; i < 3; i++)
		others[i].cpu.icount = cpu.icount;
	others[1].waits = FT_PROCESSOR_WAITS_FOR_START;
	others[2].waits = FT_PROCESSOR_RUNS;
	others[2].cpu = cpu;
	others[2].cpu.exception_pending = others[2].cpu.exception_vector = others[2].cpu.exception_has_error = 0;
	others[2].cpu.exception_error = 0;
	others[2].cpu.exception_address = 0;
	others[2].cpu.interrupt_shadow = 0;
	others[2].cpu.halted = 1;
	others[2].cpu.gpr[FT_RBX] = 0x1234567;
	others[2].tsc_adjust = 12345;
	others[2].lapic.s.spurious = 0x1ff;
	others[2].lapic.s.tpr = 0x30;
	others[2].lapic.s.lvt[FT_LVT_TIMER] = 0x400ec;
	others[2].lapic.s.tsc_deadline = 99999999999;
	others[2].lapic.s.requests[7] = 1;
	others[2].lapic.s.in_service[3] = 8;
	return m;
}

static void processors(void **state)
{
	struct ft_machine *a = machine_of_four(), *b = machine_of(4);
	move(a, b);
	for (unsigned i = 0; i < 3; i++) {
		const struct ft_processor *p = &a->devices->others[i], *q = &b->devices->others[i];
		assert_memory_equal(&p->cpu, &q->cpu, sizeof(p->cpu));
		assert_memory_equal(&p->lapic.s, &q->lapic.s, sizeof(p->lapic.s));
		assert_int_equal(p->tsc_adjust, q->tsc_adjust);
		assert_int_equal(p->waits, q->waits);
	}
	/* Each has a part in what makes machines equal. */
	for (unsigned i = 0; i < 3; i++) {
		uint64_t equal = ft_machine_hash(a);
		b->devices->others[i].cpu.gpr[FT_RDI] ^= 1;
		assert_true(ft_machine_hash(b) != equal);
		b->devices->others[i].cpu.gpr[FT_RDI] ^= 1;
		b->devices->others[i].lapic.s.requests[2] ^= 1;
		assert_true(ft_machine_hash(b) != equal);
		b->devices->others[i].lapic.s.requests[2] ^= 1;
		assert_true(ft_machine_hash(b) == equal);
	}
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* A message reaches the processor that it is for while no engine has it. */
static void messages(void **state)
{
	struct ft_machine *m = machine_of_four();
	struct ft_processor *others = m->devices->others;
	ft_irq_message(m, 0xfee03000, 0x55);
	assert_int_equal(others[2].lapic.s.requests[2], 1u << 21);
	ft_irq_message(m, 0xfee02000, 0x56); /* its local APIC is off */
	ft_irq_message(m, 0xfee0f000, 0x57); /* nobody */
	ft_irq_message(m, 0xfee03000, 0x400); /* NMI */
	assert_int_equal(others[1].lapic.s.requests[2], 0);
	assert_int_equal(others[2].lapic.s.requests[2], 1u << 21);
	assert_int_equal(others[2].cpu.nmi_pending, 1);
	m->nmi = false;
	ft_irq_message(m, 0xfeeff000, 0x58); /* all that are on */
	assert_int_equal(others[2].lapic.s.requests[2], 1u << 21 | 1u << 24);
	assert_int_equal(m->devices->lapic.s.requests[2], 1u << 24);
	/* Logical, lowest priority, both addressed: one of them. */
	m->devices->lapic.s.ldr = 1u << 24;
	others[2].lapic.s.ldr = 4u << 24;
	ft_irq_message(m, 0xfee05004, 0x159);
	assert_int_equal((m->devices->lapic.s.requests[2] >> 25 & 1) + (others[2].lapic.s.requests[2] >> 25 & 1), 1);
	ft_irq_message(m, 0xfee04004, 0x5a);
	assert_int_equal(others[2].lapic.s.requests[2] >> 26 & 1, 1);
	ft_machine_destroy(m);
}

/* What CPUID says of the place of each: SDM Vol. 3A 9.9. */
static void places(void **state)
{
	static const struct {
		unsigned vcpus, bits;
	} cases[] = {{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {16, 4}};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		unsigned vcpus = cases[i].vcpus;
		struct ft_machine *m = machine_of(vcpus);
		for (unsigned n = 0; n < vcpus; n++) {
			uint32_t r[4];
			m->engine_ops->cpuid(m->engine, &m->model, n, 1000000, 1, 0, r);
			assert_int_equal(r[1] >> 24, n);
			assert_int_equal(r[1] >> 16 & 0xff, 1u << cases[i].bits);
			assert_int_equal(r[3] >> 28 & 1, vcpus > 1);
			m->engine_ops->cpuid(m->engine, &m->model, n, 1000000, 4, 2, r);
			assert_int_equal(r[0] >> 26, (1u << cases[i].bits) - 1);
			assert_int_equal(r[0] >> 14 & 0xfff, 0);
			m->engine_ops->cpuid(m->engine, &m->model, n, 1000000, 0xb, 0, r);
			assert_int_equal(r[3], n);
			assert_int_equal(r[0] | r[2] | r[1], vcpus > 1 ? 0x101 : 0);
			m->engine_ops->cpuid(m->engine, &m->model, n, 1000000, 0xb, 1, r);
			assert_int_equal(r[0], cases[i].bits);
			assert_int_equal(r[1], vcpus > 1 ? vcpus : 0);
			assert_int_equal(r[2], vcpus > 1 ? 0x201 : 0);
			m->engine_ops->cpuid(m->engine, &m->model, n, 1000000, 0xb, 2, r);
			assert_int_equal(r[1], 0);
		}
		ft_machine_destroy(m);
	}
}

/* ---- CPU models ------------------------------------------------------------------------------------------------------------ */

/* A host's of before all mitigations in hardware, and one of AMD's. */
static const struct ft_model intel = {.vendor = FT_MODEL_INTEL, .signature = 0x000306c3, .leaf7_edx = 1u << 10 | 1u << 26 | 1u << 27 | 1u << 31},
			     amd = {.vendor = FT_MODEL_AMD, .signature = 0x00800f12, .ext8_ebx = 1u << 12 | 1u << 14 | 1u << 15 | 1u << 24, .ext21_eax = 1u << 2};

/* It goes with the state, in whatever machine that is restored; and is a part of what makes machines equal. */
static void models(void **state)
{
	const struct ft_model *const all[] = {&intel, &amd};
	for (unsigned i = 0; i < 2; i++) {
		struct ft_machine *a = machine(&ft_engine_soft), *b = machine(&ft_engine_soft);
		struct ft_cpu_state set = peculiar(), got;
		struct ft_error err = {0};
		struct bytes software = save_after(b, &set);
		uint64_t equal = ft_machine_hash(b);
		a->model = *all[i];
		set.spec_ctrl = 5;
		assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
		move(a, b);
		assert_memory_equal(&b->model, all[i], sizeof(b->model));
		b->engine_ops->get(b->engine, &got);
		assert_int_equal(got.spec_ctrl, 5);
		assert_true(ft_machine_hash(b) != equal);
		got.spec_ctrl = 1;
		equal = ft_machine_hash(b);
		assert_int_equal(b->engine_ops->set(b->engine, &got, &err), 0);
		assert_true(ft_machine_hash(b) != equal);
		/* And back: what it has of another model's register is gone. */
		restore(b, &software);
		assert_true(ft_model_same(&b->model, &FT_MODEL_SOFTWARE));
		b->engine_ops->get(b->engine, &got);
		assert_int_equal(got.spec_ctrl, 0);
		free(software.at);
		ft_machine_destroy(a);
		ft_machine_destroy(b);
	}
}

/* Of several processors each has its own; what has none is written as it always was. */
static void models_of_processors(void **state)
{
	struct ft_machine *a = machine_of_four(), *b = machine_of(4);
	struct bytes bytes = save(a);
	assert_int_equal(bytes.at[8], 2);
	free(bytes.at);
	const struct ft_model *const all[] = {&intel, &amd};
	for (unsigned i = 0; i < 2; i++) {
		a->model = *all[i];
		for (unsigned n = 0; n < 3; n++)
			a->devices->others[n].cpu.spec_ctrl = n + 1;
		bytes = save(a);
		assert_int_equal(bytes.at[8], 3);
		free(bytes.at);
		move(a, b);
		for (unsigned n = 0; n < 3; n++)
			assert_int_equal(b->devices->others[n].cpu.spec_ctrl, n + 1);
	}
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* ---- What is refused ----------------------------------------------------------------------------------------------------- */

static uint8_t *section(const struct bytes *b, enum ft_state_tag tag)
{
	size_t at = sizeof(struct ft_state_header);
	while (at < b->length) {
		struct ft_state_section_header h;
		memcpy(&h, b->at + at, sizeof(h));
		at += sizeof(h);
		if (h.tag == (uint32_t)tag)
			return b->at + at;
		at += (h.length + 7) & ~7ull;
	}
	fail_msg("there is no section %d", tag);
	return NULL;
}

static void seal(struct bytes *b)
{
	struct ft_state_header h;
	memcpy(&h, b->at, sizeof(h));
	h.length = b->length;
	memcpy(b->at, &h, sizeof(h));
	uint64_t checksum = XXH3_64bits(b->at, b->length - sizeof(checksum));
	memcpy(b->at + b->length - sizeof(checksum), &checksum, sizeof(checksum));
}

static struct bytes copy(const struct bytes *b)
{
	if (b->length < sizeof(struct ft_state_header))
		abort();
	struct bytes c = {malloc(b->length), b->length};
	memcpy(c.at, b->at, b->length);
	return c;
}

/* The machine must be what it was. */
static void refused(struct ft_machine *m, const struct bytes *b, int code, const char *field)
{
	struct ft_error err = {0};
	struct bytes before = save(m), after;
	int error = ft_state_restore(m, b->at, b->length, &err);
	if (!error)
		fail_msg("a wrong %s was taken", field);
	if (error != code || err.code != code || !strstr(err.text, field))
		fail_msg("%s: %d, %s", field, error, err.text);
	after = save(m);
	assert_int_equal(before.length, after.length);
	assert_memory_equal(before.at, after.at, before.length);
	free(before.at);
	free(after.at);
}

struct wrong {
	enum ft_state_tag tag;
	size_t at;
	uint64_t value;
	unsigned size;
	const char *field;
	int code;
};

#define WRONG(tag, type, member, value, field)                                                               \
	{FT_STATE_##tag, offsetof(struct type, member), value, sizeof(((struct type *)0)->member), field, -EINVAL}
#define MODEL(tag, type, member, value, field)                                                               \
	{FT_STATE_##tag, offsetof(struct type, member), value, sizeof(((struct type *)0)->member), field, -ENOTSUP}

static const struct wrong wrongs[] = {
    WRONG(MACHINE, ft_state_machine, memory, 128 << 20, "machine.memory"),
    WRONG(MACHINE, ft_state_machine, disk_size, 4096, "machine.disk_size"),
    WRONG(MACHINE, ft_state_machine, engine, 0, "machine.engine"),
    WRONG(MACHINE, ft_state_machine, pci_functions, 7, "machine.pci_functions"),
    WRONG(MACHINE, ft_state_machine, virtio_devices, 1, "machine.virtio_devices"),
    WRONG(MACHINE, ft_state_machine, reserved, 1, "machine.reserved"),
    MODEL(CPUID, ft_kvm_cpuid, eax, 0x17, "cpuid[0x0.0]"),
    MODEL(CPUID, ft_kvm_cpuid, function, 99, "cpuid[0x63.0]"),
    WRONG(REGS, ft_kvm_regs, rflags, 0x20002, "regs.rflags"),
    WRONG(SREGS, ft_kvm_sregs, cs.type, 3, "sregs.cs.type"),
    WRONG(SREGS, ft_kvm_sregs, cs.type, 16, "sregs.cs.type"),
    WRONG(SREGS, ft_kvm_sregs, cs.selector, 0x30, "sregs.cs.dpl"),
    WRONG(SREGS, ft_kvm_sregs, cs.dpl, 2, "sregs.cs.dpl"),
    WRONG(SREGS, ft_kvm_sregs, cs.db, 1, "sregs.cs.db"),
    WRONG(SREGS, ft_kvm_sregs, cs.l, 0, "sregs.cs.l"),
    WRONG(SREGS, ft_kvm_sregs, fs.base, 0x800000000000, "sregs.fs.base"),
    WRONG(SREGS, ft_kvm_sregs, ss.unusable, 1, "sregs.ss.unusable"),
    WRONG(SREGS, ft_kvm_sregs, tr.padding, 1, "sregs.tr.padding"),
    WRONG(SREGS, ft_kvm_sregs, gdt.base, 1ull << 63, "sregs.gdt.base"),
    WRONG(SREGS, ft_kvm_sregs, idt.padding[2], 1, "sregs.idt.padding[2]"),
    WRONG(SREGS, ft_kvm_sregs, cr0, 0x80050032, "sregs.cr0"),
    WRONG(SREGS, ft_kvm_sregs, cr0, 0x00050033, "sregs.efer"),
    WRONG(SREGS, ft_kvm_sregs, cr3, 1ull << 40, "sregs.cr3"),
    WRONG(SREGS, ft_kvm_sregs, cr4, 0x1006c0, "sregs.cr4"),
    WRONG(SREGS, ft_kvm_sregs, cr4, 0x41006e0, "sregs.cr4"),
    WRONG(SREGS, ft_kvm_sregs, cr8, 3, "sregs.cr8"),
    WRONG(SREGS, ft_kvm_sregs, efer, 0x1d01, "sregs.efer"),
    WRONG(SREGS, ft_kvm_sregs, apic_base, 0xfee00800, "sregs.apic_base"),
    WRONG(SREGS, ft_kvm_sregs, flags, 1, "sregs.flags"),
    WRONG(DEBUG, ft_kvm_debugregs, db[2], 1ull << 62, "debugregs.db[2]"),
    WRONG(DEBUG, ft_kvm_debugregs, dr6, 1ull << 32, "debugregs.dr6"),
    WRONG(DEBUG, ft_kvm_debugregs, dr7, 0xc000, "debugregs.dr7"),
    WRONG(MSRS, ft_kvm_msr, index, 0x10, "msrs[0].index"),
    WRONG(MSRS, ft_kvm_msr, data, 5, "msrs[0x3b]"),
    {FT_STATE_MSRS, 16 * 2 + 8, 1ull << 7, 8, "msrs[0x10a]", -ENOTSUP}, /* TSX_CTRL */
    {FT_STATE_MSRS, 16 * 4 + 8, 1ull << 47, 8, "msrs[0x175]", -EINVAL},
    {FT_STATE_MSRS, 16 * 6 + 8, 2, 8, "msrs[0x1a0]", -EINVAL},
    {FT_STATE_MSRS, 16 * 7 + 8, 2, 8, "msrs.pat", -EINVAL},
    {FT_STATE_MSRS, 16 * 8 + 8, 2, 8, "msrs[0x6e0]", -EINVAL},
    WRONG(XSAVE, ft_kvm_xsave, fxsave[27], 1, "xsave.mxcsr"),
    WRONG(XSAVE, ft_kvm_xsave, fxsave[30], 2, "xsave.mxcsr_mask"),
    WRONG(XSAVE, ft_kvm_xsave, fxsave[8], 1, "xsave.fxsave[8]"),
    WRONG(XSAVE, ft_kvm_xsave, xstate_bv, 7, "xsave.xstate_bv"),
    WRONG(EVENTS, ft_kvm_events, exception.nr, 32, "events.exception.nr"),
    WRONG(EVENTS, ft_kvm_events, exception.nr, 6, "events.exception.has_error_code"),
    WRONG(EVENTS, ft_kvm_events, exception.pending, 0, "events.exception_has_payload"),
    WRONG(EVENTS, ft_kvm_events, interrupt.shadow, 4, "events.interrupt.shadow"),
    WRONG(EVENTS, ft_kvm_events, interrupt.injected, 1, "events"),
    WRONG(EVENTS, ft_kvm_events, nmi.masked, 2, "events.nmi"),
    WRONG(EVENTS, ft_kvm_events, smi.smm, 1, "events"),
    WRONG(MP, ft_kvm_mp, state, 1, "mp.state"),
    WRONG(CLOCK, ft_state_clock, icount, 1ull << 63, "clock.icount"),
    WRONG(CLOCK, ft_state_clock, base_icount, 1234568, "clock.base_icount"),
    WRONG(CLOCK, ft_state_clock, base_ns, 1ull << 63, "clock.base_ns"),
    WRONG(CLOCK, ft_state_clock, vtime_ns, 1, "clock.vtime_ns"),
    WRONG(CLOCK, ft_state_clock, ns_per_1024insn, 0, "clock.ns_per_1024insn"),
    WRONG(CLOCK, ft_state_clock, tsc_khz, 0, "clock.tsc_khz"),
    {FT_STATE_CLOCK, offsetof(struct ft_state_clock, tsc_khz), 2400000, 8, "cpuid[0x15.0]", -ENOTSUP}, /* another model */
    WRONG(CLOCK, ft_state_clock, epoch_ns, 1ull << 63, "clock.epoch_ns"),
    WRONG(PIC, ft_kvm_pic, priority_add, 8, "pic[0].priority_add"),
    WRONG(PIC, ft_kvm_pic, init_state, 4, "pic[0].init_state"),
    WRONG(PIC, ft_kvm_pic, irq_base, 9, "pic[0].irq_base"),
    {FT_STATE_PIC, 16 + offsetof(struct ft_kvm_pic, elcr), 1, 1, "pic[1].elcr", -EINVAL},
    WRONG(IOAPIC, ft_kvm_ioapic, base_address, 0xfec01000, "ioapic.base_address"),
    WRONG(IOAPIC, ft_kvm_ioapic, irr, 1 << 24, "ioapic.irr"),
    WRONG(IOAPIC, ft_kvm_ioapic, redirtbl[23], 1ull << 17, "ioapic.redirtbl[23]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x10], 1, "lapic.regs[0x10]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x30], 0x15, "lapic.regs[0x30]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x100], 1, "lapic.regs[0x100]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0xe0], 0, "lapic.regs[0xe0]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x390], 1, "lapic.regs[0x390]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x3e0], 4, "lapic.regs[0x3e0]"),
    WRONG(PIT, ft_kvm_pit, channels[1].count, 65537, "pit[1].count"),
    WRONG(PIT, ft_kvm_pit, channels[1].count, 0, "pit[1].count"),
    WRONG(PIT, ft_kvm_pit, channels[2].mode, 6, "pit[2].mode"),
    WRONG(PIT, ft_kvm_pit, channels[0].rw_mode, 4, "pit[0].rw_mode"),
    WRONG(PIT, ft_kvm_pit, channels[0].read_state, 1, "pit[0].read_state"),
    WRONG(PIT, ft_kvm_pit, channels[0].count_latched, 2, "pit[0].count_latched"),
    WRONG(PIT, ft_kvm_pit, channels[0].count_load_time, UINT64_MAX, "pit[0].count_load_time"),
    WRONG(PIT, ft_kvm_pit, flags, 1, "pit.flags"),
    WRONG(BOARD, ft_state_board, lapic_timer_start_ns, UINT64_MAX, "board.lapic_timer_start_ns"),
    WRONG(BOARD, ft_state_board, pit_running[1], 2, "board.pit_running[1]"),
    WRONG(BOARD, ft_state_board, pci_address, 1, "board.pci_address"),
    WRONG(BOARD, ft_state_board, power_control, 1, "board.power_control"),
    WRONG(BOARD, ft_state_board, rtc_index, 128, "board.rtc_index"),
    WRONG(BOARD, ft_state_board, rtc_cmos[10], 0x80, "board.rtc_cmos[10]"),
    WRONG(BOARD, ft_state_board, rtc_offset_s, 1ull << 62, "board.rtc_offset_s"),
    WRONG(BOARD, ft_state_board, i8042_count, 17, "board.i8042_count"),
    WRONG(BOARD, ft_state_board, i8042_expects, 1, "board.i8042_expects"),
    WRONG(UART, ft_state_uart, fifo_count, 17, "uart.fifo_count"),
    WRONG(UART, ft_state_uart, waiting_count, 4097, "uart.waiting_count"),
    WRONG(UART, ft_state_uart, mcr, 0x20, "uart.mcr"),
    WRONG(PCI, ft_state_pci, slot, 1, "pci[0].slot"),
    WRONG(PCI, ft_state_pci, line, 2, "pci[0].line"),
    WRONG(PCI, ft_state_pci, msix_pending, 16, "pci[0].msix_pending"),
    WRONG(PCI, ft_state_pci, config[0], 0xff, "pci[0].config[0x0]"),
    {FT_STATE_PCI, sizeof(struct ft_state_pci) + offsetof(struct ft_state_pci, config) + 0x34, 0x80, 1, "pci[1].config[0x34]", -EINVAL},
    {FT_STATE_PCI, sizeof(struct ft_state_pci) + offsetof(struct ft_state_pci, config) + 0x11, 0x11, 1, "pci[1].config[0x11]", -EINVAL},
    WRONG(VIRTIO, ft_state_virtio, slot, 2, "virtio-net.slot"),
    WRONG(VIRTIO, ft_state_virtio, id, 2, "virtio-net.id"),
    WRONG(VIRTIO, ft_state_virtio, config[3], 9, "virtio-net.config[3]"),
    WRONG(VIRTIO, ft_state_virtio, status, 4, "virtio-net.status"),
    WRONG(VIRTIO, ft_state_virtio, status, 8, "virtio-net.driver_features"),
    WRONG(VIRTIO, ft_state_virtio, config_vector, 3, "virtio-net.config_vector"),
    WRONG(VIRTIO, ft_state_virtio, interrupt_status, 4, "virtio-net.interrupt_status"),
    WRONG(VIRTIO, ft_state_virtio, queue[0].size, 3, "virtio-net.queue[0].size"),
    WRONG(VIRTIO, ft_state_virtio, queue[1].size, 512, "virtio-net.queue[1].size"),
    WRONG(VIRTIO, ft_state_virtio, queue[1].vector, 4, "virtio-net.queue[1].vector"),
    WRONG(VIRTIO, ft_state_virtio, queue[0].enabled, 2, "virtio-net.queue[0].enabled"),
    WRONG(VIRTIO, ft_state_virtio, queue[0].event_index, 2, "virtio-net.queue[0].event_index"),
    {FT_STATE_VIRTIO, sizeof(struct ft_state_virtio) + offsetof(struct ft_state_virtio, queue[1].enabled), 1, 1, "virtio-rng.queue[1].enabled", -EINVAL},
    WRONG(NET, ft_state_net, first, 512, "net.first"),
    WRONG(NET, ft_state_net, first, 3, "net.first"),
    WRONG(NET, ft_state_net, count, 513, "net.count"),
    WRONG(NET, ft_state_net, count, 1, "net.count"),
    WRONG(TIMERS, ft_state_timers, blk, 5, "timers.blk"),
    WRONG(RNG, ft_state_waiting, first, 256, "rng.first"),
    WRONG(RNG, ft_state_waiting, count, 257, "rng.count"),
    WRONG(RNG, ft_state_waiting, count, 1, "rng.length"),
};

static void wrong_fields(void **state)
{
	struct ft_machine *a = machine(&ft_engine_soft), *b = machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state set = peculiar();
	set.segment[FT_CS].attributes = 0xa0fb;
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	assert_int_equal(b->engine_ops->set(b->engine, &set, &err), 0);
	struct bytes good = save(a);
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(*wrongs); i++) {
		const struct wrong *w = &wrongs[i];
		struct bytes bad = copy(&good);
		memcpy(section(&bad, w->tag) + w->at, &w->value, w->size < 8 ? w->size : 8);
		seal(&bad);
		refused(b, &bad, w->code, w->field);
		free(bad.at);
	}
	restore(b, &good); /* it is this one alone that was wrong each time */
	free(good.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* Virtqueues outside of RAM, work that no queue has, frames of no possible length. */
static void wrong_work(void **state)
{
	struct driver a, b;
	int disk = pc_disk_image(1 << 20);
	driver_open(&a, 1, disk);
	frames_wait(&a);
	driver_open(&b, 1, disk);
	struct bytes good = save(a.pc.m);
	const struct wrong cases[] = {
	    WRONG(VIRTIO, ft_state_virtio, queue[0].used, FT_RAM_MIN - 4, "virtio-net.queue[0].enabled"),
	    WRONG(VIRTIO, ft_state_virtio, queue[1].descriptors, UINT64_MAX - 15, "virtio-net.queue[1].enabled"),
	    WRONG(VIRTIO, ft_state_virtio, driver_features, 1ull << 32 | 1, "virtio-net.driver_features"),
	    {FT_STATE_NET, 8, 13, 4, "net.frame[0].length", -EINVAL},
	    {FT_STATE_NET, 8, 9023, 4, "net.frame[0].length", -EINVAL},
	    {FT_STATE_NET, 8 + 4 + 61, 1, 1, "net.frame[0].padding", -EINVAL},
	    {FT_STATE_NET, 4, 6, 4, "net.length", -EINVAL},
	    {FT_STATE_BLK, 0, 256, 4, "blk.first", -EINVAL},
	    {FT_STATE_BLK, 4, 1, 4, "blk.length", -EINVAL},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct bytes bad = copy(&good);
		memcpy(section(&bad, cases[i].tag) + cases[i].at, &cases[i].value, cases[i].size);
		seal(&bad);
		refused(b.pc.m, &bad, cases[i].code, cases[i].field);
		free(bad.at);
	}
	restore(b.pc.m, &good);
	free(good.at);
	driver_close(&a);
	driver_close(&b);
	close(disk);
}

static void wrong_bytes(void **state)
{
	struct pc a, b;
	pc_open(&a, -1);
	pc_open(&b, -1);
	disturb(&a);
	struct bytes good = save(a.m);
	/* Cut anywhere, with and without a header that says so. */
	for (size_t length = 0; length < good.length; length += 1 + length / 16) {
		struct bytes cut = {good.at, length};
		refused(b.m, &cut, -EBADMSG, "length");
	}
	for (size_t length = sizeof(struct ft_state_header); length + 8 < good.length; length += 8) {
		struct bytes cut = {malloc(length + 8), length + 8};
		struct ft_error err = {0};
		memcpy(cut.at, good.at, length);
		seal(&cut);
		assert_int_equal(ft_state_restore(b.m, cut.at, cut.length, &err), -EINVAL);
		free(cut.at);
	}
	/* One bit anywhere. */
	for (size_t at = 0; at < good.length; at += 3) {
		struct bytes bad = copy(&good);
		bad.at[at] ^= (uint8_t)(1u << at % 8);
		refused(b.m, &bad, at >= 8 && at < 12 ? -ENOTSUP : -EBADMSG, at < 12 || (at >= 16 && at < 24) ? "header." : "checksum");
		free(bad.at);
	}
	/* Another version says which. */
	struct bytes later = copy(&good);
	later.at[8] = 4;
	seal(&later);
	refused(b.m, &later, -ENOTSUP, "header.version is 4");
	for (uint8_t version = 2; version < 4; version++) { /* without the sections that make them such */
		later.at[8] = version;
		seal(&later);
		refused(b.m, &later, -EINVAL, "header.version");
	}
	free(later.at);
	/* Sections twice, unknown, too short; more behind the end. */
	struct bytes bad = copy(&good);
	section(&bad, FT_STATE_CLOCK)[-16] = FT_STATE_MACHINE;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "section[1].tag");
	free(bad.at);
	bad = copy(&good);
	section(&bad, FT_STATE_TIMERS)[-16] = FT_STATE_TAGS;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, ".tag");
	free(bad.at);
	bad = copy(&good);
	section(&bad, FT_STATE_CLOCK)[-8] = 56;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "clock.length");
	free(bad.at);
	bad = copy(&good);
	section(&bad, FT_STATE_CLOCK)[-1] = 0xff;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "clock.length");
	free(bad.at);
	bad = copy(&good);
	bad.at[12]--;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "header.sections");
	free(bad.at);
	restore(b.m, &good);
	free(good.at);
	pc_close(&a);
	pc_close(&b);
}

/* A state of a machine with a processor is not one of a machine without, nor is a guest that is being reset saved. */
static void wrong_machine(void **state)
{
	struct ft_machine *a = machine(&ft_engine_soft), *b = machine(NULL);
	struct ft_error err = {0};
	struct ft_cpu_state set = peculiar();
	uint8_t *bytes;
	size_t length;
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	struct bytes full = save(a), bare = save(b);
	refused(b, &full, -EINVAL, "cpuid: this machine has none");
	refused(a, &bare, -EINVAL, "cpuid: is missing");
	ft_machine_request_reset(b, FT_RESET_REBOOT);
	assert_int_equal(ft_state_save(b, &bytes, &length, &err), -EBUSY);
	struct ft_state_summary summary;
	assert_int_equal(ft_state_summarise(full.at, full.length, &summary, NULL), 0);
	assert_int_equal(summary.memory, FT_RAM_MIN);
	assert_string_equal(summary.engine, "soft");
	assert_true(summary.same_host);
	assert_int_equal(summary.icount, 1234567);
	free(full.at);
	free(bare.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

#define OTHER(n, member, value, field) {FT_STATE_PROCESSORS, ((n) - 1) * sizeof(struct ft_state_processor) + offsetof(struct ft_state_processor, member), value, \
					sizeof(((struct ft_state_processor *)0)->member), "processors[" #n "]." field, -EINVAL}

static void wrong_processors(void **state)
{
	static const struct wrong cases[] = {
	    OTHER(1, number, 2, "number"),
	    OTHER(3, number, 0, "number"),
	    OTHER(2, mp.state, 4, "mp.state"),
	    OTHER(1, regs.rflags, 0, "regs.rflags"),
	    OTHER(3, sregs.cr4, 0x41006e0, "sregs.cr4"),
	    OTHER(3, sregs.efer, 0x1d01, "sregs.efer"),
	    OTHER(1, sregs.apic_base, 0xfee00900, "board.lapic_base"), /* two that are the first */
	    OTHER(2, sregs.cr8, 1, "sregs.cr8"),
	    OTHER(1, debugregs.dr7, 0xc000, "debugregs.dr7"),
	    OTHER(1, msrs[0].index, 0x10, "msrs[0].index"),
	    OTHER(3, msrs[5].data, 1ull << 47, "msrs[0x176]"),
	    OTHER(3, xsave.fxsave[8], 1, "xsave.fxsave[8]"),
	    OTHER(2, events.exception.nr, 32, "events"),
	    OTHER(1, lapic_timer_start_ns, UINT64_MAX, "board.lapic_timer_start_ns"),
	    OTHER(3, lapic.regs[0x30], 0x15, "lapic.regs[0x30]"),
	    OTHER(3, lapic.regs[0x23], 2, "lapic.regs[0x20]"), /* the second's APIC ID */
	    OTHER(2, lapic.regs[0x23], 0, "lapic.regs[0x20]"), /* the first's */
	    OTHER(1, lapic.regs[0x10], 1, "lapic.regs[0x10]"),
	};
	struct ft_machine *a = machine_of_four(), *b = machine_of_four(), *two = machine_of(2), *soft = machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state cpu = peculiar();
	struct bytes good = save(a);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct bytes bad = copy(&good);
		memcpy(section(&bad, cases[i].tag) + cases[i].at, &cases[i].value, cases[i].size < 8 ? cases[i].size : 8);
		seal(&bad);
		refused(b, &bad, cases[i].code, cases[i].field);
		free(bad.at);
	}
	/* Another number of them than this machine has; half of one; the version of a state that has none. */
	assert_int_equal(soft->engine_ops->set(soft->engine, &cpu, &err), 0);
	assert_int_equal(two->engine_ops->set(two->engine, &cpu, &err), 0);
	refused(two, &good, -EINVAL, "processors: the guest was saved with 4, this machine has 2");
	refused(soft, &good, -EINVAL, "processors: the guest was saved with 4, this machine has 1");
	struct bytes single = save(soft);
	refused(two, &single, -EINVAL, "processors: the guest was saved with 1, this machine has 2");
	struct bytes bad = copy(&good);
	section(&bad, FT_STATE_PROCESSORS)[-8] ^= 8;
	seal(&bad);
	refused(b, &bad, -EINVAL, "processors.length");
	free(bad.at);
	bad = copy(&good);
	bad.at[8] = 1;
	seal(&bad);
	refused(b, &bad, -EINVAL, "header.version");
	free(bad.at);
	restore(b, &good);
	free(good.at);
	free(single.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
	ft_machine_destroy(two);
	ft_machine_destroy(soft);
}

/* At the engine. */
static void soft_has_one_processor(void **state)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN, .vcpus = 2, .clock = FT_CLOCK_FREE, .disk_fd = -1, .engine = &ft_engine_soft};
	assert_null(ft_machine_create(&config, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_non_null(strstr(err.text, "engine soft has one processor, not 2"));
	config.vcpus = FT_VCPUS_MOST + 1;
	config.engine = &holder;
	err = (struct ft_error){0};
	assert_null(ft_machine_create(&config, &err));
	assert_non_null(strstr(err.text, "at most 16"));
}

static struct ft_kvm_cpuid *leaf_of(const struct bytes *b, uint32_t function, uint32_t index)
{
	struct ft_kvm_cpuid *leaf = (struct ft_kvm_cpuid *)section(b, FT_STATE_CPUID);
	while (leaf->function != function || leaf->index != index)
		leaf++;
	return leaf;
}

/* CPUID must be all of one model, and of one that there may be. */
static void wrong_models(void **state)
{
	const struct ft_model *const all[] = {&FT_MODEL_SOFTWARE, &intel, &amd};
	for (unsigned i = 0; i < 3; i++) {
		struct ft_machine *a = machine(&ft_engine_soft), *b = machine(&ft_engine_soft);
		struct ft_cpu_state set = peculiar();
		struct ft_error err = {0};
		bool is_amd = i == 2;
		a->model = *all[i];
		struct bytes good = save_after(a, &set), other = save_after(b, &set), bad;
#define REFUSED(what, code, field)                                                                           \
	do {                                                                                                  \
		bad = copy(&good);                                                                            \
		what;                                                                                         \
		seal(&bad);                                                                                   \
		refused(b, &bad, code, field);                                                                \
		free(bad.at);                                                                                 \
	} while (0)
		REFUSED(leaf_of(&bad, 0, 0)->ecx ^= 1, -ENOTSUP, "cpuid[0x0.0]");
		REFUSED(leaf_of(&bad, 1, 0)->eax ^= 1u << 14, -ENOTSUP, "cpuid[0x1.0]");
		REFUSED(leaf_of(&bad, 1, 0)->ecx ^= 1u << 28, -ENOTSUP, "cpuid[0x1.0]"); /* AVX */
		REFUSED(leaf_of(&bad, 7, 0)->edx ^= 1u << 11, -ENOTSUP, "cpuid[0x7.0]");
		REFUSED(leaf_of(&bad, 7, 0)->eax = 2, -ENOTSUP, "cpuid[0x7.0]");
		REFUSED(leaf_of(&bad, 0x80000008, 0)->ebx ^= 1u << (is_amd ? 25 : 12), -ENOTSUP, "cpuid[0x80000008.0]");
		REFUSED(leaf_of(&bad, 0x80000000, 0)->eax ^= 1, -ENOTSUP, "cpuid[0x80000000.0]");
		REFUSED(leaf_of(&bad, 2, 0)->function = 0, -ENOTSUP, "cpuid[0x0.0]");
		if (is_amd) {
			REFUSED(leaf_of(&bad, 7, 0)->edx ^= 1u << 26, -ENOTSUP, "cpuid[0x7.0]");
			REFUSED(leaf_of(&bad, 0x80000021, 0)->eax ^= 1u << 8, -ENOTSUP, "cpuid[0x80000021.0]"); /* automatic IBRS */
			REFUSED(leaf_of(&bad, 0x80000021, 0)->eax = 0, -ENOTSUP, "cpuid[0x80000000.0]");
		}
		struct ft_kvm_msr *msrs = (struct ft_kvm_msr *)section(&good, FT_STATE_MSRS);
		size_t at = (uint8_t *)(msrs + 2) - good.at;
		assert_int_equal(msrs[2].index, 0x10a);
#define MSR(n) ((struct ft_kvm_msr *)(bad.at + at))[(n) - 2]
		REFUSED(MSR(2).data ^= 1ull << (i ? 0 : 7), -ENOTSUP, "msrs[0x10a]"); /* of a model that has no such register, but for the first */
		REFUSED(MSR(1).data ^= 1, -ENOTSUP, "msrs[0x8b]");
		if (i) {
			assert_int_equal(msrs[15].index, 0x48);
			REFUSED(MSR(15).data = 1u << 3, -EINVAL, "msrs[0x48]");
			REFUSED(MSR(15).data = 1ull << 63, -EINVAL, "msrs[0x48]");
			REFUSED(MSR(15).index = 0x49, -EINVAL, "msrs[15].index");
			/* The section of the software CPU's model before the MSRs of one that has more. */
			bad = copy(&good);
			memcpy(leaf_of(&bad, 7, 0), leaf_of(&other, 7, 0), sizeof(struct ft_kvm_cpuid));
			seal(&bad);
			assert_true(ft_state_restore(b, bad.at, bad.length, &err) < 0);
			free(bad.at);
		}
		/* One bit anywhere: refused, or it makes another model, and then that is saved again. */
		size_t first = (size_t)(section(&good, FT_STATE_CPUID) - good.at), last = (size_t)(section(&good, FT_STATE_REGS) - good.at) - 16;
		unsigned taken = 0;
		for (size_t bit = 8 * first; bit < 8 * last; bit++) {
			bad = copy(&good);
			bad.at[bit / 8] ^= (uint8_t)(1u << bit % 8);
			seal(&bad);
			if (!ft_state_restore(b, bad.at, bad.length, &err)) {
				struct bytes again = save(b);
				assert_int_equal(again.length, bad.length);
				assert_memory_equal(again.at, bad.at, bad.length);
				free(again.at);
				taken++;
			}
			free(bad.at);
		}
		/* Signatures and means of protection; the software CPU goes by its own name. */
		assert_true(i ? taken > 20 && taken < 60 : taken == 4);
		free(good.at);
		free(other.at);
		ft_machine_destroy(a);
		ft_machine_destroy(b);
	}
	struct ft_machine *a = machine_of_four(), *b = machine_of_four();
	a->model = intel;
	struct bytes good = save(a), bad;
	for (unsigned n = 0; n < 3; n++) {
		REFUSED(((struct ft_kvm_msr *)section(&bad, FT_STATE_SPECULATION))[n].data = 8, -EINVAL, "processors[");
		REFUSED(((struct ft_kvm_msr *)section(&bad, FT_STATE_SPECULATION))[n].index = 0x10, -EINVAL, "msrs[15].index");
		REFUSED(((struct ft_kvm_msr *)section(&bad, FT_STATE_SPECULATION))[n].reserved = 1, -EINVAL, "msrs[15].reserved");
	}
	free(good.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(devices),	     cmocka_unit_test(frames),      cmocka_unit_test(entropy),
	    cmocka_unit_test(requests),	     cmocka_unit_test(processor),   cmocka_unit_test(privilege),
	    cmocka_unit_test(remembered),    cmocka_unit_test(frequency),
	    cmocka_unit_test(wrong_fields),  cmocka_unit_test(wrong_work),  cmocka_unit_test(wrong_bytes),
	    cmocka_unit_test(wrong_machine), cmocka_unit_test(processors), cmocka_unit_test(messages), cmocka_unit_test(places),
	    cmocka_unit_test(wrong_processors), cmocka_unit_test(soft_has_one_processor),
	    cmocka_unit_test(models), cmocka_unit_test(models_of_processors), cmocka_unit_test(wrong_models),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
