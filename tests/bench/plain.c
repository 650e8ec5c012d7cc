/* The peer of bench-load: the dataplane process with the gate taken out. It is linked from the product's own main loop, port
 * and confinement; this file stands where gate.c does and moves frames between port and rings without looking at them. So
 * whatever differs between a run of this and a run of the product is what the gate does. One uplink, one guest. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dataplane/gate.h"
#include "dataplane/order.h"
#include "dataplane/reload.h"
#include "dataplane/reloader.h"

#define TICK_NS 1000000000ull

struct ft_gate {
	struct ft_gate_outlet outlet;
	struct ft_link link;
	bool up, kick;
	uint64_t now, lost, events_due;
	uint8_t scratch[FT_RING_RECORD_MAX];
};

int ft_gate_new(const json_t *config, const struct ft_gate_outlet *outlet, struct ft_gate **gate,
		struct ft_error *err)
{
	struct ft_gate *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory");
	made->outlet = *outlet;
	*gate = made;
	return 0;
}

static void down(struct ft_gate *gate)
{
	if (gate->up)
		ft_link_close(&gate->link);
	gate->up = false;
}

void ft_gate_free(struct ft_gate *gate)
{
	if (gate)
		down(gate);
	free(gate);
}

void ft_gate_time(struct ft_gate *gate, uint64_t monotonic_ns, uint64_t wall_ns)
{
	gate->now = monotonic_ns;
}

int ft_gate_link(struct ft_gate *gate, const char *guest, const int fds[FT_LINK_FDS], struct ft_error *err)
{
	down(gate);
	int error = ft_link_open(&gate->link, FT_LINK_DATAPLANE, fds, err);
	gate->up = !error;
	return error;
}

void ft_gate_durable(struct ft_gate *gate, const struct ft_durable *page)
{
}

void ft_gate_guest_down(struct ft_gate *gate, const char *guest, const char *why)
{
	down(gate);
}

void ft_gate_guest_isolated(struct ft_gate *gate, const char *guest)
{
}

void ft_gate_ahead(struct ft_gate *gate, unsigned uplink, uint8_t *const *frames, const uint32_t *lengths,
		   unsigned count)
{
}

void ft_gate_wire(struct ft_gate *gate, unsigned uplink, void *data, size_t length)
{
	struct iovec part = {data, length};
	if (!gate->up || ft_ring_put(&gate->link.rx, FT_LINK_FRAME, &part, 1))
		gate->lost++;
	else
		gate->kick = true;
}

/* The guest's events come as they do to the product, or its vmm would count them as lost: taken, as often, not read. */
static unsigned take_events(struct ft_gate *gate)
{
	unsigned count = 0;
	if (gate->now < gate->events_due)
		return 0;
	while (recv(gate->link.events, gate->scratch, sizeof(gate->scratch), MSG_DONTWAIT) > 0)
		count++;
	gate->events_due = count ? 0 : gate->now + 50000;
	return count;
}

unsigned ft_gate_guest(struct ft_gate *gate, unsigned budget)
{
	unsigned count = 0;
	uint32_t kind;
	long length;
	if (!gate->up)
		return 0;
	for (; count < budget &&
	       (length = ft_ring_get(&gate->link.tx, &kind, gate->scratch, sizeof(gate->scratch))) >= 0;
	     count++)
		gate->lost += gate->outlet.send(gate->outlet.context, 0, gate->scratch, (size_t)length) != 0;
	return count + take_events(gate);
}

uint64_t ft_gate_tick(struct ft_gate *gate)
{
	if (gate->kick)
		ft_ring_kick(&gate->link.rx);
	gate->kick = false;
	return gate->now + TICK_NS;
}

bool ft_gate_sleep(struct ft_gate *gate, int fds[FT_GATE_WAKES], unsigned *n)
{
	*n = 2;
	fds[0] = gate->up ? gate->link.wake_own : -1;
	fds[1] = gate->up ? gate->link.events : -1;
	return !gate->up || ft_ring_sleep(&gate->link.tx);
}

void ft_gate_awake(struct ft_gate *gate, const bool readable[FT_GATE_WAKES])
{
	uint64_t count;
	if (!gate->up)
		return;
	ft_ring_awake(&gate->link.tx);
	if (readable[0] && read(gate->link.wake_own, &count, sizeof(count)) < 0)
		gate->lost += errno != EAGAIN;
	gate->events_due = readable[1] ? 0 : gate->now + 900000;
}

void ft_gate_stop(struct ft_gate *gate)
{
}

json_t *ft_gate_status(const struct ft_gate *gate, bool counters)
{
	return json_pack("{s:b}", "guest_up", gate->up);
}

json_t *ft_gate_holds(const struct ft_gate *gate)
{
	return json_array();
}

json_t *ft_gate_counters(const struct ft_gate *gate)
{
	return json_pack("{s:{}, s:I}", "reasons", "lost", (json_int_t)gate->lost);
}

void ft_gate_lost(struct ft_gate *gate, unsigned frames)
{
	gate->lost += frames;
}

uint64_t ft_gate_count(const struct ft_gate *gate, enum ft_reason reason)
{
	return 0;
}

int ft_reloader_start(struct ft_reloader **reloader, struct ft_error *err)
{
	return 0;
}

int ft_reloader_begin(struct ft_reloader *reloader, const json_t *config)
{
	return -ENOSYS;
}

bool ft_reloader_done(struct ft_reloader *reloader, struct ft_rulebook **book, struct ft_error *err)
{
	return false;
}

int ft_gate_reload(struct ft_gate *gate, struct ft_rulebook *book, struct ft_error *err)
{
	return -ENOSYS;
}

json_t *ft_order(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	*refusal = (struct ft_refusal){0};
	return NULL;
}
