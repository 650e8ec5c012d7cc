#define XXH_STATIC_LINKING_ONLY /* its state on the stack */
#include "disk/record.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <xxhash.h>

/* A zero run is not read or written, only bounded by the index that it goes through. */
#define ZERO_MOST (1u << 24)

void ft_overlay_head_make(struct ft_overlay_head *head, uint64_t disk_size, uint64_t base_sample, uint64_t created_ns,
			  const char *guest)
{
	*head = (struct ft_overlay_head){.version = FT_OVERLAY_VERSION,
					 .segment_size = FT_SEGMENT_SIZE,
					 .disk_size = disk_size,
					 .base_sample = base_sample,
					 .created_ns = created_ns};
	memcpy(head->magic, FT_OVERLAY_MAGIC, sizeof(head->magic));
	randombytes_buf(head->key, sizeof(head->key));
	randombytes_buf(head->record_magic, sizeof(head->record_magic));
	strncpy(head->guest, guest, sizeof(head->guest) - 1);
	crypto_generichash(head->mac, sizeof(head->mac), (const uint8_t *)head, offsetof(struct ft_overlay_head, mac), head->key,
			   sizeof(head->key));
}

int ft_overlay_head_check(const struct ft_overlay_head *head, struct ft_error *err)
{
	uint8_t mac[sizeof(head->mac)];
	if (memcmp(head->magic, FT_OVERLAY_MAGIC, sizeof(head->magic)))
		return ft_error_set(err, -EBADMSG, "this is no overlay of a disk");
	if (head->version != FT_OVERLAY_VERSION || head->segment_size != FT_SEGMENT_SIZE)
		return ft_error_set(err, -EBADMSG, "this overlay is of version %u, this program knows %u", head->version,
				    FT_OVERLAY_VERSION);
	crypto_generichash(mac, sizeof(mac), (const uint8_t *)head, offsetof(struct ft_overlay_head, mac), head->key, sizeof(head->key));
	if (memcmp(mac, head->mac, sizeof(mac)) || head->guest[sizeof(head->guest) - 1] || !head->disk_size ||
	    head->disk_size > 1ull << 44)
		return ft_error_set(err, -EBADMSG, "the beginning of the overlay is damaged");
	return 0;
}

void ft_disk_record_key_take(struct ft_disk_record_key *key, const struct ft_overlay_head *head)
{
	memcpy(key->key, head->key, sizeof(key->key));
	memcpy(key->magic, head->record_magic, sizeof(key->magic));
	memcpy(&key->seed, head->key, sizeof(key->seed));
}

static void make_mac(const struct ft_disk_record_key *key, const struct ft_disk_record *record, uint8_t mac[16])
{
	const size_t from = offsetof(struct ft_disk_record, hash);
	crypto_generichash(mac, 16, (const uint8_t *)record + from, sizeof(*record) - from, key->key, sizeof(key->key));
}

static void finish(const struct ft_disk_record_key *key, struct ft_disk_record *record, XXH128_hash_t digest)
{
	XXH128_canonical_t hash;
	XXH128_canonicalFromHash(&hash, digest);
	memcpy(record->magic, key->magic, sizeof(record->magic));
	memcpy(record->hash, &hash, sizeof(record->hash));
	make_mac(key, record, record->mac);
}

void ft_disk_record_seal(const struct ft_disk_record_key *key, struct ft_disk_record *record, const struct iovec *parts, size_t count)
{
	record->length = 0;
	if (count == 1) {
		record->length = (uint32_t)parts->iov_len;
		finish(key, record, XXH3_128bits_withSeed(parts->iov_base, parts->iov_len, key->seed));
		return;
	}
	XXH3_state_t state;
	XXH3_INITSTATE(&state);
	XXH3_128bits_reset_withSeed(&state, key->seed);
	for (size_t i = 0; i < count; i++) {
		XXH3_128bits_update(&state, parts[i].iov_base, parts[i].iov_len);
		record->length += (uint32_t)parts[i].iov_len;
	}
	finish(key, record, XXH3_128bits_digest(&state));
}

/* The length that type and count give; UINT32_MAX: they do not fit. */
static uint32_t length_of(const struct ft_disk_record *r)
{
	switch ((enum ft_disk_record_type)r->type) {
	case FT_DISK_RECORD_DATA:
	case FT_DISK_RECORD_COPY:
		return r->count && r->count <= FT_DISK_RECORD_BLOCKS ? r->count * FT_DISK_RECORD_BLOCK : UINT32_MAX;
	case FT_DISK_RECORD_ZERO:
	case FT_DISK_RECORD_COPY_ZERO:
		return r->count && r->count <= ZERO_MOST ? 0 : UINT32_MAX;
	case FT_DISK_RECORD_SUMMARY:
		return r->count < FT_SEGMENT_SIZE / sizeof(struct ft_disk_record_entry) ? r->count * (uint32_t)sizeof(struct ft_disk_record_entry)
										    : UINT32_MAX;
	case FT_DISK_RECORD_SEGMENT:
	case FT_DISK_RECORD_RESET:
	case FT_DISK_RECORD_COMMIT:
	case FT_DISK_RECORD_HORIZON:
	case FT_DISK_RECORD_FOOTER:
		return r->count ? UINT32_MAX : 0;
	case FT_DISK_RECORD_TYPES:
		break;
	}
	return UINT32_MAX;
}

bool ft_disk_record_genuine(const struct ft_disk_record_key *key, const struct ft_disk_record *record)
{
	uint8_t mac[sizeof(record->mac)];
	if (memcmp(record->magic, key->magic, sizeof(key->magic)))
		return false;
	make_mac(key, record, mac);
	return !memcmp(mac, record->mac, sizeof(mac)) && length_of(record) == record->length;
}

bool ft_disk_record_whole(const struct ft_disk_record_key *key, const struct ft_disk_record *record, const void *payload)
{
	XXH128_canonical_t hash;
	XXH128_canonicalFromHash(&hash, XXH3_128bits_withSeed(payload, record->length, key->seed));
	return !memcmp(&hash, record->hash, sizeof(record->hash));
}
