/* The software engine takes SIGSEGV and its kin for itself, and runs translated code without a stack: libFuzzer's and the
 * engine's handlers have to live together. */
#ifndef FT_FUZZ_SIGNALS_H
#define FT_FUZZ_SIGNALS_H

/* Before the first engine is made (in the first input, when libFuzzer's handlers are there): remembers them. */
void signals_before(void);

/* After an engine was made: what is not the engine's goes to libFuzzer again, which keeps the input; and no handler runs on
 * the stack that translated code does not have. */
void signals_after(void);

#endif
