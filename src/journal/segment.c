#include "journal/segment.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#define MAGIC	    "FTJOURNL"
#define CHUNK_MAGIC 0x434a5446u /* FTJC */
#define LEVEL	    3
#define PACKED	    (2 * ZSTD_compressBound(FT_SEGMENT_CHUNK))
#define TAG	    crypto_aead_xchacha20poly1305_ietf_ABYTES
#define PURPOSE	    "foretaste journal segment"

_Static_assert(sizeof(struct ft_segment_header) == 208, "journal.md");
_Static_assert(sizeof(struct ft_segment_chunk) == 80, "journal.md");

static uint64_t wall_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void hash_chunk(uint8_t to[FT_SEGMENT_HASH], const uint8_t before[FT_SEGMENT_HASH], const struct ft_segment_chunk *chunk,
		       const uint8_t *stored, uint64_t length)
{
	crypto_generichash_state state;
	crypto_generichash_init(&state, NULL, 0, FT_SEGMENT_HASH);
	crypto_generichash_update(&state, before, FT_SEGMENT_HASH);
	crypto_generichash_update(&state, (const uint8_t *)chunk, offsetof(struct ft_segment_chunk, hash));
	crypto_generichash_update(&state, stored, length);
	crypto_generichash_final(&state, to, FT_SEGMENT_HASH);
}

/* The first link of a segment's chain has its header in it. */
static void hash_header(uint8_t to[FT_SEGMENT_HASH], const struct ft_segment_header *header)
{
	crypto_generichash(to, FT_SEGMENT_HASH, (const uint8_t *)header, sizeof(*header), NULL, 0);
}

/* ---- Encryption ------------------------------------------------------------------------------------------------------ */

/* What a chunk is bound to: all before it, and its own header. */
struct binding {
	uint8_t before[FT_SEGMENT_HASH], header[offsetof(struct ft_segment_chunk, hash)];
	uint8_t nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES];
};

/* The chunk's number in its segment, whose key no other file has, and its end in the ring. One that could not be written and has grown
 * until it is tried again has another end, one that has not is the same. */
static struct binding bind(const uint8_t before[FT_SEGMENT_HASH], const struct ft_segment_chunk *chunk)
{
	struct binding b = {0};
	memcpy(b.before, before, sizeof(b.before));
	memcpy(b.header, chunk, sizeof(b.header));
	memcpy(b.nonce, &chunk->sequence, sizeof(chunk->sequence));
	memcpy(b.nonce + 8, &chunk->ring, sizeof(chunk->ring));
	return b;
}

static uint64_t encrypt(const struct ft_segment_writer *w, const struct ft_segment_chunk *chunk, uint64_t stored)
{
	unsigned long long n;
	struct binding b = bind(w->hash, chunk);
	crypto_aead_xchacha20poly1305_ietf_encrypt(w->packed, &n, w->packed, stored, b.before, offsetof(struct binding, nonce), NULL, b.nonce, w->key);
	return n;
}

/* ---- Writing --------------------------------------------------------------------------------------------------------- */

int ft_segment_writer_open(struct ft_segment_writer *w, struct ft_error *err)
{
	*w = (struct ft_segment_writer){.fd = -1, .zstd = ZSTD_createCCtx(), .packed = malloc(PACKED + TAG)};
	if (w->zstd && w->packed && !ZSTD_isError(ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, LEVEL)))
		return 0;
	ft_segment_writer_close(w);
	return ft_error_set(err, -ENOMEM, "no memory to write a journal");
}

void ft_segment_writer_close(struct ft_segment_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	ZSTD_freeCCtx(w->zstd);
	free(w->packed);
	sodium_memzero(w->key, sizeof(w->key));
	*w = (struct ft_segment_writer){.fd = -1};
}

static int write_all(int fd, const void *from, size_t length, struct ft_error *err)
{
	for (size_t at = 0; at < length;) {
		ssize_t n = write(fd, (const uint8_t *)from + at, length - at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ft_error_set(err, n ? -errno : -EIO, "the journal cannot be written: %s", strerror(n ? errno : EIO));
		at += (size_t)n;
	}
	return 0;
}

int ft_segment_begin(struct ft_segment_writer *w, int fd, struct ft_segment_header *header, const struct ft_snapshot_seal *seal,
		     struct ft_error *err)
{
	if (fd >= 0) {
		if (w->fd >= 0)
			close(w->fd);
		w->fd = fd;
		w->sequence = 0;
		w->bytes = 0;
	}
	memcpy(header->magic, MAGIC, sizeof(header->magic));
	header->version = FT_SEGMENT_VERSION;
	header->slice = FT_RECORD_SLICE;
	header->created_ns = wall_ns();
	memcpy(header->before, w->hash, sizeof(header->before));
	header->encrypted = w->encrypted = seal != NULL;
	memset(header->salt, 0, sizeof(header->salt));
	memset(header->key_id, 0, sizeof(header->key_id));
	if (seal) {
		memcpy(header->salt, seal->salt, sizeof(header->salt));
		ft_snapshot_identify(seal, header->key_id);
		ft_snapshot_key_for(seal, PURPOSE, w->key);
	}
	int error = write_all(w->fd, header, sizeof(*header), err);
	if (error) {
		/* A part of it would be the end of what can be read. */
		if (ftruncate(w->fd, 0))
			ft_error_set(err, error, "%s; and what was written of it cannot be cut off", err->text);
		return error;
	}
	hash_header(w->hash, header);
	w->bytes = sizeof(*header);
	return 0;
}

/* Packs into `to`; its length, 0: nothing to pack. */
static uint32_t pack(struct ft_segment_writer *w, uint8_t *to, const uint8_t *from, uint32_t length)
{
	size_t n = length ? ZSTD_compress2(w->zstd, to, ZSTD_compressBound(FT_SEGMENT_CHUNK), from, length) : 0;
	return ZSTD_isError(n) ? UINT32_MAX : (uint32_t)n;
}

int ft_segment_put(struct ft_segment_writer *w, const uint8_t *control, uint32_t control_length, const uint8_t *payload,
		   uint32_t payload_length, uint64_t icount, uint64_t ring, struct ft_segment_chunk *written, struct ft_error *err)
{
	uint8_t hash[FT_SEGMENT_HASH];
	struct ft_segment_chunk chunk = {.magic = CHUNK_MAGIC,
					 .sequence = w->sequence,
					 .control = control_length,
					 .payload = payload_length,
					 .icount = icount,
					 .ring = ring,
					 .created_ns = wall_ns()};
	chunk.control_stored = pack(w, w->packed, control, control_length);
	if (chunk.control_stored != UINT32_MAX)
		chunk.payload_stored = pack(w, w->packed + chunk.control_stored, payload, payload_length);
	if (chunk.control_stored == UINT32_MAX || chunk.payload_stored == UINT32_MAX)
		return ft_error_set(err, -ENOMEM, "a chunk of the journal cannot be packed");
	uint64_t stored = (uint64_t)chunk.control_stored + chunk.payload_stored;
	if (w->encrypted)
		stored = encrypt(w, &chunk, stored);
	hash_chunk(hash, w->hash, &chunk, w->packed, stored);
	memcpy(chunk.hash, hash, sizeof(hash));
	int error = write_all(w->fd, &chunk, sizeof(chunk), err);
	if (!error)
		error = write_all(w->fd, w->packed, stored, err);
	if (!error && fdatasync(w->fd))
		error = ft_error_set(err, -errno, "the journal cannot be made durable: %s", strerror(errno));
	if (error) {
		/* A part of a chunk would be the end of what can be read. */
		if (ftruncate(w->fd, (off_t)w->bytes))
			ft_error_set(err, error, "%s; and what was written of it cannot be cut off", err->text);
		return error;
	}
	w->bytes += sizeof(chunk) + stored;
	w->sequence++;
	memcpy(w->hash, hash, sizeof(hash));
	*written = chunk;
	return 0;
}

/* ---- Reading --------------------------------------------------------------------------------------------------------- */

static int bad(struct ft_error *err, const char *what, uint64_t value)
{
	return ft_error_set(err, -EBADMSG, "journal: %s is 0x%llx", what, (unsigned long long)value);
}

static int check_header(const struct ft_segment_header *h, struct ft_error *err)
{
	if (memcmp(h->magic, MAGIC, sizeof(h->magic)))
		return ft_error_set(err, -EBADMSG, "journal: header.magic: this is no journal");
	if (h->version != FT_SEGMENT_VERSION)
		return ft_error_set(err, -ENOTSUP, "journal: header.version is %u (this program reads version %u)", h->version,
				    FT_SEGMENT_VERSION);
	if (h->slice != FT_RECORD_SLICE)
		return ft_error_set(err, -ENOTSUP, "journal: header.slice is %u (this program replays slices of %u)", h->slice,
				    FT_RECORD_SLICE);
	if (h->memory < FT_RAM_MIN || h->memory > FT_RAM_MAX || h->memory % FT_MEMORY_PART)
		return bad(err, "header.memory", h->memory);
	if (h->has_disk > 1 || h->clock > FT_CLOCK_FREE || !h->run || !h->number)
		return bad(err, "header.has_disk, clock, run or number", h->has_disk);
	if (h->guest[sizeof(h->guest) - 1])
		return bad(err, "header.guest", 1);
	if (h->encrypted > 1 || h->reserved)
		return bad(err, "header.encrypted", h->encrypted);
	return 0;
}

static int unseal(struct ft_segment_reader *s, const uint8_t *operators, struct ft_error *err)
{
	struct ft_snapshot_seal seal;
	if (!s->header.encrypted)
		return 0;
	int error = ft_snapshot_unseal_salt(&seal, s->header.salt, s->header.key_id, operators, "journal", err);
	if (error)
		return error;
	ft_snapshot_key_for(&seal, PURPOSE, s->key);
	sodium_memzero(&seal, sizeof(seal));
	s->plain = malloc(PACKED);
	return s->plain ? 0 : ft_error_set(err, -ENOMEM, "no memory to read a journal");
}

int ft_segment_open(struct ft_segment_reader *s, int fd, const uint8_t *operators, struct ft_error *err)
{
	struct stat st;
	*s = (struct ft_segment_reader){0};
	if (fstat(fd, &st))
		return ft_error_set(err, -errno, "the journal cannot be read: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(s->header))
		return ft_error_set(err, -EBADMSG, "journal: length: %lld bytes are no journal", (long long)st.st_size);
	void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return ft_error_set(err, -errno, "the journal cannot be mapped: %s", strerror(errno));
	s->map = map;
	s->size = (uint64_t)st.st_size;
	s->at = sizeof(s->header);
	memcpy(&s->header, map, sizeof(s->header));
	int error = check_header(&s->header, err);
	if (!error)
		error = unseal(s, operators, err);
	hash_header(s->hash, &s->header);
	s->zstd = error ? NULL : ZSTD_createDCtx();
	if (!error && !s->zstd)
		error = ft_error_set(err, -ENOMEM, "no memory to read a journal");
	if (error)
		ft_segment_close(s);
	return error;
}

void ft_segment_close(struct ft_segment_reader *s)
{
	if (s->map)
		munmap((void *)s->map, s->size);
	ZSTD_freeDCtx(s->zstd);
	free(s->plain);
	sodium_memzero(s->key, sizeof(s->key));
	*s = (struct ft_segment_reader){0};
}

static int unpack(struct ft_segment_reader *s, const uint8_t *from, uint32_t stored, uint8_t *to, uint32_t length)
{
	if (!length || !stored)
		return length || stored ? -EBADMSG : 0;
	size_t n = ZSTD_decompressDCtx(s->zstd, to, length, from, stored);
	return ZSTD_isError(n) || n != length ? -EBADMSG : 0;
}

int ft_segment_next(struct ft_segment_reader *s, struct ft_segment_chunk *c, uint8_t *control, uint8_t *payload, uint64_t *torn,
		    struct ft_error *err)
{
	uint8_t hash[FT_SEGMENT_HASH];
	*torn = s->size - s->at;
	if (*torn < sizeof(*c))
		return -ENODATA;
	memcpy(c, s->map + s->at, sizeof(*c));
	const uint8_t *stored = s->map + s->at + sizeof(*c);
	uint64_t length = (uint64_t)c->control_stored + c->payload_stored;
	if (c->magic != CHUNK_MAGIC || c->control > FT_SEGMENT_CHUNK || c->payload > FT_SEGMENT_CHUNK ||
	    length > PACKED)
		return ft_error_set(err, -EBADMSG, "journal: chunk %u of segment %u was changed", s->sequence, s->header.number);
	length += s->plain ? TAG : 0;
	/* The file ends within it: it was being written. */
	if (length > s->size - s->at - sizeof(*c))
		return -ENODATA;
	hash_chunk(hash, s->hash, c, stored, length);
	if (c->sequence != s->sequence || memcmp(hash, c->hash, sizeof(hash)))
		return ft_error_set(err, -EBADMSG, "journal: chunk %u of segment %u was changed", s->sequence, s->header.number);
	if (s->plain) {
		struct binding b = bind(s->hash, c);
		if (crypto_aead_xchacha20poly1305_ietf_decrypt(s->plain, NULL, NULL, stored, length, b.before, offsetof(struct binding, nonce), b.nonce,
							       s->key))
			return ft_error_set(err, -EBADMSG, "journal: chunk %u of segment %u was changed", s->sequence, s->header.number);
		stored = s->plain;
	}
	if (unpack(s, stored, c->control_stored, control, c->control) ||
	    unpack(s, stored + c->control_stored, c->payload_stored, payload, c->payload))
		return ft_error_set(err, -EBADMSG, "journal: chunk %u of segment %u cannot be unpacked", s->sequence, s->header.number);
	memcpy(s->hash, hash, sizeof(hash));
	s->sequence++;
	s->at += sizeof(*c) + length;
	*torn = 0;
	return 0;
}
