#include "vmm/dev/uart.h"

#include <errno.h>
#include <string.h>

#define UART_BASE 0x3f8
#define UART_IRQ  4

enum { IER_RECEIVE = 1, IER_TRANSMIT = 2 };
enum { IIR_NONE = 1, IIR_TRANSMIT = 2, IIR_RECEIVE = 4, IIR_FIFOS = 0xc0 };
enum { LCR_DLAB = 0x80 };
enum { MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_READY = 1, LSR_IDLE = 0x60 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RECEIVE = 2 };

/* Sixteen bytes in 20 us: fast, yet slow enough that a driver which feeds the FIFO from its interrupt handler leaves
 * the handler in between (Linux complains about "too much work for irq4" otherwise). */
#define DRAIN_NS 20000u

static uint8_t interrupt_id(const struct ft_uart *uart)
{
	if ((uart->s.ier & IER_RECEIVE) && uart->s.fifo_count)
		return IIR_RECEIVE;
	if ((uart->s.ier & IER_TRANSMIT) && uart->s.transmit_empty)
		return IIR_TRANSMIT;
	return IIR_NONE;
}

static void update_irq(struct ft_uart *uart)
{
	/* OUT2 gates the interrupt line on a PC. */
	ft_irq_set(uart->m, UART_IRQ, (uart->s.mcr & MCR_OUT2) && interrupt_id(uart) != IIR_NONE);
}

static void fill_fifo(struct ft_uart *uart)
{
	uint32_t room = (uart->s.fcr & FCR_ENABLE) ? FT_UART_FIFO : 1;
	uint32_t n = uart->s.fifo_count < room ? room - uart->s.fifo_count : 0;
	if (n > uart->s.waiting_count)
		n = uart->s.waiting_count;
	memcpy(uart->s.fifo + uart->s.fifo_count, uart->s.waiting, n);
	uart->s.fifo_count += n;
	uart->s.waiting_count -= n;
	memmove(uart->s.waiting, uart->s.waiting + n, uart->s.waiting_count);
	memset(uart->s.waiting + uart->s.waiting_count, 0, n); /* the hash sees no stale bytes */
}

static uint8_t take_received(struct ft_uart *uart)
{
	if (!uart->s.fifo_count)
		return 0;
	uint8_t byte = uart->s.fifo[0];
	uart->s.fifo_count--;
	memmove(uart->s.fifo, uart->s.fifo + 1, uart->s.fifo_count);
	uart->s.fifo[uart->s.fifo_count] = 0;
	fill_fifo(uart);
	return byte;
}

static void transmit(struct ft_uart *uart, uint8_t byte)
{
	struct ft_machine *m = uart->m;
	if (uart->s.mcr & MCR_LOOP) {
		ft_uart_type(uart, &byte, 1);
	} else {
		if (m->backend.console)
			m->backend.console(m->backend.context, (const char *)&byte, 1);
		if (m->hooks.mask & FT_HOOK_CONSOLE)
			m->hooks.console(m->hooks.context, (const char *)&byte, 1);
	}
	uart->s.transmit_empty = 0;
	if (uart->s.ier & IER_TRANSMIT)
		ft_timer_arm(m, &uart->drained, ft_machine_vtime(m) + DRAIN_NS);
}

static void drained(void *context)
{
	struct ft_uart *uart = context;
	uart->s.transmit_empty = 1;
	update_irq(uart);
}

static uint8_t modem_status(const struct ft_uart *uart)
{
	if (!(uart->s.mcr & MCR_LOOP))
		return 0xb0; /* carrier, data set ready, clear to send */
	uint8_t mcr = uart->s.mcr;
	return (uint8_t)((mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4);
}

static uint64_t uart_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_uart *uart = device;
	uint8_t value = 0;
	switch (offset) {
	case 0:
		value = (uart->s.lcr & LCR_DLAB) ? uart->s.dll : take_received(uart);
		break;
	case 1:
		value = (uart->s.lcr & LCR_DLAB) ? uart->s.dlm : uart->s.ier;
		break;
	case 2:
		value = interrupt_id(uart);
		if (value == IIR_TRANSMIT)
			uart->s.transmit_empty = 0; /* reading the identification answers it */
		value |= (uart->s.fcr & FCR_ENABLE) ? IIR_FIFOS : 0;
		break;
	case 3:
		value = uart->s.lcr;
		break;
	case 4:
		value = uart->s.mcr;
		break;
	case 5:
		value = (uint8_t)(LSR_IDLE | (uart->s.fifo_count ? LSR_READY : 0));
		break;
	case 6:
		value = modem_status(uart);
		break;
	case 7:
		value = uart->s.scratch;
		break;
	}
	update_irq(uart);
	return value;
}

static void write_ier(struct ft_uart *uart, uint8_t value)
{
	uint8_t old = uart->s.ier;
	uart->s.ier = value & 0xf;
	if ((value & IER_TRANSMIT) && !(old & IER_TRANSMIT))
		uart->s.transmit_empty = 1;
}

static void write_fcr(struct ft_uart *uart, uint8_t value)
{
	if ((value & FCR_CLEAR_RECEIVE) || ((value ^ uart->s.fcr) & FCR_ENABLE)) {
		uart->s.fifo_count = 0;
		memset(uart->s.fifo, 0, sizeof(uart->s.fifo));
	}
	uart->s.fcr = value & 0xc9;
	fill_fifo(uart);
}

static void uart_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_uart *uart = device;
	uint8_t byte = (uint8_t)value;
	switch (offset) {
	case 0:
		if (uart->s.lcr & LCR_DLAB)
			uart->s.dll = byte;
		else
			transmit(uart, byte);
		break;
	case 1:
		if (uart->s.lcr & LCR_DLAB)
			uart->s.dlm = byte;
		else
			write_ier(uart, byte);
		break;
	case 2:
		write_fcr(uart, byte);
		break;
	case 3:
		uart->s.lcr = byte;
		break;
	case 4:
		uart->s.mcr = byte & 0x1f;
		break;
	case 7:
		uart->s.scratch = byte;
		break;
	}
	update_irq(uart);
}

int ft_uart_type(struct ft_uart *uart, const uint8_t *bytes, size_t length)
{
	if (length > FT_UART_WAITING - uart->s.waiting_count)
		return -ENOBUFS;
	memcpy(uart->s.waiting + uart->s.waiting_count, bytes, length);
	uart->s.waiting_count += (uint32_t)length;
	fill_fifo(uart);
	update_irq(uart);
	return 0;
}

int ft_uart_create(struct ft_uart *uart, struct ft_machine *m, struct ft_error *err)
{
	uart->m = m;
	uart->s.dll = 1;
	uart->s.transmit_empty = 1;
	uart->region = (struct ft_region){.space = FT_SPACE_IO,
					  .base = UART_BASE,
					  .length = 8,
					  .read = uart_read,
					  .write = uart_write,
					  .device = uart,
					  .name = "serial port",
					  .enabled = true};
	ft_timer_register(m, &uart->drained, drained, uart);
	return ft_bus_add(m, &uart->region, err);
}
