/* The allow-list: what the translator does with each mnemonic. Whatever is not named here raises #UD. */
#ifndef FT_VMM_ENGINE_SOFT_CLASS_H
#define FT_VMM_ENGINE_SOFT_CLASS_H

#include <Zydis/Zydis.h>

#include "vmm/engine/soft/cpu.h"

enum soft_class {
	SOFT_CLASS_UD,
	SOFT_CLASS_PLAIN, /* runs as itself: registers, flags and at most one checked memory operand */
	SOFT_CLASS_X87,   /* as PLAIN, when the FPU may be used; #NM otherwise */
	SOFT_CLASS_SSE,
	SOFT_CLASS_NOTHING, /* NOPs, prefetches, cache hints */
	SOFT_CLASS_MOV,
	SOFT_CLASS_LEA,
	SOFT_CLASS_BIT_TEST,
	SOFT_CLASS_XLAT,
	SOFT_CLASS_MASK_MOVE,
	SOFT_CLASS_PUSH,
	SOFT_CLASS_POP,
	SOFT_CLASS_LEAVE,
	SOFT_CLASS_CALL,
	SOFT_CLASS_RET,
	SOFT_CLASS_JMP,
	SOFT_CLASS_JCC,
	SOFT_CLASS_LOOP,
	SOFT_CLASS_DOUBLE, /* MOVSD, CMPSD: string or SSE2, by opcode map */
	SOFT_CLASS_C       /* soft_execute; the enum soft_op beside it */
};

struct soft_class_entry {
	uint8_t class;
	uint8_t op; /* enum soft_op of SOFT_CLASS_C and DOUBLE */
};

extern const struct soft_class_entry soft_classes[ZYDIS_MNEMONIC_MAX_VALUE + 1];

#endif
