#include "guest/overlay.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "vmm/dev/devices.h"

#define LOOK_NS  10000000u   /* between two looks at the compaction while the guest computes */
#define SETTLE_NS 1000000000u /* between two tries to write what the file did not take, and two inputs that say so */
#define COPY     131072u      /* bytes at a time: a third of a millisecond */

static uint64_t unix_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int ft_guest_overlay_open(struct ft_guest_overlay *overlay, struct ft_machine *m, const char *guest, int fd, int read_fd, uint64_t quota,
			  uint64_t retention_ns, struct ft_error *err)
{
	struct ft_overlay_config config = {.fd = fd,
					   .read_fd = read_fd,
					   .guest = guest,
					   .quota = quota,
					   .retention_ns = retention_ns,
					   .io = &ft_overlay_io_system,
					   .clock = unix_ns};
	struct ft_overlay_found found;
	int error = ft_disk_keep(&m->devices->blk.disk, &config, &found, err);
	if (error)
		return error;
	overlay->open = true;
	if (found.undone)
		snprintf(overlay->found, sizeof(overlay->found),
			 "a restored disk that was never completed is undone (%llu records): it is what it was before",
			 (unsigned long long)found.undone);
	else if (found.cut)
		snprintf(overlay->found, sizeof(overlay->found),
			 "the last %llu bytes were not finished when the writing ended and are cut off; nothing that was flushed is among them",
			 (unsigned long long)found.cut);
	return 0;
}

static const char *reason(int failure)
{
	return failure == -ENOSPC ? "there is no more room for what it writes" : strerror(-failure);
}

/* The one door: writes fail from here on, or work again. Said again now and then, so that a journal that begins later has it. */
static bool look_at_failure(struct ft_guest_overlay *overlay, struct ft_machine *m, uint64_t now, const char **type, char *text, size_t size)
{
	struct ft_virtio_blk *blk = &m->devices->blk;
	int failure = blk->disk.failure;
	if (!failure && !blk->s.failed)
		return false;
	bool due = now - overlay->told_ns >= SETTLE_NS;
	if (failure && blk->s.failed && !due)
		return false;
	if (failure && due)
		failure = ft_disk_settle(&blk->disk, &m->ram, m->icount);
	overlay->told_ns = now;
	ft_machine_input(m, FT_INPUT_DISK, 0, &(uint8_t){failure != 0}, 1);
	if (!failure == !overlay->failure)
		return false;
	overlay->failure = failure;
	overlay->failures += failure != 0;
	*type = failure ? "disk-failed" : "disk-works";
	snprintf(text, size, failure ? "its writes fail with I/O errors from here on: %s" : "it takes writes again%s",
		 failure ? reason(failure) : "");
	return true;
}

bool ft_guest_overlay_look(struct ft_guest_overlay *overlay, struct ft_machine *m, uint64_t now, bool idle, uint64_t oldest, uint64_t newest,
			   const char **type, char *text, size_t size)
{
	if (!overlay->open)
		return false;
	if (*overlay->found) {
		*type = "disk-recovered";
		snprintf(text, size, "%s", overlay->found);
		overlay->found[0] = 0;
		return true;
	}
	if (look_at_failure(overlay, m, now, type, text, size))
		return true;
	if (now - overlay->looked_ns < LOOK_NS && !idle)
		return false;
	overlay->looked_ns = now;
	struct ft_overlay *file = &m->devices->blk.disk.overlay;
	ft_overlay_work(file, COPY, oldest, newest);
	if (file->counts.shortened == overlay->shortened)
		return false;
	bool first = !overlay->shortened;
	overlay->shortened = file->counts.shortened;
	if (first) {
		*type = "disk-history";
		snprintf(text, size, "its history is shorter than overlay.retention: the quota of %llu MiB is used up",
			 (unsigned long long)(file->slots * FT_SEGMENT_SIZE >> 20));
		return true;
	}
	return false;
}
