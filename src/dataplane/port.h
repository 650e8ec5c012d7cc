/* DPDK ports: where frames enter and leave the gateway. One queue each way, used by one thread.
 *
 * A process has one EAL, so all its ports are opened and closed together: ft_ports_open starts DPDK, ft_ports_close ends
 * it. Everything that needs privileges happens in ft_ports_open. */
#ifndef FT_DATAPLANE_PORT_H
#define FT_DATAPLANE_PORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "dataplane/offload.h"

#define FT_PORT_BURST 32u

struct rte_mempool;
struct rte_mbuf;

struct ft_port {
	uint16_t id;
	bool started;
	char driver[32];
	bool kernel_side; /* frames come out of a kernel's stack: checksums may be partial */
	uint8_t mac[6];   /* the port's own */
	struct rte_mempool *pool; /* one for all ports */
	struct rte_mbuf *pending[FT_PORT_BURST]; /* to be sent */
	unsigned pending_count;
	struct ft_offload offload;
};

struct ft_port_config {
	const char *name;    /* of the uplink, for errors */
	const char *devargs; /* as DPDK takes them: "net_af_packet0,iface=eth0", "0000:03:00.0", ... */
	bool huge;           /* use huge pages when there are free ones; false for one is false for all */
};

/* Starts DPDK and count ports. said (may be NULL): array that gets sentences about what was changed on the machine. 0,
 * or -errno with a sentence for the operator that names the uplink; then nothing is open. */
int ft_ports_open(struct ft_port *ports, const struct ft_port_config *configs, unsigned count, json_t *said,
		  struct ft_error *err);

/* Sends what is pending, stops the ports and undoes what was changed. */
void ft_ports_close(struct ft_port *ports, unsigned count);

/* Calls frame for each received frame of one burst. The bytes are writable, and valid during the call only. ahead (may be
 * NULL) gets all of the burst before. Returns how many came. */
typedef void ft_port_ahead(void *context, uint8_t *const *data, const uint32_t *lengths, unsigned count);
typedef void ft_port_frame(void *context, uint8_t *data, size_t length);
unsigned ft_port_receive(struct ft_port *port, ft_port_ahead *ahead, ft_port_frame *frame, void *context);

/* Queues a copy of one frame. 0, -EMSGSIZE or -ENOMEM (no buffer). Frames that the port does not take at a
 * flush are freed and returned as lost by ft_port_flush. */
int ft_port_send(struct ft_port *port, const void *data, size_t length, unsigned *lost);
unsigned ft_port_flush(struct ft_port *port);

/* Frames that the port lost before we saw them: its ring was full, or there was no buffer. */
uint64_t ft_port_missed(struct ft_port *port);

#endif
