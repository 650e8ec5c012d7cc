#include "saved.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vmm/dev/devices.h"
#include "vmm/state/format.h"
#include "vmm/state/image.h"

const struct ft_model saved_intel = {.vendor = FT_MODEL_INTEL, .signature = 0x000306c3, .leaf7_edx = 1u << 10 | 1u << 26 | 1u << 27 | 1u << 31},
		      saved_amd = {.vendor = FT_MODEL_AMD, .signature = 0x00800f12, .ext8_ebx = 1u << 12 | 1u << 14 | 1u << 15 | 1u << 24, .ext21_eax = 1u << 2};

struct saved saved_take(struct ft_machine *m)
{
	struct saved b;
	struct ft_error err = {0};
	if (ft_state_save(m, &b.at, &b.length, &err))
		fail_msg("%s", err.text);
	return b;
}

void saved_restore(struct ft_machine *m, const struct saved *b)
{
	struct ft_error err = {0};
	if (ft_state_restore(m, b->at, b->length, &err))
		fail_msg("%s", err.text);
}

/* ---- Devices ---------------------------------------------------------------------------------------------------------- */

void saved_disturb(struct pc *pc)
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

void saved_frame_in(struct driver *d, uint8_t tag, size_t length)
{
	uint8_t frame[200];
	memset(frame, tag, sizeof(frame));
	assert_int_equal(ft_machine_input(d->pc.m, FT_INPUT_FRAME, 0, frame, length), 0);
}

void saved_frames_wait(struct driver *d)
{
	/* One was taken already: the queue does not begin at its first slot. */
	driver_describe(d, 0, 0, DRIVER_DATA, 1526, DRIVER_WRITE, 0);
	saved_frame_in(d, 1, 60);
	saved_frame_in(d, 2, 61);
	driver_offer(d, 0, 0);
	driver_notify(d, 0);
	for (uint8_t i = 3; i < 9; i++)
		saved_frame_in(d, i, 60u + i);
	assert_int_equal(ft_machine_frames_waiting(d->pc.m), 7);
}

/* ---- The processor ----------------------------------------------------------------------------------------------------- */

struct ft_machine *saved_machine(const struct ft_engine_ops *engine)
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

struct ft_cpu_state saved_peculiar(void)
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

struct saved saved_take_after(struct ft_machine *m, const struct ft_cpu_state *set)
{
	struct ft_error err = {0};
	assert_int_equal(m->engine_ops->set(m->engine, set, &err), 0);
	return saved_take(m);
}

/* ---- Several processors -------------------------------------------------------------------------------------------------- */

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

const struct ft_engine_ops saved_holder = {
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

struct ft_machine *saved_machine_of(unsigned vcpus)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {
	    .memory = FT_RAM_MIN, .vcpus = vcpus, .clock = FT_CLOCK_FREE, .mac = {0x52, 0x54, 0, 1, 2, 3}, .disk_fd = -1, .engine = &saved_holder};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	return m;
}

struct ft_machine *saved_machine_of_four(void)
{
	struct ft_machine *m = saved_machine_of(4);
	struct ft_error err = {0};
	struct ft_cpu_state cpu = saved_peculiar();
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
