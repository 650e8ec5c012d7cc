/* A live guest is saved while it serves, and goes on in another foretaste-vmm from there: the TCP connection that was open when
 * it was saved still is, and until it is attached nothing of it reaches anybody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/channel.h"
#include "peer.h"

#define MEMORY 256

static const char *vmm, *images;

static size_t wanted;

static bool more(const struct peer *p)
{
	return p->length > wanted && strstr(p->bytes + wanted, "</html>");
}

static bool ask(struct peer *p)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: guest\r\n\r\n";
	struct stand_frame frame;
	wanted = p->length;
	peer_segment(p, request, sizeof(request) - 1, &frame);
	peer_put(p, &frame);
	return peer_run(p, STAND_PATIENCE_MS, more);
}

static void begin_save(struct stand *s, int file)
{
	json_t *message = json_pack("{s:s, s:I}", "op", "snapshot", "created_ns", (json_int_t)1);
	assert_int_equal(ft_channel_send(s->channel, message, &file, 1), 0);
	json_decref(message);
}

static long long number(const json_t *json, const char *key)
{
	return json_integer_value(json_object_get(json, key));
}

static json_int_t status_of(struct stand *s, const char *what)
{
	json_t *status = stand_status(s);
	json_int_t value = json_integer_value(json_object_get(status, what));
	json_decref(status);
	return value;
}

static void goes_on(void **state)
{
	struct stand a, b;
	struct peer p, then;
	char path[] = "/tmp/foretaste-saved-XXXXXX";
	int file = mkstemp(path);
	unlink(path);
	assert_int_equal(stand_spawn(&a, vmm, NULL), 0);
	assert_int_equal(stand_configure(&a, images, "console=ttyS0 root=/dev/vda rw", MEMORY, 2), 0);
	stand_link(&a);
	peer_open(&p, &a, 40001);
	assert_true(stand_wait_console(&a, "foretaste-guest: services up", peer_meanwhile, &p));
	assert_true(peer_connect(&p));
	assert_true(ask(&p));
	peer_run(&p, 500, NULL); /* every acknowledgement has come: this is the guest's view, too */
	then = p;

	begin_save(&a, file);
	begin_save(&a, file); /* one at a time */
	/* It serves meanwhile. */
	assert_true(ask(&p));
	for (int i = 0; i < 2 * STAND_PATIENCE_MS / 100 && !(a.saved && json_object_get(a.saved, "bytes")); i++)
		stand_message(&a, 100);
	assert_true(a.saved && json_object_get(a.saved, "mac"));
	assert_true(number(a.saved, "bytes") > 1 << 20);
	fprintf(stderr, "saved %lld bytes in %lld ms, the guest stood still for %lld us\n", number(a.saved, "bytes"),
		number(a.saved, "took_ns") / 1000000, number(a.saved, "pause_ns") / 1000);
	assert_true(ask(&p));
	stand_end(&a);
	peer_close(&p);

	/* Isolated: nothing goes in or comes out. */
	assert_int_equal(stand_spawn(&b, vmm, NULL), 0);
	assert_int_equal(stand_restore(&b, images, MEMORY, 2, file, false), 0);
	stand_link(&b);
	then.stand = &b;
	then.bytes = NULL;
	then.length = then.frames = 0;
	struct stand_frame frame;
	peer_segment(&then, "", 0, &frame);
	peer_put(&then, &frame);
	for (int i = 0; i < STAND_PATIENCE_MS / 100 && !status_of(&b, "rx_frames"); i++)
		peer_run(&then, 100, NULL);
	peer_run(&then, 300, NULL);
	assert_int_equal(then.frames, 0);
	assert_int_equal(status_of(&b, "rx_frames"), 1);
	assert_int_equal(status_of(&b, "rx_isolated"), 1);
	json_t *attach = json_pack("{s:s}", "op", "attach");
	assert_int_equal(ft_channel_send(b.channel, attach, NULL, 0), 0);
	json_decref(attach);
	while (stand_message(&b, 20))
		;
	/* The connection that was open when it was saved still is; and a new one; and all of its memory comes. */
	assert_true(ask(&then));
	assert_false(then.reset);
	assert_true(peer_get(&b, 40002, "/"));
	for (int i = 0; i < STAND_PATIENCE_MS / 100 && status_of(&b, "parts_absent"); i++)
		peer_run(&then, 100, NULL);
	assert_int_equal(status_of(&b, "parts_absent"), 0);
	assert_true(peer_get(&b, 40003, "/cgi-bin/lookup?host=localhost"));
	stand_end(&b);
	peer_close(&then);
	close(file);
}

/* No snapshot, a cut one, another memory size: the vmm says why and does not start. */
static void refused(void **state)
{
	struct stand s;
	int file = open("/dev/null", O_RDONLY);
	assert_int_equal(stand_spawn(&s, vmm, NULL), 0);
	assert_int_equal(stand_restore(&s, images, MEMORY, 2, file, false), -1);
	stand_end(&s);
	assert_true(WIFEXITED(s.status) && WEXITSTATUS(s.status) != 0);
	close(file);
}

int main(void)
{
	vmm = getenv("FORETASTE_VMM");
	images = getenv("FORETASTE_IMAGES");
	char path[700];
	snprintf(path, sizeof(path), "%s/root.ext4", images ? images : "");
	if (!vmm || access(path, R_OK)) {
		printf("SKIP: no guest image (deploy/guest/build makes it)\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {cmocka_unit_test(goes_on), cmocka_unit_test(refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
