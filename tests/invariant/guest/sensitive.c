/* What no processor hides from a guest, or hides in one way only: instructions that tell about the machine, that work whatever
 * CPUID says, or whose flags are not defined and still one answer of this processor. Engines must not differ in them, or what an
 * attacker tries in a clone is not what it would do to the guest. */
#include "guest.h"

static void tables(void)
{
#define BOTH(text)                                                                                                    \
	observe("ring 0: " text, 0, CODE(text));                                                                      \
	observe("ring 3: " text, 3, CODE(text))
	for (unsigned umip = 0; umip < 2; umip++) {
		say("UMIP %u\n", (uint64_t)umip);
#define UNDER(name, ring, text)                                                                                       \
	write_cr4(umip ? read_cr(4) | 0x800 : read_cr(4) & ~0x800ull);                                                  \
	clear(window_ram(PAGE_DATA), 64);                                                                             \
	observe(name ": " text, ring, CODE(text));                                                                    \
	tell(" stored", *(uint64_t *)window_ram(PAGE_DATA));                                                          \
	tell(" and", *(uint16_t *)((uint8_t *)window_ram(PAGE_DATA) + 8))
#define EACH(text)                                                                                                    \
	UNDER("ring 0", 0, text);                                                                                     \
	UNDER("ring 3", 3, text)
		EACH("sgdt (%rsi)");
		EACH("sidt (%rsi)");
		EACH("sldt %eax");
		EACH("sldt %rax");
		EACH("sldt (%rsi)");
		EACH("str %ax");
		EACH("str %rcx");
		EACH("str (%rsi)");
		EACH("smsw %ax");
		EACH("smsw %eax");
		EACH("smsw %rax");
		EACH("smsw (%rsi)");
	}
	BOTH("lmsw %ax");
	observe("lmsw", 0, CODE("mov $0xf, %eax; lmsw %ax; mov %cr0, %rax; clts; mov %cr0, %rcx"));
	observe("lmsw clears no PE", 0, CODE("xor %eax, %eax; lmsw %ax; mov %cr0, %rax"));
}

/* LAR, LSL, VERR, VERW of every selector there is, in both rings. */
static void descriptors(void)
{
	/* The limit's bits in what LAR gives are a line of their own: the manuals leave them open (SDM Vol. 2A LAR). */
	char limits[2 * (GDT_END + 16) / 8 + 1];
	for (unsigned ring = 0; ring < 4; ring += 3) {
		unsigned n = 0;
		for (uint64_t selector = 0; selector < GDT_END + 16; selector += selector & 7 ? 5 : 3) {
			start.gpr[RBX] = selector;
			run(ring, CODE("mov $-1, %rax; mov $-1, %rcx; xor %edi, %edi; lar %bx, %rax; setz %dil; lsl %bx, %rcx; setz %dh;"
				       "verr %bx; setz %dl; verw %bx; setz %bh"));
			bool lar = last.gpr[RDI] & 1;
			limits[n++] = "0123456789abcdef"[lar ? last.gpr[RAX] >> 16 & 15 : 0];
			say("ring %u selector %x: lar %x %x lsl %x %x verr %x verw %x\n", (uint64_t)ring, selector, (uint64_t)lar,
			    last.gpr[RAX] & (lar ? ~0xf0000ull : UINT64_MAX), last.gpr[RDX] >> 8 & 1, last.gpr[RCX], last.gpr[RDX] & 1,
			    last.gpr[RBX] >> 8 & 1);
		}
		limits[n] = 0;
		say("ring %u limits of lar: %s\n", (uint64_t)ring, limits);
	}
	BOTH("mov $0x23, %ebx; lar %bx, %ax; lsl %bx, %cx");
	BOTH("mov $0x23, %ebx; lar %ebx, %eax; lsl %ebx, %ecx");
	BOTH("movw $0x2b, (%rsi); lar (%rsi), %eax; lsl (%rsi), %ecx; verr (%rsi)");
	BOTH("mov %cs, %eax; mov %ss, %ecx; mov %ds, %edx; mov %es, %ebx; mov %fs, %r8; mov %gs, %r15");
	BOTH("mov $-1, %rax; mov %cs, %ax; mov $-1, %rcx; mov %ss, %rcx; mov %cs, (%rsi); mov (%rsi), %rdx");
	BOTH("mov $0x2b, %eax; mov %eax, %fs; push %fs; pop %rax; push %gs; pop %rcx");
	BOTH("movq $-1, (%rsi); movw $0x2b, 8(%rsi); lfs (%rsi), %eax; mov %fs, %ecx; movw $0x23, 4(%rsi); .byte 0x48, 0x0f, 0xb5, 0x16; lss (%rsi), %eax");
}

static void flags(void)
{
	BOTH("pushf; pop %rax; popf; pushf; pop %rcx");
	BOTH("pushq $-1; popf; pushf; pop %rax; pushq $2; popf");
	BOTH("pushq $0x3000; popf; pushf; pop %rax; pushq $0; popf; pushf; pop %rcx");
	BOTH("pushq $0x4000; popf; pushf; pop %rax; pushq $0; popf");
	BOTH("pushq $0x240000; popf; pushf; pop %rax; pushq $0; popf");
	BOTH("pushq $0x10000; popf; pushf; pop %rax");
	BOTH("pushw $-1; popfw; pushf; pop %rax; pushq $2; popf");
	BOTH("pushfw; pop %ax");
	start.flags |= FLAG_IOPL;
	observe("popf with IOPL 3", 3, CODE("pushq $0x200; popf; pushf; pop %rax; pushq $0; popf; pushf; pop %rcx"));
	start.flags |= FLAG_IOPL;
	observe("cli and sti with IOPL 3", 3, CODE("sti; pushf; pop %rax; cli; pushf; pop %rcx"));
	BOTH("mov $-1, %eax; sahf; lahf; pushf; pop %rcx; xor %eax, %eax; sahf; lahf; pushf; pop %rdx");
	BOTH("std; pushf; pop %rax; cld; cmc; pushf; pop %rcx");
}

static void counters(void)
{
	BOTH("xor %ecx, %ecx; rdpmc");
	run(0, CODE("mov %cr4, %rax; or $0x100, %rax; mov %rax, %cr4"));
	observe("rdpmc with PCE", 3, CODE("xor %ecx, %ecx; rdpmc"));
	run(0, CODE("mov %cr4, %rax; or $0x100, %rax; mov %rax, %cr4"));
	observe("rdpmc of one that is not", 0, CODE("mov $0x1234, %ecx; rdpmc"));
	observe("rdpmc of the last that an AMD has always", 0, CODE("mov $3, %ecx; rdpmc"));
	observe("rdpmc of one more", 0, CODE("mov $4, %ecx; rdpmc"));
	observe("rdpmc with upper bits", 0, CODE("mov $0xc0000001, %ecx; rdpmc"));
	BOTH("xor %ecx, %ecx; xgetbv");
	BOTH("xor %ecx, %ecx; xsetbv");
	BOTH("xsave (%rsi)");
	BOTH("xrstor (%rsi)");
	BOTH("xsaveopt (%rsi)");
	BOTH("xsavec (%rsi)");
	BOTH("xsaves (%rsi)");
}

/* Whose flags the manuals leave open. */
static void undefined(void)
{
#define FLAGS_OF(text) observe(text, 3, CODE("mov $0x8d5, %eax; push %rax; popf; mov $0x89abcdef, %eax; mov $0x1234567, %ecx; mov $0x0f, %edx;" text)); \
	observe("2 " text, 3, CODE("push $2; popf; mov $0x70000000, %eax; mov $0x80000010, %ecx; mov $3, %edx;" text))
	FLAGS_OF("mul %cl");
	FLAGS_OF("mul %cx");
	FLAGS_OF("mul %ecx");
	FLAGS_OF("mul %rcx");
	FLAGS_OF("imul %cl");
	FLAGS_OF("imul %cx");
	FLAGS_OF("imul %ecx");
	FLAGS_OF("imul %ecx, %eax");
	FLAGS_OF("imul $77, %rcx, %rax");
	FLAGS_OF("div %ecx");
	FLAGS_OF("div %rcx");
	FLAGS_OF("xor %edx, %edx; idiv %ecx");
	FLAGS_OF("mov $7, %ax; mov $3, %cl; div %cl");
	FLAGS_OF("shl $1, %eax");
	FLAGS_OF("shl $4, %eax");
	FLAGS_OF("shl %cl, %eax");
	FLAGS_OF("shl %cl, %al");
	FLAGS_OF("mov $9, %cl; shl %cl, %al");
	FLAGS_OF("mov $8, %cl; shr %cl, %al");
	FLAGS_OF("mov $17, %cl; shr %cl, %ax");
	FLAGS_OF("mov $32, %cl; shr %cl, %eax");
	FLAGS_OF("mov $33, %cl; sar %cl, %eax");
	FLAGS_OF("mov $40, %cl; sar %cl, %rax");
	FLAGS_OF("rol $4, %eax");
	FLAGS_OF("ror $1, %eax");
	FLAGS_OF("mov $9, %cl; rol %cl, %al");
	FLAGS_OF("mov $16, %cl; ror %cl, %ax");
	FLAGS_OF("rcl $3, %eax");
	FLAGS_OF("mov $9, %cl; rcl %cl, %al");
	FLAGS_OF("mov $17, %cl; rcr %cl, %ax");
	FLAGS_OF("rcr $5, %rax");
	FLAGS_OF("shld $4, %ecx, %eax");
	FLAGS_OF("shrd $4, %ecx, %eax");
	FLAGS_OF("shld $20, %cx, %ax");
	FLAGS_OF("shrd %cl, %edx, %eax");
	FLAGS_OF("and %ecx, %eax");
	FLAGS_OF("test %eax, %eax");
	FLAGS_OF("xor %ecx, %eax");
	FLAGS_OF("bt $3, %eax");
	FLAGS_OF("bts %ecx, %eax");
	FLAGS_OF("bsf %ecx, %edx");
	FLAGS_OF("bsr %rcx, %rdx");
	FLAGS_OF("xor %ecx, %ecx; bsf %ecx, %edx");
	FLAGS_OF("xor %ecx, %ecx; bsr %rcx, %rdx");
	FLAGS_OF("mov $-1, %rdx; xor %ecx, %ecx; bsf %ecx, %edx");
	FLAGS_OF("bswap %ecx; bswap %rax");
	FLAGS_OF(".byte 0x66; bswap %eax");
	FLAGS_OF("cmpxchg %ecx, %edx");
	FLAGS_OF("xadd %ecx, %eax");
	FLAGS_OF("popcnt %ecx, %edx");
	FLAGS_OF("crc32l %ecx, %edx");
	FLAGS_OF("crc32q %rcx, %rdx");
}

/* The processor has these or has not, and a guest that does not ask CPUID sees which. */
static void not_hidden(void)
{
	FLAGS_OF("lzcnt %ecx, %edx");
	FLAGS_OF("tzcnt %ecx, %edx");
	FLAGS_OF("xor %ecx, %ecx; lzcnt %rcx, %rdx");
	FLAGS_OF("xor %ecx, %ecx; tzcnt %cx, %dx");
	FLAGS_OF("movbe (%rsi), %eax");
	FLAGS_OF("movbe %ecx, (%rsi)");
	FLAGS_OF("adcx %ecx, %eax");
	FLAGS_OF("adox %rcx, %rax");
	FLAGS_OF("andn %ecx, %eax, %edx");
	FLAGS_OF("andn (%rsi), %rax, %rdx");
	FLAGS_OF("bextr %ecx, %eax, %edx");
	FLAGS_OF("mov $0x0c08, %ecx; bextr %rcx, %rax, %rdx");
	FLAGS_OF("blsi %ecx, %edx");
	FLAGS_OF("blsmsk %rcx, %rdx");
	FLAGS_OF("blsr %ecx, %edx");
	FLAGS_OF("xor %ecx, %ecx; blsi %ecx, %edx");
	FLAGS_OF("xor %ecx, %ecx; blsr %rcx, %r15");
	FLAGS_OF("bzhi %ecx, %eax, %edx");
	FLAGS_OF("mov $5, %ecx; bzhi %rcx, %rax, %rdx");
	FLAGS_OF("mulx %ecx, %eax, %r8d");
	FLAGS_OF("mulx (%rsi), %rcx, %r15");
	FLAGS_OF("pdep %ecx, %eax, %edx");
	FLAGS_OF("pext %rcx, %rax, %rdx");
	FLAGS_OF("rorx $7, %ecx, %edx");
	FLAGS_OF("rorx $37, (%rsi), %rdx");
	FLAGS_OF("sarx %ecx, %eax, %edx");
	FLAGS_OF("shlx %rcx, %rax, %rdx");
	FLAGS_OF("shrx %ecx, (%rsi), %esp; mov %esp, %edx; mov $0x40009000, %esp");
	FLAGS_OF("aesenc %xmm0, %xmm1; pmovmskb %xmm1, %eax");
	FLAGS_OF("aesdeclast %xmm0, %xmm1; pmovmskb %xmm1, %eax");
	FLAGS_OF("aesimc %xmm0, %xmm1; aeskeygenassist $3, %xmm1, %xmm2; pmovmskb %xmm2, %eax");
	FLAGS_OF("movd %ecx, %xmm0; pclmulqdq $0, %xmm0, %xmm0; movq %xmm0, %rax");
	FLAGS_OF("sha256rnds2 %xmm1, %xmm2; pmovmskb %xmm2, %eax");
	FLAGS_OF("sha1rnds4 $1, %xmm1, %xmm2; sha1nexte %xmm2, %xmm1; sha1msg1 %xmm1, %xmm2; pmovmskb %xmm2, %eax");
	FLAGS_OF(".byte 0x66, 0x0f, 0x38, 0xcf, 0xc1"); /* gf2p8mulb %xmm1, %xmm0 */
	FLAGS_OF("movd %ecx, %xmm0; extrq $8, $4, %xmm0; movq %xmm0, %rax");
	FLAGS_OF("movd %ecx, %xmm0; insertq $8, $4, %xmm0, %xmm1; movq %xmm1, %rax");
	FLAGS_OF("movntss %xmm0, (%rsi)");
	FLAGS_OF("movntsd %xmm0, (%rsi)");
	FLAGS_OF(".byte 0x0f, 0x0f, 0xc1, 0x9e"); /* pfadd %mm1, %mm0 */
	FLAGS_OF("femms");
	FLAGS_OF("clflushopt (%rsi)");
	FLAGS_OF("clwb (%rsi)");
	FLAGS_OF("cldemote (%rsi)");
	FLAGS_OF("prefetchw (%rsi); prefetch (%rsi); prefetchwt1 (%rsi)");
	FLAGS_OF(".byte 0x0f, 0x38, 0xf9, 0x0e");             /* movdiri %ecx, (%rsi) */
	FLAGS_OF(".byte 0x66, 0x0f, 0x38, 0xf8, 0x0e");       /* movdir64b (%rsi), %rcx: to no address */
	FLAGS_OF("rdpid %rax");
	FLAGS_OF("serialize");
	FLAGS_OF("vzeroupper");
	FLAGS_OF("vmovaps %xmm0, %xmm1");
	FLAGS_OF("vaesenc %xmm0, %xmm1, %xmm2");
	FLAGS_OF(".byte 0x8f, 0xe9, 0x78, 0x81, 0xc0"); /* vfrczpd */
	FLAGS_OF(".byte 0x62, 0xf1, 0x7c, 0x48, 0x28, 0xc0");
	FLAGS_OF("xbegin 1f; 1: nop");
	FLAGS_OF("xabort $3");
	FLAGS_OF("xtest");
	FLAGS_OF(".byte 0xf2; rep stosb; xacquire lock incl (%rsi); xrelease movl $0, (%rsi)");
	FLAGS_OF("rdfsbase %rax");
	FLAGS_OF("wrgsbase %rcx");
	FLAGS_OF("rdpkru");
	FLAGS_OF("endbr64; rdsspq %rax; nopl (%rsi)");
	FLAGS_OF(".byte 0xf3, 0x0f, 0xae, 0x26"); /* ptwrite (%rsi) */
	FLAGS_OF("tpause %ecx");
	FLAGS_OF("umonitor %rsi");
	FLAGS_OF("umwait %ecx");
	FLAGS_OF("enqcmd (%rsi), %rcx");
	FLAGS_OF("clzero");
	FLAGS_OF("rdpru");
	FLAGS_OF("mcommit");
	FLAGS_OF("monitorx");
	FLAGS_OF("mwaitx");
	BOTH("stac; pushf; pop %rax; clac; pushf; pop %rcx");
	BOTH("xor %ecx, %ecx; xor %edx, %edx; mov %rsi, %rax; monitor");
	BOTH("xor %ecx, %ecx; xor %eax, %eax; mwait");
	BOTH("invpcid (%rsi), %rax");
	BOTH("wbnoinvd");
	observe("sysenter", 3, CODE("sysenter"));
	BOTH("sysexitl");
	/* With something to enter and to leave for: the end of a case, in the caller's page. */
	write_msr(0x174, CODE0);
	write_msr(0x175, 0x300000);
	write_msr(0x176, (uint64_t)CODE("mov %cs, %eax; mov %ss, %ecx; mov %rsp, %rdx").at);
	observe("sysenter to somewhere", 3, CODE("sysenter"));
	observe("sysexit to ring 3", 0, CODE("mov $0x40000800, %edx; movw $0x81cd, (%rdx); mov $0x40009000, %ecx; sysexitq"));
	observe("sysexit to nowhere", 0, CODE("mov $1, %edx; shl $47, %rdx; mov $0x40009000, %ecx; sysexitq"));
	observe("sysexit in ring 3", 3, CODE("sysexitq"));
	write_msr(0x174, 0);
	write_msr(0x175, 0);
	write_msr(0x176, 0);
	BOTH("rsm");
	BOTH("getsec");
	BOTH("encls");
	BOTH("enclu");
	BOTH("vmcall");
	BOTH("vmmcall");
	BOTH("vmlaunch");
	BOTH("vmptrld (%rsi)");
	BOTH("vmrun");
	BOTH("vmload");
	BOTH("vmsave");
	BOTH("stgi");
	BOTH("clgi");
	BOTH("skinit");
	BOTH("invlpga");
	BOTH("invept (%rsi), %rax");
	BOTH("vmfunc");
	BOTH(".byte 0x0f, 0x01, 0xfe"); /* invlpgb */
	BOTH(".byte 0x0f, 0x01, 0xff"); /* tlbsync */
	BOTH("mov %cr8, %rax");
	BOTH(".byte 0xf0; mov %cr0, %rax"); /* AMD's way to CR8 */
	BOTH(".byte 0xf0; mov %rax, %cr0");
	BOTH(".byte 0x66, 0xf0, 0x66; mov %cr0, %r15");
	BOTH(".byte 0xf0; mov %cr3, %rax");
	observe("both ways to cr8", 0,
		CODE("mov $5, %eax; .byte 0xf0; mov %rax, %cr0; mov %cr8, %rcx; mov $3, %eax; mov %rax, %cr8; .byte 0xf0; mov %cr0, %rdx"));
}

static void random_numbers(void)
{
	/* Values differ; whether it is there does not. */
	run(3, CODE("rdrand %rax; setc %cl"));
	say("rdrand: vector %u carry %u\n", last.vector, last.vector == DONE ? last.gpr[RCX] & 1 : 0);
	run(3, CODE("mov $1000, %edx; 1: rdseed %rax; jc 2f; dec %edx; jnz 1b; 2: setc %cl"));
	say("rdseed: vector %u carry %u\n", last.vector, last.vector == DONE ? last.gpr[RCX] & 1 : 0);
	run(3, CODE("rdrand %r15w; rdrand %ecx"));
	say("rdrand of other sizes: vector %u, upper half %x\n", last.vector, last.gpr[RCX] >> 32);
}

/* x87 and SSE state as it can be looked at. */
static void fpu(void)
{
	static const char *const names[] = {"control", "status", "tags", "opcode", "rip", "rdp", "mxcsr", "mask"};
	run(3, CODE("fninit; fld1; fldpi; fdivl 8(%rsi); fxsave64 (%rsi); fnstenv 0x200(%rsi); fnsave 0x300(%rsi)"));
	const uint16_t *image = window_ram(PAGE_DATA);
	for (unsigned i = 0; i < 8; i++)
		tell(names[i], i < 4 ? image[i] : i < 6 ? *(const uint64_t *)(const void *)(image + 4 * (i - 3)) : *(const uint32_t *)(const void *)(image + 2 * i));
	observe("fcom, ftst, fxam", 3, CODE("fninit; fldz; fld1; fcom; fnstsw %ax; mov %eax, %ecx; ftst; fnstsw %ax; mov %eax, %edx; fxam; fnstsw %ax"));
	observe("fcomi", 3, CODE("fninit; fldz; fld1; fcomi; lahf; fucomip; setp %al"));
	observe("fptan and friends", 3, CODE("fninit; fld1; fptan; fstp %st; fstpl (%rsi); mov (%rsi), %rax; fldpi; fsin; fstpl (%rsi); mov (%rsi), %rcx; fldl2e; f2xm1;"
					     "fstpl (%rsi); mov (%rsi), %rdx"));
	observe("rsqrt and rcp", 3, CODE("mov $0x40490fdb, %eax; movd %eax, %xmm0; rsqrtss %xmm0, %xmm1; rcpss %xmm0, %xmm2; movd %xmm1, %ecx; movd %xmm2, %edx"));
	observe("denormals", 3, CODE("push $0x9fc0; ldmxcsr (%rsp); mov $1, %eax; movd %eax, %xmm0; addss %xmm0, %xmm0; movd %xmm0, %ecx; stmxcsr (%rsp); pop %rdx"));
	observe("a misaligned operand with MM", 3, CODE("push $0x21f80; ldmxcsr (%rsp); addps 1(%rsi), %xmm0"));
	observe("a misaligned move of aligned data with MM", 3, CODE("push $0x21f80; ldmxcsr (%rsp); movaps 1(%rsi), %xmm0"));
	observe("minsd of numbers that are none", 3, CODE("pcmpeqd %xmm0, %xmm0; xorps %xmm1, %xmm1; minss %xmm1, %xmm0; movd %xmm0, %eax; cvtsi2sd %rcx, %xmm0; cvttsd2si %xmm0, %ecx"));
}

/* AC in ring 3 with AM: Linux sets AM, and AC is for everybody. */
static void alignment_checks(void)
{
	start.flags |= FLAG_AC;
	write_cr0(read_cr(0) | 0x40000);
	expect("aligned", 3, CODE("mov (%rsi), %rax; mov 4(%rsi), %eax; mov 1(%rsi), %al"), DONE, -1, 0);
	start.flags |= FLAG_AC;
	write_cr0(read_cr(0) | 0x40000);
	expect("misaligned load", 3, CODE("mov 2(%rsi), %eax"), AC, 0, 0);
	start.flags |= FLAG_AC;
	write_cr0(read_cr(0) | 0x40000);
	expect("misaligned store", 3, CODE("mov %ax, 1(%rsi)"), AC, 0, 0);
	start.flags |= FLAG_AC;
	write_cr0(read_cr(0) | 0x40000);
	expect("misaligned stack", 3, CODE("dec %rsp; push %rax"), AC, 0, 0);
	start.flags |= FLAG_AC;
	write_cr0(read_cr(0) | 0x40000);
	observe("misaligned operand with MM and AC", 3, CODE("push $0x21f80; ldmxcsr (%rsp); addps 1(%rsi), %xmm0"));
	start.flags |= FLAG_AC;
	expect("without AM", 3, CODE("mov 2(%rsi), %eax"), DONE, -1, 0);
	start.flags |= FLAG_AC;
	write_cr0(read_cr(0) | 0x40000);
	expect("in ring 0", 0, CODE("mov 2(%rsi), %eax"), DONE, -1, 0);
	write_cr0(read_cr(0) | 0x40000);
	expect("AC set by popf", 3, CODE("mov 2(%rsi), %eax; pushf; orl $0x40000, (%rsp); popf; mov 2(%rsi), %eax"), AC, 0, 0);
}

static void breakpoints(void)
{
	__asm__ volatile("mov %0, %%dr0; mov %1, %%dr7" : : "r"(PAGE(CODE) + 3), "r"(0x403ull));
	expect("instruction", 3, CODE("nop; nop; nop; nop; nop"), DB, -1, 0);
	__asm__ volatile("mov %0, %%dr0; mov %1, %%dr7" : : "r"(PAGE(DATA) + 8), "r"(0xd0403ull));
	expect("write", 3, CODE("mov 8(%rsi), %eax; mov %eax, 4(%rsi); mov %eax, 10(%rsi); nop"), DB, -1, 0);
	__asm__ volatile("mov %0, %%dr1; mov %1, %%dr7" : : "r"(PAGE(DATA) + 16), "r"(0xf0040cull));
	expect("read", 3, CODE("mov 8(%rsi), %eax; mov 15(%rsi), %ax; nop"), DB, -1, 0);
	__asm__ volatile("mov %0, %%dr0; mov %1, %%dr7" : : "r"(PAGE(CODE) + 3), "r"(0x403ull));
	start.flags |= 0x10000;
	expect("instruction with RF", 3, CODE("nop; nop; nop; nop; nop"), DB, -1, 0);
}

void cases(void)
{
	tables();
	descriptors();
	flags();
	counters();
	undefined();
	not_hidden();
	random_numbers();
	fpu();
	alignment_checks();
	breakpoints();
}
