#include "journal/record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define CLOCK_UNIT FT_RECORD_CLOCK_UNIT

_Static_assert((unsigned)FT_INPUT_KINDS <= (unsigned)FT_RECORD_PEER && FT_RECORD_KINDS <= 16, "four bits");
_Static_assert(sizeof(struct ft_record_peer) == 40, "journal.md");

static size_t put_number(uint8_t *to, uint64_t value)
{
	size_t n = 0;
	for (; value >= 0x80; value >>= 7)
		to[n++] = (uint8_t)(value | 0x80);
	to[n++] = (uint8_t)value;
	return n;
}

/* -EAGAIN, or -EBADMSG for one that is longer than it has to be or than 64 bits. */
static int take_number(struct ft_record_cursor *c, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		if (c->at == c->end)
			return -EAGAIN;
		uint8_t byte = *c->at++;
		if ((shift == 63 && byte > 1) || (!byte && shift))
			return -EBADMSG;
		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return 0;
	}
	return -EBADMSG;
}

static bool is_input(unsigned kind)
{
	return kind < FT_INPUT_KINDS;
}

bool ft_record_has_payload(const struct ft_record *record)
{
	return (is_input(record->kind) && record->kind != FT_INPUT_CLOCK) || record->kind == FT_RECORD_TRIAL;
}

/* Of inputs, the clock's alone have a value that says something. */
static bool has_value(unsigned kind)
{
	return kind == FT_RECORD_END || kind == FT_RECORD_CHECKPOINT || kind == FT_RECORD_PEER || kind == FT_RECORD_TRIAL;
}

/* Bytes that stand among the control bytes. */
static size_t check_bytes(unsigned kind)
{
	if (kind == FT_RECORD_PEER)
		return sizeof(struct ft_record_peer);
	if (kind == FT_RECORD_FRAME_FROM)
		return 4;
	return kind == FT_RECORD_CHECK ? FT_CHECK_BYTES : kind == FT_RECORD_CHECK_WRITTEN ? FT_CHECK_WRITTEN_BYTES : 0;
}

/* ---- Encoding ---------------------------------------------------------------------------------------------------- */

static void note(struct ft_record_state *s, const struct ft_record *r)
{
	s->last = r->icount;
	if (r->where != FT_WHERE_INSIDE)
		s->boundary = r->icount;
	if (r->kind == FT_INPUT_CLOCK)
		s->clock = r->value;
	if (r->kind == FT_RECORD_PEER) {
		s->peers[r->value].known = true;
		s->peers[r->value].next = 0;
	} else if (r->kind == FT_RECORD_FRAME_FROM) {
		s->peers[r->peer].next = r->value + 1;
	}
	s->begun = true;
}

size_t ft_record_encode(struct ft_record_state *s, const struct ft_record *r, uint8_t to[FT_RECORD_CONTROL_MAX])
{
	size_t n = 0;
	to[n++] = (uint8_t)(r->kind | r->where << 4);
	if (r->kind == FT_RECORD_CHECKPOINT)
		n += put_number(to + n, r->icount);
	else if (r->where == FT_WHERE_HALT || r->where == FT_WHERE_COUNT)
		n += put_number(to + n, r->icount - s->boundary);
	else if (r->where == FT_WHERE_INSIDE)
		n += put_number(to + n, r->icount - s->last);
	if (r->kind == FT_INPUT_CLOCK) {
		bool coarse = r->value % CLOCK_UNIT == 0 && s->clock % CLOCK_UNIT == 0;
		n += put_number(to + n, coarse ? (r->value - s->clock) / CLOCK_UNIT << 1 : (r->value - s->clock) << 1 | 1);
	} else if (has_value(r->kind)) {
		n += put_number(to + n, r->value);
	} else if (r->kind == FT_RECORD_FRAME_FROM) {
		to[n++] = r->peer;
		n += put_number(to + n, r->value - s->peers[r->peer].next);
	}
	if (ft_record_has_payload(r))
		n += put_number(to + n, r->length);
	else if (check_bytes(r->kind)) {
		memcpy(to + n, r->data, r->length);
		n += r->length;
	}
	note(s, r);
	return n;
}

/* ---- Decoding ---------------------------------------------------------------------------------------------------- */

static int add(uint64_t base, uint64_t more, uint64_t *sum)
{
	/* Counts and times are far from 2^63 in this world; one that is not is no record. */
	*sum = base + more;
	return base > INT64_MAX || more > INT64_MAX || *sum > INT64_MAX ? -EBADMSG : 0;
}

static int take_place(const struct ft_record_state *s, struct ft_record_cursor *c, struct ft_record *r)
{
	uint64_t delta = r->where == FT_WHERE_SLICE ? FT_RECORD_SLICE : 0;
	int error = 0;
	if (r->kind == FT_RECORD_CHECKPOINT || (r->where != FT_WHERE_SAME && r->where != FT_WHERE_SLICE))
		error = take_number(c, &delta);
	if (error)
		return error;
	if (r->kind == FT_RECORD_CHECKPOINT)
		return s->begun ? -EBADMSG : add(0, delta, &r->icount);
	if (!s->begun)
		return -EBADMSG;
	/* What is beside a run comes no earlier than what was inside it. */
	error = add(r->where == FT_WHERE_INSIDE ? s->last : s->boundary, delta, &r->icount);
	return error ? error : r->icount < s->last ? -EBADMSG : 0;
}

static int take_value(const struct ft_record_state *s, struct ft_record_cursor *c, struct ft_record *r)
{
	uint64_t value = 0;
	int error = 0;
	if (r->kind == FT_INPUT_CLOCK) {
		error = take_number(c, &value);
		if (error)
			return error;
		uint64_t step = value >> 1;
		if (!(value & 1) && (step > INT64_MAX / CLOCK_UNIT || s->clock % CLOCK_UNIT))
			return -EBADMSG;
		/* One way to say it. */
		if (value & 1 && s->clock % CLOCK_UNIT == 0 && step % CLOCK_UNIT == 0)
			return -EBADMSG;
		return add(s->clock, value & 1 ? step : step * CLOCK_UNIT, &r->value);
	}
	if (r->kind == FT_RECORD_FRAME_FROM) {
		if (c->at == c->end)
			return -EAGAIN;
		r->peer = *c->at++;
		if (r->peer >= FT_RECORD_PEERS || !s->peers[r->peer].known)
			return -EBADMSG;
		error = take_number(c, &value);
		return error ? error : add(s->peers[r->peer].next, value, &r->value);
	}
	if (!has_value(r->kind))
		return 0;
	error = take_number(c, &r->value);
	if (!error && r->kind == FT_RECORD_PEER && r->value >= FT_RECORD_PEERS)
		return -EBADMSG;
	if (!error && r->kind == FT_RECORD_END && r->value > FT_RESET_TRIPLE_FAULT)
		return -EBADMSG;
	return error;
}

static int take_data(struct ft_record_cursor *control, struct ft_record_cursor *payload, struct ft_record *r)
{
	uint64_t length = check_bytes(r->kind);
	struct ft_record_cursor *from = length ? control : payload;
	int error = ft_record_has_payload(r) ? take_number(control, &length) : 0;
	if (error)
		return error;
	if (length > FT_RECORD_PAYLOAD_MAX)
		return -EBADMSG;
	if ((size_t)(from->end - from->at) < length)
		return -EAGAIN;
	r->data = from->at;
	r->length = (uint32_t)length;
	/* A name that ends, and is one. */
	if (r->kind == FT_RECORD_PEER && (!r->data[offsetof(struct ft_record_peer, guest)] || r->data[length - 1]))
		return -EBADMSG;
	from->at += length;
	return 0;
}

int ft_record_decode(struct ft_record_state *s, struct ft_record_cursor *control, struct ft_record_cursor *payload,
		     struct ft_record *r, struct ft_error *err)
{
	struct ft_record_cursor was = *control, was_payload = *payload;
	*r = (struct ft_record){0};
	if (control->at == control->end)
		return -EAGAIN;
	uint8_t tag = *control->at++;
	r->kind = tag & 15;
	r->where = tag >> 4;
	bool known = is_input(r->kind) || (r->kind >= FT_RECORD_PEER && r->kind < FT_RECORD_KINDS);
	bool possible = known && r->where < FT_WHERES && (r->where != FT_WHERE_INSIDE || is_input(r->kind)) &&
			(r->kind != FT_RECORD_CHECKPOINT || r->where == FT_WHERE_SAME);
	int error = possible ? take_place(s, control, r) : -EBADMSG;
	if (!error)
		error = take_value(s, control, r);
	if (!error)
		error = take_data(control, payload, r);
	if (!error) {
		note(s, r);
		return 0;
	}
	*control = was;
	*payload = was_payload;
	if (error == -EBADMSG)
		ft_error_set(err, error, "a record with tag 0x%02x behind instruction %llu is none", tag,
			     (unsigned long long)s->last);
	return error;
}

/* ---- Checks ------------------------------------------------------------------------------------------------------ */

void ft_record_check(const uint64_t hash[FT_COMPONENT_COUNT], uint8_t bytes[FT_CHECK_BYTES])
{
	uint32_t all = (uint32_t)XXH3_64bits(hash, FT_COMPONENT_LIGHT * sizeof(*hash));
	memset(bytes, 0, FT_CHECK_BYTES);
	memcpy(bytes, &all, sizeof(all));
	for (unsigned i = 0; i < FT_COMPONENT_LIGHT; i++)
		bytes[4 + i / 2] |= (uint8_t)((hash[i] & 15) << (i % 2 * 4));
}

void ft_record_check_written(const uint64_t hash[FT_COMPONENT_COUNT], uint8_t bytes[FT_CHECK_WRITTEN_BYTES])
{
	for (unsigned i = 0; i < FT_COMPONENT_COUNT; i++) {
		uint32_t part = (uint32_t)hash[i];
		memcpy(bytes + 4 * i, &part, sizeof(part));
	}
}

void ft_record_difference(bool written, const uint8_t *a, const uint8_t *b, char *text, size_t size)
{
	size_t length = written ? FT_CHECK_WRITTEN_BYTES : FT_CHECK_BYTES, n = 0;
	text[0] = 0;
	if (!memcmp(a, b, length))
		return;
	for (unsigned i = 0; i < (written ? FT_COMPONENT_COUNT : FT_COMPONENT_LIGHT); i++) {
		unsigned shift = i % 2 * 4;
		bool differs = written ? memcmp(a + 4 * i, b + 4 * i, 4) != 0
				       : ((a[4 + i / 2] ^ b[4 + i / 2]) >> shift & 15) != 0;
		if (differs && n < size)
			n += (size_t)snprintf(text + n, size - n, "%s%s", n ? ", " : "", ft_component_name(i));
	}
	if (!n)
		snprintf(text, size, "unknown");
}

const char *ft_record_name(unsigned kind)
{
	static const char *const names[FT_RECORD_KINDS] = {
	    [FT_INPUT_FRAME] = "frame",		   [FT_INPUT_CLOCK] = "clock",
	    [FT_INPUT_ENTROPY] = "entropy",	   [FT_INPUT_CONSOLE] = "console",
	    [FT_INPUT_GENERATION] = "generation ID", [FT_INPUT_DISK] = "disk",
	    [FT_RECORD_PEER] = "peer",		   [FT_RECORD_FRAME_FROM] = "frame of a peer",
	    [FT_RECORD_CHECK] = "check",	   [FT_RECORD_CHECK_WRITTEN] = "check of RAM and disk",
	    [FT_RECORD_STOP] = "stop",		   [FT_RECORD_END] = "end",
	    [FT_RECORD_CHECKPOINT] = "checkpoint",     [FT_RECORD_TRIAL] = "trial",
	};
	return kind < FT_RECORD_KINDS && names[kind] ? names[kind] : is_input(kind) ? "input" : "unknown";
}
