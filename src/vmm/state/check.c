/* The one door for a state from outside: every field, against what this machine can come to. What is not refused here must
 * not be able to do more to the vmm than a guest can. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/state/format.h"

/* Far from where sums of times could overflow: 146 years. */
#define TIME_MAX (1ull << 62)

/* What a guest can set its RTC apart by: 4-digit years and carries, in seconds. */
#define RTC_OFFSET_MAX 1000000000000ll

int ft_state_refuse(struct ft_error *err, uint64_t value, const char *why, const char *format, ...)
{
	char field[64];
	va_list args;
	va_start(args, format);
	vsnprintf(field, sizeof(field), format, args);
	va_end(args);
	return ft_error_set(err, -EINVAL, "machine state: %s is 0x%llx: %s", field, (unsigned long long)value, why);
}

#define REFUSE(value, why, ...)                                                                              \
	return ft_state_refuse(err, (uint64_t)(value), why, __VA_ARGS__)

struct limit {
	const char *field;
	uint64_t value, bits; /* that may be set */
};

static int check_bits(const struct limit *limits, size_t count, struct ft_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (limits[i].value & ~limits[i].bits)
			REFUSE(limits[i].value, "unknown bits", "%s", limits[i].field);
	return 0;
}

#define CHECK_BITS(limits) check_bits(limits, sizeof(limits) / sizeof(*(limits)), err)

/* ---- What there must be ------------------------------------------------------------------------------------------ */

static int check_sections(const struct ft_state *s, const struct ft_machine *m, const struct ft_model *model, struct ft_error *err)
{
	static const char *const names[FT_STATE_TAGS] = {
#define X(tag, number, name) [FT_STATE_##tag] = name,
	    FT_STATE_SECTIONS(X)
#undef X
	};
	if (m->engine && s->processor_count + 1 != m->vcpus)
		return ft_error_set(err, -EINVAL, "machine state: processors: the guest was saved with %u, this machine has %u", s->processor_count + 1,
				    m->vcpus);
	for (unsigned tag = 1; tag < FT_STATE_TAGS; tag++) {
		bool cpu = tag >= FT_STATE_CPUID && tag <= FT_STATE_MP;
		bool wanted = cpu			      ? m->engine != NULL
			      : tag == FT_STATE_BLK	      ? m->devices->has_disk
			      : tag == FT_STATE_PROCESSORS ? m->engine && m->vcpus > 1
			      : tag == FT_STATE_SPECULATION ? m->engine && m->vcpus > 1 && ft_model_spec_ctrl(model)
							      : true;
		if (s->present[tag] != wanted)
			return ft_error_set(err, -EINVAL, "machine state: %s: %s", names[tag],
					    wanted ? "is missing" : "this machine has none");
	}
	if (s->present[FT_STATE_SPECULATION] && s->speculations != s->processor_count)
		REFUSE(s->speculations, "one for each of the other processors", "speculation.count");
	return 0;
}

static int check_machine(const struct ft_state *s, const struct ft_machine *m, struct ft_error *err)
{
	const struct ft_state_machine *a = &s->machine;
	const struct ft_devices *d = m->devices;
	if (a->memory != m->ram.size)
		REFUSE(a->memory, "this machine has another memory size", "machine.memory");
	if (a->disk_size != (d->has_disk ? d->blk.disk.size : 0))
		REFUSE(a->disk_size, "this machine has another disk", "machine.disk_size");
	if (a->engine[sizeof(a->engine) - 1])
		REFUSE(a->engine[sizeof(a->engine) - 1], "not terminated", "machine.engine");
	if (!*a->engine != !m->engine)
		REFUSE(*a->engine, "a machine with a processor and one without", "machine.engine");
	if (a->host_vendor[sizeof(a->host_vendor) - 1])
		REFUSE(a->host_vendor[sizeof(a->host_vendor) - 1], "not terminated", "machine.host_vendor");
	if (a->pci_functions != s->pcis)
		REFUSE(a->pci_functions, "there are others", "machine.pci_functions");
	if (a->virtio_devices != s->virtios)
		REFUSE(a->virtio_devices, "there are others", "machine.virtio_devices");
	if (a->reserved)
		REFUSE(a->reserved, "not 0", "machine.reserved");
	return 0;
}

/* ---- Time --------------------------------------------------------------------------------------------------------- */

static int check_clock(const struct ft_state_clock *c, struct ft_error *err)
{
	if (c->icount > TIME_MAX)
		REFUSE(c->icount, "out of range", "clock.icount");
	if (c->base_icount > c->icount)
		REFUSE(c->base_icount, "behind icount", "clock.base_icount");
	if (c->base_ns > TIME_MAX)
		REFUSE(c->base_ns, "out of range", "clock.base_ns");
	if (!c->ns_per_1024insn || c->ns_per_1024insn > 1024 * 1024)
		REFUSE(c->ns_per_1024insn, "out of range", "clock.ns_per_1024insn");
	unsigned __int128 passed = (unsigned __int128)(c->icount - c->base_icount) * c->ns_per_1024insn >> 10;
	if (passed > TIME_MAX)
		REFUSE(c->base_icount, "too long ago", "clock.base_icount");
	if (c->vtime_ns != c->base_ns + (uint64_t)passed)
		REFUSE(c->vtime_ns, "not what the others make", "clock.vtime_ns");
	if (!ft_clock_possible(c->tsc_khz))
		REFUSE(c->tsc_khz, "no possible frequency", "clock.tsc_khz");
	if (c->epoch_ns > TIME_MAX)
		REFUSE(c->epoch_ns, "out of range", "clock.epoch_ns");
	if (c->reserved)
		REFUSE(c->reserved, "not 0", "clock.reserved");
	return 0;
}

static int check_pit(const struct ft_state *s, struct ft_error *err)
{
	for (unsigned i = 0; i < 3; i++) {
		const struct ft_kvm_pit_channel *c = &s->pit.channels[i];
		uint8_t word = c->rw_mode == 3 ? FT_KVM_PIT_WORD1 : c->rw_mode;
		if (!c->count || c->count > 65536)
			REFUSE(c->count, "out of range", "pit[%u].count", i);
		if (!c->rw_mode || c->rw_mode > 3)
			REFUSE(c->rw_mode, "out of range", "pit[%u].rw_mode", i);
		if (c->read_state != c->rw_mode && c->read_state != word)
			REFUSE(c->read_state, "not rw_mode's", "pit[%u].read_state", i);
		if (c->write_state != c->rw_mode && c->write_state != word)
			REFUSE(c->write_state, "not rw_mode's", "pit[%u].write_state", i);
		if (c->count_latched && c->count_latched != c->rw_mode && c->count_latched != word)
			REFUSE(c->count_latched, "not rw_mode's", "pit[%u].count_latched", i);
		if (c->mode > 5)
			REFUSE(c->mode, "out of range", "pit[%u].mode", i);
		if (c->status_latched > 1)
			REFUSE(c->status_latched, "out of range", "pit[%u].status_latched", i);
		if (c->bcd > 1)
			REFUSE(c->bcd, "out of range", "pit[%u].bcd", i);
		if (c->gate > 1)
			REFUSE(c->gate, "out of range", "pit[%u].gate", i);
		if ((uint64_t)c->count_load_time > s->clock.vtime_ns)
			REFUSE(c->count_load_time, "in the future", "pit[%u].count_load_time", i);
		if (s->board.pit_running[i] > 1)
			REFUSE(s->board.pit_running[i], "out of range", "board.pit_running[%u]", i);
	}
	if (s->pit.flags & ~FT_KVM_PIT_SPEAKER)
		REFUSE(s->pit.flags, "unknown bits", "pit.flags");
	for (unsigned i = 0; i < 9; i++)
		if (s->pit.reserved[i])
			REFUSE(s->pit.reserved[i], "not 0", "pit.reserved[%u]", i);
	return 0;
}

/* ---- Interrupt controllers --------------------------------------------------------------------------------------- */

static int check_pic(const struct ft_state *s, struct ft_error *err)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct ft_kvm_pic *p = &s->pic[i];
		const struct {
			const char *field;
			uint8_t value, most;
		} fields[] = {{"priority_add", p->priority_add, 7},
			      {"read_reg_select", p->read_reg_select, 1},
			      {"poll", p->poll, 0},
			      {"special_mask", p->special_mask, 1},
			      {"init_state", p->init_state, 3},
			      {"auto_eoi", p->auto_eoi, 1},
			      {"rotate_on_auto_eoi", p->rotate_on_auto_eoi, 1},
			      {"special_fully_nested_mode", p->special_fully_nested_mode, 0},
			      {"init4", p->init4, 1}};
		for (unsigned n = 0; n < sizeof(fields) / sizeof(*fields); n++)
			if (fields[n].value > fields[n].most)
				REFUSE(fields[n].value, "out of range", "pic[%u].%s", i, fields[n].field);
		if (p->irq_base & 7)
			REFUSE(p->irq_base, "no multiple of 8", "pic[%u].irq_base", i);
		if (p->elcr_mask != ft_pic_level_mask(i))
			REFUSE(p->elcr_mask, "not this chip's", "pic[%u].elcr_mask", i);
		if (p->elcr & ~p->elcr_mask)
			REFUSE(p->elcr, "not in elcr_mask", "pic[%u].elcr", i);
	}
	return 0;
}

static int check_ioapic(const struct ft_kvm_ioapic *a, struct ft_error *err)
{
	const struct limit limits[] = {
	    {"ioapic.ioregsel", a->ioregsel, 0xff}, {"ioapic.id", a->id, 0xf}, {"ioapic.irr", a->irr, 0xffffff}, {"ioapic.pad", a->pad, 0}};
	if (a->base_address != FT_IOAPIC_BASE)
		REFUSE(a->base_address, "it does not move", "ioapic.base_address");
	for (unsigned pin = 0; pin < FT_IOAPIC_PINS; pin++)
		if (a->redirtbl[pin] & ~0xff0000000001efffull)
			REFUSE(a->redirtbl[pin], "unknown bits", "ioapic.redirtbl[%u]", pin);
	return CHECK_BITS(limits);
}

static uint32_t reg(const struct ft_kvm_lapic *lapic, unsigned at)
{
	uint32_t value;
	memcpy(&value, lapic->regs + at, sizeof(value));
	return value;
}

/* Bits that a register of the page may have set; SDM Vol. 3A table 11-1. */
static uint32_t lapic_bits(unsigned at)
{
	if (at >= 0x100 && at < 0x280 && !(at & 15))
		return at & 0x70 ? UINT32_MAX : 0xffff0000; /* vectors below 16 are none */
	switch (at) {
	case 0x20:
	case 0xd0:
	case 0x310:
		return 0xff000000;
	case 0x80:
	case 0x280:
		return 0xff;
	case 0xf0:
		return 0x1ff;
	case 0x300:
		return 0xccfff;
	case 0x320:
		return 0x700ff;
	case 0x330:
	case 0x340:
		return 0x107ff;
	case 0x350:
	case 0x360:
		return 0x1a7ff;
	case 0x370:
		return 0x100ff;
	case 0x3e0:
		return 0xb;
	case 0x30:
	case 0xe0:
	case 0x380:
	case 0x390:
		return UINT32_MAX;
	}
	return 0;
}

static int check_lapic(const struct ft_state *s, unsigned number, struct ft_error *err)
{
	const struct ft_state_board *b = &s->board;
	for (unsigned at = 0; at < sizeof(s->lapic.regs); at += 4)
		if (reg(&s->lapic, at) & ~lapic_bits(at))
			REFUSE(reg(&s->lapic, at), "unknown bits", "lapic.regs[0x%x]", at);
	if (reg(&s->lapic, 0x30) != FT_LAPIC_VERSION)
		REFUSE(reg(&s->lapic, 0x30), "another version", "lapic.regs[0x30]");
	if ((reg(&s->lapic, 0xe0) & 0x0fffffff) != 0x0fffffff)
		REFUSE(reg(&s->lapic, 0xe0), "reserved bits are 1", "lapic.regs[0xe0]");
	if ((b->lapic_base & ~0x800ull) != (FT_LAPIC_BASE | (number ? 0 : 0x100u)))
		REFUSE(b->lapic_base, "it does not move", "board.lapic_base");
	if (b->lapic_timer_start_ns > s->clock.vtime_ns)
		REFUSE(b->lapic_timer_start_ns, "in the future", "board.lapic_timer_start_ns");
	struct ft_lapic_state lapic;
	ft_state_lapic(s, &lapic);
	if (reg(&s->lapic, 0x390) != ft_lapic_current_count(&lapic, s->clock.vtime_ns))
		REFUSE(reg(&s->lapic, 0x390), "not what the timer's others make", "lapic.regs[0x390]");
	if (!s->present[FT_STATE_SREGS])
		return 0;
	if (s->sregs.apic_base != b->lapic_base)
		REFUSE(s->sregs.apic_base, "board.lapic_base says otherwise", "sregs.apic_base");
	if (s->sregs.cr8 != reg(&s->lapic, 0x80) >> 4)
		REFUSE(s->sregs.cr8, "lapic.regs[0x80] says otherwise", "sregs.cr8");
	for (uint32_t i = 0; i < s->msr_count; i++)
		if (s->msrs[i].index == 0x6e0 && s->msrs[i].data != b->lapic_tsc_deadline)
			REFUSE(s->msrs[i].data, "board.lapic_tsc_deadline says otherwise", "msrs[0x6e0]");
	return 0;
}

/* ---- The board ---------------------------------------------------------------------------------------------------- */

static bool one_of(uint8_t value, const char *set, size_t count)
{
	return memchr(set, value, count) != NULL;
}

static int check_board(const struct ft_state_board *b, struct ft_error *err)
{
	const struct limit limits[] = {{"board.lapic_error_pending", b->lapic_error_pending, 0xff},
				       {"board.reserved0", b->reserved0, 0},
				       {"board.reserved", b->reserved, 0},
				       {"board.pci_address", b->pci_address, 0x80fffffc},
				       {"board.power_enable", b->power_enable, 0x721},
				       {"board.power_control", b->power_control, 0x1c06},
				       {"board.power_reset", b->power_reset, 0xe},
				       {"board.rtc_index", b->rtc_index, 0x7f},
				       {"board.rtc_cmos[10]", b->rtc_cmos[10], 0x7f}};
	if (CHECK_BITS(limits))
		return -EINVAL;
	if (b->rtc_offset_s > RTC_OFFSET_MAX || b->rtc_offset_s < -RTC_OFFSET_MAX)
		REFUSE(b->rtc_offset_s, "out of range", "board.rtc_offset_s");
	if (b->i8042_count > FT_I8042_QUEUE)
		REFUSE(b->i8042_count, "more than there is room for", "board.i8042_count");
	if (!one_of(b->i8042_expects, "\0\x60\xd1\xd2\xd3\xd4", 6))
		REFUSE(b->i8042_expects, "no command that has data", "board.i8042_expects");
	if (!one_of(b->i8042_keyboard, "\0\xed\xf0\xf3", 4))
		REFUSE(b->i8042_keyboard, "no command that has data", "board.i8042_keyboard");
	return 0;
}

static int check_uart(const struct ft_state_uart *u, struct ft_error *err)
{
	const struct limit limits[] = {{"uart.ier", u->ier, 0xf},
				       {"uart.fcr", u->fcr, 0xc9},
				       {"uart.mcr", u->mcr, 0x1f},
				       {"uart.transmit_empty", u->transmit_empty, 1}};
	if (u->fifo_count > FT_UART_FIFO)
		REFUSE(u->fifo_count, "more than there is room for", "uart.fifo_count");
	if (u->waiting_count > FT_UART_WAITING)
		REFUSE(u->waiting_count, "more than there is room for", "uart.waiting_count");
	return CHECK_BITS(limits);
}

/* ---- PCI and virtio ------------------------------------------------------------------------------------------------- */

static int check_functions(const struct ft_state *s, const struct ft_pci *pci, struct ft_error *err)
{
	uint32_t i = 0;
	for (uint32_t slot = 0; slot < FT_PCI_SLOTS; slot++) {
		struct ft_pci_state state = {0};
		unsigned at;
		if (!pci->functions[slot])
			continue;
		if (i == s->pcis)
			REFUSE(s->pcis, "fewer functions than this machine's", "pci.count");
		const struct ft_state_pci *f = &s->pci[i++];
		if (f->slot != slot)
			REFUSE(f->slot, "another slot than this machine's", "pci[%u].slot", i - 1);
		if (f->line > 1)
			REFUSE(f->line, "out of range", "pci[%u].line", slot);
		if (f->msix_pending >> FT_PCI_MSIX_VECTORS)
			REFUSE(f->msix_pending, "unknown bits", "pci[%u].msix_pending", slot);
		if (f->reserved)
			REFUSE(f->reserved, "not 0", "pci[%u].reserved", slot);
		memcpy(state.config, f->config, sizeof(state.config));
		state.line = f->line;
		if (!ft_pci_possible(pci->functions[slot], &state, &at))
			REFUSE(f->config[at], "this function has another value", "pci[%u].config[0x%x]", slot, at);
	}
	if (i != s->pcis)
		REFUSE(s->pcis, "more functions than this machine's", "pci.count");
	return 0;
}

static struct ft_virtqueue queue_of(const struct ft_state_queue *q)
{
	return (struct ft_virtqueue){.descriptors = q->descriptors,
				     .available = q->available,
				     .used = q->used,
				     .size = q->size,
				     .vector = q->vector,
				     .enabled = q->enabled,
				     .event_index = q->event_index};
}

static int check_virtio(const struct ft_state_virtio *a, const struct ft_virtio *v, struct ft_error *err)
{
	const char *name = v->kind->name;
	static const uint8_t zeros[4];
	if (a->slot != v->function.slot)
		REFUSE(a->slot, "another slot than this machine's", "%s.slot", name);
	if (a->id != v->kind->id)
		REFUSE(a->id, "another device than this machine's", "%s.id", name);
	for (unsigned i = 0; i < FT_VIRTIO_CONFIG; i++)
		if (a->config[i] != v->config[i])
			REFUSE(a->config[i], "this machine's device is configured otherwise", "%s.config[%u]", name, i);
	if (memcmp(a->reserved, zeros, sizeof(a->reserved)))
		REFUSE(a->reserved[0], "not 0", "%s.reserved", name);
	for (unsigned i = 0; i < FT_VIRTIO_QUEUES; i++)
		if (memcmp(a->queue[i].reserved, zeros, sizeof(zeros)))
			REFUSE(a->queue[i].reserved[0], "not 0", "%s.queue[%u].reserved", name, i);
	struct ft_virtio_state state = {.driver_features = a->driver_features,
					.config_vector = a->config_vector,
					.status = a->status,
					.interrupt_status = a->interrupt_status,
					.queue = {queue_of(&a->queue[0]), queue_of(&a->queue[1])}};
	const char *field = ft_virtio_possible(v, &state);
	if (field)
		return ft_error_set(err, -EINVAL, "machine state: %s.%s: this device cannot come to that value", name, field);
	return 0;
}

static int check_virtios(const struct ft_state *s, struct ft_devices *d, struct ft_error *err)
{
	struct ft_virtio *virtio[FT_STATE_VIRTIOS_MOST];
	unsigned count = ft_state_virtios(d, virtio);
	if (s->virtios != count)
		REFUSE(s->virtios, "not as many devices as this machine has", "virtio.count");
	for (unsigned i = 0; i < count; i++)
		if (check_virtio(&s->virtio[i], virtio[i], err))
			return -EINVAL;
	return 0;
}

static int check_net(const struct ft_state *s, struct ft_error *err)
{
	struct ft_state_net header;
	uint64_t at = sizeof(header);
	if (s->net_length < sizeof(header))
		REFUSE(s->net_length, "too short", "net.length");
	memcpy(&header, s->net, sizeof(header));
	if (header.first >= FT_NET_WAITING)
		REFUSE(header.first, "out of range", "net.first");
	if (header.count > FT_NET_WAITING)
		REFUSE(header.count, "more than there is room for", "net.count");
	if (!header.count && header.first)
		REFUSE(header.first, "not 0 when nothing waits", "net.first");
	for (uint32_t i = 0; i < header.count; i++) {
		uint32_t length;
		if (s->net_length - at < sizeof(length))
			REFUSE(header.count, "more than there are", "net.count");
		memcpy(&length, s->net + at, sizeof(length));
		at += sizeof(length);
		if (length < FT_NET_FRAME_MIN || length > FT_NET_FRAME_MAX)
			REFUSE(length, "no frame has that length", "net.frame[%u].length", i);
		uint32_t room = (length + 3) & ~3u;
		if (s->net_length - at < room)
			REFUSE(length, "reaches behind the end", "net.frame[%u].length", i);
		for (uint32_t n = length; n < room; n++)
			if (s->net[at + n])
				REFUSE(s->net[at + n], "not 0", "net.frame[%u].padding", i);
		at += room;
	}
	if (at != s->net_length)
		REFUSE(s->net_length, "does not fit count", "net.length");
	return 0;
}

/* Work under way belongs to a queue that is in use. */
static int check_waiting(const char *name, const struct ft_state_waiting *w, const struct ft_state_virtio *v, struct ft_error *err)
{
	if (w->first >= FT_VIRTQUEUE_MAX)
		REFUSE(w->first, "out of range", "%s.first", name);
	if (w->count && !v->queue[0].enabled)
		REFUSE(w->count, "the queue is not in use", "%s.count", name);
	return 0;
}

static int check_work(const struct ft_state *s, struct ft_error *err)
{
	if (check_waiting("rng", &s->rng, &s->virtio[1], err))
		return -EINVAL;
	for (uint32_t i = 0; i < s->rng.count; i++)
		if (s->rng_heads[i] >= s->virtio[1].queue[0].size)
			REFUSE(s->rng_heads[i], "not in the queue", "rng.head[%u]", i);
	if (!s->present[FT_STATE_BLK] && s->timers.blk != UINT64_MAX)
		REFUSE(s->timers.blk, "there is no disk", "timers.blk");
	if (!s->present[FT_STATE_BLK])
		return 0;
	if (check_waiting("blk", &s->blk, &s->virtio[2], err))
		return -EINVAL;
	for (uint32_t i = 0; i < s->blk.count; i++)
		if ((s->blk_requests[i].head & FT_BLK_HEAD) >= s->virtio[2].queue[0].size ||
		    s->blk_requests[i].head & ~(FT_BLK_HEAD | FT_BLK_BEGUN | FT_BLK_WAITED))
			REFUSE(s->blk_requests[i].head, "not in the queue", "blk.request[%u].head", i);
	return 0;
}

/* ---- The other processors ------------------------------------------------------------------------------------------ */

/* As the first one is; that its fields are meant says the beginning of the text. */
static int check_processor(const struct ft_state *s, const struct ft_state *one, struct ft_machine *m, const struct ft_model *model, unsigned number,
			   struct ft_error *err)
{
	static const char prefix[] = "machine state: ";
	struct ft_error own = {0};
	int error = ft_state_cpu_check(one, m, model, number, &own);
	if (!error)
		error = check_lapic(one, number, &own);
	for (unsigned other = 0; !error && other < number; other++) {
		const struct ft_kvm_lapic *lapic = other ? &s->processors[other - 1].lapic : &s->lapic;
		if (reg(lapic, 0x20) == reg(&one->lapic, 0x20))
			error = ft_state_refuse(&own, reg(lapic, 0x20), "another processor has it", "lapic.regs[0x20]");
	}
	if (!error)
		return 0;
	bool prefixed = !strncmp(own.text, prefix, sizeof(prefix) - 1);
	return ft_error_set(err, error, "%sprocessors[%u].%s", prefix, number, own.text + (prefixed ? sizeof(prefix) - 1 : 0));
}

static int check_processors(const struct ft_state *s, struct ft_machine *m, const struct ft_model *model, struct ft_error *err)
{
	struct ft_state *one = malloc(sizeof(*one));
	int error = one ? 0 : ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	for (unsigned i = 1; !error && i <= s->processor_count; i++) {
		if (s->processors[i - 1].number != i) {
			error = ft_state_refuse(err, s->processors[i - 1].number, "not in its place", "processors[%u].number", i);
			break;
		}
		ft_state_processor_spread(s, i, one);
		error = check_processor(s, one, m, model, i, err);
	}
	free(one);
	return error;
}

int ft_state_check(const struct ft_state *s, struct ft_machine *m, struct ft_error *err)
{
	struct ft_model model;
	ft_state_model_find(s, &model);
	int error = check_sections(s, m, &model, err);
	if (!error)
		error = check_machine(s, m, err);
	if (!error)
		error = check_clock(&s->clock, err);
	if (!error && m->engine)
		error = ft_state_model_check(s, m, &model, err);
	if (!error && m->engine)
		error = ft_state_cpu_check(s, m, &model, 0, err);
	if (!error && s->processor_count)
		error = check_processors(s, m, &model, err);
	if (error)
		return error;
	if (check_pic(s, err) || check_ioapic(&s->ioapic, err) || check_lapic(s, 0, err) || check_pit(s, err) ||
	    check_board(&s->board, err) || check_uart(&s->uart, err) || check_functions(s, &m->devices->pci, err) ||
	    check_virtios(s, m->devices, err) || check_net(s, err) || check_work(s, err))
		return -EINVAL;
	return 0;
}
