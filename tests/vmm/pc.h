/* A PC without an engine, for device tests: the test plays the CPU. One instruction is one virtual nanosecond. */
#ifndef TESTS_VMM_PC_H
#define TESTS_VMM_PC_H

#include "vmm/dev/devices.h"
#include "vmm/machine.h"

struct pc {
	struct ft_machine *m;
	uint8_t sent[FT_NET_FRAME_MAX]; /* the last transmitted frame */
	size_t sent_length;
	unsigned sent_count;
	char console[256];
	size_t console_length;
	size_t entropy_wanted;
};

/* disk: -1 for none; stays the caller's. */
void pc_open(struct pc *pc, int disk);
void pc_close(struct pc *pc);
int pc_disk_image(size_t bytes); /* a descriptor of an unlinked file; byte i of sector n is n + i */

uint64_t pc_in(struct pc *pc, uint16_t port, unsigned size);
void pc_out(struct pc *pc, uint16_t port, unsigned size, uint64_t value);
uint64_t pc_load(struct pc *pc, uint64_t address, unsigned size);
void pc_store(struct pc *pc, uint64_t address, unsigned size, uint64_t value);

/* Lets virtual time pass, timer by timer. */
void pc_pass(struct pc *pc, uint64_t ns);

/* PCI configuration of bus 0. */
uint64_t pc_config_read(struct pc *pc, unsigned slot, unsigned at, unsigned size);
void pc_config_write(struct pc *pc, unsigned slot, unsigned at, unsigned size, uint64_t value);

#endif
