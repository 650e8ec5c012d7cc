/* Where a guest with several processors (processors.c) and its test (test_vcpus.c) meet: in the guest's memory. */
#ifndef FT_TESTS_KVM_MAILBOX_H
#define FT_TESTS_KVM_MAILBOX_H

#include <stdint.h>

#define MAILBOX      0x3000000u
#define MAILBOX_CPUS 16u

enum mailbox_command {
	MAILBOX_WORK,  /* count, look at the clock, access a device, interrupt each other */
	MAILBOX_REST,  /* halt; the first one wakes by its timer now and then */
	MAILBOX_WATCH, /* the first one rests, the others work */
	MAILBOX_PATCH, /* the first one changes code that the others run, as kernels do: a breakpoint, a signal to all, the new code */
	MAILBOX_START, /* the first one starts those that have not been; then WORK */
	MAILBOX_RESET, /* the last one resets the machine */
	MAILBOX_FAULT  /* the last one comes to a triple fault */
};

struct mailbox {
	uint32_t command, started; /* started: how many run, the first one included */
	uint32_t alive[MAILBOX_CPUS];
	uint64_t count[MAILBOX_CPUS], interrupts[MAILBOX_CPUS];
	uint64_t wakes;     /* of the first one, by its timer */
	uint64_t last_tsc;  /* that any of them read, under `lock` */
	uint64_t backwards; /* times that one was before the last */
	uint64_t traps;     /* breakpoints that were met while code was being changed */
	uint32_t wide[MAILBOX_CPUS]; /* it has AVX, and keeps something in its registers */
	uint64_t lost;      /* times that one of these, or what goes with them, was not what it was */
	uint64_t wrong;     /* CPUID or the local APIC say another number than the one that was started */
	uint32_t lock, all; /* all: how many there are, of them CPUID says that there are so many */
};

#endif
