/* 16550A serial port at 0x3f8, IRQ 4: the guest's console. What is written goes out at once; what is typed waits in
 * `waiting` until the FIFO has room. */
#ifndef FT_VMM_DEV_UART_H
#define FT_VMM_DEV_UART_H

#include "vmm/machine.h"

#define FT_UART_FIFO    16u
#define FT_UART_WAITING 4096u /* typed bytes kept for the guest; more are refused */

struct ft_uart_state {
	uint8_t ier, fcr, lcr, mcr, scratch, dll, dlm, transmit_empty;
	uint8_t fifo[FT_UART_FIFO];
	uint32_t fifo_count;
	uint32_t waiting_count;
	uint8_t waiting[FT_UART_WAITING];
};

struct ft_uart {
	struct ft_machine *m;
	struct ft_region region;
	struct ft_timer drained; /* the transmitter asks for more */
	struct ft_uart_state s;
};

int ft_uart_create(struct ft_uart *uart, struct ft_machine *m, struct ft_error *err);
/* Typed bytes: -ENOBUFS when too many wait (none is taken). */
int ft_uart_type(struct ft_uart *uart, const uint8_t *bytes, size_t length);

#endif
