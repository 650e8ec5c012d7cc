/* Bytes from and to the decoded form. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "vmm/state/format.h"

_Static_assert(sizeof(struct ft_state_header) == 24 && sizeof(struct ft_state_section_header) == 16, "state.md");
_Static_assert(sizeof(struct ft_kvm_regs) == 144 && sizeof(struct ft_kvm_sregs) == 320, "KVM ABI");
_Static_assert(sizeof(struct ft_kvm_debugregs) == 128 && sizeof(struct ft_kvm_events) == 64, "KVM ABI");
_Static_assert(sizeof(struct ft_kvm_pic) == 16 && sizeof(struct ft_kvm_ioapic) == 216, "KVM ABI");
_Static_assert(sizeof(struct ft_kvm_pit) == 112 && sizeof(struct ft_kvm_lapic) == 1024, "KVM ABI");
_Static_assert(sizeof(struct ft_kvm_xsave) == 576 && sizeof(struct ft_kvm_cpuid) == 40, "KVM ABI");
_Static_assert(sizeof(struct ft_state_machine) == 64 && sizeof(struct ft_state_clock) == 64, "state.md");
_Static_assert(sizeof(struct ft_state_board) == 200 && sizeof(struct ft_state_uart) == 4128, "state.md");
_Static_assert(sizeof(struct ft_state_pci) == 336 && sizeof(struct ft_state_virtio) == 176, "state.md");
_Static_assert(sizeof(struct ft_state_timers) == 48 && sizeof(struct ft_state_processor) == 2512, "state.md");

/* Where each section's content is in the decoded form. most: how many elements it may have; count: where their number
 * goes, 0 when there is always `most`. The sections that begin with a count of their own have functions. */
struct place {
	size_t at, size, count;
	unsigned most;
};

#define ONE(member) {offsetof(struct ft_state, member), sizeof(((struct ft_state *)0)->member), 0, 1}
#define MANY(member, number)                                                                                 \
	{offsetof(struct ft_state, member), sizeof(((struct ft_state *)0)->member[0]), offsetof(struct ft_state, number),  \
	 sizeof(((struct ft_state *)0)->member) / sizeof(((struct ft_state *)0)->member[0])}

static const struct place places[FT_STATE_TAGS] = {
    [FT_STATE_MACHINE] = ONE(machine), [FT_STATE_CPUID] = MANY(cpuid, cpuids),
    [FT_STATE_REGS] = ONE(regs),       [FT_STATE_SREGS] = ONE(sregs),
    [FT_STATE_DEBUG] = ONE(debugregs), [FT_STATE_MSRS] = MANY(msrs, msr_count),
    [FT_STATE_XSAVE] = ONE(xsave),     [FT_STATE_EVENTS] = ONE(events),
    [FT_STATE_MP] = ONE(mp),           [FT_STATE_CLOCK] = ONE(clock),
    [FT_STATE_PIC] = ONE(pic),         [FT_STATE_IOAPIC] = ONE(ioapic),
    [FT_STATE_LAPIC] = ONE(lapic),     [FT_STATE_PIT] = ONE(pit),
    [FT_STATE_BOARD] = ONE(board),     [FT_STATE_UART] = ONE(uart),
    [FT_STATE_PCI] = MANY(pci, pcis),  [FT_STATE_VIRTIO] = MANY(virtio, virtios),
    [FT_STATE_TIMERS] = ONE(timers),   [FT_STATE_PROCESSORS] = MANY(processors, processor_count),
    [FT_STATE_SPECULATION] = MANY(speculation, speculations),
};

static const char *const names[FT_STATE_TAGS] = {
#define X(tag, number, name) [FT_STATE_##tag] = name,
    FT_STATE_SECTIONS(X)
#undef X
};

static uint64_t up8(uint64_t n)
{
	return (n + 7) & ~7ull;
}

/* ---- Encoding ---------------------------------------------------------------------------------------------------- */

/* The content of a section: one or two pieces, its length. */
struct content {
	const void *piece[2];
	uint64_t length[2];
};

static struct content content_of(const struct ft_state *s, unsigned tag)
{
	const uint8_t *base = (const uint8_t *)s;
	uint32_t count = 1;
	switch (tag) {
	case FT_STATE_NET:
		return (struct content){{s->net, NULL}, {s->net_length, 0}};
	case FT_STATE_RNG:
		return (struct content){{&s->rng, s->rng_heads}, {sizeof(s->rng), s->rng.count * sizeof(s->rng_heads[0])}};
	case FT_STATE_BLK:
		return (struct content){{&s->blk, s->blk_requests},
					{sizeof(s->blk), s->blk.count * sizeof(s->blk_requests[0])}};
	}
	const struct place *p = &places[tag];
	if (p->count)
		memcpy(&count, base + p->count, sizeof(count));
	return (struct content){{base + p->at, NULL}, {count * p->size, 0}};
}

static uint32_t version_of(const struct ft_state *s)
{
	return s->present[FT_STATE_SPECULATION]  ? FT_STATE_VERSION_SPECULATION
	       : s->present[FT_STATE_PROCESSORS] ? FT_STATE_VERSION_PROCESSORS
						 : FT_STATE_VERSION;
}

int ft_state_encode(const struct ft_state *s, uint8_t **bytes, size_t *length, struct ft_error *err)
{
	struct ft_state_header header = {.magic = FT_STATE_MAGIC,
					 .version = version_of(s)};
	uint64_t total = sizeof(header);
	for (unsigned tag = 1; tag < FT_STATE_TAGS; tag++) {
		if (!s->present[tag])
			continue;
		struct content c = content_of(s, tag);
		total += sizeof(struct ft_state_section_header) + up8(c.length[0] + c.length[1]);
		header.sections++;
	}
	header.length = total += FT_STATE_CHECKSUM;
	uint8_t *out = calloc(1, total);
	if (!out)
		return ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	memcpy(out, &header, sizeof(header));
	uint64_t at = sizeof(header);
	for (unsigned tag = 1; tag < FT_STATE_TAGS; tag++) {
		if (!s->present[tag])
			continue;
		struct content c = content_of(s, tag);
		struct ft_state_section_header section = {.tag = tag, .length = c.length[0] + c.length[1]};
		memcpy(out + at, &section, sizeof(section));
		at += sizeof(section);
		memcpy(out + at, c.piece[0], c.length[0]);
		if (c.length[1])
			memcpy(out + at + c.length[0], c.piece[1], c.length[1]);
		at += up8(section.length);
	}
	uint64_t checksum = XXH3_64bits(out, at);
	memcpy(out + at, &checksum, sizeof(checksum));
	*bytes = out;
	*length = total;
	return 0;
}

/* ---- Decoding ---------------------------------------------------------------------------------------------------- */

static int check_header(const struct ft_state_header *h, const uint8_t *bytes, size_t length, struct ft_error *err)
{
	if (memcmp(h->magic, FT_STATE_MAGIC, sizeof(h->magic)))
		return ft_error_set(err, -EBADMSG, "machine state: header.magic: these are not a machine's state");
	if (h->version < FT_STATE_VERSION || h->version > FT_STATE_VERSION_SPECULATION)
		return ft_error_set(err, -ENOTSUP, "machine state: header.version is %u (this program reads versions %u to %u)", h->version,
				    FT_STATE_VERSION, FT_STATE_VERSION_SPECULATION);
	if (h->length != length)
		return ft_error_set(err, -EBADMSG, "machine state: header.length is %llu (there are %zu bytes)",
				    (unsigned long long)h->length, length);
	uint64_t checksum;
	memcpy(&checksum, bytes + length - sizeof(checksum), sizeof(checksum));
	if (checksum != XXH3_64bits(bytes, length - sizeof(checksum)))
		return ft_error_set(err, -EBADMSG, "machine state: checksum: the bytes are corrupted");
	return 0;
}

/* `count` elements behind a struct ft_state_waiting. */
static int take_waiting(const char *name, const uint8_t *at, uint64_t length, struct ft_state_waiting *waiting, void *to,
			uint64_t size, struct ft_error *err)
{
	if (length < sizeof(*waiting))
		return ft_state_refuse(err, length, "too short", "%s.length", name);
	memcpy(waiting, at, sizeof(*waiting));
	if (waiting->count > FT_VIRTQUEUE_MAX)
		return ft_state_refuse(err, waiting->count, "more than a queue has", "%s.count", name);
	if (length != sizeof(*waiting) + waiting->count * size)
		return ft_state_refuse(err, length, "does not fit count", "%s.length", name);
	memcpy(to, at + sizeof(*waiting), waiting->count * size);
	return 0;
}

static int take_section(struct ft_state *s, unsigned tag, const uint8_t *at, uint64_t length, struct ft_error *err)
{
	const struct place *p = &places[tag];
	switch (tag) {
	case FT_STATE_NET:
		s->net = at;
		s->net_length = length;
		return 0;
	case FT_STATE_RNG:
		return take_waiting(names[tag], at, length, &s->rng, s->rng_heads, sizeof(s->rng_heads[0]), err);
	case FT_STATE_BLK:
		return take_waiting(names[tag], at, length, &s->blk, s->blk_requests, sizeof(s->blk_requests[0]), err);
	}
	if (!p->count && length != p->size)
		return ft_state_refuse(err, length, "not what it has in this version", "%s.length", names[tag]);
	if (length % p->size || length / p->size > p->most)
		return ft_state_refuse(err, length, "no possible number of elements", "%s.length", names[tag]);
	uint32_t count = (uint32_t)(length / p->size);
	if (p->count)
		memcpy((uint8_t *)s + p->count, &count, sizeof(count));
	memcpy((uint8_t *)s + p->at, at, length);
	return 0;
}

static bool zero(const uint8_t *at, uint64_t length)
{
	while (length && !*at) {
		at++;
		length--;
	}
	return !length;
}

int ft_state_decode(struct ft_state *s, const void *from, size_t length, struct ft_error *err)
{
	const uint8_t *bytes = from;
	struct ft_state_header header;
	memset(s, 0, sizeof(*s));
	if (length < sizeof(header) + FT_STATE_CHECKSUM || length > FT_STATE_LENGTH_MAX)
		return ft_error_set(err, -EBADMSG, "machine state: length: %zu bytes are no state", length);
	memcpy(&header, bytes, sizeof(header));
	int error = check_header(&header, bytes, length, err);
	uint64_t at = sizeof(header);
	unsigned last = 0;
	length -= FT_STATE_CHECKSUM;
	for (uint32_t n = 0; !error && n < header.sections; n++) {
		struct ft_state_section_header section;
		if (length - at < sizeof(section))
			return ft_state_refuse(err, header.sections, "more than there are", "header.sections");
		memcpy(&section, bytes + at, sizeof(section));
		at += sizeof(section);
		if (section.tag <= last || section.tag >= FT_STATE_TAGS)
			return ft_state_refuse(err, section.tag, "unknown, twice, or out of order", "section[%u].tag", n);
		if (section.reserved)
			return ft_state_refuse(err, section.reserved, "not 0", "%s.reserved", names[section.tag]);
		if (section.length > length - at || up8(section.length) > length - at)
			return ft_state_refuse(err, section.length, "reaches behind the end", "%s.length",
					       names[section.tag]);
		uint64_t padding = up8(section.length) - section.length;
		if (!zero(bytes + at + section.length, padding))
			return ft_state_refuse(err, padding, "bytes of padding are not 0", "%s.padding",
					       names[section.tag]);
		last = section.tag;
		s->present[section.tag] = true;
		error = take_section(s, section.tag, bytes + at, section.length, err);
		at += up8(section.length);
	}
	if (!error && at != length)
		return ft_state_refuse(err, header.sections, "fewer than there are", "header.sections");
	if (!error && header.version != version_of(s))
		return ft_state_refuse(err, header.version, "the sections are another version's", "header.version");
	return error;
}
