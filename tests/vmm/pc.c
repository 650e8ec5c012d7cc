#include "pc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

static void on_frame(void *context, const void *frame, size_t length)
{
	struct pc *pc = context;
	assert_true(length <= sizeof(pc->sent));
	memcpy(pc->sent, frame, length);
	pc->sent_length = length;
	pc->sent_count++;
}

static void on_console(void *context, const char *bytes, size_t length)
{
	struct pc *pc = context;
	if (pc->console_length + length < sizeof(pc->console)) {
		memcpy(pc->console + pc->console_length, bytes, length);
		pc->console_length += length;
	}
}

static void on_entropy(void *context, size_t wanted)
{
	((struct pc *)context)->entropy_wanted += wanted;
}

void pc_open(struct pc *pc, int disk)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .ns_per_1024insn = 1024,
					   .epoch_ns = 1600000000ull * 1000000000ull + 250000000u,
					   .mac = {0x52, 0x54, 0, 1, 2, 3},
					   .disk_fd = disk};
	*pc = (struct pc){0};
	pc->m = ft_machine_create(&config, &err);
	if (!pc->m)
		fail_msg("%s", err.text);
	pc->m->backend = (struct ft_backend){
	    .context = pc, .net_tx = on_frame, .console = on_console, .entropy = on_entropy};
}

void pc_close(struct pc *pc)
{
	ft_machine_destroy(pc->m);
	pc->m = NULL;
}

int pc_disk_image(size_t bytes)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);
	assert_true(fd >= 0);
	uint8_t *image = malloc(bytes);
	for (size_t i = 0; i < bytes; i++)
		image[i] = (uint8_t)(i / 512 + i % 512);
	assert_int_equal(write(fd, image, bytes), bytes);
	free(image);
	return fd;
}

uint64_t pc_in(struct pc *pc, uint16_t port, unsigned size)
{
	return ft_bus_read(pc->m, FT_SPACE_IO, port, size);
}

void pc_out(struct pc *pc, uint16_t port, unsigned size, uint64_t value)
{
	ft_bus_write(pc->m, FT_SPACE_IO, port, size, value);
}

uint64_t pc_load(struct pc *pc, uint64_t address, unsigned size)
{
	return ft_bus_read(pc->m, FT_SPACE_MEMORY, address, size);
}

void pc_store(struct pc *pc, uint64_t address, unsigned size, uint64_t value)
{
	ft_bus_write(pc->m, FT_SPACE_MEMORY, address, size, value);
}

void pc_pass(struct pc *pc, uint64_t ns)
{
	struct ft_machine *m = pc->m;
	uint64_t end = ft_machine_vtime(m) + ns;
	ft_timer_fire_due(m);
	while (ft_timer_next(m) <= end) {
		m->icount = m->deadline;
		ft_timer_fire_due(m);
	}
	m->icount = ft_clock_icount_at(m, end);
	ft_timer_fire_due(m);
}

static void select_register(struct pc *pc, unsigned slot, unsigned at)
{
	pc_out(pc, 0xcf8, 4, 0x80000000u | slot << 11 | (at & 0xfc));
}

uint64_t pc_config_read(struct pc *pc, unsigned slot, unsigned at, unsigned size)
{
	select_register(pc, slot, at);
	return pc_in(pc, (uint16_t)(0xcfc + (at & 3)), size);
}

void pc_config_write(struct pc *pc, unsigned slot, unsigned at, unsigned size, uint64_t value)
{
	select_register(pc, slot, at);
	pc_out(pc, (uint16_t)(0xcfc + (at & 3)), size, value);
}
