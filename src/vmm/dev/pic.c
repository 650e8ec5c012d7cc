#include "vmm/dev/pic.h"

#define CASCADE 2u

/* Steps behind the highest priority of the first bit set; 8: none. */
static unsigned priority(const struct ft_pic_chip *chip, uint8_t bits)
{
	unsigned n = 0;
	while (n < 8 && !(bits >> ((chip->lowest + 1 + n) & 7) & 1))
		n++;
	return n;
}

/* Input that the chip wants to have served, -1: none. */
static int pending(const struct ft_pic_chip *chip)
{
	unsigned first = priority(chip, chip->requests & (uint8_t)~chip->mask);
	if (first == 8)
		return -1;
	uint8_t in_service = chip->in_service;
	if (chip->special_mask)
		in_service &= (uint8_t)~chip->mask;
	/* Special fully nested mode is not offered: an input in service blocks its own level, too. */
	if (priority(chip, in_service) <= first)
		return -1;
	return (int)((chip->lowest + 1 + first) & 7);
}

static void set_input(struct ft_pic_chip *chip, unsigned input, bool level)
{
	uint8_t bit = (uint8_t)(1u << input);
	if (level) {
		if ((chip->level & bit) || !(chip->lines & bit))
			chip->requests |= bit;
		chip->lines |= bit;
	} else {
		if (chip->level & bit)
			chip->requests &= (uint8_t)~bit;
		chip->lines &= (uint8_t)~bit;
	}
}

static void propagate(struct ft_pic *pic)
{
	struct ft_pic_chip *master = &pic->s.chip[0];
	bool slave = pending(&pic->s.chip[1]) >= 0;
	/* The cascade follows the slave's output; an edge there is a new request. */
	set_input(master, CASCADE, slave);
	if (!slave)
		master->requests &= (uint8_t) ~(1u << CASCADE);
	ft_irq_refresh(pic->m);
}

void ft_pic_set(struct ft_pic *pic, unsigned irq, bool level)
{
	set_input(&pic->s.chip[irq >> 3], irq & 7, level);
	propagate(pic);
}

bool ft_pic_asserted(const struct ft_pic *pic)
{
	return pending(&pic->s.chip[0]) >= 0;
}

static void accept(struct ft_pic_chip *chip, unsigned input)
{
	uint8_t bit = (uint8_t)(1u << input);
	if (!(chip->level & bit))
		chip->requests &= (uint8_t)~bit;
	if (!chip->auto_eoi)
		chip->in_service |= bit;
	else if (chip->rotate_auto)
		chip->lowest = (uint8_t)input;
}

int ft_pic_acknowledge(struct ft_pic *pic)
{
	struct ft_pic_chip *master = &pic->s.chip[0], *slave = &pic->s.chip[1];
	int vector, input = pending(master);
	if (input < 0) {
		vector = master->vector_base + 7;
	} else if (input == (int)CASCADE) {
		int second = pending(slave);
		accept(master, CASCADE);
		if (second >= 0)
			accept(slave, (unsigned)second);
		vector = slave->vector_base + (second >= 0 ? second : 7);
	} else {
		accept(master, (unsigned)input);
		vector = master->vector_base + input;
	}
	propagate(pic);
	return vector;
}

static void end_of_interrupt(struct ft_pic_chip *chip, uint8_t command)
{
	bool specific = command & 0x40 && command & 0x20, rotate = command & 0x80;
	unsigned input = command & 7;
	if (!specific) {
		unsigned n = priority(chip, chip->in_service);
		if (n == 8)
			return;
		input = (chip->lowest + 1 + n) & 7;
	}
	chip->in_service &= (uint8_t) ~(1u << input);
	if (rotate)
		chip->lowest = (uint8_t)input;
}

static void write_command(struct ft_pic_chip *chip, uint8_t value)
{
	if (value & 0x10) { /* ICW1 */
		chip->init4 = value & 1;
		chip->init_step = 1;
		chip->requests = chip->level & chip->lines;
		chip->mask = chip->in_service = chip->auto_eoi = chip->rotate_auto = 0;
		chip->read_in_service = chip->special_mask = 0;
		chip->lowest = 7;
	} else if (value & 8) { /* OCW3 */
		if (value & 2)
			chip->read_in_service = value & 1;
		if (value & 0x40)
			chip->special_mask = (value >> 5) & 1;
	} else { /* OCW2 */
		switch (value >> 5) {
		case 1:
		case 3:
		case 5:
		case 7:
			end_of_interrupt(chip, value);
			break;
		case 0:
		case 4:
			chip->rotate_auto = value >> 7;
			break;
		case 6:
			chip->lowest = value & 7;
			break;
		}
	}
}

static void write_data(struct ft_pic_chip *chip, uint8_t value)
{
	switch (chip->init_step) {
	case 0:
		chip->mask = value;
		break;
	case 1:
		chip->vector_base = value & 0xf8;
		chip->init_step = 2;
		break;
	case 2: /* ICW3: the cascade is wired */
		chip->init_step = chip->init4 ? 3 : 0;
		break;
	case 3:
		chip->auto_eoi = (value >> 1) & 1;
		chip->init_step = 0;
		break;
	}
}

static uint64_t port_read(struct ft_pic *pic, unsigned n, uint64_t offset)
{
	struct ft_pic_chip *chip = &pic->s.chip[n];
	if (offset)
		return chip->mask;
	return chip->read_in_service ? chip->in_service : chip->requests;
}

static void port_write(struct ft_pic *pic, unsigned n, uint64_t offset, uint64_t value)
{
	if (offset)
		write_data(&pic->s.chip[n], (uint8_t)value);
	else
		write_command(&pic->s.chip[n], (uint8_t)value);
	propagate(pic);
}

static uint64_t master_read(void *device, uint64_t offset, unsigned size)
{
	return port_read(device, 0, offset);
}

static void master_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	port_write(device, 0, offset, value);
}

static uint64_t slave_read(void *device, uint64_t offset, unsigned size)
{
	return port_read(device, 1, offset);
}

static void slave_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	port_write(device, 1, offset, value);
}

/* IRQ 0, 1, 2, 8 and 13 are always edge triggered. */
uint8_t ft_pic_level_mask(bool second)
{
	return second ? 0xde : 0xf8;
}

static uint64_t level_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_pic *pic = device;
	return pic->s.chip[offset].level;
}

static void level_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_pic *pic = device;
	pic->s.chip[offset].level = (uint8_t)value & ft_pic_level_mask(offset);
	propagate(pic);
}

int ft_pic_create(struct ft_pic *pic, struct ft_machine *m, struct ft_error *err)
{
	pic->m = m;
	pic->s.chip[0].lowest = pic->s.chip[1].lowest = 7;
	pic->s.chip[0].mask = pic->s.chip[1].mask = 0xff;
	pic->s.chip[0].vector_base = 0x08;
	pic->s.chip[1].vector_base = 0x70;
	pic->ports[0] = (struct ft_region){
	    .base = 0x20, .length = 2, .read = master_read, .write = master_write, .name = "master PIC"};
	pic->ports[1] = (struct ft_region){
	    .base = 0xa0, .length = 2, .read = slave_read, .write = slave_write, .name = "slave PIC"};
	pic->ports[2] = (struct ft_region){
	    .base = 0x4d0, .length = 2, .read = level_read, .write = level_write, .name = "PIC edge/level"};
	for (unsigned i = 0; i < 3; i++) {
		pic->ports[i].space = FT_SPACE_IO;
		pic->ports[i].device = pic;
		pic->ports[i].enabled = true;
		int error = ft_bus_add(m, &pic->ports[i], err);
		if (error)
			return error;
	}
	return 0;
}
