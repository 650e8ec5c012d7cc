#include "vmm/dev/virtio.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "vmm/dev/devices.h"

enum { STATUS_DRIVER_OK = 4, STATUS_FEATURES_OK = 8, STATUS_NEEDS_RESET = 0x40 };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

#define NO_VECTOR 0xffffu

/* Where the structures lie in BAR 0. */
enum { COMMON = 0x0000, ISR = 0x1000, DEVICE = 0x2000, NOTIFY = 0x3000, BAR_LENGTH = 0x4000 };
enum { BAR_REGISTERS = 0, BAR_MSIX = 1, NOTIFY_STEP = 4 };

/* Offsets in the common configuration structure, section 4.1.4.3. */
enum {
	DEVICE_SELECT = 0,
	DEVICE_FEATURE = 4,
	DRIVER_SELECT = 8,
	DRIVER_FEATURE = 12,
	CONFIG_VECTOR = 16,
	QUEUES = 18,
	STATUS = 20,
	GENERATION = 21,
	QUEUE_SELECT = 22,
	QUEUE_SIZE = 24,
	QUEUE_VECTOR = 26,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY = 30,
	QUEUE_DESCRIPTORS = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48,
	COMMON_LENGTH = 56
};

uint64_t ft_virtio_features(const struct ft_virtio *v)
{
	return v->kind->features | FT_VIRTIO_F_VERSION_1 | FT_VIRTIO_F_EVENT_IDX;
}

bool ft_virtio_ready(const struct ft_virtio *v, unsigned queue)
{
	return (v->s.status & STATUS_DRIVER_OK) && !(v->s.status & STATUS_NEEDS_RESET) &&
	       v->s.queue[queue].enabled && ft_pci_master(&v->function);
}

static void interrupt(struct ft_virtio *v, uint8_t cause, uint16_t vector)
{
	if (ft_pci_msix_enabled(&v->function)) {
		if (vector != NO_VECTOR)
			ft_pci_msix_send(&v->function, vector);
		return;
	}
	v->s.interrupt_status |= cause;
	ft_pci_interrupt(&v->function, true);
}

void ft_virtio_break(struct ft_virtio *v)
{
	if (v->s.status & STATUS_NEEDS_RESET)
		return;
	v->s.status |= STATUS_NEEDS_RESET;
	v->kind->reset(v);
	interrupt(v, ISR_CONFIG, v->s.config_vector);
}

static void reset(struct ft_virtio *v)
{
	memset(&v->s, 0, sizeof(v->s));
	v->s.config_vector = NO_VECTOR;
	for (unsigned i = 0; i < FT_VIRTIO_QUEUES; i++) {
		v->s.queue[i].size = FT_VIRTQUEUE_MAX;
		v->s.queue[i].vector = NO_VECTOR;
	}
	ft_pci_interrupt(&v->function, false);
	v->kind->reset(v);
}

/* ---- Queues ---- */

int ft_virtio_take_head(struct ft_virtio *v, unsigned queue, uint16_t *head)
{
	if (!ft_virtio_ready(v, queue))
		return 0;
	int got = ft_virtqueue_take(&v->s.queue[queue], &v->m->ram, head);
	if (got < 0)
		ft_virtio_break(v);
	return got;
}

int ft_virtio_chain(struct ft_virtio *v, unsigned queue, uint16_t head)
{
	int error = ft_virtqueue_chain(&v->s.queue[queue], &v->m->ram, head, &v->chain);
	if (error)
		ft_virtio_break(v);
	return error;
}

int ft_virtio_take(struct ft_virtio *v, unsigned queue)
{
	uint16_t head;
	int got = ft_virtio_take_head(v, queue, &head);
	if (got <= 0)
		return got;
	int error = ft_virtio_chain(v, queue, head);
	return error ? error : 1;
}

void ft_virtio_give(struct ft_virtio *v, unsigned queue, uint16_t head, uint32_t written)
{
	if (ft_virtio_ready(v, queue) && ft_virtqueue_give(&v->s.queue[queue], &v->m->ram, head, written))
		ft_virtio_break(v);
}

void ft_virtio_finish(struct ft_virtio *v, unsigned queue)
{
	if (!ft_virtio_ready(v, queue))
		return;
	int wanted = ft_virtqueue_finish(&v->s.queue[queue], &v->m->ram);
	if (wanted < 0)
		ft_virtio_break(v);
	else if (wanted)
		interrupt(v, ISR_QUEUE, v->s.queue[queue].vector);
}

/* ---- Registers ---- */

static uint64_t feature_half(uint64_t all, uint32_t select)
{
	return select < 2 ? (uint32_t)(all >> 32 * select) : 0;
}

static uint64_t common_read(struct ft_virtio *v, uint64_t offset, unsigned size)
{
	/* The structure as it is now; a read of any size at any place sees the same bytes. */
	uint8_t image[COMMON_LENGTH] = {0};
	uint16_t queues = (uint16_t)v->kind->queues;
	uint32_t half = (uint32_t)feature_half(ft_virtio_features(v), v->s.device_select);
	uint32_t driver = (uint32_t)feature_half(v->s.driver_features, v->s.driver_select);
	memcpy(image + DEVICE_SELECT, &v->s.device_select, 4);
	memcpy(image + DEVICE_FEATURE, &half, 4);
	memcpy(image + DRIVER_SELECT, &v->s.driver_select, 4);
	memcpy(image + DRIVER_FEATURE, &driver, 4);
	memcpy(image + CONFIG_VECTOR, &v->s.config_vector, 2);
	memcpy(image + QUEUES, &queues, 2);
	image[STATUS] = v->s.status;
	memcpy(image + QUEUE_SELECT, &v->s.queue_select, 2);
	if (v->s.queue_select < queues) {
		const struct ft_virtqueue *q = &v->s.queue[v->s.queue_select];
		uint16_t enabled = q->enabled;
		memcpy(image + QUEUE_SIZE, &q->size, 2);
		memcpy(image + QUEUE_VECTOR, &q->vector, 2);
		memcpy(image + QUEUE_ENABLE, &enabled, 2);
		memcpy(image + QUEUE_NOTIFY, &v->s.queue_select, 2);
		memcpy(image + QUEUE_DESCRIPTORS, &q->descriptors, 8);
		memcpy(image + QUEUE_DRIVER, &q->available, 8);
		memcpy(image + QUEUE_DEVICE, &q->used, 8);
	}
	uint64_t value = 0;
	if (offset < COMMON_LENGTH && size <= COMMON_LENGTH - offset)
		memcpy(&value, image + offset, size);
	return value;
}

static void look_at_queues(struct ft_virtio *v)
{
	for (unsigned i = 0; i < v->kind->queues; i++)
		if (ft_virtio_ready(v, i))
			v->kind->notify(v, i);
}

static void mastered(struct ft_pci_function *function)
{
	look_at_queues((struct ft_virtio *)(void *)((uint8_t *)function - offsetof(struct ft_virtio, function)));
}

static void write_status(struct ft_virtio *v, uint8_t value)
{
	if (!value) {
		reset(v);
		return;
	}
	uint8_t status = v->s.status;
	if ((value & STATUS_FEATURES_OK) && !(status & STATUS_FEATURES_OK)) {
		uint64_t chosen = v->s.driver_features;
		/* Refused by not showing FEATURES_OK: a legacy driver, or one that takes what was not offered. */
		if (!(chosen & FT_VIRTIO_F_VERSION_1) || (chosen & ~ft_virtio_features(v)))
			value &= (uint8_t)~STATUS_FEATURES_OK;
	}
	if (!(value & STATUS_FEATURES_OK))
		value &= (uint8_t)~STATUS_DRIVER_OK;
	bool starts = (value & STATUS_DRIVER_OK) && !(status & STATUS_DRIVER_OK);
	v->s.status = (uint8_t)((value & ~STATUS_NEEDS_RESET) | (status & STATUS_NEEDS_RESET) |
				(status & STATUS_FEATURES_OK));
	/* Buffers offered before DRIVER_OK need no notification. */
	if (starts)
		look_at_queues(v);
}

static uint16_t checked_vector(const struct ft_virtio *v, uint64_t vector)
{
	return vector <= v->kind->queues ? (uint16_t)vector : NO_VECTOR;
}

static void enable_queue(struct ft_virtio *v, struct ft_virtqueue *q)
{
	if (q->enabled)
		return;
	q->event_index = (v->s.driver_features & FT_VIRTIO_F_EVENT_IDX) != 0;
	q->enabled = 1;
	if (!ft_virtqueue_valid(q, &v->m->ram)) {
		q->enabled = 0;
		ft_virtio_break(v);
	}
}

/* An address register, written whole or by halves. */
static bool write_address(uint64_t *to, uint64_t at, uint64_t offset, unsigned size, uint64_t value)
{
	if (offset == at && size == 8)
		*to = value;
	else if (offset == at && size == 4)
		*to = (*to & ~0xffffffffull) | value;
	else if (offset == at + 4 && size == 4)
		*to = (*to & 0xffffffffull) | value << 32;
	else
		return false;
	return true;
}

static void queue_write(struct ft_virtio *v, uint64_t offset, unsigned size, uint64_t value)
{
	if (v->s.queue_select >= v->kind->queues)
		return;
	struct ft_virtqueue *q = &v->s.queue[v->s.queue_select];
	if (offset == QUEUE_VECTOR && size == 2) {
		q->vector = checked_vector(v, value);
		return;
	}
	if (q->enabled) /* section 4.1.4.3.2: not to be changed any more */
		return;
	if (offset == QUEUE_SIZE && size == 2) {
		if (value && value <= FT_VIRTQUEUE_MAX && !(value & (value - 1)))
			q->size = (uint16_t)value;
	} else if (offset == QUEUE_ENABLE && size == 2) {
		if (value == 1)
			enable_queue(v, q);
	} else if (!write_address(&q->descriptors, QUEUE_DESCRIPTORS, offset, size, value) &&
		   !write_address(&q->available, QUEUE_DRIVER, offset, size, value)) {
		write_address(&q->used, QUEUE_DEVICE, offset, size, value);
	}
}

static void write_features(struct ft_virtio *v, uint32_t value)
{
	if ((v->s.status & STATUS_FEATURES_OK) || v->s.driver_select > 1)
		return;
	unsigned shift = 32 * v->s.driver_select;
	v->s.driver_features = (v->s.driver_features & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
}

static void common_write(struct ft_virtio *v, uint64_t offset, unsigned size, uint64_t value)
{
	if (offset == DEVICE_SELECT && size == 4)
		v->s.device_select = (uint32_t)value;
	else if (offset == DRIVER_SELECT && size == 4)
		v->s.driver_select = (uint32_t)value;
	else if (offset == DRIVER_FEATURE && size == 4)
		write_features(v, (uint32_t)value);
	else if (offset == CONFIG_VECTOR && size == 2)
		v->s.config_vector = checked_vector(v, value);
	else if (offset == STATUS && size == 1)
		write_status(v, (uint8_t)value);
	else if (offset == QUEUE_SELECT && size == 2)
		v->s.queue_select = (uint16_t)value;
	else
		queue_write(v, offset, size, value);
}

static uint64_t registers_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_virtio *v = device;
	uint64_t value = 0;
	if (offset < COMMON_LENGTH) {
		value = common_read(v, offset, size);
	} else if (offset == ISR) {
		value = v->s.interrupt_status;
		v->s.interrupt_status = 0;
		ft_pci_interrupt(&v->function, false);
	} else if (offset >= DEVICE && offset - DEVICE + size <= sizeof(v->config)) {
		memcpy(&value, v->config + (offset - DEVICE), size);
	}
	return value;
}

static void registers_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_virtio *v = device;
	if (offset < COMMON_LENGTH) {
		common_write(v, offset, size, value);
	} else if (offset >= NOTIFY) {
		uint64_t queue = (offset - NOTIFY) / NOTIFY_STEP;
		if (queue < v->kind->queues && ft_virtio_ready(v, (unsigned)queue))
			v->kind->notify(v, (unsigned)queue);
	}
}

const char *ft_virtio_possible(const struct ft_virtio *v, const struct ft_virtio_state *s)
{
	bool negotiated = s->status & STATUS_FEATURES_OK;
	if ((s->status & STATUS_DRIVER_OK) && !negotiated)
		return "status";
	if (negotiated && (!(s->driver_features & FT_VIRTIO_F_VERSION_1) || (s->driver_features & ~ft_virtio_features(v))))
		return "driver_features";
	if (s->config_vector != NO_VECTOR && s->config_vector > v->kind->queues)
		return "config_vector";
	if (s->interrupt_status & ~(ISR_QUEUE | ISR_CONFIG))
		return "interrupt_status";
	for (unsigned i = 0; i < FT_VIRTIO_QUEUES; i++) {
		const struct ft_virtqueue *q = &s->queue[i];
		bool there = i < v->kind->queues, size = q->size && q->size <= FT_VIRTQUEUE_MAX && !(q->size & (q->size - 1));
		if (!size)
			return i ? "queue[1].size" : "queue[0].size";
		if (q->vector != NO_VECTOR && (!there || q->vector > v->kind->queues))
			return i ? "queue[1].vector" : "queue[0].vector";
		if (q->enabled > 1 || (q->enabled && (!there || !ft_virtqueue_valid(q, &v->m->ram))))
			return i ? "queue[1].enabled" : "queue[0].enabled";
		if (q->event_index > 1)
			return i ? "queue[1].event_index" : "queue[0].event_index";
	}
	return NULL;
}

/* ---- Building ---- */

static void add_structure(struct ft_virtio *v, uint8_t type, uint32_t offset, uint32_t length, bool notify)
{
	struct {
		uint8_t cap_length, type, bar, id, padding[2];
		uint32_t offset, length, step;
	} __attribute__((packed)) body = {.cap_length = notify ? 20 : 16,
					  .type = type,
					  .bar = BAR_REGISTERS,
					  .offset = offset,
					  .length = length,
					  .step = NOTIFY_STEP};
	ft_pci_add_capability(&v->function, 9, &body, body.cap_length - 2u);
}

int ft_virtio_create(struct ft_virtio *v, struct ft_machine *m, const struct ft_virtio_kind *kind,
		     struct ft_error *err)
{
	v->m = m;
	v->kind = kind;
	int error = ft_pci_add(&m->devices->pci, &v->function, 0x1af4, (uint16_t)(0x1040 + kind->id),
			       kind->class, 0x1100, err);
	if (error)
		return error;
	error = ft_pci_add_bar(&v->function, BAR_REGISTERS,
			       &(struct ft_region){.length = BAR_LENGTH,
						   .read = registers_read,
						   .write = registers_write,
						   .device = v,
						   .name = kind->name},
			       err);
	if (error)
		return error;
	v->function.mastered = mastered;
	add_structure(v, 1, COMMON, COMMON_LENGTH, false);
	add_structure(v, 2, NOTIFY, NOTIFY_STEP * kind->queues, true);
	add_structure(v, 3, ISR, 1, false);
	add_structure(v, 4, DEVICE, FT_VIRTIO_CONFIG, false);
	error = ft_pci_add_msix(&v->function, BAR_MSIX, kind->queues + 1, err);
	reset(v);
	return error;
}
