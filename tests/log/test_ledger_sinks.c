/* The feed's sinks through the ledger process: a shipper's socket and a syslog receiver as they are connected, stuck, gone
 * and back. The test is supervisor and reader in one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/log/conversation.h"

#define BUFFER (64 << 10)

static json_t *socket_only(void)
{
	return json_pack("{s:s, s:i}", "feed_socket", "/run/shipper.sock", "feed_buffer", BUFFER);
}

static json_t *syslog_only(int limit)
{
	return json_pack("{s:i, s:{s:s, s:s, s:s, s:s, s:i}}", "feed_buffer", BUFFER, "feed_syslog", "socket",
			 "/dev/log", "facility", "local3", "severity", "notice", "cookie", "cee", "limit",
			 limit);
}

/* Gives the ledger one end of a connection, as the supervisor does; the reader's end is returned. */
static int connect_sink(struct conversation *c, const char *name, int type)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(shutdown(pair[0], SHUT_RD), 0);
	conversation_sink(c, name, pair[0], NULL);
	close(pair[0]);
	return pair[1];
}

static json_t *sink_status(struct conversation *c, const char *name)
{
	json_t *answer = conversation_ask(c, json_pack("{s:s}", "what", "status"));
	json_t *sinks = json_object_get(json_object_get(json_object_get(answer, "result"), "feed"), "sinks");
	json_t *status = json_incref(json_object_get(sinks, name));
	assert_non_null(status);
	json_decref(answer);
	return status;
}

static json_int_t sink_number(struct conversation *c, const char *name, const char *key)
{
	json_t *status = sink_status(c, name);
	assert_true(json_is_integer(json_object_get(status, key)));
	json_int_t value = json_integer_value(json_object_get(status, key));
	json_decref(status);
	return value;
}

/* Waits until so many holds have been taken: asking is the only clock here. */
static void wait_for_holds(struct conversation *c, json_int_t count)
{
	json_int_t seen = 0;
	while (seen < count) {
		json_t *answer = conversation_ask(c, json_pack("{s:s}", "what", "status"));
		seen = json_integer_value(json_object_get(json_object_get(answer, "result"), "holds"));
		json_decref(answer);
	}
}

static void send_holds(struct conversation *c, uint64_t first, uint64_t last)
{
	for (uint64_t i = first; i <= last; i++)
		conversation_send(c, conversation_hold(i, i % 2 ? "clean" : "malicious"));
}

static const char *message_of(const json_t *line)
{
	const char *text = json_string_value(json_object_get(json_object_get(line, "engine"), "message"));
	return text ? text : "";
}

static bool is_about(const json_t *line, const char *sink)
{
	return strstr(message_of(line), sink) == message_of(line);
}

static unsigned count_messages(const json_t *lines, const char *begins)
{
	unsigned count = 0;
	for (size_t i = 0; i < json_array_size(lines); i++)
		count += is_about(json_array_get(lines, i), begins);
	return count;
}

/* The next whole line on a stream: new reference. Waits for it. */
static json_t *read_line(FILE *stream)
{
	char *line = NULL;
	size_t room = 0;
	ssize_t n = getline(&line, &room, stream);
	assert_true(n > 1);
	assert_int_equal(line[n - 1], '\n');
	json_t *json = json_loadb(line, (size_t)n - 1, 0, NULL);
	if (!json)
		fail_msg("no line: %.*s", (int)n, line);
	free(line);
	return json;
}

/* The file's lines, but those about the sink, which does not get them. */
static json_t *lines_for(struct conversation *c, const char *sink)
{
	json_t *lines = conversation_feed(c), *wanted = json_array();
	for (size_t i = 0; i < json_array_size(lines); i++)
		if (!is_about(json_array_get(lines, i), sink))
			json_array_append(wanted, json_array_get(lines, i));
	json_decref(lines);
	return wanted;
}

static void lines_arrive_whole_and_in_order(void **state)
{
	struct conversation c;
	conversation_begin_sinks(
	    &c, json_pack("{s:s, s:i}", "feed_socket", "/run/shipper.sock", "feed_buffer", 8 << 20));
	FILE *reader = fdopen(connect_sink(&c, "socket", SOCK_STREAM), "r");
	/* More than the kernel takes at a time, so the rest waits in the ledger and follows as it is read. */
	send_holds(&c, 1, 300);
	wait_for_holds(&c, 300);
	assert_true(sink_number(&c, "socket", "waiting") > 0);
	json_t *wanted = lines_for(&c, "feed.socket");
	assert_true(json_array_size(wanted) >= 900);
	for (size_t i = 0; i < json_array_size(wanted); i++) {
		json_t *line = read_line(reader);
		assert_true(json_equal(line, json_array_get(wanted, i)));
		json_decref(line);
	}
	json_decref(wanted);
	assert_int_equal(sink_number(&c, "socket", "waiting"), 0);
	assert_int_equal(sink_number(&c, "socket", "lost"), 0);
	conversation_stop(&c);
	assert_int_equal(getc(reader), EOF);
	fclose(reader);
	conversation_remove(&c);
}

static void a_reader_that_never_reads_costs_only_its_own_lines(void **state)
{
	struct conversation c;
	conversation_begin_sinks(&c, socket_only());
	FILE *reader = fdopen(connect_sink(&c, "socket", SOCK_STREAM), "r");
	uint64_t sent = 0;
	while (sent < 200 || !sink_number(&c, "socket", "lost")) {
		send_holds(&c, sent + 1, sent + 50);
		sent += 50;
		wait_for_holds(&c, (json_int_t)sent);
	}
	json_t *lines = conversation_feed(&c);
	assert_int_equal(count_messages(lines, "feed.socket loses lines: its buffer of 64 KiB is full"), 1);
	json_decref(lines);
	/* It begins to read: all until the gap, how wide it is, and then what is new. */
	json_int_t lost = sink_number(&c, "socket", "lost");
	json_t *wanted = lines_for(&c, "feed.socket");
	size_t at = 0, gaps = 0;
	for (; at < json_array_size(wanted); at++) {
		json_t *line = read_line(reader);
		char *end;
		long missing = strtol(message_of(line), &end, 10);
		if (missing) {
			assert_non_null(strstr(end, "lines are missing here"));
			assert_int_equal(missing, lost);
			at += (size_t)missing - 1;
			gaps++;
		} else {
			assert_true(json_equal(line, json_array_get(wanted, at)));
		}
		json_decref(line);
	}
	assert_int_equal(gaps, 1);
	json_decref(wanted);
	send_holds(&c, sent + 1, sent + 1);
	for (;;) {
		json_t *line = read_line(reader);
		const json_t *context = json_object_get(json_object_get(line, "alert"), "context");
		json_int_t hold =
		    json_integer_value(json_object_get(json_object_get(context, "foretaste"), "hold"));
		json_decref(line);
		if (hold == (json_int_t)sent + 1)
			break;
	}
	assert_int_equal(sink_number(&c, "socket", "lost"), lost);
	lines = conversation_feed(&c);
	char says[80];
	snprintf(says, sizeof(says), "feed.socket takes lines again: it has lost %d", (int)lost);
	assert_int_equal(count_messages(lines, says), 1);
	json_decref(lines);
	conversation_stop(&c);
	fclose(reader);
	conversation_remove(&c);
}

/* The number of the alert of a line, 0 for others. */
static json_int_t hold_of(const json_t *line)
{
	const json_t *context = json_object_get(json_object_get(line, "alert"), "context");
	return json_integer_value(json_object_get(json_object_get(context, "foretaste"), "hold"));
}

static void a_reader_that_goes_away_in_the_middle_misses_nothing(void **state)
{
	struct conversation c;
	json_int_t next = 1;
	char piece[2500];
	conversation_begin_sinks(
	    &c, json_pack("{s:s, s:i}", "feed_socket", "/run/shipper.sock", "feed_buffer", 8 << 20));
	for (unsigned round = 0; round < 4; round++) {
		int fd = connect_sink(&c, "socket", SOCK_STREAM);
		send_holds(&c, round * 100 + 1, round * 100 + 100);
		wait_for_holds(&c, round * 100 + 100);
		/* Some bytes that end within a line, then it is gone: with the rest of the line unread. */
		assert_int_equal(recv(fd, piece, sizeof(piece), MSG_WAITALL), sizeof(piece));
		assert_true(piece[0] == '{');
		assert_true(piece[sizeof(piece) - 1] != '\n');
		close(fd);
		conversation_wait_lost(&c, round + 1);
		json_t *status = sink_status(&c, "socket");
		assert_true(json_is_false(json_object_get(status, "connected")));
		assert_int_equal(json_integer_value(json_object_get(status, "lost")), 0);
		assert_true(json_integer_value(json_object_get(status, "again")) > 0);
		json_decref(status);
	}
	for (size_t i = 0; i < 4; i++)
		assert_string_equal(json_string_value(json_object_get(json_array_get(c.lost, i), "name")),
				    "socket");
	/* It is back for good: every alert that it had not read as a whole, in order, none missing. The four pieces may
	 * have had the first alerts, no more. */
	FILE *reader = fdopen(connect_sink(&c, "socket", SOCK_STREAM), "r");
	while (next <= 400) {
		json_t *line = read_line(reader);
		json_int_t hold = hold_of(line);
		if (hold && next == 1)
			next = hold;
		if (hold)
			assert_int_equal(hold, next++);
		json_decref(line);
	}
	assert_int_equal(sink_number(&c, "socket", "lost"), 0);
	json_t *lines = conversation_feed(&c);
	assert_int_equal(
	    count_messages(lines, "feed.socket is not connected: the reader went away with lines unread"), 4);
	assert_int_equal(count_messages(lines, "feed.socket is connected"), 4);
	json_decref(lines);
	conversation_stop(&c);
	fclose(reader);
	conversation_remove(&c);
}

static void a_socket_that_is_not_there_at_the_start_gets_all_when_it_comes(void **state)
{
	struct conversation c;
	conversation_begin_sinks(&c, socket_only());
	for (int i = 0; i < 3; i++)
		conversation_sink(&c, "socket", -1,
				  "cannot connect to /run/shipper.sock: No such file or directory");
	send_holds(&c, 1, 3);
	wait_for_holds(&c, 3);
	json_t *status = sink_status(&c, "socket");
	assert_true(json_is_false(json_object_get(status, "connected")));
	assert_non_null(strstr(json_string_value(json_object_get(status, "trouble")), "No such file"));
	assert_true(json_integer_value(json_object_get(status, "waiting")) > 0);
	json_decref(status);
	FILE *reader = fdopen(connect_sink(&c, "socket", SOCK_STREAM), "r");
	json_t *wanted = lines_for(&c, "feed.socket");
	for (size_t i = 0; i < json_array_size(wanted); i++) {
		json_t *line = read_line(reader);
		assert_true(json_equal(line, json_array_get(wanted, i)));
		json_decref(line);
	}
	json_decref(wanted);
	json_t *lines = conversation_feed(&c);
	assert_int_equal(count_messages(lines, "feed.socket is not connected: cannot connect to"), 1);
	json_decref(lines);
	conversation_stop(&c);
	fclose(reader);
	conversation_remove(&c);
}

static void what_nobody_took_is_told_at_the_end(void **state)
{
	struct conversation c;
	conversation_begin_sinks(&c, socket_only());
	send_holds(&c, 1, 1);
	conversation_stop(&c);
	json_t *lines = conversation_feed(&c);
	char says[80];
	snprintf(says, sizeof(says), "feed.socket has not taken the last %d lines",
		 (int)json_array_size(lines) - 1);
	assert_int_equal(count_messages(lines, says), 1);
	json_decref(lines);
	conversation_remove(&c);
}

/* The line in a syslog message; waits for it. */
static json_t *read_message(int fd)
{
	static const char before[] = "]: @cee: ";
	char *text = malloc(1 << 17);
	ssize_t n = recv(fd, text, (1 << 17) - 1, 0);
	assert_true(n > 0);
	text[n] = 0;
	assert_int_equal(strncmp(text, "<157>", 5), 0); /* local3.notice */
	char *json = strstr(text, before);
	assert_non_null(json);
	json_t *line = json_loads(json + strlen(before), 0, NULL);
	assert_non_null(line);
	free(text);
	return line;
}

static void syslog_gets_each_line_as_a_message(void **state)
{
	struct conversation c;
	conversation_begin_sinks(&c, syslog_only(64 << 10));
	conversation_sink(&c, "syslog", -1, "cannot connect to /dev/log: No such file or directory");
	send_holds(&c, 1, 2);
	wait_for_holds(&c, 2);
	int fd = connect_sink(&c, "syslog", SOCK_DGRAM);
	send_holds(&c, 3, 5);
	wait_for_holds(&c, 5);
	json_t *wanted = lines_for(&c, "feed.syslog");
	for (size_t i = 0; i < json_array_size(wanted); i++) {
		json_t *line = read_message(fd);
		assert_true(json_equal(line, json_array_get(wanted, i)));
		json_decref(line);
	}
	json_decref(wanted);
	/* The receiver is gone, which the next line shows; that line and later ones wait for the next receiver. */
	close(fd);
	send_holds(&c, 6, 6);
	conversation_wait_lost(&c, 1);
	send_holds(&c, 7, 7);
	wait_for_holds(&c, 7);
	fd = connect_sink(&c, "syslog", SOCK_DGRAM);
	for (json_int_t hold = 6; hold <= 7;) {
		json_t *line = read_message(fd);
		if (hold_of(line))
			assert_int_equal(hold_of(line), hold++);
		json_decref(line);
	}
	assert_int_equal(sink_number(&c, "syslog", "lost"), 0);
	conversation_stop(&c);
	close(fd);
	conversation_remove(&c);
}

static void a_line_too_long_for_syslog_comes_shortened(void **state)
{
	struct conversation c;
	conversation_begin_sinks(&c, syslog_only(4096));
	int fd = connect_sink(&c, "syslog", SOCK_DGRAM);
	json_t *hold = conversation_hold(1, "malicious");
	json_t *entry = json_array_get(json_object_get(hold, "evidence"), 0);
	for (int i = 0; i < 100; i++)
		json_array_append(json_object_get(hold, "evidence"), entry);
	conversation_send(&c, hold);
	wait_for_holds(&c, 1);
	json_t *line = read_message(fd);
	json_t *ours =
	    json_object_get(json_object_get(json_object_get(line, "alert"), "context"), "foretaste");
	assert_int_equal(hold_of(line), 1);
	assert_int_equal(json_integer_value(json_object_get(ours, "evidence_dropped")), 101);
	assert_string_equal(json_string_value(json_object_get(ours, "rule")), "service-exec");
	json_decref(line);
	assert_int_equal(sink_number(&c, "syslog", "shortened"), 1);
	/* The file has all of it. */
	json_t *lines = conversation_feed(&c);
	ours = json_object_get(json_object_get(json_object_get(json_array_get(lines, 0), "alert"), "context"),
			       "foretaste");
	assert_int_equal(json_array_size(json_object_get(ours, "evidence")), 101);
	json_decref(lines);
	conversation_stop(&c);
	close(fd);
	conversation_remove(&c);
}

static void both_at_once_and_each_for_itself(void **state)
{
	struct conversation c;
	json_t *config = syslog_only(64 << 10), *other = socket_only();
	json_object_update(config, other);
	json_decref(other);
	conversation_begin_sinks(&c, config);
	int stuck = connect_sink(&c, "syslog", SOCK_DGRAM);
	FILE *reader = fdopen(connect_sink(&c, "socket", SOCK_STREAM), "r");
	json_int_t holds = 0;
	bool told = false;
	/* One never reads; the other gets every line, and what became of the first. */
	while (!told) {
		holds++;
		send_holds(&c, (uint64_t)holds, (uint64_t)holds);
		wait_for_holds(&c, holds);
		for (json_int_t seen = 0; seen < holds && !told;) {
			json_t *line = read_line(reader);
			told = is_about(line, "feed.syslog loses lines");
			if (hold_of(line))
				seen = hold_of(line);
			json_decref(line);
		}
	}
	assert_int_equal(sink_number(&c, "socket", "lost"), 0);
	assert_true(sink_number(&c, "syslog", "lost") > 0);
	close(stuck);
	conversation_stop(&c);
	fclose(reader);
	conversation_remove(&c);
}

static void connections_that_nobody_asked_for_do_not_pile_up(void **state)
{
	struct conversation c;
	conversation_begin_sinks(&c, socket_only());
	/* The process may have 64 descriptors. */
	for (int i = 0; i < 200; i++)
		close(connect_sink(&c, i % 2 ? "nothing" : "syslog", SOCK_STREAM));
	int fds[100];
	for (int i = 0; i < 100; i++)
		fds[i] = connect_sink(&c, "socket", SOCK_STREAM);
	send_holds(&c, 1, 1);
	wait_for_holds(&c, 1);
	/* The last one counts. */
	FILE *reader = fdopen(fds[99], "r");
	json_t *line = read_line(reader);
	assert_int_equal(hold_of(line), 1);
	json_decref(line);
	for (int i = 0; i < 99; i++)
		close(fds[i]);
	conversation_stop(&c);
	fclose(reader);
	conversation_remove(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(lines_arrive_whole_and_in_order),
	    cmocka_unit_test(a_reader_that_never_reads_costs_only_its_own_lines),
	    cmocka_unit_test(a_reader_that_goes_away_in_the_middle_misses_nothing),
	    cmocka_unit_test(a_socket_that_is_not_there_at_the_start_gets_all_when_it_comes),
	    cmocka_unit_test(what_nobody_took_is_told_at_the_end),
	    cmocka_unit_test(syslog_gets_each_line_as_a_message),
	    cmocka_unit_test(a_line_too_long_for_syslog_comes_shortened),
	    cmocka_unit_test(both_at_once_and_each_for_itself),
	    cmocka_unit_test(connections_that_nobody_asked_for_do_not_pile_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
