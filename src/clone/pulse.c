#include "clone/pulse.h"

void ft_pulse_begin(struct ft_pulse *pulse, struct ft_observer *observer, uint64_t wall_ns)
{
	*pulse = (struct ft_pulse){.observer = observer, .window_ns = wall_ns};
}

/* True the first time in this window that key is seen. */
static bool is_new(struct ft_pulse *pulse, uint64_t key)
{
	for (unsigned i = 0; i < pulse->seen_count; i++)
		if (pulse->seen[i] == key)
			return false;
	if (pulse->seen_count == FT_PULSE_SEEN) {
		pulse->missed++;
		return false;
	}
	pulse->seen[pulse->seen_count++] = key;
	return true;
}

/* A datagram alone does not show who began (see ft_observe_frame); what came before it does. */
static void note_datagram(struct ft_pulse *pulse, uint64_t values[6], bool received)
{
	uint64_t peer = values[2] << 32 | values[3] << 16 | values[4];
	uint64_t *place = &pulse->peers[(peer * 0x9e3779b97f4a7c15u) >> 32 & (FT_PULSE_PEERS - 1)];
	if (received)
		*place = peer;
	else if (*place == peer)
		values[5] = 0;
}

void ft_pulse_frame(struct ft_pulse *pulse, const void *frame, size_t length, bool received)
{
	uint64_t values[6];
	char text[64];
	if (!ft_observe_frame(frame, length, received, values, text))
		return;
	if (values[1] == 17)
		note_datagram(pulse, values, received);
	/* Of what came in, that it came matters; of what goes out, where to. */
	uint64_t port = received ? values[4] : values[3];
	uint64_t address = received ? 0 : values[2];
	uint64_t key = address << 32 | port << 16 | (values[1] & 0xff) << 2 | values[5] << 1 | received;
	if (!is_new(pulse, key))
		return;
	if (received)
		ft_observe_tell(pulse->observer, FT_EVENT_NET_RX, values, 5, NULL, NULL);
	else
		ft_observe_tell(pulse->observer, FT_EVENT_NET_TX, values, 6, text, NULL);
}

void ft_pulse_key(struct ft_pulse *pulse, uint8_t scancode)
{
	/* That a key was pressed, not which: no record of what people type. */
	if (is_new(pulse, UINT64_MAX))
		ft_observe_tell(pulse->observer, FT_EVENT_KEY, (uint64_t[]){scancode & 0x80u}, 1, NULL, NULL);
}

void ft_pulse_ran(struct ft_pulse *pulse, uint64_t busy_ns, uint64_t wall_ns)
{
	pulse->busy_ns += busy_ns;
	uint64_t window = wall_ns - pulse->window_ns;
	if (window < FT_PULSE_WINDOW_NS)
		return;
	uint64_t busy = pulse->busy_ns < window ? pulse->busy_ns : window;
	ft_observe_tell(pulse->observer, FT_EVENT_CPU, (uint64_t[]){busy * 1000 / window, window / 1000000},
			2, NULL, NULL);
	if (pulse->missed)
		ft_observe_tell(pulse->observer, FT_EVENT_LOST, (uint64_t[]){pulse->missed}, 1, NULL, NULL);
	pulse->window_ns = wall_ns;
	pulse->busy_ns = pulse->missed = 0;
	pulse->seen_count = 0;
}
