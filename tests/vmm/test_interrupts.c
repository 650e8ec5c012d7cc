/* PIC, I/O APIC, local APIC, and the timers and clocks that raise interrupts through them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "pc.h"
#include "vmm/boot.h"
#include "vmm/dev/generation.h"

#define LAPIC  0xfee00000ull
#define IOAPIC 0xfec00000ull
#define SECOND 1000000000ull

static void start_pics(struct pc *pc)
{
	static const struct {
		uint16_t port;
		uint8_t value;
	} steps[] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1}, {0xa0, 0x11},
		     {0xa1, 0x28}, {0xa1, 2},    {0xa1, 1}, {0x21, 0}, {0xa1, 0}};
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		pc_out(pc, steps[i].port, 1, steps[i].value);
}

static void mask_pics(struct pc *pc)
{
	pc_out(pc, 0x21, 1, 0xff);
	pc_out(pc, 0xa1, 1, 0xff);
}

static void redirect(struct pc *pc, unsigned pin, uint64_t entry)
{
	pc_store(pc, IOAPIC, 4, 0x10 + 2 * pin);
	pc_store(pc, IOAPIC + 0x10, 4, (uint32_t)entry);
	pc_store(pc, IOAPIC, 4, 0x11 + 2 * pin);
	pc_store(pc, IOAPIC + 0x10, 4, entry >> 32);
}

static uint64_t redirection(struct pc *pc, unsigned pin)
{
	pc_store(pc, IOAPIC, 4, 0x10 + 2 * pin);
	return pc_load(pc, IOAPIC + 0x10, 4);
}

static void pic_serves_by_priority_and_through_the_cascade(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	start_pics(&pc);
	assert_false(pc.m->interrupt);
	ft_irq_set(pc.m, 5, true);
	ft_irq_set(pc.m, 12, true);
	assert_true(pc.m->interrupt);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x2c); /* the cascade is input 2: above 5 */
	assert_false(pc.m->interrupt);                    /* 5 waits behind it */
	pc_out(&pc, 0xa0, 1, 0x20);
	pc_out(&pc, 0x20, 1, 0x20);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x25);
	ft_irq_set(pc.m, 5, false);
	ft_irq_set(pc.m, 5, true);
	assert_false(pc.m->interrupt); /* its own level is being served */
	pc_out(&pc, 0x20, 1, 0x20);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x25);
	pc_out(&pc, 0x20, 1, 0x20);
	ft_irq_set(pc.m, 5, true);
	assert_false(pc.m->interrupt); /* both lines still high: edges count */
	ft_irq_set(pc.m, 5, false);
	ft_irq_set(pc.m, 5, true);
	assert_true(pc.m->interrupt);
	pc_out(&pc, 0x21, 1, 0x20); /* masked before it is taken: spurious */
	assert_false(pc.m->interrupt);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x27);
	pc_close(&pc);
}

static void ioapic_level_interrupt_comes_again_until_the_line_falls(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	mask_pics(&pc);
	redirect(&pc, 17, 0x41 | 1 << 15);
	ft_irq_set(pc.m, 17, true);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x41);
	assert_true(redirection(&pc, 17) & 1 << 14);
	ft_irq_set(pc.m, 17, true);
	assert_false(pc.m->interrupt); /* in service */
	pc_store(&pc, LAPIC + 0xb0, 4, 0);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x41);
	ft_irq_set(pc.m, 17, true);
	ft_irq_set(pc.m, 17, false); /* before it was served again: nothing is left of it */
	pc_store(&pc, LAPIC + 0xb0, 4, 0);
	assert_false(pc.m->interrupt);
	assert_false(redirection(&pc, 17) & 1 << 14);

	redirect(&pc, 18, 0x42 | 1 << 16); /* edge, masked: the edge is lost */
	ft_irq_set(pc.m, 18, true);
	redirect(&pc, 18, 0x42);
	assert_false(pc.m->interrupt);
	ft_irq_set(pc.m, 18, false);
	ft_irq_set(pc.m, 18, true);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x42);
	pc_close(&pc);
}

static unsigned journalled;

static void note(void *context, uint64_t icount, enum ft_input_kind kind, uint64_t value, const void *data, size_t length)
{
	assert_int_equal(kind, FT_INPUT_GENERATION);
	assert_int_equal(length, FT_GENERATION_BYTES);
	journalled++;
}

/* Another generation ID is an input like any other: it lies where the tables say, and one edge tells of it. */
static void a_generation_is_an_input(void **state)
{
	static const uint8_t ids[2][FT_GENERATION_BYTES + 1] = {"an ID of a guest", "another of these"};
	uint8_t there[FT_GENERATION_BYTES];
	struct pc pc;
	pc_open(&pc, -1);
	mask_pics(&pc);
	pc.m->journal = note;
	journalled = 0;
	redirect(&pc, FT_GENERATION_GSI, 0x43);
	uint64_t before = ft_machine_hash(pc.m);
	assert_int_equal(ft_machine_input(pc.m, FT_INPUT_GENERATION, 0, ids[0], FT_GENERATION_BYTES - 1), -EINVAL);
	assert_int_equal(ft_machine_input(pc.m, FT_INPUT_GENERATION, 0, ids[0], FT_GENERATION_BYTES + 1), -EINVAL);
	assert_true(!journalled && !pc.m->interrupt && ft_machine_hash(pc.m) == before);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(ft_machine_input(pc.m, FT_INPUT_GENERATION, 0, ids[i], FT_GENERATION_BYTES), 0);
		assert_int_equal(journalled, i + 1);
		assert_true(ft_memory_read(&pc.m->ram, ft_gpa_make(FT_BOOT_GENERATION), there, sizeof(there)));
		assert_memory_equal(there, ids[i], sizeof(there));
		assert_int_equal(ft_irq_acknowledge(pc.m), 0x43);
		pc_store(&pc, LAPIC + 0xb0, 4, 0);
		assert_false(pc.m->interrupt); /* once */
	}
	pc_close(&pc);
}

static void lapic_orders_by_priority(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	mask_pics(&pc);
	for (unsigned vector = 0x31; vector < 0x100; vector += 0x20)
		ft_irq_message(pc.m, 0xfee00000, vector);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0xf1);
	assert_false(pc.m->interrupt);
	pc_store(&pc, LAPIC + 0xb0, 4, 0);
	ft_platform_set_cr8(pc.m, 0xd);
	assert_false(pc.m->interrupt); /* 0xd1 is not above class 0xd */
	assert_int_equal(pc_load(&pc, LAPIC + 0x80, 4), 0xd0);
	ft_platform_set_cr8(pc.m, 0xc);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0xd1);
	/* Self IPI above what is served interrupts at once; a lower one waits. */
	pc_store(&pc, LAPIC + 0x300, 4, 0x40000 | 0x61);
	assert_false(pc.m->interrupt);
	pc_store(&pc, LAPIC + 0x300, 4, 0x40000 | 0xe2);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0xe2);
	/* A message for another APIC, and one to an address that is no interrupt, reach nobody. */
	ft_irq_message(pc.m, 0xfee05000, 0xf5);
	ft_irq_message(pc.m, 0x1000, 0xf5);
	assert_false(pc.m->interrupt);
	/* An illegal vector is no interrupt, and as with KVM no error either. */
	ft_irq_message(pc.m, 0xfee00000, 3);
	pc_store(&pc, LAPIC + 0x280, 4, 0);
	assert_int_equal(pc_load(&pc, LAPIC + 0x280, 4), 0);
	pc_close(&pc);
}

static void lapic_timer_modes(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	mask_pics(&pc);
	pc_store(&pc, LAPIC + 0x3e0, 4, 0xb);  /* divide by 1: a tick is a nanosecond */
	pc_store(&pc, LAPIC + 0x320, 4, 0x50); /* one shot */
	pc_store(&pc, LAPIC + 0x380, 4, 40000);
	uint64_t start = ft_machine_vtime(pc.m);
	assert_true(ft_timer_next(pc.m) == start + 40000);
	pc_pass(&pc, 20000 - FT_COST_MEMORY);
	assert_int_equal(pc_load(&pc, LAPIC + 0x390, 4), 20000);
	pc_pass(&pc, 20000);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x50);
	pc_store(&pc, LAPIC + 0xb0, 4, 0);
	pc_pass(&pc, 1000000);
	assert_false(pc.m->interrupt);

	pc_store(&pc, LAPIC + 0x320, 4, 0x20051); /* periodic */
	pc_store(&pc, LAPIC + 0x380, 4, 1000000); /* 1 ms */
	start = ft_machine_vtime(pc.m);
	unsigned ticks = 0;
	for (unsigned i = 0; i < 101; i++) {
		pc_pass(&pc, 100000 - FT_COST_MEMORY);
		if (pc.m->interrupt) {
			assert_int_equal(ft_irq_acknowledge(pc.m), 0x51);
			ticks++;
		}
		pc_store(&pc, LAPIC + 0xb0, 4, 0);
	}
	assert_int_equal(ticks, 10);
	/* A step of the live clock over many periods: one interrupt, and the phase stays. */
	ft_clock_jump(pc.m, ft_machine_vtime(pc.m) + 7300000);
	ft_timer_fire_due(pc.m);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x51);
	pc_store(&pc, LAPIC + 0xb0, 4, 0);
	assert_false(pc.m->interrupt);
	assert_int_equal((ft_timer_next(pc.m) - start) % 1000000, 0);

	pc_store(&pc, LAPIC + 0x320, 4, 0x40052); /* TSC deadline */
	assert_true(ft_timer_next(pc.m) == UINT64_MAX);
	uint64_t deadline = ft_machine_tsc(pc.m) + 5000, value;
	assert_int_equal(ft_platform_wrmsr(pc.m, 0x6e0, deadline), 0);
	assert_int_equal(ft_platform_rdmsr(pc.m, 0x6e0, &value), 0);
	assert_true(value == deadline);
	/* TSC_ADJUST moves the TSC and so the moment at which the deadline is reached. */
	assert_int_equal(ft_platform_wrmsr(pc.m, 0x3b, 2000), 0);
	assert_true(ft_clock_tsc_to_ns(pc.m, deadline) == ft_timer_next(pc.m));
	pc_pass(&pc, 2999);
	assert_false(pc.m->interrupt);
	pc_pass(&pc, 1);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x52);
	assert_int_equal(ft_platform_rdmsr(pc.m, 0x6e0, &value), 0);
	assert_int_equal(value, 0);
	/* The TSC set forward over the deadline, even by more than it has ever counted. */
	pc_store(&pc, LAPIC + 0xb0, 4, 0);
	deadline = ft_machine_tsc(pc.m) + 5000;
	assert_int_equal(ft_platform_wrmsr(pc.m, 0x6e0, deadline), 0);
	assert_int_equal(ft_platform_wrmsr(pc.m, 0x10, deadline * 4), 0);
	ft_timer_fire_due(pc.m);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x52);
	assert_int_equal(ft_platform_rdmsr(pc.m, 0x830, &value), -1);
	assert_int_equal(ft_platform_wrmsr(pc.m, 0x1b, 0x12345800), -1);
	pc_close(&pc);
}

static uint16_t pit_count(struct pc *pc, unsigned channel)
{
	pc_out(pc, 0x43, 1, channel << 6);
	uint64_t low = pc_in(pc, (uint16_t)(0x40 + channel), 1);
	return (uint16_t)(low | pc_in(pc, (uint16_t)(0x40 + channel), 1) << 8);
}

static void pit_counts_and_interrupts(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	start_pics(&pc);
	pc_out(&pc, 0x43, 1, 0x34); /* channel 0, both bytes, mode 2 */
	pc_out(&pc, 0x40, 1, 11932 & 0xff);
	pc_out(&pc, 0x40, 1, 11932 >> 8); /* 100 Hz */
	unsigned ticks = 0;
	uint64_t start = ft_machine_vtime(pc.m);
	while (ft_machine_vtime(pc.m) < start + 1000500000) {
		pc_pass(&pc, 1000000);
		if (pc.m->interrupt) {
			assert_int_equal(ft_irq_acknowledge(pc.m), 0x20);
			pc_out(&pc, 0x20, 1, 0x20);
			ticks++;
		}
	}
	assert_int_equal(ticks, 100);
	/* Channel 2 through its gate, as calibration loops do: 10 ms until its output rises. */
	pc_out(&pc, 0x61, 1, 1);
	pc_out(&pc, 0x43, 1, 0xb0);
	pc_out(&pc, 0x42, 1, 11932 & 0xff);
	pc_out(&pc, 0x42, 1, 11932 >> 8);
	assert_false(pc_in(&pc, 0x61, 1) & 0x20);
	start = ft_machine_vtime(pc.m);
	uint16_t first = pit_count(&pc, 2);
	pc_pass(&pc, 1000000);
	uint16_t second = pit_count(&pc, 2);
	assert_in_range(first - second, 1192, 1195);
	while (!(pc_in(&pc, 0x61, 1) & 0x20) && ft_machine_vtime(pc.m) < start + 20000000)
		pc_pass(&pc, 1000);
	assert_in_range(ft_machine_vtime(pc.m) - start, 9990000, 10010000);
	/* With its gate off it does not count. */
	pc_out(&pc, 0x61, 1, 0);
	pc_out(&pc, 0x43, 1, 0xb0);
	pc_out(&pc, 0x42, 1, 0x00);
	pc_out(&pc, 0x42, 1, 0x10);
	pc_pass(&pc, 100000000);
	assert_false(pc_in(&pc, 0x61, 1) & 0x20);
	pc_out(&pc, 0x61, 1, 1);
	pc_pass(&pc, 1000000);
	pc_out(&pc, 0x61, 1, 0);
	pc_pass(&pc, 100000000);
	assert_false(pc_in(&pc, 0x61, 1) & 0x20);
	pc_close(&pc);
}

static uint8_t cmos(struct pc *pc, uint8_t index)
{
	pc_out(pc, 0x70, 1, index);
	return (uint8_t)pc_in(pc, 0x71, 1);
}

static void set_cmos(struct pc *pc, uint8_t index, uint8_t value)
{
	pc_out(pc, 0x70, 1, index);
	pc_out(pc, 0x71, 1, value);
}

static void rtc_shows_the_epoch_plus_virtual_time(void **state)
{
	struct pc pc;
	pc_open(&pc, -1); /* 2020-09-13 12:26:40.25 UTC */
	start_pics(&pc);
	assert_int_equal(cmos(&pc, 0), 0x40);
	assert_int_equal(cmos(&pc, 2), 0x26);
	assert_int_equal(cmos(&pc, 4), 0x12);
	assert_int_equal(cmos(&pc, 7), 0x13);
	assert_int_equal(cmos(&pc, 8), 0x09);
	assert_int_equal(cmos(&pc, 9), 0x20);
	assert_int_equal(cmos(&pc, 0x32), 0x20);
	/* In phase with the epoch: the second turns after 750 ms; just before, an update is announced. */
	pc_pass(&pc, 750000000 - ft_machine_vtime(pc.m) - 100000);
	assert_int_equal(cmos(&pc, 0x0a) & 0x80, 0x80);
	assert_int_equal(cmos(&pc, 0), 0x40);
	pc_pass(&pc, 100000);
	assert_int_equal(cmos(&pc, 0x0a) & 0x80, 0);
	assert_int_equal(cmos(&pc, 0), 0x41);
	/* Update interrupt: IRQ 8, once a second, cleared by reading register C. */
	set_cmos(&pc, 0x0b, 0x12);
	pc_pass(&pc, 1500000000 - 1000000000 + 250000000 - 1000 - 10 * FT_COST_IO);
	while (cmos(&pc, 0) == 0x41)
		assert_false(pc.m->interrupt);
	pc_pass(&pc, 0);
	assert_true(pc.m->interrupt);
	ft_irq_acknowledge(pc.m);
	assert_int_equal(cmos(&pc, 0x0c) & 0x90, 0x90);
	assert_int_equal(cmos(&pc, 0x0c), 0);
	pc_out(&pc, 0xa0, 1, 0x20);
	pc_out(&pc, 0x20, 1, 0x20);
	for (unsigned i = 0; i < 3; i++) {
		pc_pass(&pc, 1000000000);
		assert_int_equal(ft_irq_acknowledge(pc.m), 0x28);
		assert_int_equal(cmos(&pc, 0x0c) & 0x90, 0x90);
		pc_out(&pc, 0xa0, 1, 0x20);
		pc_out(&pc, 0x20, 1, 0x20);
		assert_false(pc.m->interrupt);
	}
	/* Set to another day, in binary. */
	set_cmos(&pc, 0x0b, 0x86);
	static const uint8_t date[][2] = {{0, 59}, {2, 59}, {4, 23}, {7, 31}, {8, 12}, {9, 99}, {0x32, 19}};
	for (unsigned i = 0; i < sizeof(date) / sizeof(date[0]); i++)
		set_cmos(&pc, date[i][0], date[i][1]);
	set_cmos(&pc, 0x0b, 0x06);
	assert_int_equal(cmos(&pc, 0), 59);
	pc_pass(&pc, 1000000000);
	assert_int_equal(cmos(&pc, 9), 0);
	assert_int_equal(cmos(&pc, 0x32), 20);
	assert_int_equal(cmos(&pc, 7), 1);
	pc_close(&pc);
}

/* 24 hours, binary. What the guest writes comes back as the libc's calendar would have it, whatever it wrote. */
static void set_date(struct pc *pc, const uint8_t date[7])
{
	static const uint8_t at[7] = {0, 2, 4, 7, 8, 9, 0x32};
	set_cmos(pc, 0x0b, 0x86);
	for (unsigned i = 0; i < 7; i++)
		set_cmos(pc, at[i], date[i]);
	set_cmos(pc, 0x0b, 0x06);
}

static void expect_date(struct pc *pc, time_t when)
{
	struct tm tm;
	assert_non_null(gmtime_r(&when, &tm));
	int year = ((tm.tm_year + 1900) % 10000 + 10000) % 10000;
	int got[8] = {cmos(pc, 0), cmos(pc, 2), cmos(pc, 4), cmos(pc, 6),
		      cmos(pc, 7), cmos(pc, 8), cmos(pc, 9), cmos(pc, 0x32)};
	int want[8] = {tm.tm_sec,  tm.tm_min,     tm.tm_hour, tm.tm_wday + 1,
		       tm.tm_mday, tm.tm_mon + 1, year % 100, year / 100};
	for (unsigned i = 0; i < 8; i++)
		if (got[i] != want[i])
			fail_msg("second %lld since 1970: field %u is %d, not %d", (long long)when, i, got[i],
				 want[i]);
}

static void expect_like_libc(struct pc *pc, const uint8_t d[7])
{
	struct tm tm = {.tm_sec = d[0],
			.tm_min = d[1],
			.tm_hour = d[2],
			.tm_mday = d[3],
			.tm_mon = d[4] - 1,
			.tm_year = d[6] * 100 + d[5] - 1900};
	/* Accesses take time: begin with a second. */
	pc_pass(pc, SECOND - (pc->m->clock.epoch_ns + ft_machine_vtime(pc->m)) % SECOND);
	set_date(pc, d);
	expect_date(pc, timegm(&tm));
}

static void rtc_keeps_the_calendar(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	/* First day and last days of each month of 400 years and some around them, at the last second. */
	for (int year = 1899; year < 2302; year++)
		for (uint8_t month = 1; month <= 12; month++)
			for (uint8_t day = 1; day <= 31; day = (uint8_t)(day == 1 ? 27 : day + 1))
				expect_like_libc(&pc, (uint8_t[]){59, 59, 23, day, month, (uint8_t)(year % 100),
								  (uint8_t)(year / 100)});
	/* The ends of what the registers hold, and what no calendar has. */
	expect_like_libc(&pc, (uint8_t[]){0, 0, 0, 1, 1, 0, 0});
	expect_like_libc(&pc, (uint8_t[]){0, 0, 0, 1, 3, 0, 0});
	expect_like_libc(&pc, (uint8_t[]){59, 59, 23, 31, 12, 99, 99});
	expect_like_libc(&pc, (uint8_t[]){255, 255, 255, 255, 255, 255, 255});
	expect_like_libc(&pc, (uint8_t[]){0, 0, 0, 0, 0, 0, 0});
	expect_like_libc(&pc, (uint8_t[]){61, 62, 25, 0, 13, 20, 20});
	expect_like_libc(&pc, (uint8_t[]){0, 0, 0, 32, 0, 20, 20});
	pc_close(&pc);
}

/* A clone has no file system: a clock that reads the host's time zone is the end of it. The process is a new one, so
 * nothing of libc's has been read before. */
static void rtc_asks_nobody_for_the_time(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	pid_t child = fork();
	if (child == 0) {
		struct rlimit none = {0, 0};
		/* No new descriptor: a file that somebody opens anyway shows in what open leaves in errno. */
		setrlimit(RLIMIT_NOFILE, &none);
		errno = 0;
		uint8_t hour = cmos(&pc, 4);
		set_cmos(&pc, 4, 0x13);
		_exit(errno || hour != 0x12 || cmos(&pc, 4) != 0x13);
	}
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	pc_close(&pc);
}

static void accesses_across_the_end_of_a_device_reach_nobody(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	assert_true(pc_in(&pc, 0x3fe, 4) == 0xffffffff);
	assert_true(pc_load(&pc, LAPIC + 0xffc, 8) == UINT64_MAX);
	pc_out(&pc, 0x3ff, 1, 0x5a);
	pc_out(&pc, 0x3ff, 2, 0xa5a5);
	assert_int_equal(pc_in(&pc, 0x3ff, 1), 0x5a);
	pc_close(&pc);
}

static void serial_port_echoes_and_interrupts(void **state)
{
	struct pc pc;
	pc_open(&pc, -1);
	start_pics(&pc);
	pc_out(&pc, 0x3fa, 1, 1);
	pc_out(&pc, 0x3fc, 1, 8);
	pc_out(&pc, 0x3f9, 1, 1);
	pc_out(&pc, 0x3f8, 1, 'A');
	assert_memory_equal(pc.console, "A", 1);
	uint8_t typed[100];
	for (unsigned i = 0; i < sizeof(typed); i++)
		typed[i] = (uint8_t)i;
	assert_int_equal(ft_machine_input(pc.m, FT_INPUT_CONSOLE, 0, typed, sizeof(typed)), 0);
	assert_int_equal(ft_irq_acknowledge(pc.m), 0x24);
	for (unsigned i = 0; i < sizeof(typed); i++) {
		assert_true(pc_in(&pc, 0x3fd, 1) & 1);
		assert_int_equal(pc_in(&pc, 0x3f8, 1), i);
	}
	assert_false(pc_in(&pc, 0x3fd, 1) & 1);
	/* The typist cannot make the machine grow. */
	int error = 0;
	for (unsigned i = 0; i < 1000 && !error; i++)
		error = ft_machine_input(pc.m, FT_INPUT_CONSOLE, 0, typed, sizeof(typed));
	assert_int_not_equal(error, 0);
	pc_close(&pc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pic_serves_by_priority_and_through_the_cascade),
	    cmocka_unit_test(ioapic_level_interrupt_comes_again_until_the_line_falls),
	    cmocka_unit_test(a_generation_is_an_input),
	    cmocka_unit_test(lapic_orders_by_priority),
	    cmocka_unit_test(lapic_timer_modes),
	    cmocka_unit_test(pit_counts_and_interrupts),
	    cmocka_unit_test(rtc_asks_nobody_for_the_time), /* before libc is asked for a date here */
	    cmocka_unit_test(rtc_shows_the_epoch_plus_virtual_time),
	    cmocka_unit_test(rtc_keeps_the_calendar),
	    cmocka_unit_test(accesses_across_the_end_of_a_device_reach_nobody),
	    cmocka_unit_test(serial_port_echoes_and_interrupts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
