/* MC146818 clock and CMOS memory (ports 0x70, 0x71; IRQ 8). Its time is the epoch of the machine plus virtual time plus
 * what the guest has set; it ticks in phase with wall time. */
#ifndef FT_VMM_DEV_RTC_H
#define FT_VMM_DEV_RTC_H

#include "vmm/machine.h"

struct ft_rtc_state {
	uint8_t cmos[128]; /* alarm, registers A..D and memory; the time itself is derived */
	int64_t offset_s;  /* set by the guest */
	uint8_t index, reserved[7];
};

struct ft_rtc {
	struct ft_machine *m;
	struct ft_region region;
	struct ft_timer second, periodic;
	struct ft_rtc_state s;
};

int ft_rtc_create(struct ft_rtc *rtc, struct ft_machine *m, struct ft_error *err);

#endif
