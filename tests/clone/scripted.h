/* An engine for tests of what is around a machine: it executes no guest code but plays one of a few guests, chosen by a
 * word in guest memory (so that forks and hashes see it). */
#ifndef TESTS_CLONE_SCRIPTED_H
#define TESTS_CLONE_SCRIPTED_H

#include "vmm/machine.h"

#define SCRIPT_AT 0x1000u

enum script {
	SCRIPT_IDLE,  /* halts */
	SCRIPT_SPIN,  /* computes for ever */
	SCRIPT_DIRTY, /* writes one page after the other */
	SCRIPT_REBOOT,
	SCRIPT_TRIPLE,
	SCRIPT_HANG,   /* the engine never comes back */
	SCRIPT_CRASH,  /* the engine's process crashes */
	SCRIPT_SOCKET, /* the engine's process makes a syscall that no clone may make */
	SCRIPT_FLOOD,  /* tells more than anybody wants to hear */
	SCRIPT_FAIL    /* the engine gives up */
};

extern const struct ft_engine_ops scripted_engine;

void script_set(struct ft_machine *m, enum script script);

#endif
