/* Blocks of translated code, the code cache they live in, and the shapes of what is emitted.
 *
 * A block is a straight run of guest instructions of one page (only conditional side exits in between), or a single
 * instruction that crosses a page. It is valid for (rip, physical address, mode); whoever enters it directly (chained)
 * comes from the same page, everybody else through the jump cache or soft_block_find.
 *
 * ---- Shapes of emitted code: what the output verifier relies on ----
 *
 * Roles in translated code:
 *   RSP       &cpu + SOFT_HOT, never changed outside of thunks; [rsp+disp] with no index: slots of struct soft_cpu
 *   RCX, R15  scratch; guest RSP, RCX, R15 live in cpu->gpr[]
 *   others    the guest's, as are flags (arithmetic only; DF, TF, AC are never set), XMM, x87
 * A third scratch ("spare") is a guest register other than those the instruction uses: saved to spill[0] before, restored
 * right behind the instruction, which is one that raises no exception by itself.
 *
 * All inserted code is of: mov, lea, pext, shrx, sarx, rorx, movsx/movzx, movsxd, jrcxz/jecxz, jmp rel, jcc rel32
 * (guest condition), call rel32 (thunk).
 *
 * Block:      resume:  mov ecx, block index; jmp thunk[EXPIRED]              10 bytes in front of the entry
 *             entry:   mov rcx,[rsp+count]; lea rcx,[rcx+n]; mov [rsp+count],rcx; rorx rcx,rcx,32; jecxz resume
 *             (a dropped block's entry begins with a 2-byte jmp to `resume`, later a jmp to its successor)
 *             body, then stubs. `size` covers resume .. end of the stubs.
 *
 * Checked access, address in R15 (EA computed by mov/lea from guest registers, slots, immediates, FS/GS base slots):
 *             pext rcx,r15,[rsp+tlb_mask]
 *             mov  rcx,[rsp+rcx*8+D]              D: rtag or wtag of tlb[user]
 *             lea  rcx,[rcx+r15+size-1]
 *             shrx rcx,rcx,rsp
 *             jrcxz hit; jmp stub
 *      hit:   pext rcx,r15,[rsp+tlb_mask]; mov rcx,[rsp+rcx*8+D']             D': add of tlb[user]
 *      access: the guest instruction on [rcx+r15], at most `size` bytes; or lea rcx|r15|spare,[rcx+r15] and then
 *             on [rcx], [r15] or [spare]
 *      stub:  mov ecx, info; call thunk[MEMORY]; jmp access                   returns RCX = host - guest, R15 = EA
 *
 * Checked access, address base+disp with base a guest register that is native:
 *             [lea r15,[base+disp];] pext r15, r15|base, [rsp+tlb_mask]
 *             mov  rcx,[rsp+r15*8+D]
 *             lea  rcx,[rcx+base+disp+size-1]
 *             shrx rcx,rcx,rsp
 *             jrcxz hit; jmp stub
 *      hit:   mov r15,[rsp+r15*8+D']
 *      access: on [base+r15+disp], or lea rcx|r15|spare,[base+r15+disp] and then on [rcx], [r15] or [spare]
 *      stub:  lea r15,[base+disp]; mov ecx, info; call thunk[MEMORY]; mov r15,rcx; jmp access
 *
 * Slow mode (blocks of one instruction, SOFT_MODE_SLOW): EA in R15; mov ecx, info; call thunk[SLOW]; the access on
 * [rcx+r15] as above (cpu->bounce); behind an instruction that writes: mov ecx, info; call thunk[COMMIT].
 * info: enum soft_info bits.
 *
 * Instruction in C: mov ecx, record index; call thunk[OPERATION]; goes on behind it, or not at all.
 *
 * Leaving:    same page: jmp rel32, to its stub `mov ecx, link index; jmp thunk[LINK]`, later to the target's entry
 *             elsewhere: mov r15, target; jmp thunk[LOOKUP + user]            (R15 = any 64-bit value; before it, when
 *             the guest has computed the target: mov dword [rsp+spill[0]], where this is)
 *             out of unchained blocks: mov r15, target; jmp thunk[JUMP]
 *             side exit's stub: mov rcx,[rsp+count]; lea rcx,[rcx-k]; mov [rsp+count],rcx; then as above
 * Thunks (soft_thunks, made once) are the only other code. */
#ifndef FT_VMM_ENGINE_SOFT_BLOCK_H
#define FT_VMM_ENGINE_SOFT_BLOCK_H

#include "vmm/engine/soft/cpu.h"

#define SOFT_BLOCK_LIMIT   48u /* default of ft_engine_options.block_limit; at most SOFT_BLOCK_MOST */
#define SOFT_BLOCK_MOST    64u
#define SOFT_BLOCK_ROOM    (32u << 10) /* no block is larger */
#define SOFT_CACHE_DEFAULT (64u << 20)
#define SOFT_CACHE_LEAST   (1u << 20)
/* One jump cache for each privilege. The one for user code is emptied with each change of the address space. */
enum soft_jump_cache { SOFT_JUMPS_KERNEL, SOFT_JUMPS_USER, SOFT_JUMP_CACHES };
#define SOFT_JUMP_SETS       (1u << 14) /* of the kernel's: with half as many, an idle kernel's wake-up misses five times, not twice */
#define SOFT_JUMP_SETS_USER  (1u << 13)
#define SOFT_NONE          UINT32_MAX

enum soft_mode {
	SOFT_MODE_USER = 1,   /* CPL 3 */
	SOFT_MODE_SLOW = 2,   /* one instruction, all accesses through C */
	SOFT_MODE_NO_FPU = 4, /* CR0.TS or EM, no CR4.OSFXSR: C looks whether x87, MMX, SSE raise #NM or #UD */
	SOFT_MODE_ONCE = 8    /* not kept: the rest of a budget */
};

enum soft_thunk {
	SOFT_THUNK_MEMORY,
	SOFT_THUNK_SLOW,
	SOFT_THUNK_COMMIT,
	SOFT_THUNK_OPERATION,
	SOFT_THUNK_EXPIRED,
	SOFT_THUNK_LINK,
	SOFT_THUNK_JUMP,
	SOFT_THUNK_FAULT, /* the signal handler resumes here */
	SOFT_THUNK_LOOKUP,
	SOFT_THUNK_LOOKUP_USER,
	SOFT_THUNK_ENTER, /* called from C: void (struct soft_cpu *, const void *code) */
	SOFT_THUNKS
};

/* Immediate of a memory stub. */
enum soft_info {
	SOFT_INFO_SIZE = 0xff, /* bytes, 1..64 */
	SOFT_INFO_WRITE = 0x100,
	SOFT_INFO_READ = 0x200,
	SOFT_INFO_STACK = 0x400,   /* non-canonical: #SS */
	SOFT_INFO_ALIGNED = 0x800, /* a misaligned address is #GP before it is anything else, but for MXCSR.MM */
	SOFT_INFO_MMX = 0x1000,    /* a store of an MMX register */
	SOFT_INFO_MOVES_ALIGNED = 0x2000, /* ... in spite of MXCSR.MM */
	SOFT_INFO_INSN_SHIFT = 16  /* index of the instruction within the block */
};

/* Why translated code returned to run.c. */
enum soft_leave {
	SOFT_LEAVE_EXPIRED, /* argument: block */
	SOFT_LEAVE_LINK,    /* argument: link */
	SOFT_LEAVE_JUMP,    /* argument: RIP */
	SOFT_LEAVE_NEXT,    /* rip and icount are set */
	SOFT_LEAVE_SLOW,    /* as NEXT; the instruction at rip wants slow mode */
	SOFT_LEAVE_FAULT,   /* as NEXT; cpu->fault is pending */
	SOFT_LEAVE_HALT,    /* as NEXT */
	SOFT_LEAVE_ERROR    /* m->error */
};

/* Where guest instructions are in a block. */
struct soft_place {
	uint16_t host; /* from the block's entry */
	int16_t guest; /* from the block's rip */
};

struct soft_block {
	uint64_t rip, gpa;
	uint64_t gpa2; /* page of the rest of an instruction that crosses, or UINT64_MAX */
	uint32_t entry,
	    size; /* offsets in the code cache; code is [entry - SOFT_RESUME, entry - SOFT_RESUME + size) */
	uint32_t places; /* index of the first of `count` */
	uint32_t next_hash, next_page[2];
	uint16_t low, high; /* page offsets of the bytes translated: [low, high) of gpa's page */
	uint16_t high2;     /* [0, high2) of gpa2's page */
	uint8_t count;      /* guest instructions */
	uint8_t mode;
	bool dropped;
};
#define SOFT_RESUME 10u

struct soft_link {
	uint32_t site; /* of the rel32 */
	uint32_t from; /* block */
	uint64_t target;
};

/* One instruction carried out in C. */
struct soft_record {
	struct soft_insn insn;
	uint64_t rip;
	uint32_t block;
	uint8_t left;  /* guest instructions from this one to the end of the block */
	uint8_t raise; /* SOFT_OP_COUNT in insn.op: this vector instead, or SOFT_RAISE_* */
};
/* #UD or #NM, by CR0 and CR4, or neither: then the instruction runs in a block without SOFT_MODE_NO_FPU. */
enum { SOFT_RAISE_SSE = 0xfe, SOFT_RAISE_MMX = 0xfd, SOFT_RAISE_X87 = 0xfc, SOFT_RAISE_WAIT = 0xfb };
#define SOFT_RECORD_ONCE 0x80000000u /* a record of the once block */

/* Two ways: with one, targets whose addresses share their low bits take turns, and each turn is an exit to C. An idle kernel's
 * timers alone had 26 such exits a wake-up. A set is half a cache line. */
struct soft_jump {
	uint64_t tag; /* -RIP; empty: 0, in the first set: 1 */
	uint64_t target;
};
#define SOFT_JUMPS_LISTED 2048u
struct soft_jumps {
	struct soft_jump (*set)[2];
	uint16_t filled[SOFT_JUMPS_LISTED]; /* sets, since the last flush, while they fit: makes it cheap */
	uint32_t filled_count;
	uint64_t first, last; /* all RIPs that are there lie between */
	bool local; /* there are targets in pages that are not global */
};

#define SOFT_FETCHES 256u
struct soft_fetch {
	uint64_t page; /* virtual; 1: empty */
	uint64_t gpa;
	bool global;
	bool mixed; /* partly a file's, partly what user code wrote: observers care where in it code runs */
};

/* Bytes of code, and entries of the tables. */
struct soft_room {
	uint32_t code, block, place, link, record;
};

#define SOFT_YOUNG_CODE  (8u << 20) /* of a clone: a CGI program's trial makes one of these */
#define SOFT_YOUNG_HASH  4096u
#define SOFT_YOUNG_LINKS 256u
/* A link in code that is shared is patched only when it has cost more in exits than the copy of its page and the end of the
 * huge page around it will. */
#define SOFT_YOUNG_PATIENCE 1000u

struct soft_blocks {
	uint8_t *map; /* one mapping: code; then what describes it */
	uint64_t map_size;
	uint8_t *code;
	struct soft_room most[2]; /* what is there; with what is kept for clones behind it */
	uint32_t code_first, code_used;
	uint32_t once, once_home; /* room for SOFT_MODE_ONCE; where it is when nothing is apart */
	uint32_t thunk[SOFT_THUNKS], thunk_end;
	struct soft_jumps jumps[SOFT_JUMP_CACHES];
	struct soft_fetch fetch[2][SOFT_FETCHES];

	struct soft_block *block;
	uint32_t block_used;
	struct soft_place *place;
	uint32_t place_used;
	struct soft_link *link;
	uint32_t link_used;
	struct soft_record *record;
	uint32_t record_used;
	uint32_t *hash, hash_mask;
	/* What a clone translates is kept apart from what it has from its parent (soft_block_part): all that lies below is left as
	 * it is, as far as that can be, so that the two go on sharing it, in huge pages. All 0: nothing is apart. */
	struct {
		uint32_t code, block; /* the first of the clone's own; 0: nothing is apart */
		uint32_t block_end;   /* end of the parent's */
		uint32_t hash[SOFT_YOUNG_HASH];
		uint16_t links[SOFT_YOUNG_LINKS]; /* how often links in the parent's code were taken */
	} young;
	uint32_t *page; /* first block of each page of RAM */
	uint8_t *told;  /* a bit a page: exec_page was called */
	uint64_t pages;

	struct soft_block once_block;
	struct soft_place once_place[SOFT_BLOCK_MOST];
	struct soft_record once_record[SOFT_BLOCK_MOST];
	uint32_t block_limit;
	uint8_t mode[2];  /* that the jump caches hold, by user */
	bool invalidated; /* translated code must not go on in its block */
	bool verify;
	uint64_t translated, flushes; /* blocks; full flushes */
	uint64_t left[8];             /* times each enum soft_leave happened */
};

/* Where the host is: block and instruction index for a host address in the code cache. NULL: not in a block. */
const struct soft_block *soft_block_at(const struct soft_blocks *blocks, const void *host);
const struct soft_place *soft_block_places(const struct soft_blocks *blocks, const struct soft_block *block);

static inline uint32_t soft_block_index(const struct soft_blocks *blocks, const struct soft_block *block)
{
	return block == &blocks->once_block ? SOFT_NONE : (uint32_t)(block - blocks->block);
}

/* The block for `rip` in the current state of the CPU, translated if need be. NULL: cpu->fault is pending, or with
 * *error set the engine cannot go on. */
const struct soft_block *soft_block_find(struct soft_cpu *cpu, uint64_t rip, uint8_t mode, bool *error);
/* A block of at most `most` instructions that is not kept. */
const struct soft_block *soft_block_once(struct soft_cpu *cpu, uint64_t rip, uint8_t mode, uint32_t most,
					 bool *error);

/* A byte of the instruction that is being run. false: not to be had (it was a moment ago). */
bool soft_peek_code(struct soft_cpu *cpu, uint64_t rip, uint8_t *byte);

uint8_t soft_block_mode(const struct soft_cpu *cpu);
void soft_block_link(struct soft_cpu *cpu, uint32_t link, const struct soft_block *to);
/* Whoever still jumps to the dropped block `from` goes to `to`, its successor. */
void soft_block_redirect(struct soft_cpu *cpu, const struct soft_block *from, const struct soft_block *to);
void soft_block_cache_jump(struct soft_cpu *cpu, const struct soft_block *to);
void soft_block_observe(struct soft_cpu *cpu);
/* This process is a fork: from here on its translations are kept apart. */
void soft_block_part(struct soft_cpu *cpu);
void soft_block_flush(struct soft_cpu *cpu); /* all translations */
void soft_block_drop_page(struct soft_cpu *cpu, uint64_t page);

/* translate.c: emits the block that *block's keys describe at block->entry; `bytes` are the guest's, `most` in number (up
 * to the end of the page, or 15 for one that may cross). Called with the FPU parked. 0, or -errno. */
int soft_translate_block(struct soft_cpu *cpu, struct soft_block *block, const uint8_t *bytes,
			 uint32_t available, uint32_t most);

/* thunk.c: writes the thunks at the start of the code cache. */
void soft_thunks_make(struct soft_cpu *cpu);

/* Called by thunks (run.c). 0: go on in translated code; else leave. */
uint64_t soft_on_memory(struct soft_cpu *cpu, uint32_t info, uint64_t va, const void *from);
uint64_t soft_on_slow(struct soft_cpu *cpu, uint32_t info, uint64_t va, const void *from);
uint64_t soft_on_commit(struct soft_cpu *cpu, uint32_t info, uint64_t va, const void *from);
uint64_t soft_on_operation(struct soft_cpu *cpu, uint32_t record, uint64_t unused, const void *from);

#endif
