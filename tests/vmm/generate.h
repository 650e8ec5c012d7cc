/* Random ring-3 code for the differential and invariance tests: instructions from all over the encoding space that the
 * engine's CPU model has and that mean the same on the processor the test runs on. */
#ifndef FT_TEST_GENERATE_H
#define FT_TEST_GENERATE_H

#include <Zydis/Zydis.h>

#include "user_case.h"

struct generate {
	uint64_t random;
	ZydisDecoder decoder;
};

void generate_open(struct generate *g, uint64_t seed);
uint64_t generate_random(struct generate *g);

/* Fills c with 1 to `most` instructions and a random start state. Returns the bytes of code. */
unsigned generate_case(struct generate *g, struct user_case *c, unsigned most);

/* Disassembles the code of c to stderr. */
void generate_show(struct generate *g, const struct user_case *c, unsigned length);

#endif
