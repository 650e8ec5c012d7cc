/* foretaste-vmm: hosts one guest. Started by foretasted, which tells it everything over descriptor 3 (see
 * src/gateway/protocol.md) and hands it what it may read. It never opens a file itself. */
#include <errno.h>
#include <malloc.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/channel.h"
#include "clone/book.h"
#include "guest/confinement.h"
#include "guest/live.h"
#include "guest/settings.h"
#include "vmm/dev/devices.h"

#define IMAGE_MAX (512u << 20)

struct image {
	void *bytes;
	size_t length;
};

static int read_image(int fd, const char *what, struct image *image, struct ft_error *err)
{
	struct stat st;
	if (fstat(fd, &st))
		return ft_error_set(err, -errno, "the %s cannot be read: %s", what, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > IMAGE_MAX)
		return ft_error_set(err, -EINVAL, "the %s is empty, larger than 512 MiB, or no file", what);
	image->length = (size_t)st.st_size;
	image->bytes = malloc(image->length);
	if (!image->bytes)
		return ft_error_set(err, -ENOMEM, "no memory for the %s", what);
	for (size_t at = 0; at < image->length;) {
		ssize_t n = pread(fd, (char *)image->bytes + at, image->length - at, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ft_error_set(err, n < 0 ? -errno : -EIO, "the %s cannot be read: %s", what,
					    n < 0 ? strerror(errno) : "it became shorter");
		at += (size_t)n;
	}
	return 0;
}

static int snapshot_fd(const struct ft_settings *settings)
{
	return FT_GUEST_FDS + (settings->keeps ? 2 : 0);
}

/* The overlay of the guest's disk; its two descriptors are taken over. */
static int keep(const struct ft_settings *settings, struct ft_live *live, struct ft_machine *m, int *fds, struct ft_error *err)
{
	if (!settings->keeps)
		return 0;
	int error = ft_guest_overlay_open(&live->overlay, m, settings->guest, fds[FT_GUEST_FDS], fds[FT_GUEST_FDS + 1],
					  settings->overlay_quota, settings->overlay_retention_ns, err);
	if (!error)
		fds[FT_GUEST_FDS] = fds[FT_GUEST_FDS + 1] = -1;
	return error;
}

static int reset_disk(struct ft_machine *m, struct ft_error *err)
{
	int error = ft_disk_reset(&m->devices->blk.disk, m->icount);
	return error ? ft_error_set(err, error, "the guest's disk cannot be restored: %s", strerror(-error)) : 0;
}

static int commit_disk(struct ft_machine *m, struct ft_error *err)
{
	int error = ft_disk_commit(&m->devices->blk.disk, m->icount);
	return error ? ft_error_set(err, error, "the guest's disk cannot be restored: %s", strerror(-error)) : 0;
}

/* A guest that goes on where it was saved: no kernel is read. */
static struct ft_machine *restore_machine(struct ft_settings *settings, struct ft_live *live, int *fds, struct ft_error *err)
{
	struct ft_snapshot_load *load = &live->load;
	struct ft_machine_config *config = &settings->machine;
	struct ft_machine *m = ft_machine_create(config, err);
	if (!m)
		return NULL;
	/* The guest's disk becomes what it was, too: for good when all of it is there. */
	if (keep(settings, live, m, fds, err) || (settings->keeps && reset_disk(m, err)) ||
	    ft_snapshot_restore(load, m, fds[snapshot_fd(settings)], settings->sealed ? &settings->seal : NULL, err) ||
	    (settings->keeps && commit_disk(m, err))) {
		ft_machine_destroy(m);
		return NULL;
	}
	/* A CPU that is not ours does not wait for memory. */
	while (settings->kvm && ft_snapshot_fill(load))
		;
	if (settings->kvm)
		ft_snapshot_loaded(load);
	if (m->error.code) {
		*err = m->error;
		ft_machine_destroy(m);
		return NULL;
	}
	/* The clock chip shows the time that it is; the guest's own clock goes on from where it was. */
	m->clock.epoch_ns = config->epoch_ns - ft_machine_vtime(m);
	return m;
}

static struct ft_machine *make_machine(struct ft_settings *settings, struct ft_live *live, int *fds, struct ft_error *err)
{
	struct image kernel = {0}, initrd = {0};
	struct ft_machine *m = NULL;
	struct ft_machine_config *config = &settings->machine;
	if (read_image(fds[FT_GUEST_FD_KERNEL], "kernel", &kernel, err) == 0 &&
	    (!settings->has_initrd || read_image(fds[FT_GUEST_FD_INITRD], "initramfs", &initrd, err) == 0)) {
		config->kernel = kernel.bytes;
		config->kernel_length = kernel.length;
		config->initrd = initrd.bytes;
		config->initrd_length = initrd.length;
		m = ft_machine_create(config, err);
		if (m && (keep(settings, live, m, fds, err) || ft_machine_boot(m, config, err))) {
			ft_machine_destroy(m);
			m = NULL;
		}
	}
	free(kernel.bytes);
	free(initrd.bytes);
	return m;
}

static int kvm_fd(const struct ft_settings *settings)
{
	return snapshot_fd(settings) + settings->restores;
}

static struct ft_machine *make(struct ft_settings *settings, struct ft_live *live, int *fds, struct ft_error *err)
{
	struct ft_machine_config *config = &settings->machine;
	config->engine = settings->kvm ? &ft_engine_kvm : &ft_engine_soft;
	config->engine_options.host_tsc = settings->kvm;
	config->engine_options.kvm = settings->kvm ? fds[kvm_fd(settings)] : 0;
	config->disk_fd = settings->has_disk ? fds[FT_GUEST_FD_DISK] : -1;
	struct ft_machine *m = settings->restores ? restore_machine(settings, live, fds, err) : make_machine(settings, live, fds, err);
	if (!m || !settings->kvm)
		return m;
	struct ft_engine_options clones = config->engine_options;
	clones.host_tsc = false; /* but the guest's */
	if (!ft_machine_stand_by(m, settings->clone_kvm ? &ft_engine_kvm : &ft_engine_soft, &clones, err))
		return m;
	ft_machine_destroy(m);
	return NULL;
}

static int fail(const struct ft_error *err)
{
	int code = err->code == -ENOMEM                          ? EX_OSERR
		   : err->code == -EPERM || err->code == -EACCES ? EX_NOPERM
		   : err->code == -EINVAL                        ? EX_CONFIG
								 : EX_UNAVAILABLE;
	json_t *message = json_pack("{s:s, s:i, s:s}", "op", "failed", "code", code, "text", err->text);
	ft_channel_send(FT_CHANNEL_FD, message, NULL, 0);
	json_decref(message);
	fprintf(stderr, "foretaste-vmm: %s\n", err->text);
	return code;
}

static int open_journal(struct ft_live *live, const struct ft_settings *settings, int ring, struct ft_error *err)
{
	const struct ft_machine_config *m = &settings->machine;
	struct ft_recorder_config config = {.ring = ring,
					    .seal = settings->journal_sealed ? &settings->journal_seal : NULL,
					    .channel = FT_CHANNEL_FD,
					    .uid = settings->uid,
					    .gid = settings->gid,
					    .hold = settings->journal_holds,
					    .commits = settings->journal_commits,
					    .stamps = settings->journal_refers,
					    .check_every = settings->journal_check_every,
					    .header = {.run = settings->journal_run,
						       .memory = m->memory,
						       .mtu = m->mtu,
						       .has_disk = settings->has_disk,
						       .clock = m->clock}};
	memcpy(config.header.mac, m->mac, sizeof(config.header.mac));
	snprintf(config.header.guest, sizeof(config.header.guest), "%s", settings->guest);
	int error = ft_recorder_open(&live->recorder, &config, err);
	return error || !settings->journal_commits ? error : ft_output_open(&live->output, err);
}

static uint32_t note_seed(void *context, const struct ft_request *request, uint64_t number)
{
	struct ft_live *live = context;
	return ft_recorder_seed(&live->recorder, request, &live->slots->config.outside, number);
}

/* A guest that goes on from a snapshot: who its processes are was known when that was saved. Without it their names are missing until
 * they start something. */
static void recall(struct ft_live *live)
{
	uint8_t *book;
	size_t length;
	if (!live->load.m || ft_snapshot_note(&live->load, FT_SNAPSHOT_BOOK, &book, &length, NULL))
		return;
	ft_book_load(&live->witness->observer, book, length, NULL);
	free(book);
}

/* From the configuration to a machine that is ready for its first instruction. Everything that needs a file, or a
 * syscall that the filter refuses, happens here. */
static int prepare(struct ft_live *live, struct ft_settings *settings, json_t *message, int *fds, int count,
		   struct ft_error *err)
{
	if (ft_settings_read(settings, message, err))
		return err->code;
	int kept = kvm_fd(settings) + settings->kvm;
	const int *journal = fds + kept;
	if (count != kept + (settings->journal ? FT_GUEST_JOURNAL_FDS : 0))
		return ft_error_set(err, -EINVAL, "configuration: %d descriptors do not fit it", count);
	/* The scribe is forked before there is a guest: it has nothing of it, and nobody copies pages for it. */
	if (settings->journal && open_journal(live, settings, journal[FT_GUEST_FD_RING], err))
		return err->code;
	live->m = make(settings, live, fds, err);
	sodium_memzero(&settings->seal, sizeof(settings->seal));
	if (!live->m)
		return err->code;
	for (int i = 0; i < kept; i++)
		if (i != FT_GUEST_FD_CONSOLE && fds[i] >= 0 && !(settings->clone_kvm && i == kvm_fd(settings)))
			close(fds[i]);
	if (settings->journal) {
		close(journal[FT_GUEST_FD_RING]);
		live->segment = journal[FT_GUEST_FD_SEGMENT];
		live->checkpoint = journal[FT_GUEST_FD_CHECKPOINT];
		live->checkpoint_number = settings->journal_number;
		live->journal_seal = settings->journal_sealed ? &settings->journal_seal : NULL;
	}
	live->isolated = !settings->attached;
	live->restored = settings->restores;
	live->guest = settings->guest;
	memcpy(live->mac, settings->machine.mac, sizeof(live->mac));
	live->mtu = settings->machine.mtu;
	live->channel = FT_CHANNEL_FD;
	live->report->fd = -1;
	ft_live_open(live, fds[FT_GUEST_FD_CONSOLE]);
	ft_witness_live(live->witness, live->m, live->report, 0);
	recall(live);
	struct ft_slots_config config = {.max = settings->clones,
					 .outside = settings->outside,
					 .witness = live->witness,
					 .note = note_seed,
					 .keep = live->m->native ? NULL : ft_live_ask_seed,
					 .kept = ft_live_told_seed,
					 .write = live->m->native ? NULL : ft_live_write_seed,
					 .context = live,
					 .disk =
					     live->m->devices->has_disk ? live->m->devices->blk.disk.fd : -1,
					 .overlay =
					     live->m->devices->has_disk ? live->m->devices->blk.disk.read_fd : -1,
					 .kvm = settings->clone_kvm ? fds[kvm_fd(settings)] : -1};
	struct ft_confine_filter filter = {0};
	live->disk = config.disk;
	int error = ft_slots_open(live->slots, &config, err);
	if (!error)
		error = ft_saver_open(&live->saver, &live->witness->observer, err);
	if (!error)
		error = ft_guest_filter(&filter, settings->kvm, settings->clone_kvm ? live->m->vcpus : 0, err);
	if (!error)
		error = ft_guest_identity(settings->uid, settings->gid, err);
	if (!error && settings->keeps)
		error = ft_overlay_start(&live->m->devices->blk.disk.overlay, err);
	if (!error)
		error = ft_machine_get_ready(live->m, err);
	if (!error)
		error = ft_guest_confine(&filter, err);
	ft_confine_filter_free(&filter);
	/* Kernel, initramfs and filters have been through the heap. Each page that stays is one that every fork copies. */
	malloc_trim(0);
	return error;
}

int main(int argc, char **argv)
{
	static struct ft_witness witness;
	static struct ft_slots slots;
	static struct ft_report report;
	static struct ft_settings settings;
	static struct ft_live live = {.witness = &witness, .slots = &slots, .report = &report};
	struct ft_error err = {0};
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	int error = ft_channel_receive(FT_CHANNEL_FD, &message, fds, &count);
	const char *op = error ? NULL : json_string_value(json_object_get(message, "op"));
	if (!op || strcmp(op, "config") || count < FT_GUEST_FDS || count > FT_GUEST_FDS + 3 + FT_GUEST_JOURNAL_FDS) {
		fprintf(stderr,
			"foretaste-vmm is started by foretasted; it expects its configuration on descriptor "
			"%d.\n",
			FT_CHANNEL_FD);
		return EX_USAGE;
	}
	if (sodium_init() < 0)
		ft_error_set(&err, -ENOSYS, "libsodium cannot be used");
	if (err.code || prepare(&live, &settings, message, fds, count, &err))
		return fail(&err);
	json_decref(message);
	message = json_pack("{s:s, s:[]}", "op", "ready", "said");
	if (*live.m->model_note)
		json_array_append_new(json_object_get(message, "said"), json_string(live.m->model_note));
	ft_channel_send(FT_CHANNEL_FD, message, NULL, 0);
	json_decref(message);
	enum ft_live_end end = ft_live_run(&live);
	ft_recorder_close(&live.recorder, live.m->reset);
	ft_live_close(&live);
	return (int)end;
}
