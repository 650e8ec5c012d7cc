/* What tests of the machine's state save, and give back: machines in conditions that no fresh one is in. Everything fails the test that
 * calls it. */
#ifndef TESTS_VMM_SAVED_H
#define TESTS_VMM_SAVED_H

#include "driver.h"
#include "vmm/engine/model.h"
#include "vmm/machine.h"

struct saved {
	uint8_t *at; /* whoever has it frees it */
	size_t length;
};

struct saved saved_take(struct ft_machine *m);
struct saved saved_take_after(struct ft_machine *m, const struct ft_cpu_state *set);
void saved_restore(struct ft_machine *m, const struct saved *b);

/* Every chip in a state of its own: nothing that has its value after a reset. */
void saved_disturb(struct pc *pc);
/* Frames wait in a network device, the queue's first buffer has been taken. */
void saved_frame_in(struct driver *d, uint8_t tag, size_t length);
void saved_frames_wait(struct driver *d);

/* engine: NULL for a machine without a processor. */
struct ft_machine *saved_machine(const struct ft_engine_ops *engine);
/* 64-bit user code by a conforming segment of ring 0: its privilege is in the selector alone. Each field another value. */
struct ft_cpu_state saved_peculiar(void);

/* Of several processors, with an engine that only holds what a state has: no kernel is needed for that. */
extern const struct ft_engine_ops saved_holder;
struct ft_machine *saved_machine_of(unsigned vcpus);
/* Four: one that runs, one as a reset leaves it, one that INIT has come to, one halted in the middle of its work. */
struct ft_machine *saved_machine_of_four(void);

/* A host's of before all mitigations in hardware, and one of AMD's. */
extern const struct ft_model saved_intel, saved_amd;

#endif
