/* Room is made by copying what is current out of a segment and giving the segment back: no version of a block that may still be asked
 * for is lost to it, unless there is no other way to take what the guest writes now. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/overlay.h"

#define RUN      32u /* blocks read and written at a time */
#define PRESSURE 4u  /* segments left: retention gives way */

/* The entries of a segment that is full, allocated. */
struct ft_disk_record_entry *ft_overlay_entries(struct ft_overlay *o, const struct ft_overlay_segment *s, uint64_t slot, uint32_t *count, int *error)
{
	struct ft_disk_record record;
	uint64_t at = ft_segment_at(slot) + s->used;
	*error = -EIO;
	if (ft_overlay_pread(o->config.read_fd, &record, sizeof(record), at) != sizeof(record) || !ft_disk_record_genuine(&o->key, &record) ||
	    record.type != FT_DISK_RECORD_SUMMARY || record.segment != s->id)
		return NULL;
	struct ft_disk_record_entry *entries = malloc(record.length ? record.length : 1);
	if (entries && ft_overlay_pread(o->config.read_fd, entries, record.length, at + sizeof(record)) == (ssize_t)record.length &&
	    ft_disk_record_whole(&o->key, &record, entries)) {
		*count = record.count;
		*error = 0;
		return entries;
	}
	*error = entries ? -EIO : -ENOMEM;
	free(entries);
	return NULL;
}

static bool oldest(const struct ft_overlay *o, uint64_t slot)
{
	for (uint64_t i = 0; i < o->segment_count; i++)
		if (o->segments[i].state != FT_SEGMENT_FREE && o->segments[i].id < o->segments[slot].id)
			return false;
	return true;
}

/* The segment that is worth it most; segment_count: none is. */
static uint64_t choose(const struct ft_overlay *o, uint64_t now, bool pressed)
{
	uint64_t best = o->segment_count, best_dead = 0;
	bool best_due = false;
	for (uint64_t i = 0; i < o->segment_count; i++) {
		const struct ft_overlay_segment *s = &o->segments[i];
		if (s->state != FT_SEGMENT_FULL || (s->resets && !oldest(o, i)))
			continue;
		bool due = s->replaced_ns <= now && now - s->replaced_ns >= o->config.retention_ns;
		/* In bytes: a segment that was left half empty is worth half as much as one that is half dead. */
		uint64_t dead = FT_SEGMENT_SIZE - (uint64_t)s->live * FT_DISK_RECORD_BLOCK;
		if ((uint64_t)s->live * FT_DISK_RECORD_BLOCK > FT_SEGMENT_SIZE)
			dead = 0;
		if ((!due && !pressed) || (!pressed && dead < FT_SEGMENT_SIZE / 2) || dead < FT_SEGMENT_SIZE / 64)
			continue;
		if (best == o->segment_count || (due && !best_due) || (due == best_due && dead > best_dead)) {
			best = i;
			best_dead = dead;
			best_due = due;
		}
	}
	return best;
}

static void begin(struct ft_overlay *o, uint64_t now)
{
	uint64_t used = 0;
	for (uint64_t i = 0; i < o->segment_count; i++)
		used += o->segments[i].state != FT_SEGMENT_FREE;
	bool pressed = used + PRESSURE > o->slots;
	uint64_t slot = choose(o, now, pressed);
	int error = 0;
	if (slot == o->segment_count)
		return;
	struct ft_overlay_segment *s = &o->segments[slot];
	uint32_t count = 0;
	struct ft_disk_record_entry *entries = s->live ? ft_overlay_entries(o, s, slot, &count, &error) : NULL;
	if (error) {
		/* It cannot be read now: it stays as it is, and is not looked at again soon. */
		s->replaced_ns = now;
		return;
	}
	o->compaction.active = true;
	o->compaction.slot = slot;
	o->compaction.entries = entries;
	o->compaction.count = count;
	o->compaction.next = o->compaction.within = 0;
	o->compaction.wait = 0;
	bool due = s->replaced_ns <= now && now - s->replaced_ns >= o->config.retention_ns;
	o->counts.shortened += !due && s->blocks > s->live;
	if (s->blocks > s->live && s->replaced_ns > o->counts.history_ns)
		o->counts.history_ns = s->replaced_ns;
}

/* The blocks of an entry from `from` on that are current and lie where it says: how many, one behind the other. */
static uint32_t current(struct ft_overlay *o, const struct ft_disk_record_entry *e, uint64_t at, uint32_t from)
{
	uint32_t n = 0;
	bool zero = ft_disk_record_is_zero(e->type);
	while (from + n < e->count && n < RUN) {
		uint64_t where = ft_disk_where_make(zero ? at : at + sizeof(struct ft_disk_record) + (uint64_t)(from + n) * FT_DISK_RECORD_BLOCK, zero);
		if (o->config.user.get(o->config.user.context, e->block + from + n) != where)
			break;
		n++;
	}
	return n;
}

static int copy(struct ft_overlay *o, const struct ft_disk_record_entry *e, uint64_t at, uint32_t from, uint32_t count)
{
	uint8_t bytes[RUN * FT_DISK_RECORD_BLOCK];
	struct ft_disk_record old, record = {.block = e->block + from, .count = count, .wall_ns = e->wall_ns};
	struct iovec part = {.iov_base = bytes, .iov_len = count * FT_DISK_RECORD_BLOCK};
	bool zero = ft_disk_record_is_zero(e->type);
	uint64_t to, data = at + sizeof(old) + (uint64_t)from * FT_DISK_RECORD_BLOCK;
	if (ft_overlay_pread(o->config.read_fd, &old, sizeof(old), at) != sizeof(old) || !ft_disk_record_genuine(&o->key, &old))
		return -EIO;
	if (!zero && ft_overlay_pread(o->config.read_fd, bytes, part.iov_len, data) != (ssize_t)part.iov_len)
		return -EIO;
	record.icount = old.icount;
	record.type = zero ? FT_DISK_RECORD_COPY_ZERO : FT_DISK_RECORD_COPY;
	int error = ft_overlay_append(o, &record, &part, zero ? 0 : 1, true, &to);
	for (uint32_t i = 0; !error && i < count; i++)
		ft_overlay_place(o, e->block + from + i, ft_disk_where_make(zero ? to : to + sizeof(record) + (uint64_t)i * FT_DISK_RECORD_BLOCK, zero));
	o->counts.copied += error ? 0 : count;
	return error;
}

static void stop(struct ft_overlay *o)
{
	free(o->compaction.entries);
	o->compaction.entries = NULL;
	o->compaction.active = false;
}

/* Copies for a while. True: there is more. */
static bool copy_some(struct ft_overlay *o, uint32_t bytes)
{
	uint32_t done = 0;
	/* Looked up each time: a copy may begin a segment, which may move them all. */
	while (o->compaction.next < o->compaction.count && o->segments[o->compaction.slot].live && done < bytes) {
		const struct ft_disk_record_entry *e = &o->compaction.entries[o->compaction.next];
		uint64_t at = ft_segment_at(o->compaction.slot) + e->offset;
		uint32_t from = o->compaction.within;
		if (!ft_disk_record_has_blocks(e->type) || from >= e->count) {
			o->compaction.next++;
			o->compaction.within = 0;
			continue;
		}
		uint32_t n = current(o, e, at, from);
		if (n && copy(o, e, at, from, n)) {
			uint64_t now = o->config.clock();
			struct ft_overlay_segment *s = &o->segments[o->compaction.slot];
			s->replaced_ns = now > s->replaced_ns ? now : s->replaced_ns;
			stop(o);
			return false;
		}
		o->compaction.within += n ? n : 1;
		done += n * FT_DISK_RECORD_BLOCK + (uint32_t)sizeof(struct ft_disk_record);
	}
	if (o->compaction.next < o->compaction.count && o->segments[o->compaction.slot].live)
		return true;
	/* Who asks for the past is told how far back it is whole. */
	struct ft_disk_record horizon = {.type = FT_DISK_RECORD_HORIZON, .block = o->counts.history_ns};
	uint64_t to;
	if (o->counts.history_ns && ft_overlay_append(o, &horizon, NULL, 0, true, &to)) {
		stop(o);
		return false;
	}
	/* Only when the copies are durable may what they were made of go. */
	o->compaction.wait = o->sequence;
	ft_sync_want(&o->sync, o->sequence);
	return true;
}

static void give_back(struct ft_overlay *o, uint64_t oldest_fork)
{
	const struct ft_overlay_io *io = o->config.io;
	for (uint64_t i = 0; i < o->segment_count; i++) {
		struct ft_overlay_segment *s = &o->segments[i];
		if (s->state != FT_SEGMENT_LIMBO || s->fork >= oldest_fork || (s->resets && !oldest(o, i)))
			continue;
		/* Older ones that it voids must not come back when it is gone: their going is on disk first. */
		if (s->resets && io->sync(io->context, o->config.fd))
			continue;
		if (io->punch(io->context, o->config.fd, (off_t)ft_segment_at(i), FT_SEGMENT_SIZE))
			continue;
		*s = (struct ft_overlay_segment){.state = FT_SEGMENT_FREE};
		o->counts.freed++;
	}
}

bool ft_overlay_work(struct ft_overlay *o, uint32_t bytes, uint64_t oldest_fork, uint64_t forks)
{
	int error = 0;
	if (o->broken || o->resetting)
		return false;
	give_back(o, oldest_fork);
	if (!o->compaction.active)
		begin(o, o->config.clock());
	if (!o->compaction.active)
		return false;
	if (!o->compaction.wait)
		return copy_some(o, bytes);
	if (ft_sync_done(&o->sync, &error) < o->compaction.wait || error)
		return false;
	struct ft_overlay_segment *s = &o->segments[o->compaction.slot];
	if (!s->live) {
		s->state = FT_SEGMENT_LIMBO;
		s->fork = forks;
		o->counts.compactions++;
	}
	stop(o);
	give_back(o, oldest_fork);
	return true;
}
