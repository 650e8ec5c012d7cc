/* A sink as such: what a reader that is slow, stuck, or gone in the middle of a line gets to see, and syslog messages. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "log/sink.h"

/* A shipper: takes pieces of any size and makes lines of them; what is left of a line when it hangs up is no line. */
struct reader {
	int fd;
	char *text;
	size_t length;
	uint64_t next; /* number of the line that has to come, when none is missing */
	uint64_t high; /* the most that `next` has been: numbers below have come or were said to be missing */
	uint64_t
	    doubt; /* a connection began with a line that says that so many are missing: then, or again? */
	uint64_t twice;   /* lines that had come before */
	uint64_t missing; /* lines that the feed itself says are missing */
	uint64_t lines;
	bool fresh; /* nothing has come on this connection yet */
};

static void connect_parts(struct ft_sink *sink, struct reader *reader, bool parts)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	/* The kernel's least, some 4 KiB: a longer line goes in parts. A larger buffer takes several lines. */
	int small = parts ? 1 : 16 << 10;
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	assert_int_equal(shutdown(pair[0], SHUT_RD), 0);
	reader->fd = pair[1];
	reader->length = 0;
	reader->fresh = true;
	ft_sink_connect(sink, pair[0]);
}

static void connect_both(struct ft_sink *sink, struct reader *reader)
{
	connect_parts(sink, reader, false);
}

/* The feed says that lines are missing. On a new connection this may be what it had said on the last one: the number that
 * follows shows which. */
static void take_gap(struct reader *r, const char *message)
{
	unsigned long missing = strtoul(message, NULL, 10);
	assert_non_null(strstr(message, "lines are missing here"));
	assert_true(missing > 0);
	if (r->fresh) {
		r->doubt = missing;
		return;
	}
	r->missing += r->next == r->high ? missing : 0;
	r->next += missing;
}

static void take_number(struct reader *r, uint64_t number)
{
	if (r->doubt && number == r->next + r->doubt) {
		r->missing += r->next == r->high ? r->doubt : 0;
		r->next = number;
	}
	/* A new connection may begin with what was in doubt; after that nothing is out of order. */
	if (r->fresh && number < r->next)
		r->next = number;
	assert_int_equal(number, r->next);
	r->twice += number < r->high;
	r->next++;
	r->fresh = false;
	r->doubt = 0;
}

static void take_line(struct reader *r, const char *line, size_t length)
{
	json_t *json = json_loadb(line, length, 0, NULL);
	if (!json)
		fail_msg("no line: %.*s", (int)length, line);
	r->lines++;
	const char *message = json_string_value(json_object_get(json_object_get(json, "engine"), "message"));
	if (message)
		take_gap(r, message);
	else
		take_number(r, (uint64_t)json_integer_value(json_object_get(json, "number")));
	if (r->next > r->high)
		r->high = r->next;
	json_decref(json);
}

/* Reads at most `most` bytes without waiting. */
static size_t take(struct reader *r, size_t most)
{
	r->text = realloc(r->text, r->length + most);
	ssize_t n = recv(r->fd, r->text + r->length, most, MSG_DONTWAIT);
	if (n <= 0)
		return 0;
	r->length += (size_t)n;
	char *newline;
	size_t used = 0;
	while ((newline = memchr(r->text + used, '\n', r->length - used))) {
		take_line(r, r->text + used, (size_t)(newline - r->text) - used);
		used = (size_t)(newline - r->text) + 1;
	}
	memmove(r->text, r->text + used, r->length - used);
	r->length -= used;
	return (size_t)n;
}

/* As the ledger's loop does. */
static void poll_once(struct ft_sink *sink)
{
	struct pollfd look = {.fd = sink->fd, .events = ft_sink_events(sink)};
	if (sink->fd >= 0 && poll(&look, 1, 0) > 0)
		ft_sink_ready(sink, look.revents);
}

static void write_numbered(struct ft_sink *sink, uint64_t number, size_t size)
{
	char *text = malloc(size + 1);
	memset(text, 'x', size);
	text[size] = 0;
	json_t *line = json_pack("{s:I, s:s}", "number", (json_int_t)number, "text", text);
	ft_sink_write(sink, line);
	json_decref(line);
	free(text);
}

static const struct ft_sink_config socket_config = {
    .name = "socket", .path = "/run/shipper.sock", .sensor = "edge1", .buffer = 64 << 10};

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void drain(struct ft_sink *sink, struct reader *r)
{
	while (take(r, 4096) || ft_sink_events(sink) & POLLOUT)
		poll_once(sink);
}

/* Writers, readers and hang-ups at any point, 40 seeds: each number comes, in order, on whole lines, or the feed says at
 * its place how many are missing. */
static void nothing_is_lost_unseen_whatever_the_reader_does(void **state)
{
	uint64_t lost = 0, again = 0;
	for (uint64_t round = 1; round <= 40; round++) {
		uint64_t seed = round * 0x9e3779b97f4a7c15u, number = 0;
		struct ft_sink sink;
		struct reader r = {.fd = -1};
		ft_sink_open(&sink, &socket_config);
		for (int step = 0; step < 2000; step++) {
			uint64_t dice = next_random(&seed) % 100;
			if (dice < 50) {
				write_numbered(&sink, number++,
					       next_random(&seed) % (round % 2 ? 9000 : 3000));
			} else if (dice < 60 && r.fd < 0) {
				connect_parts(&sink, &r, round % 2);
			} else if (dice < 62 && r.fd >= 0) {
				close(r.fd); /* whatever is unread, and in the middle of a line */
				r.fd = -1;
			} else if (r.fd >= 0) {
				take(&r, 1 + next_random(&seed) % 6000);
			}
			if (dice % 2)
				poll_once(&sink);
			assert_true(sink.waiting_bytes <= socket_config.buffer + (64 << 10));
		}
		poll_once(&sink);
		if (sink.fd < 0)
			connect_both(&sink, &r);
		drain(&sink, &r);
		write_numbered(&sink, number++, 10); /* whatever was in doubt is not any more */
		drain(&sink, &r);
		assert_int_equal(sink.waiting, 0);
		assert_int_equal(r.next, number);
		assert_int_equal(r.missing, sink.lost);
		assert_int_equal(r.length, 0);
		assert_int_equal(sink.lost_untold, 0);
		assert_true(r.twice <= sink.again);
		lost += sink.lost;
		again += sink.again;
		close(r.fd);
		free(r.text);
		ft_sink_close(&sink);
	}
	/* Otherwise this test has seen nothing. */
	assert_true(lost > 1000);
	assert_true(again > 100);
}

static void what_was_read_does_not_come_again(void **state)
{
	struct ft_sink sink;
	struct reader r = {.fd = -1};
	ft_sink_open(&sink, &socket_config);
	for (uint64_t i = 0; i < 10; i++) {
		connect_both(&sink, &r);
		for (uint64_t k = 0; k < 5; k++)
			write_numbered(&sink, i * 5 + k, 100);
		drain(&sink, &r);
		assert_int_equal(r.next, i * 5 + 5);
		close(r.fd);
		poll_once(&sink);
		assert_int_equal(sink.fd, -1);
		assert_non_null(strstr(sink.trouble, "closed"));
	}
	assert_int_equal(r.twice, 0);
	assert_int_equal(sink.again, 0);
	assert_int_equal(sink.written, 50);
	free(r.text);
	ft_sink_close(&sink);
}

static void what_was_not_read_comes_again(void **state)
{
	struct ft_sink sink;
	struct reader r = {.fd = -1};
	ft_sink_open(&sink, &socket_config);
	connect_both(&sink, &r);
	for (uint64_t i = 0; i < 3; i++)
		write_numbered(&sink, i, 100);
	assert_int_equal(sink.written, 3);
	/* The first line and a part of the second. */
	take(&r, 150);
	assert_int_equal(r.next, 1);
	close(r.fd);
	/* The kernel frees what was unread: nothing of that may look as if it had been read. */
	write_numbered(&sink, 3, 100);
	poll_once(&sink);
	assert_int_equal(sink.fd, -1);
	assert_int_equal(sink.written, 0);
	assert_int_equal(sink.waiting, 4);
	assert_non_null(strstr(sink.trouble, "unread"));
	connect_both(&sink, &r);
	drain(&sink, &r);
	assert_int_equal(r.next, 4);
	assert_int_equal(r.twice, 1);
	assert_int_equal(sink.written, 4);
	close(r.fd);
	free(r.text);
	ft_sink_close(&sink);
}

static void without_a_reader_lines_wait_and_then_are_counted(void **state)
{
	struct ft_sink sink;
	struct reader r = {.fd = -1};
	ft_sink_open(&sink, &socket_config);
	uint64_t number = 0;
	while (sink.lost < 7)
		write_numbered(&sink, number++, 1000);
	assert_true(sink.losing);
	assert_true(sink.waiting_bytes <= socket_config.buffer);
	assert_true(sink.waiting > 50);
	ft_sink_refuse(&sink, "cannot connect to /run/shipper.sock: No such file or directory");
	json_t *status = ft_sink_status(&sink);
	assert_true(json_is_false(json_object_get(status, "connected")));
	assert_int_equal(json_integer_value(json_object_get(status, "lost")), 7);
	assert_non_null(strstr(json_string_value(json_object_get(status, "trouble")), "No such file"));
	json_decref(status);
	connect_both(&sink, &r);
	drain(&sink, &r);
	assert_int_equal(r.next, number);
	assert_int_equal(r.missing, 7);
	assert_false(sink.losing);
	write_numbered(&sink, number++, 1000);
	drain(&sink, &r);
	assert_int_equal(r.next, number);
	close(r.fd);
	free(r.text);
	ft_sink_close(&sink);
}

/* ---- syslog ------------------------------------------------------------------------------------------------- */

static struct ft_syslog open_syslog(size_t limit, bool cee)
{
	struct ft_syslog syslog;
	struct ft_error err = {0};
	if (ft_syslog_open(&syslog, "local5", "info", cee, limit, &err))
		fail_msg("%s", err.text);
	return syslog;
}

/* The JSON of a message, after checking what is in front of it. */
static json_t *parse_message(const char *text, size_t length, const char *cookie)
{
	char month[4], ident[32];
	int priority, day, hour, minute, second, pid, used = 0;
	char *copy = strndup(text, length);
	assert_int_equal(strlen(copy), length);
	assert_int_equal(sscanf(copy, "<%d>%3s %d %d:%d:%d %31[a-z][%d]: %n", &priority, month, &day, &hour,
				&minute, &second, ident, &pid, &used),
			 8);
	assert_true(used > 0);
	assert_int_equal(priority, 21 * 8 + 6);
	assert_string_equal(ident, "foretaste");
	assert_int_equal(pid, getpid());
	assert_int_equal(strncmp(copy + used, cookie, strlen(cookie)), 0);
	json_t *json = json_loads(copy + used + strlen(cookie), 0, NULL);
	assert_non_null(json);
	free(copy);
	return json;
}

static json_t *alert(size_t evidence, size_t payload)
{
	json_t *list = json_array();
	for (size_t i = 0; i < evidence; i++)
		json_array_append_new(list, json_pack("{s:s, s:s}", "event", "exec", "path", "/usr/bin/id"));
	char *text = malloc(payload + 1);
	memset(text, 'p', payload);
	text[payload] = 0;
	json_t *line =
	    json_pack("{s:s, s:{s:i, s:{s:{s:i, s:s, s:o, s:i}}}, s:s}", "event_type", "alert", "alert",
		      "severity", 1, "context", "foretaste", "hold", 17, "verdict", "malicious", "evidence",
		      list, "evidence_dropped", 2, "payload_printable", text);
	free(text);
	return line;
}

static void a_message_is_what_syslog_receivers_parse(void **state)
{
	for (int cee = 0; cee < 2; cee++) {
		struct ft_syslog syslog = open_syslog(8192, cee);
		json_t *line = alert(3, 100);
		size_t length;
		bool shortened;
		char *text = ft_syslog_message(&syslog, "edge1", line, &length, &shortened);
		assert_false(shortened);
		assert_null(memchr(text, '\n', length));
		json_t *json = parse_message(text, length, cee ? "@cee: " : "");
		assert_true(json_equal(json, line));
		json_decref(json);
		json_decref(line);
		free(text);
	}
}

static void long_lines_are_shortened_and_whole(void **state)
{
	struct ft_syslog syslog = open_syslog(2048, true);
	size_t length;
	bool shortened;
	json_t *line = alert(300, 100);
	char *text = ft_syslog_message(&syslog, "edge1", line, &length, &shortened);
	assert_true(shortened);
	assert_true(length <= 2048);
	json_t *json = parse_message(text, length, "@cee: ");
	json_t *ours =
	    json_object_get(json_object_get(json_object_get(json, "alert"), "context"), "foretaste");
	assert_int_equal(json_integer_value(json_object_get(ours, "hold")), 17);
	assert_string_equal(json_string_value(json_object_get(ours, "verdict")), "malicious");
	assert_int_equal(json_integer_value(json_object_get(ours, "evidence_dropped")), 302);
	assert_true(json_integer_value(json_object_get(ours, "shortened_from")) > 2048);
	assert_null(json_object_get(ours, "evidence"));
	assert_null(json_object_get(json, "payload_printable"));
	json_decref(json);
	free(text);
	/* The line itself is as it was. */
	assert_int_equal(
	    json_array_size(json_object_get(
		json_object_get(json_object_get(json_object_get(line, "alert"), "context"), "foretaste"),
		"evidence")),
	    300);
	/* Something that cannot be shortened is named. */
	json_t *hold =
	    json_object_get(json_object_get(json_object_get(line, "alert"), "context"), "foretaste");
	char *huge = malloc(5001);
	memset(huge, 'h', 5000);
	huge[5000] = 0;
	json_object_set_new(hold, "rule_text", json_string(huge));
	free(huge);
	text = ft_syslog_message(&syslog, "edge1", line, &length, &shortened);
	assert_true(shortened);
	assert_true(length <= 2048);
	json = parse_message(text, length, "@cee: ");
	assert_string_equal(json_string_value(json_object_get(json, "event_type")), "engine");
	const char *message = json_string_value(json_object_get(json_object_get(json, "engine"), "message"));
	assert_non_null(strstr(message, "type alert of hold 17 with "));
	json_decref(json);
	json_decref(line);
	free(text);
}

static void a_limit_is_exact(void **state)
{
	struct ft_syslog syslog = open_syslog(2048, false);
	size_t whole, length;
	bool shortened;
	json_t *line = alert(0, 1000);
	free(ft_syslog_message(&syslog, "edge1", line, &whole, &shortened));
	json_decref(line);
	for (size_t more = 2048 - whole; more <= 2048 - whole + 1; more++) {
		line = alert(0, 1000 + more);
		char *text = ft_syslog_message(&syslog, "edge1", line, &length, &shortened);
		assert_int_equal(shortened, more == 2048 - whole + 1);
		assert_true(length <= 2048);
		free(text);
		json_decref(line);
	}
}

static void names_that_syslog_has_not_are_refused(void **state)
{
	struct ft_syslog syslog;
	struct ft_error err = {0};
	assert_int_equal(ft_syslog_open(&syslog, "local8", "info", false, 8192, &err), -EINVAL);
	assert_non_null(strstr(err.text, "local8"));
	assert_int_equal(ft_syslog_open(&syslog, "local0", "none", false, 8192, NULL), -EINVAL);
	assert_int_equal(ft_syslog_open(&syslog, "local0", "", false, 8192, NULL), -EINVAL);
	assert_int_equal(ft_syslog_open(&syslog, "local0", "info", false, 1023, NULL), -EINVAL);
	assert_int_equal(ft_syslog_open(&syslog, "auth", "debug", false, 1024, NULL), 0);
	assert_int_equal(syslog.priority, 4 * 8 + 7);
}

static void a_datagram_that_no_socket_takes_is_told(void **state)
{
	struct ft_sink sink;
	struct ft_sink_config config = {
	    .name = "syslog", .path = "/dev/log", .sensor = "edge1", .buffer = 1 << 20, .datagrams = true};
	int pair[2], small = 1;
	char text[8192];
	config.syslog = open_syslog(60000, false);
	ft_sink_open(&sink, &config);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small,
		   sizeof(small)); /* the kernel's least: some 4 KiB */
	ft_sink_connect(&sink, pair[0]);
	write_numbered(&sink, 0, 10);
	write_numbered(&sink, 1, 50000);
	write_numbered(&sink, 2, 10);
	for (uint64_t i = 0; i < 3; i++) {
		ssize_t n = recv(pair[1], text, sizeof(text), 0);
		assert_true(n > 0);
		json_t *json = parse_message(text, (size_t)n, "");
		const json_t *number = json_object_get(json, "number");
		if (i == 1)
			assert_non_null(strstr(
			    json_string_value(json_object_get(json_object_get(json, "engine"), "message")),
			    "is missing here"));
		else
			assert_int_equal(json_integer_value(number), i);
		json_decref(json);
		poll_once(&sink);
	}
	assert_int_equal(sink.lost, 1);
	assert_int_equal(sink.waiting, 0);
	assert_true(sink.fd >= 0);
	close(pair[1]);
	ft_sink_close(&sink);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing_is_lost_unseen_whatever_the_reader_does),
	    cmocka_unit_test(what_was_read_does_not_come_again),
	    cmocka_unit_test(what_was_not_read_comes_again),
	    cmocka_unit_test(without_a_reader_lines_wait_and_then_are_counted),
	    cmocka_unit_test(a_message_is_what_syslog_receivers_parse),
	    cmocka_unit_test(long_lines_are_shortened_and_whole),
	    cmocka_unit_test(a_limit_is_exact),
	    cmocka_unit_test(names_that_syslog_has_not_are_refused),
	    cmocka_unit_test(a_datagram_that_no_socket_takes_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
