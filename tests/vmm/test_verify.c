/* The output verifier says no. Elsewhere it runs on all that the translator makes and is content; here it gets what a broken
 * or tricked translator might make, one mistake at a time, beside the same code without the mistake. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "vmm/engine/soft/emit.h"
#include "vmm/engine/soft/run.h"
#include "vmm/engine/soft/verify.h"

static struct ft_machine *m;
static struct soft_cpu *cpu;
static struct soft_blocks *blocks;
static struct emit e;
static uint8_t *start;
static struct ft_error err;

static int open_machine(void **state)
{
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .engine_options = {.cache_bytes = 1 << 20}};
	m = ft_machine_create(&config, &err);
	if (!m)
		return -1;
	cpu = m->engine->cpu;
	blocks = cpu->blocks;
	/* What the blocks of this test refer to. */
	blocks->link_used = blocks->record_used = 2;
	return 0;
}

static int close_machine(void **state)
{
	ft_machine_destroy(m);
	return 0;
}

static const uint8_t *thunk(enum soft_thunk t)
{
	return blocks->code + blocks->thunk[t];
}

/* A block begins ... */
static void begin(void)
{
	start = blocks->code + blocks->code_first;
	e.at = start;
	emit_mov_ecx(&e, 0);
	emit_jump_to(&e, thunk(SOFT_THUNK_EXPIRED));
	assert_int_equal(e.at - start, SOFT_RESUME);
}

/* ... and leaves for another. */
static void end(void)
{
	emit_mov_ecx(&e, 1);
	emit_jump_to(&e, thunk(SOFT_THUNK_LINK));
}

static int verdict(uint8_t mode)
{
	err = (struct ft_error){0};
	return soft_verify(cpu, start, (size_t)(e.at - start), SOFT_RESUME, mode, &err);
}

static void expect_good(const char *what, uint8_t mode)
{
	if (verdict(mode))
		fail_msg("%s was refused: %s", what, err.text);
}

static void expect_refused(const char *what, uint8_t mode)
{
	int error = verdict(mode);
	if (error != -EPERM)
		fail_msg("%s was not refused: %d %s", what, error, err.text);
}

static void raw(const char *bytes, size_t length)
{
	memcpy(e.at, bytes, length);
	e.at += length;
}

/* ---- Kinds of instructions ---- */

struct piece {
	const char *name, *bytes;
	uint8_t length;
};
#define PIECE(name, bytes)                                                                                   \
	{                                                                                                    \
		name, bytes, sizeof(bytes) - 1                                                               \
	}

static void plain_instructions_pass(void **state)
{
	static const struct piece good[] = {
	    PIECE("mov eax, ebx", "\x89\xd8"),
	    PIECE("add rax, rdx", "\x48\x01\xd0"),
	    PIECE("imul", "\x48\x0f\xaf\xc3"),
	    PIECE("div rbx", "\x48\xf7\xf3"),
	    PIECE("shl rax, 3", "\x48\xc1\xe0\x03"),
	    PIECE("lahf", "\x9f"),
	    PIECE("sahf", "\x9e"),
	    PIECE("setz al", "\x0f\x94\xc0"),
	    PIECE("cmovz", "\x48\x0f\x44\xc3"),
	    PIECE("addps", "\x0f\x58\xc1"),
	    PIECE("aesenc", "\x66\x0f\x38\xdc\xc1"),
	    PIECE("fld1", "\xd9\xe8"),
	    PIECE("fnstsw ax", "\xdf\xe0"),
	    PIECE("paddb mm", "\x0f\xfc\xc1"),
	    PIECE("lea rax, [rbx+rcx*4]", "\x48\x8d\x04\x8b"),
	    PIECE("lfence", "\x0f\xae\xe8"),
	    PIECE("popcnt", "\xf3\x48\x0f\xb8\xc3"),
	};
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		begin();
		raw(good[i].bytes, good[i].length);
		end();
		expect_good(good[i].name, SOFT_MODE_USER);
		expect_good(good[i].name, 0);
	}
}

/* Between these, RDI is lent. */
static void lend(unsigned slot)
{
	begin();
	emit_store(&e, slot ? SLOT(spill[1]) : SLOT(spill[0]), R_RDI);
	emit_lea(&e, R_RDI, emit_at(R_RAX, 0));
}

static void give_back(unsigned slot)
{
	emit_load(&e, R_RDI, slot ? SLOT(spill[1]) : SLOT(spill[0]));
	end();
}

static void a_lent_register_is_back_before_an_exception(void **state)
{
	static const struct piece good[] = {
	    PIECE("add edi, eax", "\x01\xc7"),
	    PIECE("xadd rdi, rax", "\x48\x0f\xc1\xc7"),
	    PIECE("shld edi, eax, cl", "\x0f\xa5\xc7"),
	    PIECE("cmpxchg edi, edx", "\x0f\xb1\xd7"),
	    PIECE("cmovz edi, eax", "\x0f\x44\xf8"),
	};
	static const struct piece bad[] = {
	    PIECE("div edi", "\xf7\xf7"),
	    PIECE("idiv ebx", "\xf7\xfb"),
	    PIECE("addps", "\x0f\x58\xc1"),
	    PIECE("cvttss2si edi, xmm0", "\xf3\x0f\x2c\xf8"),
	    PIECE("fld1", "\xd9\xe8"),
	    PIECE("paddb mm", "\x0f\xfc\xc1"),
	    PIECE("crc32 edi, eax", "\xf2\x0f\x38\xf1\xf8"),
	    PIECE("popcnt edi, eax", "\xf3\x0f\xb8\xf8"),
	    PIECE("adcx edi, eax", "\x66\x0f\x38\xf6\xf8"),
	};
	for (unsigned slot = 0; slot < 2; slot++) {
		for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
			lend(slot);
			raw(good[i].bytes, good[i].length);
			give_back(slot);
			expect_good(good[i].name, SOFT_MODE_USER);
		}
		for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
			lend(slot);
			raw(bad[i].bytes, bad[i].length);
			give_back(slot);
			expect_refused(bad[i].name, SOFT_MODE_USER);
			/* The same behind it. */
			lend(slot);
			emit_load(&e, R_RDI, slot ? SLOT(spill[1]) : SLOT(spill[0]));
			raw(bad[i].bytes, bad[i].length);
			end();
			expect_good(bad[i].name, SOFT_MODE_USER);
		}
	}
	lend(0);
	end();
	expect_refused("a register that is never given back", SOFT_MODE_USER);
	lend(0);
	emit_load(&e, R_RSI, SLOT(spill[0]));
	end();
	expect_refused("a register that gets another one's value", SOFT_MODE_USER);
	lend(0);
	emit_store(&e, SLOT(spill[0]), R_RSI);
	give_back(0);
	expect_refused("a value that is overwritten", SOFT_MODE_USER);
	lend(0);
	emit_store(&e, SLOT(spill[0]), R_RCX);
	give_back(0);
	expect_refused("a value that a scratch register overwrites", SOFT_MODE_USER);
}

static void what_leaves_the_sandbox_is_refused(void **state)
{
	static const struct piece bad[] = {
	    PIECE("syscall", "\x0f\x05"),
	    PIECE("sysenter", "\x0f\x34"),
	    PIECE("int 0x80", "\xcd\x80"),
	    PIECE("int3", "\xcc"),
	    PIECE("int1", "\xf1"),
	    PIECE("hlt", "\xf4"),
	    PIECE("iretq", "\x48\xcf"),
	    PIECE("ret", "\xc3"),
	    PIECE("ret 8", "\xc2\x08\x00"),
	    PIECE("retf", "\xcb"),
	    PIECE("jmp rax", "\xff\xe0"),
	    PIECE("call rax", "\xff\xd0"),
	    PIECE("jmp [rsp]", "\xff\x24\x24"),
	    PIECE("jmp far [rsp]", "\xff\x2c\x24"),
	    PIECE("call far [rsp]", "\xff\x1c\x24"),
	    PIECE("in al, dx", "\xec"),
	    PIECE("out dx, al", "\xee"),
	    PIECE("cpuid", "\x0f\xa2"),
	    PIECE("rdtsc", "\x0f\x31"),
	    PIECE("rdtscp", "\x0f\x01\xf9"),
	    PIECE("rdpmc", "\x0f\x33"),
	    PIECE("rdmsr", "\x0f\x32"),
	    PIECE("rdrand eax", "\x0f\xc7\xf0"),
	    PIECE("rdseed eax", "\x0f\xc7\xf8"),
	    PIECE("rdpid rax", "\xf3\x0f\xc7\xf8"),
	    PIECE("xgetbv", "\x0f\x01\xd0"),
	    PIECE("wrpkru", "\x0f\x01\xef"),
	    PIECE("rdpkru", "\x0f\x01\xee"),
	    PIECE("wrfsbase rax", "\xf3\x48\x0f\xae\xd0"),
	    PIECE("rdgsbase rax", "\xf3\x48\x0f\xae\xc8"),
	    PIECE("swapgs", "\x0f\x01\xf8"),
	    PIECE("sgdt", "\x0f\x01\x04\x24"),
	    PIECE("str", "\x0f\x00\xc8"),
	    PIECE("mov ss, eax", "\x8e\xd0"),
	    PIECE("mov gs, eax", "\x8e\xe8"),
	    PIECE("mov eax, cs", "\x8c\xc8"),
	    PIECE("mov rax, cr0", "\x0f\x20\xc0"),
	    PIECE("mov rax, dr7", "\x0f\x21\xf8"),
	    PIECE("std", "\xfd"),
	    PIECE("cld", "\xfc"),
	    PIECE("cli", "\xfa"),
	    PIECE("sti", "\xfb"),
	    PIECE("stac", "\x0f\x01\xcb"),
	    PIECE("pushf", "\x9c"),
	    PIECE("popf", "\x9d"),
	    PIECE("push rax", "\x50"),
	    PIECE("pop rax", "\x58"),
	    PIECE("push [rsp]", "\xff\x34\x24"),
	    PIECE("leave", "\xc9"),
	    PIECE("enter", "\xc8\x00\x00\x00"),
	    PIECE("movsb", "\xa4"),
	    PIECE("rep stosb", "\xf3\xaa"),
	    PIECE("lodsb", "\xac"),
	    PIECE("cmpsb", "\xa6"),
	    PIECE("scasb", "\xae"),
	    PIECE("xlat", "\xd7"),
	    PIECE("maskmovdqu, address unchecked", "\x66\x0f\xf7\xc1"),
	    PIECE("xsave", "\x0f\xae\x24\x24"),
	    PIECE("xrstor", "\x0f\xae\x2c\x24"),
	    PIECE("fxsave", "\x0f\xae\x04\x24"),
	    PIECE("fxrstor", "\x0f\xae\x0c\x24"),
	    PIECE("fnsave", "\xdd\x34\x24"),
	    PIECE("fnstenv", "\xd9\x34\x24"),
	    PIECE("vaddps", "\xc5\xf0\x58\xc1"),
	    PIECE("vzeroupper", "\xc5\xf8\x77"),
	    PIECE("pdep", "\xc4\xe2\x73\xf5\xc2"),
	    PIECE("andn", "\xc4\xe2\x70\xf2\xc2"),
	    PIECE("evex vaddps", "\x62\xf1\x74\x48\x58\xc1"),
	    PIECE("xbegin", "\xc7\xf8\x00\x00\x00\x00"),
	    PIECE("monitor", "\x0f\x01\xc8"),
	    PIECE("vmcall", "\x0f\x01\xc1"),
	    PIECE("clflush [rsp]", "\x0f\xae\x3c\x24"),
	    PIECE("undefined", "\x06"),
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		begin();
		raw(bad[i].bytes, bad[i].length);
		end();
		expect_refused(bad[i].name, SOFT_MODE_USER);
		expect_refused(bad[i].name, 0);
	}
}

static void host_rsp_is_nobodys_operand(void **state)
{
	static const struct piece bad[] = {
	    PIECE("mov rsp, rax", "\x48\x89\xc4"),       PIECE("mov rax, rsp", "\x48\x89\xe0"),
	    PIECE("add rsp, 8", "\x48\x83\xc4\x08"),     PIECE("lea rsp, [rsp+8]", "\x48\x8d\x64\x24\x08"),
	    PIECE("xchg rsp, rax", "\x48\x94"),          PIECE("mov esp, eax", "\x89\xc4"),
	    PIECE("mov spl, al", "\x40\x88\xc4"),        PIECE("cmp rsp, rax", "\x48\x39\xc4"),
	    PIECE("movzx eax, spl", "\x40\x0f\xb6\xc4"),
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		begin();
		raw(bad[i].bytes, bad[i].length);
		end();
		expect_refused(bad[i].name, SOFT_MODE_USER);
	}
}

/* ---- Memory ---- */

static void memory_needs_a_check(void **state)
{
	static const struct piece bad[] = {
	    PIECE("mov rax, [rbx]", "\x48\x8b\x03"),
	    PIECE("mov [rbx], rax", "\x48\x89\x03"),
	    PIECE("mov rax, [rip]", "\x48\x8b\x05\x00\x00\x00\x00"),
	    PIECE("mov rax, [0x1000]", "\x48\x8b\x04\x25\x00\x10\x00\x00"),
	    PIECE("mov rax, [moffs]", "\x48\xa1\x00\x10\x00\x00\x00\x00\x00\x00"),
	    PIECE("mov rax, [ebx]", "\x67\x48\x8b\x03"),
	    PIECE("mov rax, fs:[rsp]", "\x64\x48\x8b\x04\x24"),
	    PIECE("mov rax, gs:[0]", "\x65\x48\x8b\x04\x25\x00\x00\x00\x00"),
	    PIECE("add [rcx+r15], al, nothing compared", "\x42\x00\x04\x39"),
	    PIECE("movaps xmm0, [rax]", "\x0f\x28\x00"),
	    PIECE("fld [rax]", "\xdd\x00"),
	    PIECE("bt [rsp+8], rax", "\x48\x0f\xa3\x44\x24\x08\x48\x8b\x03"),
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		begin();
		raw(bad[i].bytes, bad[i].length);
		end();
		expect_refused(bad[i].name, SOFT_MODE_USER);
	}
}

#define SLOT_CASE(field)                                                                                     \
	{                                                                                                    \
#field, offsetof(struct soft_cpu, field)                                                     \
	}

static void slots_are_those_of_translated_code(void **state)
{
	static const struct {
		const char *name;
		size_t at;
	} own[] = {SLOT_CASE(gpr[0]), SLOT_CASE(gpr[15]), SLOT_CASE(spill[0]), SLOT_CASE(spill[2]),
		   SLOT_CASE(count)},
	  constant[] = {SLOT_CASE(tlb_mask), SLOT_CASE(bit_mask[0]), SLOT_CASE(canonical_mask[1]),
			SLOT_CASE(segment[FT_FS].base), SLOT_CASE(segment[FT_GS].base)},
	  foreign[] = {SLOT_CASE(m),
		       SLOT_CASE(blocks),
		       SLOT_CASE(tlb[0]),
		       SLOT_CASE(tlb[1]),
		       SLOT_CASE(host_sp),
		       SLOT_CASE(delta),
		       SLOT_CASE(address),
		       SLOT_CASE(cr3),
		       SLOT_CASE(flags),
		       SLOT_CASE(segment[FT_CS].base),
		       SLOT_CASE(gdt.base),
		       SLOT_CASE(lstar),
		       SLOT_CASE(limit),
		       SLOT_CASE(icount),
		       SLOT_CASE(return_address),
		       SLOT_CASE(fault),
		       SLOT_CASE(fx[0]),
		       SLOT_CASE(bounce)};
	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		begin();
		emit_store(&e, emit_at(R_RSP, (int32_t)own[i].at - SOFT_HOT), R_RAX);
		emit_load(&e, R_RAX, emit_at(R_RSP, (int32_t)own[i].at - SOFT_HOT));
		end();
		expect_good(own[i].name, SOFT_MODE_USER);
	}
	for (unsigned i = 0; i < sizeof(constant) / sizeof(constant[0]); i++) {
		begin();
		emit_load(&e, R_RAX, emit_at(R_RSP, (int32_t)constant[i].at - SOFT_HOT));
		end();
		expect_good(constant[i].name, SOFT_MODE_USER);
		begin();
		emit_store(&e, emit_at(R_RSP, (int32_t)constant[i].at - SOFT_HOT), R_RAX);
		end();
		expect_refused(constant[i].name, SOFT_MODE_USER);
	}
	for (unsigned i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
		begin();
		emit_store(&e, emit_at(R_RSP, (int32_t)foreign[i].at - SOFT_HOT), R_RAX);
		end();
		expect_refused(foreign[i].name, SOFT_MODE_USER);
		begin();
		emit_load(&e, R_RAX, emit_at(R_RSP, (int32_t)foreign[i].at - SOFT_HOT));
		end();
		expect_refused(foreign[i].name, SOFT_MODE_USER);
	}
	/* Over an edge, and out of the struct. */
	begin();
	emit_store(&e, emit_at(R_RSP, (int32_t)offsetof(struct soft_cpu, gpr[15]) + 4 - SOFT_HOT), R_RAX);
	end();
	expect_refused("over the end of gpr", SOFT_MODE_USER);
	begin();
	emit_load(&e, R_RAX, emit_at(R_RSP, (int32_t)sizeof(struct soft_cpu) - SOFT_HOT));
	end();
	expect_refused("behind the CPU", SOFT_MODE_USER);
	begin();
	emit_load(&e, R_RAX, emit_at(R_RSP, -SOFT_HOT - 8));
	end();
	expect_refused("before the CPU", SOFT_MODE_USER);
}

/* What may be wrong with a checked access; each is one departure from the right form. */
enum wrong {
	NOTHING_WRONG,
	READ_TAG,        /* a store by the read tag */
	OTHER_PRIVILEGE, /* tags of the other TLB */
	OTHER_ADD,       /* host addresses of the other TLB */
	NO_TAG,          /* the tag is not from a TLB */
	SIZE_TOO_SMALL,  /* compared for fewer bytes than accessed */
	BEFORE,          /* accessed below what was compared */
	BEHIND,          /* ... and behind */
	INVERTED,        /* the access is where the comparison failed */
	NO_COMPARISON,
	SHIFT,           /* by another count than 12 */
	OTHER_ADDRESS,   /* compared for one address, accessed at another */
	OTHER_INDEX,     /* host address of another entry */
	SCALED,          /* [rcx+r15*2] */
	LEAKED_REGISTER, /* the host address stays in a guest register */
	LEAKED_SLOT,     /* ... goes to a slot */
	LEAKED_MEMORY,   /* ... or to guest memory */
	LEAKED_FLAGS,    /* ... or into a comparison */
	MASK,            /* index by another mask than the TLB's */
	WRONGS
};

/* A store of RAX, 8 bytes, at the address in RBX. */
static void checked_store(enum wrong wrong)
{
	const uint8_t *hot = (const uint8_t *)cpu + SOFT_HOT;
	const struct soft_tlb *tlb = cpu->tlb[wrong != OTHER_PRIVILEGE],
			      *other = cpu->tlb[wrong != OTHER_PRIVILEGE && wrong != OTHER_ADD];
	const void *tags = wrong == READ_TAG ? tlb->rtag : wrong == NO_TAG ? tlb->add : tlb->wtag;
	struct emit_memory tag = {R_RSP, R_RCX, 3, (int32_t)((const uint8_t *)tags - hot)};
	struct emit_memory add = {R_RSP, R_RCX, 3, (int32_t)((const uint8_t *)other->add - hot)};
	emit_mov(&e, R_R15, R_RBX);
	emit_pext(&e, R_RCX, R_R15, wrong == MASK ? SLOT(bit_mask[2]) : SLOT(tlb_mask));
	emit_load(&e, R_RCX, tag);
	emit_lea(&e, R_RCX, (struct emit_memory){R_RCX, R_R15, 0, wrong == SIZE_TOO_SMALL ? 6 : 7});
	if (wrong == SHIFT)
		raw("\xc4\xe2\xf3\xf7\xc9", 5); /* shrx rcx, rcx, rcx */
	else
		emit_shrx(&e, R_RCX, R_RCX, R_RSP);
	uint8_t *hit = NULL, *miss = NULL;
	if (wrong != NO_COMPARISON) {
		hit = emit_jrcxz(&e);
		miss = wrong == INVERTED ? NULL : emit_jump(&e);
	}
	if (hit && wrong != INVERTED)
		emit_land(&e, hit);
	emit_pext(&e, R_RCX, wrong == OTHER_INDEX ? R_RDX : R_R15, SLOT(tlb_mask));
	emit_load(&e, R_RCX, add);
	if (wrong == OTHER_ADDRESS)
		emit_mov(&e, R_R15, R_RDX);
	struct emit_memory at = {R_RCX, R_R15, wrong == SCALED,
				 wrong == BEFORE   ? -1
				 : wrong == BEHIND ? 1
						   : 0};
	switch (wrong) {
	case LEAKED_REGISTER:
		emit_lea(&e, R_RDX, at);
		break;
	case LEAKED_SLOT:
		emit_lea(&e, R_RCX, at);
		emit_store(&e, SLOT_GPR(R_RCX), R_RCX);
		break;
	case LEAKED_MEMORY:
		emit_store(&e, at, R_RCX);
		break;
	case LEAKED_FLAGS:
		raw("\x48\x39\xc1", 3); /* cmp rcx, rax */
		break;
	default:
		emit_store(&e, at, R_RAX);
	}
	if (miss)
		emit_patch(miss, e.at);
	if (hit && wrong == INVERTED)
		emit_land(&e, hit);
	end();
}

static void a_checked_access_is_right_in_every_part(void **state)
{
	for (unsigned wrong = 0; wrong < WRONGS; wrong++) {
		char name[32];
		snprintf(name, sizeof(name), "checked store, mistake %u", wrong);
		begin();
		checked_store((enum wrong)wrong);
		if (wrong == NOTHING_WRONG)
			expect_good(name, SOFT_MODE_USER);
		else
			expect_refused(name, SOFT_MODE_USER);
	}
	begin();
	checked_store(NOTHING_WRONG);
	expect_refused("the user's TLB in supervisor code", 0);
}

/* The slow way: what the stub's info says is what may be done. */
static void stub(unsigned info, const uint8_t *to)
{
	begin();
	emit_mov(&e, R_R15, R_RBX);
	emit_mov_ecx(&e, info);
	emit_call_to(&e, to);
	emit_store(&e, (struct emit_memory){R_RCX, R_R15, 0, 0}, R_RAX);
	end();
}

static void stubs_permit_what_they_ask_for(void **state)
{
	stub(SOFT_INFO_WRITE | 8, thunk(SOFT_THUNK_MEMORY));
	expect_good("a store behind a stub", SOFT_MODE_USER);
	stub(SOFT_INFO_READ | 8, thunk(SOFT_THUNK_MEMORY));
	expect_refused("a store behind a stub for reading", SOFT_MODE_USER);
	stub(SOFT_INFO_WRITE | 4, thunk(SOFT_THUNK_MEMORY));
	expect_refused("a store of 8 bytes behind a stub for 4", SOFT_MODE_USER);
	stub(SOFT_INFO_WRITE | 0, thunk(SOFT_THUNK_MEMORY));
	expect_refused("an access of no bytes", SOFT_MODE_USER);
	stub(SOFT_INFO_WRITE | 65, thunk(SOFT_THUNK_MEMORY));
	expect_refused("an access of 65 bytes", SOFT_MODE_USER);
	stub(SOFT_INFO_WRITE | 8, thunk(SOFT_THUNK_OPERATION));
	expect_refused("a store behind another thunk", SOFT_MODE_USER);
	stub(SOFT_INFO_WRITE | 8, thunk(SOFT_THUNK_LINK));
	expect_refused("a call of a thunk that does not return", SOFT_MODE_USER);
	stub(SOFT_INFO_WRITE | 8, thunk(SOFT_THUNK_MEMORY) + 1);
	expect_refused("a call into a thunk", SOFT_MODE_USER);
	stub(SOFT_INFO_WRITE | 8, (const uint8_t *)cpu);
	expect_refused("a call to anywhere", SOFT_MODE_USER);
}

/* ---- Branches ---- */

static void branches_stay_or_leave_by_a_door(void **state)
{
	begin();
	emit_jump_to(&e, blocks->code + blocks->code_first + SOFT_BLOCK_ROOM);
	expect_refused("a jump out of the block", SOFT_MODE_USER);
	begin();
	emit_mov_ecx(&e, 1);
	emit_jump_to(&e, thunk(SOFT_THUNK_ENTER));
	expect_refused("a jump to a thunk for C", SOFT_MODE_USER);
	begin();
	emit_jump_to(&e, thunk(SOFT_THUNK_LINK));
	expect_refused("a way out without an index", SOFT_MODE_USER);
	begin();
	emit_load(&e, R_RCX, SLOT_GPR(R_RCX));
	emit_jump_to(&e, thunk(SOFT_THUNK_LINK));
	expect_refused("a way out with the guest's index", SOFT_MODE_USER);
	begin();
	emit_mov(&e, R_R15, R_RAX);
	emit_jump_to(&e, thunk(SOFT_THUNK_LOOKUP_USER));
	expect_good("an indirect jump", SOFT_MODE_USER);
	expect_refused("an indirect jump by the user's cache", 0);
	begin();
	emit_mov(&e, R_RAX, R_RBX);
	expect_refused("no way out", SOFT_MODE_USER);
	/* Into the middle of mov eax, imm32, which is a syscall there. */
	begin();
	emit_patch(emit_jump_if(&e, 4), e.at + 1);
	raw("\xb8\x0f\x05\x90\x90", 5);
	end();
	expect_refused("a branch into an instruction", SOFT_MODE_USER);
	begin();
	uint8_t *back = e.at;
	emit_mov(&e, R_RAX, R_RBX);
	emit_mov(&e, R_RBX, R_RDX);
	emit_patch(emit_jump_if(&e, 4), back + 3);
	end();
	expect_refused("a circle that pays nothing", SOFT_MODE_USER);
	begin();
	emit_patch(emit_jump_if(&e, 4), start + SOFT_RESUME);
	end();
	expect_good("round again by the entry, which pays", SOFT_MODE_USER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(plain_instructions_pass),
	    cmocka_unit_test(a_lent_register_is_back_before_an_exception),
	    cmocka_unit_test(what_leaves_the_sandbox_is_refused),
	    cmocka_unit_test(host_rsp_is_nobodys_operand),
	    cmocka_unit_test(memory_needs_a_check),
	    cmocka_unit_test(slots_are_those_of_translated_code),
	    cmocka_unit_test(a_checked_access_is_right_in_every_part),
	    cmocka_unit_test(stubs_permit_what_they_ask_for),
	    cmocka_unit_test(branches_stay_or_leave_by_a_door),
	};
	return cmocka_run_group_tests(tests, open_machine, close_machine);
}
