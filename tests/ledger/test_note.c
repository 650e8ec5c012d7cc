/* Notes, keys and checkpoints: the texts of the C2SP documents, and what must not be taken for one of ours. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sodium.h>
#include <cmocka.h>

#include "ledger/key.h"
#include "ledger/note.h"
#include "tests/ledger/place.h"
#include "verify/note.h"

/* The key of the example of Go's note package: PeterNeumann+c74f20a3+ARpc2Q... */
static void the_key_id_is_that_of_the_signed_note_text(void **state)
{
	uint8_t what[33], id[4];
	size_t n;
	assert_int_equal(sodium_base642bin(what, 33, "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", 44, NULL, &n, NULL,
					   sodium_base64_VARIANT_ORIGINAL), 0);
	assert_int_equal(what[0], FT_NOTE_ED25519);
	ft_note_key_id(id, "PeterNeumann", FT_NOTE_ED25519, NULL, what + 1, 32);
	assert_memory_equal(id, "\xc7\x4f\x20\xa3", 4);
	/* And its signature is Ed25519 of the text with its last newline, behind four bytes of ID. */
	static const char text[] = "If you think cryptography is the answer to your problem,\n"
				   "then you don't know what your problem is.\n";
	uint8_t line[68];
	assert_int_equal(sodium_base642bin(line, 68, "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=",
					   92, NULL, &n, NULL, sodium_base64_VARIANT_ORIGINAL), 0);
	assert_memory_equal(line, id, 4);
	assert_int_equal(crypto_sign_verify_detached(line + 4, (const uint8_t *)text, strlen(text), what + 1), 0);
}

/* The checkpoint of c2sp.org/tlog-checkpoint. */
static void the_text_of_a_checkpoint_is_that_of_c2sp(void **state)
{
	struct ft_checkpoint c = {.origin = "example.com/behind-the-sofa", .size = 20852163};
	char text[FT_NOTE_MAX];
	size_t n;
	assert_int_equal(sodium_base642bin(c.root.bytes, 32, "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=", 44, NULL, &n, NULL,
					   sodium_base64_VARIANT_ORIGINAL), 0);
	n = ft_checkpoint_text(&c, text);
	assert_string_equal(text, "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n");
	assert_int_equal(n, strlen(text));
}

struct signed_note {
	struct place place;
	struct ft_key *key;
	char key_text[FT_NOTE_KEY], note[FT_NOTE_MAX];
	size_t length;
};

static void make(struct signed_note *s, unsigned epochs)
{
	struct ft_error err = {0};
	place_open(&s->place);
	assert_int_equal(ft_key_make(&ft_io_system, s->place.fd, "example.com/log", 3, &err), 0);
	assert_int_equal(ft_key_load(&s->key, s->place.fd, &err), 0);
	for (unsigned i = 0; i < epochs; i++)
		assert_int_equal(ft_key_evolve(s->key, &ft_io_system, s->place.fd), 0);
	struct ft_checkpoint c = {.origin = "example.com/log", .size = 12345};
	struct ft_note_evolving signature;
	char text[FT_NOTE_MAX];
	memset(c.root.bytes, 0xa5, 32);
	ft_key_sign(s->key, text, ft_checkpoint_text(&c, text), &signature);
	s->length = ft_checkpoint_note(&c, ft_key_public(s->key), &signature, s->note);
	ft_note_key_format(ft_key_public(s->key), s->key_text);
}

static void done(struct signed_note *s)
{
	ft_key_free(s->key);
	place_close(&s->place);
}

static void both_sides_open_what_is_signed_in_each_epoch(void **state)
{
	for (unsigned epoch = 0; epoch < 8; epoch++) {
		struct signed_note s;
		struct ft_checkpoint c;
		struct ft_note_evolving e;
		struct ft_seen_key key;
		struct ft_seen seen;
		make(&s, epoch);
		assert_int_equal(ft_checkpoint_open(s.note, s.length, ft_key_public(s.key), &c, &e), 0);
		assert_int_equal(c.size, 12345);
		assert_int_equal(e.epoch, epoch);
		assert_true(ft_seen_key_parse(&key, s.key_text, strlen(s.key_text)));
		assert_null(ft_seen_open(&seen, s.note, s.length, &key, NULL));
		assert_int_equal(seen.size, 12345);
		assert_int_equal(seen.epoch, epoch);
		assert_int_equal(seen.root.bytes[7], 0xa5);
		/* There are eight epochs; the last one does not end. */
		assert_int_equal(ft_key_evolve(s.key, &ft_io_system, s.place.fd), epoch == 7 ? -ENOKEY : 0);
		done(&s);
	}
}

static void no_changed_byte_of_a_note_passes(void **state)
{
	struct signed_note s;
	struct ft_checkpoint c;
	struct ft_seen_key key;
	struct ft_seen seen;
	make(&s, 5);
	assert_true(ft_seen_key_parse(&key, s.key_text, strlen(s.key_text)));
	for (size_t i = 0; i < s.length; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			s.note[i] ^= (char)(1 << bit);
			assert_int_not_equal(ft_checkpoint_open(s.note, s.length, ft_key_public(s.key), &c, NULL), 0);
			assert_non_null(ft_seen_open(&seen, s.note, s.length, &key, NULL));
			s.note[i] ^= (char)(1 << bit);
		}
		assert_int_not_equal(ft_checkpoint_open(s.note, i, ft_key_public(s.key), &c, NULL), 0);
		assert_non_null(ft_seen_open(&seen, s.note, i, &key, NULL));
	}
	done(&s);
}

static void no_changed_byte_of_a_key_passes(void **state)
{
	struct signed_note s;
	struct ft_note_key parsed;
	struct ft_seen_key key;
	make(&s, 0);
	size_t n = strlen(s.key_text);
	assert_int_equal(ft_note_key_parse(&parsed, s.key_text, n), 0);
	assert_memory_equal(&parsed.root, &ft_key_public(s.key)->root, 32);
	for (size_t i = 0; i < n; i++) {
		s.key_text[i]++;
		assert_int_equal(ft_note_key_parse(&parsed, s.key_text, n), -EINVAL);
		assert_false(ft_seen_key_parse(&key, s.key_text, n));
		s.key_text[i]--;
		assert_int_equal(ft_note_key_parse(&parsed, s.key_text, i), -EINVAL);
		assert_false(ft_seen_key_parse(&key, s.key_text, i));
	}
	done(&s);
}

/* Whoever takes the key of epoch 3 has no way to epoch 2: its seed is nowhere, in no file and not in the key. */
static void an_evolved_key_has_forgotten(void **state)
{
	struct signed_note s;
	char before[64], after[64];
	size_t n, m;
	int error;
	make(&s, 2);
	char *old = ft_io_read_file(s.place.fd, "secret/key", 64, &n, &error);
	assert_non_null(old);
	memcpy(before, old, n);
	/* The old file, held open, is overwritten before it goes. */
	int fd = openat(s.place.fd, "secret/key", O_RDONLY);
	assert_int_equal(ft_key_evolve(s.key, &ft_io_system, s.place.fd), 0);
	assert_int_equal(ft_io_read(fd, after, n, 0), n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(after[i], 0);
	close(fd);
	char *new = ft_io_read_file(s.place.fd, "secret/key", 64, &m, &error);
	assert_int_equal(m, n);
	assert_memory_not_equal(new + 12, before + 12, 32);
	assert_int_equal(new[11], 3);
	free(old);
	free(new);
	/* What is loaded again signs as epoch 3. */
	struct ft_key *loaded;
	struct ft_error err = {0};
	assert_int_equal(ft_key_load(&loaded, s.place.fd, &err), 0);
	assert_int_equal(ft_key_epoch(loaded), 3);
	ft_key_free(loaded);
	done(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_key_id_is_that_of_the_signed_note_text),
	    cmocka_unit_test(the_text_of_a_checkpoint_is_that_of_c2sp),
	    cmocka_unit_test(both_sides_open_what_is_signed_in_each_epoch),
	    cmocka_unit_test(no_changed_byte_of_a_note_passes),
	    cmocka_unit_test(no_changed_byte_of_a_key_passes),
	    cmocka_unit_test(an_evolved_key_has_forgotten),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
