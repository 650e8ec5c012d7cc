/* What the translator's files share: one instruction taken apart, and the block being emitted. block.h has the shapes.
 * translate.c decodes and rebuilds, translate_memory.c makes addresses and checks, translate_flow.c does stack and jumps. */
#ifndef FT_VMM_ENGINE_SOFT_TRANSLATE_H
#define FT_VMM_ENGINE_SOFT_TRANSLATE_H

#include <Zydis/Zydis.h>

#include "vmm/engine/soft/block.h"
#include "vmm/engine/soft/class.h"
#include "vmm/engine/soft/emit.h"

#define BIT(n) (1u << (n))

/* A guest memory operand. */
struct guest_memory {
	int8_t base, index; /* guest register or R_NONE */
	uint8_t scale;      /* log2 */
	int8_t segment;     /* FT_FS, FT_GS or -1 */
	bool address32;
	bool stack;           /* faults with #SS */
	int64_t displacement; /* the whole address when relative to RIP or absolute */
};

struct guest_insn {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	uint64_t rip, next;
	const struct soft_class_entry *class;
	bool has_memory;
	struct guest_memory memory;
	uint8_t size; /* bytes of the memory operand */
	bool reads_memory, writes_memory;
	/* General registers as operands (not in the address): guest numbers, or -1. */
	int8_t reg, rm, embedded, third; /* third: VEX.vvvv */
	uint16_t uses, writes; /* masks; implicit ones too */
	bool pure;             /* its register destination need not be loaded first */
	bool high;             /* AH..BH: no REX possible */
	bool high_reg, high_rm, high_embedded;
};

enum stub_kind { STUB_MEMORY, STUB_MEMORY_SIMPLE, STUB_LINK, STUB_SIDE };

struct stub {
	uint8_t kind;
	uint8_t insn;
	uint8_t *site; /* rel32 that leads here */
	const uint8_t *back;
	uint32_t info;
	struct emit_memory ea; /* simple */
	uint64_t target;
};

#define MOST_STUBS (SOFT_BLOCK_MOST * 4)

struct work {
	struct soft_cpu *cpu;
	struct soft_blocks *blocks;
	struct soft_block *block;
	struct soft_place *place;
	struct emit e;
	uint8_t *entry;
	const struct guest_insn *insn; /* the current one */
	const uint8_t *bytes;          /* its bytes */
	unsigned index;                /* of the current one */
	bool user, slow, unchained, no_fpu;
	bool done;        /* the block ends behind this instruction */
	uint64_t goes_to; /* when not done: where translation goes on */
	struct stub stub[MOST_STUBS];
	unsigned stubs;
	uint32_t first_record;
};

/* ---- translate_memory.c */

/* Emits the computation of the linear address into R15; RCX is clobbered. added: to guest RSP as base. */
void soft_emit_address(struct work *w, const struct guest_memory *m, int32_t added);

/* Adds the base of FS or GS (-1: none) to R15; RCX is clobbered. */
void soft_emit_segment(struct work *w, int8_t segment);

/* Emits a checked access for the address in R15. Returns the operand to access it by: [rcx+r15]. */
struct emit_memory soft_emit_check(struct work *w, unsigned size, uint32_t info);

/* Address and check for a whole operand: as above, or [base+r15+disp]. */
struct emit_memory soft_emit_access(struct work *w, const struct guest_memory *m, unsigned size,
				    uint32_t info, int32_t added);

/* Behind an instruction that wrote: slow mode's commit. */
void soft_emit_commit(struct work *w, unsigned size);

/* ---- translate.c */

/* One instruction in C. */
void soft_emit_operation(struct work *w, uint8_t op, uint8_t raise);

/* ---- translate_flow.c */

void soft_emit_flow(struct work *w);                       /* by class */
void soft_emit_exit(struct work *w, uint64_t target);      /* to a known address */
void soft_emit_exit_away(struct work *w, uint64_t target); /* the same, never chained */
void soft_emit_stubs(struct work *w);

#endif
