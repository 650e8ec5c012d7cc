/* Group tests: what is clean together is released together, what is not is searched, and what a group cannot decide. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "seeds.h"

/* ---- clean groups, and searches ---- */

static void a_clean_group_is_released_in_its_order(void **state)
{
	hold_many(9);
	assert_int_equal(seed_count, 1);
	assert_int_equal(last()->flow_count, 9);
	assert_int_equal(order_count, 0);
	play();
	assert_int_equal(seed_count, 1);
	assert_int_equal(last()->runs, 1);
	assert_true(last()->finished);
	expect(1, 9, "release.clean");
	for (unsigned i = 0; i < 9; i++) {
		assert_int_equal(order[i], i + 1);
		assert_int_equal(group_of(i + 1), 9);
		assert_int_equal(runs_of(i + 1), 1);
	}
	assert_int_equal(order_count, 9);
	assert_int_equal(guest_number("batches", "16"), 1);
	assert_int_equal(guest_number("runs", NULL), 1);
	assert_int_equal(guest_number("searches", NULL), 0);
	assert_int_equal(guest_number("clones", NULL), 0);
}

static void one_that_waits_alone_is_no_group(void **state)
{
	hold_many(1);
	play();
	expect(1, 1, "release.clean");
	assert_null(json_object_get(record_of(1), "group"));
	assert_int_equal(guest_number("batches", "1"), 1);
}

static void a_group_of_one_is_none(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 1, \"parallel\": 32", ENFORCE);
	hold_many(4);
	assert_int_equal(seed_count, 4);
	play();
	assert_int_equal(seed_count, 4);
	expect(1, 4, "release.clean");
}

static void one_bad_input_is_found_wherever_it_is(void **state)
{
	for (unsigned bad = 1; bad <= 9; bad++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		evil[bad] = true;
		play();
		for (unsigned port = 1; port <= 9; port++)
			assert_string_equal(reason_of(port), port == bad ? "drop.verdict" : "release.clean");
		assert_false(given_ports[bad]);
		/* The verdict is of a trial of its own, and those before it were cleared without it. */
		assert_null(json_object_get(record_of(bad), "group"));
		const struct seed *first = seeds[0];
		assert_int_equal(first->approved, bad - 1);
		for (unsigned port = 1; port < bad; port++)
			assert_int_equal(group_of(port), bad - 1);
		assert_in_range(first->runs, 2, 5);
		bool alone = false;
		for (unsigned i = 1; i < seed_count; i++)
			alone |= seeds[i]->flow_count == 1 && port_of(&seeds[i]->flows[0]) == bad && i == 1;
		assert_true(alone); /* and it is the next one */
		assert_int_equal(guest_number("searches", NULL), 1);
		assert_int_equal(order_count, 8 + 1 /* the reset of the bad one */);
	}
}

static void two_bad_inputs_are_found(void **state)
{
	static const unsigned pairs[][2] = {{1, 2}, {1, 9}, {4, 5}, {3, 7}, {8, 9}};
	for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		evil[pairs[i][0]] = evil[pairs[i][1]] = true;
		play();
		for (unsigned port = 1; port <= 9; port++)
			assert_string_equal(reason_of(port), evil[port] ? "drop.verdict" : "release.clean");
	}
}

/* Neither is bad without the other having come before it. The first goes through, the second is tried after it has. */
static void what_is_bad_after_another_is_found(void **state)
{
	hold_many(9);
	together[0] = 3;
	together[1] = 7;
	play();
	for (unsigned port = 1; port <= 9; port++)
		assert_string_equal(reason_of(port), port == 7 ? "drop.verdict" : "release.clean");
	assert_int_equal(seeds[0]->approved, 6);
}

/* Bad together in any order of release, harmless each by itself and after the other: clean in the end, never together. */
static void what_only_a_group_shows_costs_nobody_anything(void **state)
{
	hold_many(9);
	for (unsigned n = 0; n < 6 && seeds[0]->running; n++) {
		unsigned flows = seeds[0]->run;
		evil[7] = flows >= 7;
		end_run(seeds[0]);
		if (seeds[0]->twin)
			end_run(seeds[0]);
	}
	evil[7] = false;
	play();
	expect(1, 9, "release.clean");
	assert_int_equal(group_of(6), 6);
	assert_null(json_object_get(record_of(7), "group"));
	assert_int_equal(group_of(8), 2);
}

static void who_gets_no_answer_is_tried_alone(void **state)
{
	for (unsigned silent = 1; silent <= 9; silent++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		mute[silent] = true;
		play();
		expect(1, 9, "release.clean");
		assert_int_equal(seeds[0]->approved, silent - 1);
		/* The run that showed it, and the proof that those before it are clean without it. */
		assert_int_equal(seeds[0]->runs, silent == 1 ? 1 : 2);
		assert_null(json_object_get(record_of(silent), "group"));
	}
}

/* Its guest's old data would pass for an answer. */
static void who_has_not_received_everything_is_tried_alone(void **state)
{
	hold_from(1, 1);
	connect_from(2, 2);
	scene_guest(&s, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "older", 5);
	send_from(2, 2, "EVIL", 4);
	hold_from(3, 3);
	scene_pass(&s, 3 * MS);
	play();
	expect(1, 3, "release.clean");
	assert_int_equal(group_of(1), 2);
	assert_null(json_object_get(record_of(2), "group"));
	assert_int_equal(group_of(3), 2);
}

static void a_server_that_handles_the_first_alone_clears_the_first_alone(void **state)
{
	hold_many(4);
	mute[2] = mute[3] = mute[4] = true;
	end_run(seeds[0]);
	end_run(seeds[0]);
	assert_true(given_ports[1]);
	assert_false(given_ports[2] || given_ports[3] || given_ports[4]);
	play();
	expect(1, 4, "release.clean");
}

static void bytes_that_a_group_did_not_take_clear_nobody(void **state)
{
	hold_many(4);
	end_run_with(seeds[0], FT_TRIAL_END_HORIZON, 1, 4);
	assert_int_equal(order_count, 0);
	assert_int_equal(seeds[0]->run, 2);
	play();
	expect(1, 4, "release.clean");
}

static void a_lie_about_how_much_a_group_took_clears_nobody(void **state)
{
	hold_many(4);
	struct seed *seed = seeds[0];
	seed->running = false;
	event(seed, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){16, 4, 1}, NULL, NULL); /* 4: that is one */
	event(seed, FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){4, 4}, NULL, NULL);
	event(seed, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_int_equal(order_count, 0);
	play();
	expect(1, 4, "release.clean");
}

/* What is said of another number of flows than was run, or without being said at all, is no answer. */
static void answers_have_to_be_about_the_run(void **state)
{
	for (unsigned how = 0; how < 3; how++) {
		reopen(GROUPS, ENFORCE);
		hold_many(4);
		struct seed *seed = seeds[0];
		uint64_t held = held_of(seed);
		seed->running = false;
		event(seed, FT_EVENT_SEED_READY, FT_ROLE_SEED, NULL, NULL, NULL);
		event(seed, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
		if (how)
			event(seed, FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){how == 1 ? 3 : 4, how == 1 ? 3 : 5},
			      NULL, NULL);
		event(seed, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
		scene_pass(&s, 0);
		assert_int_equal(order_count, 0);
		play();
		expect(1, 4, "release.clean");
	}
}

/* Nor is what was said of the run before. */
static void answers_of_a_run_are_not_those_of_the_next(void **state)
{
	hold_many(4);
	evil[4] = true;
	end_run(seeds[0]);
	end_run(seeds[0]); /* twin */
	struct seed *seed = seeds[0];
	assert_int_equal(seed->run, 2);
	uint64_t held = held_of(seed);
	seed->running = false;
	event(seed, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
	event(seed, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_true(seed->finished);
	assert_int_equal(order_count, 0);
	play();
	expect(1, 3, "release.clean");
}

/* ---- groups that decide nothing ---- */

static void a_group_out_of_its_budget_is_tried_in_smaller_ones(void **state)
{
	static const unsigned ends[] = {FT_TRIAL_END_WALL, FT_TRIAL_END_MEMORY, FT_TRIAL_END_NEVER_IDLE,
					FT_TRIAL_END_INSTRUCTIONS, FT_TRIAL_END_ERROR};
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		reopen(GROUPS, ENFORCE ", \"trials_per_flow\": 1");
		hold_many(16);
		assert_int_equal(seeds[0]->begin.wall_ns, 250 * MS);
		assert_int_equal(seeds[0]->begin.handling_instructions, 8 * 20000000000ull);
		assert_int_equal(seeds[0]->begin.memory_pages, (128u << 20) / 4096);
		end_run_with(seeds[0], ends[i], 0, 16);
		assert_true(seeds[0]->finished);
		assert_int_equal(order_count, 0);
		say_gone(seeds[0], FT_SEED_FINISHED);
		assert_int_equal(last()->flow_count, 4);
		/* That one, too; and who is alone is judged as ever. It was the only trial that counts. */
		end_run_with(last(), ends[i], 0, 4);
		assert_int_equal(order_count, 0);
		play();
		expect(1, 16, "release.clean");
		assert_int_equal(guest_number("dissolved", NULL), 2);
	}
}

static void one_that_uses_up_the_time_alone_has_its_policy(void **state)
{
	reopen(GROUPS, ENFORCE ", \"on_timeout\": \"release\"");
	hold_many(2);
	end_run_with(seeds[0], FT_TRIAL_END_WALL, 0, 2);
	say_gone(seeds[0], FT_SEED_FINISHED);
	assert_int_equal(last()->flow_count, 1);
	assert_int_equal(last()->begin.wall_ns, 1000 * MS);
	by_policy[1] = true;
	end_run_with(last(), FT_TRIAL_END_WALL, 0, 1);
	expect(1, 1, "release.timeout");
	play();
	expect(2, 2, "release.clean");
}

static void a_seed_that_dies_decides_nothing_about_a_group(void **state)
{
	for (unsigned code = 0; code < 6; code++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		seeds[0]->running = false;
		say_gone(seeds[0], code);
		assert_int_equal(order_count, 0);
		assert_int_equal(last()->flow_count, 2);
		play();
		expect(1, 9, "release.clean");
	}
}

static void what_a_search_has_cleared_stays_so_when_its_seed_dies(void **state)
{
	hold_many(8);
	evil[8] = true;
	end_run(seeds[0]);
	end_run(seeds[0]); /* twin */
	assert_int_equal(seeds[0]->run, 4);
	end_run(seeds[0]);
	seeds[0]->running = false;
	say_gone(seeds[0], FT_SEED_DIED);
	expect(1, 4, "release.clean");
	assert_int_equal(order_count, 4);
	play();
	expect(5, 7, "release.clean");
	expect(8, 8, "drop.verdict");
}

static void silence_of_a_group_is_no_verdict(void **state)
{
	hold_many(4);
	seeds[0]->running = false;
	scene_pass(&s, 3251 * MS);
	assert_true(seeds[0]->finished);
	assert_int_equal(order_count, 0);
	/* Late words of the seed are nobody's. */
	uint64_t held = held_of(seeds[0]);
	event(seeds[0], FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
	event(seeds[0], FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){4, 4}, NULL, NULL);
	event(seeds[0], FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_int_equal(order_count, 0);
	play();
	expect(1, 4, "release.clean");
}

static void groups_shrink_and_grow_with_what_they_decide(void **state)
{
	unsigned port = 1;
	static const unsigned sizes[] = {8, 4, 2};
	reopen("\"max\": 4, \"source\": 4, \"group\": 8, \"parallel\": 1", ENFORCE);
	for (unsigned round = 0; round < 3; round++) {
		unsigned first = port;
		for (; port < first + 8; port++)
			hold_from(port, port);
		unsigned before = seed_count;
		scene_pass(&s, 3 * MS);
		assert_int_equal(seeds[before]->flow_count, sizes[round]);
		mute[first] = true;
		play();
		expect(first, port - 1, "release.clean");
		mute[first] = false;
	}
	unsigned largest = 0;
	for (unsigned round = 0; round < 20 && port + 8 < PORTS; round++) {
		unsigned first = port, before = seed_count;
		for (; port < first + 8; port++)
			hold_from(port, port);
		scene_pass(&s, 3 * MS);
		play();
		for (unsigned i = before; i < seed_count; i++)
			if (seeds[i]->flow_count > largest)
				largest = seeds[i]->flow_count;
	}
	assert_int_equal(largest, 8);
}

/* [PATTERN]: of the tests' names, as cmocka matches them. */
int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, open_groups, close_groups)
	const struct CMUnitTest tests[] = {
	    T(a_clean_group_is_released_in_its_order),
	    T(one_that_waits_alone_is_no_group),
	    T(a_group_of_one_is_none),
	    T(one_bad_input_is_found_wherever_it_is),
	    T(two_bad_inputs_are_found),
	    T(what_is_bad_after_another_is_found),
	    T(what_only_a_group_shows_costs_nobody_anything),
	    T(who_gets_no_answer_is_tried_alone),
	    T(who_has_not_received_everything_is_tried_alone),
	    T(a_server_that_handles_the_first_alone_clears_the_first_alone),
	    T(bytes_that_a_group_did_not_take_clear_nobody),
	    T(a_lie_about_how_much_a_group_took_clears_nobody),
	    T(answers_have_to_be_about_the_run),
	    T(answers_of_a_run_are_not_those_of_the_next),
	    T(a_group_out_of_its_budget_is_tried_in_smaller_ones),
	    T(one_that_uses_up_the_time_alone_has_its_policy),
	    T(a_seed_that_dies_decides_nothing_about_a_group),
	    T(what_a_search_has_cleared_stays_so_when_its_seed_dies),
	    T(silence_of_a_group_is_no_verdict),
	    T(groups_shrink_and_grow_with_what_they_decide),
	};
	if (scene_start_eal())
		return 1;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
