/* What the writer finds when it opens an overlay. Everything is looked at before anything is changed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/overlay.h"

#define SLOTS_MAX (1u << 20) /* 16 TiB */

struct look {
	uint64_t slot, id, first, last; /* sequence numbers: of its SEGMENT record, and of the last that is good */
	uint64_t footer, summary;       /* the footer's sequence number, 0: none; the place of the summary */
	uint32_t used, run;
	bool complete; /* it has its SUMMARY */
	struct ft_disk_record_entry *entries;
	uint32_t count, room;
};

struct recovery {
	struct ft_overlay *o;
	struct look *looks;
	uint64_t count;
	uint64_t durable, last_id;
	uint32_t run;
	uint8_t *room; /* a segment's bytes */
	uint64_t *stray, strays; /* slots whose beginning is no record, and not empty */
};

static int damaged(const struct ft_overlay *o, struct ft_error *err, uint64_t sequence)
{
	return ft_error_set(err, -EBADMSG,
			    "what the guest has written is damaged: record %llu was on disk and is not what it was, which no crash does. "
			    "Move its file disks/%s in the state directory away to begin with none, or put a copy in its place",
			    (unsigned long long)sequence, o->config.guest);
}

static void learn(struct recovery *r, const struct ft_disk_record *record)
{
	r->durable = record->durable > r->durable ? record->durable : r->durable;
	r->run = record->run > r->run ? record->run : r->run;
	r->last_id = record->segment > r->last_id ? record->segment : r->last_id;
}

static int keep(struct look *look, const struct ft_disk_record_entry *entry)
{
	if (look->count == look->room) {
		uint32_t room = look->room ? 2 * look->room : 256;
		struct ft_disk_record_entry *entries = realloc(look->entries, room * sizeof(*entries));
		if (!entries)
			return -ENOMEM;
		look->entries = entries;
		look->room = room;
	}
	look->entries[look->count++] = *entry;
	return 0;
}

/* ---- One segment --------------------------------------------------------------------------------------------------- */

/* Does an entry or record speak of blocks that the disk has? */
static bool within_disk(const struct ft_overlay *o, uint32_t type, uint64_t block, uint32_t count)
{
	uint64_t blocks = (o->config.disk_size + FT_DISK_RECORD_BLOCK - 1) / FT_DISK_RECORD_BLOCK;
	return !ft_disk_record_has_blocks(type) || (block <= blocks && count <= blocks - block);
}

/* From record to record, until one is not the next. */
static int walk(struct recovery *r, struct look *look)
{
	const struct ft_overlay *o = r->o;
	uint64_t base = ft_segment_at(look->slot);
	ssize_t length = ft_overlay_pread(o->config.read_fd, r->room, FT_SEGMENT_SIZE, base);
	if (length < 0)
		return (int)length;
	look->used = sizeof(struct ft_disk_record);
	look->last = look->first;
	uint32_t run = look->run;
	while (!look->complete && (size_t)length - look->used >= sizeof(struct ft_disk_record)) {
		struct ft_disk_record record;
		memcpy(&record, r->room + look->used, sizeof(record));
		if (!ft_disk_record_genuine(&o->key, &record) || record.segment != look->id || record.sequence != look->last + 1 ||
		    record.run < run || record.length > (size_t)length - look->used - sizeof(record) ||
		    !ft_disk_record_whole(&o->key, &record, r->room + look->used + sizeof(record)) ||
		    !within_disk(o, record.type, record.block, record.count) || record.type == FT_DISK_RECORD_SEGMENT ||
		    record.type == FT_DISK_RECORD_FOOTER)
			break;
		struct ft_disk_record_entry entry = {.block = record.block,
						.wall_ns = record.wall_ns,
						.offset = look->used,
						.count = record.count,
						.type = record.type};
		learn(r, &record);
		run = record.run;
		look->last = record.sequence;
		if (record.type == FT_DISK_RECORD_SUMMARY) {
			look->complete = true;
			break;
		}
		int error = keep(look, &entry);
		if (error)
			return error;
		look->used += (uint32_t)sizeof(record) + record.length;
	}
	if (look->complete)
		return 0;
	/* What lies behind is lost or was never there; but what it knew to be durable is true. */
	const uint8_t *at = r->room + look->used, *end = r->room + length;
	while ((at = memmem(at, (size_t)(end - at), o->key.magic, sizeof(o->key.magic)))) {
		struct ft_disk_record record;
		if ((size_t)(end - at) < sizeof(record))
			break;
		memcpy(&record, at, sizeof(record));
		if (ft_disk_record_genuine(&o->key, &record) && record.segment == look->id)
			learn(r, &record);
		at++;
	}
	return 0;
}

/* The same from its summary. False: it has to be walked. */
static bool summarised(struct recovery *r, struct look *look)
{
	const struct ft_overlay *o = r->o;
	struct ft_disk_record record;
	uint64_t base = ft_segment_at(look->slot);
	/* What was not durable for sure may be there in parts: the summary, and not what it speaks of. */
	if (!look->footer || look->footer > r->durable || look->summary < sizeof(record) ||
	    look->summary > FT_SEGMENT_SIZE - 2 * sizeof(record))
		return false;
	if (ft_overlay_pread(o->config.read_fd, &record, sizeof(record), base + look->summary) != sizeof(record) ||
	    !ft_disk_record_genuine(&o->key, &record) || record.type != FT_DISK_RECORD_SUMMARY || record.segment != look->id ||
	    record.sequence + 1 != look->footer || record.length > FT_SEGMENT_SIZE - look->summary - 2 * sizeof(record))
		return false;
	struct ft_disk_record_entry *entries = malloc(record.length ? record.length : 1);
	bool good = entries &&
		    ft_overlay_pread(o->config.read_fd, entries, record.length, base + look->summary + sizeof(record)) ==
			(ssize_t)record.length &&
		    ft_disk_record_whole(&o->key, &record, entries);
	for (uint32_t i = 0; good && i < record.count; i++) {
		const struct ft_disk_record_entry *e = &entries[i];
		bool bytes = e->type == FT_DISK_RECORD_DATA || e->type == FT_DISK_RECORD_COPY;
		uint64_t length = sizeof(record) + (bytes ? (uint64_t)e->count * FT_DISK_RECORD_BLOCK : 0);
		good = e->type > FT_DISK_RECORD_SEGMENT && e->type < FT_DISK_RECORD_SUMMARY && within_disk(o, e->type, e->block, e->count) &&
		       e->offset >= sizeof(record) && e->offset + length <= look->summary;
	}
	if (!good) {
		free(entries);
		return false;
	}
	look->entries = entries;
	look->count = look->room = record.count;
	look->used = (uint32_t)look->summary;
	look->last = record.sequence;
	look->complete = true;
	return true;
}

/* ---- All of them ----------------------------------------------------------------------------------------------------- */

static bool all_zero(const void *bytes, size_t length)
{
	const uint8_t *b = bytes;
	return !length || (!b[0] && !memcmp(b, b + 1, length - 1));
}

/* A slot whose beginning is no record: never used, freed, or torn as it was begun; or something that was on disk is gone. Twice: first
 * for what the records in it know to be durable. */
static int look_at_stray(struct recovery *r, uint64_t slot, bool again, struct ft_error *err)
{
	const struct ft_overlay *o = r->o;
	ssize_t length = ft_overlay_pread(o->config.read_fd, r->room, FT_SEGMENT_SIZE, ft_segment_at(slot));
	if (length < 0)
		return ft_error_set(err, (int)length, "the overlay of the disk cannot be read: %s", strerror((int)-length));
	const uint8_t *at = r->room, *end = r->room + length;
	while ((at = memmem(at, (size_t)(end - at), o->key.magic, sizeof(o->key.magic)))) {
		struct ft_disk_record record;
		if ((size_t)(end - at) < sizeof(record))
			break;
		memcpy(&record, at, sizeof(record));
		bool genuine = ft_disk_record_genuine(&o->key, &record);
		if (genuine && again && record.sequence <= r->durable)
			return damaged(o, err, record.sequence);
		if (genuine)
			learn(r, &record);
		at++;
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct look *x = a, *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int look_at_slots(struct recovery *r, struct ft_error *err)
{
	struct ft_overlay *o = r->o;
	struct stat st;
	if (fstat(o->config.read_fd, &st))
		return ft_error_set(err, -errno, "the overlay of the disk cannot be used: %s", strerror(errno));
	uint64_t size = (uint64_t)st.st_size;
	uint64_t slots = size <= FT_SEGMENT_FIRST ? 0 : (size - FT_SEGMENT_FIRST + FT_SEGMENT_SIZE - 1) / FT_SEGMENT_SIZE;
	if (slots > SLOTS_MAX)
		return ft_error_set(err, -EFBIG, "the overlay of the disk is larger than 16 TiB");
	r->looks = calloc(slots ? slots : 1, sizeof(*r->looks));
	r->stray = calloc(slots ? slots : 1, sizeof(*r->stray));
	int error = r->looks && r->stray && !ft_overlay_segments(o, slots) ? 0 : ft_error_set(err, -ENOMEM, "no memory for the overlay");
	for (uint64_t slot = 0; !error && slot < slots; slot++) {
		struct ft_disk_record head = {0}, footer = {0};
		uint64_t base = ft_segment_at(slot);
		if (ft_overlay_pread(o->config.read_fd, &head, sizeof(head), base) < 0 ||
		    ft_overlay_pread(o->config.read_fd, &footer, sizeof(footer), base + FT_SEGMENT_SIZE - sizeof(footer)) < 0) {
			error = ft_error_set(err, -EIO, "the overlay of the disk cannot be read");
			break;
		}
		if (!ft_disk_record_genuine(&o->key, &head) || head.type != FT_DISK_RECORD_SEGMENT) {
			if (!all_zero(&head, sizeof(head)))
				r->stray[r->strays++] = slot;
			continue;
		}
		struct look *look = &r->looks[r->count++];
		*look = (struct look){.slot = slot, .id = head.segment, .first = head.sequence, .run = head.run};
		learn(r, &head);
		if (ft_disk_record_genuine(&o->key, &footer) && footer.type == FT_DISK_RECORD_FOOTER && footer.segment == head.segment) {
			look->footer = footer.sequence;
			look->summary = footer.block;
			learn(r, &footer);
		}
	}
	if (r->count)
		qsort(r->looks, r->count, sizeof(*r->looks), compare);
	/* The newest first: it says best what is durable. */
	for (uint64_t i = r->count; !error && i--;) {
		struct look *look = &r->looks[i];
		if (i + 1 < r->count && look->id == look[1].id)
			error = damaged(o, err, look->first);
		else if (!summarised(r, look) && walk(r, look))
			error = ft_error_set(err, -EIO, "the overlay of the disk cannot be read");
	}
	for (uint64_t i = 0; !error && i < 2 * r->strays; i++)
		error = look_at_stray(r, r->stray[i % r->strays], i >= r->strays, err);
	return error;
}

/* ---- Where it ends ------------------------------------------------------------------------------------------------------ */

/* Up to which segment it is good, and how far in that one. */
static int find_end(struct recovery *r, uint64_t *last, struct ft_error *err)
{
	const struct ft_overlay *o = r->o;
	for (*last = 0; *last < r->count; ++*last) {
		const struct look *look = &r->looks[*last];
		bool newest = *last + 1 == r->count;
		if (newest || !look->complete)
			break;
		/* Numbers that follow each other, of segments that do. (A footer has a number, too.) */
		if (look[1].id == look->id + 1 && look[1].first != look->last + 2)
			return damaged(o, err, look->last + 2);
	}
	if (*last == r->count)
		return 0;
	const struct look *look = &r->looks[*last];
	/* A footer counts with its summary: it holds nothing that is missed when it is torn. */
	uint64_t next = look->complete ? look->last + 2 : look->last + 1;
	return r->durable >= next ? damaged(o, err, next) : 0;
}

/* A RESET whose COMMIT is missing takes everything behind it along. */
static void undo(struct recovery *r, uint64_t *last, struct ft_overlay_found *found)
{
	uint64_t segment = UINT64_MAX;
	uint32_t entry = 0;
	for (uint64_t i = 0; i < r->count && i <= *last; i++)
		for (uint32_t j = 0; j < r->looks[i].count; j++) {
			uint32_t type = r->looks[i].entries[j].type;
			/* The first one: a second behind it is part of what was not completed. */
			if (type == FT_DISK_RECORD_RESET && segment == UINT64_MAX) {
				segment = i;
				entry = j;
			} else if (type == FT_DISK_RECORD_COMMIT) {
				segment = UINT64_MAX;
			}
		}
	if (segment == UINT64_MAX)
		return;
	for (uint64_t i = segment; i <= *last; i++)
		found->undone += r->looks[i].count - (i == segment ? entry : 0);
	struct look *look = &r->looks[segment];
	look->used = look->entries[entry].offset;
	look->count = entry;
	look->last = look->first + entry; /* each entry is of one record, behind the SEGMENT record */
	look->complete = false;
	*last = segment;
}

/* What lies behind the end goes, durably, before anything is written in its place: records of it that are whole would follow what is
 * written now one day, and what they say about durability would be said of others. */
static int cut(struct recovery *r, uint64_t last, struct ft_overlay_found *found)
{
	struct ft_overlay *o = r->o;
	const struct ft_overlay_io *io = o->config.io;
	for (uint64_t i = last + 1; i < r->count; i++) {
		found->cut += r->looks[i].used;
		int error = io->punch(io->context, o->config.fd, (off_t)ft_segment_at(r->looks[i].slot), FT_SEGMENT_SIZE);
		if (error)
			return error;
	}
	/* Records that lie behind a torn beginning have numbers that will be given again, and would be missed in their old places. */
	for (uint64_t i = 0; i < r->strays; i++) {
		int error = io->punch(io->context, o->config.fd, (off_t)ft_segment_at(r->stray[i]), FT_SEGMENT_SIZE);
		if (error)
			return error;
	}
	if (last >= r->count || r->looks[last].complete)
		return 0;
	const struct look *look = &r->looks[last];
	uint64_t at = ft_segment_at(look->slot) + look->used;
	ssize_t n = ft_overlay_pread(o->config.read_fd, r->room, FT_SEGMENT_SIZE - look->used, at);
	while (n > 0 && !r->room[n - 1])
		n--;
	if (n <= 0)
		return (int)n;
	found->cut += (uint64_t)n;
	return io->punch(io->context, o->config.fd, (off_t)at, FT_SEGMENT_SIZE - look->used);
}

static int take_over(struct recovery *r, uint64_t last, struct ft_overlay_found *found)
{
	struct ft_overlay *o = r->o;
	for (uint64_t i = 0; i < r->count && i <= last; i++) {
		const struct look *look = &r->looks[i];
		struct ft_overlay_segment *s = &o->segments[look->slot];
		bool open = i == last && !look->complete;
		*s = (struct ft_overlay_segment){.state = open ? FT_SEGMENT_OPEN : FT_SEGMENT_FULL,
					 .id = look->id,
					 .last = look->last,
					 .used = look->used};
		if (open)
			o->open = look->slot;
		for (uint32_t j = 0; j < look->count; j++) {
			const struct ft_disk_record_entry *e = &look->entries[j];
			bool copy = e->type == FT_DISK_RECORD_COPY || e->type == FT_DISK_RECORD_COPY_ZERO, zero = ft_disk_record_is_zero(e->type);
			if (!copy && e->wall_ns > o->last_ns)
				o->last_ns = e->wall_ns;
			if (e->type == FT_DISK_RECORD_RESET) {
				for (uint64_t k = 0; k < o->segment_count; k++)
					o->segments[k].live = 0;
				o->config.user.reset(o->config.user.context);
			}
			if (e->type == FT_DISK_RECORD_HORIZON && e->block > o->counts.history_ns)
				o->counts.history_ns = e->block;
			s->resets |= e->type == FT_DISK_RECORD_RESET || e->type == FT_DISK_RECORD_COMMIT;
			uint64_t at = ft_segment_at(look->slot) + e->offset;
			for (uint32_t k = 0; ft_disk_record_has_blocks(e->type) && k < e->count; k++)
				ft_overlay_place(o, e->block + k,
						 ft_disk_where_make(zero ? at : at + sizeof(struct ft_disk_record) + (uint64_t)k * FT_DISK_RECORD_BLOCK, zero));
			if (open && ft_overlay_note(o, e))
				return -ENOMEM;
			found->records++;
		}
		o->sequence = look->last + (look->complete ? 1 : 0); /* a footer has the one behind its summary */
	}
	found->last_ns = o->last_ns;
	return 0;
}

int ft_overlay_recover(struct ft_overlay *o, struct ft_overlay_found *found, struct ft_error *err)
{
	struct recovery r = {.o = o, .room = malloc(FT_SEGMENT_SIZE)};
	uint64_t last = 0;
	int error = r.room ? look_at_slots(&r, err) : ft_error_set(err, -ENOMEM, "no memory for the overlay");
	if (!error)
		error = find_end(&r, &last, err);
	if (!error) {
		undo(&r, &last, found);
		o->next_id = r.last_id + 1;
		o->run = r.run + 1;
		error = cut(&r, last, found);
		/* Also what the last process wrote and did not sync: from here on it counts as written. */
		if (!error)
			error = o->config.io->sync(o->config.io->context, o->config.fd);
		if (!error)
			error = take_over(&r, last, found);
		if (error)
			ft_error_set(err, error, "the overlay of the disk cannot be brought in order: %s", strerror(-error));
	}
	for (uint64_t i = 0; i < r.count; i++)
		free(r.looks[i].entries);
	free(r.looks);
	free(r.stray);
	free(r.room);
	return error;
}
