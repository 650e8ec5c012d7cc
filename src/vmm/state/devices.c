/* A machine's state in the decoded form, and back. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/state/format.h"

unsigned ft_state_virtios(struct ft_devices *d, struct ft_virtio *list[FT_STATE_VIRTIOS_MOST])
{
	list[0] = &d->net.v;
	list[1] = &d->rng.v;
	list[2] = &d->blk.v;
	return d->has_disk ? 3 : 2;
}

void ft_state_host(struct ft_state_machine *machine)
{
	unsigned a = 0, b = 0, c = 0, d = 0;
	__get_cpuid(0, &a, &b, &c, &d);
	memcpy(machine->host_vendor, &b, 4);
	memcpy(machine->host_vendor + 4, &d, 4);
	memcpy(machine->host_vendor + 8, &c, 4);
	__get_cpuid(1, &a, &b, &c, &d);
	machine->host_signature = a;
}

/* ---- Interrupt controllers and timers ----------------------------------------------------------------------------- */

static struct ft_kvm_pic take_pic(const struct ft_pic_chip *c, bool second)
{
	return (struct ft_kvm_pic){.last_irr = c->lines,
				   .irr = c->requests,
				   .imr = c->mask,
				   .isr = c->in_service,
				   .priority_add = (c->lowest + 1) & 7,
				   .irq_base = c->vector_base,
				   .read_reg_select = c->read_in_service,
				   .special_mask = c->special_mask,
				   .init_state = c->init_step,
				   .auto_eoi = c->auto_eoi,
				   .rotate_on_auto_eoi = c->rotate_auto,
				   .init4 = c->init4,
				   .elcr = c->level,
				   .elcr_mask = ft_pic_level_mask(second)};
}

static struct ft_pic_chip give_pic(const struct ft_kvm_pic *p)
{
	return (struct ft_pic_chip){.lines = p->last_irr,
				    .requests = p->irr,
				    .mask = p->imr,
				    .in_service = p->isr,
				    .lowest = (p->priority_add + 7) & 7,
				    .vector_base = p->irq_base,
				    .read_in_service = p->read_reg_select,
				    .special_mask = p->special_mask,
				    .init_step = p->init_state,
				    .auto_eoi = p->auto_eoi,
				    .rotate_auto = p->rotate_on_auto_eoi,
				    .init4 = p->init4,
				    .level = p->elcr};
}

static void put32(uint8_t *regs, unsigned at, uint32_t value)
{
	memcpy(regs + at, &value, sizeof(value));
}

static uint32_t get32(const uint8_t *regs, unsigned at)
{
	uint32_t value;
	memcpy(&value, regs + at, sizeof(value));
	return value;
}

/* X(offset in the register page, field): SDM Vol. 3A table 11-1. */
#define LAPIC_REGISTERS(X)                                                                                                \
	X(0x20, id) X(0x80, tpr) X(0xd0, ldr) X(0xe0, dfr) X(0xf0, spurious) X(0x280, error) X(0x300, command_low)        \
	X(0x310, command_high) X(0x320, lvt[FT_LVT_TIMER]) X(0x330, lvt[FT_LVT_THERMAL])                                  \
	X(0x340, lvt[FT_LVT_PERFORMANCE]) X(0x350, lvt[FT_LVT_LINT0]) X(0x360, lvt[FT_LVT_LINT1])                         \
	X(0x370, lvt[FT_LVT_ERROR]) X(0x380, initial_count) X(0x3e0, divide)

void ft_state_lapic_take(struct ft_state *s, const struct ft_lapic *lapic)
{
	uint8_t *regs = s->lapic.regs;
#define X(at, field) put32(regs, at, lapic->s.field);
	LAPIC_REGISTERS(X)
#undef X
	for (unsigned i = 0; i < 8; i++) {
		put32(regs, 0x100 + 16 * i, lapic->s.in_service[i]);
		put32(regs, 0x180 + 16 * i, lapic->s.trigger[i]);
		put32(regs, 0x200 + 16 * i, lapic->s.requests[i]);
	}
	put32(regs, 0x30, FT_LAPIC_VERSION);
	put32(regs, 0x390, ft_lapic_current_count(&lapic->s, s->clock.vtime_ns));
	s->board.lapic_error_pending = lapic->s.error_pending;
	s->board.lapic_timer_start_ns = lapic->s.timer_start_ns;
}

void ft_state_lapic(const struct ft_state *s, struct ft_lapic_state *lapic)
{
	const uint8_t *regs = s->lapic.regs;
	*lapic = (struct ft_lapic_state){.base = s->board.lapic_base,
					 .error_pending = s->board.lapic_error_pending,
					 .timer_start_ns = s->board.lapic_timer_start_ns,
					 .tsc_deadline = s->board.lapic_tsc_deadline};
#define X(at, field) lapic->field = get32(regs, at);
	LAPIC_REGISTERS(X)
#undef X
	for (unsigned i = 0; i < 8; i++) {
		lapic->in_service[i] = get32(regs, 0x100 + 16 * i);
		lapic->trigger[i] = get32(regs, 0x180 + 16 * i);
		lapic->requests[i] = get32(regs, 0x200 + 16 * i);
	}
}

/* Which byte of a count comes next. */
static uint8_t pit_step(const struct ft_pit_channel *c, bool high)
{
	return c->access == 3 && high ? FT_KVM_PIT_WORD1 : c->access;
}

static struct ft_kvm_pit_channel take_pit(const struct ft_pit_channel *c)
{
	return (struct ft_kvm_pit_channel){.count = c->count,
					   .latched_count = c->latched_count,
					   .count_latched = c->count_latched ? pit_step(c, c->count_latched == 1) : 0,
					   .status_latched = c->status_latched,
					   .status = c->latched_status,
					   .read_state = pit_step(c, c->read_high),
					   .write_state = pit_step(c, c->write_high),
					   .write_latch = c->write_low_byte,
					   .rw_mode = c->access,
					   .mode = c->mode,
					   .bcd = c->bcd,
					   .gate = c->gate,
					   .count_load_time = (int64_t)c->start_ns};
}

static struct ft_pit_channel give_pit(const struct ft_kvm_pit_channel *k, uint8_t running)
{
	return (struct ft_pit_channel){.count = k->count,
				       .latched_count = k->latched_count,
				       .count_latched = !k->count_latched ? 0 : k->count_latched == FT_KVM_PIT_WORD0 ? 2 : 1,
				       .status_latched = k->status_latched,
				       .latched_status = k->status,
				       .read_high = k->read_state == FT_KVM_PIT_WORD1,
				       .write_high = k->write_state == FT_KVM_PIT_WORD1,
				       .write_low_byte = k->write_latch,
				       .access = k->rw_mode,
				       .mode = k->mode,
				       .bcd = k->bcd,
				       .gate = k->gate,
				       .running = running,
				       .start_ns = (uint64_t)k->count_load_time};
}

/* ---- The board ----------------------------------------------------------------------------------------------------- */

static void take_board(struct ft_state *s, const struct ft_machine *m)
{
	const struct ft_devices *d = m->devices;
	struct ft_state_board *b = &s->board;
	b->lapic_base = d->lapic.s.base;
	b->lapic_tsc_deadline = d->lapic.s.tsc_deadline;
	b->pci_address = d->pci.s.address;
	b->power_enable = d->power.s.enable;
	b->power_control = d->power.s.control;
	b->power_reset = d->power.s.reset;
	b->rtc_index = d->rtc.s.index;
	b->rtc_offset_s = d->rtc.s.offset_s;
	memcpy(b->rtc_cmos, d->rtc.s.cmos, sizeof(b->rtc_cmos));
	memcpy(b->i8042_queue, d->i8042.s.queue, sizeof(b->i8042_queue));
	b->i8042_count = d->i8042.s.count;
	b->i8042_control = d->i8042.s.control;
	b->i8042_output_port = d->i8042.s.output_port;
	b->i8042_expects = d->i8042.s.expects;
	b->i8042_keyboard = d->i8042.s.keyboard;
	for (unsigned i = 0; i < 3; i++)
		b->pit_running[i] = d->pit.s.channel[i].running;
}

static void give_board(const struct ft_state *s, struct ft_devices *d)
{
	const struct ft_state_board *b = &s->board;
	d->pci.s.address = b->pci_address;
	d->power.s.enable = b->power_enable;
	d->power.s.control = b->power_control;
	d->power.s.reset = b->power_reset;
	d->rtc.s.index = b->rtc_index;
	d->rtc.s.offset_s = b->rtc_offset_s;
	memcpy(d->rtc.s.cmos, b->rtc_cmos, sizeof(b->rtc_cmos));
	memcpy(d->i8042.s.queue, b->i8042_queue, sizeof(b->i8042_queue));
	d->i8042.s.count = b->i8042_count;
	d->i8042.s.control = b->i8042_control;
	d->i8042.s.output_port = b->i8042_output_port;
	d->i8042.s.expects = b->i8042_expects;
	d->i8042.s.keyboard = b->i8042_keyboard;
}

static void take_uart(struct ft_state_uart *u, const struct ft_uart_state *s)
{
	*u = (struct ft_state_uart){.ier = s->ier,
				    .fcr = s->fcr,
				    .lcr = s->lcr,
				    .mcr = s->mcr,
				    .scratch = s->scratch,
				    .dll = s->dll,
				    .dlm = s->dlm,
				    .transmit_empty = s->transmit_empty,
				    .fifo_count = s->fifo_count,
				    .waiting_count = s->waiting_count};
	memcpy(u->fifo, s->fifo, sizeof(u->fifo));
	memcpy(u->waiting, s->waiting, sizeof(u->waiting));
}

static void give_uart(const struct ft_state_uart *u, struct ft_uart_state *s)
{
	*s = (struct ft_uart_state){.ier = u->ier,
				    .fcr = u->fcr,
				    .lcr = u->lcr,
				    .mcr = u->mcr,
				    .scratch = u->scratch,
				    .dll = u->dll,
				    .dlm = u->dlm,
				    .transmit_empty = u->transmit_empty,
				    .fifo_count = u->fifo_count,
				    .waiting_count = u->waiting_count};
	memcpy(s->fifo, u->fifo, sizeof(s->fifo));
	memcpy(s->waiting, u->waiting, sizeof(s->waiting));
}

/* ---- PCI and virtio -------------------------------------------------------------------------------------------------- */

static void take_functions(struct ft_state *s, const struct ft_pci *pci)
{
	for (uint32_t slot = 0; slot < FT_PCI_SLOTS; slot++) {
		const struct ft_pci_function *f = pci->functions[slot];
		if (!f)
			continue;
		struct ft_state_pci *to = &s->pci[s->pcis++];
		*to = (struct ft_state_pci){.slot = slot, .msix_pending = f->s.msix_pending, .line = f->s.line};
		memcpy(to->config, f->s.config, sizeof(to->config));
		memcpy(to->msix, f->s.msix, sizeof(to->msix));
	}
}

static void give_functions(const struct ft_state *s, struct ft_pci *pci)
{
	for (uint32_t i = 0; i < s->pcis; i++) {
		const struct ft_state_pci *from = &s->pci[i];
		struct ft_pci_function *f = pci->functions[from->slot];
		f->s.msix_pending = from->msix_pending;
		f->s.line = from->line;
		memcpy(f->s.config, from->config, sizeof(f->s.config));
		memcpy(f->s.msix, from->msix, sizeof(f->s.msix));
		ft_pci_restored(f);
	}
}

static void take_virtio(struct ft_state_virtio *to, const struct ft_virtio *v)
{
	*to = (struct ft_state_virtio){.slot = v->function.slot,
				       .id = v->kind->id,
				       .driver_features = v->s.driver_features,
				       .device_select = v->s.device_select,
				       .driver_select = v->s.driver_select,
				       .queue_select = v->s.queue_select,
				       .config_vector = v->s.config_vector,
				       .status = v->s.status,
				       .interrupt_status = v->s.interrupt_status};
	memcpy(to->config, v->config, sizeof(to->config));
	for (unsigned i = 0; i < FT_VIRTIO_QUEUES; i++) {
		const struct ft_virtqueue *q = &v->s.queue[i];
		to->queue[i] = (struct ft_state_queue){.descriptors = q->descriptors,
						       .available = q->available,
						       .used = q->used,
						       .size = q->size,
						       .next_available = q->next_available,
						       .next_used = q->next_used,
						       .signalled = q->signalled,
						       .vector = q->vector,
						       .enabled = q->enabled,
						       .event_index = q->event_index};
	}
}

static void give_virtio(const struct ft_state_virtio *from, struct ft_virtio *v)
{
	v->s = (struct ft_virtio_state){.driver_features = from->driver_features,
					.device_select = from->device_select,
					.driver_select = from->driver_select,
					.queue_select = from->queue_select,
					.config_vector = from->config_vector,
					.status = from->status,
					.interrupt_status = from->interrupt_status};
	for (unsigned i = 0; i < FT_VIRTIO_QUEUES; i++) {
		const struct ft_state_queue *q = &from->queue[i];
		v->s.queue[i] = (struct ft_virtqueue){.descriptors = q->descriptors,
						      .available = q->available,
						      .used = q->used,
						      .size = q->size,
						      .next_available = q->next_available,
						      .next_used = q->next_used,
						      .signalled = q->signalled,
						      .vector = q->vector,
						      .enabled = q->enabled,
						      .event_index = q->event_index};
	}
}

/* ---- Queues of work -------------------------------------------------------------------------------------------------- */

static uint64_t up4(uint64_t n)
{
	return (n + 3) & ~3ull;
}

static int take_net(struct ft_state *s, const struct ft_virtio_net *net, struct ft_error *err)
{
	struct ft_state_net header = {.first = net->s.first, .count = net->s.count};
	uint64_t length = sizeof(header);
	for (uint32_t i = 0; i < header.count; i++)
		length += 4 + up4(net->waiting[(header.first + i) % FT_NET_WAITING].length);
	uint8_t *at = s->net_owned = calloc(1, length);
	if (!at)
		return ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	memcpy(at, &header, sizeof(header));
	at += sizeof(header);
	for (uint32_t i = 0; i < header.count; i++) {
		const struct ft_net_frame *frame = &net->waiting[(header.first + i) % FT_NET_WAITING];
		put32(at, 0, frame->length);
		memcpy(at + 4, frame->bytes, frame->length);
		at += 4 + up4(frame->length);
	}
	s->net = s->net_owned;
	s->net_length = length;
	return 0;
}

static void give_net(const struct ft_state *s, struct ft_virtio_net *net)
{
	struct ft_state_net header;
	memcpy(&header, s->net, sizeof(header));
	for (uint32_t i = 0; i < FT_NET_WAITING; i++)
		if (net->waiting[i].length) /* others are zero, and may have no memory yet */
			memset(&net->waiting[i], 0, sizeof(net->waiting[i]));
	net->s = (struct ft_net_state){.first = header.first, .count = header.count};
	const uint8_t *at = s->net + sizeof(header);
	for (uint32_t i = 0; i < header.count; i++) {
		struct ft_net_frame *frame = &net->waiting[(header.first + i) % FT_NET_WAITING];
		frame->length = (uint16_t)get32(at, 0);
		memcpy(frame->bytes, at + 4, frame->length);
		at += 4 + up4(frame->length);
	}
}

static void take_waiting(struct ft_state *s, const struct ft_devices *d)
{
	s->rng = (struct ft_state_waiting){.first = d->rng.s.first, .count = d->rng.s.count};
	for (uint32_t i = 0; i < s->rng.count; i++)
		s->rng_heads[i] = d->rng.s.head[(s->rng.first + i) % FT_VIRTQUEUE_MAX];
	s->blk = (struct ft_state_waiting){.first = d->blk.s.first, .count = d->blk.s.count};
	for (uint32_t i = 0; i < s->blk.count; i++)
		s->blk_requests[i] = d->blk.s.request[(s->blk.first + i) % FT_VIRTQUEUE_MAX];
}

static void give_waiting(const struct ft_state *s, struct ft_devices *d)
{
	d->rng.s = (struct ft_rng_state){.first = s->rng.first, .count = s->rng.count};
	for (uint32_t i = 0; i < s->rng.count; i++)
		d->rng.s.head[(s->rng.first + i) % FT_VIRTQUEUE_MAX] = s->rng_heads[i];
	d->blk.s = (struct ft_blk_state){.first = s->blk.first, .count = s->blk.count};
	for (uint32_t i = 0; i < s->blk.count; i++)
		d->blk.s.request[(s->blk.first + i) % FT_VIRTQUEUE_MAX] = s->blk_requests[i];
}

/* ---- Time ------------------------------------------------------------------------------------------------------------ */

static void take_clock(struct ft_state_clock *to, const struct ft_machine *m)
{
	const struct ft_clock *c = &m->clock;
	*to = (struct ft_state_clock){.icount = m->icount,
				      .vtime_ns = ft_machine_vtime(m),
				      .base_ns = c->base_ns,
				      .base_icount = c->base_icount,
				      .tsc_khz = c->tsc_khz,
				      .tsc_adjust = c->tsc_adjust,
				      .epoch_ns = c->epoch_ns,
				      .ns_per_1024insn = c->ns_per_1024insn};
}

/* What is the host's (mode, when wall time was what) stays, or begins anew at the next sync. */
static void give_clock(const struct ft_state_clock *from, struct ft_machine *m)
{
	struct ft_clock *c = &m->clock;
	m->icount = from->icount;
	c->base_ns = from->base_ns;
	c->base_icount = from->base_icount;
	c->tsc_khz = from->tsc_khz;
	c->tsc_adjust = from->tsc_adjust;
	c->epoch_ns = from->epoch_ns;
	c->ns_per_1024insn = from->ns_per_1024insn;
	c->wall_base_ns = 0;
	c->lead_end_ns = m->limit_ns = UINT64_MAX;
}

static void take_timers(struct ft_state_timers *t, const struct ft_devices *d)
{
	*t = (struct ft_state_timers){.lapic = d->lapic.timer.deadline_ns,
				      .pit = d->pit.timer.deadline_ns,
				      .rtc_second = d->rtc.second.deadline_ns,
				      .rtc_periodic = d->rtc.periodic.deadline_ns,
				      .uart = d->uart.drained.deadline_ns,
				      .blk = d->has_disk ? d->blk.timer.deadline_ns : UINT64_MAX};
}

static void give_timers(const struct ft_state_timers *t, struct ft_machine *m)
{
	struct ft_devices *d = m->devices;
	ft_timer_arm(m, &d->lapic.timer, t->lapic);
	ft_timer_arm(m, &d->pit.timer, t->pit);
	ft_timer_arm(m, &d->rtc.second, t->rtc_second);
	ft_timer_arm(m, &d->rtc.periodic, t->rtc_periodic);
	ft_timer_arm(m, &d->uart.drained, t->uart);
	if (d->has_disk)
		ft_timer_arm(m, &d->blk.timer, t->blk);
}

/* ---- Everything ------------------------------------------------------------------------------------------------------ */

int ft_state_take(struct ft_state *s, struct ft_machine *m, struct ft_error *err)
{
	struct ft_devices *d = m->devices;
	struct ft_virtio *virtio[FT_STATE_VIRTIOS_MOST];
	memset(s, 0, sizeof(*s));
	s->machine = (struct ft_state_machine){.memory = m->ram.size, .disk_size = d->has_disk ? d->blk.disk.size : 0};
	ft_state_host(&s->machine);
	if (m->engine) {
		strncpy(s->machine.engine, m->engine_ops->name, sizeof(s->machine.engine) - 1);
		ft_state_cpu_take(s, m);
	}
	take_clock(&s->clock, m);
	for (unsigned i = 0; i < 2; i++)
		s->pic[i] = take_pic(&d->pic.s.chip[i], i);
	s->ioapic = (struct ft_kvm_ioapic){.base_address = FT_IOAPIC_BASE,
					   .ioregsel = d->ioapic.s.select,
					   .id = d->ioapic.s.id,
					   .irr = d->ioapic.s.lines};
	memcpy(s->ioapic.redirtbl, d->ioapic.s.entry, sizeof(s->ioapic.redirtbl));
	ft_state_lapic_take(s, &d->lapic);
	for (unsigned i = 0; i < 3; i++)
		s->pit.channels[i] = take_pit(&d->pit.s.channel[i]);
	s->pit.flags = d->pit.s.speaker & 2 ? FT_KVM_PIT_SPEAKER : 0;
	take_board(s, m);
	take_uart(&s->uart, &d->uart.s);
	take_functions(s, &d->pci);
	s->virtios = ft_state_virtios(d, virtio);
	for (unsigned i = 0; i < s->virtios; i++)
		take_virtio(&s->virtio[i], virtio[i]);
	s->machine.pci_functions = s->pcis;
	s->machine.virtio_devices = s->virtios;
	take_waiting(s, d);
	take_timers(&s->timers, d);
	static const uint8_t tags[] = {FT_STATE_MACHINE, FT_STATE_CLOCK, FT_STATE_PIC,  FT_STATE_IOAPIC, FT_STATE_LAPIC,
				       FT_STATE_PIT,	 FT_STATE_BOARD, FT_STATE_UART, FT_STATE_PCI,    FT_STATE_VIRTIO,
				       FT_STATE_NET,	 FT_STATE_RNG,	 FT_STATE_TIMERS};
	for (unsigned i = 0; i < sizeof(tags); i++)
		s->present[tags[i]] = true;
	s->present[FT_STATE_BLK] = d->has_disk;
	int error = ft_state_processors_take(s, m, err);
	return error ? error : take_net(s, &d->net, err);
}

/* Of the engine only after what it reads: the clock's instruction count. Interrupt lines are not driven again: their levels
 * are in the controllers' state. */
int ft_state_give(const struct ft_state *s, struct ft_machine *m, struct ft_error *err)
{
	struct ft_devices *d = m->devices;
	struct ft_virtio *virtio[FT_STATE_VIRTIOS_MOST];
	struct ft_state *one = m->vcpus > 1 ? malloc(sizeof(*one)) : NULL;
	if (m->vcpus > 1 && !one)
		return ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	if (m->engine) {
		struct ft_cpu_state cpu;
		ft_state_cpu_give(s, &cpu);
		struct ft_model model;
		ft_state_model_find(s, &model);
		int error = m->engine_ops->become ? m->engine_ops->become(m->engine, &model, s->clock.tsc_khz, err) : 0;
		if (!error)
			error = m->engine_ops->set(m->engine, &cpu, err);
		if (error) {
			free(one);
			return error;
		}
		m->model = model;
		m->engine_ops->flush(m->engine);
	}
	if (one)
		ft_state_processors_give(s, one, m);
	free(one);
	give_clock(&s->clock, m);
	for (unsigned i = 0; i < 2; i++)
		d->pic.s.chip[i] = give_pic(&s->pic[i]);
	d->ioapic.s.select = (uint8_t)s->ioapic.ioregsel;
	d->ioapic.s.id = (uint8_t)s->ioapic.id;
	d->ioapic.s.lines = s->ioapic.irr;
	memcpy(d->ioapic.s.entry, s->ioapic.redirtbl, sizeof(d->ioapic.s.entry));
	ft_state_lapic(s, &d->lapic.s);
	ft_lapic_restored(&d->lapic);
	for (unsigned i = 0; i < 3; i++)
		d->pit.s.channel[i] = give_pit(&s->pit.channels[i], s->board.pit_running[i]);
	d->pit.s.speaker = (uint8_t)((s->pit.flags & FT_KVM_PIT_SPEAKER ? 2 : 0) | s->pit.channels[2].gate);
	give_board(s, d);
	give_uart(&s->uart, &d->uart.s);
	give_functions(s, &d->pci);
	for (unsigned i = 0; i < ft_state_virtios(d, virtio); i++)
		give_virtio(&s->virtio[i], virtio[i]);
	give_net(s, &d->net);
	give_waiting(s, d);
	give_timers(&s->timers, m);
	m->reset = FT_RESET_NONE;
	m->leave = false;
	ft_irq_refresh(m);
	return 0;
}
