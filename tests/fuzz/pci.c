/* PCI configuration space, BARs and MSI-X tables under a guest that writes anything anywhere: what a device is cannot be
 * changed, nothing can be put over the platform's own devices, and absent functions stay absent. */
#include "input.h"

#include <sys/prctl.h>

#include "../vmm/pc.h"

#define LAPIC_VERSION 0xfee00030u
#define SLOTS         FT_PCI_SLOTS

struct identity {
	uint32_t dword[64]; /* configuration space as it was built */
};

static int disk;

static uint32_t config(struct pc *pc, unsigned slot, unsigned at)
{
	return (uint32_t)pc_config_read(pc, slot, at, 4);
}

static void remember(struct pc *pc, struct identity *of)
{
	for (unsigned slot = 0; slot < SLOTS; slot++)
		for (unsigned i = 0; i < 64; i++)
			of[slot].dword[i] = config(pc, slot, 4 * i);
}

static unsigned msix_at(struct pc *pc, unsigned slot)
{
	unsigned at = config(pc, slot, 0x34) & 0xff;
	for (unsigned i = 0; at && i < 48; i++, at = config(pc, slot, at) >> 8 & 0xff)
		if ((config(pc, slot, at) & 0xff) == 0x11)
			return at;
	return 0;
}

static void check_identity(struct pc *pc, const struct identity *was)
{
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		bool there = (uint16_t)was[slot].dword[0] != 0xffff;
		unsigned msix = there ? msix_at(pc, slot) : 0;
		for (unsigned i = 0; i < 64; i++) {
			uint32_t now = config(pc, slot, 4 * i), may = 0;
			if (there && i == 1)
				may = 0x406 | 0x80000; /* command; interrupt status */
			else if (there && (i == 4 || i == 5) && was[slot].dword[i])
				may = 0xfffff000;
			else if (there && i == 15)
				may = 0xff; /* interrupt line */
			else if (there && msix && 4 * i == msix)
				may = 0xc0000000; /* enable, mask all */
			MUST(!((now ^ was[slot].dword[i]) & ~may));
		}
	}
}

static void act(struct pc *pc, struct input *in)
{
	uint8_t op = input8(in), size = (uint8_t)(1u << (input8(in) & 3));
	uint8_t where = input8(in);
	unsigned slot = where & 7;
	switch (op % 8) {
	case 0: /* a whole register of a function that is there */
		pc_config_write(pc, slot, input8(in), size > 4 ? 4 : size, input32(in));
		break;
	case 1: /* the usual ones */
		pc_config_write(pc, slot, (const uint8_t[]){4, 0x10, 0x14, 0x3c}[where >> 6], 4,
				where & 32 ? 0xffffffff : input32(in));
		break;
	case 2: { /* MSI-X: enable, mask */
		unsigned at = slot < 4 ? msix_at(pc, slot) : 0;
		if (at)
			pc_config_write(pc, slot, at + 2, 2, input8(in) << 8);
		break;
	}
	case 3: /* ports, any size, whatever is selected */
		pc_out(pc, (uint16_t)(0xcf8 + (where & 15)), size > 4 ? 4 : size, input32(in));
		break;
	case 4:
		pc_in(pc, (uint16_t)(0xcf8 + (where & 15)), size > 4 ? 4 : size);
		break;
	case 5: { /* in a BAR, wherever it is now */
		uint64_t base = config(pc, slot, where & 8 ? 0x14 : 0x10) & ~15u,
			 at = base + input16(in) % 0x4000;
		if (where & 16)
			pc_store(pc, at, size, input64(in));
		else
			pc_load(pc, at, size);
		break;
	}
	case 6: { /* an MSI-X entry, whole */
		uint64_t base = config(pc, slot, 0x14) & ~15u, entry = base + 16 * (where >> 5);
		pc_store(pc, entry, 4, 0xfee00000 | input16(in));
		pc_store(pc, entry + 8, 4, input16(in));
		pc_store(pc, entry + 12, 4, where >> 4 & 1);
		break;
	}
	case 7: {
		uint8_t frame[64] = {0};
		ft_machine_input(pc->m, where & 1 ? FT_INPUT_FRAME : FT_INPUT_ENTROPY, 0, frame,
				 sizeof(frame));
		if (pc->m->interrupt) {
			int vector = ft_irq_acknowledge(pc->m);
			MUST(vector >= 0 && vector < 256);
		}
		break;
	}
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	disk = pc_disk_image(8192);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct pc pc;
	struct identity was[SLOTS];
	pc_open(&pc, disk);
	remember(&pc, was);
	uint64_t lapic = pc_load(&pc, LAPIC_VERSION, 4);
	while (in.left)
		act(&pc, &in);
	check_identity(&pc, was);
	MUST(pc_load(&pc, LAPIC_VERSION, 4) == lapic);
	ft_machine_hash_written(pc.m);
	pc_close(&pc);
	return 0;
}
