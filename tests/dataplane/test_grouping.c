/* Who is tried together: whose turn it is, who is tried alone, how large a group may be. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "seeds.h"

/* ---- who goes with whom ---- */

static void each_address_has_its_turn_in_a_group(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 4, \"parallel\": 1", ENFORCE);
	for (unsigned port = 1; port <= 20; port++)
		hold_from(port, 1);
	hold_from(31, 2);
	hold_from(32, 3);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 4);
	static const unsigned right[] = {1, 2, 31, 32};
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(port_of(&last()->flows[i]), right[i]);
	play();
	expect(1, 20, "release.clean");
	expect(31, 32, "release.clean");
}

/* Whom a group test points at comes before those that wait longer: it has cost a run already. */
static void who_is_pointed_at_is_the_next_one(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 4, \"parallel\": 1", ENFORCE);
	hold_many(9);
	assert_int_equal(seeds[0]->flow_count, 4);
	evil[3] = true;
	while (seed_count == 1)
		end_run(seeds[0]);
	assert_int_equal(seeds[1]->flow_count, 1);
	assert_int_equal(port_of(&seeds[1]->flows[0]), 3);
	play();
	for (unsigned port = 1; port <= 9; port++)
		assert_string_equal(reason_of(port), port == 3 ? "drop.verdict" : "release.clean");
}

static void services_are_not_mixed(void **state)
{
	hold_from(1, 1);
	datagram_from(51);
	hold_from(2, 2);
	datagram_from(52);
	scene_pass(&s, 3 * MS);
	play();
	assert_int_equal(seed_count, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(seeds[i]->flow_count, 2);
		assert_int_equal(seeds[i]->flows[0].protocol, seeds[i]->flows[1].protocol);
	}
}

static void datagrams_are_grouped_as_well(void **state)
{
	for (unsigned port = 51; port <= 55; port++)
		datagram_from(port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 5);
	evil[53] = true;
	play();
	for (unsigned port = 51; port <= 55; port++)
		assert_string_equal(reason_of(port), port == 53 ? "drop.verdict" : "release.clean");
	assert_false(given_ports[53]);
}

static void who_sent_what_is_bad_is_tried_alone_for_a_minute(void **state)
{
	hold_many(1);
	evil[1] = true;
	play();
	expect(1, 1, "drop.verdict");
	for (unsigned minute = 0; minute < 2; minute++) {
		unsigned port = 10 + 10 * minute, before = seed_count;
		hold_from(port, 1);
		hold_from(port + 1, 21);
		hold_from(port + 2, 22);
		hold_from(port + 3, 1);
		scene_pass(&s, 3 * MS);
		play();
		expect(port, port + 3, "release.clean");
		assert_int_equal(seed_count - before, minute ? 1 : 3);
		for (unsigned i = before; i < seed_count && !minute; i++)
			for (unsigned k = 0; k < seeds[i]->flow_count; k++)
				assert_true(seeds[i]->flow_count == 1 ||
					    (port_of(&seeds[i]->flows[k]) != port && port_of(&seeds[i]->flows[k]) != port + 3));
		scene_pass(&s, 60000 * MS);
	}
}

/* What a group shows is nobody's fault until he is tried alone. */
static void a_search_makes_nobody_suspect(void **state)
{
	hold_many(4);
	mute[2] = true;
	play();
	unsigned before = seed_count;
	for (unsigned port = 11; port <= 14; port++)
		hold_from(port, port - 10);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, before + 1);
	assert_int_equal(last()->flow_count, 4);
}

static void later_bytes_of_a_member_are_the_next_trial(void **state)
{
	hold_many(3);
	s.client_port = 40002;
	s.client_host = 2;
	scene_client(&s, 5, 1, FT_TCP_ACK | FT_TCP_PSH, "more", 4);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 1);
	end_run(seeds[0]);
	assert_int_equal(order_count, 3);
	scene_pass(&s, 10 * MS);
	assert_int_equal(seed_count, 2);
	assert_int_equal(last()->flow_count, 1);
	assert_int_equal(last()->flows[0].first_sequence, CLIENT_ISN + 5);
	play();
	assert_int_equal(order_count, 4);
}

/* One that goes back to wait may gather more; the bytes of its next trial are all of them. */
static void a_member_that_waits_again_gathers_on(void **state)
{
	hold_many(3);
	mute[1] = true;
	end_run(seeds[0]); /* 1 is to be tried alone, 2 and 3 wait */
	assert_int_equal(last()->flow_count, 1);
	s.client_port = 40002;
	s.client_host = 2;
	scene_client(&s, 5, 1, FT_TCP_ACK | FT_TCP_PSH, "more", 4);
	play();
	expect(1, 3, "release.clean");
	assert_int_equal(last()->flow_count, 2);
	assert_int_equal(last()->flows[0].bytes, 8);
	assert_int_equal(order_count, 4);
}

static void few_begin_at_a_time_and_the_old_keep_nobody_waiting(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 64, \"parallel\": 2", ENFORCE);
	for (unsigned port = 1; port <= 6; port++) {
		hold_from(port, port);
		scene_pass(&s, 3 * MS);
	}
	/* 1 and 2 had a clone each; the rest waits, and is a group when one of these ends. */
	assert_int_equal(seed_count, 2);
	end_run(seeds[0]);
	scene_pass(&s, 40 * MS);
	assert_int_equal(seed_count, 3);
	assert_int_equal(last()->flow_count, 4);
	for (unsigned port = 7; port <= 9; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 3);
	scene_pass(&s, 180 * MS);
	assert_int_equal(seed_count, 3);
	say_gone(seeds[0], FT_SEED_FINISHED);
	assert_int_equal(seed_count, 3);
	scene_pass(&s, 50 * MS); /* 2 is no longer young */
	assert_int_equal(seed_count, 4);
	assert_int_equal(last()->flow_count, 3);
	/* The hard limit stays: 4 clones. */
	hold_from(10, 10);
	scene_pass(&s, 300 * MS);
	assert_int_equal(seed_count, 5);
	hold_from(11, 11);
	scene_pass(&s, 300 * MS);
	assert_int_equal(seed_count, 5);
	play();
	expect(1, 11, "release.clean");
}

/* Each trial costs the same, however many are in it: while they come one after the other, the next one waits for company. */
static void clones_rest_while_a_group_grows(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 4, \"parallel\": 2", ENFORCE);
	hold_from(1, 1);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 1); /* nobody knows yet what a trial takes */
	scene_pass(&s, 97 * MS);
	end_run(seeds[0]); /* about 100 ms */
	/* Two that wait have a rest of as long before them, counted from there. */
	hold_from(2, 2);
	hold_from(3, 3);
	scene_pass(&s, 80 * MS);
	assert_int_equal(seed_count, 1);
	scene_pass(&s, 30 * MS);
	assert_int_equal(seed_count, 2);
	assert_int_equal(last()->flow_count, 2);
	/* One alone may go when the one before has had its time; what is full, at once. */
	hold_from(4, 4);
	scene_pass(&s, 80 * MS);
	assert_int_equal(seed_count, 2);
	for (unsigned port = 5; port <= 7; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 3);
	assert_int_equal(last()->flow_count, 4);
	end_run(seeds[1]);
	end_run(seeds[2]);
	hold_from(8, 8);
	scene_pass(&s, 50 * MS);
	assert_int_equal(seed_count, 3);
	scene_pass(&s, 90 * MS);
	assert_int_equal(seed_count, 4);
	play();
	/* After a quiet time nobody waits. */
	scene_pass(&s, 1000 * MS);
	hold_from(9, 9);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 5);
	play();
	expect(1, 9, "release.clean");
}

static void a_group_counts_as_a_clone_of_each_address_in_it(void **state)
{
	reopen("\"max\": 3, \"source\": 1, \"group\": 64, \"parallel\": 32", ENFORCE);
	for (unsigned port = 1; port <= 3; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	hold_from(11, 1);
	hold_from(12, 2);
	hold_from(13, 7);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 2);
	assert_int_equal(last()->flow_count, 1);
	assert_int_equal(port_of(&last()->flows[0]), 13);
	play();
	expect(1, 3, "release.clean");
	expect(11, 13, "release.clean");
	assert_int_equal(seed_count, 3);
}

static void a_group_is_as_large_as_a_request_may_be(void **state)
{
	scene_keys = ", \"flows\": 512";
	reopen("\"max\": 4, \"source\": 4, \"group\": 256, \"parallel\": 1", ENFORCE);
	scene_keys = "";
	for (unsigned port = 1; port <= 270; port++)
		hold_from(port, 1 + port % 200);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 256);
	play();
	expect(1, 270, "release.clean");
	assert_int_equal(seed_count, 2);
}

static void a_group_has_no_more_frames_than_a_request(void **state)
{
	for (unsigned port = 1; port <= 8; port++) {
		connect_from(port, port);
		send_from(port, port, "EVIL", 4);
		for (unsigned i = 0; i < 299; i++)
			scene_client(&s, 5 + i, 1, FT_TCP_ACK, "x", 1);
	}
	scene_pass(&s, 60 * MS);
	assert_int_equal(last()->flow_count, 6);
	assert_int_equal(last()->frame_count, 1800);
	play();
	expect(1, 8, "release.clean");
	assert_int_equal(seed_count, 2);
}

static void who_only_observes_is_tried_alone(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 64, \"parallel\": 1", "\"risks\": \"none\", \"mode\": \"observe\"");
	for (unsigned port = 1; port <= 3; port++) {
		by_policy[port] = true;
		hold_from(port, port);
	}
	assert_int_equal(seed_count, 3);
	/* And they keep nobody else waiting. */
	datagram_from(51);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 4);
	play();
	expect(51, 51, "release.clean");
}

/* [PATTERN]: of the tests' names, as cmocka matches them. */
int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, open_groups, close_groups)
	const struct CMUnitTest tests[] = {
	    T(each_address_has_its_turn_in_a_group),
	    T(who_is_pointed_at_is_the_next_one),
	    T(services_are_not_mixed),
	    T(datagrams_are_grouped_as_well),
	    T(who_sent_what_is_bad_is_tried_alone_for_a_minute),
	    T(a_search_makes_nobody_suspect),
	    T(later_bytes_of_a_member_are_the_next_trial),
	    T(a_member_that_waits_again_gathers_on),
	    T(few_begin_at_a_time_and_the_old_keep_nobody_waiting),
	    T(clones_rest_while_a_group_grows),
	    T(a_group_counts_as_a_clone_of_each_address_in_it),
	    T(a_group_is_as_large_as_a_request_may_be),
	    T(a_group_has_no_more_frames_than_a_request),
	    T(who_only_observes_is_tried_alone),
	};
	if (scene_start_eal())
		return 1;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
