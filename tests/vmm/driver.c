#include "driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

void driver_put(struct driver *d, uint64_t at, const void *bytes, size_t length)
{
	const struct ft_memory *ram = &d->pc.m->ram;
	assert_true(at <= ram->size && length <= ram->size - at);
	memcpy(ram->base + at, bytes, length);
}

uint64_t driver_get(struct driver *d, uint64_t at, unsigned size)
{
	uint64_t value = 0;
	assert_true(ft_memory_read(&d->pc.m->ram, ft_gpa_make(at), &value, size));
	return value;
}

uint8_t driver_status(struct driver *d)
{
	return (uint8_t)pc_load(&d->pc, d->registers + 20, 1);
}

void driver_describe(struct driver *d, unsigned queue, unsigned n, uint64_t at, uint32_t length,
		     uint16_t flags, uint16_t next)
{
	struct {
		uint64_t at;
		uint32_t length;
		uint16_t flags, next;
	} descriptor = {at, length, flags, next};
	driver_put(d, DRIVER_RINGS(queue) + 16 * n, &descriptor, sizeof(descriptor));
}

void driver_offer(struct driver *d, unsigned queue, uint16_t head)
{
	uint64_t ring = DRIVER_RINGS(queue) + 0x2000;
	driver_put(d, ring + 4 + 2 * (d->available[queue] % DRIVER_QUEUE_SIZE), &head, 2);
	d->available[queue]++;
	driver_put(d, ring + 2, &d->available[queue], 2);
}

void driver_notify(struct driver *d, unsigned queue)
{
	pc_store(&d->pc, d->registers + 0x3000 + 4 * queue, 2, queue);
}

int64_t driver_used(struct driver *d, unsigned queue, uint32_t *head)
{
	uint64_t ring = DRIVER_RINGS(queue) + 0x3000;
	if (driver_get(d, ring + 2, 2) == d->seen[queue])
		return -1;
	uint64_t at = ring + 4 + 8 * (d->seen[queue]++ % DRIVER_QUEUE_SIZE);
	if (head)
		*head = (uint32_t)driver_get(d, at, 4);
	return (int64_t)driver_get(d, at + 4, 4);
}

void driver_place(struct driver *d, unsigned queue, unsigned size, uint64_t descriptors, uint64_t available,
		  uint64_t used)
{
	uint64_t r = d->registers;
	pc_store(&d->pc, r + 22, 2, queue);
	pc_store(&d->pc, r + 24, 2, size);
	pc_store(&d->pc, r + 26, 2, queue + 1);
	pc_store(&d->pc, r + 32, 8, descriptors);
	pc_store(&d->pc, r + 40, 8, available);
	pc_store(&d->pc, r + 48, 8, used);
	pc_store(&d->pc, r + 28, 2, 1);
}

void driver_reset(struct driver *d)
{
	static const uint8_t zero[0x10000];
	pc_store(&d->pc, d->registers + 20, 1, 0);
	assert_int_equal(driver_status(d), 0);
	for (unsigned q = 0; q < d->queues; q++)
		driver_put(d, DRIVER_RINGS(q), zero, sizeof(zero));
	memset(d->available, 0, sizeof(d->available));
	memset(d->seen, 0, sizeof(d->seen));
}

void driver_negotiate(struct driver *d, uint32_t features)
{
	uint64_t r = d->registers;
	driver_reset(d);
	pc_store(&d->pc, r + 20, 1, 1);
	pc_store(&d->pc, r + 20, 1, 3);
	pc_store(&d->pc, r + 8, 4, 0);
	pc_store(&d->pc, r + 12, 4, features);
	pc_store(&d->pc, r + 8, 4, 1);
	pc_store(&d->pc, r + 12, 4, 1); /* VERSION_1 */
	pc_store(&d->pc, r + 20, 1, 11);
	assert_int_equal(driver_status(d), 11);
}

void driver_start(struct driver *d, uint32_t features)
{
	driver_negotiate(d, features);
	for (unsigned q = 0; q < d->queues; q++) {
		uint64_t ring = DRIVER_RINGS(q);
		driver_place(d, q, DRIVER_QUEUE_SIZE, ring, ring + 0x2000, ring + 0x3000);
	}
	pc_store(&d->pc, d->registers + 20, 1, 15);
	assert_int_equal(driver_status(d), 15);
}

/* Finds the device as a driver would: the capability of the common structure, MSI-X with vector 0x40 + queue. */
void driver_open(struct driver *d, unsigned slot, int disk)
{
	memset(d, 0, sizeof(*d));
	pc_open(&d->pc, disk);
	pc_config_write(&d->pc, slot, 4, 2, 6);
	unsigned at = (unsigned)pc_config_read(&d->pc, slot, 0x34, 1), found = 0;
	for (; at; at = (unsigned)pc_config_read(&d->pc, slot, at + 1, 1)) {
		unsigned id = (unsigned)pc_config_read(&d->pc, slot, at, 1);
		if (id == 9 && pc_config_read(&d->pc, slot, at + 3, 1) == 1) {
			unsigned bar = (unsigned)pc_config_read(&d->pc, slot, at + 4, 1);
			d->registers = pc_config_read(&d->pc, slot, 0x10 + 4 * bar, 4) +
				       pc_config_read(&d->pc, slot, at + 8, 4);
			found |= 1;
		}
		if (id == 0x11) {
			pc_config_write(&d->pc, slot, at + 2, 2, 0x8000);
			uint64_t table = pc_config_read(&d->pc, slot, 0x14, 4);
			for (unsigned i = 0; i < 3; i++) {
				pc_store(&d->pc, table + 16 * i, 4, 0xfee00000);
				pc_store(&d->pc, table + 16 * i + 8, 4, 0x3f + i);
				pc_store(&d->pc, table + 16 * i + 12, 4, 0);
			}
			found |= 2;
		}
	}
	assert_int_equal(found, 3);
	d->queues = (unsigned)pc_load(&d->pc, d->registers + 18, 2);
	assert_true(d->queues >= 1 && d->queues <= 2);
	driver_start(d, 0);
}

void driver_close(struct driver *d)
{
	pc_close(&d->pc);
}
