/* Two guests that go on from one snapshot: each is told by its generation ID that it is not the only one, its stock kernel reseeds,
 * and from there on they make other random numbers. The same two without that would make the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/channel.h"
#include "stand.h"

#define MEMORY  256
#define RESEEDS "crng reseeded due to virtual machine fork"

static const char *vmm, *images;

/* The first random number behind a place of the console: its count, and the number itself in text. */
static unsigned random_behind(struct stand *s, const char *place, char text[33])
{
	unsigned count = 0;
	if (!stand_wait_console(s, place, NULL, NULL))
		fail_msg("the console never said \"%s\"", place);
	for (int i = 0; i < STAND_PATIENCE_MS / 50; i++) {
		const char *at = strstr(s->log, place), *line = at ? strstr(at, "\nrandom ") : NULL;
		if (line && strchr(line + 1, '\n') && sscanf(line, "\nrandom %u %32s", &count, text) == 2)
			return count;
		stand_message(s, 50);
		stand_wait_console(s, place, NULL, NULL); /* reads on */
	}
	fail_msg("no random number behind \"%s\"", place);
	return 0;
}

static void a_restored_guest_reseeds(void **state)
{
	struct stand a, b[2];
	char path[] = "/tmp/foretaste-saved-XXXXXX", first[33], text[2][33];
	int file = mkstemp(path);
	unlink(path);
	assert_int_equal(stand_spawn(&a, vmm, NULL), 0);
	assert_int_equal(stand_configure(&a, images, "console=ttyS0 loglevel=6", MEMORY, 1), 0);
	stand_link(&a);
	unsigned before = random_behind(&a, "\nrandom 1 ", first);
	json_t *message = json_pack("{s:s, s:I}", "op", "snapshot", "created_ns", (json_int_t)1);
	assert_int_equal(ft_channel_send(a.channel, message, &file, 1), 0);
	json_decref(message);
	for (int i = 0; i < STAND_PATIENCE_MS / 100 && !a.saved; i++)
		stand_message(&a, 100);
	assert_true(a.saved && json_object_get(a.saved, "mac"));
	/* It has booted with an ID, which is no reason to reseed. */
	assert_null(strstr(a.log, RESEEDS));
	stand_end(&a);
	unsigned count[2];
	for (int i = 0; i < 2; i++) {
		assert_int_equal(stand_spawn(&b[i], vmm, NULL), 0);
		assert_int_equal(stand_restore(&b[i], images, MEMORY, 1, file, false), 0);
		stand_link(&b[i]);
		count[i] = random_behind(&b[i], RESEEDS, text[i]);
		stand_end(&b[i]);
	}
	fprintf(stderr, "after number %u: %u %s, %u %s\n", before, count[0], text[0], count[1], text[1]);
	assert_true(count[0] > before && count[1] > before);
	assert_string_not_equal(text[0], text[1]);
	close(file);
}

int main(void)
{
	vmm = getenv("FORETASTE_VMM");
	images = getenv("FORETASTE_IMAGES");
	if (!vmm || !images) {
		printf("SKIP: FORETASTE_VMM, FORETASTE_IMAGES\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_restored_guest_reseeds)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
