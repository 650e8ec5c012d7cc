#include "snapshot/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/dev/devices.h"
#include "vmm/state/image.h"

#define PAGES  (FT_SNAPSHOT_CHUNK / FT_PAGE_SIZE)
#define BITMAP (PAGES / 8)

_Static_assert(FT_MEMORY_PART == FT_SNAPSHOT_CHUNK, "a chunk is what is fetched");

struct disk_chunk {
	uint32_t count, reserved;
	uint64_t block[FT_SNAPSHOT_BLOCKS];
	uint8_t bytes[FT_SNAPSHOT_BLOCKS][FT_DISK_BLOCK];
};

/* ---- Saving -------------------------------------------------------------------------------------------------------- */

static bool zero_page(const uint8_t *page)
{
	const uint64_t *at = (const uint64_t *)(const void *)page;
	uint64_t any = 0;
	for (unsigned i = 0; i < FT_PAGE_SIZE / 8; i++)
		any |= at[i];
	return !any;
}

static int save_ram(struct ft_snapshot_writer *w, const struct ft_machine *m, uint8_t *room, struct ft_error *err)
{
	for (uint64_t at = 0; at < m->ram.size; at += FT_SNAPSHOT_CHUNK) {
		uint32_t length = BITMAP;
		memset(room, 0, BITMAP);
		for (unsigned page = 0; page < PAGES; page++) {
			const uint8_t *from = ft_memory_host(&m->ram, at + page * FT_PAGE_SIZE);
			if (zero_page(from))
				continue;
			room[page / 8] |= (uint8_t)(1u << page % 8);
			memcpy(room + length, from, FT_PAGE_SIZE);
			length += FT_PAGE_SIZE;
		}
		int error = length == BITMAP ? 0 : ft_snapshot_put(w, FT_SNAPSHOT_RAM, at, room, length, err);
		if (error)
			return error;
	}
	return 0;
}

/* The blocks that were written, packed together: their number first, then their numbers, then the blocks. */
static int put_blocks(struct ft_snapshot_writer *w, struct disk_chunk *c, uint64_t number, uint8_t *room, struct ft_error *err)
{
	uint32_t head = 8 + 8 * c->count;
	memcpy(room, c, head);
	memcpy(room + head, c->bytes, (size_t)c->count * FT_DISK_BLOCK);
	return ft_snapshot_put(w, FT_SNAPSHOT_DISK, number, room, head + c->count * FT_DISK_BLOCK, err);
}

static int save_disk(struct ft_snapshot_writer *w, struct ft_disk *disk, uint8_t *room, struct ft_error *err)
{
	struct disk_chunk *c = malloc(sizeof(*c));
	uint64_t number = 0, block = 0;
	const uint8_t *bytes;
	int error = c ? 0 : ft_error_set(err, -ENOMEM, "no memory to save the disk"), next;
	if (c)
		c->count = c->reserved = 0;
	for (; !error && (next = ft_disk_next(disk, &block, &bytes)); block++) {
		if (next < 0) {
			error = ft_error_set(err, next, "the disk cannot be read: %s", strerror(-next));
			break;
		}
		c->block[c->count] = block;
		memcpy(c->bytes[c->count++], bytes, FT_DISK_BLOCK);
		if (c->count == FT_SNAPSHOT_BLOCKS) {
			error = put_blocks(w, c, number++, room, err);
			c->count = 0;
		}
	}
	if (!error && c->count)
		error = put_blocks(w, c, number, room, err);
	free(c);
	return error;
}

static int save_note(struct ft_snapshot_writer *w, enum ft_snapshot_kind kind, const struct ft_snapshot_note *note, struct ft_error *err)
{
	if (!note->bytes)
		return 0;
	if (!note->length || note->length > FT_SNAPSHOT_CONTENT_MAX)
		return ft_error_set(err, -E2BIG, "a note of %zu bytes does not go into a snapshot", note->length);
	return ft_snapshot_put(w, kind, 0, note->bytes, (uint32_t)note->length, err);
}

static int save_all(struct ft_snapshot_writer *w, struct ft_machine *m, const struct ft_snapshot_about *about, struct ft_error *err)
{
	uint8_t *state = NULL, *room = malloc(sizeof(struct disk_chunk) + BITMAP);
	size_t length = 0;
	int error = room ? ft_state_save(m, &state, &length, err) : ft_error_set(err, -ENOMEM, "no memory to save a guest");
	if (!error)
		error = ft_snapshot_put(w, FT_SNAPSHOT_STATE, 0, state, (uint32_t)length, err);
	if (!error)
		error = save_ram(w, m, room, err);
	if (!error && m->devices->has_disk)
		error = save_disk(w, &m->devices->blk.disk, room, err);
	if (!error)
		error = save_note(w, FT_SNAPSHOT_BOOK, &about->book, err);
	if (!error)
		error = save_note(w, FT_SNAPSHOT_TRIAL, &about->trial, err);
	free(state);
	free(room);
	return error;
}

int ft_snapshot_save(struct ft_machine *m, const struct ft_snapshot_about *about, int fd, const struct ft_snapshot_seal *seal,
		     struct ft_snapshot_told *told, struct ft_error *err)
{
	struct ft_snapshot_writer w;
	struct ft_devices *d = m->devices;
	struct ft_snapshot_header header = {.memory = m->ram.size,
					    .disk_size = d->has_disk ? d->blk.disk.size : 0,
					    .created_ns = about->created_ns,
					    .icount = m->icount,
					    .vtime_ns = ft_machine_vtime(m)};
	memcpy(header.guest, about->guest, strnlen(about->guest, sizeof(header.guest) - 1));
	memcpy(header.origin, about->origin, sizeof(header.origin));
	int error = d->has_disk ? ft_disk_sample(&d->blk.disk, &header.disk_sample) : 0;
	if (error)
		return ft_error_set(err, error, "the disk's base image cannot be read: %s", strerror(-error));
	ft_memory_fetch_all(&m->ram);
	if (m->error.code) {
		*err = m->error;
		return err->code;
	}
	error = ft_snapshot_begin(&w, fd, &header, seal, err);
	if (error)
		return error;
	error = save_all(&w, m, about, err);
	if (!error)
		error = ft_snapshot_end(&w, told->mac, err);
	told->bytes = w.offset;
	told->chunks = w.count;
	ft_snapshot_writer_free(&w);
	return error;
}

/* ---- Restoring ----------------------------------------------------------------------------------------------------- */

static int bad(struct ft_error *err, const char *what, uint64_t value)
{
	return ft_error_set(err, -EBADMSG, "snapshot: %s is 0x%llx", what, (unsigned long long)value);
}

/* A RAM chunk's pages to where they belong; `to` is zero. */
static int spread(const uint8_t *from, uint32_t length, uint8_t *to, struct ft_error *err)
{
	uint32_t at = BITMAP;
	if (length < BITMAP)
		return bad(err, "a chunk of RAM's length", length);
	for (unsigned page = 0; page < PAGES; page++) {
		if (!(from[page / 8] >> page % 8 & 1))
			continue;
		if (length - at < FT_PAGE_SIZE)
			return bad(err, "a chunk of RAM's length", length);
		if (to)
			memcpy(to + page * FT_PAGE_SIZE, from + at, FT_PAGE_SIZE);
		at += FT_PAGE_SIZE;
	}
	return at == length ? 0 : bad(err, "a chunk of RAM's length", length);
}

/* Blocks of the overlay; disk NULL: only looked at. *last: the block before. */
static int take_blocks(const uint8_t *from, uint32_t length, uint64_t size, struct ft_disk *disk, struct ft_memory *memory,
		       uint64_t *last, struct ft_error *err)
{
	uint32_t count[2];
	if (length < sizeof(count))
		return bad(err, "a chunk of the disk's length", length);
	memcpy(count, from, sizeof(count));
	if (!count[0] || count[0] > FT_SNAPSHOT_BLOCKS || count[1] || length != 8 + count[0] * (8u + FT_DISK_BLOCK))
		return bad(err, "a chunk of the disk's count", count[0]);
	const uint8_t *bytes = from + 8 + 8 * count[0];
	for (uint32_t i = 0; i < count[0]; i++, bytes += FT_DISK_BLOCK) {
		uint64_t block;
		memcpy(&block, from + 8 + 8 * i, sizeof(block));
		if (block >= (size + FT_DISK_BLOCK - 1) / FT_DISK_BLOCK || (*last != UINT64_MAX && block <= *last))
			return bad(err, "a block of the disk", block);
		*last = block;
		uint64_t at = block * FT_DISK_BLOCK, n = size - at < FT_DISK_BLOCK ? size - at : FT_DISK_BLOCK;
		int error = disk ? ft_disk_write(disk, memory, at, bytes, n) : 0;
		if (error)
			return ft_error_set(err, error, "no memory for the disk's overlay");
	}
	return 0;
}

static int check_machine(const struct ft_snapshot_header *h, const struct ft_machine *m, struct ft_error *err)
{
	const struct ft_devices *d = m->devices;
	uint64_t sample = 0;
	if (h->memory != m->ram.size)
		return ft_error_set(err, -EINVAL, "snapshot: header.memory: the guest was saved with %llu MiB, it has %llu MiB now",
				    (unsigned long long)h->memory >> 20, (unsigned long long)m->ram.size >> 20);
	int error = d->has_disk ? ft_disk_sample(&d->blk.disk, &sample) : 0;
	if (error)
		return ft_error_set(err, error, "the disk's base image cannot be read: %s", strerror(-error));
	if (h->disk_size != (d->has_disk ? d->blk.disk.size : 0) || h->disk_sample != sample)
		return ft_error_set(err, -EINVAL, "snapshot: header.disk_sample: the guest was saved with another base image of its disk");
	return 0;
}

static void fetch(void *context, uint64_t part, uint8_t *to)
{
	struct ft_snapshot_load *load = context;
	const struct ft_snapshot_entry *e = load->parts[part];
	if (!e)
		return;
	if (ft_snapshot_get(&load->file, e, load->room, &load->m->error) || spread(load->room, e->length, to, &load->m->error))
		load->m->leave = true;
}

/* State and disk now, RAM noted down. */
static int take_entries(struct ft_snapshot_load *load, uint8_t **state, uint32_t *length, struct ft_error *err)
{
	struct ft_machine *m = load->m;
	uint64_t last = UINT64_MAX;
	for (uint64_t i = 0; i < load->file.count; i++) {
		struct ft_snapshot_entry *e = &load->file.entries[i];
		int error = 0;
		if (e->kind == FT_SNAPSHOT_RAM) {
			uint64_t part = e->at / FT_SNAPSHOT_CHUNK; /* below memory, and once: checked with the index */
			if (e->length > BITMAP + FT_SNAPSHOT_CHUNK)
				return bad(err, "a chunk of RAM's length", e->length);
			load->parts[part] = e;
			load->source.here[part] = 0;
			load->source.absent++;
		} else if (e->kind == FT_SNAPSHOT_STATE) {
			*state = malloc(e->length);
			*length = e->length;
			error = *state ? ft_snapshot_get(&load->file, e, *state, err) : ft_error_set(err, -ENOMEM, "no memory for a state");
		} else if (e->kind == FT_SNAPSHOT_DISK) {
			if (e->length > sizeof(struct disk_chunk) || !m->devices->has_disk)
				return bad(err, "a chunk of the disk's length", e->length);
			error = ft_snapshot_get(&load->file, e, load->room, err);
			if (!error)
				error = take_blocks(load->room, e->length, m->devices->blk.disk.size, &m->devices->blk.disk, &m->ram, &last, err);
		}
		if (error)
			return error;
	}
	return *state ? 0 : ft_error_set(err, -EBADMSG, "snapshot: there is no state in it");
}

int ft_snapshot_restore(struct ft_snapshot_load *load, struct ft_machine *m, int fd, const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	uint8_t *state = NULL;
	uint32_t length = 0;
	uint64_t parts = m->ram.size / FT_MEMORY_PART;
	*load = (struct ft_snapshot_load){.m = m};
	int error = ft_snapshot_open(&load->file, fd, seal, err);
	if (error)
		return error;
	error = check_machine(&load->file.header, m, err);
	load->parts = calloc(parts, sizeof(*load->parts));
	load->source = (struct ft_memory_source){.here = malloc(parts), .fetch = fetch, .context = load};
	load->room = malloc(sizeof(struct disk_chunk) + BITMAP);
	if (!error && (!load->parts || !load->source.here || !load->room))
		error = ft_error_set(err, -ENOMEM, "no memory to restore a snapshot");
	if (load->source.here)
		memset(load->source.here, 1, parts);
	if (!error)
		error = take_entries(load, &state, &length, err);
	if (!error)
		error = ft_state_restore(m, state, length, err);
	free(state);
	if (error)
		ft_snapshot_loaded(load);
	else
		m->ram.source = &load->source;
	return error;
}

int ft_snapshot_note(struct ft_snapshot_load *load, enum ft_snapshot_kind kind, uint8_t **bytes, size_t *length, struct ft_error *err)
{
	for (uint64_t i = 0; i < load->file.count; i++) {
		const struct ft_snapshot_entry *e = &load->file.entries[i];
		if (e->kind != (uint32_t)kind)
			continue;
		uint8_t *to = malloc(e->length);
		int error = to ? ft_snapshot_get(&load->file, e, to, err) : ft_error_set(err, -ENOMEM, "no memory for a snapshot's note");
		if (error) {
			free(to);
			return error;
		}
		*bytes = to;
		*length = e->length;
		return 0;
	}
	return -ENOENT;
}

bool ft_snapshot_fill(struct ft_snapshot_load *load)
{
	const struct ft_memory *ram = &load->m->ram;
	uint64_t parts = ram->size / FT_MEMORY_PART;
	while (load->source.absent && load->next < parts && load->source.here[load->next])
		load->next++;
	if (!load->source.absent || load->next == parts)
		return false;
	ft_memory_fetch(ram, load->next * FT_MEMORY_PART);
	return true;
}

void ft_snapshot_loaded(struct ft_snapshot_load *load)
{
	if (load->m && load->m->ram.source == &load->source)
		load->m->ram.source = NULL;
	ft_snapshot_close(&load->file);
	free(load->source.here);
	free(load->parts);
	free(load->room);
	*load = (struct ft_snapshot_load){0};
}

/* ---- Verifying ------------------------------------------------------------------------------------------------------ */

int ft_snapshot_verify(struct ft_snapshot *file, struct ft_error *err)
{
	uint8_t *room = malloc(FT_SNAPSHOT_CONTENT_MAX);
	uint64_t last = UINT64_MAX, states = 0;
	int error = room ? 0 : ft_error_set(err, -ENOMEM, "no memory to read a snapshot");
	for (uint64_t i = 0; !error && i < file->count; i++) {
		const struct ft_snapshot_entry *e = &file->entries[i];
		struct ft_state_summary summary;
		error = ft_snapshot_get(file, e, room, err);
		if (error)
			break;
		switch ((enum ft_snapshot_kind)e->kind) {
		case FT_SNAPSHOT_STATE:
			states++;
			error = ft_state_summarise(room, e->length, &summary, err);
			break;
		case FT_SNAPSHOT_RAM:
			error = spread(room, e->length, NULL, err);
			break;
		case FT_SNAPSHOT_DISK:
			error = take_blocks(room, e->length, file->header.disk_size, NULL, NULL, &last, err);
			break;
		case FT_SNAPSHOT_BOOK: /* whoever uses one looks */
		case FT_SNAPSHOT_TRIAL:
			break;
		}
	}
	if (!error && states != 1)
		error = bad(err, "the number of states", states);
	free(room);
	return error;
}
