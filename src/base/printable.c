#include "base/printable.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Length of the UTF-8 sequence at p (1..4), 0 when it is none; *code gets the character. */
static unsigned decode(const unsigned char *p, size_t left, uint32_t *code)
{
	static const struct {
		unsigned char mask, bits;
		uint32_t least;
	} forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
	for (unsigned n = 0; n < 4; n++) {
		if ((p[0] & forms[n].mask) != forms[n].bits)
			continue;
		if (n >= left)
			return 0;
		*code = p[0] & (unsigned char)~forms[n].mask;
		for (unsigned i = 1; i <= n; i++) {
			if ((p[i] & 0xc0) != 0x80)
				return 0;
			*code = *code << 6 | (p[i] & 0x3f);
		}
		bool surrogate = *code >= 0xd800 && *code < 0xe000;
		return *code < forms[n].least || *code > 0x10ffff || surrogate ? 0 : n + 1;
	}
	return 0;
}

static bool harmless(uint32_t code)
{
	return code >= 0x20 && code != 0x7f && !(code >= 0x80 && code < 0xa0) &&
	       !(code >= 0x200b && code <= 0x200f) && !(code >= 0x2028 && code <= 0x202e) &&
	       !(code >= 0x2060 && code <= 0x206f) && code != 0xfeff;
}

char *ft_printable(char *to, size_t size, const char *from, size_t length)
{
	const unsigned char *p = (const unsigned char *)from;
	size_t used = 0, cut = 0; /* cut: where "..." goes if the rest does not fit */
	if (!size)
		return to;
	for (size_t i = 0; i < length;) {
		char piece[8];
		uint32_t code = 0;
		unsigned taken = decode(p + i, length - i, &code), n = taken;
		if (taken && harmless(code)) {
			memcpy(piece, p + i, taken);
		} else {
			taken = 1;
			n = (unsigned)snprintf(piece, sizeof(piece), "\\x%02x", p[i]);
		}
		if (used + n >= size) {
			snprintf(to + cut, size - cut, "...");
			return to;
		}
		memcpy(to + used, piece, n);
		used += n;
		i += taken;
		if (used + 4 <= size)
			cut = used;
	}
	to[used] = 0;
	return to;
}
