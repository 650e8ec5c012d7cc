/* Exceptions: which one, with what error code, address and place to go on, for everything that a kernel relies on. SDM Vol. 3A
 * chapter 6. */
#include "guest.h"

static void arithmetic(void)
{
	expect("division by zero", 3, CODE("xor %ecx, %ecx; div %ecx"), DE, -1, 0);
	expect("quotient too large", 3, CODE("mov $2, %ecx; mov $5, %edx; div %ecx"), DE, -1, 0);
	expect("least by minus one", 0, CODE("mov $1, %eax; shl $63, %rax; cqo; mov $-1, %rcx; idiv %rcx"), DE, -1, 0);
	expect("int3", 3, CODE("int3"), BP, -1, 0);
	expect("int 4", 3, CODE("int $4"), OF, -1, 0);
	expect("int1", 3, CODE("int1"), DB, -1, 0);
	expect("ud2", 3, CODE("ud2"), UD, -1, 0);
	expect("ud1", 0, CODE("ud1 %eax, %eax"), UD, -1, 0);
	expect("lock nop", 3, CODE(".byte 0xf0, 0x90"), UD, -1, 0);
	expect("lock on a register", 3, CODE(".byte 0xf0, 0x01, 0xc0"), UD, -1, 0);
	expect("sixteen bytes", 3, CODE(".fill 15, 1, 0x66; nop"), GP, 0, 0);
	expect("x87 exception", 3, CODE("push $0x37b; fninit; fldcw (%rsp); fld1; fldz; fdivrp; fwait"), MF, -1, 0);
	expect("SSE exception", 3, CODE("push $0x1d80; ldmxcsr (%rsp); xorps %xmm0, %xmm0; pcmpeqd %xmm1, %xmm1; psrld $25, %xmm1;"
					"pslld $23, %xmm1; divss %xmm0, %xmm1"), XM, -1, 0);
	expect("single step", 3, CODE("pushf; orq $0x100, (%rsp); popf; nop; nop"), DB, -1, 0);
}

static void of_the_fpu(void)
{
	expect("x87 with TS", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; fld1"), NM, -1, 0);
	expect("fwait with TS and MP", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; fwait"), NM, -1, 0);
	expect("fwait with TS without MP", 0, CODE("mov %cr0, %rax; or $8, %eax; and $-3, %eax; mov %rax, %cr0; fwait"), DONE, -1, 0);
	expect("SSE with TS", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; xorps %xmm0, %xmm0"), NM, -1, 0);
	expect("MMX with TS", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; emms"), NM, -1, 0);
	expect("fxsave with TS", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; fxsave (%rsi)"), NM, -1, 0);
	expect("fxrstor with EM", 0, CODE("mov %cr0, %rax; or $4, %eax; mov %rax, %cr0; fxrstor (%rsi)"), UD, -1, 0);
	expect("ldmxcsr with TS", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; ldmxcsr (%rsi)"), NM, -1, 0);
	expect("stmxcsr with TS", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; stmxcsr (%rsi)"), NM, -1, 0);
	expect("x87 without OSFXSR", 0, CODE("mov %cr4, %rax; and $-0x201, %rax; mov %rax, %cr4; fld1; emms; stmxcsr (%rsi)"), UD, -1, 0);
	expect("clts", 0, CODE("mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; clts; fld1"), DONE, -1, 0);
	expect("x87 with EM", 0, CODE("mov %cr0, %rax; or $4, %eax; mov %rax, %cr0; fld1"), NM, -1, 0);
	expect("SSE with EM", 0, CODE("mov %cr0, %rax; or $4, %eax; mov %rax, %cr0; xorps %xmm0, %xmm0"), UD, -1, 0);
	expect("MMX with EM", 0, CODE("mov %cr0, %rax; or $4, %eax; mov %rax, %cr0; emms"), UD, -1, 0);
	expect("SSE without OSFXSR", 0, CODE("mov %cr4, %rax; and $-0x201, %rax; mov %rax, %cr4; xorps %xmm0, %xmm0"), UD, -1, 0);
	expect("SSE exception without OSXMMEXCPT", 0,
	       CODE("mov %cr4, %rax; and $-0x401, %rax; mov %rax, %cr4; push $0x1d80; ldmxcsr (%rsp); xorps %xmm0, %xmm0; pcmpeqd %xmm1, %xmm1; psrld $25, %xmm1; pslld $23, %xmm1; divss %xmm0, %xmm1"), UD, -1, 0);
	expect("ldmxcsr of reserved bits", 3, CODE("pushq $-1; ldmxcsr (%rsp)"), GP, 0, 0);
	expect("movaps misaligned", 3, CODE("movaps 1(%rsi), %xmm0"), GP, 0, 0);
	expect("fxsave misaligned", 3, CODE("fxsave 8(%rsi)"), GP, 0, 0);
	expect("cmpxchg16b misaligned", 3, CODE("cmpxchg16b 8(%rsi)"), GP, 0, 0);
}

static void of_privilege(void)
{
#define REFUSED(text) expect(text, 3, CODE(text), GP, 0, 0)
	REFUSED("hlt");
	REFUSED("cli");
	REFUSED("sti");
	REFUSED("clts");
	REFUSED("invd");
	REFUSED("wbinvd");
	REFUSED("invlpg (%rsi)");
	REFUSED("mov %cr0, %rax");
	REFUSED("mov %cr8, %rax");
	REFUSED("mov %rax, %cr3");
	REFUSED("mov %dr7, %rax");
	REFUSED("mov %rax, %dr0");
	REFUSED("rdmsr");
	REFUSED("wrmsr");
	REFUSED("swapgs");
	REFUSED("sysretq");
	REFUSED("lgdt (%rsi)");
	REFUSED("lidt (%rsi)");
	REFUSED("ltr %ax");
	REFUSED("lldt %ax");
	REFUSED("lmsw %ax");
	REFUSED("in $0x60, %al");
	REFUSED("out %eax, $0x80");
	REFUSED("insb");
	REFUSED("outsl");
	expect("int of a kernel gate", 3, CODE("int $0x20"), GP, 0x20 * 8 + 2, 0);
	expect("int of the page fault's gate", 3, CODE("int $14"), GP, 14 * 8 + 2, 0);
}

static void of_registers(void)
{
	expect("cr0: PG without PE", 0, CODE("mov $0x80000000, %eax; mov %rax, %cr0"), GP, 0, 0);
	expect("cr0: NW without CD", 0, CODE("mov %cr0, %rax; or $0x20000000, %rax; mov %rax, %cr0"), GP, 0, 0);
	expect("cr0: above 32 bits", 0, CODE("mov %cr0, %rax; bts $40, %rax; mov %rax, %cr0"), GP, 0, 0);
	expect("cr0: unknown bit", 0, CODE("mov %cr0, %rax; bts $10, %rax; mov %rax, %cr0; mov %cr0, %rax"), DONE, -1, 0);
	expect("cr4: PAE away", 0, CODE("mov %cr4, %rax; btr $5, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr4: unknown bit", 0, CODE("mov %cr4, %rax; bts $29, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr4: VMXE", 0, CODE("mov %cr4, %rax; bts $13, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr4: FSGSBASE", 0, CODE("mov %cr4, %rax; bts $16, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr4: PCIDE", 0, CODE("mov %cr4, %rax; bts $17, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr4: OSXSAVE", 0, CODE("mov %cr4, %rax; bts $18, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr4: SMAP", 0, CODE("mov %cr4, %rax; bts $21, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr4: PKE", 0, CODE("mov %cr4, %rax; bts $22, %rax; mov %rax, %cr4"), GP, 0, 0);
	expect("cr8: too large", 0, CODE("mov $16, %eax; mov %rax, %cr8"), GP, 0, 0);
	expect("cr1", 0, CODE(".byte 0x0f, 0x20, 0xc8"), UD, -1, 0);
	expect("cr5", 0, CODE(".byte 0x0f, 0x20, 0xe8"), UD, -1, 0);
	expect("dr7: above 32 bits", 0, CODE("mov %dr7, %rax; bts $32, %rax; mov %rax, %dr7"), GP, 0, 0);
	expect("dr6: above 32 bits", 0, CODE("mov %dr6, %rax; bts $32, %rax; mov %rax, %dr6"), GP, 0, 0);
	if (!under_qemu)
		expect("dr7: general detect", 0, CODE("mov $0x2400, %eax; mov %rax, %dr7; mov %dr0, %rax"), DB, -1, 0);
	expect("dr4 with DE", 0, CODE("mov %cr4, %rax; or $8, %eax; mov %rax, %cr4; mov %dr4, %rax"), UD, -1, 0);
	expect("dr4 without DE", 0, CODE("mov %dr4, %rax; mov %dr5, %rcx"), DONE, -1, 0);
	expect("dr read-backs", 0, CODE("mov $0xffffefff, %eax; mov %rax, %dr6; mov %dr6, %rax; mov $0x400, %ecx; mov %rcx, %dr7; mov %dr7, %rcx"), DONE, -1, 0);
	if (!under_qemu)
		expect("lgdt not canonical", 0, CODE("mov $1, %eax; shl $47, %rax; mov %rax, 2(%rsi); lgdt (%rsi)"), GP, 0, 0);
	expect("efer: unknown bit", 0, CODE("mov $0xc0000080, %ecx; rdmsr; bts $9, %eax; wrmsr"), GP, 0, 0);
	expect("efer: LME away", 0, CODE("mov $0xc0000080, %ecx; rdmsr; btr $8, %eax; wrmsr"), GP, 0, 0);
	expect("efer: SVME", 0, CODE("mov $0xc0000080, %ecx; rdmsr; bts $12, %eax; wrmsr"), GP, 0, 0);
	expect("syscall without SCE", 3, CODE("nop"), DONE, -1, 0);
	write_msr(0xc0000080, 0xd00);
	expect("syscall without SCE", 3, CODE("syscall"), UD, -1, 0);
	write_msr(0xc0000080, 0xd00);
	expect("sysret without SCE", 0, CODE("sysretq"), UD, -1, 0);
}

/* guest/start.S, gate_entry. */
static bool last_gate_is(uint64_t cs, uint64_t ss, uint64_t caller, uint64_t rsp, uint64_t stack)
{
	return last.gpr[RAX] == cs && last.gpr[RCX] == ss && last.gpr[RDX] == caller && last.gpr[R8] == rsp && last.gpr[R15] == stack;
}

static void of_segments(void)
{
#define LOAD(name, ring, selector, target, vector, error)                                                             \
	expect(name, ring, CODE("mov $" #selector ", %eax; mov %eax, %" #target), vector, error, 0)
	LOAD("ds: kernel data", 3, 0x10, ds, GP, 0x10);
	LOAD("ss: kernel data", 3, 0x10, ss, GP, 0x10);
	LOAD("ss: null in ring 3", 3, 0, ss, GP, 0);
	LOAD("ss: null in ring 0", 0, 0, ss, DONE, -1);
	LOAD("ss: user data in ring 0", 0, 0x23, ss, GP, 0x20);
	LOAD("ss: read-only", 3, 0x4b, ss, GP, 0x48);
	LOAD("ss: code", 3, 0x2b, ss, GP, 0x28);
	LOAD("es: absent", 3, 0x43, es, NP, 0x40);
	LOAD("ss: absent", 3, 0x43, ss, SS, 0x40);
	LOAD("fs: execute-only", 3, 0x53, fs, GP, 0x50);
	LOAD("gs: TSS", 0, 0x30, gs, GP, 0x30);
	LOAD("ds: beyond the table", 3, 0xffff, ds, GP, 0xfffc);
	LOAD("ds: of no local table", 3, 0x7, ds, GP, 0x4);
	LOAD("ds: conforming code that cannot be read", 3, 0x5b, ds, DONE, -1);
	LOAD("ds: expand-down", 3, 0x8b, ds, DONE, -1);
	expect("mov to cs", 3, CODE(".byte 0x8e, 0xc8"), UD, -1, 0);
	expect("pop fs: kernel data", 3, CODE("push $0x10; pop %fs"), GP, 0x10, 0);
	expect("lldt of data", 0, CODE("mov $0x10, %eax; lldt %ax"), GP, 0x10, 0);
	expect("ltr of a busy one", 0, CODE("mov $0x30, %eax; ltr %ax"), GP, 0x30, 0);
	/* QEMU's processor takes it, and at the next interrupt QEMU gives up for want of a TSS ("invalid tss"). */
	if (!under_qemu)
		expect("ltr of null", 0, CODE("xor %eax, %eax; ltr %ax"), GP, 0, 0);
	expect("lldt, and a load from it", 0, CODE("mov $0x60, %eax; lldt %ax; mov $0xc, %eax; mov %eax, %ds; mov $0x14, %eax; mov %eax, %ds"), GP, 0x14, 0);
	expect("far jump to the kernel", 3, CODE("movl $0, (%rsi); movl $0x8, 4(%rsi); ljmp *(%rsi)"), GP, 8, 0);
	expect("far jump to data", 3, CODE("movl $0, (%rsi); movl $0x23, 4(%rsi); ljmp *(%rsi)"), GP, 0x20, 0);
	expect("far jump to absent code", 3, CODE("movl $0, (%rsi); movl $0x83, 4(%rsi); ljmp *(%rsi)"), NP, 0x80, 0);
	expect("far jump to user code", 0, CODE("movl $0, (%rsi); movl $0x80, 4(%rsi); ljmp *(%rsi)"), GP, 0x80, 0);
	expect("far jump to null", 0, CODE("movq $0, (%rsi); ljmp *(%rsi)"), GP, 0, 0);
#define THROUGH_GATE "movq $0x1234, (%rsi); movl $0x73, 4(%rsi); "
	expect("call gate", 3, CODE(THROUGH_GATE "lcall *(%rsi); mov %ss, %ebx"), DONE, -1, 0);
	check("it led to ring 0 and back", last_gate_is(CODE0, 0, CODE3 | 3, PAGE(STACK) + 4096, DATA3 | 3));
	expect("call gate from ring 0", 0, CODE(THROUGH_GATE "lcall *(%rsi)"), DONE, -1, 0);
	expect("jump through the gate to the kernel", 3, CODE(THROUGH_GATE "ljmp *(%rsi)"), GP, 8, 0);
	gdt[GATE / 8] &= ~(3ull << 45);
	expect("call gate of the kernel's", 3, CODE(THROUGH_GATE "lcall *(%rsi)"), GP, 0x70, 0);
	gdt[GATE / 8] = (gdt[GATE / 8] | 3ull << 45) & ~(1ull << 47);
	expect("absent call gate", 3, CODE(THROUGH_GATE "lcall *(%rsi)"), NP, 0x70, 0);
	gdt[GATE / 8] = (gdt[GATE / 8] | 1ull << 47) ^ (uint64_t)(CODE0 ^ DATA0) << 16;
	expect("call gate to data", 3, CODE(THROUGH_GATE "lcall *(%rsi)"), GP, 0x10, 0);
	gdt[GATE / 8] ^= (uint64_t)(CODE0 ^ DATA0) << 16;
	gdt[GATE / 8 + 1] |= 1ull << 40;
	expect("call gate whose second half has a type", 3, CODE(THROUGH_GATE "lcall *(%rsi)"), GP, 0x70, 0);
	gdt[GATE / 8 + 1] &= ~(1ull << 40);
	expect("far return to the kernel", 3, CODE("push $8; push $0; lretq"), GP, 8, 0);
	expect("far return in ring 3", 3, CODE("push $0x2b; lea 1f(%rip), %rax; push %rax; lretq; ud2; 1: nop"), DONE, -1, 0);
	expect("far call and return", 3,
	       CODE("lea 1f(%rip), %rax; mov %rax, (%rsi); movl $0x2b, 8(%rsi); rex.w lcall *(%rsi); jmp 2f; 1: lretq; 2: nop"), DONE, -1, 0);
	expect("iret to the kernel", 3, CODE("push $0x23; push $0; push $2; push $8; push $0; iretq"), GP, 8, 0);
	expect("iret with a kernel stack", 3, CODE("push $0x10; push $0; push $2; push $0x2b; push $0; iretq"), GP, 0x10, 0);
	expect("iret to nowhere", 0, CODE("mov $1, %eax; shl $47, %rax; push $0x10; push %rsp; pushf; push $8; push %rax; iretq"), GP, 0, 0);
	start.flags |= FLAG_NT;
	expect("iret with NT", 0, CODE("push $0x10; push %rsp; push $2; push $8; push $0; iretq"), GP, 0, 0);
	expect("iret to null", 0, CODE("push $0x10; push %rsp; push $2; push $0; push $0; iretq"), GP, 0, 0);
	expect("iretq within ring 0", 0,
	       CODE("mov %rsp, %rax; push $0x10; push %rax; push $0x8d7; push $8; lea 1f(%rip), %rax; push %rax; iretq; ud2; 1: nop"), DONE, -1, 0);
	expect("enter", 3, CODE("mov %rsp, %rbp; enter $32, $2; leave"), DONE, -1, 0);
}

static void of_addresses(void)
{
	expect("load not canonical", 3, CODE("mov $1, %eax; shl $47, %rax; mov (%rax), %rcx"), GP, 0, 0);
	expect("store not canonical", 0, CODE("mov $1, %eax; shl $62, %rax; mov %rcx, (%rax)"), GP, 0, 0);
	expect("load across the canonical end", 3, CODE("mov $1, %eax; shl $47, %rax; mov -4(%rax), %rcx"), GP, 0, 0);
	expect("push not canonical", 3, CODE("mov $1, %eax; shl $62, %rax; mov %rax, %rsp; push %rax"), SS, 0, 0);
	expect("rbp not canonical", 3, CODE("mov $1, %eax; shl $62, %rax; mov %rax, %rbp; mov (%rbp), %rax"), SS, 0, 0);
	expect("jump not canonical", 3, CODE("mov $1, %eax; shl $47, %rax; jmp *%rax"), GP, 0, 0);
	expect("ret not canonical", 3, CODE("mov $1, %eax; shl $47, %rax; push %rax; ret"), GP, 0, 0);
#define AT(name) "mov $0x40000000 + 4096 * " #name ", %eax; "
	expect("read, not present", 3, CODE(AT(12) "mov (%rax), %ecx"), PF, 4, PAGE(NONE));
	expect("write, not present", 3, CODE(AT(12) "mov %ecx, 8(%rax)"), PF, 6, PAGE(NONE) + 8);
	expect("jump, not present", 3, CODE(AT(12) "jmp *%rax"), PF, 0x14, PAGE(NONE));
	expect("read by the kernel, not present", 0, CODE(AT(12) "mov (%rax), %ecx"), PF, 0, PAGE(NONE));
	expect("write, read-only", 3, CODE(AT(9) "mov %ecx, 4(%rax)"), PF, 7, PAGE(READ_ONLY) + 4);
	expect("write by the kernel, read-only", 0, CODE(AT(9) "mov %ecx, 4(%rax)"), PF, 3, PAGE(READ_ONLY) + 4);
	expect("write by the kernel, read-only, without WP", 0,
	       CODE("mov %cr0, %rax; btr $16, %rax; mov %rax, %cr0; " AT(9) "mov %ecx, 4(%rax)"), DONE, -1, 0);
	expect("user reads the kernel's", 3, CODE(AT(10) "mov (%rax), %ecx"), PF, 5, PAGE(KERNEL));
	expect("user writes the kernel's", 3, CODE(AT(11) "mov %ecx, (%rax)"), PF, 7, PAGE(KERNEL_READ_ONLY));
	expect("user jumps to the kernel's", 3, CODE(AT(10) "jmp *%rax"), PF, 0x15, PAGE(KERNEL));
	expect("jump to data", 3, CODE("jmp *%rsi"), PF, 0x15, PAGE(DATA));
	expect("the kernel jumps to user code", 0, CODE(AT(14) "jmp *%rax"), PF, 0x11, PAGE(EXECUTABLE));
	expect("the kernel jumps to data", 0, CODE(AT(10) "jmp *%rax"), PF, 0x11, PAGE(KERNEL));
	expect("reserved bit, read", 3, CODE(AT(13) "mov (%rax), %ecx"), PF, 0xd, PAGE(RESERVED));
	expect("reserved bit, write by the kernel", 0, CODE(AT(13) "mov %ecx, (%rax)"), PF, 0xb, PAGE(RESERVED));
	expect("load across, the first half the kernel's", 3, CODE(AT(12) "mov -4(%rax), %rcx"), PF, 5, PAGE(KERNEL_READ_ONLY) + 4092);
	*page_entry(21) &= ~1ull;
	flush_page(WINDOW + 21 * 4096);
	expect("load across into nothing", 3, CODE(AT(21) "mov -4(%rax), %rcx"), PF, 4, WINDOW + 21 * 4096);
	expect("store across into nothing", 3, CODE(AT(21) "mov %rcx, -4(%rax)"), PF, 6, WINDOW + 21 * 4096);
	expect("push across into nothing", 3, CODE(AT(22) "lea 4(%rax), %rsp; push %rcx"), PF, 6, WINDOW + 22 * 4096 - 4);
	expect("ret across from nothing", 3, CODE(AT(22) "lea -4(%rax), %rsp; ret"), PF, 4, WINDOW + 22 * 4096 - 4);
	expect("rmw of read-only", 3, CODE(AT(9) "addl $1, (%rax)"), PF, 7, PAGE(READ_ONLY));
	expect("compare and exchange that fails, of read-only", 3, CODE(AT(9) "cmpxchg %ecx, (%rax)"), PF, 7, PAGE(READ_ONLY));
	expect("bit test far away", 3, CODE("mov $0x3000 * 8, %eax; bts %rax, (%rsi)"), DONE, -1, 0);
	expect("push into nothing", 3, CODE(AT(13) "mov %rax, %rsp; push %rcx"), PF, 6, PAGE(RESERVED) - 8);
	expect("pop to nothing", 3, CODE("push $1; " AT(12) "pop (%rax)"), PF, 6, PAGE(NONE));
	expect("call through nothing", 3, CODE(AT(12) "call *(%rax)"), PF, 4, PAGE(NONE));
	expect("int with a bad stack", 3, CODE("mov $1, %eax; shl $62, %rax; mov %rax, %rsp; int3"), BP, -1, 0);
}

static void of_gates(void)
{
	uint64_t saved = gate(PF)[0];
	gate(PF)[0] &= ~(1ull << 47);
	expect("page fault through an absent gate", 3, CODE("mov 0x40000000 + 4096 * 12, %eax"), DF, 0, 0);
	gate(PF)[0] = (saved & ~0xffff0000ull) | (uint64_t)DATA0 << 16;
	expect("page fault through a gate to data", 3, CODE("mov 0x40000000 + 4096 * 12, %eax"), DF, 0, 0);
	gate(PF)[0] = saved;
	saved = gate(UD)[0];
	gate(UD)[0] &= ~(1ull << 47);
	expect("undefined through an absent gate", 3, CODE("ud2"), NP, UD * 8 + 2 + 1, 0);
	gate(UD)[0] = (saved & ~0xffff0000ull) | (uint64_t)DATA0 << 16;
	expect("undefined through a gate to data", 3, CODE("ud2"), GP, DATA0 + 1, 0);
	gate(UD)[0] = (saved & ~(0x1full << 40)) | 5ull << 40;
	expect("undefined through a gate of another type", 3, CODE("ud2"), GP, UD * 8 + 2 + 1, 0);
	gate(UD)[0] = saved;
	saved = gate(0x80)[0];
	gate(0x80)[0] &= ~(1ull << 47);
	expect("int through an absent gate", 3, CODE("int $0x80"), NP, 0x80 * 8 + 2, 0);
	gate(0x80)[0] = saved;
	/* A trap gate leaves IF as it is. */
	saved = gate(BP)[0];
	gate(BP)[0] |= 1ull << 40;
	expect("trap gate", 3, CODE("int3"), BP, -1, 0);
	gate(BP)[0] = saved;
	uint64_t stack = *(uint64_t *)(void *)&tss[1];
	*(uint64_t *)(void *)&tss[1] = 1ull << 47;
	expect("interrupt to a stack that is not canonical", 3, CODE("int $0x80"), SS, 0, 0);
	*(uint64_t *)(void *)&tss[1] = PAGE(NONE) + 64;
	expect("interrupt to a stack that is not there", 3, CODE("int $0x80"), PF, 2, PAGE(NONE) + 56);
	*(uint64_t *)(void *)&tss[1] = stack;
}

/* Bits of a table's entries that the processor writes. */
static void accessed_and_dirty(void)
{
	uint64_t *data = page_entry(PAGE_DATA + 1);
	*data &= ~0x60ull;
	flush_page(PAGE(DATA) + 4096);
	run(3, CODE("mov 4096(%rsi), %eax"));
	expect_value("entry after a read", *data & 0x60, 0x20);
	run(3, CODE("mov %eax, 4096(%rsi)"));
	expect_value("entry after a write", *data & 0x60, 0x60);
	*data &= ~0x60ull;
	flush_page(PAGE(DATA) + 4096);
	run(3, CODE("prefetcht0 4096(%rsi); xor %ecx, %ecx; lea 4096(%rsi), %rdi; rep stosb"));
	expect_value("entry after rep stosb of nothing", *data & 0x60, 0);
	run(3, CODE("xor %ebx, %ebx; lea 4096(%rsi), %rdi; cmp %rdi, %rsi; cmove 4096(%rsi), %eax"));
	expect_value("entry after a conditional move that does not", *data & 0x60, 0x20);
	*page_entry(PAGE_READ_ONLY) &= ~0x60ull;
	flush_page(PAGE(READ_ONLY));
	run(3, CODE("mov $0x40009000, %eax; mov %ecx, (%rax)"));
	expect_value("entry after a write that is refused", *page_entry(PAGE_READ_ONLY) & 0x40, 0);
}

void cases(void)
{
	arithmetic();
	of_the_fpu();
	of_privilege();
	of_registers();
	of_segments();
	of_addresses();
	of_gates();
	accessed_and_dirty();
}
