#include "guest/live.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "base/channel.h"
#include "clone/book.h"
#include "guest/settings.h"
#include "vmm/dev/devices.h"
#include "vmm/dev/generation.h"

#define SLICE_INSTRUCTIONS FT_RECORD_SLICE
#define SLICE_NS           200000u   /* the same of an engine that goes by the host's time ... */
#define SLICE_QUIET_NS     1000000u  /* ... and while no frames come: entering and leaving the guest is what costs */
#define LOOK_NS            5000000u  /* where nothing is told of user code, it is looked for this often */
#define SPIN_NS            20000u    /* looking at the rings before sleeping, while traffic flows */
#define TRAFFIC_NS         2000000u  /* the last frame is this young: traffic flows */
#define CHANNEL_NS         10000000u /* a busy guest's vmm looks at its channel this often */
#define FRAMES_AHEAD       256u      /* frames given to a machine whose guest has no buffers for them */
#define BURST              64u
#define FILL_NS            20000000u /* a busy guest's memory comes from its snapshot at 100 MB a second or more */
#define SETTLED_NS   2000000000u /* a guest has booted when for so long ... */
#define SETTLED_BUSY 10u	 /* ... it was busy for less than a tenth of the time */
#define FULL_MS            5 /* between two looks whether a full journal has room again */
#define FULL_TOLD_NS       500000000u /* a guest that stands still for so long is told of */
#define LAST_MS            3000 /* for the journal, when the guest has ended and frames wait for it */
#define GATHER             16u /* pages that lie elsewhere since a seed was forked, brought back in one idle moment */
#define MEND_NS            1000000u /* putting huge pages together again, in one idle moment ... */
#define BREAK_NS           20000000u /* ... and not before this long after a fork: until then the most are broken that will be */

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- The supervisor ------------------------------------------------------------------------------------------- */

static void say(struct ft_live *live, json_t *message)
{
	/* The channel is never waited for: a supervisor that does not read loses our words, not the guest's time. */
	if (message && ft_channel_send(live->channel, message, NULL, 0) == -EPIPE)
		live->stop = true;
	json_decref(message);
}

void ft_live_log(struct ft_live *live, const char *level, const char *format, ...)
{
	char text[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	say(live, json_pack("{s:s, s:s, s:s}", "op", "log", "level", level, "text", text));
}

static void drop_link(struct ft_live *live, const char *why)
{
	if (!live->linked)
		return;
	ft_slots_attach(live->slots, -1);
	live->report->fd = -1;
	ft_link_close(&live->link);
	live->linked = false;
	if (why)
		ft_live_log(live, "error", "guest %s: the link to the dataplane is closed: %s", live->guest,
			    why);
}

static void take_link(struct ft_live *live, const int *fds)
{
	struct ft_error err = {0};
	drop_link(live, NULL);
	if (ft_link_open(&live->link, FT_LINK_VMM, fds, &err)) {
		ft_live_log(live, "error", "guest %s: %s", live->guest, err.text);
		return;
	}
	/* A clone must not have the rings at all. */
	madvise(live->link.memory, live->link.length, MADV_DONTFORK);
	live->linked = true;
	live->kicked = 0;
	ft_report_begin(live->report, live->link.events, FT_ROLE_LIVE, 0);
	ft_slots_attach(live->slots, live->link.events);
}

static json_t *journal_status(const struct ft_live *live)
{
	const struct ft_recorder *r = &live->recorder;
	if (!r->ring.page)
		return NULL;
	uint64_t now = monotonic_ns(), waiting = FT_JOURNAL_RING_SIZE - ft_journal_ring_room(&r->ring);
	json_t *json = json_pack("{s:b, s:b, s:I, s:I, s:I, s:I, s:b, s:f}", "recording", r->recording, "failing", ft_recorder_failing(r), "records",
				 (json_int_t)r->records, "gaps", (json_int_t)r->gaps, "recorded_bytes", (json_int_t)r->ring.head, "waiting_bytes",
				 (json_int_t)waiting, "stands_still", live->full_since_ns != 0, "stood_still_s",
				 (double)(live->full_ns + (live->full_since_ns ? now - live->full_since_ns : 0)) / 1e9);
	if (r->stamps)
		json_object_update_new(json, json_pack("{s:I, s:I}", "referred_frames", (json_int_t)r->referred, "referred_bytes", (json_int_t)r->referred_bytes));
	if (live->output.bytes)
		json_object_update_new(json, json_pack("{s:I, s:I, s:I, s:o}", "output_frames", (json_int_t)live->output.frames, "output_uncommitted",
						(json_int_t)live->output.uncommitted, "output_waiting_bytes",
						(json_int_t)(live->output.end - live->output.first), "output_waits",
						ft_histogram_json(&live->output.waits)));
	return json;
}

static json_t *overlay_status(const struct ft_live *live)
{
	const struct ft_virtio_blk *blk = &live->m->devices->blk;
	const struct ft_overlay *o = &blk->disk.overlay;
	if (!live->overlay.open)
		return NULL;
	return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "failing", blk->s.failed, "failures",
			 (json_int_t)live->overlay.failures, "bytes", (json_int_t)ft_overlay_bytes(o), "quota_bytes",
			 (json_int_t)(o->slots * FT_SEGMENT_SIZE), "records", (json_int_t)o->counts.records, "written_bytes",
			 (json_int_t)o->counts.bytes, "compactions", (json_int_t)o->counts.compactions, "copied_blocks",
			 (json_int_t)o->counts.copied, "freed_segments", (json_int_t)o->counts.freed, "shortened_segments",
			 (json_int_t)o->counts.shortened, "unwritten_bytes", (json_int_t)(blk->disk.unwritten * FT_DISK_BLOCK), "history_since_ns",
			 (json_int_t)(o->counts.history_ns & INT64_MAX));
}

static void answer_status(struct ft_live *live, const json_t *message)
{
	const struct ft_machine *m = live->m;
	const struct ft_slots *s = live->slots;
	json_t *answer =
	    json_pack(
		"{s:s, s:O?, s:{s:s, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:o}}",
		"op", "answer", "id", json_object_get(message, "id"), "result", "guest", live->guest,
		"linked", live->linked, "isolated", live->isolated, "rx_isolated", (json_int_t)live->rx_isolated,
		"tx_isolated", (json_int_t)live->tx_isolated, "parts_absent",
		(json_int_t)(live->load.m ? live->load.source.absent : 0), "instructions", (json_int_t)m->icount, "vtime_ns",
		(json_int_t)ft_machine_vtime(m), "rx_frames", (json_int_t)live->rx_frames, "tx_frames",
		(json_int_t)live->tx_frames, "tx_full", (json_int_t)live->tx_full, "rx_dropped",
		(json_int_t)m->frames_dropped, "disk_written", (json_int_t)ft_machine_disk_written(m),
		"clones", (int)s->running, "clones_forked", (json_int_t)s->forked, "clones_refused",
		(json_int_t)s->refused, "clones_finished", (json_int_t)s->finished, "clones_died",
		(json_int_t)s->died, "last_pause_ns", (json_int_t)s->last_pause_ns, "pauses",
		ft_histogram_json(&s->pauses));
	json_t *result = json_object_get(answer, "result"), *journal = journal_status(live), *overlay = overlay_status(live);
	if (journal)
		json_object_set_new(result, "journal", journal);
	if (overlay)
		json_object_set_new(result, "overlay", overlay);
	say(live, answer);
}

/* ---- Snapshots ------------------------------------------------------------------------------------------------- */

/* checkpoint: its number; 0: it was a snapshot. */
static void tell_saved(struct ft_live *live, uint32_t checkpoint, const struct ft_saver_end *end)
{
	char mac[65];
	const char *op = checkpoint ? "checkpoint" : "snapshot";
	sodium_bin2hex(mac, sizeof(mac), end->told.mac, sizeof(end->told.mac));
	if (end->error)
		say(live, json_pack("{s:s, s:I, s:s}", "op", op, "number", (json_int_t)checkpoint, "error", end->text));
	else
		say(live, json_pack("{s:s, s:I, s:I, s:I, s:s, s:I, s:I}", "op", op, "number", (json_int_t)checkpoint,
				    "bytes", (json_int_t)end->told.bytes, "chunks", (json_int_t)end->told.chunks, "mac", mac, "took_ns",
				    (json_int_t)end->took_ns, "pause_ns", (json_int_t)end->pause_ns));
}

static int overlay_of(const struct ft_live *live)
{
	return live->m->devices->has_disk ? live->m->devices->blk.disk.read_fd : -1;
}

static void begin_saving(struct ft_live *live, const json_t *message, int file)
{
	struct ft_saver_end end = {0};
	struct ft_snapshot_seal seal;
	struct ft_error err = {0};
	struct ft_snapshot_about about = {.created_ns = (uint64_t)json_integer_value(json_object_get(message, "created_ns"))};
	snprintf(about.guest, sizeof(about.guest), "%s", live->guest);
	ft_settings_origin(message, about.origin);
	int sealed = ft_settings_seal(json_object_get(message, "seal"), &seal, &err);
	if (sealed < 0)
		close(file);
	else
		ft_saver_begin(&live->saver, live->m, &about, file, live->disk, overlay_of(live), ft_slots_newest(live->slots),
			       sealed ? &seal : NULL, &err);
	sodium_memzero(&seal, sizeof(seal));
	if (!err.code)
		return;
	end.error = err.code;
	snprintf(end.text, sizeof(end.text), "%s", err.text);
	tell_saved(live, 0, &end);
}

static uint64_t wall_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The journal begins anew here, and the machine is saved as it is here. Takes the descriptors over. */
static void begin_checkpoint(struct ft_live *live, uint32_t number, int file, int segment, const struct ft_snapshot_seal *seal)
{
	struct ft_saver_end end = {0};
	struct ft_error err = {0};
	if (live->saver.pid)
		ft_error_set(&err, -EBUSY, "a snapshot of this guest is being saved");
	else if (!live->recorder.ring.page)
		ft_error_set(&err, -EINVAL, "this guest has no journal");
	if (err.code) {
		/* The save under way is not this one's. */
		say(live, json_pack("{s:s, s:I, s:s}", "op", "checkpoint", "number", (json_int_t)number, "error", err.text));
		close(file);
		close(segment);
		return;
	}
	struct ft_snapshot_about about = {.created_ns = wall_ns()};
	snprintf(about.guest, sizeof(about.guest), "%s", live->guest);
	live->checkpoint_number = number;
	if (ft_recorder_checkpoint(&live->recorder, live->m, number, segment, seal, &err))
		close(file);
	else
		ft_saver_begin(&live->saver, live->m, &about, file, live->disk, overlay_of(live), ft_slots_newest(live->slots), seal, &err);
	if (!err.code)
		return;
	end.error = err.code;
	snprintf(end.text, sizeof(end.text), "%s", err.text);
	live->checkpoint_number = 0;
	tell_saved(live, number, &end);
}

/* Its descriptors are taken over. */
static void order_checkpoint(struct ft_live *live, const json_t *message, int file, int segment)
{
	struct ft_snapshot_seal seal;
	struct ft_error err = {0};
	uint32_t number = (uint32_t)json_integer_value(json_object_get(message, "number"));
	int sealed = ft_settings_seal(json_object_get(message, "seal"), &seal, &err);
	if (sealed >= 0) {
		begin_checkpoint(live, number, file, segment, sealed ? &seal : NULL);
	} else {
		say(live, json_pack("{s:s, s:I, s:s}", "op", "checkpoint", "number", (json_int_t)number, "error", err.text));
		close(file);
		close(segment);
	}
	sodium_memzero(&seal, sizeof(seal));
}

static void look_at_saver(struct ft_live *live)
{
	struct ft_saver_end end;
	if (!ft_saver_work(&live->saver, &end))
		return;
	uint32_t number = live->checkpoint_number;
	live->checkpoint_number = 0;
	tell_saved(live, number, &end);
	ft_mend_again(&live->mend);
}

/* ---- Seeds that are kept ---------------------------------------------------------------------------------------- */

/* The supervisor's answer to "seed": the file, or none. */
static void keep_seed(struct ft_live *live, const json_t *message, int file)
{
	uint64_t number = (uint64_t)json_integer_value(json_object_get(message, "number"));
	struct ft_seed_order order = {.created_ns = (uint64_t)json_integer_value(json_object_get(message, "created_ns"))};
	struct ft_snapshot_seal seal;
	int sealed = file < 0 ? 0 : ft_settings_seal(json_object_get(message, "seal"), &seal, NULL);
	if (sealed > 0) {
		order.sealed = 1;
		memcpy(order.salt, seal.salt, sizeof(order.salt));
		memcpy(order.key, seal.key, sizeof(order.key));
	}
	if (file >= 0 && sealed >= 0) {
		ft_slots_keep(live->slots, number, &order, file);
	} else {
		if (file >= 0)
			close(file);
		ft_slots_no_keep(live->slots, number);
	}
	sodium_memzero(&seal, sizeof(seal));
	sodium_memzero(&order, sizeof(order));
}

int ft_live_ask_seed(void *context, uint64_t number, uint64_t hold)
{
	struct ft_live *live = context;
	json_t *message = json_pack("{s:s, s:I, s:I}", "op", "seed", "number", (json_int_t)number, "hold", (json_int_t)(hold & INT64_MAX));
	int error = message ? ft_channel_send(live->channel, message, NULL, 0) : -ENOMEM;
	json_decref(message);
	return error;
}

void ft_live_told_seed(void *context, uint64_t number, const struct ft_seed_kept *kept)
{
	struct ft_live *live = context;
	char mac[65];
	if (!kept || kept->error) {
		say(live, json_pack("{s:s, s:I, s:s}", "op", "seed-kept", "number", (json_int_t)number, "error",
				    kept && *kept->text ? kept->text : "its process died"));
		return;
	}
	sodium_bin2hex(mac, sizeof(mac), kept->mac, sizeof(kept->mac));
	say(live, json_pack("{s:s, s:I, s:I, s:I, s:s}", "op", "seed-kept", "number", (json_int_t)number, "bytes", (json_int_t)kept->bytes,
			    "took_ns", (json_int_t)kept->took_ns, "mac", mac));
}

static int write_seed(const struct ft_live *live, const struct ft_seed_plan *plan, const struct ft_seed_order *order, int file,
		      struct ft_snapshot_told *told, struct ft_error *err)
{
	struct ft_machine *m = live->m;
	struct ft_snapshot_about about = {.created_ns = order->created_ns};
	struct ft_transcript_machine made = {.mtu = live->mtu, .clock = (uint32_t)m->clock.mode, .run = live->recorder.run};
	struct ft_snapshot_seal seal;
	uint8_t *book = NULL, *trial = NULL;
	memcpy(made.mac, live->mac, sizeof(made.mac));
	memcpy(about.origin, &made, sizeof(about.origin));
	memcpy(seal.salt, order->salt, sizeof(seal.salt));
	memcpy(seal.key, order->key, sizeof(seal.key));
	snprintf(about.guest, sizeof(about.guest), "%s", live->guest);
	int error = 0;
	if (ft_book_save(&live->witness->observer, &book, &about.book.length) ||
	    ft_transcript_pack(plan->request, plan->outside, plan->number, &trial, &about.trial.length))
		error = ft_error_set(err, -ENOMEM, "no memory to keep a seed");
	about.book.bytes = book;
	about.trial.bytes = trial;
	m->hooks.mask = 0;
	m->backend = (struct ft_backend){0};
	if (!error)
		error = ft_snapshot_save(m, &about, file, order->sealed ? &seal : NULL, told, err);
	free(book);
	free(trial);
	return error;
}

void ft_live_write_seed(void *context, const struct ft_seed_plan *plan, const struct ft_seed_order *order, int file, struct ft_seed_kept *kept)
{
	struct ft_snapshot_told told = {0};
	struct ft_error err = {0};
	kept->error = write_seed(context, plan, order, file, &told, &err);
	kept->bytes = told.bytes;
	memcpy(kept->mac, told.mac, sizeof(kept->mac));
	snprintf(kept->text, sizeof(kept->text), "%.159s", err.text);
}

/* ---- The disk's overlay ---------------------------------------------------------------------------------------- */

static void look_at_disk(struct ft_live *live, uint64_t now, bool idle)
{
	char text[256];
	const char *type;
	uint64_t oldest = ft_slots_oldest(live->slots);
	if (live->saver.pid && live->saver.number < oldest)
		oldest = live->saver.number;
	if (ft_guest_overlay_look(&live->overlay, live->m, now, idle, oldest, ft_slots_newest(live->slots), &type, text, sizeof(text)))
		say(live, json_pack("{s:s, s:s, s:s}", "op", "disk", "type", type, "text", text));
}

/* A restored guest's RAM, part by part: in each idle moment, and one now and then while the guest is busy. */
static void fill(struct ft_live *live, uint64_t now)
{
	if (!live->load.m || (now != UINT64_MAX && now - live->filled_ns < FILL_NS))
		return;
	live->filled_ns = monotonic_ns();
	if (ft_snapshot_fill(&live->load))
		return;
	ft_snapshot_loaded(&live->load);
	ft_live_log(live, "info", "guest %s: all of its snapshot is in memory", live->guest);
}

/* One message of the supervisor. False when there is none. */
static bool take_message(struct ft_live *live)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	int error = ft_channel_receive(live->channel, &message, fds, &count);
	if (error == -EAGAIN)
		return false;
	if (error) {
		live->stop |= error == -EPIPE || error == -ECONNRESET;
		return !live->stop;
	}
	const char *op = json_string_value(json_object_get(message, "op"));
	bool link = op && !strcmp(op, "link") && count == FT_LINK_FDS;
	if (link)
		take_link(live, fds);
	bool reopen = op && !strcmp(op, "reopen") && count == 1;
	if (reopen)
		ft_console_reopen(&live->console, fds[0]);
	bool snapshot = op && !strcmp(op, "snapshot") && count == 1;
	if (snapshot)
		begin_saving(live, message, fds[0]);
	json_int_t number = json_integer_value(json_object_get(message, "number"));
	bool seed = op && !strcmp(op, "seed") && count <= 1;
	if (seed)
		keep_seed(live, message, count ? fds[0] : -1);
	bool checkpoint = op && !strcmp(op, "checkpoint") && count == 2 && number > 0 && number <= UINT32_MAX;
	if (checkpoint)
		order_checkpoint(live, message, fds[0], fds[1]);
	for (int i = 0; i < count && !link && !reopen && !snapshot && !checkpoint && !seed; i++)
		close(fds[i]);
	if (op && !strcmp(op, "stop"))
		live->stop = true;
	else if (op && !strcmp(op, "query"))
		answer_status(live, message);
	else if (op && !strcmp(op, "attach"))
		live->isolated = false;
	else if (!link && !reopen && !snapshot && !checkpoint && !seed)
		ft_live_log(live, "warning", "guest %s: unknown or wrong message \"%.40s\"", live->guest,
			    op ? op : "");
	json_decref(message);
	return true;
}

static void look_at_channel(struct ft_live *live, uint64_t now)
{
	live->channel_looked_ns = now;
	struct pollfd fd = {.fd = live->channel, .events = POLLIN};
	while (!live->stop && poll(&fd, 1, 0) > 0 && take_message(live))
		;
}

/* ---- What is around the machine ------------------------------------------------------------------------------- */

static void send_frame(void *context, uint32_t kind, const void *frame, size_t length)
{
	struct ft_live *live = context;
	struct iovec part = {.iov_base = (void *)frame, .iov_len = length};
	if (!live->linked)
		return;
	if (ft_ring_put(&live->link.tx, kind, &part, 1) == 0)
		live->tx_frames++;
	else
		live->tx_full++;
}

static void net_tx(void *context, const void *frame, size_t length)
{
	struct ft_live *live = context;
	uint8_t stamped[sizeof(struct ft_link_stamp) + FT_RING_RECORD_MAX];
	struct ft_link_stamp stamp;
	uint32_t kind = FT_LINK_FRAME;
	if (ft_recorder_stamp(&live->recorder, frame, length, &stamp) && length <= FT_RING_RECORD_MAX - sizeof(stamp)) {
		kind = FT_LINK_FRAME_STAMPED;
		memcpy(stamped, &stamp, sizeof(stamp));
		memcpy(stamped + sizeof(stamp), frame, length);
		frame = stamped;
		length += sizeof(stamp);
	}
	if (live->isolated)
		live->tx_isolated++;
	if (live->isolated || !live->linked)
		return;
	if (!live->output.bytes || (!live->recorder.recording && ft_output_empty(&live->output)))
		send_frame(live, kind, frame, length);
	else if (!ft_output_put(&live->output, kind, frame, length, monotonic_ns()))
		live->tx_full++;
}

static void console(void *context, const char *bytes, size_t length)
{
	ft_console_put(&((struct ft_live *)context)->console, bytes, length);
}

static void entropy(void *context, size_t wanted)
{
	struct ft_live *live = context;
	uint8_t bytes[256];
	while (wanted) {
		size_t n = wanted < sizeof(bytes) ? wanted : sizeof(bytes);
		if (getrandom(bytes, n, 0) != (ssize_t)n ||
		    ft_machine_input(live->m, FT_INPUT_ENTROPY, 0, bytes, n))
			return;
		wanted -= n;
	}
}

/* What goes live is a machine that has not been before, though its state may have: its guest is to make other random numbers than
 * whoever else goes on from that state. */
static void present_generation(struct ft_live *live)
{
	uint8_t id[FT_GENERATION_BYTES];
	if (getrandom(id, sizeof(id), 0) == sizeof(id))
		ft_machine_input(live->m, FT_INPUT_GENERATION, 0, id, sizeof(id));
	else
		ft_live_log(live, "error", "guest %s: there is no randomness for its generation ID", live->guest);
	ft_virtio_rng_ask(&live->m->devices->rng);
}

/* Frames of the ring before `until` to the machine. False when the peer lied. */
static bool take_frames(struct ft_live *live, uint64_t now, uint64_t until)
{
	static const char why[] = "the dataplane's ring is inconsistent";
	for (unsigned i = 0;
	     i < BURST && live->link.rx.index < until && ft_machine_frames_waiting(live->m) < FRAMES_AHEAD;
	     i++) {
		uint8_t frame[FT_RING_RECORD_MAX];
		uint32_t kind;
		long n = ft_ring_get(&live->link.rx, &kind, frame, sizeof(frame));
		if (n == -EAGAIN)
			return true;
		size_t skip = kind == FT_LINK_FRAME_STAMPED ? sizeof(struct ft_link_stamp) : 0;
		if (n < (long)skip || (kind != FT_LINK_FRAME && kind != FT_LINK_FRAME_STAMPED)) {
			drop_link(live, why);
			return false;
		}
		live->rx_frames++;
		live->last_frame_ns = now;
		if (live->isolated) {
			live->rx_isolated++;
			continue;
		}
		struct ft_link_stamp stamp;
		if (skip) {
			memcpy(&stamp, frame, skip);
			live->recorder.reference = ft_recorder_refers(&live->recorder, &stamp, frame + skip, (size_t)n - skip) ? &stamp : NULL;
		}
		if (ft_machine_input(live->m, FT_INPUT_FRAME, 0, frame + skip, (size_t)n - skip))
			live->rx_dropped++;
		live->recorder.reference = NULL;
	}
	return true;
}

static bool take_commands(struct ft_live *live)
{
	while (ft_slots_room(live->slots)) {
		uint8_t record[FT_RING_RECORD_MAX];
		uint32_t kind;
		long n = ft_ring_get(&live->link.cmd, &kind, record, sizeof(record));
		if (n == -EAGAIN)
			return true;
		if (n < 0 || ft_slots_command(live->slots, kind, record, (size_t)n)) {
			drop_link(live, "the dataplane's commands are inconsistent");
			return false;
		}
	}
	return true;
}

/* Everything between two slices that belongs to the link. */
static void serve_link(struct ft_live *live, uint64_t now)
{
	bool pending;
	uint64_t forked = live->slots->forked;
	unsigned before = live->slots->running;
	/* A trial of input that goes on at once is asked for before its frame is published: the seed has to be forked
	 * from a guest that has not got that frame. So only frames that were there before the commands were looked at are
	 * taken, and none from behind a fork that is due. */
	int waiting = live->linked ? ft_ring_waiting(&live->link.rx) : 0;
	if (waiting < 0) {
		drop_link(live, "the dataplane's ring is inconsistent");
		return;
	}
	uint64_t until = live->link.rx.other;
	if (live->linked && take_commands(live)) {
		uint64_t fork_at = ft_slots_fork_at(live->slots);
		take_frames(live, now, fork_at < until ? fork_at : until);
	}
	if (!live->linked)
		return;
	ft_slots_work(live->slots, live->link.rx.index, &pending);
	if (live->slots->forked != forked)
		live->mend_ns = now + BREAK_NS;
	if ((before && !live->slots->running) || (live->mend_ns && now >= live->mend_ns)) {
		ft_mend_again(&live->mend);
		live->mend_ns = 0;
	}
}

/* Lets go of frames whose inputs are durable; of all, where the journal cannot be written and the guest does not wait for that. */
static void pass_output(struct ft_live *live)
{
	struct ft_recorder *r = &live->recorder;
	if (ft_output_empty(&live->output))
		return;
	if (ft_output_unmarked(&live->output))
		ft_output_mark(&live->output, ft_recorder_commit(r));
	bool failing = !r->hold && ft_recorder_failing(r), all = failing || !r->recording;
	ft_output_release(&live->output, all ? UINT64_MAX : ft_recorder_durable(r), all, monotonic_ns(), send_frame, live);
}

/* Wakes the dataplane for frames it has not been woken for: for nothing, it would be woken thousands of times a second while
 * the guest computes, and the two would share a CPU. */
static void kick(struct ft_live *live)
{
	if (!live->linked || live->link.tx.index == live->kicked)
		return;
	live->kicked = live->link.tx.index;
	ft_ring_kick(&live->link.tx);
}

/* ---- Idle ----------------------------------------------------------------------------------------------------- */

static bool link_waits(struct ft_live *live)
{
	return live->linked && (ft_ring_waiting(&live->link.rx) || ft_ring_waiting(&live->link.cmd));
}

static void sleep_until(struct ft_live *live, uint64_t until)
{
	struct pollfd fds[4 + FT_SLOTS_ALL] = {{.fd = live->channel, .events = POLLIN}};
	nfds_t count = 1, done = 0;
	bool asleep = true;
	if (live->linked) {
		fds[count++] = (struct pollfd){.fd = live->link.wake_own, .events = POLLIN};
		count += ft_slots_poll(live->slots, fds + count);
		if (live->saver.pid)
			fds[count++] = (struct pollfd){.fd = live->saver.result, .events = POLLIN};
		if (!ft_output_empty(&live->output)) {
			done = count;
			fds[count++] = (struct pollfd){.fd = live->recorder.done, .events = POLLIN};
		}
		bool rx = ft_ring_sleep(&live->link.rx);
		asleep = rx && ft_ring_sleep(&live->link.cmd);
	}
	uint64_t now = monotonic_ns(), ns = until > now ? until - now : 0;
	struct timespec timeout = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
	if (asleep && ns && ppoll(fds, count, &timeout, NULL) > 0) {
		uint64_t value;
		if (count > 1 && fds[1].revents && read(live->link.wake_own, &value, sizeof(value)) < 0 &&
		    errno != EAGAIN)
			drop_link(live, "its eventfd is broken");
		if (done && fds[done].revents && read(fds[done].fd, &value, sizeof(value)) < 0 && errno != EAGAIN)
			ft_live_log(live, "error", "guest %s: the eventfd of its journal is broken", live->guest);
		if (fds[0].revents)
			look_at_channel(live, monotonic_ns());
	}
	if (live->linked) {
		ft_ring_awake(&live->link.rx);
		ft_ring_awake(&live->link.cmd);
	}
}

/* The guest has nothing to do until wake (wall time). */
static void idle(struct ft_live *live, uint64_t wake)
{
	uint64_t now = monotonic_ns(), summary = live->witness->pulse.window_ns + FT_PULSE_WINDOW_NS;
	uint64_t until = wake < summary ? wake : summary;
	if (now - live->last_frame_ns < TRAFFIC_NS) {
		uint64_t spin = now + SPIN_NS < until ? now + SPIN_NS : until;
		while (monotonic_ns() < spin) {
			if (link_waits(live))
				return;
			__builtin_ia32_pause();
		}
	}
	if (live->load.m) {
		fill(live, UINT64_MAX);
		return;
	}
	if (live->running_told)
		ft_witness_learn(live->witness);
	live->m->engine_ops->rest(live->m->engine);
	if (!live->slots->running && ft_memory_gather(&live->m->ram, GATHER))
		return;
	if (ft_mend_needed(&live->mend)) {
		ft_mend_step(&live->mend, MEND_NS);
		/* One step at a time: look for work in between. */
		if (ft_mend_needed(&live->mend))
			return;
	}
	sleep_until(live, until);
}

/* ---- The loop ------------------------------------------------------------------------------------------------- */

static void tell_running(struct ft_live *live, uint64_t now)
{
	/* One that goes on from a snapshot is up as soon as it runs: its processes are there, though they may sleep. */
	if (live->running_told)
		return;
	if (now - live->looked_ns >= LOOK_NS) {
		live->looked_ns = now;
		ft_witness_look(live->witness);
	}
	if (!live->restored && !live->witness->observer.user_seen)
		return;
	live->running_told = true;
	say(live, json_pack("{s:s, s:s, s:I}", "op", "running", "guest", live->guest, "boot_ns",
			    (json_int_t)(now - live->began_ns)));
}

/* The guest has booted when it has nothing to do for a while. One that goes on from a snapshot has not booted. */
static void tell_settled(struct ft_live *live, uint64_t busy_ns, uint64_t now)
{
	if (live->settled_told || live->restored || !live->running_told)
		return;
	if (!live->settling_ns)
		live->settling_ns = now;
	live->settling_busy_ns += busy_ns;
	uint64_t window = now - live->settling_ns;
	if (window < SETTLED_NS)
		return;
	live->settled_told = live->settling_busy_ns < window / SETTLED_BUSY;
	live->settling_ns = live->settling_busy_ns = 0;
	if (live->settled_told)
		say(live, json_pack("{s:s, s:s}", "op", "settled", "guest", live->guest));
}

static enum ft_live_end reset(struct ft_live *live)
{
	static const struct {
		enum ft_live_end end;
		const char *text;
	} kinds[] = {
	    [FT_RESET_NONE] = {FT_LIVE_REBOOT, "reset"},
	    [FT_RESET_REBOOT] = {FT_LIVE_REBOOT, "rebooted"},
	    [FT_RESET_POWEROFF] = {FT_LIVE_POWEROFF, "powered off"},
	    [FT_RESET_TRIPLE_FAULT] = {FT_LIVE_TRIPLE_FAULT, "shut down by a triple fault"},
	};
	unsigned kind = live->m->reset <= FT_RESET_TRIPLE_FAULT ? live->m->reset : 0;
	ft_observe_tell(&live->witness->observer, FT_EVENT_RESET, (uint64_t[]){kind}, 1, kinds[kind].text,
			NULL);
	ft_live_log(live, "warning", "guest %s %s", live->guest, kinds[kind].text);
	return kinds[kind].end;
}

/* The last word of this process: the supervisor has it beside the exit status. */
static void tell_error(struct ft_live *live)
{
	char text[32 + sizeof(live->m->error.text)];
	snprintf(text, sizeof(text), "the engine stopped: %s", live->m->error.text);
	say(live, json_pack("{s:s, s:i, s:s}", "op", "failed", "code", FT_LIVE_ERROR, "text", text));
}

void ft_live_open(struct ft_live *live, int console_fd)
{
	ft_console_open(&live->console, console_fd);
	live->link = (struct ft_link){.wake_own = -1, .wake_peer = -1, .events = -1};
	ft_mend_open(&live->mend);
	fcntl(live->channel, F_SETFL, O_NONBLOCK);
	live->m->backend =
	    (struct ft_backend){.context = live, .net_tx = net_tx, .console = console, .entropy = entropy};
}

/* False: the guest has to wait: for room in its journal, or for frames to leave that wait for that. */
static bool journal_ready(struct ft_live *live, uint64_t now)
{
	struct ft_recorder *r = &live->recorder;
	if (r->lost) {
		r->lost = false;
		say(live, json_pack("{s:s, s:I}", "op", "journal", "lost", (json_int_t)live->m->icount));
	}
	if (!ft_recorder_full(r) && !ft_output_full(&live->output)) {
		if (live->full_told)
			say(live, json_pack("{s:s, s:I}", "op", "journal", "stood_still_ns", (json_int_t)(now - live->full_since_ns)));
		live->full_ns += live->full_since_ns ? now - live->full_since_ns : 0;
		live->full_since_ns = 0;
		live->full_told = false;
		return true;
	}
	if (!live->full_since_ns)
		live->full_since_ns = now;
	if (!live->full_told && now - live->full_since_ns >= FULL_TOLD_NS) {
		live->full_told = true;
		say(live, json_pack("{s:s, s:I}", "op", "journal", "stands_still", (json_int_t)live->m->icount));
	}
	poll(NULL, 0, FULL_MS);
	return false;
}

/* A guest with a journal begins when the checkpoint that it begins with is on disk. */
static void first_checkpoint(struct ft_live *live)
{
	if (!live->recorder.ring.page)
		return;
	begin_checkpoint(live, live->checkpoint_number, live->checkpoint, live->segment, live->journal_seal);
	if (live->journal_seal)
		sodium_memzero(live->journal_seal, sizeof(*live->journal_seal));
	while (live->saver.pid && !live->stop) {
		struct pollfd fd = {.fd = live->saver.result, .events = POLLIN};
		poll(&fd, 1, 100);
		look_at_saver(live);
	}
}

static uint64_t slice_ns(const struct ft_live *live, uint64_t now)
{
	return now - live->last_frame_ns < TRAFFIC_NS ? SLICE_NS : SLICE_QUIET_NS;
}

static enum ft_live_end run(struct ft_live *live)
{
	struct ft_machine *m = live->m;
	bool free_clock = m->clock.mode == FT_CLOCK_FREE;
	for (;;) {
		uint64_t began = monotonic_ns(), wake = UINT64_MAX;
		if (began - live->channel_looked_ns >= CHANNEL_NS)
			look_at_channel(live, began);
		if (live->stop)
			return FT_LIVE_STOPPED;
		look_at_saver(live);
		pass_output(live);
		kick(live);
		if (!journal_ready(live, began))
			continue;
		serve_link(live, began);
		fill(live, began);
		ft_machine_sync(m, ft_recorder_wall(&live->recorder, monotonic_ns()));
		struct ft_run_limits limits = {.icount = m->icount + SLICE_INSTRUCTIONS, .vtime_ns = UINT64_MAX};
		if (m->engine_ops->hosted)
			limits = (struct ft_run_limits){.icount = UINT64_MAX, .vtime_ns = ft_machine_vtime(m) + slice_ns(live, began)};
		uint64_t ran = monotonic_ns();
		ft_recorder_before(&live->recorder);
		enum ft_stop stop = ft_machine_run(m, &limits, &wake);
		ft_recorder_after(&live->recorder, stop, wake);
		uint64_t now = monotonic_ns();
		look_at_disk(live, now, stop == FT_STOP_IDLE);
		ft_pulse_ran(&live->witness->pulse, now - ran, now);
		tell_running(live, now);
		tell_settled(live, now - ran, now);
		pass_output(live);
		kick(live);
		if (live->console.filled)
			ft_console_flush(&live->console);
		switch (stop) {
		case FT_STOP_COUNT:
		case FT_STOP_VTIME:
		case FT_STOP_KICKED:
			break;
		case FT_STOP_IDLE:
			/* With the free clock, idle ends by an input only. */
			idle(live, wake == UINT64_MAX || free_clock ? UINT64_MAX : ft_machine_wall(m, wake));
			/* A guest that is only held back because it ran ahead of wall time is as busy as it can be. */
			if (!free_clock && wake <= ft_machine_vtime(m)) {
				uint64_t after = monotonic_ns();
				ft_pulse_ran(&live->witness->pulse, after - now, after);
			}
			break;
		case FT_STOP_RESET:
			return reset(live);
		case FT_STOP_ERROR:
			tell_error(live);
			return FT_LIVE_ERROR;
		}
	}
}

/* What the guest sent before it ended leaves as it would have. */
static void last_output(struct ft_live *live)
{
	for (int waited = 0; waited < LAST_MS; waited += FULL_MS) {
		pass_output(live);
		if (ft_output_empty(&live->output))
			break;
		poll(NULL, 0, FULL_MS);
	}
	kick(live);
}

enum ft_live_end ft_live_run(struct ft_live *live)
{
	struct pollfd fd = {.fd = live->channel, .events = POLLIN};
	while (!live->linked && !live->isolated && !live->stop)
		if (poll(&fd, 1, -1) > 0)
			take_message(live);
	if (!live->stop)
		first_checkpoint(live);
	live->began_ns = live->channel_looked_ns = monotonic_ns();
	live->witness->pulse.window_ns = live->began_ns;
	present_generation(live);
	enum ft_live_end end = live->stop ? FT_LIVE_STOPPED : run(live);
	last_output(live);
	return end;
}

void ft_live_close(struct ft_live *live)
{
	drop_link(live, NULL);
	ft_slots_close(live->slots);
	ft_saver_close(&live->saver);
	ft_output_close(&live->output);
	ft_console_flush(&live->console);
}
