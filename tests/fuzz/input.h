/* A fuzzer's input as a source of decisions: the bytes are used up from the front, and behind their end everything is
 * zero, so that each input means something and a shorter one means less. */
#ifndef FT_FUZZ_INPUT_H
#define FT_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What libFuzzer calls. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* What must hold whatever the input says. */
#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			dprintf(2, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);                   \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

/* The next bytes, at most `most`; valid as long as the input is. */
static inline const uint8_t *input_bytes(struct input *in, size_t most, size_t *length)
{
	const uint8_t *at = in->at;
	*length = most < in->left ? most : in->left;
	in->at += *length;
	in->left -= *length;
	return at;
}

static inline void input_copy(struct input *in, void *to, size_t length)
{
	size_t got;
	const uint8_t *from = input_bytes(in, length, &got);
	memset(to, 0, length);
	if (got)
		memcpy(to, from, got);
}

static inline uint8_t input8(struct input *in)
{
	uint8_t value;
	input_copy(in, &value, sizeof(value));
	return value;
}

static inline uint16_t input16(struct input *in)
{
	uint16_t value;
	input_copy(in, &value, sizeof(value));
	return value;
}

static inline uint32_t input32(struct input *in)
{
	uint32_t value;
	input_copy(in, &value, sizeof(value));
	return value;
}

static inline uint64_t input64(struct input *in)
{
	uint64_t value;
	input_copy(in, &value, sizeof(value));
	return value;
}

#endif
