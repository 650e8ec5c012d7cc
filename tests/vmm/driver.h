/* A virtio driver for tests and fuzzers: on a PC without an engine (pc.h), well-behaved unless told otherwise. Its own writes
 * to guest memory are not announced, so that what is marked as written is the device's doing. */
#ifndef TESTS_VMM_DRIVER_H
#define TESTS_VMM_DRIVER_H

#include "pc.h"

enum { DRIVER_NEXT = 1, DRIVER_WRITE = 2, DRIVER_INDIRECT = 4 };

#define DRIVER_QUEUE_SIZE 16u
#define DRIVER_RINGS(q)   (0x100000ull + (q)*0x10000ull) /* descriptors, + 0x2000 available, + 0x3000 used */
#define DRIVER_DATA       0x400000ull
#define DRIVER_DATA_END   0x500000ull

struct driver {
	struct pc pc;
	uint64_t registers;
	unsigned queues;
	uint16_t available[2], seen[2];
};

void driver_open(struct driver *d, unsigned slot, int disk);
void driver_close(struct driver *d);

/* Resets the device; and gets as far as FEATURES_OK with these low 32 feature bits and VERSION_1; and places all queues and
 * makes it ready. */
void driver_reset(struct driver *d);
void driver_negotiate(struct driver *d, uint32_t features);
void driver_start(struct driver *d, uint32_t features);
void driver_place(struct driver *d, unsigned queue, unsigned size, uint64_t descriptors, uint64_t available,
		  uint64_t used);

void driver_put(struct driver *d, uint64_t at, const void *bytes, size_t length); /* inside of RAM */
uint64_t driver_get(struct driver *d, uint64_t at, unsigned size);
void driver_describe(struct driver *d, unsigned queue, unsigned n, uint64_t at, uint32_t length,
		     uint16_t flags, uint16_t next);
void driver_offer(struct driver *d, unsigned queue, uint16_t head);
void driver_notify(struct driver *d, unsigned queue);
uint8_t driver_status(struct driver *d);

/* The next used entry: the bytes it says were written, or -1 when there is none. head may be NULL. */
int64_t driver_used(struct driver *d, unsigned queue, uint32_t *head);

#endif
