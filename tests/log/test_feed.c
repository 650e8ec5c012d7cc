/* The feed file when it cannot be written: what waits, what is lost, and that both are told. */
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
#include <cmocka.h>

#include "log/feed.h"

struct desk {
	char path[64];
	int fd;
	struct ft_feed feed;
};

static void sit_down(struct desk *desk, uint64_t quota)
{
	struct ft_error err = {0};
	strcpy(desk->path, "/tmp/ft-feed-XXXXXX");
	int fd = mkstemp(desk->path);
	assert_true(fd >= 0);
	close(fd);
	desk->fd = open(desk->path, O_RDWR | O_APPEND | O_CLOEXEC);
	if (ft_feed_open(&desk->feed, desk->fd, desk->fd, quota, "edge1", &err))
		fail_msg("%s", err.text);
}

static void leave(struct desk *desk)
{
	ft_feed_close(&desk->feed);
	close(desk->fd);
	unlink(desk->path);
}

/* A line with its number and about `size` bytes. */
static void write_numbered(struct desk *desk, int number, size_t size)
{
	char *text = malloc(size + 1);
	memset(text, 'x', size);
	text[size] = 0;
	json_t *line = json_pack("{s:i, s:s}", "number", number, "text", text);
	ft_feed_write(&desk->feed, line);
	json_decref(line);
	free(text);
}

/* Reads the file: numbers have to rise by one; returns the lines without a number. */
static json_t *read_back(const struct desk *desk, int *next)
{
	FILE *file = fopen(desk->path, "r");
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	json_t *others = json_array();
	assert_non_null(file);
	while ((n = getline(&line, &room, file)) > 0) {
		assert_int_equal(line[n - 1], '\n');
		json_t *json = json_loadb(line, (size_t)n, 0, NULL);
		assert_non_null(json);
		if (json_object_get(json, "number"))
			assert_int_equal(json_integer_value(json_object_get(json, "number")), (*next)++);
		else
			json_array_append(others, json);
		json_decref(json);
	}
	free(line);
	fclose(file);
	return others;
}

static void what_waits_comes_out_whole_and_in_order(void **state)
{
	struct desk desk;
	char text[160];
	int next = 0;
	sit_down(&desk, 1000);
	for (int i = 0; i < 30; i++)
		write_numbered(&desk, i, 100);
	assert_true(desk.feed.waiting > 0);
	assert_int_equal(desk.feed.lost, 0);
	assert_non_null(strstr(ft_feed_trouble(&desk.feed, text), "feed_quota"));
	assert_false(ft_feed_retry(&desk.feed));
	json_t *others = read_back(&desk, &next);
	assert_int_equal(json_array_size(others), 0);
	json_decref(others);
	assert_true(next > 0 && next < 30);
	/* Somebody moves the old lines away, several times. */
	while (desk.feed.waiting) {
		assert_int_equal(ftruncate(desk.fd, 0), 0);
		ft_feed_retry(&desk.feed);
		json_decref(read_back(&desk, &next));
	}
	assert_int_equal(next, 30);
	assert_null(ft_feed_trouble(&desk.feed, text));
	assert_int_equal(desk.feed.written, 30);
	leave(&desk);
}

static void a_loss_is_told_where_it_happened(void **state)
{
	enum { LINE = 64 << 10 };
	struct desk desk;
	int next = 0, sent = 0;
	sit_down(&desk, 10);
	while (desk.feed.lost < 5)
		write_numbered(&desk, sent++, LINE);
	assert_true(desk.feed.waiting_bytes <= FT_FEED_WAITING);
	int kept = sent - 5;
	/* Room again; the next line comes after the gap and its explanation. */
	desk.feed.quota = 0;
	json_t *after = json_pack("{s:s}", "after", "the gap");
	ft_feed_write(&desk.feed, after);
	json_decref(after);
	assert_int_equal(desk.feed.waiting, 0);
	json_t *others = read_back(&desk, &next);
	assert_int_equal(next, kept);
	assert_int_equal(json_array_size(others), 2);
	const json_t *gap = json_object_get(json_array_get(others, 0), "engine");
	assert_non_null(strstr(json_string_value(json_object_get(gap, "message")), "5 lines are missing"));
	assert_non_null(json_object_get(json_array_get(others, 1), "after"));
	json_decref(others);
	assert_int_equal(desk.feed.lost, 5);
	leave(&desk);
}

static void a_full_device_is_no_end(void **state)
{
	struct ft_feed feed;
	struct ft_error err = {0};
	char text[160];
	int fd = open("/dev/full", O_WRONLY | O_APPEND | O_CLOEXEC);
	if (fd < 0)
		skip();
	assert_int_equal(ft_feed_open(&feed, fd, -1, 0, "edge1", &err), 0);
	json_t *line = json_object();
	for (int i = 0; i < 10; i++)
		ft_feed_write(&feed, line);
	json_decref(line);
	assert_int_equal(feed.waiting, 10);
	assert_non_null(strstr(ft_feed_trouble(&feed, text), strerror(ENOSPC)));
	ft_feed_close(&feed);
	close(fd);
}

static void a_pipe_does_not_block_and_gets_whole_lines_in_the_end(void **state)
{
	enum { LINES = 200, LINE = 7000 };
	struct desk desk;
	int ends[2], next = 0;
	sit_down(&desk, 0);
	assert_int_equal(pipe(ends), 0);
	struct ft_feed file = desk.feed;
	assert_int_equal(ft_feed_open(&desk.feed, ends[1], -1, 0, "edge1", NULL), 0);
	for (int i = 0; i < LINES; i++)
		write_numbered(&desk, i, LINE);
	assert_true(desk.feed.waiting > 0);
	assert_int_equal(desk.feed.trouble, EAGAIN);
	/* A reader comes, with pieces that end anywhere; the copy in the file shows what it got. */
	char piece[5001];
	while (desk.feed.waiting) {
		ssize_t n = read(ends[0], piece, sizeof(piece));
		assert_true(n > 0);
		assert_int_equal(write(desk.fd, piece, (size_t)n), n);
		ft_feed_retry(&desk.feed);
	}
	ft_feed_close(&desk.feed);
	close(ends[1]);
	for (ssize_t n; (n = read(ends[0], piece, sizeof(piece))) > 0;)
		assert_int_equal(write(desk.fd, piece, (size_t)n), n);
	close(ends[0]);
	json_decref(read_back(&desk, &next));
	assert_int_equal(next, LINES);
	desk.feed = file;
	desk.feed.last = &desk.feed.first;
	leave(&desk);
}

static void descriptors_that_cannot_append_are_refused(void **state)
{
	struct ft_feed feed;
	struct ft_error err = {0};
	char path[] = "/tmp/ft-feed-XXXXXX";
	int fd = mkstemp(path);
	assert_int_equal(ft_feed_open(&feed, fd, -1, 0, "edge1", &err), -EINVAL);
	assert_non_null(strstr(err.text, "appending"));
	close(fd);
	unlink(path);
	err = (struct ft_error){0};
	assert_int_equal(ft_feed_open(&feed, fd, -1, 0, "edge1", &err), -EBADF);
}

static void it_goes_on_in_another_file(void **state)
{
	struct desk desk;
	struct ft_error err = {0};
	char other[64] = "/tmp/ft-feed-XXXXXX";
	int pipes[2];
	sit_down(&desk, 100);
	write_numbered(&desk, 0, 20);
	write_numbered(&desk, 1, 60); /* beyond the quota: it waits */
	assert_int_equal(desk.feed.waiting, 1);
	/* What is no file changes nothing. */
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(ft_feed_reopen(&desk.feed, pipes[1], &err), -EINVAL);
	close(pipes[0]);
	assert_int_equal(desk.feed.waiting, 1);
	close(mkstemp(other));
	desk.fd = open(other, O_RDWR | O_APPEND | O_CLOEXEC);
	assert_int_equal(ft_feed_reopen(&desk.feed, desk.fd, &err), 0);
	assert_int_equal(desk.feed.waiting, 0);
	int next = 0;
	json_decref(read_back(&desk, &next));
	assert_int_equal(next, 1);
	unlink(desk.path);
	strcpy(desk.path, other);
	json_decref(read_back(&desk, &next));
	assert_int_equal(next, 2);
	leave(&desk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_waits_comes_out_whole_and_in_order),
	    cmocka_unit_test(a_loss_is_told_where_it_happened),
	    cmocka_unit_test(a_full_device_is_no_end),
	    cmocka_unit_test(a_pipe_does_not_block_and_gets_whole_lines_in_the_end),
	    cmocka_unit_test(descriptors_that_cannot_append_are_refused),
	    cmocka_unit_test(it_goes_on_in_another_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
