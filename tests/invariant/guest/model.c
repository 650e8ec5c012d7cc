/* The CPU model: every leaf of CPUID, every MSR that a kernel touches, what may be written to them. SDM Vol. 2 CPUID, Vol. 4. */
#include "guest.h"

static void leaf(uint32_t index, uint32_t sub)
{
	uint32_t r[4];
	cpuid(index, sub, r);
	say("cpuid %x.%x: %x %x %x %x\n", (uint64_t)index, (uint64_t)sub, (uint64_t)r[0], (uint64_t)r[1], (uint64_t)r[2], (uint64_t)r[3]);
}

static void leaves(void)
{
	static const uint32_t more[] = {0x20,       0x1000,     0x3fffffff, 0x40000000, 0x40000001, 0x40000010, 0x40000100, 0x4fffffff,
					0x50000000, 0x7fffffff, 0x80860000, 0x8fffffff, 0xc0000000, 0xc0000001, 0xffffffff};
	for (uint32_t i = 0; i < 0x20; i++)
		for (uint32_t sub = 0; sub < (i == 4 || i == 7 || i == 0xb || i == 0xd || i == 0x14 ? 6 : 1); sub++)
			leaf(i, sub);
	for (uint32_t i = 0x80000000; i < 0x80000024; i++)
		leaf(i, 0);
	for (unsigned i = 0; i < sizeof(more) / sizeof(*more); i++)
		leaf(more[i], 0);
	leaf(0x1, 77);
	leaf(0x7, 0xffffffff);
	run(3, CODE("mov $1, %eax; mov $0xfffffff1, %ecx; bts $40, %rax; bts $40, %rbx; cpuid"));
	tell("cpuid in ring 3 clears upper halves", (last.gpr[RAX] | last.gpr[RBX] | last.gpr[RCX] | last.gpr[RDX]) >> 32);
	/* The APIC's bit follows the APIC. */
	write_msr(0x1b, read_msr(0x1b) & ~0x800ull);
	leaf(1, 0);
	write_msr(0x1b, read_msr(0x1b) | 0x800);
	leaf(1, 0);
}

static bool reads(uint32_t index, uint64_t *value);
static bool writes(uint32_t index, uint64_t value);

/* What only one engine has nobody is shown: of KVM's interface there is no leaf, so no clock, no steal time and no end of interrupt by
 * memory, and none of its registers (Documentation/virt/kvm/x86/msr.rst). The deadline timer both have. */
static void paravirtual(void)
{
	static const uint32_t registers[] = {0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d05, 0x4b564d06, 0x4b564d07};
	uint32_t r[4], amd[4];
	uint64_t value = 0;
	cpuid(0x40000000, 0, r);
	expect_value("last leaf of a hypervisor", r[0], 0x40000000);
	check("the hypervisor is not KVM", r[1] != 0x4b4d564b); /* "KVMK" */
	cpuid(0, 0, amd);
	cpuid(0x40000001, 0, r);
	if (amd[2] == 0x444d4163) /* "cAMD": Intel's show their last leaf */
		expect_value("features of KVM's interface", r[0] | r[1] | r[2] | r[3], 0);
	for (unsigned i = 0; i < sizeof(registers) / sizeof(*registers); i++) {
		bool there = reads(registers[i], &value) || writes(registers[i], 1);
		check("a register of KVM's interface is not there", !there && last.vector == GP);
	}
	cpuid(1, 0, r);
	expect_value("deadline timer", r[2] >> 24 & 1, 1);
	apic_write(0x320, 0x40000 | 0x40); /* TSC-deadline mode */
	write_msr(0x6e0, UINT64_MAX);
	expect_value("its deadline", read_msr(0x6e0), UINT64_MAX);
	write_msr(0x6e0, 0);
	expect_value("no deadline", read_msr(0x6e0), 0);
	apic_write(0x320, 0x10000);
}

static bool reads(uint32_t index, uint64_t *value)
{
	/* QEMU looks all of RCX up in the map of what is intercepted. */
	start.gpr[RCX] = index | (under_qemu ? 0 : 5ull << 32);
	run(0, CODE("rdmsr"));
	*value = (uint32_t)last.gpr[RAX] | last.gpr[RDX] << 32;
	return last.vector == DONE;
}

static bool writes(uint32_t index, uint64_t value)
{
	start.gpr[RCX] = index;
	start.gpr[RAX] = value & 0xffffffff;
	start.gpr[RDX] = value >> 32;
	run(0, CODE("wrmsr"));
	return last.vector == DONE;
}

static void read_one(uint32_t index)
{
	uint64_t value;
	/* Time goes on, and the microcode's is what the host says. */
	if (!reads(index, &value))
		say("msr %x: vector %u error %x\n", (uint64_t)index, last.vector, last.error);
	else if (index == 0x10)
		say("msr %x: some\n", (uint64_t)index);
	else
		say("msr %x: %x\n", (uint64_t)index, value);
}

static const struct {
	uint32_t first, count;
} ranges[] = {
    {0x0, 0x400},	{0x480, 0x20},	    {0x4e0, 0x20},	{0x560, 0x20},	    {0x600, 0x40},	{0x6a0, 0x20},	{0x6e0, 4},
    {0x770, 8},		{0x800, 0x40},	    {0xc80, 0x10},	{0xda0, 1},	    {0xe00, 0x10},	{0x1900, 0x10}, {0x40000000, 0x20},
    {0x40000070, 0x10}, {0x40000080, 0x40}, {0x4b564d00, 0x10}, {0xc0000080, 0x10}, {0xc00000e0, 0x10}, {0xc0000100, 8}, {0xc0000300, 4},
    {0xc0010000, 0x40}, {0xc0010060, 0x30}, {0xc0010110, 0x40}, {0xc0010200, 0x10}, {0xc0011000, 0x40}, {0xc0012000, 4},
};

static void registers(void)
{
	for (unsigned i = 0; i < sizeof(ranges) / sizeof(*ranges); i++)
		for (uint32_t k = 0; k < ranges[i].count; k++)
			read_one(ranges[i].first + k);
}

static void write_one(uint32_t index, uint64_t value)
{
	uint64_t before, after;
	bool there = reads(index, &before);
	bool taken = writes(index, value);
	say("msr %x, write %x: ", (uint64_t)index, value);
	if (!taken)
		say("vector %u error %x", last.vector, last.error);
	if (reads(index, &after) && index != 0x10)
		say(taken ? "now %x" : ", still %x", after);
	say("\n");
	if (there && taken && index != 0x10)
		writes(index, before);
}

static void written(void)
{
	static const uint32_t all[] = {0x3a,	   0x3b,       0x48,	   0x49,       0x8b,	   0xfe,       0x10a,	   0x10b,      0x122,
				       0x174,	   0x175,      0x176,	   0x179,      0x17a,	   0x17b,      0x1a0,	   0x1d9,      0x200,
				       0x250,	   0x277,      0x2ff,	   0x38f,      0x400,	   0x6e0,      0xc0000081, 0xc0000082, 0xc0000083,
				       0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0x4b564d00, 0x4b564d01, 0x11,	0x12,
				       0xc0010015, 0xc001001f, 0xc0010112, 0xc0010117, 0xc0011029, 0x140,	   0x345,      0xc1,	    0x186};
	static const uint64_t values[] = {0, 1, 0x1234, 0xffffffff, 0x00007fffffffffff, 0x0000800000000000, 0xffff800000000000, 0xffffffffffffffff};
	/* QEMU's processor takes for a register of its own what is no address, or wider than that is. */
	unsigned plain = under_qemu ? 3 : sizeof(values) / sizeof(*values);
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++)
		for (unsigned k = 0; k < plain; k++)
			write_one(all[i], values[k]);
	write_one(0x277, 0x0007040600070402);
	write_one(0x277, 0x0001050600070406);
	if (!under_qemu) { /* KVM lets the local APIC be moved, and forget that this processor is the first */
		write_one(0x1b, 0xfee00000);
		write_one(0x1b, 0xfed00900);
		write_one(0x1b, 0x1fee00900);
	}
	write_one(0x1b, 0xfee00d00);
	write_one(0x1b, 0xfee00c00);
	write_one(0x1b, 0xfee00901);
	write_one(0xc0000080, 0xd01);
	write_one(0xc0000080, 0x501);
	write_one(0xc0000080, 0x1d01);
	write_one(0xc0000080, 0x4d01);
	write_one(0xc0000080, 0xd03);
	write_one(0xc0000080, 0xc01);
	/* FS and GS by their MSRs are the segments' bases. */
	writes(0xc0000100, PAGE(DATA) + 0x100);
	writes(0xc0000101, PAGE(DATA) + 0x200);
	writes(0xc0000102, PAGE(DATA) + 0x300);
	*(uint64_t *)((uint8_t *)window_ram(PAGE_DATA) + 0x100) = 1;
	*(uint64_t *)((uint8_t *)window_ram(PAGE_DATA) + 0x200) = 2;
	*(uint64_t *)((uint8_t *)window_ram(PAGE_DATA) + 0x300) = 3;
	observe("bases", 0, CODE("mov %fs:0, %rax; mov %gs:0, %rcx; swapgs; mov %gs:0, %rdx; swapgs; mov %gs:0, %rbx"));
}

void cases(void)
{
	leaves();
	paravirtual();
	registers();
	written();
}
