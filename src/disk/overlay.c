#include "disk/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RESERVE 2u   /* segments that only the compaction may take */
#define PARTS   130u /* of one record: a virtio request's, and the record */

/* ---- The file system ---------------------------------------------------------------------------------------------- */

static ssize_t system_pwritev(void *context, int fd, const struct iovec *parts, int count, off_t at)
{
	ssize_t n;
	do
		n = pwritev(fd, parts, count, at);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static int system_sync(void *context, int fd)
{
	return fdatasync(fd) ? -errno : 0;
}

static int system_fallocate(int fd, int mode, off_t at, off_t length)
{
	int error;
	do
		error = fallocate(fd, mode, at, length) ? -errno : 0;
	while (error == -EINTR);
	return error;
}

static int system_allocate(void *context, int fd, off_t at, off_t length)
{
	int error = system_fallocate(fd, FALLOC_FL_KEEP_SIZE, at, length);
	return error == -EOPNOTSUPP ? 0 : error;
}

/* A file system that knows no holes gets zeros. */
static int system_punch(void *context, int fd, off_t at, off_t length)
{
	static uint8_t zeros[65536];
	int error = system_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length);
	while (error == -EOPNOTSUPP && length) {
		struct iovec part = {.iov_base = zeros, .iov_len = (size_t)length < sizeof(zeros) ? (size_t)length : sizeof(zeros)};
		ssize_t n = system_pwritev(context, fd, &part, 1, at);
		if (n <= 0)
			return n ? (int)n : -ENOSPC;
		at += n;
		length -= n;
	}
	return error == -EOPNOTSUPP ? 0 : error;
}

const struct ft_overlay_io ft_overlay_io_system = {
    .pwritev = system_pwritev, .sync = system_sync, .allocate = system_allocate, .punch = system_punch};

ssize_t ft_overlay_pread(int fd, void *to, size_t length, uint64_t at)
{
	size_t done = 0;
	while (done < length) {
		ssize_t n = pread(fd, (uint8_t *)to + done, length - done, (off_t)(at + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* All parts, though a write may stop in the middle of one. */
static int write_all(const struct ft_overlay_io *io, int fd, const struct iovec *parts, size_t count, uint64_t at)
{
	struct iovec rest[PARTS];
	memcpy(rest, parts, count * sizeof(*rest));
	for (size_t i = 0; i < count;) {
		if (!rest[i].iov_len) {
			i++;
			continue;
		}
		ssize_t n = io->pwritev(io->context, fd, rest + i, (int)(count - i), (off_t)at);
		if (n <= 0)
			return n ? (int)n : -ENOSPC;
		at += (uint64_t)n;
		for (size_t left = (size_t)n; left;) {
			size_t taken = left < rest[i].iov_len ? left : rest[i].iov_len;
			rest[i].iov_base = (uint8_t *)rest[i].iov_base + taken;
			rest[i].iov_len -= taken;
			left -= taken;
			i += !rest[i].iov_len;
		}
	}
	return 0;
}

/* ---- Segments -------------------------------------------------------------------------------------------------------- */

uint64_t ft_overlay_room(uint64_t disk_size)
{
	return 2 * disk_size + 8ull * FT_SEGMENT_SIZE;
}

uint64_t ft_overlay_bytes(const struct ft_overlay *o)
{
	uint64_t bytes = FT_SEGMENT_FIRST;
	for (uint64_t i = 0; i < o->segment_count; i++)
		if (o->segments[i].state != FT_SEGMENT_FREE)
			bytes += FT_SEGMENT_SIZE;
	return bytes;
}

int ft_overlay_segments(struct ft_overlay *o, uint64_t count)
{
	if (count <= o->segment_count)
		return 0;
	struct ft_overlay_segment *segments = realloc(o->segments, count * sizeof(*segments));
	if (!segments)
		return -ENOMEM;
	memset(segments + o->segment_count, 0, (count - o->segment_count) * sizeof(*segments));
	if (o->open == o->segment_count)
		o->open = count;
	o->segments = segments;
	o->segment_count = count;
	return 0;
}

static uint64_t free_slots(const struct ft_overlay *o)
{
	uint64_t used = 0;
	for (uint64_t i = 0; i < o->segment_count; i++)
		used += o->segments[i].state != FT_SEGMENT_FREE;
	return used < o->slots ? o->slots - used : 0;
}

/* A slot to write to, with room on the disk for all of it: what was taken on is not refused later. */
static int find_slot(struct ft_overlay *o, bool copy, uint64_t *slot)
{
	if (free_slots(o) <= (copy ? 0 : RESERVE))
		return -ENOSPC;
	for (*slot = 0; *slot < o->segment_count && o->segments[*slot].state != FT_SEGMENT_FREE; ++*slot)
		;
	int error = ft_overlay_segments(o, *slot + 1);
	return error ? error
		     : o->config.io->allocate(o->config.io->context, o->config.fd, (off_t)ft_segment_at(*slot), FT_SEGMENT_SIZE);
}

/* Bytes at the end of the open segment that its summary will need, one more record counted. */
static uint32_t end_length(const struct ft_overlay *o)
{
	return (uint32_t)((o->entry_count + 1) * sizeof(struct ft_disk_record_entry) + 2 * sizeof(struct ft_disk_record));
}

/* Writes a record at a place of its own choosing: `sequence` is used up only if that worked. */
static int put(struct ft_overlay *o, uint64_t at, struct ft_disk_record *record, const struct iovec *parts, size_t count)
{
	struct iovec all[PARTS] = {{.iov_base = record, .iov_len = sizeof(*record)}};
	int error = 0;
	if (count >= PARTS)
		return -E2BIG;
	record->segment = o->segments[o->open].id;
	record->sequence = o->sequence + 1;
	record->durable = ft_sync_done(&o->sync, &error);
	record->run = o->run;
	ft_disk_record_seal(&o->key, record, parts, count);
	if (count)
		memcpy(all + 1, parts, count * sizeof(*parts));
	if (!error)
		error = write_all(o->config.io, o->config.fd, all, count + 1, at);
	if (error) {
		/* No room where room was promised, or a disk that fails: what it has taken so far is not known any more. */
		o->broken |= error != -ENOSPC;
		return error;
	}
	o->sequence++;
	o->segments[o->open].last = o->sequence;
	o->counts.records++;
	o->counts.bytes += sizeof(*record) + record->length;
	return 0;
}

static uint64_t stamp(struct ft_overlay *o)
{
	uint64_t now = o->config.clock();
	if (now > o->last_ns)
		o->last_ns = now;
	return o->last_ns;
}

/* The open segment's contents in short, so that nobody needs to walk it. Not needed for anything but speed: a crash may tear it. */
static int end_segment(struct ft_overlay *o)
{
	struct ft_overlay_segment *s = &o->segments[o->open];
	uint64_t base = ft_segment_at(o->open), at = base + s->used;
	struct ft_disk_record summary = {.type = FT_DISK_RECORD_SUMMARY, .count = o->entry_count, .wall_ns = stamp(o), .block = s->used};
	struct ft_disk_record footer = {.type = FT_DISK_RECORD_FOOTER, .wall_ns = summary.wall_ns, .block = s->used};
	struct iovec part = {.iov_base = o->entries, .iov_len = o->entry_count * sizeof(*o->entries)};
	int error = put(o, at, &summary, &part, 1);
	if (!error)
		error = put(o, base + FT_SEGMENT_SIZE - sizeof(footer), &footer, NULL, 0);
	if (error)
		return error;
	s->state = FT_SEGMENT_FULL;
	o->open = o->segment_count;
	o->entry_count = 0;
	return 0;
}

static int begin_segment(struct ft_overlay *o, bool copy)
{
	uint64_t slot;
	int error = find_slot(o, copy, &slot);
	if (!error && o->open < o->segment_count)
		error = end_segment(o);
	if (error)
		return error;
	struct ft_disk_record record = {.type = FT_DISK_RECORD_SEGMENT, .wall_ns = stamp(o)};
	o->segments[slot] = (struct ft_overlay_segment){.state = FT_SEGMENT_OPEN, .id = o->next_id};
	o->open = slot;
	o->entry_count = 0;
	error = put(o, ft_segment_at(slot), &record, NULL, 0);
	if (error) {
		o->segments[slot].state = FT_SEGMENT_FREE;
		o->open = o->segment_count;
		return error;
	}
	o->next_id++;
	o->segments[slot].used = sizeof(record);
	return 0;
}

int ft_overlay_note(struct ft_overlay *o, const struct ft_disk_record_entry *entry)
{
	if (o->entry_count == o->entry_room) {
		uint32_t room = o->entry_room ? 2 * o->entry_room : 1024;
		struct ft_disk_record_entry *entries = realloc(o->entries, room * sizeof(*entries));
		if (!entries)
			return -ENOMEM;
		o->entries = entries;
		o->entry_room = room;
	}
	o->entries[o->entry_count++] = *entry;
	return 0;
}

int ft_overlay_append(struct ft_overlay *o, struct ft_disk_record *record, const struct iovec *parts, size_t count, bool copy, uint64_t *at)
{
	size_t length = sizeof(*record);
	for (size_t i = 0; i < count; i++)
		length += parts[i].iov_len;
	if (o->broken)
		return -EIO;
	if (!copy)
		record->wall_ns = stamp(o);
	struct ft_disk_record_entry entry = {
	    .block = record->block, .wall_ns = record->wall_ns, .count = record->count, .type = record->type};
	if (o->open == o->segment_count || o->segments[o->open].used + length + end_length(o) > FT_SEGMENT_SIZE) {
		int error = begin_segment(o, copy);
		if (error)
			return error;
	}
	struct ft_overlay_segment *s = &o->segments[o->open];
	entry.offset = s->used;
	*at = ft_segment_at(o->open) + s->used;
	int error = ft_overlay_note(o, &entry);
	if (!error && (error = put(o, *at, record, parts, count)))
		o->entry_count--;
	if (error)
		return error;
	s->used += (uint32_t)length;
	s->resets |= record->type == FT_DISK_RECORD_RESET || record->type == FT_DISK_RECORD_COMMIT;
	return 0;
}

/* ---- What is where ---------------------------------------------------------------------------------------------------- */

static struct ft_overlay_segment *segment_of(struct ft_overlay *o, uint64_t where)
{
	return where & FT_DISK_WHERE_FILE ? &o->segments[(ft_disk_where_at(where) - FT_SEGMENT_FIRST) / FT_SEGMENT_SIZE] : NULL;
}

void ft_overlay_place(struct ft_overlay *o, uint64_t block, uint64_t where)
{
	struct ft_overlay_segment *s = segment_of(o, o->config.user.put(o->config.user.context, block, where));
	if (s) {
		s->live--;
		s->replaced_ns = o->last_ns;
	}
	s = segment_of(o, where);
	if (s) {
		s->blocks++;
		s->live++;
	}
}

int ft_overlay_write(struct ft_overlay *o, uint64_t icount, uint64_t block, uint32_t count, const struct iovec *parts, size_t part_count)
{
	struct ft_disk_record record = {.type = FT_DISK_RECORD_DATA, .icount = icount, .block = block, .count = count};
	uint64_t at;
	int error = ft_overlay_append(o, &record, parts, part_count, false, &at);
	for (uint32_t i = 0; !error && i < count; i++)
		ft_overlay_place(o, block + i, ft_disk_where_make(at + sizeof(record) + (uint64_t)i * FT_DISK_RECORD_BLOCK, false));
	return error;
}

int ft_overlay_zero(struct ft_overlay *o, uint64_t icount, uint64_t block, uint32_t count)
{
	struct ft_disk_record record = {.type = FT_DISK_RECORD_ZERO, .icount = icount, .block = block, .count = count};
	uint64_t at;
	int error = ft_overlay_append(o, &record, NULL, 0, false, &at);
	for (uint32_t i = 0; !error && i < count; i++)
		ft_overlay_place(o, block + i, ft_disk_where_make(at, true));
	return error;
}

int ft_overlay_reset(struct ft_overlay *o, uint64_t icount)
{
	struct ft_disk_record record = {.type = FT_DISK_RECORD_RESET, .icount = icount};
	uint64_t at;
	int error = ft_overlay_append(o, &record, NULL, 0, false, &at);
	if (error)
		return error;
	for (uint64_t i = 0; i < o->segment_count; i++) {
		o->segments[i].replaced_ns = o->segments[i].live ? o->last_ns : o->segments[i].replaced_ns;
		o->segments[i].live = 0;
	}
	o->config.user.reset(o->config.user.context);
	o->resetting = true;
	return 0;
}

int ft_overlay_commit(struct ft_overlay *o, uint64_t icount)
{
	struct ft_disk_record record = {.type = FT_DISK_RECORD_COMMIT, .icount = icount};
	uint64_t at;
	int error = ft_overlay_append(o, &record, NULL, 0, false, &at);
	if (!error)
		error = ft_overlay_flush(o);
	if (!error)
		error = ft_overlay_wait(o);
	o->resetting = error != 0;
	return error;
}

int ft_overlay_flush(struct ft_overlay *o)
{
	int error = 0;
	ft_sync_want(&o->sync, o->sequence);
	ft_sync_done(&o->sync, &error);
	o->broken |= error != 0;
	return o->broken ? -EIO : 0;
}

int ft_overlay_wait(struct ft_overlay *o)
{
	int error = ft_sync_wait(&o->sync, o->sync.wanted);
	o->broken |= error != 0;
	return o->broken ? -EIO : 0;
}

/* ---- Opening ----------------------------------------------------------------------------------------------------------- */

static int make_head(struct ft_overlay *o, const struct ft_overlay_config *c, struct ft_error *err)
{
	uint8_t page[FT_SEGMENT_FIRST] = {0};
	struct ft_overlay_head head;
	struct iovec part = {.iov_base = page, .iov_len = sizeof(page)};
	ft_overlay_head_make(&head, c->disk_size, c->base_sample, c->clock(), c->guest);
	memcpy(page, &head, sizeof(head));
	ft_disk_record_key_take(&o->key, &head);
	int error = write_all(c->io, c->fd, &part, 1, 0);
	if (!error)
		error = c->io->sync(c->io->context, c->fd);
	return error ? ft_error_set(err, error, "the overlay of the disk cannot be written: %s", strerror(-error)) : 0;
}

static int read_head(struct ft_overlay *o, const struct ft_overlay_config *c, struct ft_overlay_found *found, struct ft_error *err)
{
	struct ft_overlay_head head;
	memset(&head, 0, sizeof(head));
	ssize_t n = ft_overlay_pread(c->read_fd, &head, sizeof(head), 0);
	if (n < 0)
		return ft_error_set(err, (int)n, "the overlay of the disk cannot be read: %s", strerror((int)-n));
	off_t end = lseek(c->read_fd, 0, SEEK_END);
	static const struct ft_overlay_head nothing;
	/* Never got its first page: nothing was ever promised. */
	if (end <= (off_t)FT_SEGMENT_FIRST && !memcmp(&head, &nothing, sizeof(head))) {
		found->made = true;
		return make_head(o, c, err);
	}
	int error = ft_overlay_head_check(&head, err);
	if (error && end <= (off_t)FT_SEGMENT_FIRST) { /* torn while it was made */
		found->made = true;
		return make_head(o, c, err);
	}
	if (error)
		return error;
	if (head.disk_size != c->disk_size || head.base_sample != c->base_sample)
		return ft_error_set(err, -EINVAL,
				    "what the guest has written belongs to another disk image: put that image back, or move its file "
				    "disks/%s in the state directory away to begin with none",
				    c->guest);
	ft_disk_record_key_take(&o->key, &head);
	return 0;
}

int ft_overlay_open(struct ft_overlay *o, const struct ft_overlay_config *config, struct ft_overlay_found *found, struct ft_error *err)
{
	*o = (struct ft_overlay){.config = *config, .next_id = 1, .run = 1};
	*found = (struct ft_overlay_found){0};
	uint64_t quota = config->quota ? config->quota : ft_overlay_room(config->disk_size);
	o->slots = quota / FT_SEGMENT_SIZE < 2 * RESERVE ? 2 * RESERVE : quota / FT_SEGMENT_SIZE;
	int error = read_head(o, config, found, err);
	if (!error)
		error = ft_overlay_recover(o, found, err);
	if (error) {
		ft_overlay_close(o);
		return error;
	}
	ft_sync_open(&o->sync, config->fd, config->io->sync, config->io->context);
	/* Recovery has made durable what it found. */
	o->sync.wanted = o->sync.done = o->sequence;
	return 0;
}

int ft_overlay_start(struct ft_overlay *o, struct ft_error *err)
{
	return ft_sync_start(&o->sync, err);
}

void ft_overlay_close(struct ft_overlay *o)
{
	ft_sync_close(&o->sync);
	free(o->segments);
	free(o->entries);
	free(o->compaction.entries);
	o->segments = NULL;
	o->entries = NULL;
	o->compaction.entries = NULL;
}
