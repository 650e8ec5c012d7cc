/* Every port and register of the PC's other devices (interrupt controllers, timers, clock, serial port, keyboard, power),
 * their MSRs, and time: no order of accesses breaks the machine, and two machines that saw the same are the same. */
#include "input.h"

#include <sys/prctl.h>

#include "../vmm/pc.h"

static void access_port(struct pc *pc, struct input *in, uint8_t how)
{
	static const uint16_t usual[] = {0x20,  0x21,  0xa0,  0xa1,  0x40,  0x41,  0x42,  0x43,  0x61,  0x70,
					 0x71,  0x60,  0x64,  0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe,
					 0x3ff, 0x4d0, 0x4d1, 0x92,  0x604, 0xcf9, 0x600, 0x608};
	uint16_t port = how & 0x20 ? input16(in) : usual[input8(in) % (sizeof(usual) / sizeof(usual[0]))];
	unsigned size = how & 0x40 ? 1u << (how >> 3 & 1) << (how >> 4 & 1) : 1;
	if (how & 4)
		pc_in(pc, port, size);
	else
		pc_out(pc, port, size, size == 1 ? input8(in) : input32(in));
}

static void access_memory(struct pc *pc, struct input *in, uint8_t how)
{
	uint64_t at =
	    (how & 0x80 ? 0xfec00000u : 0xfee00000u) + (how & 0x20 ? input16(in) & 0xfff : input8(in) * 16u);
	unsigned size = how & 0x40 ? 1u << (how >> 3 & 3) : 4;
	/* Behind its last entry the I/O APIC has nothing, and a write there changes nothing (entries are reached by address: one
	 * too many is not seen by a sanitizer). */
	const struct ft_ioapic *ioapic = &pc->m->devices->ioapic;
	__typeof__(ioapic->s) before = ioapic->s;
	if (how & 4)
		pc_load(pc, at, size);
	else
		pc_store(pc, at, size, input32(in));
	if (at == 0xfec00010 && before.select >= 0x10 + 2 * FT_IOAPIC_PINS)
		MUST(!memcmp(&before, &ioapic->s, sizeof(before)));
}

static void act(struct pc *pc, struct input *in)
{
	uint8_t how = input8(in);
	uint64_t value = 0;
	switch (how & 3) {
	case 0:
		access_port(pc, in, how);
		break;
	case 1:
		access_memory(pc, in, how);
		break;
	case 2: {
		static const uint32_t usual[] = {0x1b, 0x10, 0x3b, 0x6e0};
		uint32_t index = how & 0x80 ? 0x800 + input8(in) : usual[how >> 4 & 3];
		if (how & 4) {
			ft_platform_rdmsr(pc->m, index, &value);
		} else {
			value = how & 8 ? input64(in) : input32(in);
			ft_platform_wrmsr(pc->m, index, value);
		}
		if (how & 0x40)
			ft_platform_set_cr8(pc->m, input8(in) & 15);
		MUST(ft_platform_cr8(pc->m) < 16);
		break;
	}
	case 3:
		if (how & 4) {
			if (pc->m->interrupt) {
				int vector = ft_irq_acknowledge(pc->m);
				MUST(vector >= 0 && vector < 256);
			}
		} else if (how & 8) {
			ft_irq_set(pc->m, how >> 4, input8(in) & 1);
		} else if (how & 16) {
			uint8_t typed[32];
			size_t n = input8(in) % sizeof(typed);
			input_copy(in, typed, sizeof(typed));
			ft_machine_input(pc->m, FT_INPUT_CONSOLE, 0, typed, n);
		} else {
			/* A timer may fire each few virtual nanoseconds: time in small pieces. */
			uint64_t before = ft_machine_vtime(pc->m);
			pc_pass(pc, input8(in) << (how >> 5));
			MUST(ft_machine_vtime(pc->m) >= before);
		}
		break;
	}
}

static uint64_t play(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct pc pc;
	pc_open(&pc, -1);
	while (in.left)
		act(&pc, &in);
	uint64_t hash = 0;
	for (unsigned i = 0; i < 256; i++)
		hash = hash * 31 + (uint8_t)pc.console[i];
	hash ^= ft_machine_hash_written(pc.m) ^ pc.m->interrupt;
	pc_close(&pc);
	return hash;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	MUST(play(data, size) == play(data, size));
	return 0;
}
