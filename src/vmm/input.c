/* The one door for non-determinism. */
#include <errno.h>

#include "vmm/dev/devices.h"
#include "vmm/dev/generation.h"
#include "vmm/machine.h"

static int check(const struct ft_machine *m, enum ft_input_kind kind, uint64_t value, size_t length)
{
	switch (kind) {
	case FT_INPUT_FRAME:
		return length >= FT_NET_FRAME_MIN && length <= FT_NET_FRAME_MAX ? 0 : -EINVAL;
	case FT_INPUT_CLOCK:
		return value >= ft_machine_vtime(m) ? 0 : -EINVAL;
	case FT_INPUT_ENTROPY:
	case FT_INPUT_CONSOLE:
		return length ? 0 : -EINVAL;
	case FT_INPUT_GENERATION:
		return length == FT_GENERATION_BYTES ? 0 : -EINVAL;
	default:
		return -EINVAL;
	}
}

int ft_machine_input(struct ft_machine *m, enum ft_input_kind kind, uint64_t value, const void *data,
		     size_t length)
{
	int error = check(m, kind, value, length);
	if (error)
		return error;
	if (m->journal)
		m->journal(m->journal_context, m->icount, kind, value, data, length);
	switch (kind) {
	case FT_INPUT_FRAME:
		return ft_virtio_net_receive(&m->devices->net, data, length);
	case FT_INPUT_CLOCK:
		ft_clock_jump(m, value);
		return 0;
	case FT_INPUT_ENTROPY:
		ft_virtio_rng_feed(&m->devices->rng, data, length);
		return 0;
	case FT_INPUT_CONSOLE:
		if (m->hooks.mask & FT_HOOK_KEY)
			for (size_t i = 0; i < length; i++)
				m->hooks.key(m->hooks.context, ((const uint8_t *)data)[i]);
		return ft_uart_type(&m->devices->uart, data, length);
	case FT_INPUT_GENERATION:
		ft_generation_set(m, data);
		return 0;
	default:
		return -EINVAL;
	}
}
