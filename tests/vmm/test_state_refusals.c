/* States of a machine that are wrong: refused by the field's name, before anything has changed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

#include "saved.h"
#include "vmm/engine/mxcsr.h"
#include "vmm/state/format.h"
#include "vmm/state/image.h"

static uint8_t *section(const struct saved *b, enum ft_state_tag tag)
{
	size_t at = sizeof(struct ft_state_header);
	while (at < b->length) {
		struct ft_state_section_header h;
		memcpy(&h, b->at + at, sizeof(h));
		at += sizeof(h);
		if (h.tag == (uint32_t)tag)
			return b->at + at;
		at += (h.length + 7) & ~7ull;
	}
	fail_msg("there is no section %d", tag);
	return NULL;
}

static void seal(struct saved *b)
{
	struct ft_state_header h;
	memcpy(&h, b->at, sizeof(h));
	h.length = b->length;
	memcpy(b->at, &h, sizeof(h));
	uint64_t checksum = XXH3_64bits(b->at, b->length - sizeof(checksum));
	memcpy(b->at + b->length - sizeof(checksum), &checksum, sizeof(checksum));
}

static struct saved copy(const struct saved *b)
{
	if (b->length < sizeof(struct ft_state_header))
		abort();
	struct saved c = {malloc(b->length), b->length};
	memcpy(c.at, b->at, b->length);
	return c;
}

/* The machine must be what it was. */
static void refused(struct ft_machine *m, const struct saved *b, int code, const char *field)
{
	struct ft_error err = {0};
	struct saved before = saved_take(m), after;
	int error = ft_state_restore(m, b->at, b->length, &err);
	if (!error)
		fail_msg("a wrong %s was taken", field);
	if (error != code || err.code != code || !strstr(err.text, field))
		fail_msg("%s: %d, %s", field, error, err.text);
	after = saved_take(m);
	assert_int_equal(before.length, after.length);
	assert_memory_equal(before.at, after.at, before.length);
	free(before.at);
	free(after.at);
}

struct wrong {
	enum ft_state_tag tag;
	size_t at;
	uint64_t value;
	unsigned size;
	const char *field;
	int code;
};

#define WRONG(tag, type, member, value, field)                                                               \
	{FT_STATE_##tag, offsetof(struct type, member), value, sizeof(((struct type *)0)->member), field, -EINVAL}
#define MODEL(tag, type, member, value, field)                                                               \
	{FT_STATE_##tag, offsetof(struct type, member), value, sizeof(((struct type *)0)->member), field, -ENOTSUP}

static const struct wrong wrongs[] = {
    WRONG(MACHINE, ft_state_machine, memory, 128 << 20, "machine.memory"),
    WRONG(MACHINE, ft_state_machine, disk_size, 4096, "machine.disk_size"),
    WRONG(MACHINE, ft_state_machine, engine, 0, "machine.engine"),
    WRONG(MACHINE, ft_state_machine, pci_functions, 7, "machine.pci_functions"),
    WRONG(MACHINE, ft_state_machine, virtio_devices, 1, "machine.virtio_devices"),
    WRONG(MACHINE, ft_state_machine, reserved, 1, "machine.reserved"),
    MODEL(CPUID, ft_kvm_cpuid, eax, 0x17, "cpuid[0x0.0]"),
    MODEL(CPUID, ft_kvm_cpuid, function, 99, "cpuid[0x63.0]"),
    WRONG(REGS, ft_kvm_regs, rflags, 0x20002, "regs.rflags"),
    WRONG(SREGS, ft_kvm_sregs, cs.type, 3, "sregs.cs.type"),
    WRONG(SREGS, ft_kvm_sregs, cs.type, 16, "sregs.cs.type"),
    WRONG(SREGS, ft_kvm_sregs, cs.selector, 0x30, "sregs.cs.dpl"),
    WRONG(SREGS, ft_kvm_sregs, cs.dpl, 2, "sregs.cs.dpl"),
    WRONG(SREGS, ft_kvm_sregs, cs.db, 1, "sregs.cs.db"),
    WRONG(SREGS, ft_kvm_sregs, cs.l, 0, "sregs.cs.l"),
    WRONG(SREGS, ft_kvm_sregs, fs.base, 0x800000000000, "sregs.fs.base"),
    WRONG(SREGS, ft_kvm_sregs, ss.unusable, 1, "sregs.ss.unusable"),
    WRONG(SREGS, ft_kvm_sregs, tr.padding, 1, "sregs.tr.padding"),
    WRONG(SREGS, ft_kvm_sregs, gdt.base, 1ull << 63, "sregs.gdt.base"),
    WRONG(SREGS, ft_kvm_sregs, idt.padding[2], 1, "sregs.idt.padding[2]"),
    WRONG(SREGS, ft_kvm_sregs, cr0, 0x80050032, "sregs.cr0"),
    WRONG(SREGS, ft_kvm_sregs, cr0, 0x00050033, "sregs.efer"),
    WRONG(SREGS, ft_kvm_sregs, cr3, 1ull << 40, "sregs.cr3"),
    WRONG(SREGS, ft_kvm_sregs, cr4, 0x1006c0, "sregs.cr4"),
    WRONG(SREGS, ft_kvm_sregs, cr4, 0x41006e0, "sregs.cr4"),
    WRONG(SREGS, ft_kvm_sregs, cr8, 3, "sregs.cr8"),
    WRONG(SREGS, ft_kvm_sregs, efer, 0x1d01, "sregs.efer"),
    WRONG(SREGS, ft_kvm_sregs, apic_base, 0xfee00800, "sregs.apic_base"),
    WRONG(SREGS, ft_kvm_sregs, flags, 1, "sregs.flags"),
    WRONG(DEBUG, ft_kvm_debugregs, db[2], 1ull << 62, "debugregs.db[2]"),
    WRONG(DEBUG, ft_kvm_debugregs, dr6, 1ull << 32, "debugregs.dr6"),
    WRONG(DEBUG, ft_kvm_debugregs, dr7, 0xc000, "debugregs.dr7"),
    WRONG(MSRS, ft_kvm_msr, index, 0x10, "msrs[0].index"),
    WRONG(MSRS, ft_kvm_msr, data, 5, "msrs[0x3b]"),
    {FT_STATE_MSRS, 16 * 2 + 8, 1ull << 7, 8, "msrs[0x10a]", -ENOTSUP}, /* TSX_CTRL */
    {FT_STATE_MSRS, 16 * 4 + 8, 1ull << 47, 8, "msrs[0x175]", -EINVAL},
    {FT_STATE_MSRS, 16 * 6 + 8, 2, 8, "msrs[0x1a0]", -EINVAL},
    {FT_STATE_MSRS, 16 * 7 + 8, 2, 8, "msrs.pat", -EINVAL},
    {FT_STATE_MSRS, 16 * 8 + 8, 2, 8, "msrs[0x6e0]", -EINVAL},
    WRONG(XSAVE, ft_kvm_xsave, fxsave[27], 1, "xsave.mxcsr"),
    WRONG(XSAVE, ft_kvm_xsave, fxsave[30], 2, "xsave.mxcsr_mask"),
    WRONG(XSAVE, ft_kvm_xsave, fxsave[8], 1, "xsave.fxsave[8]"),
    WRONG(XSAVE, ft_kvm_xsave, xstate_bv, 7, "xsave.xstate_bv"),
    WRONG(EVENTS, ft_kvm_events, exception.nr, 32, "events.exception.nr"),
    WRONG(EVENTS, ft_kvm_events, exception.nr, 6, "events.exception.has_error_code"),
    WRONG(EVENTS, ft_kvm_events, exception.pending, 0, "events.exception_has_payload"),
    WRONG(EVENTS, ft_kvm_events, interrupt.shadow, 4, "events.interrupt.shadow"),
    WRONG(EVENTS, ft_kvm_events, interrupt.injected, 1, "events"),
    WRONG(EVENTS, ft_kvm_events, nmi.masked, 2, "events.nmi"),
    WRONG(EVENTS, ft_kvm_events, smi.smm, 1, "events"),
    WRONG(MP, ft_kvm_mp, state, 1, "mp.state"),
    WRONG(CLOCK, ft_state_clock, icount, 1ull << 63, "clock.icount"),
    WRONG(CLOCK, ft_state_clock, base_icount, 1234568, "clock.base_icount"),
    WRONG(CLOCK, ft_state_clock, base_ns, 1ull << 63, "clock.base_ns"),
    WRONG(CLOCK, ft_state_clock, vtime_ns, 1, "clock.vtime_ns"),
    WRONG(CLOCK, ft_state_clock, ns_per_1024insn, 0, "clock.ns_per_1024insn"),
    WRONG(CLOCK, ft_state_clock, tsc_khz, 0, "clock.tsc_khz"),
    {FT_STATE_CLOCK, offsetof(struct ft_state_clock, tsc_khz), 2400000, 8, "cpuid[0x15.0]", -ENOTSUP}, /* another model */
    WRONG(CLOCK, ft_state_clock, epoch_ns, 1ull << 63, "clock.epoch_ns"),
    WRONG(PIC, ft_kvm_pic, priority_add, 8, "pic[0].priority_add"),
    WRONG(PIC, ft_kvm_pic, init_state, 4, "pic[0].init_state"),
    WRONG(PIC, ft_kvm_pic, irq_base, 9, "pic[0].irq_base"),
    {FT_STATE_PIC, 16 + offsetof(struct ft_kvm_pic, elcr), 1, 1, "pic[1].elcr", -EINVAL},
    WRONG(IOAPIC, ft_kvm_ioapic, base_address, 0xfec01000, "ioapic.base_address"),
    WRONG(IOAPIC, ft_kvm_ioapic, irr, 1 << 24, "ioapic.irr"),
    WRONG(IOAPIC, ft_kvm_ioapic, redirtbl[23], 1ull << 17, "ioapic.redirtbl[23]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x10], 1, "lapic.regs[0x10]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x30], 0x15, "lapic.regs[0x30]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x100], 1, "lapic.regs[0x100]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0xe0], 0, "lapic.regs[0xe0]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x390], 1, "lapic.regs[0x390]"),
    WRONG(LAPIC, ft_kvm_lapic, regs[0x3e0], 4, "lapic.regs[0x3e0]"),
    WRONG(PIT, ft_kvm_pit, channels[1].count, 65537, "pit[1].count"),
    WRONG(PIT, ft_kvm_pit, channels[1].count, 0, "pit[1].count"),
    WRONG(PIT, ft_kvm_pit, channels[2].mode, 6, "pit[2].mode"),
    WRONG(PIT, ft_kvm_pit, channels[0].rw_mode, 4, "pit[0].rw_mode"),
    WRONG(PIT, ft_kvm_pit, channels[0].read_state, 1, "pit[0].read_state"),
    WRONG(PIT, ft_kvm_pit, channels[0].count_latched, 2, "pit[0].count_latched"),
    WRONG(PIT, ft_kvm_pit, channels[0].count_load_time, UINT64_MAX, "pit[0].count_load_time"),
    WRONG(PIT, ft_kvm_pit, flags, 1, "pit.flags"),
    WRONG(BOARD, ft_state_board, lapic_timer_start_ns, UINT64_MAX, "board.lapic_timer_start_ns"),
    WRONG(BOARD, ft_state_board, pit_running[1], 2, "board.pit_running[1]"),
    WRONG(BOARD, ft_state_board, pci_address, 1, "board.pci_address"),
    WRONG(BOARD, ft_state_board, power_control, 1, "board.power_control"),
    WRONG(BOARD, ft_state_board, rtc_index, 128, "board.rtc_index"),
    WRONG(BOARD, ft_state_board, rtc_cmos[10], 0x80, "board.rtc_cmos[10]"),
    WRONG(BOARD, ft_state_board, rtc_offset_s, 1ull << 62, "board.rtc_offset_s"),
    WRONG(BOARD, ft_state_board, i8042_count, 17, "board.i8042_count"),
    WRONG(BOARD, ft_state_board, i8042_expects, 1, "board.i8042_expects"),
    WRONG(UART, ft_state_uart, fifo_count, 17, "uart.fifo_count"),
    WRONG(UART, ft_state_uart, waiting_count, 4097, "uart.waiting_count"),
    WRONG(UART, ft_state_uart, mcr, 0x20, "uart.mcr"),
    WRONG(PCI, ft_state_pci, slot, 1, "pci[0].slot"),
    WRONG(PCI, ft_state_pci, line, 2, "pci[0].line"),
    WRONG(PCI, ft_state_pci, msix_pending, 16, "pci[0].msix_pending"),
    WRONG(PCI, ft_state_pci, config[0], 0xff, "pci[0].config[0x0]"),
    {FT_STATE_PCI, sizeof(struct ft_state_pci) + offsetof(struct ft_state_pci, config) + 0x34, 0x80, 1, "pci[1].config[0x34]", -EINVAL},
    {FT_STATE_PCI, sizeof(struct ft_state_pci) + offsetof(struct ft_state_pci, config) + 0x11, 0x11, 1, "pci[1].config[0x11]", -EINVAL},
    WRONG(VIRTIO, ft_state_virtio, slot, 2, "virtio-net.slot"),
    WRONG(VIRTIO, ft_state_virtio, id, 2, "virtio-net.id"),
    WRONG(VIRTIO, ft_state_virtio, config[3], 9, "virtio-net.config[3]"),
    WRONG(VIRTIO, ft_state_virtio, status, 4, "virtio-net.status"),
    WRONG(VIRTIO, ft_state_virtio, status, 8, "virtio-net.driver_features"),
    WRONG(VIRTIO, ft_state_virtio, config_vector, 3, "virtio-net.config_vector"),
    WRONG(VIRTIO, ft_state_virtio, interrupt_status, 4, "virtio-net.interrupt_status"),
    WRONG(VIRTIO, ft_state_virtio, queue[0].size, 3, "virtio-net.queue[0].size"),
    WRONG(VIRTIO, ft_state_virtio, queue[1].size, 512, "virtio-net.queue[1].size"),
    WRONG(VIRTIO, ft_state_virtio, queue[1].vector, 4, "virtio-net.queue[1].vector"),
    WRONG(VIRTIO, ft_state_virtio, queue[0].enabled, 2, "virtio-net.queue[0].enabled"),
    WRONG(VIRTIO, ft_state_virtio, queue[0].event_index, 2, "virtio-net.queue[0].event_index"),
    {FT_STATE_VIRTIO, sizeof(struct ft_state_virtio) + offsetof(struct ft_state_virtio, queue[1].enabled), 1, 1, "virtio-rng.queue[1].enabled", -EINVAL},
    WRONG(NET, ft_state_net, first, 512, "net.first"),
    WRONG(NET, ft_state_net, first, 3, "net.first"),
    WRONG(NET, ft_state_net, count, 513, "net.count"),
    WRONG(NET, ft_state_net, count, 1, "net.count"),
    WRONG(TIMERS, ft_state_timers, blk, 5, "timers.blk"),
    WRONG(RNG, ft_state_waiting, first, 256, "rng.first"),
    WRONG(RNG, ft_state_waiting, count, 257, "rng.count"),
    WRONG(RNG, ft_state_waiting, count, 1, "rng.length"),
};

static void wrong_fields(void **state)
{
	struct ft_machine *a = saved_machine(&ft_engine_soft), *b = saved_machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state set = saved_peculiar();
	set.segment[FT_CS].attributes = 0xa0fb;
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	assert_int_equal(b->engine_ops->set(b->engine, &set, &err), 0);
	struct saved good = saved_take(a);
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(*wrongs); i++) {
		const struct wrong *w = &wrongs[i];
		struct saved bad = copy(&good);
		memcpy(section(&bad, w->tag) + w->at, &w->value, w->size < 8 ? w->size : 8);
		seal(&bad);
		refused(b, &bad, w->code, w->field);
		free(bad.at);
	}
	/* A program that is in AMD's misaligned SSE mode, and no processor that has it. */
	struct saved mode = copy(&good);
	section(&mode, FT_STATE_XSAVE)[offsetof(struct ft_kvm_xsave, fxsave) + 26] |= FT_MXCSR_MM >> 16;
	seal(&mode);
	if (!(ft_mxcsr_host() & FT_MXCSR_MM))
		refused(b, &mode, -ENOTSUP, "misaligned SSE mode");
	free(mode.at);
	saved_restore(b, &good); /* it is this one alone that was wrong each time */
	free(good.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* Virtqueues outside of RAM, work that no queue has, frames of no possible length. */
static void wrong_work(void **state)
{
	struct driver a, b;
	int disk = pc_disk_image(1 << 20);
	driver_open(&a, 1, disk);
	saved_frames_wait(&a);
	driver_open(&b, 1, disk);
	struct saved good = saved_take(a.pc.m);
	const struct wrong cases[] = {
	    WRONG(VIRTIO, ft_state_virtio, queue[0].used, FT_RAM_MIN - 4, "virtio-net.queue[0].enabled"),
	    WRONG(VIRTIO, ft_state_virtio, queue[1].descriptors, UINT64_MAX - 15, "virtio-net.queue[1].enabled"),
	    WRONG(VIRTIO, ft_state_virtio, driver_features, 1ull << 32 | 1, "virtio-net.driver_features"),
	    {FT_STATE_NET, 8, 13, 4, "net.frame[0].length", -EINVAL},
	    {FT_STATE_NET, 8, 9023, 4, "net.frame[0].length", -EINVAL},
	    {FT_STATE_NET, 8 + 4 + 61, 1, 1, "net.frame[0].padding", -EINVAL},
	    {FT_STATE_NET, 4, 6, 4, "net.length", -EINVAL},
	    {FT_STATE_BLK, 0, 256, 4, "blk.first", -EINVAL},
	    {FT_STATE_BLK, 4, 1, 4, "blk.length", -EINVAL},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct saved bad = copy(&good);
		memcpy(section(&bad, cases[i].tag) + cases[i].at, &cases[i].value, cases[i].size);
		seal(&bad);
		refused(b.pc.m, &bad, cases[i].code, cases[i].field);
		free(bad.at);
	}
	saved_restore(b.pc.m, &good);
	free(good.at);
	driver_close(&a);
	driver_close(&b);
	close(disk);
}

static void wrong_bytes(void **state)
{
	struct pc a, b;
	pc_open(&a, -1);
	pc_open(&b, -1);
	saved_disturb(&a);
	struct saved good = saved_take(a.m);
	/* Cut anywhere, with and without a header that says so. */
	for (size_t length = 0; length < good.length; length += 1 + length / 16) {
		struct saved cut = {good.at, length};
		refused(b.m, &cut, -EBADMSG, "length");
	}
	for (size_t length = sizeof(struct ft_state_header); length + 8 < good.length; length += 8) {
		struct saved cut = {malloc(length + 8), length + 8};
		struct ft_error err = {0};
		memcpy(cut.at, good.at, length);
		seal(&cut);
		assert_int_equal(ft_state_restore(b.m, cut.at, cut.length, &err), -EINVAL);
		free(cut.at);
	}
	/* One bit anywhere. */
	for (size_t at = 0; at < good.length; at += 3) {
		struct saved bad = copy(&good);
		bad.at[at] ^= (uint8_t)(1u << at % 8);
		refused(b.m, &bad, at >= 8 && at < 12 ? -ENOTSUP : -EBADMSG, at < 12 || (at >= 16 && at < 24) ? "header." : "checksum");
		free(bad.at);
	}
	/* Another version says which. */
	struct saved later = copy(&good);
	later.at[8] = 4;
	seal(&later);
	refused(b.m, &later, -ENOTSUP, "header.version is 4");
	for (uint8_t version = 2; version < 4; version++) { /* without the sections that make them such */
		later.at[8] = version;
		seal(&later);
		refused(b.m, &later, -EINVAL, "header.version");
	}
	free(later.at);
	/* Sections twice, unknown, too short; more behind the end. */
	struct saved bad = copy(&good);
	section(&bad, FT_STATE_CLOCK)[-16] = FT_STATE_MACHINE;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "section[1].tag");
	free(bad.at);
	bad = copy(&good);
	section(&bad, FT_STATE_TIMERS)[-16] = FT_STATE_TAGS;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, ".tag");
	free(bad.at);
	bad = copy(&good);
	section(&bad, FT_STATE_CLOCK)[-8] = 56;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "clock.length");
	free(bad.at);
	bad = copy(&good);
	section(&bad, FT_STATE_CLOCK)[-1] = 0xff;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "clock.length");
	free(bad.at);
	bad = copy(&good);
	bad.at[12]--;
	seal(&bad);
	refused(b.m, &bad, -EINVAL, "header.sections");
	free(bad.at);
	saved_restore(b.m, &good);
	free(good.at);
	pc_close(&a);
	pc_close(&b);
}

/* A state of a machine with a processor is not one of a machine without, nor is a guest that is being reset saved. */
static void wrong_machine(void **state)
{
	struct ft_machine *a = saved_machine(&ft_engine_soft), *b = saved_machine(NULL);
	struct ft_error err = {0};
	struct ft_cpu_state set = saved_peculiar();
	uint8_t *bytes;
	size_t length;
	assert_int_equal(a->engine_ops->set(a->engine, &set, &err), 0);
	struct saved full = saved_take(a), bare = saved_take(b);
	refused(b, &full, -EINVAL, "cpuid: this machine has none");
	refused(a, &bare, -EINVAL, "cpuid: is missing");
	ft_machine_request_reset(b, FT_RESET_REBOOT);
	assert_int_equal(ft_state_save(b, &bytes, &length, &err), -EBUSY);
	struct ft_state_summary summary;
	assert_int_equal(ft_state_summarise(full.at, full.length, &summary, NULL), 0);
	assert_int_equal(summary.memory, FT_RAM_MIN);
	assert_string_equal(summary.engine, "soft");
	assert_true(summary.same_host);
	assert_int_equal(summary.icount, 1234567);
	free(full.at);
	free(bare.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

#define OTHER(n, member, value, field) {FT_STATE_PROCESSORS, ((n) - 1) * sizeof(struct ft_state_processor) + offsetof(struct ft_state_processor, member), value, \
					sizeof(((struct ft_state_processor *)0)->member), "processors[" #n "]." field, -EINVAL}

static void wrong_processors(void **state)
{
	static const struct wrong cases[] = {
	    OTHER(1, number, 2, "number"),
	    OTHER(3, number, 0, "number"),
	    OTHER(2, mp.state, 4, "mp.state"),
	    OTHER(1, regs.rflags, 0, "regs.rflags"),
	    OTHER(3, sregs.cr4, 0x41006e0, "sregs.cr4"),
	    OTHER(3, sregs.efer, 0x1d01, "sregs.efer"),
	    OTHER(1, sregs.apic_base, 0xfee00900, "board.lapic_base"), /* two that are the first */
	    OTHER(2, sregs.cr8, 1, "sregs.cr8"),
	    OTHER(1, debugregs.dr7, 0xc000, "debugregs.dr7"),
	    OTHER(1, msrs[0].index, 0x10, "msrs[0].index"),
	    OTHER(3, msrs[5].data, 1ull << 47, "msrs[0x176]"),
	    OTHER(3, xsave.fxsave[8], 1, "xsave.fxsave[8]"),
	    OTHER(2, events.exception.nr, 32, "events"),
	    OTHER(1, lapic_timer_start_ns, UINT64_MAX, "board.lapic_timer_start_ns"),
	    OTHER(3, lapic.regs[0x30], 0x15, "lapic.regs[0x30]"),
	    OTHER(3, lapic.regs[0x23], 2, "lapic.regs[0x20]"), /* the second's APIC ID */
	    OTHER(2, lapic.regs[0x23], 0, "lapic.regs[0x20]"), /* the first's */
	    OTHER(1, lapic.regs[0x10], 1, "lapic.regs[0x10]"),
	};
	struct ft_machine *a = saved_machine_of_four(), *b = saved_machine_of_four(), *two = saved_machine_of(2), *soft = saved_machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state cpu = saved_peculiar();
	struct saved good = saved_take(a);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct saved bad = copy(&good);
		memcpy(section(&bad, cases[i].tag) + cases[i].at, &cases[i].value, cases[i].size < 8 ? cases[i].size : 8);
		seal(&bad);
		refused(b, &bad, cases[i].code, cases[i].field);
		free(bad.at);
	}
	/* Another number of them than this machine has; half of one; the version of a state that has none. */
	assert_int_equal(soft->engine_ops->set(soft->engine, &cpu, &err), 0);
	assert_int_equal(two->engine_ops->set(two->engine, &cpu, &err), 0);
	refused(two, &good, -EINVAL, "processors: the guest was saved with 4, this machine has 2");
	refused(soft, &good, -EINVAL, "processors: the guest was saved with 4, this machine has 1");
	struct saved single = saved_take(soft);
	refused(two, &single, -EINVAL, "processors: the guest was saved with 1, this machine has 2");
	struct saved bad = copy(&good);
	section(&bad, FT_STATE_PROCESSORS)[-8] ^= 8;
	seal(&bad);
	refused(b, &bad, -EINVAL, "processors.length");
	free(bad.at);
	bad = copy(&good);
	bad.at[8] = 1;
	seal(&bad);
	refused(b, &bad, -EINVAL, "header.version");
	free(bad.at);
	saved_restore(b, &good);
	free(good.at);
	free(single.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
	ft_machine_destroy(two);
	ft_machine_destroy(soft);
}

/* At the engine. */
static void soft_has_one_processor(void **state)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN, .vcpus = 2, .clock = FT_CLOCK_FREE, .disk_fd = -1, .engine = &ft_engine_soft};
	assert_null(ft_machine_create(&config, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_non_null(strstr(err.text, "engine soft has one processor, not 2"));
	config.vcpus = FT_VCPUS_MOST + 1;
	config.engine = &saved_holder;
	err = (struct ft_error){0};
	assert_null(ft_machine_create(&config, &err));
	assert_non_null(strstr(err.text, "at most 16"));
}

static struct ft_kvm_cpuid *leaf_of(const struct saved *b, uint32_t function, uint32_t index)
{
	struct ft_kvm_cpuid *leaf = (struct ft_kvm_cpuid *)section(b, FT_STATE_CPUID);
	while (leaf->function != function || leaf->index != index)
		leaf++;
	return leaf;
}

/* CPUID must be all of one model, and of one that there may be. */
static void wrong_models(void **state)
{
	const struct ft_model *const all[] = {&FT_MODEL_SOFTWARE, &saved_intel, &saved_amd};
	for (unsigned i = 0; i < 3; i++) {
		struct ft_machine *a = saved_machine(&ft_engine_soft), *b = saved_machine(&ft_engine_soft);
		struct ft_cpu_state set = saved_peculiar();
		struct ft_error err = {0};
		bool is_amd = i == 2;
		a->model = *all[i];
		struct saved good = saved_take_after(a, &set), other = saved_take_after(b, &set), bad;
#define REFUSED(what, code, field)                                                                           \
	do {                                                                                                  \
		bad = copy(&good);                                                                            \
		what;                                                                                         \
		seal(&bad);                                                                                   \
		refused(b, &bad, code, field);                                                                \
		free(bad.at);                                                                                 \
	} while (0)
		REFUSED(leaf_of(&bad, 0, 0)->ecx ^= 1, -ENOTSUP, "cpuid[0x0.0]");
		REFUSED(leaf_of(&bad, 1, 0)->eax ^= 1u << 14, -ENOTSUP, "cpuid[0x1.0]");
		REFUSED(leaf_of(&bad, 1, 0)->ecx ^= 1u << 28, -ENOTSUP, "cpuid[0x1.0]"); /* AVX */
		REFUSED(leaf_of(&bad, 7, 0)->edx ^= 1u << 11, -ENOTSUP, "cpuid[0x7.0]");
		REFUSED(leaf_of(&bad, 7, 0)->eax = 2, -ENOTSUP, "cpuid[0x7.0]");
		REFUSED(leaf_of(&bad, 0x80000008, 0)->ebx ^= 1u << (is_amd ? 25 : 12), -ENOTSUP, "cpuid[0x80000008.0]");
		REFUSED(leaf_of(&bad, 0x80000000, 0)->eax ^= 1, -ENOTSUP, "cpuid[0x80000000.0]");
		REFUSED(leaf_of(&bad, 2, 0)->function = 0, -ENOTSUP, "cpuid[0x0.0]");
		if (is_amd) {
			REFUSED(leaf_of(&bad, 7, 0)->edx ^= 1u << 26, -ENOTSUP, "cpuid[0x7.0]");
			REFUSED(leaf_of(&bad, 0x80000021, 0)->eax ^= 1u << 8, -ENOTSUP, "cpuid[0x80000021.0]"); /* automatic IBRS */
			REFUSED(leaf_of(&bad, 0x80000021, 0)->eax = 0, -ENOTSUP, "cpuid[0x80000000.0]");
		}
		struct ft_kvm_msr *msrs = (struct ft_kvm_msr *)section(&good, FT_STATE_MSRS);
		size_t at = (uint8_t *)(msrs + 2) - good.at;
		assert_int_equal(msrs[2].index, 0x10a);
#define MSR(n) ((struct ft_kvm_msr *)(bad.at + at))[(n) - 2]
		REFUSED(MSR(2).data ^= 1ull << (i ? 0 : 7), -ENOTSUP, "msrs[0x10a]"); /* of a model that has no such register, but for the first */
		REFUSED(MSR(1).data ^= 1, -ENOTSUP, "msrs[0x8b]");
		if (i) {
			assert_int_equal(msrs[15].index, 0x48);
			REFUSED(MSR(15).data = 1u << 3, -EINVAL, "msrs[0x48]");
			REFUSED(MSR(15).data = 1ull << 63, -EINVAL, "msrs[0x48]");
			REFUSED(MSR(15).index = 0x49, -EINVAL, "msrs[15].index");
			/* The section of the software CPU's model before the MSRs of one that has more. */
			bad = copy(&good);
			memcpy(leaf_of(&bad, 7, 0), leaf_of(&other, 7, 0), sizeof(struct ft_kvm_cpuid));
			seal(&bad);
			assert_true(ft_state_restore(b, bad.at, bad.length, &err) < 0);
			free(bad.at);
		}
		/* One bit anywhere: refused, or it makes another model, and then that is saved again. */
		size_t first = (size_t)(section(&good, FT_STATE_CPUID) - good.at), last = (size_t)(section(&good, FT_STATE_REGS) - good.at) - 16;
		unsigned taken = 0;
		for (size_t bit = 8 * first; bit < 8 * last; bit++) {
			bad = copy(&good);
			bad.at[bit / 8] ^= (uint8_t)(1u << bit % 8);
			seal(&bad);
			if (!ft_state_restore(b, bad.at, bad.length, &err)) {
				struct saved again = saved_take(b);
				assert_int_equal(again.length, bad.length);
				assert_memory_equal(again.at, bad.at, bad.length);
				free(again.at);
				taken++;
			}
			free(bad.at);
		}
		/* Signatures and means of protection; the software CPU goes by its own name. */
		assert_true(i ? taken > 20 && taken < 60 : taken == 4);
		free(good.at);
		free(other.at);
		ft_machine_destroy(a);
		ft_machine_destroy(b);
	}
	struct ft_machine *a = saved_machine_of_four(), *b = saved_machine_of_four();
	a->model = saved_intel;
	struct saved good = saved_take(a), bad;
	for (unsigned n = 0; n < 3; n++) {
		REFUSED(((struct ft_kvm_msr *)section(&bad, FT_STATE_SPECULATION))[n].data = 8, -EINVAL, "processors[");
		REFUSED(((struct ft_kvm_msr *)section(&bad, FT_STATE_SPECULATION))[n].index = 0x10, -EINVAL, "msrs[15].index");
		REFUSED(((struct ft_kvm_msr *)section(&bad, FT_STATE_SPECULATION))[n].reserved = 1, -EINVAL, "msrs[15].reserved");
	}
	free(good.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(wrong_fields),     cmocka_unit_test(wrong_work),             cmocka_unit_test(wrong_bytes),  cmocka_unit_test(wrong_machine),
	    cmocka_unit_test(wrong_processors), cmocka_unit_test(soft_has_one_processor), cmocka_unit_test(wrong_models),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
