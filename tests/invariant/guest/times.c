/* Time: the TSC goes on and never back, timers come neither early nor never, at the frequencies that CPUID tells. What is
 * printed is whether it was so: how long it took depends on the host. */
#include "guest.h"

static volatile unsigned fired;
static volatile uint64_t fired_at;

static void tick(struct trap *trap)
{
	fired++;
	fired_at = tsc();
	apic_write(0xb0, 0);
}

static uint64_t hz, crystal;

/* Where QEMU's processor runs KVM, its kernel has found the frequency of a TSC that it does not own by a timer of QEMU's: only the
 * order of magnitude is right. */
static uint64_t least(uint64_t ticks)
{
	return under_qemu ? ticks / 4 : ticks - ticks / 100;
}

static uint64_t most(uint64_t ticks)
{
	return under_qemu ? ticks * 4 + hz : ticks + ticks / 100;
}

/* a * b / c, which fits. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t high, low;
	__asm__("mulq %3; divq %4" : "=&a"(low), "=&d"(high) : "0"(a), "r"(b), "r"(c) : "cc");
	return low;
}

static void wait_for(unsigned n)
{
	/* Sleeps; half a minute is never. */
	uint64_t end = tsc() + 30 * hz;
	while (fired < n && tsc() < end)
		__asm__ volatile("sti; hlt; cli" : : : "memory");
}

static void counter(void)
{
	uint64_t previous = tsc(), steps = 0;
	bool back = false;
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t now;
		uint32_t low, high, aux;
		if (i % 3 == 0)
			now = tsc();
		else if (i % 3 == 1) {
			__asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
			now = low | (uint64_t)high << 32;
		} else {
			now = i % 100 == 2 ? read_msr(0x10) : tsc();
		}
		back |= now < previous;
		steps += now > previous;
		previous = now;
	}
	check("the TSC never goes back", !back);
	check("the TSC goes on", steps > 10000);
	write_msr(0xc0000103, 0x12345678);
	uint32_t low, high, aux;
	__asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
	expect_value("rdtscp's third", aux, 0x12345678);
	/* Forward by its adjustment, and back; and by itself. */
	uint64_t adjust = read_msr(0x3b), before = tsc();
	write_msr(0x3b, adjust + 1000 * hz);
	uint64_t after = tsc();
	check("moved by its adjustment", after - before >= 1000 * hz && after - before < 1060 * hz);
	write_msr(0x3b, adjust);
	after = tsc();
	check("and back", after >= before && after - before < 60 * hz);
	expect_value("adjustment", read_msr(0x3b), adjust);
	before = tsc();
	write_msr(0x10, before + 500 * hz);
	after = tsc();
	check("written", after - before >= 500 * hz && after - before < 560 * hz);
	uint64_t moved = read_msr(0x3b) - adjust;
	check("which its adjustment tells", moved <= 500 * hz && moved > 440 * hz);
	write_msr(0x3b, adjust);
	write_msr(0x10, 5);
	after = tsc();
	check("written low", after < 60 * hz);
	write_msr(0x3b, adjust);
	check("as it was", tsc() >= before);
	run(0, CODE("mov %cr4, %rax; or $4, %eax; mov %rax, %cr4"));
	run(3, CODE("rdtsc"));
	expect_value("rdtsc in ring 3 that may not", last.vector, GP);
	run(3, CODE("rdtscp"));
	expect_value("rdtscp in ring 3 that may not", last.vector, GP);
	run(0, CODE("rdtsc; mov %cr4, %rax; and $-5, %rax; mov %rax, %cr4"));
	expect_value("rdtsc in ring 0", last.vector, DONE);
}

/* Divisor's code: SDM Vol. 3A figure 11-10. */
static void one_shot(uint32_t code, uint64_t divisor, uint32_t count)
{
	fired = 0;
	apic_write(0x320, 0x70);
	apic_write(0x380, 0); /* else KVM begins the last one anew where the divisor changes */
	apic_write(0x3e0, code);
	uint64_t before = tsc();
	apic_write(0x380, count);
	uint64_t due = scale(count * divisor, hz, crystal);
	wait_for(1);
	say("one shot, divided by %u: ", divisor);
	check("neither early nor never", fired == 1 && fired_at - before >= least(due) && fired_at - before < due + 10 * hz);
	expect_value("its count then", apic_read(0x390), 0);
}

static void apic_timer(void)
{
	static const uint32_t codes[] = {0xb, 0, 1, 2, 3, 8, 9, 0xa};
	for (unsigned i = 0; i < 8; i++)
		one_shot(codes[i], 1ull << i, (uint32_t)(crystal / 500 >> i));
	/* Its count goes down with the TSC. */
	apic_write(0x320, 0x10070);
	apic_write(0x3e0, 0xb);
	apic_write(0x380, 0xffffffff);
	uint64_t t0 = tsc();
	uint32_t c0 = apic_read(0x390);
	uint64_t t1 = tsc();
	while (tsc() - t1 < hz / 100)
		;
	uint64_t t2 = tsc();
	uint32_t c1 = apic_read(0x390);
	uint64_t t3 = tsc(), counted = scale(c0 - c1, hz, crystal);
	check("the count's frequency is CPUID's", counted >= least(t2 - t1) && counted <= most(t3 - t0));
	/* Periodic: as many as there were periods, of which some may have come together. */
	apic_write(0x320, 0x20070);
	fired = 0;
	uint64_t before = tsc();
	apic_write(0x380, (uint32_t)(crystal / 200));
	wait_for(10);
	uint64_t took = fired_at - before;
	apic_write(0x320, 0x10070);
	check("periodic: ten periods", fired == 10 && took >= least(10 * (hz / 200)) && took < 20 * hz);
	apic_write(0x380, 0);
	/* Masked: its end is not told, and its count is 0 or begins anew. */
	fired = 0;
	apic_write(0x320, 0x10070);
	apic_write(0x380, (uint32_t)(crystal / 10000));
	while (apic_read(0x390))
		;
	__asm__ volatile("sti; nop; cli");
	expect_value("masked", fired, 0);
	apic_write(0x320, 0x70);
	__asm__ volatile("sti; nop; cli");
	if (!under_qemu) /* KVM remembers the end of a timer that is masked, and tells it now */
		expect_value("unmasked after its end", fired, 0);
	expect_value("initial count", apic_read(0x380), crystal / 10000);
	apic_write(0x380, 0);
}

static void deadline(void)
{
	fired = 0;
	apic_write(0x320, 0x40070);
	expect_value("deadline at rest", read_msr(0x6e0), 0);
	uint64_t due = tsc() + hz / 200;
	write_msr(0x6e0, due);
	check("deadline", read_msr(0x6e0) == due || fired);
	wait_for(1);
	check("neither early nor never", fired == 1 && (under_qemu || fired_at >= due) && fired_at < due + 10 * hz);
	expect_value("deadline afterwards", read_msr(0x6e0), 0);
	fired = 0;
	write_msr(0x6e0, 1);
	wait_for(1);
	expect_value("one that is past", fired, 1);
	fired = 0;
	write_msr(0x6e0, tsc() + hz / 100);
	write_msr(0x6e0, 0);
	uint64_t end = tsc() + hz / 50;
	while (tsc() < end)
		__asm__ volatile("sti; nop; cli");
	expect_value("one that is taken back", fired, 0);
	apic_write(0x380, 1000);
	expect_value("a count in deadline mode", apic_read(0x390), 0);
	write_msr(0x6e0, tsc() + 1000 * hz);
	apic_write(0x320, 0x70);
	expect_value("deadline in another mode", read_msr(0x6e0), 0);
	apic_write(0x320, 0x10070);
}

static uint16_t pit_count(unsigned channel)
{
	out8(0x43, (uint8_t)(channel << 6));
	uint16_t low = in8((uint16_t)(0x40 + channel));
	return (uint16_t)(low | in8((uint16_t)(0x40 + channel)) << 8);
}

static uint8_t pit_status(unsigned channel)
{
	out8(0x43, (uint8_t)(0xe0 | 2u << channel));
	return in8((uint16_t)(0x40 + channel));
}

static void pit_load(unsigned channel, unsigned mode, uint16_t count)
{
	out8(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	out8((uint16_t)(0x40 + channel), (uint8_t)count);
	out8((uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

#define PIT_HZ 1193182ull

static void pit(void)
{
	/* Counter 2 with its gate closed: nothing moves. */
	out8(0x61, 0);
	for (unsigned mode = 0; mode < 6; mode++) {
		pit_load(2, mode, 0x1234);
		say("counter 2, mode %u: count %x status %x\n", (uint64_t)mode, (uint64_t)pit_count(2), (uint64_t)pit_status(2));
	}
	/* Open: by mode 0 its output is up in time and not before. */
	pit_load(2, 0, 11932);
	uint64_t before = tsc();
	out8(0x61, 1);
	uint64_t after = tsc();
	check("down at first", !(in8(0x61) & 0x20) || tsc() - before >= hz / 100);
	uint64_t end = before + 30 * hz, up = 0;
	while (!(in8(0x61) & 0x20) && tsc() < end)
		up = tsc();
	up = tsc();
	check("up neither early nor never", up - before >= least(hz / 100) && up < end);
	check("no later than it may", after >= before);
	pit_load(2, 2, 0xffff);
	uint64_t t0 = tsc();
	uint16_t c0 = pit_count(2);
	uint64_t t1 = tsc();
	while (tsc() - t1 < hz / 100)
		;
	uint64_t t2 = tsc();
	uint16_t c1 = pit_count(2);
	uint64_t t3 = tsc(), counted = scale((uint16_t)(c0 - c1), hz, PIT_HZ);
	/* A turn of 55 ms or so may pass meanwhile. */
	check("its frequency", t3 - t0 > hz / 20 || under_qemu || (counted + hz / 5000 >= t2 - t1 && counted <= t3 - t0 + hz / 5000));
	out8(0x61, 0);
	/* Counter 0 by the I/O APIC's pin 2. */
	store32(IO_APIC, 0x14);
	store32(IO_APIC + 0x10, 0x71);
	handlers[0x71] = tick;
	fired = 0;
	before = tsc();
	pit_load(0, 0, 11932);
	wait_for(1);
	check("one shot", fired == 1 && fired_at - before >= least(hz / 100));
	fired = 0;
	before = tsc();
	pit_load(0, 2, 11932);
	wait_for(10);
	check("ten periods", fired == 10 && fired_at - before >= least(10 * (hz / 100)));
	pit_load(0, 0, 0xffff);
	store32(IO_APIC, 0x14);
	store32(IO_APIC + 0x10, 0x10000);
}

static void acpi_timer(void)
{
	uint32_t a = in32(0x608) & 0xffffff;
	uint64_t t0 = tsc();
	while (tsc() - t0 < hz / 50)
		;
	uint32_t b = in32(0x608) & 0xffffff;
	uint64_t t1 = tsc(), counted = scale((b - a) & 0xffffff, hz, 3579545);
	check("ACPI's timer", counted >= least(hz / 50) && (counted <= most(t1 - t0) || t1 - t0 > hz));
}

static void sleep(void)
{
	/* HLT with interrupts ends with one, not before. */
	fired = 0;
	apic_write(0x320, 0x70);
	apic_write(0x3e0, 0xb);
	start.flags = FLAG_IF | 2;
	apic_write(0x380, (uint32_t)(crystal / 100));
	uint64_t before = tsc();
	run(0, CODE("hlt"));
	check("hlt", fired == 1 && last.vector == DONE && tsc() - before >= least(hz / 100));
	expect_value("goes on behind it", last.rip - code_base, 3);
}

/* As idle kernels sleep that have no deadlines: long. Where idle time is skipped it is the guest's time that has passed, not the host's,
 * and the timer ends with it all the same. */
static void sleep_long(void)
{
	static const uint32_t modes[] = {0x70, 0x20070};
	for (unsigned i = 0; i < 2; i++) {
		unsigned times = i + 1;
		fired = 0;
		apic_write(0x320, modes[i]);
		apic_write(0x3e0, 0xb);
		uint64_t before = tsc();
		apic_write(0x380, (uint32_t)crystal);
		wait_for(times);
		uint64_t took = fired_at - before;
		apic_write(0x320, 0x10070);
		apic_write(0x380, 0);
		check(i ? "two long periods" : "a long halt", fired == times && took >= least(times * hz) && took < (times + 10) * hz);
	}
}

void cases(void)
{
	uint32_t r[4];
	hz = tsc_hz();
	cpuid(0x15, 0, r);
	crystal = r[2];
	handlers[0x70] = tick;
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	apic_write(0xf0, 0x1ff);
	counter();
	apic_timer();
	deadline();
	pit();
	acpi_timer();
	sleep();
	sleep_long();
}
