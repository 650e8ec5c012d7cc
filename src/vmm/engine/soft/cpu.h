/* The software engine's CPU: everything a guest instruction can read or change, and the shapes that the parts of the
 * engine share. translate.c, emit.c, block.c and run.c make and run host code; system.c, exception.c, segment.c,
 * mmu.c, string.c, control.c ... carry out in C what is not translated (struct soft_insn, soft_execute).
 *
 * C code that is called between translated instructions is built -mgeneral-regs-only and calls no libc: the guest's
 * XMM and x87 state is in the host's registers then. Machine code (devices) is called only through soft_bus_* and
 * the platform calls in bus.c, which save and restore it. */
#ifndef FT_VMM_ENGINE_SOFT_CPU_H
#define FT_VMM_ENGINE_SOFT_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/machine.h"
#include "vmm/state.h"

struct soft_blocks; /* block cache and code cache: block.h */

#define SOFT_TLB_BITS_MAX 11u
#define SOFT_TLB_MAX      (1u << SOFT_TLB_BITS_MAX)

/* Tags are the negated page base; invalid: soft_tlb_invalid(index), which cannot be hit. add: host address
 * minus guest virtual address of the page, page: its physical address / 4096; valid when rtag or wtag hits. wtag only when
 * D is set, the page is writable for this privilege and holds no translated code. */
struct soft_tlb {
	uint64_t rtag[SOFT_TLB_MAX];
	uint64_t wtag[SOFT_TLB_MAX];
	uint64_t add[SOFT_TLB_MAX];
	uint32_t page[SOFT_TLB_MAX];
	uint8_t kind[SOFT_TLB_MAX]; /* 1: global, 2: part of a 2 MiB page, 4: of a 1 GiB page */
	/* Slots filled with non-global entries since the last flush: makes a CR3 write cheap. Full: scan all. */
	uint16_t filled[SOFT_TLB_MAX];
	uint32_t filled_count;
	bool giants; /* 1 GiB entries may be there */
};

enum soft_vector {
	SOFT_DE = 0, SOFT_DB = 1, SOFT_NMI = 2, SOFT_BP = 3, SOFT_OF = 4, SOFT_BR = 5, SOFT_UD = 6, SOFT_NM = 7,
	SOFT_DF = 8, SOFT_TS = 10, SOFT_NP = 11, SOFT_SS = 12, SOFT_GP = 13, SOFT_PF = 14, SOFT_MF = 16, SOFT_AC = 17,
	SOFT_XM = 19
};

#define SOFT_FLAGS_ARITH 0x8d5u /* CF PF AF ZF SF OF */
#define SOFT_FLAG_TF     0x100u
#define SOFT_FLAG_IF     0x200u
#define SOFT_FLAG_DF     0x400u

/* Inside translated code host RSP is &cpu + SOFT_HOT: 12 (mod 64), so that RSP is the shift count of `shrx` by 12, and
 * every slot below is [rsp+disp8]. Only `call` to a thunk of ours writes below host RSP (into return_address); signals
 * are on an alternate stack. Everyone uses names. */
#define SOFT_HOT 140

struct soft_cpu {
	uint64_t unreachable[4]; /* out of disp8's reach, and what makes RSP 12 (mod 64) */
	uint64_t count;          /* -(instructions that may still run behind the current block) - 1: below 0 while all is
	                            well; instructions done = limit + count + 1 - rest of the block */
	uint64_t tlb_mask;
	uint64_t spill[3];       /* of registers that translated code borrows for one instruction */
	uint64_t delta, address; /* slow path: host address - guest address; guest address */
	uint64_t host_sp;
	uint64_t bit_mask[3];    /* 15, 31, 63: pext masks of bt* */
	uint64_t flags;    /* arithmetic flags as in RFLAGS when C helpers run; IF, DF and the system flags (TF, IOPL,
	                      NT, RF, VM, AC, ID) are always here. Bit 1 is set. */
	uint8_t return_address[16]; /* [rsp-8] at [4] */
	uint64_t gpr[16];  /* RSP, RCX, R15 always here; the others only outside of translated code (all of them are
	                      here, and only here, when C helpers run) */

	uint64_t rip;      /* of the instruction being executed, when C helpers run */
	uint64_t icount;   /* exact when C helpers run: instructions completed before this one */

	struct ft_segment segment[FT_SEGMENTS], ldt, tr; /* fs/gs base: segment[].base */
	struct ft_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer;
	uint64_t dr[8];
	uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip, pat, misc_enable, spec_ctrl;
	uint8_t cpl;
	bool code64;            /* CS.L and EFER.LMA: the translator runs; else interpret.c does (boot trampoline) */
	uint64_t shadow_icount; /* no interrupt at this icount (behind STI, MOV SS); UINT64_MAX: none */
	uint64_t quiet_icount;  /* no step at this icount (behind MOV SS, POP SS); a #DB that is lost, so no part of the state */
	bool nmi_masked, halted;
	bool fpu_allowed; /* the next instruction runs as if not in SOFT_MODE_NO_FPU */
	uint8_t hits; /* breakpoints that the running instruction has met */
	bool entered; /* the last instruction was SYSCALL or INT n: a single step ends with what TF is behind it */

	/* Set by soft_raise, delivered by soft_deliver. */
	struct {
		bool pending, has_error;
		uint8_t vector;
		uint32_t error;
		uint64_t address; /* CR2 for #PF, DR6 bits for #DB */
	} fault;

	struct ft_machine *m;
	struct soft_blocks *blocks;
	struct soft_tlb *tlb[2]; /* [user]; in struct soft_hot, as this is */
	uint32_t tlb_bits;
	bool always_slow;
	bool intel; /* the host's processor: where Intel's and AMD's differ, the guest gets what it would do */
	uint32_t host; /* SOFT_HOST_*: what it has that it cannot hide (hidden.c) */
	uint32_t mxcsr_bits; /* that the guest may set: the host's, unless the model forbids (mxcsr.h) */
	volatile int stop; /* engine ops stop() */

	uint64_t jump_mask[2];      /* by enum soft_jump_cache: of its sets */
	uint64_t canonical_mask[2]; /* pext masks: bits 47 to 63; of their sum with 1, all but what is canonical */

	/* run.c */
	uint64_t limit;   /* icount at which translated code must leave */
	uint64_t argument; /* of the leaving thunk */
	uint32_t reason;   /* enum soft_leave */
	uint8_t fx[512] __attribute__((aligned(64))); /* FXSAVE image while not running */
	uint8_t bounce[256] __attribute__((aligned(64)));
};

_Static_assert(offsetof(struct soft_cpu, return_address) == SOFT_HOT - 12, "host RSP - 8 is return_address + 4");
_Static_assert(offsetof(struct soft_cpu, gpr) == SOFT_HOT + 4, "gpr[15] within disp8");

#define SOFT_HOST_RDRAND     1u /* AMD's: Intel's can be intercepted */
#define SOFT_HOST_RDSEED     2u
#define SOFT_HOST_SMAP       4u
#define SOFT_HOST_CLFLUSHOPT 8u
#define SOFT_HOST_CLWB       16u
#define SOFT_HOST_SKINIT     32u
#define SOFT_HOST_LOCK_CR0   64u /* is CR8 (translate.c) */
#define SOFT_HOST_MISALIGN   128u /* MXCSR.MM */

/* The tag of an empty entry: no address that selects this index, nor one up to 63 bytes below its page, may hit. So
 * neither 0 nor a neighbour; TLBs have at least 4 entries. */
static inline uint64_t soft_tlb_invalid(uint64_t index)
{
	return -((index ^ 2) << 12);
}

/* A write tag that was rtag's, and is again after the next store, which first copies the page (soft_tlb_share_granted). Not
 * hit either; another value than soft_tlb_invalid. */
static inline uint64_t soft_tlb_shared(uint64_t index)
{
	return -((index ^ 2) << 12 | 1ull << 62);
}

/* ---- What C carries out ------------------------------------------------------------------------------------ */

/* X(OP): operations the translator hands to soft_execute. */
#define SOFT_OPS(X)                                                                                             \
	X(HLT) X(CLI) X(STI) X(PUSHF) X(POPF) X(IRET) X(SYSCALL) X(SYSRET) X(SYSENTER) X(SYSEXIT) X(INT) X(INT3)  \
	X(INT1) X(LGDT) X(LIDT) X(SGDT) X(SIDT) X(LLDT) X(LTR) X(SLDT) X(STR) X(LMSW) X(SMSW) X(MOV_FROM_CR)      \
	X(MOV_TO_CR) X(MOV_FROM_DR) X(MOV_TO_DR) X(CLTS) X(RDMSR) X(WRMSR) X(CPUID) X(RDTSC) X(RDTSCP) X(RDPMC)   \
	X(INVD) X(WBINVD) X(INVLPG) X(SWAPGS) X(IN) X(OUT) X(INS) X(OUTS) X(MOVS) X(STOS) X(LODS) X(SCAS) X(CMPS) \
	X(MOV_TO_SEG) X(MOV_FROM_SEG) X(PUSH_SEG) X(POP_SEG) X(LOAD_FAR) X(FAR_CALL) X(FAR_JMP) X(FAR_RET)        \
	X(LAR) X(LSL) X(VERR) X(VERW) X(FXSAVE) X(FXRSTOR) X(FNSAVE) X(FRSTOR) X(FNSTENV) X(FLDENV)               \
	X(CMPXCHG16B) X(ENTER) X(RDFSBASE) X(RDGSBASE) X(WRFSBASE) X(WRGSBASE) X(CLD) X(STD) X(UD)                \
	X(ANDN) X(BEXTR) X(BLSI) X(BLSMSK) X(BLSR) X(BZHI) X(MULX) X(PDEP) X(PEXT) X(RORX) X(SARX) X(SHLX) X(SHRX) \
	X(VMCALL) X(VMMCALL) X(LDMXCSR) X(RDRAND) X(RDSEED) X(STAC) X(CLAC) X(CLFLUSH) X(CLFLUSHOPT) X(CLWB) \
	X(SVM) X(SKINIT)

enum soft_op {
#define X(op) SOFT_OP_##op,
	SOFT_OPS(X)
#undef X
		SOFT_OP_COUNT
};

/* One decoded instruction for C. Built by the translator from Zydis' decoding. */
struct soft_insn {
	uint8_t op;           /* enum soft_op */
	uint8_t length;       /* bytes */
	uint8_t operand_size; /* 1, 2, 4, 8 bytes */
	uint8_t address_size; /* 4, 8 */
	uint8_t repeat;       /* 0, 0xf2, 0xf3 */
	uint8_t lock;
	uint8_t segment;      /* enum ft_segment_name of the memory operand, after overrides */
	bool memory;          /* ModRM names memory */
	uint8_t modrm_reg;    /* with REX.R or VEX.R: 0..15; the register in VEX.vvvv is immediate2 */
	uint8_t modrm_rm;     /* register form: 0..15 */
	uint8_t base, index, scale; /* 0..15, 16 = RIP (base) or none (index), 17 = no base */
	bool rex;             /* byte registers 4..7 are SPL.. */
	int64_t displacement;
	uint64_t immediate, immediate2;
	uint8_t bytes[15];
};

enum soft_result {
	SOFT_NEXT,  /* done; rip not advanced by C: the caller adds length; mode, paging and code are unchanged */
	SOFT_SYNC,  /* done like NEXT, but look again at interrupts, deadline, code invalidation before going on */
	SOFT_JUMP,  /* done and rip set (may have changed mode, cpl, CR3): look everything up again */
	SOFT_AGAIN, /* not finished (long REP): state says how far; run this instruction again. The piece counts as one: where
	               pieces end depends on addresses alone, so the count stays exact */
	SOFT_FAULT, /* soft_raise was called; rip still at the instruction; not counted */
	SOFT_HALT   /* done, rip to be advanced by the caller; cpu->halted set */
};

enum soft_result soft_execute(struct soft_cpu *cpu, const struct soft_insn *insn);

/* Runs one instruction that is not 64-bit code (protected mode with or without paging, compatibility mode at CPL 0):
 * what boot trampolines need; anything beyond raises #UD. Fetches by itself and sets rip (at SOFT_HALT too); never
 * SOFT_NEXT or SOFT_SYNC. The caller counts it unless it is SOFT_FAULT. */
enum soft_result soft_interpret(struct soft_cpu *cpu);

/* Effective linear address of insn's memory operand (segment base added for FS and GS; truncated to address size). */
uint64_t soft_address(struct soft_cpu *cpu, const struct soft_insn *insn);

/* ---- Faults and events (exception.c) -------------------------------------------------------------------------- */

enum soft_result soft_raise(struct soft_cpu *cpu, uint8_t vector, bool has_error, uint32_t error, uint64_t address);

/* Delivers cpu->fault through the IDT (SDM 6.12-6.14, 64-bit), escalating to #DF. Returns false on a triple fault. */
bool soft_deliver(struct soft_cpu *cpu);

/* Delivers external interrupt `vector` (or NMI) at the current rip. false: triple fault. */
bool soft_interrupt(struct soft_cpu *cpu, uint8_t vector);

/* ---- Memory (mmu.c) ------------------------------------------------------------------------------------------- */

enum soft_access { SOFT_READ, SOFT_WRITE, SOFT_EXECUTE };

struct soft_page {
	uint64_t gpa;        /* of the 4 KiB page */
	uint64_t entry;      /* leaf entry; W and U as effective over all levels */
	bool ram, large, giant, global, writable, user, executable, dirty; /* writable, executable: for this privilege */
};

/* Walks the page tables for one access (sets A and D). false: cpu->fault is raised (#PF, or #GP/#SS when not
 * canonical). user: with CPL 3 rights. */
bool soft_walk(struct soft_cpu *cpu, uint64_t va, enum soft_access access, bool user, struct soft_page *page);

/* Translates for one access within a page and fills the TLB; host address of va, or NULL with *mmio = true (gpa set), or
 * NULL with a fault raised. It is good until the next write to the page is granted. Writes are granted (ft_memory_grant) but not announced to translated code: whoever then
 * writes to a page with FT_PAGE_CODE calls soft_code_write first, as soft_store does. */
void *soft_translate(struct soft_cpu *cpu, uint64_t va, enum soft_access access, bool user, bool *mmio, uint64_t *gpa);

/* Any size up to a page, crossing pages and MMIO allowed; both pages are checked before anything is written.
 * user: with CPL 3 rights (implicit supervisor accesses pass false). false: fault raised, nothing changed. */
bool soft_load(struct soft_cpu *cpu, uint64_t va, void *to, uint32_t size, bool user);
bool soft_store(struct soft_cpu *cpu, uint64_t va, const void *from, uint32_t size, bool user);

void soft_tlb_flush(struct soft_cpu *cpu, bool keep_global);
void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t va);
/* No write tag leads to the page any more: the next store is granted (and marked) anew. Where the page gets translated
 * code (call it when FT_PAGE_CODE is set), none will. */
void soft_tlb_protect(struct soft_cpu *cpu, uint64_t gpa);
/* The page has moved. What is remembered of it is so as before: where its bytes are must not show. */
void soft_tlb_follow(struct soft_cpu *cpu, uint64_t page);
/* The next store by each write tag asks for a copy of its page (ft_memory_copy). Grants stay grants, so that nothing of it
 * shows: no accessed or dirty bit is set anew. */
void soft_tlb_share_granted(struct soft_cpu *cpu);
/* All write tags go: later writes are granted (and marked) anew. */
void soft_tlb_drop_grants(struct soft_cpu *cpu);

/* ---- Towards blocks (block.c, the translator's side) ----------------------------------------------------------- */

/* Bytes [gpa, gpa+size) in a page with FT_PAGE_CODE are about to change. */
void soft_code_write(struct soft_cpu *cpu, uint64_t gpa, uint32_t size);
/* Inline jump cache must forget (paging or mode changed). Called by soft_tlb_flush*, too. A change of CPL alone does not
 * call it: SOFT_JUMP tells, and the cache is one per privilege. */
void soft_jumps_flush(struct soft_cpu *cpu);
/* As above, but what is reached through global pages stays (CR3 writes). */
void soft_jumps_flush_space(struct soft_cpu *cpu);
/* As above, but what is reached through other pages than va's stays (INVLPG; SDM Vol. 3A 4.10.4.1): a process that gives memory
 * back does not empty the kernel's. */
void soft_jumps_flush_page(struct soft_cpu *cpu, uint64_t va);

/* ---- Towards the machine, FPU state saved (bus.c) ----------------------------------------------------------------- */

uint64_t soft_bus_read(struct soft_cpu *cpu, enum ft_space space, uint64_t address, unsigned size);
void soft_bus_write(struct soft_cpu *cpu, enum ft_space space, uint64_t address, unsigned size, uint64_t value);
int soft_platform_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *value);
int soft_platform_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value);
uint64_t soft_platform_cr8(struct soft_cpu *cpu);
void soft_platform_set_cr8(struct soft_cpu *cpu, uint64_t value);
uint64_t soft_tsc(struct soft_cpu *cpu);
int soft_irq_acknowledge(struct soft_cpu *cpu);
void soft_fetch(struct soft_cpu *cpu, uint64_t gpa); /* RAM whose contents are still elsewhere (ft_memory_absent) */

/* Hooks, called only where m->hooks.mask asks for them. */
void soft_hook_syscall(struct soft_cpu *cpu);
void soft_hook_sysret(struct soft_cpu *cpu);
void soft_hook_cr3(struct soft_cpu *cpu, uint64_t old, uint64_t new);
void soft_hook_fault(struct soft_cpu *cpu, uint8_t vector, uint32_t error, uint64_t address);
void soft_hook_exec_page(struct soft_cpu *cpu, uint64_t rip, uint64_t gpa, uint8_t page_flags, uint64_t pte_flags);

#endif
