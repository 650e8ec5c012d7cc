#include "dataplane/inspect.h"

#include <errno.h>
#include <stdlib.h>

#include <ndpi/ndpi_api.h>

struct ft_inspect {
	struct ndpi_detection_module_struct *module;
};

int ft_inspect_new(struct ft_inspect **inspect, struct ft_error *err)
{
	struct ft_inspect *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for protocol inspection");
	/* The Tor list is of no use here: whether a client comes through Tor proves nothing about its input. */
	made->module = ndpi_init_detection_module(ndpi_dont_load_tor_hosts | ndpi_dont_init_libgcrypt);
	if (!made->module) {
		free(made);
		return ft_error_set(err, -ENOMEM, "nDPI cannot be started");
	}
	NDPI_PROTOCOL_BITMASK all;
	NDPI_BITMASK_SET_ALL(all);
	ndpi_set_protocol_detection_bitmask2(made->module, &all);
	ndpi_finalize_initialization(made->module);
	*inspect = made;
	return 0;
}

void ft_inspect_free(struct ft_inspect *inspect)
{
	if (!inspect)
		return;
	ndpi_exit_detection_module(inspect->module);
	free(inspect);
}

bool ft_inspect_packet(struct ft_inspect *inspect, struct ft_inspect_flow *flow, const void *packet,
		       size_t length, uint64_t now_ms, uint64_t *risks)
{
	*risks = 0;
	if (length > UINT16_MAX)
		return true;
	if (!flow->state)
		flow->state = ndpi_flow_malloc(SIZEOF_FLOW_STRUCT);
	if (!flow->state)
		return true;
	if (!flow->packets)
		memset(flow->state, 0, SIZEOF_FLOW_STRUCT);
	ndpi_detection_process_packet(inspect->module, flow->state, packet, (unsigned short)length, now_ms);
	*risks = flow->state->risk & ~flow->risks;
	flow->risks |= *risks;
	if (++flow->packets < FT_INSPECT_PACKETS)
		return true;
	ft_inspect_end(flow);
	return false;
}

void ft_inspect_end(struct ft_inspect_flow *flow)
{
	if (flow->state)
		ndpi_free_flow(flow->state);
	flow->state = NULL;
}
