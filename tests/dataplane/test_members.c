/* Group tests whose members leave before a run ends, and rings that have no room for what a group needs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/order.h"
#include "dataplane/reload.h"
#include "seeds.h"

/* ---- members that leave ---- */

static void order_hold(unsigned port, const char *what)
{
	json_t *holds = ft_gate_holds(s.gate), *hold;
	size_t i;
	json_int_t number = 0;
	json_array_foreach(holds, i, hold)
		if (json_integer_value(json_object_get(json_object_get(hold, "flow"), "client_port")) == 40000 + (json_int_t)port)
			number = json_integer_value(json_object_get(hold, "hold"));
	json_decref(holds);
	json_t *message = json_pack("{s:s, s:I}", "what", what, "hold", number);
	struct ft_refusal refusal = {0};
	json_t *result = ft_order(s.gate, message, &refusal);
	assert_non_null(result);
	json_decref(result);
	json_decref(message);
}

static void a_member_that_an_operator_decides_on_leaves_the_others_untried(void **state)
{
	for (unsigned port = 1; port <= 5; port++)
		for (unsigned drop = 0; drop < 2; drop++) {
			reopen(GROUPS, ENFORCE);
			hold_many(5);
			by_policy[port] = true;
			order_hold(port, drop ? "drop" : "release");
			scene_pass(&s, 0);
			assert_string_equal(reason_of(port), drop ? "drop.operator" : "release.operator");
			assert_true(seeds[0]->finished);
			assert_int_equal(order_count, 1);
			/* Nobody believes that run any more. */
			uint64_t held = 20;
			event(seeds[0], FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
			event(seeds[0], FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){5, 5}, NULL, NULL);
			event(seeds[0], FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "",
			      NULL);
			scene_pass(&s, 0);
			assert_int_equal(order_count, 1);
			play();
			for (unsigned other = 1; other <= 5; other++)
				if (other != port)
					assert_string_equal(reason_of(other), "release.clean");
			assert_int_equal(guest_number("dissolved", NULL), 1);
		}
}

static void a_member_whose_time_is_over_leaves(void **state)
{
	reopen(GROUPS, ENFORCE ", \"hold_time\": 600000000");
	hold_many(1);
	hold_from(2, 2);
	scene_pass(&s, 60 * MS);
	hold_from(3, 3);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 1); /* keeps the others waiting */
	end_run(seeds[0]);
	scene_pass(&s, 200 * MS);
	struct seed *pair = last();
	assert_int_equal(pair->flow_count, 2);
	scene_pass(&s, 336 * MS);
	assert_string_equal(reason_of(2), "none");
	scene_pass(&s, 2 * MS);
	/* The older one's time is over, the younger one has some left. */
	assert_string_equal(reason_of(2), "drop.timeout");
	assert_true(pair->finished);
	scene_pass(&s, 0);
	assert_int_equal(last()->flow_count, 1);
	play();
	expect(3, 3, "release.clean");
	assert_null(json_object_get(record_of(3), "group"));
}

static void a_bypass_releases_a_group_by_policy(void **state)
{
	hold_many(5);
	for (unsigned port = 1; port <= 5; port++)
		by_policy[port] = true;
	json_t *message = json_pack("{s:s, s:b}", "what", "bypass", "on", 1);
	struct ft_refusal refusal = {0};
	json_t *result = ft_order(s.gate, message, &refusal);
	assert_int_equal(json_integer_value(json_object_get(result, "released")), 5);
	json_decref(result);
	json_decref(message);
	scene_pass(&s, 0);
	expect(1, 5, "release.bypass");
	assert_int_equal(order_count, 5);
	assert_true(seeds[0]->finished);
	play();
	assert_int_equal(seed_count, 1);
}

/* A reset among the frames of a group would be a group that no run took. */
static void resets_of_clients_go_behind_the_group(void **state)
{
	hold_many(4);
	for (unsigned port = 1; port <= 3; port += 2) {
		s.client_port = (uint16_t)(40000 + port);
		s.client_host = port;
		scene_client(&s, 5, 1, FT_TCP_RST | FT_TCP_ACK, "", 0);
	}
	assert_int_equal(order_count, 0);
	play();
	static const unsigned right[] = {1, 2, 3, 4, 1 | RESET, 3 | RESET};
	assert_int_equal(order_count, 6);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(order[i], right[i]);
}

static void a_lost_guest_ends_a_group_by_policy(void **state)
{
	hold_many(5);
	ft_gate_guest_down(s.gate, "web", "killed");
	scene_pass(&s, 0);
	expect(1, 5, "drop.error");
	assert_int_equal(order_count, 0);
	assert_int_equal(guest_number("clones", NULL), 0);
	assert_int_equal(guest_number("held_bytes", NULL), 0);
}

static void another_link_ends_a_group_by_policy(void **state)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	hold_many(5);
	ft_link_close(&s.vmm);
	assert_int_equal(ft_link_create(theirs, ours, &err), 0);
	assert_int_equal(ft_link_open(&s.vmm, FT_LINK_VMM, ours, &err), 0);
	assert_int_equal(ft_gate_link(s.gate, "web", theirs, &err), 0);
	expect(1, 5, "drop.error");
	/* The new link has numbers of its own, and words about the old ones mean nothing. */
	for (unsigned port = 11; port <= 13; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 2);
	assert_true(last()->begin.trial > seeds[0]->begin.trial);
	end_run(seeds[0]);
	assert_int_equal(order_count, 0);
	play();
	expect(11, 13, "release.clean");
}

static void a_stop_ends_a_group_by_policy(void **state)
{
	reopen(GROUPS, ENFORCE ", \"on_error\": \"release\"");
	hold_many(5);
	for (unsigned port = 1; port <= 5; port++)
		by_policy[port] = true;
	ft_gate_stop(s.gate);
	scene_pass(&s, 0);
	expect(1, 5, "release.shutdown");
	assert_int_equal(order_count, 5);
}

/* The rules that judge a hold are those in force when it began; a group has one set of them. */
static void a_reload_parts_groups(void **state)
{
	struct ft_rulebook *book = NULL;
	struct ft_error err = {0};
	hold_from(1, 1);
	hold_from(2, 2);
	json_t *config = scene_config(ENFORCE, "", "");
	assert_int_equal(ft_rulebook_new(config, &book, &err), 0);
	assert_int_equal(ft_gate_reload(s.gate, book, &err), 0);
	json_decref(config);
	hold_from(3, 3);
	hold_from(4, 4);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 2);
	assert_int_equal(port_of(&last()->flows[0]), 1);
	assert_non_null(s.gate->retired);
	play();
	expect(1, 4, "release.clean");
	assert_int_equal(seed_count, 2);
	assert_int_equal(group_of(3), 2);
	scene_pass(&s, 1000 * MS);
	assert_null(s.gate->retired);
}

/* In the middle of a run: it is judged by the book that it began with. */
static void a_reload_leaves_a_group_as_it_is(void **state)
{
	struct ft_rulebook *book = NULL;
	struct ft_error err = {0};
	hold_many(4);
	evil[3] = true;
	json_t *config = scene_config(ENFORCE, "", "");
	assert_int_equal(ft_rulebook_new(config, &book, &err), 0);
	assert_int_equal(ft_gate_reload(s.gate, book, &err), 0);
	json_decref(config);
	play();
	expect(1, 2, "release.clean");
	expect(3, 3, "drop.verdict");
	expect(4, 4, "release.clean");
	scene_pass(&s, 1000 * MS);
	assert_null(s.gate->retired);
}

/* ---- full rings ---- */

static void fill(struct ft_ring *ring)
{
	uint8_t bytes[8] = {0};
	struct iovec part = {bytes, sizeof(bytes)};
	while (!ft_ring_put(ring, FILLER, &part, 1))
		fillers++;
}

/* Each word of the request meets a ring without room for it, and goes when there is some: none twice, none left out. */
static void a_full_command_ring_repeats_and_forgets_nothing(void **state)
{
	for (unsigned port = 1; port <= 3; port++)
		hold_from(port, port);
	evil[2] = true;
	struct ft_ring *ring = &s.gate->guests[0].link.cmd;
	fill(ring);
	assert_true(fillers > 1000);
	commands_most = 1;
	uint64_t full = ring->full;
	unsigned passes = 0;
	scene_pass(&s, 3 * MS);
	/* Fillers are in the way: the words get in one by one as these get out, and are read when all of these are. */
	while (ring->index - ring->other > 0 && passes < 200) {
		scene_pass(&s, 0);
		passes++;
	}
	assert_true(ring->full - full > 20);
	assert_int_equal(seed_count, 0);
	commands_most = UINT32_MAX;
	scene_pass(&s, 0);
	assert_int_equal(seed_count, 1);
	assert_int_equal(last()->flow_count, 3);
	assert_true(last()->go);
	/* The same for the order of another run, and for the end. */
	fill(ring);
	commands_most = 0;
	end_run(seeds[0]);
	assert_false(seeds[0]->running);
	scene_pass(&s, 0);
	commands_most = UINT32_MAX;
	scene_pass(&s, 0);
	scene_pass(&s, 0);
	assert_true(seeds[0]->running && seeds[0]->twin);
	while (seeds[0]->running) {
		fill(ring);
		commands_most = 0;
		end_run(seeds[0]);
		commands_most = UINT32_MAX;
		scene_pass(&s, 0);
		scene_pass(&s, 0);
	}
	assert_true(seeds[0]->finished);
	play();
	expect(1, 1, "release.clean");
	expect(2, 2, "drop.verdict");
	expect(3, 3, "release.clean");
}

/* A member that leaves before the whole request is said: the vmm hears of its end, and of nothing else. */
static void a_request_that_is_not_all_said_is_ended(void **state)
{
	for (unsigned taken = 1; taken < 80; taken += 6) {
		reopen(GROUPS, ENFORCE);
		for (unsigned port = 1; port <= 3; port++)
			hold_from(port, port);
		struct ft_ring *ring = &s.gate->guests[0].link.cmd;
		fill(ring);
		commands_most = 1;
		scene_pass(&s, 3 * MS);
		for (unsigned i = 0; i < taken; i++)
			scene_pass(&s, 0);
		by_policy[2] = true;
		fill(ring); /* the end does not fit either */
		commands_most = 0;
		order_hold(2, "release");
		scene_pass(&s, 0);
		commands_most = UINT32_MAX;
		for (unsigned i = 0; i < 4; i++)
			scene_pass(&s, 0);
		play();
		expect(1, 1, "release.clean");
		expect(2, 2, "release.operator");
		expect(3, 3, "release.clean");
		unsigned ended = 0;
		for (unsigned i = 0; i < seed_count; i++)
			ended += seeds[i]->finished;
		assert_int_equal(ended, seed_count);
	}
}

/* Small frames do not overtake a large one that does not fit yet. */
static void a_full_receive_ring_does_not_change_the_order(void **state)
{
	uint8_t large[1400];
	memset(large, 'x', sizeof(large));
	memcpy(large, "EVIL", 4);
	connect_from(1, 1);
	send_from(1, 1, large, sizeof(large));
	for (unsigned port = 2; port <= 5; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 5);
	s.client_port = 40002;
	s.client_host = 2;
	scene_client(&s, 5, 1, FT_TCP_RST | FT_TCP_ACK, "", 0);
	fill(&s.gate->guests[0].link.rx);
	frames_most = 0;
	end_run(seeds[0]);
	frames_most = 15; /* fillers, of 16 bytes */
	scene_pass(&s, 0);
	frames_most = 0;
	for (unsigned i = 0; i < 10; i++) {
		scene_pass(&s, 10 * MS);
		assert_string_equal(reason_of(2), "none");
	}
	frames_most = UINT32_MAX;
	play();
	expect(1, 5, "release.clean");
	assert_int_equal(order_count, 6);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(order[i], i + 1);
	assert_int_equal(order[5], 2 | RESET);
}

/* At the end what does not fit is lost, and what was to go behind it with it. */
static void a_stop_with_a_full_ring_releases_no_part_of_a_group_out_of_order(void **state)
{
	uint8_t large[1400];
	memset(large, 'x', sizeof(large));
	memcpy(large, "EVIL", 4);
	reopen(GROUPS, ENFORCE ", \"on_error\": \"release\"");
	hold_from(9, 9); /* waits, and is released by policy when all is over */
	connect_from(1, 1);
	send_from(1, 1, large, sizeof(large));
	connect_from(2, 2);
	send_from(2, 2, "EVIL", 4);
	scene_pass(&s, 3 * MS);
	struct seed *seed = seeds[0];
	assert_int_equal(seed->flow_count, 3);
	hold_from(10, 10);
	scene_pass(&s, 3 * MS);
	fill(&s.gate->guests[0].link.rx);
	frames_most = 0;
	end_run(seed);
	frames_most = 10;
	scene_pass(&s, 0); /* room for the first and the third, not for the second */
	frames_most = 0;
	by_policy[10] = true;
	ft_gate_stop(s.gate);
	frames_most = UINT32_MAX;
	scene_pass(&s, 0);
	assert_string_equal(reason_of(9), "release.clean");
	assert_string_equal(reason_of(1), "drop.ring-full");
	assert_string_equal(reason_of(2), "drop.ring-full");
	assert_false(given_ports[2]);
	giving = NULL;
}

/* [PATTERN]: of the tests' names, as cmocka matches them. */
int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, open_groups, close_groups)
	const struct CMUnitTest tests[] = {
	    T(a_member_that_an_operator_decides_on_leaves_the_others_untried),
	    T(a_member_whose_time_is_over_leaves),
	    T(a_bypass_releases_a_group_by_policy),
	    T(resets_of_clients_go_behind_the_group),
	    T(a_lost_guest_ends_a_group_by_policy),
	    T(another_link_ends_a_group_by_policy),
	    T(a_stop_ends_a_group_by_policy),
	    T(a_reload_parts_groups),
	    T(a_reload_leaves_a_group_as_it_is),
	    T(a_full_command_ring_repeats_and_forgets_nothing),
	    T(a_request_that_is_not_all_said_is_ended),
	    T(a_full_receive_ring_does_not_change_the_order),
	    T(a_stop_with_a_full_ring_releases_no_part_of_a_group_out_of_order),
	};
	if (scene_start_eal())
		return 1;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
