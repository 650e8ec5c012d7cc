#include "journal/reader.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(struct ft_error *err)
{
	return ft_error_set(err, -ENOMEM, "no memory to read a journal");
}

/* Segments that follow each other say so: in their numbers here, in their hashes when the first of them has been read. */
static int check_order(const struct ft_journal *j, struct ft_error *err)
{
	const struct ft_segment_header *a = &j->segments[0].header;
	for (unsigned i = 1; i < j->count; i++) {
		const struct ft_segment_header *b = &j->segments[i].header;
		if (b->run != a->run || b->number <= j->segments[i - 1].header.number || b->memory != a->memory || b->has_disk != a->has_disk ||
		    memcmp(b->mac, a->mac, sizeof(a->mac)) || b->mtu != a->mtu || b->clock != a->clock || memcmp(b->guest, a->guest, sizeof(a->guest)))
			return ft_error_set(err, -EBADMSG, "journal: segment %u of run %u does not go on where segment %u ends", b->number,
					    b->run, j->segments[i - 1].header.number);
	}
	return 0;
}

static int unseal_ring(struct ft_journal_ring *ring, const uint8_t *operators, struct ft_error *err)
{
	struct ft_snapshot_seal seal;
	if (!ring->page->encrypted)
		return 0;
	int error = ft_snapshot_unseal_salt(&seal, ring->page->salt, ring->page->key_id, operators, "the journal's ring", err);
	if (!error)
		error = ft_journal_ring_unseal(ring, &seal, err);
	sodium_memzero(&seal, sizeof(seal));
	return error;
}

/* The ring first, then the segments: what leaves the one meanwhile is in the others, and nothing is missing between them. */
static int copy_ring(struct ft_journal *j, const struct ft_journal_files *files, struct ft_error *err)
{
	int error = ft_journal_ring_open(&j->ring, files->ring, false, err);
	if (!error)
		error = unseal_ring(&j->ring, files->key, err);
	if (error)
		return error;
	j->progress = __atomic_load_n(&j->ring.page->icount, __ATOMIC_ACQUIRE);
	j->left_from = __atomic_load_n(&j->ring.page->tail, __ATOMIC_ACQUIRE);
	j->left = malloc(FT_JOURNAL_RING_SIZE);
	long n = j->left ? ft_journal_ring_peek(&j->ring, j->left_from, j->left, FT_JOURNAL_RING_SIZE) : no_memory(err);
	/* Whoever needs nothing of it hears nothing of that. */
	j->left_error = n < 0 ? (int)n : 0;
	j->left_length = n < 0 ? 0 : (size_t)n;
	return n == -ENOMEM ? -ENOMEM : 0;
}

int ft_journal_open(struct ft_journal *j, struct ft_journal_files *files, struct ft_error *err)
{
	*j = (struct ft_journal){0};
	if (!files->count || files->count > FT_JOURNAL_SEGMENTS)
		return ft_error_set(err, -EINVAL, "journal: %u segments", files->count);
	int error = files->ring >= 0 ? copy_ring(j, files, err) : 0;
	if (!error && files->ring >= 0 && files->more)
		files->more(files->context, files);
	j->segments = calloc(files->count, sizeof(*j->segments));
	j->control = malloc(FT_SEGMENT_CHUNK);
	j->payload = malloc(FT_SEGMENT_CHUNK);
	if (!error && (!j->segments || !j->control || !j->payload))
		error = no_memory(err);
	for (; !error && j->count < files->count; j->count++) {
		error = ft_segment_open(&j->segments[j->count], files->segments[j->count], files->key, err);
		if (error)
			break;
	}
	if (!error)
		error = check_order(j, err);
	if (!error)
		memcpy(j->hash, j->segments[0].hash, sizeof(j->hash));
	if (error)
		ft_journal_close(j);
	return error;
}

void ft_journal_close(struct ft_journal *j)
{
	for (unsigned i = 0; i < j->count; i++)
		ft_segment_close(&j->segments[i]);
	ft_journal_ring_close(&j->ring);
	free(j->segments);
	free(j->control);
	free(j->payload);
	free(j->carried);
	free(j->left);
	free(j->records);
	*j = (struct ft_journal){0};
}

const struct ft_segment_header *ft_journal_header(const struct ft_journal *j)
{
	return &j->segments[0].header;
}

/* What has been looked at and not been taken stays, with its bytes; everything else makes room for what comes. */
static int carry(struct ft_journal *j, struct ft_error *err)
{
	size_t left = j->end - j->first, bytes = 0;
	if (left > FT_JOURNAL_AHEAD)
		return ft_error_set(err, -EBADMSG, "journal: more than %u inputs within one run", FT_JOURNAL_AHEAD);
	for (size_t i = j->first; i < j->end; i++)
		bytes += j->records[i].length;
	uint8_t *kept = malloc(bytes + 1), *to = kept;
	if (!kept)
		return no_memory(err);
	for (size_t i = 0; i < left; i++) {
		struct ft_record *r = &j->records[i];
		*r = j->records[j->first + i];
		if (r->length)
			memcpy(to, r->data, r->length);
		r->data = to;
		to += r->length;
	}
	free(j->carried);
	j->carried = kept;
	j->first = 0;
	j->end = left;
	return 0;
}

/* ring: a checkpoint, with which the next segment begins, may come anywhere. */
static int decode_all(struct ft_journal *j, struct ft_record_cursor *control, struct ft_record_cursor *payload, bool ring,
		      struct ft_error *err)
{
	for (;;) {
		if (j->end == j->room) {
			size_t room = j->room ? 2 * j->room : 4096;
			struct ft_record *records = realloc(j->records, room * sizeof(*records));
			if (!records)
				return no_memory(err);
			j->records = records;
			j->room = room;
		}
		if (ring && control->at < control->end && (*control->at & 15) == FT_RECORD_CHECKPOINT)
			j->state = (struct ft_record_state){0};
		int error = ft_record_decode(&j->state, control, payload, &j->records[j->end], err);
		if (error)
			return error == -EAGAIN ? 0 : error;
		j->end++;
	}
}

static int next_segment(struct ft_journal *j, uint64_t torn, struct ft_error *err)
{
	struct ft_segment_reader *next = &j->segments[j->segment + 1];
	if (torn || memcmp(next->header.before, j->hash, sizeof(j->hash)))
		return ft_error_set(err, -EBADMSG, "journal: segment %u ends before what segment %u goes on from: chunks are missing or were changed",
				    j->segments[j->segment].header.number, next->header.number);
	j->segment++;
	j->state = (struct ft_record_state){0};
	memcpy(j->hash, next->hash, sizeof(j->hash));
	return 0;
}

/* A chunk more. 0, -ENODATA: there is none. */
static int read_chunk(struct ft_journal *j, struct ft_error *err)
{
	for (;;) {
		struct ft_segment_reader *s = &j->segments[j->segment];
		struct ft_segment_chunk chunk;
		uint64_t torn;
		int error = ft_segment_next(s, &chunk, j->control, j->payload, &torn, err);
		if (error == -ENODATA && j->segment + 1 < j->count) {
			error = next_segment(j, torn, err);
			if (error)
				return error;
			continue;
		}
		if (error == -ENODATA)
			j->torn = torn;
		if (error)
			return error;
		struct ft_record_cursor control = {j->control, j->control + chunk.control},
					payload = {j->payload, j->payload + chunk.payload};
		error = decode_all(j, &control, &payload, false, err);
		if (!error && (control.at != control.end || payload.at != payload.end || j->state.last != chunk.icount))
			error = ft_error_set(err, -EBADMSG, "journal: chunk %u of segment %u has records that are none", chunk.sequence,
					     s->header.number);
		memcpy(j->hash, s->hash, sizeof(j->hash));
		j->chunks++;
		j->control_bytes += chunk.control;
		j->payload_bytes += chunk.payload;
		j->stored_bytes += sizeof(chunk) + chunk.control_stored + chunk.payload_stored;
		j->control_stored += sizeof(chunk) + chunk.control_stored;
		j->position = chunk.ring;
		return error;
	}
}

/* What did not come into a chunk any more. */
static int read_ring(struct ft_journal *j, struct ft_error *err)
{
	if (j->ring_read || !j->ring.page)
		return -ENODATA;
	j->ring_read = true;
	if (j->left_from > j->position)
		return ft_error_set(err, -EBADMSG, "journal: chunks at the end of segment %u are missing: %llu bytes of records were in them",
				    j->segments[j->segment].header.number, (unsigned long long)(j->left_from - j->position));
	if (j->left_error)
		return j->left_error == -EBADMSG ? ft_error_set(err, -EBADMSG, "journal: the ring's positions cannot be") : j->left_error;
	/* What chunks have taken over since, and more than that. */
	if (j->position - j->left_from > j->left_length)
		return -ENODATA;
	const uint8_t *bytes = j->left + (j->position - j->left_from);
	size_t n = j->left_length - (size_t)(j->position - j->left_from);
	struct ft_record_cursor cursor = {bytes, bytes + n};
	int error = decode_all(j, &cursor, &cursor, true, err);
	j->in_ring = (uint64_t)(cursor.at - bytes);
	if (!error && cursor.at != cursor.end)
		error = ft_error_set(err, -EBADMSG, "journal: the end of the ring is no record");
	return error;
}

const struct ft_record *ft_journal_peek(struct ft_journal *j, size_t n, struct ft_error *err)
{
	while (j->first + n >= j->end) {
		int error = j->failed.code;
		if (!error)
			error = carry(j, &j->failed);
		if (!error)
			error = read_chunk(j, &j->failed);
		if (error == -ENODATA)
			error = read_ring(j, &j->failed);
		if (error == -ENODATA)
			return NULL;
		if (error) {
			*err = j->failed;
			return NULL;
		}
	}
	return &j->records[j->first + n];
}

void ft_journal_take(struct ft_journal *j)
{
	j->first++;
}
