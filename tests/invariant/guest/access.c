/* Ports and device memory: every width, every kind of instruction, and what answers where nothing is. SDM Vol. 1 chapter 19. */
#include "guest.h"

static void ports(void)
{
	expect_value("no port, 8 bits", in8(0x560), 0xff);
	expect_value("no port, 16 bits", in16(0x560), 0xffff);
	expect_value("no port, 32 bits", in32(0x560), 0xffffffff);
	expect_value("the last port", in8(0xffff), 0xff);
	observe("at the end of ports", 0, CODE("mov $0xfffd, %edx; in %dx, %eax"));
	observe("upper halves", 0, CODE("mov $0x560, %edx; mov $-1, %rax; in %dx, %eax; mov %rax, %rcx; mov $0x5555, %ax; in %dx, %al"));
	out32(0xcf8, 0x80000000);
	tell("bridge, 32 bits", in32(0xcfc));
	tell("bridge, low word", in16(0xcfc));
	tell("bridge, high word", in16(0xcfe));
	tell("bridge, bytes", in8(0xcfc) | (uint64_t)in8(0xcfd) << 8 | (uint64_t)in8(0xcfe) << 16 | (uint64_t)in8(0xcff) << 24);
	tell("bridge, word in the middle", in16(0xcfd));
	tell("address register", in32(0xcf8));
	out8(0xcf8, 8);
	tell("address register after a byte", in32(0xcf8));
	out16(0xcfa, 1);
	tell("address register after a word", in32(0xcf8));
	tell("across address and data", in32(0xcfa));
	for (uint32_t slot = 0; slot < 32; slot++) {
		out32(0xcf8, 0x80000000 | slot << 11);
		if (in32(0xcfc) == 0xffffffff)
			continue;
		say("slot %u:", (uint64_t)slot);
		for (uint32_t at = 0; at < 64; at += 4) {
			out32(0xcf8, 0x80000000 | slot << 11 | at);
			say(" %x", (uint64_t)in32(0xcfc));
		}
		say("\n");
	}
	out32(0xcf8, 0x80000000 | 1u << 11 | 0x10);
	uint32_t saved = in32(0xcfc);
	out32(0xcfc, 0xffffffff);
	tell("size of a register", in32(0xcfc));
	out32(0xcfc, saved);
	/* The serial port's scratch register. */
	out8(0x3ff, 0x5a);
	tell("scratch", in8(0x3ff));
	tell("scratch and line status as a word", in16(0x3fe));
	for (uint16_t at = 0x3f9; at < 0x3ff; at++)
		tell("serial port", in8(at));
}

static void permissions(void)
{
	/* The task's map of ports: 0x560 to 0x567 are allowed but the last two. */
	static uint8_t task[104 + 0x100 + 1] __attribute__((aligned(16)));
	copy(task, tss, 104);
	fill(task + 104, 0xff, 0x101);
	task[102] = 104;
	task[103] = 0;
	task[104 + 0x560 / 8] = 0xc0;
	uint64_t saved = gdt[TASK / 8], base = (uint64_t)task;
	gdt[TASK / 8] = (sizeof(task) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	__asm__ volatile("ltr %w0" : : "r"(TASK) : "memory");
#define ALLOWED(name, text)                                                                                           \
	gdt[TASK / 8] = (sizeof(task) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;         \
	__asm__ volatile("ltr %w0" : : "r"(TASK) : "memory");                                                                        \
	expect(name, 3, CODE("mov $0x560, %edx; " text), DONE, -1, 0)
#define FORBIDDEN(name, text)                                                                                         \
	gdt[TASK / 8] = (sizeof(task) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;         \
	__asm__ volatile("ltr %w0" : : "r"(TASK) : "memory");                                                                        \
	expect(name, 3, CODE("mov $0x560, %edx; " text), GP, 0, 0)
	ALLOWED("byte that is allowed", "in %dx, %al");
	ALLOWED("four bytes that are", "in %dx, %eax");
	ALLOWED("the last byte that is", "mov $0x565, %edx; in %dx, %al");
	FORBIDDEN("the first that is not", "mov $0x566, %edx; in %dx, %al");
	FORBIDDEN("half allowed", "mov $0x564, %edx; out %eax, %dx");
	FORBIDDEN("in the next byte of the map", "mov $0x568, %edx; in %dx, %al");
	ALLOWED("string to memory", "mov $3, %ecx; rep insb");
	FORBIDDEN("string", "mov $3, %ecx; mov $0x566, %edx; rep insb");
	FORBIDDEN("beyond the map", "mov $0x807, %edx; in %dx, %al");
	FORBIDDEN("far beyond the map", "mov $0xfff0, %edx; in %dx, %al");
	FORBIDDEN("immediate", "in $0x60, %al");
	gdt[TASK / 8] = saved;
	start.flags |= FLAG_IOPL;
	expect("with the privilege level", 3, CODE("in $0x84, %al"), DONE, -1, 0);
}

/* Where neither RAM nor a device is: reads are ones, writes are lost. AT: PAGE_NOWHERE, which ring 3 may use, too. */
static void nowhere(void)
{
#define AT "mov $0x40011000, %edi; "
#define LOST(text) expect(text, 3, CODE(AT text), DONE, -1, 0)
	LOST("mov (%rdi), %al");
	LOST("mov (%rdi), %ax");
	LOST("mov (%rdi), %eax");
	LOST("mov (%rdi), %rax");
	LOST("mov %al, (%rdi)");
	LOST("mov %rax, 3(%rdi)");
	LOST("movb $5, (%rdi)");
	LOST("movq $5, (%rdi)");
	LOST("movzbl (%rdi), %eax");
	LOST("movsbq (%rdi), %rax");
	LOST("movzwl (%rdi), %eax");
	LOST("movswl (%rdi), %eax");
	LOST("movslq (%rdi), %rax");
	LOST("add (%rdi), %eax");
	LOST("add %eax, (%rdi)");
	LOST("sub %cx, (%rdi)");
	LOST("and $3, %eax; and %eax, (%rdi)");
	LOST("orl $3, (%rdi)");
	LOST("xor (%rdi), %rax");
	LOST("cmpl $-1, (%rdi)");
	LOST("cmp %al, (%rdi)");
	LOST("testl $4, (%rdi)");
	LOST("incl (%rdi)");
	LOST("decq (%rdi)");
	LOST("notl (%rdi)");
	LOST("negl (%rdi)");
	LOST("shll $3, (%rdi)");
	LOST("sarq %cl, (%rdi)");
	LOST("xchg %eax, (%rdi)");
	LOST("lock incl (%rdi)");
	LOST("lock xadd %eax, (%rdi)");
	LOST("mov $-1, %eax; lock cmpxchg %ecx, (%rdi)");
	LOST("mov $-2, %eax; lock cmpxchg %ecx, (%rdi)");
	LOST("btl $3, (%rdi)");
	LOST("btsl $3, (%rdi)");
	LOST("imul (%rdi), %eax");
	LOST("mull (%rdi)");
	LOST("mov %eax, %edx; mov $-2, %eax; mov $1, %edx; mov $2, %ecx; divl (%rdi)");
	LOST("push (%rdi)");
	LOST("push $7; pop (%rdi)");
	LOST("mov (%rdi), %ah");
	LOST("mov %ch, (%rdi)");
	LOST("movabs 0x40011008, %eax");
	LOST("movabs %eax, 0x40011008");
	LOST("cmovz (%rdi), %eax");
	LOST("sete (%rdi)");
	LOST("movups (%rdi), %xmm0; movmskps %xmm0, %eax");
	LOST("movdqa (%rdi), %xmm0; pmovmskb %xmm0, %eax");
	LOST("movdqu %xmm0, (%rdi)");
	LOST("movnti %eax, (%rdi)");
	LOST("prefetcht0 (%rdi)");
	LOST("clflush (%rdi)");
	expect("call through it", 3, CODE(AT "call *(%rdi)"), PF, 0x14, 0xffffffffffffffff);
	expect("a segment from it", 3, CODE(AT "mov (%rdi), %ds"), GP, 0xfffc, 0);
}

static void apic_widths(void)
{
	for (unsigned i = 0; i < 2; i++) {
		/* Version and task priority, read by 1, 2 and 4 bytes wherever these lie within the register. */
		uint64_t at = APIC + (i ? 0x80 : 0x30);
		apic_write(0x80, 0x20); /* KVM on AMD keeps the upper half alone: it takes it from CR8 */
		for (unsigned k = 0; k < 4; k++) {
			uint8_t byte;
			uint16_t word;
			__asm__ volatile("movb (%1), %0" : "=q"(byte) : "r"(at + k));
			say("apic +%x: %x", (uint64_t)k, (uint64_t)byte);
			if (k < 3) {
				__asm__ volatile("movw (%1), %0" : "=r"(word) : "r"(at + k));
				say(" %x", (uint64_t)word);
			}
			say(k ? "\n" : " %x\n", (uint64_t)load32(at));
		}
	}
	__asm__ volatile("movb $0x77, (%0)" : : "r"(APIC + 0x80) : "memory");
	tell("task priority after a byte", apic_read(0x80));
	__asm__ volatile("movw $0x77, (%0)" : : "r"(APIC + 0x80) : "memory");
	tell("task priority after a word", apic_read(0x80));
	store32(APIC + 0x84, 0x77);
	tell("task priority after a write beside it", apic_read(0x80));
	apic_write(0x80, 0);
}

static void io_apic_widths(void)
{
	store32(IO_APIC, 1);
	tell("select", load32(IO_APIC));
	tell("version", load32(IO_APIC + 0x10));
	__asm__ volatile("movb $0x10, (%0)" : : "r"(IO_APIC) : "memory");
	tell("select by a byte", load32(IO_APIC));
	tell("entry", load32(IO_APIC + 0x10));
	tell("beside the window", load32(IO_APIC + 0x14));
	uint64_t wide;
	__asm__ volatile("mov (%1), %0" : "=r"(wide) : "r"(IO_APIC + 0x10) : "memory");
	tell("entry by 8 bytes", wide);
}

void cases(void)
{
	ports();
	permissions();
	nowhere();
	apic_widths();
	io_apic_widths();
}
