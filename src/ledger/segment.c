#include "ledger/segment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ledger/entry.h"
#include "ledger/io.h"

#define BUFFER (1u << 20)
_Static_assert(BUFFER > 2 + FT_ENTRY_MAX, "a whole entry fits");

int ft_segment_walk(int fd, uint64_t count, ft_segment_entry *entry, void *context, uint64_t *bytes)
{
	uint8_t *buffer = malloc(BUFFER);
	size_t have = 0, at = 0;
	int error = buffer ? 0 : -ENOMEM;
	*bytes = 0;
	for (uint64_t number = 0; number < count && !error; number++) {
		size_t length = have - at >= 2 ? (size_t)buffer[at] << 8 | buffer[at + 1] : 0;
		if (have - at < 2 || have - at < 2 + length) {
			ssize_t n = ft_io_read(fd, buffer, BUFFER, (off_t)*bytes);
			have = n > 0 ? (size_t)n : 0;
			at = 0;
			length = have >= 2 ? (size_t)buffer[0] << 8 | buffer[1] : 0;
			if (n < 0 || have < 2 || have < 2 + length) {
				error = n < 0 ? (int)n : -EBADMSG;
				break;
			}
		}
		error = entry(context, number, buffer + at + 2, length);
		at += 2 + length;
		*bytes += 2 + length;
	}
	free(buffer);
	return error;
}
