/* One stretch of ring-3 code with all the state it starts from or ends in. The differential test runs the same case
 * on the processor itself (native.c) and on an engine (bare.c) and compares. Both map the same pages at the same
 * addresses and use the selectors of a Linux process, so even what an instruction shows of them is equal. */
#ifndef FT_TEST_USER_CASE_H
#define FT_TEST_USER_CASE_H

#include <stdint.h>

#define CASE_CODE       0x10000000ull /* read and execute, filled with INT3 behind the code */
#define CASE_CODE_SIZE  0x2000u
#define CASE_DATA       0x20000000ull /* read and write; not mapped around it */
#define CASE_DATA_SIZE  0x4000u
#define CASE_CONST      (CASE_DATA + CASE_DATA_SIZE) /* read only */
#define CASE_CONST_SIZE 0x1000u
#define CASE_GS_BASE    (CASE_DATA + 0x1000)
#define CASE_CS         0x33
#define CASE_SS         0x2b

struct user_state {
	uint64_t gpr[16]; /* x86 encoding order */
	uint64_t rip, flags;
	uint8_t fx[512]; /* FXSAVE64 image */
	/* How it ended. */
	unsigned vector;
	uint32_t error;
	uint64_t address;
};

struct user_case {
	uint8_t code[CASE_CODE_SIZE];
	uint8_t data[CASE_DATA_SIZE], constant[CASE_CONST_SIZE];
	struct user_state start;
};

#endif
