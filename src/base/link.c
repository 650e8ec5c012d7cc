#include "base/link.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static size_t page_up(size_t n)
{
	return (n + 4095) & ~(size_t)4095;
}

static size_t offset_tx(void)
{
	return page_up(ft_ring_footprint(FT_LINK_RX_SIZE));
}

static size_t offset_cmd(void)
{
	return offset_tx() + page_up(ft_ring_footprint(FT_LINK_TX_SIZE));
}

static size_t total_length(void)
{
	return offset_cmd() + page_up(ft_ring_footprint(FT_LINK_CMD_SIZE));
}

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

int ft_link_create(int fds_dataplane[FT_LINK_FDS], int fds_vmm[FT_LINK_FDS], struct ft_error *err)
{
	int memory = memfd_create("foretaste-link", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int vmm = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int dataplane = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int pair[2] = {-1, -1};
	int error = 0;
	if (memory < 0 || vmm < 0 || dataplane < 0 || ftruncate(memory, (off_t)total_length()) ||
	    fcntl(memory, F_ADD_SEALS, SEALS) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		error = -errno;
	for (int side = 0; side < 2 && !error; side++) {
		int *fds = side ? fds_vmm : fds_dataplane;
		fds[FT_LINK_FD_MEMORY] = fcntl(memory, F_DUPFD_CLOEXEC, 0);
		fds[FT_LINK_FD_WAKE_VMM] = fcntl(vmm, F_DUPFD_CLOEXEC, 0);
		fds[FT_LINK_FD_WAKE_DATAPLANE] = fcntl(dataplane, F_DUPFD_CLOEXEC, 0);
		fds[FT_LINK_FD_EVENTS] = pair[side];
		pair[side] = -1;
		for (int i = 0; i < FT_LINK_FDS && !error; i++)
			if (fds[i] < 0)
				error = -errno;
		if (error) {
			close_all(fds, FT_LINK_FDS);
			if (side)
				close_all(fds_dataplane, FT_LINK_FDS);
		}
	}
	close_all((int[]){memory, vmm, dataplane, pair[0], pair[1]}, 5);
	if (error)
		return ft_error_set(err, error, "cannot make the link between dataplane and vmm: %s", strerror(-error));
	return 0;
}

int ft_link_open(struct ft_link *link, enum ft_link_side side, const int fds[FT_LINK_FDS], struct ft_error *err)
{
	*link = (struct ft_link){.wake_own = -1, .wake_peer = -1, .events = -1};
	struct stat st;
	int seals = fcntl(fds[FT_LINK_FD_MEMORY], F_GET_SEALS);
	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fds[FT_LINK_FD_MEMORY], &st) ||
	    (size_t)st.st_size != total_length()) {
		close_all(fds, FT_LINK_FDS);
		return ft_error_set(err, -EPROTO, "the link's shared memory has the wrong size or is not sealed");
	}
	void *memory = mmap(NULL, total_length(), PROT_READ | PROT_WRITE, MAP_SHARED, fds[FT_LINK_FD_MEMORY], 0);
	close(fds[FT_LINK_FD_MEMORY]);
	if (memory == MAP_FAILED) {
		int error = -errno;
		close_all(fds + 1, FT_LINK_FDS - 1);
		return ft_error_set(err, error, "cannot map the link's memory: %s", strerror(-error));
	}
	link->memory = memory;
	link->length = total_length();
	bool vmm = side == FT_LINK_VMM;
	link->wake_own = fds[vmm ? FT_LINK_FD_WAKE_VMM : FT_LINK_FD_WAKE_DATAPLANE];
	link->wake_peer = fds[vmm ? FT_LINK_FD_WAKE_DATAPLANE : FT_LINK_FD_WAKE_VMM];
	link->events = fds[FT_LINK_FD_EVENTS];
	if (!vmm)
		fcntl(link->events, F_SETFL, O_NONBLOCK);
	int error = ft_ring_attach(&link->rx, memory, FT_LINK_RX_SIZE, vmm ? -1 : link->wake_peer);
	if (!error)
		error = ft_ring_attach(&link->tx, (uint8_t *)memory + offset_tx(), FT_LINK_TX_SIZE,
				       vmm ? link->wake_peer : -1);
	if (!error)
		error = ft_ring_attach(&link->cmd, (uint8_t *)memory + offset_cmd(), FT_LINK_CMD_SIZE,
				       vmm ? -1 : link->wake_peer);
	if (error) {
		ft_link_close(link);
		return ft_error_set(err, error, "cannot attach the link's rings: %s", strerror(-error));
	}
	return 0;
}

void ft_link_close(struct ft_link *link)
{
	if (link->memory)
		munmap(link->memory, link->length);
	close_all((int[]){link->wake_own, link->wake_peer, link->events}, 3);
	*link = (struct ft_link){.wake_own = -1, .wake_peer = -1, .events = -1};
}
