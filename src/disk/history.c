#include "disk/history.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/overlay.h"

#define SLOTS_MAX    (1u << 20)
#define VERSIONS_MAX (1ull << 26)
#define PLACES       (1u << 24) /* of one record: as many as a zero run may have */

struct segment {
	uint64_t slot, id;
	struct ft_disk_record head;
};

static int keep(struct ft_history *h, uint64_t segment_at, const struct ft_disk_record_entry *e)
{
	if (e->type == FT_DISK_RECORD_HORIZON && e->block > h->whole_ns)
		h->whole_ns = e->block;
	bool blocks = ft_disk_record_has_blocks(e->type) && e->block <= h->blocks && e->count <= h->blocks - e->block;
	if (!blocks && e->type != FT_DISK_RECORD_RESET && e->type != FT_DISK_RECORD_COMMIT)
		return 0;
	if (h->count == VERSIONS_MAX)
		return -E2BIG;
	if (h->count == h->room) {
		uint64_t room = h->room ? 2 * h->room : 4096;
		struct ft_version *versions = realloc(h->versions, room * sizeof(*versions));
		if (!versions)
			return -ENOMEM;
		h->versions = versions;
		h->room = room;
	}
	h->versions[h->count++] = (struct ft_version){
	    .wall_ns = e->wall_ns, .at = segment_at + e->offset, .block = e->block, .count = e->count, .type = e->type};
	return 0;
}

static bool read_record(const struct ft_history *h, uint64_t at, struct ft_disk_record *record)
{
	return ft_overlay_pread(h->overlay, record, sizeof(*record), at) == sizeof(*record) && ft_disk_record_genuine(&h->key, record);
}

/* False: there is none that is good. */
static bool take_summary(struct ft_history *h, const struct segment *s, int *error)
{
	uint64_t base = ft_segment_at(s->slot);
	struct ft_disk_record footer, summary;
	if (!read_record(h, base + FT_SEGMENT_SIZE - sizeof(footer), &footer) || footer.type != FT_DISK_RECORD_FOOTER || footer.segment != s->id ||
	    footer.block > FT_SEGMENT_SIZE - 2 * sizeof(footer) || !read_record(h, base + footer.block, &summary) ||
	    summary.type != FT_DISK_RECORD_SUMMARY || summary.segment != s->id)
		return false;
	struct ft_disk_record_entry *entries = malloc(summary.length + 1);
	bool good = entries &&
		    ft_overlay_pread(h->overlay, entries, summary.length, base + footer.block + sizeof(summary)) == (ssize_t)summary.length &&
		    ft_disk_record_whole(&h->key, &summary, entries);
	for (uint32_t i = 0; good && !*error && i < summary.count; i++)
		*error = keep(h, base, &entries[i]);
	free(entries);
	return good;
}

/* Also what a record says is looked at: the last one may be on its way to the file, or have been when the writer died. */
static bool whole(const struct ft_history *h, uint64_t at, const struct ft_disk_record *record, uint8_t *room)
{
	return ft_overlay_pread(h->overlay, room, record->length, at + sizeof(*record)) == (ssize_t)record->length &&
	       ft_disk_record_whole(&h->key, record, room);
}

static int walk(struct ft_history *h, const struct segment *s, uint8_t *room)
{
	uint64_t base = ft_segment_at(s->slot), sequence = s->head.sequence;
	uint32_t offset = sizeof(struct ft_disk_record), run = s->head.run;
	struct ft_disk_record record;
	while (offset <= FT_SEGMENT_SIZE - sizeof(record) && read_record(h, base + offset, &record) && record.segment == s->id &&
	       record.sequence == sequence + 1 && record.run >= run && record.type != FT_DISK_RECORD_SUMMARY && whole(h, base + offset, &record, room)) {
		struct ft_disk_record_entry entry = {
		    .block = record.block, .wall_ns = record.wall_ns, .offset = offset, .count = record.count, .type = record.type};
		int error = keep(h, base, &entry);
		if (error)
			return error;
		sequence = record.sequence;
		run = record.run;
		offset += (uint32_t)sizeof(record) + record.length;
	}
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct segment *x = a, *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Their place among those of one moment is that in the file: a sort that is stable, by merging. */
static void merge(struct ft_version *v, struct ft_version *room, uint64_t count)
{
	if (count < 2)
		return;
	uint64_t half = count / 2, a = 0, b = half, n = 0;
	merge(v, room, half);
	merge(v + half, room, count - half);
	while (a < half || b < count)
		room[n++] = b == count || (a < half && v[a].wall_ns <= v[b].wall_ns) ? v[a++] : v[b++];
	memcpy(v, room, count * sizeof(*v));
}

/* A restored disk is there at once, when its writing was complete, or never. */
static void settle_restored(struct ft_history *h)
{
	uint64_t reset = UINT64_MAX;
	for (uint64_t i = 0; i < h->count; i++) {
		if (h->versions[i].type == FT_DISK_RECORD_RESET && reset == UINT64_MAX)
			reset = i;
		for (; reset != UINT64_MAX && h->versions[i].type == FT_DISK_RECORD_COMMIT && reset < i; reset++)
			h->versions[reset].wall_ns = h->versions[i].wall_ns;
		if (h->versions[i].type == FT_DISK_RECORD_COMMIT)
			reset = UINT64_MAX;
	}
	if (reset != UINT64_MAX)
		h->count = reset;
}

static int read_segments(struct ft_history *h)
{
	struct stat st;
	if (fstat(h->overlay, &st))
		return -errno;
	uint64_t size = (uint64_t)st.st_size, count = 0;
	uint64_t slots = size <= FT_SEGMENT_FIRST ? 0 : (size - FT_SEGMENT_FIRST + FT_SEGMENT_SIZE - 1) / FT_SEGMENT_SIZE;
	if (slots > SLOTS_MAX)
		return -EFBIG;
	struct segment *segments = calloc(slots ? slots : 1, sizeof(*segments));
	uint8_t *room = malloc(FT_DISK_RECORD_BLOCKS * FT_DISK_RECORD_BLOCK); /* a summary, which may be longer, ends the walk */
	int error = segments && room ? 0 : -ENOMEM;
	for (uint64_t slot = 0; !error && slot < slots; slot++) {
		struct segment *s = &segments[count];
		s->slot = slot;
		if (!read_record(h, ft_segment_at(slot), &s->head) || s->head.type != FT_DISK_RECORD_SEGMENT)
			continue;
		s->id = s->head.segment;
		count++;
	}
	if (!error)
		qsort(segments, count, sizeof(*segments), by_id);
	for (uint64_t i = 0; !error && i < count; i++)
		if (!take_summary(h, &segments[i], &error) && !error)
			error = walk(h, &segments[i], room);
	free(segments);
	free(room);
	return error;
}

int ft_history_open(struct ft_history *h, int overlay, int base, struct ft_error *err)
{
	*h = (struct ft_history){.overlay = overlay, .base = base};
	ssize_t n = ft_overlay_pread(overlay, &h->head, sizeof(h->head), 0);
	if (n != sizeof(h->head))
		return ft_error_set(err, n < 0 ? (int)n : -EBADMSG, "this is no overlay of a disk");
	int error = ft_overlay_head_check(&h->head, err);
	if (error)
		return error;
	ft_disk_record_key_take(&h->key, &h->head);
	h->blocks = (h->head.disk_size + FT_DISK_RECORD_BLOCK - 1) / FT_DISK_RECORD_BLOCK;
	error = read_segments(h);
	settle_restored(h);
	struct ft_version *room = error ? NULL : malloc((h->count + 1) * sizeof(*room));
	if (room)
		merge(h->versions, room, h->count);
	else if (!error)
		error = -ENOMEM;
	free(room);
	if (error)
		ft_history_close(h);
	return error ? ft_error_set(err, error, "the overlay of the disk cannot be read: %s", strerror(-error)) : 0;
}

void ft_history_close(struct ft_history *h)
{
	free(h->versions);
	h->versions = NULL;
	h->count = h->room = 0;
}

int ft_history_record(const struct ft_history *h, const struct ft_version *version, struct ft_disk_record *record)
{
	return read_record(h, version->at, record) && record->block == version->block && record->count == version->count &&
		       record->type == version->type && record->wall_ns <= version->wall_ns
		   ? 0
		   : -ESTALE;
}

/* ---- The disk at a time ------------------------------------------------------------------------------------------- */

int ft_view_open(struct ft_view *view, const struct ft_history *h, struct ft_error *err)
{
	*view = (struct ft_view){.h = h, .where = calloc(h->blocks, sizeof(*view->where)), .touched = calloc(h->blocks / 8 + 1, 1)};
	if (view->where && view->touched)
		return 0;
	ft_view_close(view);
	return ft_error_set(err, -ENOMEM, "no memory for a disk of %llu blocks", (unsigned long long)h->blocks);
}

void ft_view_close(struct ft_view *view)
{
	free(view->where);
	free(view->touched);
	view->where = NULL;
	view->touched = NULL;
}

void ft_view_forward(struct ft_view *view, uint64_t wall_ns)
{
	const struct ft_history *h = view->h;
	for (; view->next < h->count && h->versions[view->next].wall_ns <= wall_ns; view->next++) {
		const struct ft_version *v = &h->versions[view->next];
		if (v->type == FT_DISK_RECORD_RESET)
			memset(view->where, 0, h->blocks * sizeof(*view->where));
		for (uint32_t i = 0; ft_disk_record_has_blocks(v->type) && i < v->count; i++)
			view->where[v->block + i] = 1 + view->next * PLACES + i % PLACES;
	}
}

static int read_block(struct ft_view *view, uint64_t block, uint64_t within, uint8_t *to, uint64_t length)
{
	const struct ft_history *h = view->h;
	uint64_t where = view->where[block];
	view->touched[block / 8] |= (uint8_t)(1u << block % 8);
	if (!where) {
		ssize_t n = ft_overlay_pread(h->base, to, length, block * FT_DISK_RECORD_BLOCK + within);
		return n < 0 ? (int)n : (uint64_t)n == length ? 0 : -EIO;
	}
	const struct ft_version *v = &h->versions[(where - 1) / PLACES];
	struct ft_disk_record record;
	int error = ft_history_record(h, v, &record);
	if (error || ft_disk_record_is_zero(v->type)) {
		memset(to, 0, length);
		return error;
	}
	uint64_t at = v->at + sizeof(record) + (where - 1) % PLACES * FT_DISK_RECORD_BLOCK + within;
	ssize_t n = ft_overlay_pread(h->overlay, to, length, at);
	if (n < 0 || (uint64_t)n != length)
		return n < 0 ? (int)n : -EIO;
	/* Still the same: the bytes were its own. Room that is given back loses its records first. */
	return ft_history_record(h, v, &record);
}

int ft_view_read(struct ft_view *view, uint64_t at, void *to, uint64_t length)
{
	for (uint8_t *out = to; length;) {
		uint64_t within = at % FT_DISK_RECORD_BLOCK, n = FT_DISK_RECORD_BLOCK - within < length ? FT_DISK_RECORD_BLOCK - within : length;
		int error = read_block(view, at / FT_DISK_RECORD_BLOCK, within, out, n);
		if (error)
			return error;
		out += n;
		at += n;
		length -= n;
	}
	return 0;
}
