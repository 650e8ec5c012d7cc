/* The ledger process as the supervisor and the dataplane see it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/channel.h"
#include "tests/log/conversation.h"

static const char *type_of(const json_t *line)
{
	return json_string_value(json_object_get(line, "event_type"));
}

static unsigned count_lines(const json_t *lines, const char *type)
{
	unsigned n = 0;
	for (size_t i = 0; i < json_array_size(lines); i++)
		n += !strcmp(type_of(json_array_get(lines, i)), type);
	return n;
}

static json_int_t status_number(struct conversation *c, const char *part, const char *key)
{
	json_t *answer = conversation_ask(c, json_pack("{s:s}", "what", "status"));
	json_t *result = json_object_get(answer, "result");
	json_t *from = part ? json_object_get(result, part) : result;
	assert_true(json_is_integer(json_object_get(from, key)));
	json_int_t value = json_integer_value(json_object_get(from, key));
	json_decref(answer);
	return value;
}

static bool exists(const struct conversation *c, const char *name)
{
	char path[256];
	struct stat st;
	snprintf(path, sizeof(path), "%s/%s", c->quarantine, name);
	return !stat(path, &st);
}

static void a_dropped_hold_becomes_lines_a_pcap_and_an_answer(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 1 << 20, 0);
	conversation_send(&c, conversation_packets(17, 3, 100));
	conversation_send(&c, conversation_hold(17, "malicious"));
	conversation_send(&c, conversation_hold(18, "clean"));
	/* The answer to a question may overtake records; stop does not: everything sent is written down. */
	conversation_stop(&c);
	json_t *lines = conversation_feed(&c);
	assert_int_equal(count_lines(lines, "alert"), 2);
	assert_int_equal(count_lines(lines, "drop"), 1);
	assert_int_equal(count_lines(lines, "fileinfo"), 1);
	assert_int_equal(count_lines(lines, "flow"), 2);
	assert_int_equal(count_lines(lines, "http"), 2);
	json_decref(lines);

	char path[256], why[PCAP_ERRBUF_SIZE];
	snprintf(path, sizeof(path), "%s/hold-17.pcap", c.quarantine);
	pcap_t *pcap = pcap_open_offline_with_tstamp_precision(path, PCAP_TSTAMP_PRECISION_NANO, why);
	assert_non_null(pcap);
	struct pcap_pkthdr *header;
	const u_char *data;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pcap_next_ex(pcap, &header, &data), 1);
		assert_int_equal(header->caplen, 100);
		assert_int_equal(header->ts.tv_sec, 1790000000);
		assert_int_equal(header->ts.tv_usec, i);
		assert_int_equal(data[99], i + 1);
	}
	assert_int_equal(pcap_next_ex(pcap, &header, &data), PCAP_ERROR_BREAK);
	pcap_close(pcap);

	/* A new process knows what the feed says. */
	conversation_restart(&c);
	assert_int_equal(status_number(&c, NULL, "remembered"), 2);
	json_t *answer = conversation_ask(&c, json_pack("{s:s, s:i}", "what", "show", "hold", 17));
	json_t *record = json_object_get(answer, "result");
	assert_string_equal(json_string_value(json_object_get(record, "rule")), "service-exec");
	assert_int_equal(json_array_size(json_object_get(record, "evidence")), 1);
	json_decref(answer);
	answer = conversation_ask(&c, json_pack("{s:s, s:i}", "what", "verdicts", "limit", 1));
	assert_int_equal(json_array_size(json_object_get(answer, "result")), 1);
	json_t *newest = json_array_get(json_object_get(answer, "result"), 0);
	assert_int_equal(json_integer_value(json_object_get(newest, "hold")), 18);
	json_decref(answer);
	answer = conversation_ask(&c, json_pack("{s:s, s:i}", "what", "show", "hold", 99));
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	conversation_stop(&c);
	conversation_remove(&c);
}

/* Waits until the ledger has taken that many records in all: asking is the only clock here. */
static void wait_for_records(struct conversation *c, json_int_t most)
{
	for (;;) {
		json_t *answer = conversation_ask(c, json_pack("{s:s}", "what", "status"));
		json_t *r = json_object_get(answer, "result");
		json_int_t seen = json_integer_value(json_object_get(r, "holds")) +
				  json_integer_value(json_object_get(r, "events")) +
				  json_integer_value(json_object_get(r, "refused"));
		json_decref(answer);
		if (seen >= most)
			return;
	}
}

static void a_feed_at_its_quota_keeps_what_it_has_and_says_so(void **state)
{
	struct conversation c;
	conversation_begin(&c, 6000, 0, 0);
	for (uint64_t i = 1; i <= 8; i++)
		conversation_send(&c, conversation_hold(i, "clean"));
	wait_for_records(&c, 8);
	json_int_t waiting = status_number(&c, "feed", "waiting");
	assert_true(waiting > 0);
	assert_true(status_number(&c, "feed", "bytes") <= 6000);
	assert_int_equal(status_number(&c, "feed", "lost"), 0);
	json_t *lines = conversation_feed(&c);
	assert_int_equal(json_array_size(lines) + (size_t)waiting, 8 * 3);
	json_decref(lines);
	/* The verdicts are known all the same. */
	json_t *answer = conversation_ask(&c, json_pack("{s:s}", "what", "verdicts"));
	assert_int_equal(json_array_size(json_object_get(answer, "result")), 8);
	json_decref(answer);
	assert_int_equal(json_array_size(c.logs), 1);
	assert_non_null(
	    strstr(json_string_value(json_object_get(json_array_get(c.logs, 0), "text")), "feed_quota"));
	/* Somebody rotates: what waited comes out, in order. */
	assert_int_equal(truncate(c.feed, 0), 0);
	conversation_send(&c, conversation_hold(9, "clean"));
	wait_for_records(&c, 9);
	lines = conversation_feed(&c);
	assert_true(json_array_size(lines) > 0);
	json_decref(lines);
	conversation_stop(&c);
	conversation_remove(&c);
}

static void a_disk_that_is_full_never_leaves_half_a_line(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 0, 5000);
	for (uint64_t i = 1; i <= 6; i++)
		conversation_send(&c, conversation_hold(i, "clean"));
	wait_for_records(&c, 6);
	assert_true(status_number(&c, "feed", "waiting") > 0);
	json_t *lines = conversation_feed(&c); /* asserts whole lines */
	assert_true(json_array_size(lines) > 0);
	json_decref(lines);
	conversation_stop(&c);
	conversation_remove(&c);
}

static void half_a_line_of_a_killed_writer_is_cut_and_told(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 0, 0);
	conversation_send(&c, conversation_hold(1, "clean"));
	conversation_stop(&c);
	int fd = open(c.feed, O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, "{\"timestamp\":\"20", 16), 16);
	close(fd);
	conversation_restart(&c);
	conversation_send(&c, conversation_hold(2, "clean"));
	conversation_stop(&c);
	json_t *lines = conversation_feed(&c);
	assert_int_equal(count_lines(lines, "alert"), 2);
	assert_int_equal(count_lines(lines, "engine"), 1);
	json_decref(lines);
	conversation_remove(&c);
}

static void the_quarantine_keeps_to_its_quota(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 5000, 0);
	for (uint64_t i = 1; i <= 4; i++) {
		conversation_send(&c, conversation_packets(i, 1, 2000));
		conversation_send(&c, conversation_hold(i, "malicious"));
	}
	conversation_send(&c, conversation_packets(5, 4, 2000)); /* alone more than the quota */
	conversation_send(&c, conversation_hold(5, "malicious"));
	wait_for_records(&c, 5);
	assert_false(exists(&c, "hold-1.pcap"));
	assert_false(exists(&c, "hold-2.pcap"));
	assert_true(exists(&c, "hold-3.pcap"));
	assert_true(exists(&c, "hold-4.pcap"));
	assert_false(exists(&c, "hold-5.pcap"));
	assert_int_equal(status_number(&c, "quarantine", "files"), 2);
	assert_int_equal(status_number(&c, "quarantine", "removed"), 2);
	assert_int_equal(status_number(&c, "quarantine", "failed"), 1);
	conversation_stop(&c);
	json_t *lines = conversation_feed(&c);
	assert_int_equal(count_lines(lines, "alert"), 5);
	assert_int_equal(count_lines(lines, "fileinfo"), 4);
	assert_int_equal(count_lines(lines, "engine"), 1);
	json_decref(lines);
	conversation_remove(&c);
}

static void a_number_that_comes_again_replaces_no_file(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 0, 0);
	conversation_send(&c, conversation_packets(1, 1, 100));
	conversation_send(&c, conversation_packets(1, 1, 200));
	conversation_stop(&c);
	assert_true(exists(&c, "hold-1.pcap"));
	assert_true(exists(&c, "hold-1.2.pcap"));
	conversation_remove(&c);
}

static void a_quarantine_that_cannot_be_written_costs_no_alert(void **state)
{
	struct conversation c;
	conversation_begin(&c, 0, 0, 0);
	/* The directory is gone from under the ledger: even root cannot make a file in it. */
	assert_int_equal(rmdir(c.quarantine), 0);
	conversation_send(&c, conversation_packets(1, 1, 100));
	conversation_send(&c, conversation_hold(1, "malicious"));
	wait_for_records(&c, 1);
	assert_int_equal(status_number(&c, "quarantine", "failed"), 1);
	conversation_stop(&c);
	json_t *lines = conversation_feed(&c);
	assert_int_equal(count_lines(lines, "alert"), 1);
	assert_int_equal(count_lines(lines, "fileinfo"), 0);
	assert_int_equal(count_lines(lines, "engine"), 1);
	json_decref(lines);
	conversation_remove(&c);
}

/* Seeded: the same nonsense in each run. */
static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static json_t *nonsense(uint64_t *seed, unsigned depth)
{
	static const char *const texts[] = {"",          "tcp",          "10.0.2.9", "clean",
					    "malicious", "\x7f\xc3\xa9", "hold",     "../../x"};
	switch (next_random(seed) % (depth ? 8 : 6)) {
	case 0:
		return json_integer((json_int_t)next_random(seed));
	case 1:
		return json_integer((json_int_t)(next_random(seed) % 70000));
	case 2:
		return json_string(texts[next_random(seed) % 8]);
	case 3:
		return json_real(1e300);
	case 4:
		return next_random(seed) % 2 ? json_true() : json_false();
	case 5:
		return json_null();
	case 6: {
		json_t *list = json_array();
		for (uint64_t n = next_random(seed) % 4; n--;)
			json_array_append_new(list, nonsense(seed, depth - 1));
		return list;
	}
	default: {
		json_t *map = json_object();
		for (uint64_t n = next_random(seed) % 4; n--;)
			json_object_set_new(map, texts[next_random(seed) % 8], nonsense(seed, depth - 1));
		return map;
	}
	}
}

/* Replaces one value somewhere below map. */
static void spoil(json_t *map, uint64_t *seed)
{
	for (;;) {
		size_t n = json_object_size(map), at = next_random(seed) % n;
		void *it = json_object_iter(map);
		while (at--)
			it = json_object_iter_next(map, it);
		json_t *value = json_object_iter_value(it);
		if (json_is_object(value) && json_object_size(value) && next_random(seed) % 2) {
			map = value;
			continue;
		}
		if (next_random(seed) % 4 == 0)
			json_object_del(map, json_object_iter_key(it));
		else
			json_object_iter_set_new(map, it, nonsense(seed, 3));
		return;
	}
}

static void hostile_records_are_refused_and_the_next_good_one_counts(void **state)
{
	enum { ROUNDS = 2000 };
	struct conversation c;
	uint64_t seed = 20261122;
	conversation_begin(&c, 0, 0, 0);
	assert_int_equal(send(c.records, "{\"op\":", 6, 0), 6);
	assert_int_equal(send(c.records, "[]", 2, 0), 2);
	assert_int_equal(send(c.records, "\0\xff\xfe", 3, 0), 3);
	for (unsigned i = 0; i < ROUNDS; i++) {
		json_t *record = i % 4 ? conversation_hold(i, i % 2 ? "clean" : "malicious")
				       : conversation_packets(i, 1, 60);
		json_t *op = json_incref(json_object_get(record, "op"));
		for (uint64_t k = next_random(&seed) % 3 + 1; k--;)
			spoil(record, &seed);
		json_object_set_new(record, "op", op);
		conversation_send(&c, record);
	}
	/* Descriptors that nobody asked for do not pile up. */
	int fds[FT_CHANNEL_FDS];
	for (int i = 0; i < FT_CHANNEL_FDS; i++)
		fds[i] = STDIN_FILENO;
	json_t *with_fds = json_pack("{s:s}", "op", "nothing");
	for (int i = 0; i < 200; i++)
		assert_int_equal(ft_channel_send(c.records, with_fds, fds, i % 2 ? FT_CHANNEL_FDS : 1), 0);
	json_decref(with_fds);
	conversation_send(&c, conversation_packets(77777, 2, 60));
	conversation_send(&c, conversation_hold(77777, "malicious"));
	conversation_stop(&c);
	assert_true(exists(&c, "hold-77777.pcap"));
	json_t *lines = conversation_feed(&c), *last = NULL;
	for (size_t i = 0; i < json_array_size(lines); i++)
		if (!strcmp(type_of(json_array_get(lines, i)), "fileinfo"))
			last = json_array_get(lines, i);
	const json_t *info = json_object_get(last, "fileinfo");
	assert_string_equal(json_string_value(json_object_get(info, "filename")), "hold-77777.pcap");
	json_decref(lines);
	conversation_remove(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_dropped_hold_becomes_lines_a_pcap_and_an_answer),
	    cmocka_unit_test(a_feed_at_its_quota_keeps_what_it_has_and_says_so),
	    cmocka_unit_test(a_disk_that_is_full_never_leaves_half_a_line),
	    cmocka_unit_test(half_a_line_of_a_killed_writer_is_cut_and_told),
	    cmocka_unit_test(the_quarantine_keeps_to_its_quota),
	    cmocka_unit_test(a_number_that_comes_again_replaces_no_file),
	    cmocka_unit_test(a_quarantine_that_cannot_be_written_costs_no_alert),
	    cmocka_unit_test(hostile_records_are_refused_and_the_next_good_one_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
