/* What a guest has written to its disk outlives its vmm: one that is killed, one that is cut off in the middle of writing, one that
 * goes back to a snapshot. Its file system is whole at each point at which the power could have gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/channel.h"
#include "peer.h"

#define MEMORY 256

static const char *vmm, *images, *reader, *cutter;
static char overlay[] = "/tmp/foretaste-overlay-XXXXXX";

static void boot(struct stand *s)
{
	struct peer p;
	assert_int_equal(stand_spawn(s, vmm, NULL), 0);
	s->overlay = overlay;
	assert_int_equal(stand_configure(s, images, "console=ttyS0 root=/dev/vda rw", MEMORY, 2), 0);
	stand_link(s);
	peer_open(&p, s, 40001);
	assert_true(stand_wait_console(s, "foretaste-guest: services up", peer_meanwhile, &p));
	peer_close(&p);
}

static void kill_it(struct stand *s)
{
	kill(s->pid, SIGKILL);
	stand_end(s);
}

static bool is_over(const struct peer *p)
{
	return p->finished || p->reset;
}

/* What the guest's web server says, whole; the caller's to free. */
static char *get(struct stand *s, uint16_t port, const char *path)
{
	struct peer p;
	struct stand_frame frame;
	char request[512];
	peer_open(&p, s, port);
	assert_true(peer_connect(&p));
	int n = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n", path);
	peer_segment(&p, request, (size_t)n, &frame);
	peer_put(&p, &frame);
	assert_true(peer_run(&p, STAND_PATIENCE_MS, is_over) && p.length);
	char *text = strndup(p.bytes, p.length);
	peer_close(&p);
	return text;
}

static void write_file(struct stand *s, uint16_t port, const char *name, const char *word, bool flush)
{
	char path[256];
	snprintf(path, sizeof(path), "/cgi-bin/lookup?host=localhost%%3Becho+%s%%3E%%2Fvar%%2Fwww%%2Ftouched%%2F%s%s", word, name,
		 flush ? "%3Bsync" : "");
	char *text = get(s, port, path);
	assert_non_null(strstr(text, "200 OK"));
	free(text);
}

static bool has_file(struct stand *s, uint16_t port, const char *name, const char *word)
{
	char path[128];
	snprintf(path, sizeof(path), "/touched/%s", name);
	char *text = get(s, port, path);
	bool has = strstr(text, "200 OK") && strstr(text, word);
	free(text);
	return has;
}

static void survives_kill(void **state)
{
	struct stand s;
	boot(&s);
	assert_false(has_file(&s, 40002, "first", "apples"));
	write_file(&s, 40003, "first", "apples", true);
	kill_it(&s);
	boot(&s);
	assert_true(has_file(&s, 40004, "first", "apples"));
	/* Writes go on while it is killed. */
	write_file(&s, 40005, "second", "pears", true);
	for (uint16_t i = 0; i < 5; i++)
		write_file(&s, (uint16_t)(40010 + i), "third", "plums", false);
	kill_it(&s);
	boot(&s);
	assert_true(has_file(&s, 40006, "first", "apples"));
	assert_true(has_file(&s, 40007, "second", "pears"));
	stand_end(&s);
}

/* A guest that goes back to a snapshot has the disk of that time again, and keeps it. */
static void restored_disk_is_kept(void **state)
{
	struct stand s;
	char path[] = "/tmp/foretaste-saved-XXXXXX";
	int file = mkstemp(path);
	unlink(path);
	boot(&s);
	write_file(&s, 40020, "then", "cherries", true);
	json_t *message = json_pack("{s:s, s:I}", "op", "snapshot", "created_ns", (json_int_t)1);
	assert_int_equal(ft_channel_send(s.channel, message, &file, 1), 0);
	json_decref(message);
	for (int i = 0; i < 2 * STAND_PATIENCE_MS / 100 && !s.saved; i++)
		stand_message(&s, 100);
	assert_true(s.saved && json_object_get(s.saved, "mac"));
	write_file(&s, 40021, "then", "figs", true);
	write_file(&s, 40022, "later", "quinces", true);
	kill_it(&s);

	assert_int_equal(stand_spawn(&s, vmm, NULL), 0);
	s.overlay = overlay;
	assert_int_equal(stand_restore(&s, images, MEMORY, 2, file, true), 0);
	stand_link(&s);
	assert_true(has_file(&s, 40023, "then", "cherries"));
	kill_it(&s);
	boot(&s);
	assert_true(has_file(&s, 40024, "then", "cherries"));
	assert_false(has_file(&s, 40025, "later", "quinces"));
	stand_end(&s);
	close(file);
}

/* ---- The reader ----------------------------------------------------------------------------------------------------- */

/* Its standard output, whole; the caller's to free. */
static char *ask(const char *format, ...)
{
	char command[2000], *text = NULL;
	size_t length = 0, room = 0;
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(command, sizeof(command), format, arguments);
	va_end(arguments);
	FILE *pipe = popen(command, "re");
	assert_non_null(pipe);
	for (;;) {
		if (length + 1 >= room && !(text = realloc(text, room = room ? 2 * room : 65536)))
			fail();
		size_t n = fread(text + length, 1, room - length - 1, pipe);
		length += n;
		if (!n)
			break;
	}
	text[length] = 0;
	assert_int_equal(pclose(pipe), 0);
	return text;
}

static unsigned lines_with(const char *text, const char *word)
{
	unsigned n = 0;
	for (const char *at = text; (at = strstr(at, word)); at++)
		n++;
	return n;
}

static uint64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000;
}

/* What a file was at any time since, while the guest runs and after. */
static void tells_the_past(void **state)
{
	struct stand s;
	char *text;
	boot(&s);
	uint64_t before = now_us();
	write_file(&s, 40030, "past", "one", true);
	uint64_t first = now_us();
	write_file(&s, 40031, "past", "two-and-more", true);
	uint64_t second = now_us();
	for (int running = 1; running >= 0; running--) {
		text = ask("%s history %s %s/root.ext4 /var/www/touched/past --json --since @%llu.%06llu", reader, overlay, images,
			   (unsigned long long)before / 1000000, (unsigned long long)before % 1000000);
		assert_int_equal(strncmp(strstr(text, "\"there\""), "\"there\":false", 13), 0);
		assert_int_equal(lines_with(text, "\"bytes\":4,"), 1);
		assert_true(lines_with(text, "\"bytes\":13,") >= 1);
		free(text);
		const struct {
			uint64_t at;
			const char *text;
		} expected[] = {{first, "one\n"}, {second, "two-and-more\n"}};
		for (unsigned i = 0; i < 2; i++) {
			text = ask("%s cat %s %s/root.ext4 /var/www/touched/past --at @%llu.%06llu", reader, overlay, images,
				   (unsigned long long)expected[i].at / 1000000, (unsigned long long)expected[i].at % 1000000);
			assert_string_equal(text, expected[i].text);
			free(text);
		}
		/* A block: the superblock was there, whatever it was. */
		text = ask("%s history %s %s/root.ext4 0", reader, overlay, images);
		assert_true(lines_with(text, "written") >= 1);
		free(text);
		if (running)
			kill_it(&s);
	}
}

/* The power goes at any record: what is there is a file system that its journal puts in order, with what was flushed. */
static void whole_at_each_cut(void **state)
{
	char *text = ask("set -e; cut=$(mktemp) image=$(mktemp); trap 'rm -f $cut $image' EXIT; size=$(stat -c %%s %s); "
			 "for n in 1 2 3 4 5 6 7 8; do "
			 "head -c $((size * n / 8 - n * 1237 + 1237)) %s >$cut; %s export $cut %s/root.ext4 | dd of=$image conv=sparse bs=64k 2>/dev/null; "
			 "e2fsck -p $image >/dev/null 2>&1 || [ $? = 1 ]; e2fsck -fn $image 2>&1 | tail -1; done",
			 overlay, overlay, reader, images);
	assert_int_equal(lines_with(text, " blocks\n"), 8);
	free(text);
}

/* The same after each single record of a while in which the guest made files, one flushed before the next: there are the first so
 * many of them, whole, and at most one more, begun. */
static void whole_at_each_record(void **state)
{
	static const char check[] =
	    "set -e; image=$1; undo=$image.undo; rm -f $undo; "
	    "e2fsck -p -z $undo $image >/dev/null 2>&1 || [ $? = 1 ]; e2fsck -fn $image >/dev/null 2>&1; more=yes; "
	    "for n in 10 11 12 13 14 15 16 17 18 19; do word=$(debugfs -R \"cat /var/www/touched/row$n\" $image 2>/dev/null); "
	    "if [ $more = yes ]; then [ \"$word\" = word$n ] || more=no; else [ -z \"$word\" ]; fi; done; "
	    "[ ! -s $undo ] || e2undo $undo $image >/dev/null 2>&1";
	struct stand s;
	char script[] = "/tmp/foretaste-check-XXXXXX", name[16], word[16];
	unsigned long long before, after, cuts;
	int fd = mkstemp(script);
	assert_int_equal(write(fd, check, strlen(check)), strlen(check));
	close(fd);
	boot(&s);
	char *text = ask("%s %s %s/root.ext4 %s.image 999999999 1 false", cutter, overlay, images, script);
	assert_int_equal(sscanf(text, "0 cuts of %llu records", &before), 1);
	free(text);
	for (unsigned i = 10; i < 20; i++) {
		snprintf(name, sizeof(name), "row%u", i);
		snprintf(word, sizeof(word), "word%u", i);
		write_file(&s, (uint16_t)(40100 + i), name, word, true);
	}
	kill_it(&s);
	text = ask("%s %s %s/root.ext4 %s.image %llu 1 'sh %s'", cutter, overlay, images, script, before, script);
	assert_int_equal(sscanf(text, "%llu cuts of %llu records", &cuts, &after), 2);
	print_message("%s", text);
	assert_true(cuts >= 30 && after >= before + cuts);
	free(text);
	free(ask("rm -f %s %s.image %s.image.undo", script, script, script));
}

int main(void)
{
	reader = getenv("FORETASTE_DISK");
	cutter = getenv("FORETASTE_CUTS");
	vmm = getenv("FORETASTE_VMM");
	images = getenv("FORETASTE_IMAGES");
	char path[700];
	snprintf(path, sizeof(path), "%s/root.ext4", images ? images : "");
	if (!vmm || !reader || !cutter || access(path, R_OK)) {
		printf("SKIP: no guest image (deploy/guest/build makes it)\n");
		return 77;
	}
	int fd = mkstemp(overlay);
	if (fd < 0)
		return 1;
	close(fd);
	const struct CMUnitTest tests[] = {cmocka_unit_test(survives_kill), cmocka_unit_test(tells_the_past), cmocka_unit_test(whole_at_each_cut),
					   cmocka_unit_test(whole_at_each_record),
					   cmocka_unit_test(restored_disk_is_kept)};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	if (!failed)
		unlink(overlay);
	return failed;
}
