/* Interrupt controllers as their registers show them: the two 8259A, the I/O APIC (82093AA), the local APIC (SDM Vol. 3A
 * chapter 11). */
#include "guest.h"

static volatile unsigned counts[256];
static volatile bool hold;

static void counted(struct trap *trap)
{
	counts[trap->vector]++;
	if (!hold)
		apic_write(0xb0, 0);
}

static void open_window(void)
{
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

static uint8_t pic(uint16_t port, uint8_t command)
{
	out8(port, command);
	return in8(port);
}

static void tell_pics(const char *name)
{
	say("%s: requests %x %x, in service %x %x, masks %x %x\n", name, (uint64_t)pic(0x20, 0xa), (uint64_t)pic(0xa0, 0xa), (uint64_t)pic(0x20, 0xb),
	    (uint64_t)pic(0xa0, 0xb), (uint64_t)in8(0x21), (uint64_t)in8(0xa1));
}

static void start_pics(void)
{
	out8(0x20, 0x11);
	out8(0xa0, 0x11);
	out8(0x21, 0x50);
	out8(0xa1, 0x58);
	out8(0x21, 4);
	out8(0xa1, 2);
	out8(0x21, 1);
	out8(0xa1, 1);
}

static void pics(void)
{
	for (unsigned v = 0x50; v < 0x60; v++)
		handlers[v] = counted;
	start_pics();
	tell_pics("after a start");
	out8(0x21, 0xa5);
	out8(0xa1, 0x5a);
	tell_pics("masks");
	out8(0x4d0, 0xff);
	out8(0x4d1, 0xff);
	tell("level or edge", in8(0x4d0) | (uint64_t)in8(0x4d1) << 8);
	out8(0x4d0, 0);
	out8(0x4d1, 0);
	/* Counter 0, which is input 0: a count that runs out at once. */
	start_pics();
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	out8(0x43, 0x30);
	out8(0x40, 1);
	out8(0x40, 0);
	for (unsigned i = 0; i < 100000 && !(pic(0x20, 0xa) & 1); i++)
		;
	tell_pics("a masked request");
	hold = true; /* of this controller, not the APIC */
	apic_write(0x350, 0x700);
	open_window();
	expect_value("masked", counts[0x50], 0);
	out8(0x21, 0xfe);
	open_window();
	expect_value("unmasked", counts[0x50], 1);
	tell_pics("in service");
	out8(0x20, 0x20);
	tell_pics("at its end");
	apic_write(0x350, 0x10700);
	out8(0x43, 0x30);
	out8(0x40, 1);
	out8(0x40, 0);
	for (unsigned i = 0; i < 100000 && !(pic(0x20, 0xa) & 1); i++)
		;
	open_window();
	expect_value("while the APIC does not take it", counts[0x50], 1);
	/* Poll: OCW3 with P; the next read is the request, which is in service then. */
	out8(0x20, 0xc);
	tell("poll", in8(0x20));
	tell_pics("after a poll");
	out8(0x20, 0x60);
	tell_pics("after a specific end");
	out8(0x21, 0xff);
	hold = false;
}

/* Those that there are: what others read is nobody's promise. */
static const uint16_t registers[] = {0x20,  0x30,  0x80,  0xa0,  0xd0,	0xe0,  0xf0,  0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0x160, 0x170, 0x180,
				     0x190, 0x1a0, 0x1b0, 0x1c0, 0x1d0, 0x1e0, 0x1f0, 0x200, 0x210, 0x220, 0x230, 0x240, 0x250, 0x260, 0x270, 0x280,
				     0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0};

static void tell_apic(const char *name)
{
	say("%s:", name);
	for (unsigned i = 0; i < sizeof(registers) / sizeof(*registers); i++)
		say(" %x", (uint64_t)apic_read(registers[i]));
	say("\n");
}

static void apic_registers(void)
{
	tell_apic("local APIC");
	for (unsigned i = 0; i < sizeof(registers) / sizeof(*registers); i++) {
		unsigned at = registers[i];
		/* Not the command register, which would send something, nor the timer's count; and of the task priority KVM on AMD
		 * keeps the upper half alone. */
		if (at == 0x300 || at == 0x380 || at == 0x80 || at == 0xf0)
			continue;
		uint32_t saved = apic_read(at);
		apic_write(at, 0xffffffff);
		say("apic %x: ones %x", (uint64_t)at, (uint64_t)apic_read(at));
		apic_write(at, 0);
		say(" zeros %x\n", (uint64_t)apic_read(at));
		apic_write(at, saved);
	}
	apic_write(0xf0, 0x1ff);
	tell("spurious vector", apic_read(0xf0));
	apic_write(0xf0, 0xffffffff);
	tell("spurious vector, ones", apic_read(0xf0));
	apic_write(0x350, 0x41);
	apic_write(0xf0, 0xff);
	tell("entry while disabled", apic_read(0x350));
	apic_write(0x350, 0x41);
	tell("entry written while disabled", apic_read(0x350));
	apic_write(0xf0, 0x1ff);
	tell("entry after it was disabled", apic_read(0x350));
	apic_write(0x350, 0x10000);
	apic_write(0x310, 0xffffffff);
	tell("command, upper half", apic_read(0x310));
	apic_write(0x310, 0);
	/* To all but ourselves: nobody. */
	apic_write(0x300, 0xc4040);
	tell("command, lower half", apic_read(0x300));
	tell("error status", apic_read(0x280));
	apic_write(0x300, 0x44005);
	apic_write(0x280, 0);
	tell("error status after a bad vector", apic_read(0x280));
	tell("base", read_msr(0x1b));
}

static void tell_vectors(const char *name)
{
	say("%s: in service %x %x, trigger %x %x, requests %x %x, priority %x\n", name, (uint64_t)apic_read(0x120), (uint64_t)apic_read(0x130),
	    (uint64_t)apic_read(0x1a0), (uint64_t)apic_read(0x1b0), (uint64_t)apic_read(0x220), (uint64_t)apic_read(0x230),
	    (uint64_t)apic_read(0xa0));
}

static void messages(void)
{
	handlers[0x41] = handlers[0x61] = handlers[0x62] = counted;
	apic_write(0xf0, 0x1ff);
	apic_write(0x300, 0x44041);
	tell_vectors("a request");
	hold = true;
	open_window();
	tell_vectors("in service");
	apic_write(0x300, 0x44061);
	apic_write(0x80, 0x50);
	tell_vectors("another request, and a task priority");
	apic_write(0xb0, 0);
	tell_vectors("at the end of the first");
	open_window();
	tell_vectors("the other in service");
	apic_write(0xb0, 0);
	apic_write(0x80, 0);
	hold = false;
	/* By number, and by the logical destination, flat and in clusters. */
	apic_write(0xe0, 0xffffffff);
	apic_write(0xd0, 0x04000000);
	static const struct {
		uint32_t high, low, dfr;
	} sent[] = {{0x00000000, 0x4041, 0xffffffff}, {0x01000000, 0x4041, 0xffffffff}, {0xff000000, 0x4041, 0xffffffff}, {0x04000000, 0x4841, 0xffffffff},
		    {0x03000000, 0x4841, 0xffffffff}, {0xff000000, 0x4841, 0xffffffff}, {0x04000000, 0x4841, 0x0fffffff}, {0x14000000, 0x4841, 0x0fffffff},
		    {0x08000000, 0x4841, 0x0fffffff}, {0x00000000, 0x4141, 0xffffffff}, {0x00000000, 0x84041, 0xffffffff}};
	for (unsigned i = 0; i < sizeof(sent) / sizeof(*sent); i++) {
		counts[0x41] = 0;
		apic_write(0xe0, sent[i].dfr);
		apic_write(0x310, sent[i].high);
		apic_write(0x300, sent[i].low);
		open_window();
		say("message %x %x, format %x: %u\n", (uint64_t)sent[i].high, (uint64_t)sent[i].low, (uint64_t)sent[i].dfr, (uint64_t)counts[0x41]);
	}
	apic_write(0xe0, 0xffffffff);
	apic_write(0xd0, 0);
	apic_write(0x310, 0);
	/* A message written to the APIC's page by a processor is no message: but what is written to 0x0 of it is nothing. */
	apic_write(0, 0x4041);
	expect_value("end with nothing in service", (apic_write(0xb0, 0), apic_read(0x120)), 0);
}

static uint32_t io_read(unsigned at)
{
	store32(IO_APIC, at);
	return load32(IO_APIC + 0x10);
}

static void io_write(unsigned at, uint32_t value)
{
	store32(IO_APIC, at);
	store32(IO_APIC + 0x10, value);
}

static void io_apic(void)
{
	for (unsigned i = 0; i < 0x44; i++)
		say("I/O APIC %x: %x\n", (uint64_t)i, (uint64_t)io_read(i));
	io_write(0, 0xffffffff);
	tell("identification, ones", io_read(0));
	tell("arbitration", io_read(2));
	io_write(0, 0);
	io_write(1, 0xffffffff);
	tell("version, written", io_read(1));
	io_write(0x10 + 2 * 23, 0xffffffff);
	io_write(0x11 + 2 * 23, 0xffffffff);
	say("entry 23, ones: %x %x\n", (uint64_t)io_read(0x10 + 2 * 23), (uint64_t)io_read(0x11 + 2 * 23));
	io_write(0x10 + 2 * 23, 0x10000);
	io_write(0x11 + 2 * 23, 0);
	say("entry 23, masked: %x %x\n", (uint64_t)io_read(0x10 + 2 * 23), (uint64_t)io_read(0x11 + 2 * 23));
	/* Counter 0 is pin 2. Edge first, then level: the line is down again by the time of a look. */
	counts[0x61] = 0;
	io_write(0x11 + 2 * 2, 0);
	io_write(0x10 + 2 * 2, 0x61);
	out8(0x43, 0x30);
	out8(0x40, 1);
	out8(0x40, 0);
	for (unsigned i = 0; i < 100000 && !(apic_read(0x230) & 2); i++)
		;
	tell_vectors("pin 2");
	open_window();
	expect_value("taken", counts[0x61], 1);
	io_write(0x10 + 2 * 2, 0x10061);
	out8(0x43, 0x30);
	out8(0x40, 1);
	out8(0x40, 0);
	for (unsigned i = 0; i < 1000; i++)
		in8(0x84);
	tell_vectors("pin 2, masked");
	/* The serial port's transmitter asks for pin 4 as long as it may. */
	io_write(0x11 + 2 * 4, 0);
	io_write(0x10 + 2 * 4, 0x8062);
	out8(0x3fc, 8);
	out8(0x3f9, 2);
	tell_vectors("pin 4, level");
	tell("entry 4", io_read(0x10 + 2 * 4));
	hold = true;
	counts[0x62] = 0;
	open_window();
	expect_value("taken", counts[0x62], 1);
	tell_vectors("pin 4 in service");
	tell("entry 4", io_read(0x10 + 2 * 4));
	out8(0x3f9, 0);
	apic_write(0xb0, 0);
	tell_vectors("pin 4 at its end");
	tell("entry 4", io_read(0x10 + 2 * 4));
	out8(0x3f9, 2);
	open_window();
	expect_value("taken again", counts[0x62], 2);
	/* Still up at its end: asked again. */
	out8(0x3f9, 0);
	out8(0x3f9, 2);
	apic_write(0xb0, 0);
	tell_vectors("pin 4 up at its end");
	hold = false;
	out8(0x3f9, 0);
	open_window();
	io_write(0x10 + 2 * 4, 0x10000);
	tell_vectors("at rest");
}

void cases(void)
{
	pics();
	apic_registers();
	messages();
	io_apic();
}
