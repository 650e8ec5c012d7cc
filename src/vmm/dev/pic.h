/* Two cascaded 8259A interrupt controllers (Intel 8259A data sheet; ports 0x20, 0xa0, edge/level 0x4d0). */
#ifndef FT_VMM_DEV_PIC_H
#define FT_VMM_DEV_PIC_H

#include "vmm/machine.h"

struct ft_pic_chip {
	uint8_t requests, lines, mask, in_service, level; /* one bit an input */
	uint8_t vector_base, init_step, init4, auto_eoi, rotate_auto, read_in_service, special_mask;
	uint8_t lowest; /* input with the lowest priority */
};

struct ft_pic_state {
	struct ft_pic_chip chip[2];
};

struct ft_pic {
	struct ft_machine *m;
	struct ft_region ports[3];
	struct ft_pic_state s;
};

int ft_pic_create(struct ft_pic *pic, struct ft_machine *m, struct ft_error *err);
void ft_pic_set(struct ft_pic *pic, unsigned irq, bool level);
bool ft_pic_asserted(const struct ft_pic *pic); /* the INTR line */
int ft_pic_acknowledge(struct ft_pic *pic);     /* vector; a spurious one when nothing waits */
uint8_t ft_pic_level_mask(bool second);         /* inputs that can be level triggered */

#endif
