/* Code that is written: the processor runs what is in memory, however it came there. SDM Vol. 3A 8.1.3. */
#include "guest.h"

/* Each case ends with what ran in EAX. */
static void outcome(const char *name, unsigned ring, struct code code, uint64_t right)
{
	run(ring, code);
	if (last.vector != DONE)
		say("vector %u error %x address %x +%x: ", last.vector, last.error, last_cr2, last.rip - code_base);
	expect_value(name, last.gpr[RAX], right);
}

/* MOV EAX, imm32; RET at the place in EDI. */
#define WRITE(value) "movb $0xb8, (%rdi); movl $" #value ", 1(%rdi); movb $0xc3, 5(%rdi); "

static void ahead(void)
{
	outcome("the next instruction", 3, CODE("movb $7, 1f+1(%rip); 1: mov $1, %al; movzbl %al, %eax"), 7);
	outcome("the next but one", 3, CODE("movb $7, 1f+1(%rip); nop; 1: mov $1, %al; movzbl %al, %eax"), 7);
	outcome("far ahead in the same run", 3, CODE("movb $7, 1f+1(%rip); .fill 40, 1, 0x90; 1: mov $1, %al; movzbl %al, %eax"), 7);
	outcome("its own immediate", 3, CODE("xor %eax, %eax; mov $2, %ecx; 1: add $1, %eax; incb 1b+2(%rip); loop 1b"), 3);
	outcome("an instruction becomes two", 3, CODE("xor %eax, %eax; movw $0xc0ff, 1f(%rip); movw $0xc0ff, 1f+2(%rip); 1: ud2; ud2"), 2);
	outcome("by rep stosb", 3, CODE("mov $0x90, %eax; lea 1f(%rip), %rdi; mov $4, %ecx; rep stosb; 1: ud2; ud2; mov $9, %eax"), 9);
	outcome("by rep movsb", 3, CODE("lea 2f(%rip), %rsi; lea 1f(%rip), %rdi; mov $5, %ecx; rep movsb; 1: ud2; nop; nop; nop; jmp 3f; 2: mov $8, %eax; 3:"), 8);
	outcome("by push", 3, CODE("lea 1f+8(%rip), %rsp; movabs $0x90909000000006b8, %rax; push %rax; 1: ud2; .fill 6, 1, 0x90; mov $0x40009000, %esp"), 6);
	outcome("by a locked exchange", 3, CODE("mov $0x05b0, %ecx; lock xchg %cx, 1f(%rip); .byte 0x90; xor %eax, %eax; 1: mov $1, %al"), 5);
	outcome("by a vector", 3, CODE("movups 2f(%rip), %xmm0; movups %xmm0, 1f(%rip); 1: .fill 16, 1, 0xcc; jmp 3f; 2: mov $4, %eax; .fill 11, 1, 0x90; 3:"), 4);
	outcome("by bts", 3, CODE("xor %eax, %eax; bts $1, 1f+1(%rip); 1: add $1, %eax"), 0);
	outcome("a jump's target", 3, CODE("xor %eax, %eax; movb $2, 1f+1(%rip); 1: jmp 2f; 2: inc %eax; inc %eax; inc %eax"), 2);
}

static void apart(void)
{
	outcome("called again and again", 3,
		CODE("mov $0x40001000, %edi; " WRITE(1) "xor %edx, %edx; mov $50, %ecx; 1: mov %ecx, 1(%rdi); call *%rdi; add %eax, %edx; loop 1b; mov %edx, %eax"),
		1275);
	outcome("through another address", 3,
		CODE("mov $0x40000800, %edi; " WRITE(1) "call *%rdi; movl $12, 0x4000f801; call *%rdi"), 12);
	outcome("through another address, in the page that runs", 3,
		CODE("xor %eax, %eax; lea 1f+1(%rip), %rdi; add $0xf000, %edi; movb $3, (%rdi); cpuid; xor %eax, %eax; 1: mov $1, %al"), 3);
	outcome("across a page's end", 3,
		CODE("mov $0x40001ffe, %edi; " WRITE(1) "call *%rdi; movb $9, 0x40002001; movb $2, 0x40001fff; call *%rdi"), 0x00090002);
	outcome("the second page of an instruction", 3,
		CODE("mov $0x40001ffd, %edi; " WRITE(0x01010101) "call *%rdi; mov %eax, %ecx; movw $0x0202, 0x40002000; call *%rdi"), 0x02020101);
	outcome("written from ring 0", 0, CODE("mov $0x40001000, %edi; " WRITE(1) "mov $17, %eax"), 17);
	outcome("run after ring 0 wrote it", 3, CODE("mov $0x40001000, %edi; call *%rdi"), 1);
	copy(window_ram(PAGE_CODE + 1), "\xb8\x21\0\0\0\xc3", 6);
	outcome("through the one to one map", 3, CODE("mov $0x40001000, %edi; call *%rdi"), 0x21);
}

/* The page under an address changes: after the flush that the manual asks for, the new one runs. */
static void exchanged(void)
{
	copy(window_ram(PAGE_CODE + 2), "\xb8\x01\0\0\0\xc3", 6);
	copy(window_ram(PAGE_CODE + 3), "\xb8\x02\0\0\0\xc3", 6);
	outcome("a page", 3, CODE("mov $0x40002000, %edi; call *%rdi"), 1);
	uint64_t saved = *page_entry(PAGE_CODE + 2);
	*page_entry(PAGE_CODE + 2) = *page_entry(PAGE_CODE + 3);
	flush_page(PAGE(CODE) + 0x2000);
	outcome("another page there", 3, CODE("mov $0x40002000, %edi; call *%rdi"), 2);
	*page_entry(PAGE_CODE + 2) = saved;
	write_cr3(read_cr(3));
	outcome("the first again", 3, CODE("mov $0x40002000, %edi; call *%rdi"), 1);
	*page_entry(PAGE_CODE + 2) = saved | 1ull << 63;
	flush_page(PAGE(CODE) + 0x2000);
	run(3, CODE("mov $0x40002000, %edi; call *%rdi"));
	expect_value("not executable any more", last.vector << 8 | last.error, PF << 8 | 0x15);
	*page_entry(PAGE_CODE + 2) = saved & ~4ull;
	flush_page(PAGE(CODE) + 0x2000);
	run(3, CODE("mov $0x40002000, %edi; call *%rdi"));
	expect_value("the kernel's", last.vector << 8 | last.error, PF << 8 | 0x15);
	run(0, CODE("mov $0x40002000, %edi; call *%rdi"));
	expect_value("run by the kernel", last.gpr[RAX], 1);
	*page_entry(PAGE_CODE + 2) = saved;
	flush_page(PAGE(CODE) + 0x2000);
	outcome("the user's again", 3, CODE("mov $0x40002000, %edi; call *%rdi"), 1);
}

/* Data pages that code comes and goes in. */
static void mixed(void)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < 40; i++) {
		uint8_t code[] = {0x48, 0x8b, 0x05, 9, 0, 0, 0, 0x48, 0x83, 0xc0, (uint8_t)i, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc};
		uint64_t value = i * 1000;
		copy((uint8_t *)window_ram(PAGE_CODE + 1) + i % 4 * 64, code, sizeof(code));
		copy((uint8_t *)window_ram(PAGE_CODE + 1) + i % 4 * 64 + 16, &value, 8);
		start.gpr[RDI] = PAGE(CODE) + 4096 + i % 4 * 64;
		run(3, CODE("incq 16(%rdi); call *%rdi"));
		total += last.gpr[RAX];
	}
	expect_value("code and data in a page", total, 780820 + 0);
}

void cases(void)
{
	ahead();
	apart();
	exchanged();
	mixed();
}
