/* The output verifier: reads emitted host code as the processor will and says whether it can do anything but what
 * translated code may do. It shares the shapes written in block.h with the translator and nothing else: not its tables,
 * not its reasoning; so one mistake does not pass both.
 *
 * What it asserts of a block:
 *  - each instruction is of an allowed kind: no privileged or system instruction, no SYSCALL, INT, far transfer, segment
 *    load, XRSTOR, WRPKRU, WRxSBASE, string instruction, PUSH, POP or RET, no change of DF, TF or AC; VEX only for the four
 *    BMI2 instructions that inserted code uses;
 *  - host RSP is never written and never an operand but as the base of a slot or as SHRX's count;
 *  - each memory operand is a slot of struct soft_cpu that translated code works with (stores: that it owns), a TLB entry
 *    selected by PEXT with tlb_mask (loads only), or guest memory by way of a TLB entry whose tag was compared with just
 *    this address, for reading or for writing as the instruction does, within the size that was compared;
 *  - a guest register whose value is kept in spill[0] or [1] is given back with no branch and nothing that may raise an
 *    exception in between: the handler of exceptions takes the guest's registers as they are;
 *  - nothing derived from host addresses reaches a guest register, a slot or guest memory at the end;
 *  - branches land on instruction boundaries of the block or on the right thunk with a constant index of something
 *    that is there, there is no way
 *    round in a circle but through the entry, and no way over the end.
 *
 * It follows the values of the registers along every path through the block (abstract interpretation). */
#ifndef FT_VMM_ENGINE_SOFT_VERIFY_H
#define FT_VMM_ENGINE_SOFT_VERIFY_H

#include "vmm/engine/soft/block.h"

/* Checks code[0, length), entered at code + entry and at code (`resume`), for a block in mode `mode`, which will run where it
 * is. 0, -EPERM with the offending instruction and the rule in err, -ENOMEM. Not for use while guest FPU state is live. */
int soft_verify(const struct soft_cpu *cpu, const uint8_t *code, size_t length, size_t entry, uint8_t mode,
		struct ft_error *err);

#endif
