/* A machine's saved state from anywhere: refused with a reason and nothing changed, or taken, and then it is what is saved
 * next, and neither the engine nor the devices can be broken by it. The input is the state itself or, from where fuzzing gets
 * further, changes to a good one; length and checksum are put right. */
#include "input.h"

#include <errno.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <xxhash.h>

#include "../vmm/bare.h"
#include "driver.h"
#include "signals.h"
#include "vmm/state/format.h"
#include "vmm/state/image.h"

/* The bare machine's: bare.c. */
#define KERNEL 0xffff800000000000ull
#define CODE   0x40000u

struct bytes {
	uint8_t *at;
	size_t length;
};

static struct bytes save(struct ft_machine *m)
{
	struct bytes b;
	struct ft_error err = {0};
	if (ft_state_save(m, &b.at, &b.length, &err)) {
		fprintf(stderr, "%s\n", err.text);
		MUST(!err.code);
	}
	return b;
}

/* ---- Good states --------------------------------------------------------------------------------------------------- */

/* Ring 0 code that uses ports, registers of devices, the FPU and time, and waits for interrupts. */
static void start_processor(struct ft_machine *m)
{
	static const uint8_t code[] = {0xe4, 0x40, 0xe6, 0x61, 0x0f, 0x31, 0xdf, 0x2f, 0x0f, 0x58, 0xc1, 0x48, 0x89, 0x45, 0x00,
				       0x48, 0x8b, 0x45, 0x08, 0xfb, 0xf4, 0xeb, 0xe9};
	struct ft_cpu_state s = {.rip = KERNEL + CODE,
				 .rflags = 2,
				 .gdt = {KERNEL + 0x10000, 0x4f},
				 .idt = {KERNEL + 0x11000, 0xfff},
				 .tr = {.base = KERNEL + 0x12000, .limit = 0x67, .selector = 0x40, .attributes = 0x8b},
				 .cr0 = 0x80050033,
				 .cr3 = 0x1000,
				 .cr4 = 0x6a0,
				 .efer = 0xd01,
				 .dr = {[6] = 0xffff0ff0, [7] = 0x400},
				 .pat = 0x0007040600070406};
	struct ft_error err = {0};
	s.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xa09b};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		if (i != FT_CS)
			s.segment[i] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc093};
	for (unsigned i = 0; i < 16; i++)
		s.gpr[i] = KERNEL + 0x60000 + 16 * i;
	s.gpr[FT_RSP] = KERNEL + 0x1f000;
	s.fxsave[0] = 0x7f;
	s.fxsave[1] = 3;
	s.fxsave[24] = 0x80;
	s.fxsave[25] = 0x1f;
	MUST(ft_memory_write(&m->ram, ft_gpa_make(CODE), code, sizeof(code)));
	MUST(!m->engine_ops->set(m->engine, &s, &err));
}

/* Work under way in each queue, frames waiting. */
static void start_devices(struct driver *d)
{
	for (unsigned i = 0; i < 6; i++) {
		uint64_t header[2] = {i & 1, i};
		driver_put(d, DRIVER_DATA + 4096 * i, header, sizeof(header));
		for (unsigned q = 0; q < d->queues; q++) {
			driver_describe(d, q, 2 * i, DRIVER_DATA + 4096 * i, 64, DRIVER_NEXT, (uint16_t)(2 * i + 1));
			driver_describe(d, q, 2 * i + 1, DRIVER_DATA + 4096 * i + 512, 513, DRIVER_WRITE, 0);
			driver_offer(d, q, (uint16_t)(2 * i));
		}
	}
	for (unsigned q = 0; q < d->queues; q++)
		driver_notify(d, q);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t frame[70] = {1, 2, 3};
		ft_machine_input(d->pc.m, FT_INPUT_FRAME, 0, frame, sizeof(frame) - i);
	}
}

/* ---- Changes ------------------------------------------------------------------------------------------------------- */

static uint8_t *section(const struct bytes *b, uint32_t tag, size_t *length)
{
	size_t at = sizeof(struct ft_state_header);
	while (b->length - at > sizeof(struct ft_state_section_header)) {
		struct ft_state_section_header h;
		memcpy(&h, b->at + at, sizeof(h));
		at += sizeof(h);
		if (h.tag == tag) {
			*length = h.length;
			return b->at + at;
		}
		at += (h.length + 7) & ~7ull;
	}
	return NULL;
}

static void change(struct bytes *b, struct input *in)
{
	size_t length;
	uint8_t what = input8(in), *at = section(b, what & 31, &length);
	size_t offset = what & 0x80 ? input16(in) : input8(in), size = 1ull << (what >> 5 & 3);
	if (!at || size > length)
		return;
	offset %= length - size + 1;
	if (what & 0x80)
		offset &= ~(size - 1);
	input_copy(in, at + offset, size);
}

static void seal(struct bytes *b)
{
	struct ft_state_header h;
	uint64_t checksum;
	if (b->length < sizeof(h) + sizeof(checksum))
		return;
	memcpy(&h, b->at, sizeof(h));
	h.length = b->length;
	memcpy(b->at, &h, sizeof(h));
	checksum = XXH3_64bits(b->at, b->length - sizeof(checksum));
	memcpy(b->at + b->length - sizeof(checksum), &checksum, sizeof(checksum));
}

static struct bytes make(struct ft_machine *m, struct input *in, bool whole)
{
	struct bytes b = save(m);
	if (whole) {
		free(b.at);
		size_t n = in->left;
		b = (struct bytes){malloc(n + 1), n};
		MUST(b.at);
		input_copy(in, b.at, n);
	} else {
		while (in->left)
			change(&b, in);
	}
	seal(&b);
	return b;
}

/* ---- What must hold ------------------------------------------------------------------------------------------------- */

/* False: refused. */
static bool take(struct ft_machine *m, const struct bytes *b)
{
	struct ft_error err = {0};
	struct bytes before = save(m);
	int error = ft_state_restore(m, b->at, b->length, &err);
	struct bytes after = save(m);
	if (error) {
		MUST(error == err.code && (error == -EINVAL || error == -ENOTSUP || error == -EBADMSG));
		MUST(strstr(err.text, "machine state") == err.text);
		MUST(before.length == after.length && !memcmp(before.at, after.at, after.length));
	} else {
		size_t length;
		/* Which engine and which host saved it is no part of what is restored. */
		uint8_t *told = section(b, FT_STATE_MACHINE, &length), *now = section(&after, FT_STATE_MACHINE, &length);
		memcpy(told, now, length);
		struct bytes same = *b;
		seal(&same);
		for (size_t i = 0; i < after.length - 8 && i < b->length; i++)
			if (b->at[i] != after.at[i])
				fprintf(stderr, "byte %zu is 0x%x, restored 0x%x\n", i, b->at[i], after.at[i]);
		MUST(b->length == after.length && !memcmp(b->at, after.at, after.length));
	}
	free(before.at);
	free(after.at);
	return !error;
}

static void use_devices(struct pc *pc)
{
	static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x61, 0x71, 0x60, 0x64, 0x3f8, 0x3fa, 0x3fd, 0x608};
	uint8_t typed[8] = {1}, frame[60] = {2}, random[64] = {3};
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < sizeof(ports) / sizeof(*ports); i++) {
			pc_in(pc, ports[i], 1);
			pc_out(pc, ports[i], 1, ports[i] == 0x64 ? 0x20 : round);
		}
		for (uint64_t at = 0xfee00000; at < 0xfee00400; at += 16)
			pc_load(pc, at, 4);
		ft_machine_input(pc->m, FT_INPUT_CONSOLE, 0, typed, sizeof(typed));
		ft_machine_input(pc->m, FT_INPUT_FRAME, 0, frame, sizeof(frame));
		ft_machine_input(pc->m, FT_INPUT_ENTROPY, 0, random, sizeof(random));
		if (pc->m->interrupt)
			MUST(ft_irq_acknowledge(pc->m) < 256);
		for (unsigned slot = 1; slot < 4; slot++) {
			uint64_t bar = pc_config_read(pc, slot, 0x10, 4) & ~15ull;
			if (bar && slot <= 3)
				for (unsigned q = 0; q < 2; q++)
					pc_store(pc, bar + 0x3000 + 4 * q, 2, q);
		}
		pc_pass(pc, 30000);
	}
}

static void processor(struct input *in, bool whole)
{
	static const struct ft_engine_options options = {.verify = true, .cache_bytes = 1 << 20};
	static bool ready;
	struct ft_error err = {0};
	if (!ready)
		signals_before();
	struct ft_machine *m = bare_open(&options, &err);
	MUST(m);
	signals_after();
	ready = true;
	start_processor(m);
	struct bytes b = make(m, in, whole);
	if (take(m, &b)) {
		struct ft_run_limits limits = {.icount = m->icount + 400, .vtime_ns = ft_machine_vtime(m) + 50000000};
		enum ft_stop stop = ft_machine_run(m, &limits, NULL);
		MUST(stop != FT_STOP_ERROR && m->icount <= limits.icount);
		ft_machine_hash_written(m);
	}
	free(b.at);
	bare_close(m);
}

static void devices(struct input *in, bool whole, unsigned slot)
{
	static int disk = -1;
	struct driver d;
	if (disk < 0)
		disk = pc_disk_image(1 << 16);
	driver_open(&d, slot, disk);
	start_devices(&d);
	struct bytes b = make(d.pc.m, in, whole);
	if (take(d.pc.m, &b))
		use_devices(&d.pc);
	free(b.at);
	driver_close(&d);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input8(&in);
	if (how & 1)
		devices(&in, how & 8, 1 + (how >> 1 & 3) % 3);
	else
		processor(&in, how & 8);
	return 0;
}
