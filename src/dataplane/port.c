#include "dataplane/port.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_prefetch.h>

#define RX_DESCRIPTORS 512
#define TX_DESCRIPTORS 512

/* Frames up to 9000 bytes of IP, so that jumbo frames of services that are not inspected can pass. */
#define FRAME_ROOM 9216u

/* In the af_packet driver a frame's slot holds its TPACKET header too (52 bytes). The driver takes the slots
 * to be contiguous, so a block has to be a whole number of slots, and of pages. */
#define AF_PACKET_RING "framesz=10240,blocksz=40960,framecnt=512"
#define BUFFER_ROOM    10240u

/* Of all ports together; 2^n - 1 suits the pool's ring. Each port keeps its receive ring filled, and has as many to send. */
#define BUFFERS_BASE 1024u
#define BUFFERS_PORT 1024u

/* Buffers (10 MiB for each 1024), what puts fragments together, and driver rings, with room; touched as used. */
#define MEMORY_MIB_BASE 112u
#define MEMORY_MIB_PORT 16u

#define HUGE_LEAST (64ull << 20)

#define ARGS 32

struct arguments {
	char text[ARGS][512];
	char *list[ARGS + 1];
	int count;
};

static void add(struct arguments *arguments, const char *format, const char *value)
{
	if (arguments->count == ARGS)
		return;
	char *text = arguments->text[arguments->count];
	snprintf(text, sizeof(arguments->text[0]), format, value);
	arguments->list[arguments->count++] = text;
	arguments->list[arguments->count] = NULL;
}

/* "03:00.0" or "0000:03:00.0", alone or followed by device arguments. */
static bool is_pci(const char *devargs)
{
	unsigned a, b, c, d;
	return sscanf(devargs, "%x:%x:%x.%x", &a, &b, &c, &d) == 4 ||
	       sscanf(devargs, "%x:%x.%x", &a, &b, &c) == 3;
}

static unsigned long long free_huge_bytes(void)
{
	DIR *dir = opendir("/sys/kernel/mm/hugepages");
	unsigned long long total = 0;
	struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		unsigned long long kib, pages = 0;
		if (sscanf(entry->d_name, "hugepages-%llukB", &kib) != 1)
			continue;
		char path[320];
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%s/free_hugepages", entry->d_name);
		FILE *file = fopen(path, "re");
		if (file && fscanf(file, "%llu", &pages) == 1)
			total += pages * kib * 1024;
		if (file)
			fclose(file);
	}
	if (dir)
		closedir(dir);
	return total;
}

/* One DPDK thread, not pinned: the guest's engine wants the same cores, and the scheduler knows better. */
static void add_cores(struct arguments *arguments)
{
	cpu_set_t set;
	char list[256] = "";
	size_t at = 0;
	if (!sched_getaffinity(0, sizeof(set), &set))
		for (int cpu = 0; cpu < CPU_SETSIZE && at < sizeof(list) - 8; cpu++)
			if (CPU_ISSET(cpu, &set))
				at += (size_t)snprintf(list + at, sizeof(list) - at, at ? ",%d" : "%d", cpu);
	add(arguments, "--lcores=0@(%s)", at ? list : "0");
}

/* The device's name without arguments, as DPDK calls it. */
static void name_of(const char *devargs, char *name, size_t size)
{
	unsigned a, b, c, d;
	size_t length = strcspn(devargs, ",");
	if (is_pci(devargs) && sscanf(devargs, "%x:%x:%x.%x", &a, &b, &c, &d) != 4)
		snprintf(name, size, "0000:%.*s", (int)length, devargs);
	else
		snprintf(name, size, "%.*s", (int)length, devargs);
}

/* Virtual devices are made one by one when DPDK runs, so that each failure has a name. */
static int add_virtual_device(const char *devargs)
{
	char device[400];
	bool sized =
	    strstr(devargs, "framesz=") || strstr(devargs, "blocksz=") || strstr(devargs, "framecnt=");
	bool packet = !strncmp(devargs, "net_af_packet", 13) || !strncmp(devargs, "eth_af_packet", 13);
	snprintf(device, sizeof(device), "%s%s", devargs, packet && !sized ? "," AF_PACKET_RING : "");
	return rte_dev_probe(device);
}

/* DPDK makes a directory for files that neither way of starting it writes. */
static void forget_runtime_directory(void)
{
	char path[256];
	snprintf(path, sizeof(path), "%s", rte_eal_get_runtime_dir());
	char *slash = strrchr(path, '/');
	if (!rmdir(path) && slash) {
		*slash = 0;
		rmdir(path); /* stays if another DPDK program uses it */
	}
}

static int start_eal(const struct ft_port_config *configs, unsigned count, bool huge, struct ft_error *err)
{
	struct arguments arguments = {.count = 0};
	char memory[16];
	bool pci = false;
	add(&arguments, "%s", "foretaste-dataplane");
	add(&arguments, "%s", "--no-telemetry");
	add(&arguments, "%s", "--log-level=*:error");
	/* Neither leaves a file behind. DPDK 22.11 refuses --in-memory together with --no-huge. */
	if (huge) {
		add(&arguments, "%s", "--in-memory");
	} else {
		snprintf(memory, sizeof(memory), "%u", MEMORY_MIB_BASE + MEMORY_MIB_PORT * count);
		add(&arguments, "%s", "--no-huge");
		add(&arguments, "%s", "--no-shconf");
		add(&arguments, "-m%s", memory);
	}
	add_cores(&arguments);
	for (unsigned i = 0; i < count; i++) {
		if (is_pci(configs[i].devargs))
			add(&arguments, "-a%s", configs[i].devargs);
		pci |= is_pci(configs[i].devargs);
	}
	if (!pci)
		add(&arguments, "%s", "--no-pci");
	int started = rte_eal_init(arguments.count, arguments.list);
	forget_runtime_directory();
	return started < 0 ? ft_error_set(err, -EIO, "DPDK cannot start: %s", rte_strerror(rte_errno)) : 0;
}

static int start_port(struct ft_port *port, struct ft_error *err)
{
	struct rte_eth_dev_info info;
	int error = rte_eth_dev_info_get(port->id, &info);
	if (error)
		return ft_error_set(err, error, "cannot ask the port for its abilities: %s",
				    rte_strerror(-error));
	snprintf(port->driver, sizeof(port->driver), "%s", info.driver_name);
	struct rte_eth_conf conf = {.txmode = {.mq_mode = RTE_ETH_MQ_TX_NONE}};
	uint16_t rx = RX_DESCRIPTORS, tx = TX_DESCRIPTORS;
	const char *step = "configure";
	error = rte_eth_dev_configure(port->id, 1, 1, &conf);
	if (!error)
		error = rte_eth_dev_adjust_nb_rx_tx_desc(port->id, &rx, &tx);
	if (!error) {
		step = "set up the receive queue of";
		error = rte_eth_rx_queue_setup(port->id, 0, rx, SOCKET_ID_ANY, NULL, port->pool);
	}
	if (!error) {
		step = "set up the transmit queue of";
		error = rte_eth_tx_queue_setup(port->id, 0, tx, SOCKET_ID_ANY, NULL);
	}
	if (!error) {
		step = "start";
		error = rte_eth_dev_start(port->id);
	}
	if (error)
		return ft_error_set(err, error, "cannot %s the port: %s", step, rte_strerror(-error));
	/* The guest's MAC address is not the port's. A driver without that switch (files) shows everything
	 * anyway. */
	rte_eth_promiscuous_enable(port->id);
	struct rte_ether_addr mac = {0};
	rte_eth_macaddr_get(port->id, &mac);
	memcpy(port->mac, mac.addr_bytes, sizeof(port->mac));
	return 0;
}

/* The kernel interface behind an af_packet port. */
static bool interface_of(const char *devargs, char *name, size_t size)
{
	const char *at = strstr(devargs, "iface=");
	if (!at)
		return false;
	at += strlen("iface=");
	size_t length = strcspn(at, ",");
	if (length >= size)
		return false;
	memcpy(name, at, length);
	name[length] = 0;
	return true;
}

static int check_config(const struct ft_port_config *configs, unsigned at, struct ft_error *err)
{
	const char *devargs = configs[at].devargs;
	char name[320], other[320];
	if (!*devargs || strlen(devargs) > 300)
		return ft_error_set(err, -EINVAL, "the port's name is empty or too long");
	name_of(devargs, name, sizeof(name));
	for (unsigned i = 0; i < at; i++) {
		name_of(configs[i].devargs, other, sizeof(other));
		if (!strcmp(name, other))
			return ft_error_set(err, -EINVAL, "uplink %s has a device \"%s\", too",
					    configs[i].name, name);
	}
	return 0;
}

/* Before DPDK: its threads must not see the fork of the process that restores. */
static int silence_kernel(struct ft_port *port, const char *devargs, json_t *said, struct ft_error *err)
{
	char interface[64];
	if (!strstr(devargs, "af_packet"))
		return 0;
	if (!interface_of(devargs, interface, sizeof(interface)))
		return ft_error_set(err, -EINVAL, "iface= is missing");
	return ft_offload_disable(&port->offload, interface, said, err);
}

static int find_port(struct ft_port *port, const char *devargs, struct ft_error *err)
{
	char name[320];
	struct rte_dev_iterator iterator;
	unsigned found = 0;
	uint16_t id;
	if (!is_pci(devargs) && add_virtual_device(devargs))
		return ft_error_set(err, -ENODEV,
				    "DPDK made no port of it: do the driver, its arguments and the device "
				    "exist?");
	name_of(devargs, name, sizeof(name));
	RTE_ETH_FOREACH_MATCHING_DEV(id, name, &iterator)
	{
		port->id = id;
		found++;
	}
	if (found == 1)
		return 0;
	return ft_error_set(err, -ENODEV,
			    found ? "DPDK made several ports of it, expected one"
				  : "DPDK made no port of it: do the driver, its arguments and the device exist?");
}

static int open_port(struct ft_port *port, const char *devargs, struct ft_error *err)
{
	int error = find_port(port, devargs, err);
	if (!error)
		error = start_port(port, err);
	if (error)
		return error;
	port->started = true;
	port->kernel_side = strstr(port->driver, "af_packet") || strstr(port->driver, "tap") ||
			    strstr(port->driver, "tun") || strstr(port->driver, "af_xdp");
	return 0;
}

static int start_dpdk(struct ft_port *ports, const struct ft_port_config *configs, unsigned count,
		      json_t *said, struct ft_error *err)
{
	bool wanted = true;
	for (unsigned i = 0; i < count; i++)
		wanted &= configs[i].huge;
	bool huge = wanted && free_huge_bytes() >= HUGE_LEAST;
	int error = start_eal(configs, count, huge, err);
	if (error)
		return error;
	if (said && wanted && !huge)
		json_array_append_new(said,
				      json_string("no free huge pages: packet buffers are in normal pages"));
	unsigned buffers = rte_align32pow2(BUFFERS_BASE + BUFFERS_PORT * count) - 1;
	struct rte_mempool *pool = rte_pktmbuf_pool_create(
	    "frames", buffers, 2 * FT_PORT_BURST, 0, BUFFER_ROOM + RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
	for (unsigned i = 0; i < count; i++)
		ports[i].pool = pool;
	return pool ? 0
		    : ft_error_set(err, -ENOMEM, "no memory for packet buffers: %s",
				   rte_strerror(rte_errno));
}

int ft_ports_open(struct ft_port *ports, const struct ft_port_config *configs, unsigned count, json_t *said,
		  struct ft_error *err)
{
	int error = 0;
	unsigned at;
	for (at = 0; at < count; at++)
		ports[at] = (struct ft_port){.offload = FT_OFFLOAD_NONE};
	for (at = 0; at < count && !error; at++) {
		error = check_config(configs, at, err);
		if (!error)
			error = silence_kernel(&ports[at], configs[at].devargs, said, err);
	}
	bool started = !error;
	if (!error) {
		error = start_dpdk(ports, configs, count, said, err);
		for (at = 0; at < count && !error; at++)
			error = open_port(&ports[at], configs[at].devargs, err);
	}
	if (!error)
		return 0;
	if (at)
		ft_error_prefix(err, "uplink %s, port \"%s\"", configs[at - 1].name, configs[at - 1].devargs);
	if (started)
		ft_ports_close(ports, count);
	for (at = 0; at < count; at++)
		ft_offload_restore(&ports[at].offload);
	return error;
}

void ft_ports_close(struct ft_port *ports, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (!ports[i].started)
			continue;
		ft_port_flush(&ports[i]);
		rte_eth_dev_stop(ports[i].id);
		rte_eth_dev_close(ports[i].id);
		ports[i].started = false;
	}
	rte_eal_cleanup();
	for (unsigned i = 0; i < count; i++) {
		ft_offload_restore(&ports[i].offload);
		ports[i].pool = NULL;
	}
}

/* A port that took the VLAN tag out of the frame gives it beside it; the frame path wants it as on the wire.
 */
static bool reinsert_tag(struct rte_mbuf *mbuf)
{
	if (!(mbuf->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED))
		return true;
	uint8_t *old = rte_pktmbuf_mtod(mbuf, uint8_t *);
	uint8_t *data = (uint8_t *)rte_pktmbuf_prepend(mbuf, 4);
	if (!data || rte_pktmbuf_data_len(mbuf) < 18)
		return false;
	memmove(data, old, 12);
	data[12] = 0x81;
	data[13] = 0x00;
	data[14] = (uint8_t)(mbuf->vlan_tci >> 8);
	data[15] = (uint8_t)mbuf->vlan_tci;
	return true;
}

unsigned ft_port_receive(struct ft_port *port, ft_port_ahead *ahead, ft_port_frame *frame, void *context)
{
	struct rte_mbuf *burst[FT_PORT_BURST];
	uint8_t *data[FT_PORT_BURST];
	uint32_t lengths[FT_PORT_BURST];
	unsigned count = rte_eth_rx_burst(port->id, 0, burst, FT_PORT_BURST);
	for (unsigned i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = burst[i];
		/* Chained buffers only come from drivers with scattered receive: made one, or cut and
		 * refused. */
		if (mbuf->nb_segs > 1)
			rte_pktmbuf_linearize(mbuf);
		reinsert_tag(mbuf);
		data[i] = rte_pktmbuf_mtod(mbuf, uint8_t *);
		lengths[i] = rte_pktmbuf_data_len(mbuf);
		rte_prefetch0(data[i]);
	}
	if (ahead && count)
		ahead(context, data, lengths, count);
	for (unsigned i = 0; i < count; i++) {
		frame(context, data[i], lengths[i]);
		rte_pktmbuf_free(burst[i]);
	}
	return count;
}

int ft_port_send(struct ft_port *port, const void *data, size_t length, unsigned *lost)
{
	if (length > FRAME_ROOM)
		return -EMSGSIZE;
	if (port->pending_count == FT_PORT_BURST)
		*lost += ft_port_flush(port);
	struct rte_mbuf *mbuf = rte_pktmbuf_alloc(port->pool);
	if (!mbuf)
		return -ENOMEM;
	void *to = rte_pktmbuf_append(mbuf, (uint16_t)length);
	if (!to) {
		rte_pktmbuf_free(mbuf);
		return -EMSGSIZE;
	}
	memcpy(to, data, length);
	port->pending[port->pending_count++] = mbuf;
	return 0;
}

unsigned ft_port_flush(struct ft_port *port)
{
	unsigned sent = 0;
	while (sent < port->pending_count) {
		unsigned n = rte_eth_tx_burst(port->id, 0, port->pending + sent,
					      (uint16_t)(port->pending_count - sent));
		if (!n)
			break;
		sent += n;
	}
	unsigned lost = port->pending_count - sent;
	for (unsigned i = sent; i < port->pending_count; i++)
		rte_pktmbuf_free(port->pending[i]);
	port->pending_count = 0;
	return lost;
}

uint64_t ft_port_missed(struct ft_port *port)
{
	struct rte_eth_stats stats;
	if (rte_eth_stats_get(port->id, &stats))
		return 0;
	return stats.imissed + stats.ierrors + stats.rx_nombuf;
}
