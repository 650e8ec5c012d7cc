#include "snapshot/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

_Static_assert(sizeof(struct ft_snapshot_header) == 192, "snapshot.md");
_Static_assert(sizeof(struct ft_snapshot_entry) == 64, "snapshot.md");
_Static_assert(sizeof(struct ft_snapshot_footer) == 56, "snapshot.md");
_Static_assert(FT_SNAPSHOT_KEY == crypto_aead_xchacha20poly1305_ietf_KEYBYTES, "libsodium");
_Static_assert(FT_SNAPSHOT_KEY == crypto_generichash_KEYBYTES, "libsodium");

#define MAGIC "FTSNAPSH"
#define END   "FTSNAPIX"

/* Level 1 packs 2 MiB of a guest's memory in a few milliseconds; more costs more time than it saves bytes. */
#define LEVEL 1

/* What a chunk is bound to: its file and its place in it. */
struct binding {
	uint8_t salt[32];
	uint64_t number, at;
	uint32_t kind, length;
};

static struct binding bind_chunk(const struct ft_snapshot_header *header, uint64_t number, const struct ft_snapshot_entry *e)
{
	struct binding b = {.number = number, .at = e->at, .kind = e->kind, .length = e->length};
	memcpy(b.salt, header->salt, sizeof(b.salt));
	return b;
}

/* The file's own key, so that chunk numbers can be nonces: no two files share one. */
static void derive(uint8_t key[FT_SNAPSHOT_KEY], const uint8_t *master, const uint8_t salt[32])
{
	crypto_generichash_state state;
	static const char purpose[] = "foretaste snapshot 1";
	crypto_generichash_init(&state, master, FT_SNAPSHOT_KEY, FT_SNAPSHOT_KEY);
	crypto_generichash_update(&state, (const uint8_t *)purpose, sizeof(purpose));
	crypto_generichash_update(&state, salt, 32);
	crypto_generichash_final(&state, key, FT_SNAPSHOT_KEY);
	sodium_memzero(&state, sizeof(state));
}

/* Tells keys apart, and tells nothing of them. */
static void identify(uint8_t id[16], const uint8_t key[FT_SNAPSHOT_KEY])
{
	static const char purpose[] = "foretaste snapshot key";
	crypto_generichash(id, 16, (const uint8_t *)purpose, sizeof(purpose), key, FT_SNAPSHOT_KEY);
}

static int check_key(const struct ft_snapshot_header *h, const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	uint8_t id[16];
	if (!h->encrypted)
		return 0;
	if (!seal)
		return ft_error_set(err, -EACCES, "snapshot: it is encrypted, and no key was given");
	identify(id, seal->key);
	return sodium_memcmp(id, h->key_id, sizeof(id)) ? ft_error_set(err, -EKEYREJECTED, "snapshot: it is encrypted with another key") : 0;
}

void ft_snapshot_seal(struct ft_snapshot_seal *seal, const uint8_t *operators)
{
	randombytes_buf(seal->salt, sizeof(seal->salt));
	derive(seal->key, operators, seal->salt);
}

static int check_header(const struct ft_snapshot_header *h, struct ft_error *err);

int ft_snapshot_peek(int fd, struct ft_snapshot_header *header, struct ft_error *err)
{
	ssize_t n = pread(fd, header, sizeof(*header), 0);
	if (n != sizeof(*header))
		return ft_error_set(err, n < 0 ? -errno : -EBADMSG, "snapshot: length: it has no header");
	return check_header(header, err);
}

int ft_snapshot_unseal(struct ft_snapshot_seal *seal, int fd, const uint8_t *operators, struct ft_error *err)
{
	struct ft_snapshot_header header;
	int error = ft_snapshot_peek(fd, &header, err);
	if (error)
		return error;
	memcpy(seal->salt, header.salt, sizeof(seal->salt));
	derive(seal->key, operators, seal->salt);
	error = check_key(&header, seal, err);
	if (error)
		sodium_memzero(seal, sizeof(*seal));
	return error;
}

void ft_snapshot_identify(const struct ft_snapshot_seal *seal, uint8_t id[16])
{
	identify(id, seal->key);
}

int ft_snapshot_unseal_salt(struct ft_snapshot_seal *seal, const uint8_t salt[32], const uint8_t id[16], const uint8_t *operators,
			    const char *what, struct ft_error *err)
{
	uint8_t own[16];
	if (!operators)
		return ft_error_set(err, -EACCES, "%s: it is encrypted, and no key was given", what);
	memcpy(seal->salt, salt, sizeof(seal->salt));
	derive(seal->key, operators, seal->salt);
	identify(own, seal->key);
	if (!sodium_memcmp(own, id, sizeof(own)))
		return 0;
	sodium_memzero(seal, sizeof(*seal));
	return ft_error_set(err, -EKEYREJECTED, "%s: it is encrypted with another key", what);
}

void ft_snapshot_key_for(const struct ft_snapshot_seal *seal, const char *purpose, uint8_t key[FT_SNAPSHOT_KEY])
{
	crypto_generichash(key, FT_SNAPSHOT_KEY, (const uint8_t *)purpose, strlen(purpose) + 1, seal->key, FT_SNAPSHOT_KEY);
}

static void nonce_of(uint8_t nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES], uint64_t number)
{
	memset(nonce, 0, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES);
	memcpy(nonce, &number, sizeof(number));
}

static void chunk_hash(uint8_t tag[32], const struct binding *b, const uint8_t *bytes, uint64_t length)
{
	crypto_generichash_state state;
	crypto_generichash_init(&state, NULL, 0, 32);
	crypto_generichash_update(&state, (const uint8_t *)b, sizeof(*b));
	crypto_generichash_update(&state, bytes, length);
	crypto_generichash_final(&state, tag, 32);
}

static void begin_mac(crypto_generichash_state *state, const struct ft_snapshot_header *header, const uint8_t *key)
{
	crypto_generichash_init(state, header->encrypted ? key : NULL, header->encrypted ? FT_SNAPSHOT_KEY : 0, 32);
	crypto_generichash_update(state, (const uint8_t *)header, sizeof(*header));
}

static void file_mac(uint8_t mac[32], const struct ft_snapshot_header *header, const struct ft_snapshot_entry *entries,
		     uint64_t count, const uint8_t *key)
{
	crypto_generichash_state state;
	begin_mac(&state, header, key);
	crypto_generichash_update(&state, (const uint8_t *)entries, count * sizeof(*entries));
	crypto_generichash_final(&state, mac, 32);
}

/* ---- Writing ------------------------------------------------------------------------------------------------------ */

static int write_all(struct ft_snapshot_writer *w, const void *bytes, uint64_t length, struct ft_error *err)
{
	const uint8_t *at = bytes;
	while (length) {
		ssize_t n = write(w->fd, at, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ft_error_set(err, n < 0 ? -errno : -EIO, "the snapshot cannot be written: %s",
					    n < 0 ? strerror(errno) : "nothing was taken");
		at += n;
		length -= (uint64_t)n;
		w->offset += (uint64_t)n;
	}
	return 0;
}

int ft_snapshot_begin(struct ft_snapshot_writer *w, int fd, const struct ft_snapshot_header *header,
		      const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	*w = (struct ft_snapshot_writer){.fd = fd, .header = *header};
	memcpy(w->header.magic, MAGIC, sizeof(w->header.magic));
	w->header.version = FT_SNAPSHOT_VERSION;
	w->header.encrypted = seal != NULL;
	memset(w->header.key_id, 0, sizeof(w->header.key_id));
	if (seal) {
		identify(w->header.key_id, seal->key);
		memcpy(w->header.salt, seal->salt, sizeof(seal->salt));
		memcpy(w->key, seal->key, sizeof(seal->key));
	} else {
		randombytes_buf(w->header.salt, sizeof(w->header.salt));
	}
	w->packed_room = ZSTD_compressBound(FT_SNAPSHOT_CONTENT_MAX);
	w->zstd = ZSTD_createCCtx();
	w->packed = malloc(w->packed_room); /* touched as far as it is used */
	if (!w->zstd || !w->packed) {
		ft_snapshot_writer_free(w);
		return ft_error_set(err, -ENOMEM, "no memory to write a snapshot");
	}
	int error = write_all(w, &w->header, sizeof(w->header), err);
	if (error)
		ft_snapshot_writer_free(w);
	return error;
}

static struct ft_snapshot_entry *new_entry(struct ft_snapshot_writer *w)
{
	if (w->count == w->room) {
		uint64_t room = w->room ? 2 * w->room : 256;
		struct ft_snapshot_entry *entries = realloc(w->entries, room * sizeof(*entries));
		if (!entries || room > FT_SNAPSHOT_CHUNKS_MAX) {
			w->entries = entries ? entries : w->entries;
			return NULL;
		}
		w->entries = entries;
		w->room = room;
	}
	struct ft_snapshot_entry *e = &w->entries[w->count];
	memset(e, 0, sizeof(*e));
	return e;
}

int ft_snapshot_put(struct ft_snapshot_writer *w, enum ft_snapshot_kind kind, uint64_t at, const void *bytes, uint32_t length,
		    struct ft_error *err)
{
	struct ft_snapshot_entry *e = new_entry(w);
	if (!e)
		return ft_error_set(err, -ENOMEM, "no memory for the snapshot's index");
	size_t packed = ZSTD_compressCCtx(w->zstd, w->packed, w->packed_room, bytes, length, LEVEL);
	if (ZSTD_isError(packed))
		return ft_error_set(err, -EIO, "the snapshot cannot be compressed: %s", ZSTD_getErrorName(packed));
	e->kind = kind;
	e->length = length;
	e->at = at;
	e->offset = w->offset;
	e->stored = (uint32_t)packed;
	struct binding binding = bind_chunk(&w->header, w->count, e);
	if (w->header.encrypted) {
		uint8_t nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES];
		nonce_of(nonce, w->count);
		crypto_aead_xchacha20poly1305_ietf_encrypt_detached(w->packed, e->tag, NULL, w->packed, packed,
								    (const uint8_t *)&binding, sizeof(binding), NULL, nonce,
								    w->key);
	} else {
		chunk_hash(e->tag, &binding, w->packed, packed);
	}
	w->count++;
	return write_all(w, w->packed, packed, err);
}

int ft_snapshot_end(struct ft_snapshot_writer *w, uint8_t *mac, struct ft_error *err)
{
	struct ft_snapshot_footer footer = {.index = w->offset, .entries = w->count};
	memcpy(footer.magic, END, sizeof(footer.magic));
	file_mac(footer.mac, &w->header, w->entries, w->count, w->key);
	int error = write_all(w, w->entries, w->count * sizeof(*w->entries), err);
	if (!error)
		error = write_all(w, &footer, sizeof(footer), err);
	if (!error && fsync(w->fd))
		error = ft_error_set(err, -errno, "the snapshot is not on disk: %s", strerror(errno));
	if (!error && mac)
		memcpy(mac, footer.mac, sizeof(footer.mac));
	return error;
}

void ft_snapshot_writer_free(struct ft_snapshot_writer *w)
{
	ZSTD_freeCCtx(w->zstd);
	free(w->packed);
	free(w->entries);
	sodium_memzero(w, sizeof(*w));
}

/* ---- Reading ------------------------------------------------------------------------------------------------------ */

static int bad(struct ft_error *err, const char *field, uint64_t value)
{
	return ft_error_set(err, -EBADMSG, "snapshot: %s is 0x%llx: cut, corrupted, or no snapshot", field, (unsigned long long)value);
}

static bool zeros(const uint8_t *at, size_t length)
{
	uint8_t any = 0;
	for (size_t i = 0; i < length; i++)
		any |= at[i];
	return !any;
}

static int check_header(const struct ft_snapshot_header *h, struct ft_error *err)
{
	if (memcmp(h->magic, MAGIC, sizeof(h->magic)))
		return ft_error_set(err, -EBADMSG, "snapshot: header.magic: this is no snapshot");
	if (h->version != FT_SNAPSHOT_VERSION)
		return ft_error_set(err, -ENOTSUP, "snapshot: header.version is %u (this program reads version %u)", h->version,
				    FT_SNAPSHOT_VERSION);
	if (h->encrypted > 1)
		return bad(err, "header.encrypted", h->encrypted);
	if (h->guest[sizeof(h->guest) - 1])
		return bad(err, "header.guest", (uint8_t)h->guest[sizeof(h->guest) - 1]);
	if (!h->encrypted && !zeros(h->key_id, sizeof(h->key_id)))
		return bad(err, "header.key_id", h->key_id[0]);
	return 0;
}

/* State, RAM, disk, notes; each in the order of what it is: so nothing is there twice. */
static int check_place(const struct ft_snapshot *s, const struct ft_snapshot_entry *e, const struct ft_snapshot_entry *before,
		       struct ft_error *err)
{
	bool first = !before || before->kind != e->kind;
	if (e->kind < FT_SNAPSHOT_STATE || e->kind > FT_SNAPSHOT_TRIAL || (before && before->kind > e->kind))
		return bad(err, "entry.kind", e->kind);
	if ((e->kind == FT_SNAPSHOT_STATE || e->kind > FT_SNAPSHOT_DISK) && (e->at || !first))
		return bad(err, "entry.at", e->at);
	if (e->kind == FT_SNAPSHOT_RAM && (e->at % FT_SNAPSHOT_CHUNK || e->at >= s->header.memory || (!first && e->at <= before->at)))
		return bad(err, "entry.at", e->at);
	if (e->kind == FT_SNAPSHOT_DISK && e->at != (first ? 0 : before->at + 1))
		return bad(err, "entry.at", e->at);
	return 0;
}

static int check_entry(const struct ft_snapshot *s, const struct ft_snapshot_entry *e, uint64_t end, uint64_t *offset,
		       struct ft_error *err)
{
	if (!e->length || e->length > FT_SNAPSHOT_CONTENT_MAX)
		return bad(err, "entry.length", e->length);
	if (e->offset != *offset || !e->stored || e->stored > end - *offset)
		return bad(err, "entry.offset", e->offset);
	if (e->reserved || (s->header.encrypted && !zeros(e->tag + 16, 16)))
		return bad(err, "entry.reserved", e->reserved);
	*offset += e->stored;
	return 0;
}

static int check_size(const struct stat *st, struct ft_error *err)
{
	if (S_ISREG(st->st_mode) && st->st_size >= (off_t)(sizeof(struct ft_snapshot_header) + sizeof(struct ft_snapshot_footer)))
		return 0;
	return ft_error_set(err, -EBADMSG, "snapshot: length: %lld bytes are no snapshot", (long long)st->st_size);
}

static int check_footer(const struct ft_snapshot_footer *f, uint64_t size, struct ft_error *err)
{
	if (memcmp(f->magic, END, sizeof(f->magic)))
		return ft_error_set(err, -EBADMSG, "snapshot: footer.magic: it was cut");
	if (f->entries > FT_SNAPSHOT_CHUNKS_MAX || f->entries > size / sizeof(struct ft_snapshot_entry))
		return bad(err, "footer.entries", f->entries);
	if (f->index != size - sizeof(*f) - f->entries * sizeof(struct ft_snapshot_entry) || f->index < sizeof(struct ft_snapshot_header))
		return bad(err, "footer.index", f->index);
	return 0;
}

static int check_mac(const struct ft_snapshot_footer *f, const uint8_t mac[32], struct ft_error *err)
{
	return sodium_memcmp(mac, f->mac, sizeof(f->mac)) ? ft_error_set(err, -EBADMSG, "snapshot: footer.mac: header or index were changed")
							  : 0;
}

static int read_index(struct ft_snapshot *s, struct ft_error *err)
{
	struct ft_snapshot_footer f;
	memcpy(&f, s->map + s->size - sizeof(f), sizeof(f));
	int error = check_footer(&f, s->size, err);
	if (error)
		return error;
	s->count = f.entries;
	s->entries = malloc(s->count * sizeof(*s->entries) + 1);
	if (!s->entries)
		return ft_error_set(err, -ENOMEM, "no memory for the snapshot's index");
	memcpy(s->entries, s->map + f.index, s->count * sizeof(*s->entries));
	file_mac(s->mac, &s->header, s->entries, s->count, s->key);
	error = check_mac(&f, s->mac, err);
	uint64_t offset = sizeof(s->header);
	for (uint64_t i = 0; i < s->count && !error; i++) {
		error = check_place(s, &s->entries[i], i ? &s->entries[i - 1] : NULL, err);
		if (!error)
			error = check_entry(s, &s->entries[i], f.index, &offset, err);
	}
	if (error)
		return error;
	return offset == f.index ? 0 : bad(err, "footer.index", f.index);
}

int ft_snapshot_open(struct ft_snapshot *s, int fd, const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	struct stat st;
	*s = (struct ft_snapshot){0};
	if (fstat(fd, &st))
		return ft_error_set(err, -errno, "the snapshot cannot be read: %s", strerror(errno));
	int error = check_size(&st, err);
	if (error)
		return error;
	s->size = (uint64_t)st.st_size;
	void *map = mmap(NULL, s->size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return ft_error_set(err, -errno, "the snapshot cannot be mapped: %s", strerror(errno));
	s->map = map;
	memcpy(&s->header, s->map, sizeof(s->header));
	error = check_header(&s->header, err);
	if (!error)
		error = check_key(&s->header, seal, err);
	if (!error && s->header.encrypted)
		memcpy(s->key, seal->key, sizeof(s->key));
	if (!error)
		error = read_index(s, err);
	s->zstd = error ? NULL : ZSTD_createDCtx();
	s->plain = error ? NULL : malloc(ZSTD_compressBound(FT_SNAPSHOT_CONTENT_MAX));
	if (!error && (!s->zstd || !s->plain))
		error = ft_error_set(err, -ENOMEM, "no memory to read a snapshot");
	if (error)
		ft_snapshot_close(s);
	return error;
}

static int read_at(int fd, void *to, size_t length, uint64_t at, struct ft_error *err)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = pread(fd, (uint8_t *)to + done, length - done, (off_t)(at + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ft_error_set(err, n < 0 ? -errno : -EBADMSG, "the snapshot cannot be read: %s", n < 0 ? strerror(errno) : "it was cut");
		done += (size_t)n;
	}
	return 0;
}

int ft_snapshot_authenticate(int fd, const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	struct ft_snapshot_header header;
	struct ft_snapshot_footer f;
	struct stat st;
	uint8_t mac[32], bytes[4096];
	crypto_generichash_state state;
	if (fstat(fd, &st))
		return ft_error_set(err, -errno, "the snapshot cannot be read: %s", strerror(errno));
	int error = check_size(&st, err);
	if (!error)
		error = ft_snapshot_peek(fd, &header, err);
	if (!error)
		error = check_key(&header, seal, err);
	if (!error)
		error = read_at(fd, &f, sizeof(f), (uint64_t)st.st_size - sizeof(f), err);
	if (!error)
		error = check_footer(&f, (uint64_t)st.st_size, err);
	if (error)
		return error;
	begin_mac(&state, &header, seal ? seal->key : NULL);
	for (uint64_t at = f.index, end = (uint64_t)st.st_size - sizeof(f); at < end && !error;) {
		size_t n = end - at < sizeof(bytes) ? end - at : sizeof(bytes);
		error = read_at(fd, bytes, n, at, err);
		crypto_generichash_update(&state, bytes, n);
		at += n;
	}
	crypto_generichash_final(&state, mac, sizeof(mac));
	return error ? error : check_mac(&f, mac, err);
}

void ft_snapshot_close(struct ft_snapshot *s)
{
	if (s->map)
		munmap((void *)s->map, s->size);
	ZSTD_freeDCtx(s->zstd);
	free(s->plain);
	free(s->entries);
	sodium_memzero(s, sizeof(*s));
}

int ft_snapshot_get(struct ft_snapshot *s, const struct ft_snapshot_entry *e, uint8_t *to, struct ft_error *err)
{
	uint64_t number = (uint64_t)(e - s->entries);
	struct binding binding = bind_chunk(&s->header, number, e);
	const uint8_t *from = s->map + e->offset;
	bool good;
	if (s->header.encrypted) {
		uint8_t nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES];
		nonce_of(nonce, number);
		good = e->stored <= ZSTD_compressBound(FT_SNAPSHOT_CONTENT_MAX) &&
		       !crypto_aead_xchacha20poly1305_ietf_decrypt_detached(s->plain, NULL, from, e->stored, e->tag,
									    (const uint8_t *)&binding, sizeof(binding), nonce,
									    s->key);
		from = s->plain;
	} else {
		uint8_t tag[32];
		chunk_hash(tag, &binding, from, e->stored);
		good = !memcmp(tag, e->tag, sizeof(tag));
	}
	if (!good)
		return ft_error_set(err, -EBADMSG, "snapshot: chunk %llu (kind %u, at 0x%llx) was changed", (unsigned long long)number,
				    e->kind, (unsigned long long)e->at);
	size_t n = ZSTD_decompressDCtx(s->zstd, to, e->length, from, e->stored);
	if (ZSTD_isError(n) || n != e->length)
		return ft_error_set(err, -EBADMSG, "snapshot: chunk %llu cannot be unpacked", (unsigned long long)number);
	return 0;
}

/* ---- Names -------------------------------------------------------------------------------------------------------- */

bool ft_snapshot_name(const char *name)
{
	size_t n = strlen(name);
	return n && n <= 64 && name[0] != '.' && name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == n;
}

static void unfinished(char path[80], const char *name)
{
	snprintf(path, 80, ".%s.new", name);
}

int ft_snapshot_create(int directory, const char *name, struct ft_error *err)
{
	char path[80];
	unfinished(path, name);
	if (unlinkat(directory, path, 0) && errno != ENOENT)
		return ft_error_set(err, -errno, "snapshot %s: what a save left behind cannot be removed: %s", name, strerror(errno));
	int fd = openat(directory, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? ft_error_set(err, -errno, "snapshot %s cannot be made: %s", name, strerror(errno)) : fd;
}

int ft_snapshot_commit(int directory, const char *name, int fd, struct ft_error *err)
{
	char path[80];
	unfinished(path, name);
	if (fsync(fd) || renameat(directory, path, directory, name) || fsync(directory))
		return ft_error_set(err, -errno, "snapshot %s cannot be put in its place: %s", name, strerror(errno));
	return 0;
}

void ft_snapshot_abandon(int directory, const char *name)
{
	char path[80];
	unfinished(path, name);
	unlinkat(directory, path, 0);
}
