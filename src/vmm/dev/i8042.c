#include "vmm/dev/i8042.h"

#include <string.h>

#define KEYBOARD_IRQ 1

enum { CONTROL_INTERRUPT = 1, CONTROL_SYSTEM = 4, CONTROL_KEYBOARD_OFF = 0x10, CONTROL_AUX_OFF = 0x20 };
enum { STATUS_OUTPUT = 1, STATUS_SYSTEM = 4, STATUS_UNLOCKED = 0x10 };
enum { KEYBOARD_ACK = 0xfa };

static void update_irq(struct ft_i8042 *i8042)
{
	ft_irq_set(i8042->m, KEYBOARD_IRQ, i8042->s.count && (i8042->s.control & CONTROL_INTERRUPT));
}

static void put(struct ft_i8042 *i8042, uint8_t byte)
{
	if (i8042->s.count < FT_I8042_QUEUE)
		i8042->s.queue[i8042->s.count++] = byte;
}

static uint8_t take(struct ft_i8042 *i8042)
{
	uint8_t byte = i8042->s.queue[0];
	if (i8042->s.count) {
		i8042->s.count--;
		memmove(i8042->s.queue, i8042->s.queue + 1, FT_I8042_QUEUE - 1);
		/* Each byte is an edge of its own. */
		ft_irq_set(i8042->m, KEYBOARD_IRQ, false);
	}
	return byte;
}

static void keyboard_command(struct ft_i8042 *i8042, uint8_t byte)
{
	put(i8042, KEYBOARD_ACK);
	if (i8042->s.keyboard) {
		if (i8042->s.keyboard == 0xf0 && byte == 0)
			put(i8042, 2); /* scan code set */
		i8042->s.keyboard = 0;
		return;
	}
	switch (byte) {
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* repeat rate */
		i8042->s.keyboard = byte;
		break;
	case 0xf2: /* identify: an AT keyboard with translation */
		put(i8042, 0xab);
		put(i8042, 0x83);
		break;
	case 0xff: /* reset, self-test passed */
		put(i8042, 0xaa);
		break;
	}
}

static void controller_command(struct ft_i8042 *i8042, uint8_t command)
{
	i8042->s.expects = 0;
	switch (command) {
	case 0x20:
		put(i8042, i8042->s.control);
		break;
	case 0x60: /* write control byte */
	case 0xd1: /* write output port */
	case 0xd2: /* as if from the keyboard */
	case 0xd3: /* as if from a mouse: there is none */
	case 0xd4: /* to the mouse */
		i8042->s.expects = command;
		break;
	case 0xa7:
		i8042->s.control |= CONTROL_AUX_OFF;
		break;
	case 0xa8:
		i8042->s.control &= (uint8_t)~CONTROL_AUX_OFF;
		break;
	case 0xa9:
		put(i8042, 0xff); /* no second port */
		break;
	case 0xaa:
		i8042->s.control |= CONTROL_SYSTEM;
		put(i8042, 0x55);
		break;
	case 0xab:
		put(i8042, 0);
		break;
	case 0xad:
		i8042->s.control |= CONTROL_KEYBOARD_OFF;
		break;
	case 0xae:
		i8042->s.control &= (uint8_t)~CONTROL_KEYBOARD_OFF;
		break;
	case 0xd0:
		put(i8042, i8042->s.output_port);
		break;
	default:
		/* 0xf0..0xff pulse output lines; line 0 low is the reset. */
		if (command >= 0xf0 && !(command & 1))
			ft_machine_request_reset(i8042->m, FT_RESET_REBOOT);
	}
}

static void controller_data(struct ft_i8042 *i8042, uint8_t byte)
{
	uint8_t command = i8042->s.expects;
	i8042->s.expects = 0;
	switch (command) {
	case 0x60:
		i8042->s.control = byte;
		break;
	case 0xd1:
		i8042->s.output_port = byte;
		if (!(byte & 1))
			ft_machine_request_reset(i8042->m, FT_RESET_REBOOT);
		break;
	case 0xd2:
		put(i8042, byte);
		break;
	case 0:
		keyboard_command(i8042, byte);
		break;
	}
}

static uint64_t data_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_i8042 *i8042 = device;
	uint8_t byte = take(i8042);
	update_irq(i8042);
	return byte;
}

static void data_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	controller_data(device, (uint8_t)value);
	update_irq(device);
}

static uint64_t command_read(void *device, uint64_t offset, unsigned size)
{
	const struct ft_i8042 *i8042 = device;
	return STATUS_UNLOCKED | (i8042->s.count ? STATUS_OUTPUT : 0) | (i8042->s.control & STATUS_SYSTEM);
}

static void command_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	controller_command(device, (uint8_t)value);
	update_irq(device);
}

int ft_i8042_create(struct ft_i8042 *i8042, struct ft_machine *m, struct ft_error *err)
{
	i8042->m = m;
	i8042->s.control = CONTROL_SYSTEM | CONTROL_AUX_OFF;
	i8042->s.output_port = 1;
	i8042->data = (struct ft_region){.space = FT_SPACE_IO,
					 .base = 0x60,
					 .length = 1,
					 .read = data_read,
					 .write = data_write,
					 .device = i8042,
					 .name = "keyboard data",
					 .enabled = true};
	i8042->command = (struct ft_region){.space = FT_SPACE_IO,
					    .base = 0x64,
					    .length = 1,
					    .read = command_read,
					    .write = command_write,
					    .device = i8042,
					    .name = "keyboard command",
					    .enabled = true};
	int error = ft_bus_add(m, &i8042->data, err);
	return error ? error : ft_bus_add(m, &i8042->command, err);
}
