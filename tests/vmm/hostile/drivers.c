/* The init of a guest whose drivers mean harm: from user mode, with all I/O ports and the devices' registers mapped, it
 * sets up virtqueues in its own memory and breaks every rule of them, writes at random to registers and ports, and after
 * each offence resets the device and goes on. At the end a well-behaved request must still read the disk. Prints
 * "drivers: N offences, M refused, disk good". Run as process 1 by tests/vmm/test_hostile_devices.c. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define PAGE        4096u
#define QUEUE       16u
#define AVAILABLE   0x800u
#define USED        0xc00u
#define OUTSIDE     0xd0000000ull /* neither RAM nor a device */
#define DEVICES_MAX 3

struct device {
	volatile uint8_t *registers;
	unsigned id, queues;
};

struct descriptor {
	uint64_t at;
	uint32_t length;
	uint16_t flags, next;
};

static uint8_t *ring[2], *data; /* a page each, and where they are in guest physical memory: */
static uint64_t ring_at[2], data_at;
static unsigned offences, refused;
static uint64_t seed = 0x2545f4914f6cdd1dull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void stop(const char *why)
{
	printf("drivers: %s\n", why);
	fflush(stdout);
	tcdrain(1);
	reboot(RB_POWER_OFF);
}

static uint8_t *new_page(uint64_t *physical)
{
	uint8_t *page =
	    mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	uint64_t entry = 0;
	mlock(page, PAGE);
	memset(page, 1, PAGE);
	int fd = open("/proc/self/pagemap", O_RDONLY);
	if (pread(fd, &entry, 8, (off_t)((uintptr_t)page / PAGE * 8)) != 8 || !(entry >> 63))
		stop("no page map");
	close(fd);
	*physical = (entry & ((1ull << 55) - 1)) * PAGE;
	return page;
}

static void reg8(struct device *d, unsigned at, uint8_t value)
{
	d->registers[at] = value;
}

static void reg16(struct device *d, unsigned at, uint16_t value)
{
	*(volatile uint16_t *)(d->registers + at) = value;
}

static void reg32(struct device *d, unsigned at, uint32_t value)
{
	*(volatile uint32_t *)(d->registers + at) = value;
}

static void reg64(struct device *d, unsigned at, uint64_t value)
{
	reg32(d, at, (uint32_t)value);
	reg32(d, at + 4, (uint32_t)(value >> 32));
}

static void negotiate(struct device *d, uint32_t low)
{
	reg8(d, 20, 0);
	reg8(d, 20, 3);
	reg32(d, 8, 0);
	reg32(d, 12, low);
	reg32(d, 8, 1);
	reg32(d, 12, 1);
	reg8(d, 20, 11);
	memset(ring[0], 0, PAGE);
	memset(ring[1], 0, PAGE);
}

static void set_queue(struct device *d, unsigned queue, uint64_t descriptors, uint64_t available,
		      uint64_t used)
{
	reg16(d, 22, (uint16_t)queue);
	reg16(d, 24, QUEUE);
	reg64(d, 32, descriptors);
	reg64(d, 40, available);
	reg64(d, 48, used);
	reg16(d, 28, 1);
}

static void start(struct device *d, uint32_t low)
{
	negotiate(d, low);
	for (unsigned queue = 0; queue < d->queues; queue++)
		set_queue(d, queue, ring_at[queue], ring_at[queue] + AVAILABLE, ring_at[queue] + USED);
	reg8(d, 20, 15);
}

static void describe(unsigned queue, unsigned n, uint64_t at, uint32_t length, uint16_t flags, uint16_t next)
{
	((struct descriptor *)ring[queue])[n] = (struct descriptor){at, length, flags, next};
}

static void offer(unsigned queue, uint16_t head)
{
	uint16_t *available = (uint16_t *)(ring[queue] + AVAILABLE);
	available[2 + available[1] % QUEUE] = head;
	available[1]++;
}

static void notify(struct device *d, unsigned queue)
{
	reg16(d, 0x3000 + 4 * queue, (uint16_t)queue);
}

/* An offence is over when the device has refused it, or has served what was legal about it. */
static void judge(struct device *d)
{
	/* Disk requests take 20 us of virtual time; a port access is the guest's way to let some pass. */
	for (unsigned i = 0; i < 300; i++)
		inb(0x80);
	offences++;
	refused += (d->registers[20] & 0x40) != 0;
}

static uint64_t bad_address(uint64_t r)
{
	static const uint64_t bad[] = {OUTSIDE,    0xfee00000ull,     1ull << 40,
				       UINT64_MAX, UINT64_MAX - 4095, 1ull << 63};
	return r % 3 ? data_at : bad[r / 3 % 6];
}

static void random_chains(struct device *d)
{
	static const uint32_t lengths[] = {0, 1, 12, 16, 512, 4096, 8192, UINT32_MAX, 1u << 31};
	static const uint16_t indexes[] = {1, 2, 3, QUEUE, QUEUE + 1, 1000, UINT16_MAX};
	for (unsigned round = 0; round < 3000; round++) {
		start(d, (uint32_t)(next_random() & 1) << 29);
		unsigned queue = (unsigned)next_random() % d->queues;
		for (unsigned n = 0; n < QUEUE; n++) {
			uint64_t r = next_random();
			uint64_t at = bad_address(r & 0xff);
			uint32_t length = lengths[(r >> 8) % 9];
			/* What is inside of our memory must stay inside of our page. */
			if (at == data_at && length > PAGE && (r >> 40 & 3))
				length = PAGE;
			else if (at == data_at && length > PAGE)
				at = OUTSIDE;
			describe(queue, n, at, length, (uint16_t)(r >> 16 & 7),
				 (uint16_t)(r >> 24) % (QUEUE + 2));
			((uint16_t *)(ring[queue] + AVAILABLE))[2 + n] = (uint16_t)(r >> 32) % (QUEUE + 1);
		}
		((uint16_t *)(ring[queue] + AVAILABLE))[1] = indexes[next_random() % 7];
		notify(d, queue);
		judge(d);
	}
}

static void chosen_chains(struct device *d)
{
	for (unsigned offence = 0; offence < 9; offence++) {
		unsigned queue = d->queues - 1;
		start(d, 0);
		for (unsigned n = 0; n < QUEUE; n++)
			describe(queue, n, data_at, 16, 1,
				 (uint16_t)((n + 1) % QUEUE)); /* a loop through all */
		switch (offence) {
		case 1:
			describe(queue, 0, OUTSIDE, 16, 0, 0);
			break;
		case 2:
			describe(queue, 0, data_at, UINT32_MAX, 0, 0);
			break;
		case 3:
			describe(queue, 0, data_at, 0, 0, 0);
			break;
		case 4:
			describe(queue, 0, data_at, 16, 4, 0);
			break;
		case 5:
			describe(queue, 0, data_at, 16, 3, 1);
			describe(queue, 1, data_at, 16, 0, 0);
			break;
		case 6:
			describe(queue, 0, data_at, 16, 1, QUEUE);
			break;
		case 7:
			negotiate(d, 0);
			set_queue(d, queue, OUTSIDE, ring_at[queue] + AVAILABLE, ring_at[queue] + USED);
			break;
		case 8:
			negotiate(d, 0);
			set_queue(d, queue, ring_at[queue], ring_at[queue] + AVAILABLE, UINT64_MAX - 15);
			break;
		}
		offer(queue, 0);
		notify(d, queue);
		unsigned before = refused;
		judge(d);
		if (refused == before)
			printf("drivers: device %u took offence %u\n", d->id, offence);
	}
}

/* All notifications that fit into a second of its life: the rings stay valid and full of the same frame. */
static void flood(struct device *d)
{
	start(d, 0);
	describe(d->queues - 1, 0, data_at, 100, 0, 0);
	for (unsigned i = 0; i < 20000; i++) {
		uint16_t *available = (uint16_t *)(ring[d->queues - 1] + AVAILABLE);
		available[1] = (uint16_t)(available[1] + QUEUE);
		notify(d, d->queues - 1);
	}
	judge(d);
}

static void random_registers(struct device *d)
{
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t r = next_random(), value = next_random();
		unsigned at = (unsigned)r & (r >> 32 & 1 ? 0x3f : 0x3fff), size = 1u << (r >> 16 & 3);
		volatile uint8_t *p = d->registers + at;
		/* Queue addresses that are written at random may be real ones of the kernel's memory: keep them apart. */
		if (at + size > 28 && at < 56)
			continue;
		if (r >> 20 & 1) {
			if (size == 1)
				(void)*p;
			else if (size == 2)
				(void)*(volatile uint16_t *)p;
			else if (size == 4)
				(void)*(volatile uint32_t *)p;
			else
				(void)*(volatile uint64_t *)p;
		} else if (size == 1) {
			*p = (uint8_t)value;
		} else if (size == 2) {
			*(volatile uint16_t *)p = (uint16_t)value;
		} else if (size == 4) {
			*(volatile uint32_t *)p = (uint32_t)value;
		} else {
			*(volatile uint64_t *)p = value;
		}
	}
	start(d, 0);
	judge(d);
}

/* Ports, except those with which a guest may rightly end itself or garble what it has to say. */
static void random_ports(void)
{
	for (unsigned i = 0; i < 50000; i++) {
		uint64_t r = next_random();
		uint16_t port = r >> 32 & 1 ? (uint16_t)(r >> 16) & 0x7ff : (uint16_t)(r >> 16);
		uint32_t value = (uint32_t)next_random();
		bool out = r & 1;
		if (out && (port < 0x40 || (port >= 0x5d && port <= 0x64) || (port >= 0x80 && port < 0x100) ||
			    (port >= 0x3f5 && port <= 0x3ff) || (port >= 0x4cd && port <= 0x4d1) ||
			    (port >= 0x5fd && port <= 0x60f) || (port >= 0xcf5 && port <= 0xcff)))
			continue;
		switch (r >> 4 & 3) {
		case 0:
			out ? outb((uint8_t)value, port) : (void)inb(port);
			break;
		case 1:
			out ? outw((uint16_t)value, port) : (void)inw(port);
			break;
		default:
			out ? outl(value, port) : (void)inl(port);
		}
	}
	/* Configuration of slots where nothing is, and of identity registers. */
	for (unsigned i = 0; i < 5000; i++) {
		uint64_t r = next_random();
		unsigned slot = (unsigned)r & 31, at = (unsigned)(r >> 8) & 0xfc;
		if (slot >= 1 && slot <= DEVICES_MAX && at >= 4)
			continue;
		outl(0x80000000u | slot << 11 | at, 0xcf8);
		outl((uint32_t)next_random(), (uint16_t)0xcfc);
		(void)inl(0xcfc);
	}
	offences++;
}

static bool disk_reads(struct device *d, uint64_t sector)
{
	start(d, 0);
	memset(data, 0, PAGE);
	memcpy(data + 8, &sector, 8);
	data[0x40] = 0xff;
	describe(0, 0, data_at, 16, 1, 1);
	describe(0, 1, data_at + 0x200, 512, 3, 2);
	describe(0, 2, data_at + 0x40, 1, 2, 0);
	offer(0, 0);
	notify(d, 0);
	for (unsigned i = 0; i < 2000 && ((volatile uint8_t *)data)[0x40] == 0xff; i++)
		inb(0x80);
	if (data[0x40] != 0)
		return false;
	for (unsigned i = 0; i < 512; i++)
		if (data[0x200 + i] != (uint8_t)(sector * 3 + i))
			return false;
	return true;
}

static int open_device(struct device *d, unsigned slot)
{
	char path[100], id[16] = "";
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:00:%02x.0/device", slot);
	int fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, id, sizeof(id) - 1) <= 0)
		return -1;
	close(fd);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:00:%02x.0/enable", slot);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "1", 1) != 1)
		return -1;
	close(fd);
	/* What is offended against must be able to answer: a bus master, which "enable" does not make it. */
	outl(0x80000000u | slot << 11 | 4, 0xcf8);
	outw((uint16_t)(inw(0xcfc) | 4), 0xcfc);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:00:%02x.0/resource0", slot);
	fd = open(path, O_RDWR);
	void *at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		return -1;
	d->registers = at;
	d->id = (unsigned)strtoul(id, NULL, 16) - 0x1040;
	d->queues = *(volatile uint16_t *)(d->registers + 18);
	return d->queues >= 1 && d->queues <= 2 ? 0 : -1;
}

int main(void)
{
	struct device devices[DEVICES_MAX];
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("sysfs", "/sys", "sysfs", 0, NULL) || iopl(3))
		stop("no access");
	ring[0] = new_page(&ring_at[0]);
	ring[1] = new_page(&ring_at[1]);
	data = new_page(&data_at);
	for (unsigned slot = 1; slot <= DEVICES_MAX; slot++)
		if (open_device(&devices[slot - 1], slot))
			stop("a device is missing");
	struct device *disk = &devices[DEVICES_MAX - 1];
	if (!disk_reads(disk, 5))
		stop("the disk does not read at all");
	for (unsigned i = 0; i < DEVICES_MAX; i++) {
		chosen_chains(&devices[i]);
		random_chains(&devices[i]);
		flood(&devices[i]);
		random_registers(&devices[i]);
	}
	random_ports();
	printf("drivers: %u offences, %u refused, disk %s\n", offences, refused,
	       disk_reads(disk, 7) && disk_reads(disk, 100) ? "good" : "bad");
	fflush(stdout);
	tcdrain(1);
	reboot(RB_POWER_OFF);
	return 0;
}
