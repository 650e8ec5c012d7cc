/* The ACPI tables (ACPI 6.4 chapter 5) that tell a kernel what is on this PC: interrupt controllers, how PCI interrupts
 * are routed, the legacy devices, power off and reset. AML is written by the few functions below (chapter 20). */
#include <errno.h>
#include <string.h>

#include "vmm/boot.h"
#include "vmm/dev/generation.h"
#include "vmm/dev/ioapic.h"
#include "vmm/dev/lapic.h"
#include "vmm/dev/pci.h"
#include "vmm/dev/power.h"

/* A table in the making. Overflow is remembered, and found when it is written. */
struct table {
	uint8_t bytes[2048];
	unsigned length;
	bool overflow;
};

static void put(struct table *t, const void *bytes, unsigned length)
{
	if (length > sizeof(t->bytes) - t->length) {
		t->overflow = true;
		return;
	}
	memcpy(t->bytes + t->length, bytes, length);
	t->length += length;
}

static void put_number(struct table *t, uint64_t value, unsigned size)
{
	put(t, &value, size);
}

/* ---- AML ---- */

enum {
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_DWORD = 0x0c,
	AML_STRING = 0x0d,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_EXTENDED = 0x5b,
	AML_DEVICE = 0x82,
	AML_NOTIFY = 0x86
};

/* Opens something that has a length in front; close puts it there. Returns where its contents begin. */
static unsigned open_block(struct table *t, unsigned opcode)
{
	put_number(t, opcode, opcode > 0xff ? 2 : 1);
	return t->length;
}

static void close_block(struct table *t, unsigned start)
{
	/* PkgLength in its three-byte form counts itself (20.2.4). */
	unsigned length = t->length - start + 3;
	uint8_t encoded[3] = {(uint8_t)(2 << 6 | (length & 15)), (uint8_t)(length >> 4),
			      (uint8_t)(length >> 12)};
	put(t, encoded, 3); /* makes room, or notes that there is none */
	if (t->overflow)
		return;
	memmove(t->bytes + start + 3, t->bytes + start, t->length - start - 3);
	memcpy(t->bytes + start, encoded, 3);
}

static unsigned open_device(struct table *t, const char name[4])
{
	unsigned start = open_block(t, AML_EXTENDED | AML_DEVICE << 8);
	put(t, name, 4);
	return start;
}

static void name(struct table *t, const char text[4])
{
	put_number(t, AML_NAME, 1);
	put(t, text, 4);
}

static void integer(struct table *t, uint32_t value)
{
	put_number(t, AML_DWORD, 1);
	put_number(t, value, 4);
}

static void named_string(struct table *t, const char object[4], const char *text)
{
	name(t, object);
	put_number(t, AML_STRING, 1);
	put(t, text, (unsigned)strlen(text) + 1);
}

/* _HID "PNPxxxx" in its compressed form: the letters are 0xd041, the digits follow big endian. */
static void plug_and_play_id(struct table *t, uint16_t digits)
{
	name(t, "_HID");
	integer(t, 0xd041u | (uint32_t)(digits >> 8) << 16 | (uint32_t)(digits & 0xff) << 24);
}

/* ---- Resources (6.4) ---- */

static void resource_io(struct table *t, uint16_t base, uint8_t length)
{
	put_number(t, 0x0147, 2); /* I/O port, 16-bit decode */
	put_number(t, base, 2);
	put_number(t, base, 2);
	put_number(t, 1, 1);
	put_number(t, length, 1);
}

static void resource_irq(struct table *t, unsigned irq)
{
	put_number(t, 0x22, 1);
	put_number(t, 1u << irq, 2);
}

/* type: 0 memory, 1 I/O, 2 bus numbers. size 2 or 4: of each number. */
static void resource_window(struct table *t, uint8_t type, uint8_t flags, unsigned size, uint32_t first,
			    uint32_t last)
{
	put_number(t, size == 2 ? 0x88 : 0x87, 1);
	put_number(t, 3 + 5 * size, 2);
	put_number(t, type, 1);
	put_number(t, 0x0c, 1); /* both ends fixed */
	put_number(t, flags, 1);
	uint32_t numbers[5] = {0, first, last, 0, last - first + 1};
	for (unsigned i = 0; i < 5; i++)
		put_number(t, numbers[i], size);
}

static unsigned open_resources(struct table *t)
{
	name(t, "_CRS");
	unsigned start = open_block(t, AML_BUFFER);
	put_number(t, AML_DWORD, 1); /* its size: filled in when it is known */
	put_number(t, 0, 4);
	return start;
}

static void close_resources(struct table *t, unsigned start)
{
	put_number(t, 0x79, 2); /* end tag, no checksum */
	uint32_t length = t->length - start - 5;
	if (!t->overflow)
		memcpy(t->bytes + start + 1, &length, 4);
	close_block(t, start);
}

/* ---- Tables ---- */

static void start_table(struct table *t, const char signature[4], uint8_t revision)
{
	*t = (struct table){0};
	put(t, signature, 4);
	put_number(t, 0, 4);
	put_number(t, revision, 1);
	put_number(t, 0, 1);
	put(t, "FORETA", 6);
	put(t, "FORETAST", 8);
	put_number(t, 1, 4);
	put(t, "FTST", 4);
	put_number(t, 1, 4);
}

static uint8_t checksum(const uint8_t *bytes, unsigned length)
{
	uint8_t sum = 0;
	for (unsigned i = 0; i < length; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum;
}

/* Writes a finished table at *at and moves *at behind it, aligned for the next. Returns its address. */
static uint64_t finish_table(struct ft_machine *m, struct table *t, uint64_t *at)
{
	uint64_t here = *at;
	uint32_t length = t->length;
	memcpy(t->bytes + 4, &length, 4);
	if (memcmp(t->bytes, "FACS", 4)) /* has none */
		t->bytes[9] = checksum(t->bytes, t->length);
	if (t->overflow || here + t->length > FT_BOOT_ACPI_END ||
	    !ft_memory_write(&m->ram, ft_gpa_make(here), t->bytes, t->length))
		return 0;
	*at = (here + t->length + 63) & ~63ull;
	return here;
}

static void legacy_device(struct table *t, const char text[4], uint16_t digits, uint16_t io, uint8_t length,
			  uint16_t second_io, unsigned irq)
{
	unsigned device = open_device(t, text);
	plug_and_play_id(t, digits);
	unsigned resources = open_resources(t);
	resource_io(t, io, length);
	if (second_io)
		resource_io(t, second_io, length);
	resource_irq(t, irq);
	close_resources(t, resources);
	close_block(t, device);
}

static void pci_routing(struct table *t)
{
	name(t, "_PRT");
	unsigned table = open_block(t, AML_PACKAGE);
	put_number(t, FT_PCI_SLOTS - 1, 1);
	for (unsigned slot = 1; slot < FT_PCI_SLOTS; slot++) {
		unsigned entry = open_block(t, AML_PACKAGE);
		put_number(t, 4, 1);
		integer(t, slot << 16 | 0xffff);
		integer(t, 0); /* INTA */
		integer(t, 0); /* no link device: the number is a GSI */
		integer(t, FT_PCI_GSI_BASE + slot);
		close_block(t, entry);
	}
	close_block(t, table);
}

static void pci_bridge(struct table *t)
{
	unsigned device = open_device(t, "PCI0");
	plug_and_play_id(t, 0x0a03);
	unsigned resources = open_resources(t);
	resource_window(t, 2, 0, 2, 0, 0);
	resource_io(t, 0xcf8, 8);
	resource_window(t, 1, 3, 2, 0x0000, 0x0cf7);
	resource_window(t, 1, 3, 2, 0x0d00, 0xffff);
	resource_window(t, 0, 1, 4, FT_PCI_WINDOW, FT_PCI_WINDOW_END);
	close_resources(t, resources);
	pci_routing(t);
	close_block(t, device);
}

/* The generation ID, and the device that tells of it: its one event notifies VGEN that the ID has changed (0x80). */
static void generation(struct table *t)
{
	unsigned device = open_device(t, "VGEN");
	named_string(t, "_HID", "FORE0001");
	named_string(t, "_CID", "VM_Gen_Counter");
	named_string(t, "_DDN", "VM_Gen_Counter");
	name(t, "ADDR");
	unsigned address = open_block(t, AML_PACKAGE);
	put_number(t, 2, 1);
	integer(t, FT_BOOT_GENERATION);
	integer(t, 0); /* bits 63..32 */
	close_block(t, address);
	close_block(t, device);

	device = open_device(t, "GED_");
	named_string(t, "_HID", "ACPI0013");
	unsigned resources = open_resources(t);
	resource_irq(t, FT_GENERATION_GSI); /* without flags: edge, active high */
	close_resources(t, resources);
	unsigned method = open_block(t, AML_METHOD);
	put(t, "_EVT", 4);
	put_number(t, 1, 1); /* one argument: which interrupt it was */
	put_number(t, AML_NOTIFY, 1);
	put(t, "\\\x2e_SB_VGEN", 10);
	put_number(t, AML_BYTE, 1);
	put_number(t, 0x80, 1);
	close_block(t, method);
	close_block(t, device);
}

static void build_dsdt(struct table *t)
{
	start_table(t, "DSDT", 2);
	unsigned scope = open_block(t, AML_SCOPE);
	put(t, "\\_SB_", 5);
	pci_bridge(t);
	legacy_device(t, "COM1", 0x0501, 0x3f8, 8, 0, 4);
	legacy_device(t, "RTC0", 0x0b00, 0x70, 2, 0, 8);
	legacy_device(t, "KBD0", 0x0303, 0x60, 1, 0x64, 1);
	generation(t);
	close_block(t, scope);
	name(t, "_S5_");
	unsigned package = open_block(t, AML_PACKAGE);
	put_number(t, 4, 1);
	integer(t, FT_POWER_SLEEP_OFF);
	for (unsigned i = 0; i < 3; i++)
		integer(t, 0);
	close_block(t, package);
}

static void build_facs(struct table *t)
{
	*t = (struct table){0};
	put(t, "FACS", 4);
	t->length = 64;
	t->bytes[32] = 2;
}

static void build_fadt(struct table *t, uint64_t facs, uint64_t dsdt)
{
	enum {
		FIX_WBINVD = 1,
		FIX_C1 = 4,
		NO_POWER_BUTTON = 16,
		NO_SLEEP_BUTTON = 32,
		NO_RTC_WAKE = 64,
		RESET = 1024
	};
	start_table(t, "FACP", 3);
	uint8_t *f = t->bytes;
	uint16_t arch = 1 | 2 | 4; /* legacy devices, keyboard controller, no VGA */
	uint32_t flags = FIX_WBINVD | FIX_C1 | NO_POWER_BUTTON | NO_SLEEP_BUTTON | NO_RTC_WAKE | RESET;
	struct {
		unsigned at, size;
		uint64_t value;
	} const fields[] = {
	    {36, 4, facs},
	    {40, 4, dsdt},
	    {45, 1, 4}, /* a server */
	    {46, 2, FT_POWER_SCI},
	    {56, 4, FT_POWER_EVENT},
	    {64, 4, FT_POWER_CONTROL},
	    {76, 4, FT_POWER_TIMER},
	    {88, 1, 4},
	    {89, 1, 2},
	    {91, 1, 4},
	    {96, 2, 101},   /* no C2 */
	    {98, 2, 1001},  /* no C3 */
	    {108, 1, 0x32}, /* century in the RTC */
	    {109, 2, arch},
	    {112, 4, flags},
	    {116, 4, 0x01000801}, /* reset register: I/O, 8 bits, byte access */
	    {120, 8, FT_POWER_RESET},
	    {128, 1, 6},
	    {132, 8, facs},
	    {140, 8, dsdt},
	    {148, 4, 0x02002001}, /* the same registers in their extended form */
	    {152, 8, FT_POWER_EVENT},
	    {172, 4, 0x02001001},
	    {176, 8, FT_POWER_CONTROL},
	    {208, 4, 0x03002001},
	    {212, 8, FT_POWER_TIMER},
	};
	t->length = 244;
	for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		memcpy(f + fields[i].at, &fields[i].value, fields[i].size);
}

static void build_madt(struct table *t, unsigned vcpus)
{
	start_table(t, "APIC", 3);
	put_number(t, FT_LAPIC_BASE, 4);
	put_number(t, 1, 4);      /* there are 8259s, too */
	for (unsigned i = 0; i < vcpus; i++) {
		put_number(t, 0x0800, 2); /* local APIC: processor i, id i, enabled */
		put_number(t, i, 1);
		put_number(t, i, 1);
		put_number(t, 1, 4);
	}
	put_number(t, 0x0c01, 2); /* I/O APIC: id 0, GSI from 0 */
	put_number(t, 0, 2);
	put_number(t, FT_IOAPIC_BASE, 4);
	put_number(t, 0, 4);
	static const struct {
		uint8_t irq, gsi;
		uint16_t flags; /* 0xd: active high, level */
	} overrides[] = {{0, 2, 0}, {FT_POWER_SCI, FT_POWER_SCI, 0xd}};
	for (unsigned i = 0; i < 2; i++) {
		put_number(t, 0x0a02, 2);
		put_number(t, 0, 1);
		put_number(t, overrides[i].irq, 1);
		put_number(t, overrides[i].gsi, 4);
		put_number(t, overrides[i].flags, 2);
	}
	put_number(t, 0x0604, 2); /* NMI on LINT1 of every processor */
	put_number(t, 0xff, 1);
	put_number(t, 0, 2);
	put_number(t, 1, 1);
}

static void build_rsdp(uint8_t rsdp[36], uint64_t xsdt)
{
	memset(rsdp, 0, 36);
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "FORETA", 6);
	rsdp[15] = 2;
	rsdp[20] = 36;
	memcpy(rsdp + 24, &xsdt, 8);
	rsdp[8] = checksum(rsdp, 20);
	rsdp[32] = checksum(rsdp, 36);
}

int ft_acpi_write(struct ft_machine *m, struct ft_error *err)
{
	struct table t;
	uint64_t at = FT_BOOT_ACPI + 64;
	build_facs(&t);
	uint64_t facs = finish_table(m, &t, &at);
	build_dsdt(&t);
	uint64_t dsdt = finish_table(m, &t, &at);
	build_fadt(&t, facs, dsdt);
	uint64_t fadt = finish_table(m, &t, &at);
	build_madt(&t, m->vcpus);
	uint64_t madt = finish_table(m, &t, &at);
	start_table(&t, "XSDT", 1);
	put_number(&t, fadt, 8);
	put_number(&t, madt, 8);
	uint64_t xsdt = finish_table(m, &t, &at);
	uint8_t rsdp[36];
	build_rsdp(rsdp, xsdt);
	if (!facs || !dsdt || !fadt || !madt || !xsdt ||
	    !ft_memory_write(&m->ram, ft_gpa_make(FT_BOOT_ACPI), rsdp, sizeof(rsdp)))
		return ft_error_set(err, -ENOSPC, "the ACPI tables do not fit into their memory");
	return 0;
}
