/* String instructions with their prefixes, and accesses that cross a page: what is done before an exception stays done, and
 * nothing of the element that fails. SDM Vol. 2 REP. */
#include "guest.h"

static uint64_t sum(void)
{
	const uint8_t *at = window_ram(PAGE_DATA);
	uint64_t hash = 14695981039346656037ull;
	for (unsigned i = 0; i < 7 * 4096; i++)
		hash = (hash ^ at[i]) * 1099511628211ull;
	return hash;
}

static void prepare(void)
{
	uint8_t *at = window_ram(PAGE_DATA);
	for (unsigned i = 0; i < 7 * 4096; i++)
		at[i] = (uint8_t)(i * 7 + (i >> 8));
}

static void memory(const char *name, unsigned ring, struct code code)
{
	uint64_t saved[16];
	copy(saved, start.gpr, sizeof(saved));
	prepare();
	copy(start.gpr, saved, sizeof(saved));
	observe(name, ring, code);
	say("%s: memory %x\n", name, sum());
}

#define SI(value) "mov $" value ", %esi; "
#define DI(value) "mov $" value ", %edi; "
#define CX(value) "mov $" value ", %ecx; "

static void moves(void)
{
	memory("movsb", 3, CODE("movsb"));
	memory("movsw", 3, CODE("movsw"));
	memory("movsl", 3, CODE("movsl"));
	memory("movsq", 3, CODE("movsq"));
	memory("rep movsb", 3, CODE(CX("5000") SI("0x40004010") DI("0x40005fff") "rep movsb"));
	memory("rep movsw", 3, CODE(CX("2500") SI("0x40004011") DI("0x40005fff") "rep movsw"));
	memory("rep movsl", 3, CODE(CX("1200") SI("0x40004013") DI("0x40005ffd") "rep movsl"));
	memory("rep movsq", 3, CODE(CX("600") SI("0x40004017") DI("0x40005ff9") "rep movsq"));
	memory("rep movsb onto itself", 3, CODE(CX("5000") SI("0x40004010") DI("0x40004011") "rep movsb"));
	memory("rep movsq onto itself", 3, CODE(CX("500") SI("0x40004010") DI("0x40004013") "rep movsq"));
	memory("rep movsb backwards", 3, CODE("std; " CX("5000") SI("0x40006010") DI("0x40007fff") "rep movsb; cld"));
	memory("rep movsq backwards", 3, CODE("std; " CX("500") SI("0x40006013") DI("0x40006010") "rep movsq; cld"));
	memory("rep movsb of nothing", 3, CODE("xor %ecx, %ecx; mov $1, %edi; shl $62, %rdi; rep movsb"));
	memory("repne movsb", 3, CODE(CX("3") ".byte 0xf2; movsb"));
	memory("addr32 rep movsb", 3, CODE("mov $3, %ecx; bts $33, %rcx; bts $40, %rsi; bts $41, %rdi; addr32 rep movsb"));
	memory("rep movsb through FS", 3, CODE(CX("9") "mov %fs:(%rsi), %al; .byte 0xf3, 0x64, 0xa4"));
}

static void failures(void)
{
	memory("rep movsb into the read-only page", 3, CODE(CX("3000") SI("0x40004000") DI("0x40008900") "rep movsb"));
	memory("rep movsq into the read-only page", 3, CODE(CX("3000") SI("0x40004000") DI("0x40008904") "rep movsq"));
	memory("rep stosb into the read-only page", 3, CODE(CX("3000") DI("0x40008900") "rep stosb"));
	memory("rep stosq into the read-only page", 3, CODE(CX("3000") DI("0x40008fe4") "rep stosq"));
	memory("rep stosq into the read-only page from ring 0", 0, CODE(CX("3000") DI("0x40008fe1") "rep stosq"));
	memory("rep movsb from the kernel's page", 3, CODE(CX("3000") SI("0x40009900") DI("0x40004900") "rep movsb"));
	memory("rep movsl from the kernel's page", 3, CODE(CX("3000") SI("0x40009ff2") DI("0x40004ff0") "rep movsl"));
	memory("rep stosl backwards into nothing", 3, CODE("std; " CX("3000") DI("0x4000e010") "rep stosl"));
	memory("rep lodsb into nothing", 3, CODE(CX("3000") SI("0x4000bf80") "rep lodsb"));
	memory("rep movsb to no address", 3, CODE(CX("30") "mov $1, %edi; shl $47, %rdi; sub $8, %rdi; rep movsb"));
	memory("rep movsb from no address", 3, CODE(CX("30") "mov $1, %esi; shl $47, %rsi; rep movsb"));
	memory("repe cmpsb into nothing", 3, CODE(CX("3000") SI("0x4000bf80") "mov %rsi, %rdi; repe cmpsb"));
	memory("repne scasb into nothing", 0, CODE(CX("8000") "mov $0x100, %eax; " DI("0x4000bf80") "mov $0xee, %al; repne scasb"));
	memory("rep insb into the read-only page", 0, CODE(CX("300") DI("0x40008f80") "mov $0x560, %edx; rep insb"));
	memory("rep outsl from the kernel's page", 0, CODE(CX("300") SI("0x4000bf80") "mov $0x560, %edx; rep outsl"));
}

static void compares(void)
{
	memory("lodsb", 3, CODE("lodsb"));
	memory("rep lodsw", 3, CODE(CX("7") "rep lodsw"));
	memory("lodsq", 3, CODE("lodsq"));
	memory("repe cmpsb", 3, CODE(CX("300") SI("0x40004000") DI("0x40004700") "repe cmpsb"));
	memory("repe cmpsb that ends", 3, CODE(CX("300") SI("0x40004000") "mov %rsi, %rdi; repe cmpsb"));
	memory("repne cmpsw", 3, CODE(CX("300") SI("0x40004000") DI("0x40004700") "repne cmpsw"));
	memory("cmpsq", 3, CODE("cmpsq"));
	memory("repne scasb", 3, CODE(CX("300") "mov $0x40, %al; repne scasb"));
	memory("repe scasl", 3, CODE(CX("300") "mov (%rdi), %eax; repe scasl"));
	memory("repne scasq backwards", 3, CODE("std; " CX("20") "repne scasq; cld"));
	memory("repe cmpsb of nothing", 3, CODE("xor %ecx, %ecx; cmp $1, %ecx; repe cmpsb"));
	memory("rep stosw", 3, CODE(CX("3000") DI("0x40005fff") "rep stosw"));
	memory("rep stosq", 3, CODE(CX("700") DI("0x40005ffb") "rep stosq"));
	memory("stosl, addr32", 3, CODE("bts $40, %rdi; addr32 stosl"));
}

static void ports(void)
{
	memory("insb", 0, CODE("mov $0x560, %edx; insb"));
	memory("rep insw", 0, CODE(CX("1000") DI("0x40004fff") "mov $0x560, %edx; rep insw"));
	memory("rep insl", 0, CODE(CX("3000") DI("0x40004ffd") "mov $0x560, %edx; rep insl"));
	memory("rep insb backwards", 0, CODE("std; " CX("20") "mov $0x560, %edx; rep insb; cld"));
	memory("rep outsb", 0, CODE(CX("2000") SI("0x40004fff") "mov $0x560, %edx; rep outsb"));
	memory("rep outsl backwards", 0, CODE("std; " CX("20") "mov $0x560, %edx; rep outsl; cld"));
	memory("rep insb of nothing", 0, CODE("xor %ecx, %ecx; mov $0x560, %edx; rep insb"));
	start.flags |= FLAG_IOPL;
	memory("rep insb in ring 3 that may", 3, CODE(CX("20") "mov $0x560, %edx; rep insb"));
	memory("in and out", 0, CODE("mov $0x560, %edx; in %dx, %al; out %al, %dx; in %dx, %ax; out %ax, %dx; in %dx, %eax; out %eax, %dx"));
}

static void crossing(void)
{
	memory("load across", 3, CODE("mov 0x40004ffd, %rax; mov 0x40004ffe, %ecx; mov 0x40004fff, %dx; movzwl 0x40005fff, %ebx"));
	memory("store across", 3, CODE("mov %r15, 0x40004ffd; mov %r8d, 0x40005ffe; mov %dx, 0x40006fff"));
	memory("add across", 3, CODE("mov %r15, %rax; add %rax, 0x40004ffc; lock add %rax, 0x40005ffc"));
	memory("xchg across", 3, CODE("mov %r15, %rax; xchg %rax, 0x40004ffc; mov %r8d, %ecx; lock xadd %ecx, 0x40005ffe"));
	memory("compare and exchange across", 3, CODE("mov 0x40004ffb, %rax; lock cmpxchg %r15, 0x40004ffb; mov $1, %ecx; lock cmpxchg8b 0x40005ffb"));
	memory("bits across", 3, CODE("mov $4096 * 8 - 1, %eax; bts %rax, 0x40004001; btr %rax, 0x40005000; btc %rax, 0x40005fff"));
	memory("stack across", 3, CODE("mov $0x40005004, %esp; push %r15; push %rsp; pop %rax; pushf; push %fs; pop %rcx"));
	memory("call and ret across", 3, CODE("mov $0x40005003, %esp; call 1f; jmp 2f; 1: ret; 2: mov $0x40006002, %esp; enter $8, $1; leave"));
	memory("vectors across", 3, CODE("movups 0x40004ff9, %xmm0; movups %xmm0, 0x40005ff3; movq 0x40006ffb, %xmm1; movq %xmm1, 0x40004ffd;"
					 "movdqu 0x40005ff3, %xmm2; pcmpeqb %xmm2, %xmm0; pmovmskb %xmm0, %eax"));
	memory("x87 across", 3, CODE("fldt 0x40004ffa; fstpt 0x40005ffb; fildll 0x40006ffd; fistpll 0x40004ffe"));
	/* QEMU leaves the reserved bytes of the image as they were. */
	if (!under_qemu)
		memory("fxsave across", 3, CODE("fninit; fxsave64 0x40004f00; fxrstor64 0x40004f00; mov 0x40004f18, %eax"));
	memory("string across", 3, CODE("mov $0x40004ffd, %esi; mov $0x40005ffe, %edi; movsq; mov $0x40006ffd, %edi; stosq; cmpsq; lodsq"));
	memory("store across into the read-only page", 3, CODE("mov %r15, 0x40008ffc"));
	memory("add across into the read-only page", 3, CODE("add %r15, 0x40008ffc"));
	memory("vector across into the read-only page", 3, CODE("movups %xmm0, 0x40008ff9"));
	memory("vector from the kernel's page", 3, CODE("movups 0x40009ff9, %xmm0"));
	memory("x87 store into the read-only page", 3, CODE("fldpi; fstpt 0x40008ffb"));
	memory("push across into the read-only page", 3, CODE("mov $0x40009004, %esp; push %r15"));
}

static void of_devices(void)
{
	memory("load half of it nothing", 0, CODE("mov 0x40011ffc, %rax"));
	memory("store half of it nothing", 0, CODE("mov %r15, 0x40011ffc; mov 0x40012000, %eax"));
	memory("rep movsl to nothing", 0, CODE(CX("20") DI("0x40011010") "rep movsl"));
	memory("rep movsb from nothing", 0, CODE(CX("20") SI("0x40011010") "rep movsb"));
	memory("rep movsq from nothing into memory", 0, CODE(CX("20") SI("0x40011fc0") "rep movsq"));
	memory("rep stosb to nothing", 0, CODE(CX("20") DI("0x40011010") "rep stosb"));
	memory("rep lodsw from nothing", 0, CODE(CX("20") SI("0x40011010") "rep lodsw"));
	memory("repne scasb of nothing", 0, CODE(CX("20") DI("0x40011010") "mov $1, %al; repne scasb"));
	memory("repe cmpsb of nothing there", 0, CODE(CX("20") SI("0x40011010") DI("0x40011100") "repe cmpsb"));
}

void cases(void)
{
	moves();
	failures();
	compares();
	ports();
	crossing();
	of_devices();
}
