/* The machine's state as bytes: what is saved comes back, all of it. The whole machine with a running guest goes through the same
 * door in invariance.c; what is refused is in test_state_refusals.c. */
#include <asm/kvm.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "bare.h"
#include "saved.h"
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

/* b becomes what a is, and saves the same bytes. */
static void move(struct ft_machine *a, struct ft_machine *b)
{
	struct saved first = saved_take(a);
	memcpy(b->ram.base, a->ram.base, a->ram.size);
	saved_restore(b, &first);
	struct saved second = saved_take(b);
	assert_int_equal(first.length, second.length);
	assert_memory_equal(first.at, second.at, first.length);
	assert_true(ft_machine_hash(a) == ft_machine_hash(b));
	free(first.at);
	free(second.at);
}

/* ---- Devices ---------------------------------------------------------------------------------------------------------- */

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
	saved_disturb(&a);
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
	saved_frame_in(d, 77, 80);
}

static void frames(void **state)
{
	with_driver(1, -1, saved_frames_wait, frames_taken);
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

static void processor(void **state)
{
	struct ft_machine *a = saved_machine(&ft_engine_soft), *b = saved_machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state set = saved_peculiar(), got;
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
	struct ft_machine *a = saved_machine(&ft_engine_soft), *b = saved_machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state set = saved_peculiar(), got;
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
		struct ft_cpu_state set = saved_peculiar();
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
	struct ft_machine *a = saved_machine(&ft_engine_soft), *b = saved_machine(&ft_engine_soft);
	struct ft_cpu_state set = saved_peculiar();
	struct ft_error err = {0};
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	a->clock.tsc_khz = 2400000;
	move(a, b);
	assert_int_equal(b->clock.tsc_khz, 2400000);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* ---- Several processors -------------------------------------------------------------------------------------------------- */

static void processors(void **state)
{
	struct ft_machine *a = saved_machine_of_four(), *b = saved_machine_of(4);
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
	struct ft_machine *m = saved_machine_of_four();
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
		struct ft_machine *m = saved_machine_of(vcpus);
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

/* It goes with the state, in whatever machine that is restored; and is a part of what makes machines equal. */
static void models(void **state)
{
	const struct ft_model *const all[] = {&saved_intel, &saved_amd};
	for (unsigned i = 0; i < 2; i++) {
		struct ft_machine *a = saved_machine(&ft_engine_soft), *b = saved_machine(&ft_engine_soft);
		struct ft_cpu_state set = saved_peculiar(), got;
		struct ft_error err = {0};
		struct saved software = saved_take_after(b, &set);
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
		saved_restore(b, &software);
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
	struct ft_machine *a = saved_machine_of_four(), *b = saved_machine_of(4);
	struct saved bytes = saved_take(a);
	assert_int_equal(bytes.at[8], 2);
	free(bytes.at);
	const struct ft_model *const all[] = {&saved_intel, &saved_amd};
	for (unsigned i = 0; i < 2; i++) {
		a->model = *all[i];
		for (unsigned n = 0; n < 3; n++)
			a->devices->others[n].cpu.spec_ctrl = n + 1;
		bytes = saved_take(a);
		assert_int_equal(bytes.at[8], 3);
		free(bytes.at);
		move(a, b);
		for (unsigned n = 0; n < 3; n++)
			assert_int_equal(b->devices->others[n].cpu.spec_ctrl, n + 1);
	}
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(devices),	   cmocka_unit_test(frames),	cmocka_unit_test(entropy),
	    cmocka_unit_test(requests),	   cmocka_unit_test(processor), cmocka_unit_test(privilege),
	    cmocka_unit_test(remembered),  cmocka_unit_test(frequency), cmocka_unit_test(processors),
	    cmocka_unit_test(messages),	   cmocka_unit_test(places),	cmocka_unit_test(models),
	    cmocka_unit_test(models_of_processors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
