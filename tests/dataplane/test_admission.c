/* Who gets a clone, and what happens at each limit: a flood of suspicious input is the flooder's trouble. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "scene.h"

static struct scene s;

#define ENFORCE "\"risks\": \"none\", \"mode\": \"enforce\", "

static void close_scene(void)
{
	scene_close(&s);
	scene_clones = "\"max\": 1";
}

/* One more suspicious connection of this client. */
static void suspicious_from(uint32_t host)
{
	s.client_host = host;
	s.client_port++;
	memset(&s.live, 0, sizeof(s.live));
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_forget(&s);
}

static uint32_t host_of_trial(void)
{
	return ft_load32(s.request.flow.client_ip.bytes + 12) - 0x0a000209u;
}

/* The running trial ends; the next one begins. */
static void next_trial(void)
{
	unsigned before = s.requests;
	scene_gone(&s, s.request.begin.trial);
	scene_pass(&s, 0);
	assert_int_equal(s.requests, before + 1);
}

static json_int_t number(const char *service, const char *part, const char *name)
{
	json_t *status = ft_gate_status(s.gate, false);
	json_t *of = json_object_get(json_object_get(status, "services"), service);
	json_int_t value = json_integer_value(json_object_get(part ? json_object_get(of, part) : of, name));
	json_decref(status);
	return value;
}

static void one_flooding_address_costs_another_one_trial(void **state)
{
	scene_open(&s, ENFORCE "\"source_holds\": 50");
	for (int i = 0; i < 40; i++)
		suspicious_from(1);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	suspicious_from(2);
	scene_pass(&s, 3 * MS);
	next_trial();
	if (host_of_trial() != 2)
		next_trial();
	assert_int_equal(host_of_trial(), 2);
	/* And again, though it was served just now. */
	suspicious_from(2);
	scene_pass(&s, 3 * MS);
	next_trial();
	assert_int_equal(host_of_trial(), 1);
	next_trial();
	assert_int_equal(host_of_trial(), 2);
	close_scene();
}

/* Addresses that come later do not go before one that waits, be they as many as they like. */
static void each_address_that_waits_costs_one_trial(void **state)
{
	scene_open(&s, ENFORCE "\"source_holds\": 50");
	for (uint32_t host = 10; host < 18; host++)
		for (int i = 0; i < 4; i++)
			suspicious_from(host);
	suspicious_from(2);
	for (uint32_t host = 20; host < 28; host++)
		suspicious_from(host);
	scene_pass(&s, 3 * MS);
	unsigned others = 0;
	while (host_of_trial() != 2) {
		assert_in_range(host_of_trial(), 10, 17);
		next_trial();
		others++;
	}
	assert_in_range(others, 0, 8);
	close_scene();
}

static void datagram(uint16_t port)
{
	uint8_t frame[64] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x45};
	uint8_t *ip = frame + 14;
	ft_store16(ip + 2, 32);
	ip[8] = 64;
	ip[9] = 17;
	ft_store32(ip + 12, 0x0a000209);
	ft_store32(ip + 16, 0x0a00020f);
	ft_store16(ip + 20, port);
	ft_store16(ip + 22, 53);
	ft_store16(ip + 24, 12);
	memcpy(ip + 28, "EVIL", 4);
	struct ft_frame shape = {.kind = FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = 17,
				 .ip = 14,
				 .l4 = 34,
				 .payload = 42,
				 .payload_length = 4};
	ft_frame_seal(&shape, frame);
	scene_frame(&s, frame, 46);
}

static void services_take_turns(void **state)
{
	scene_open(&s, ENFORCE "\"source_holds\": 50");
	for (uint32_t host = 10; host < 30; host++)
		suspicious_from(host);
	scene_pass(&s, 3 * MS);
	datagram(1111);
	scene_pass(&s, 3 * MS);
	next_trial();
	if (s.request.flow.protocol != 17)
		next_trial();
	assert_int_equal(s.request.flow.protocol, 17);
	close_scene();
}

static void one_address_never_has_all_clones(void **state)
{
	scene_clones = "\"max\": 3, \"source\": 8";
	scene_open(&s, ENFORCE "\"source_holds\": 50");
	for (int i = 0; i < 10; i++)
		suspicious_from(1);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	suspicious_from(2);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 3);
	assert_int_equal(host_of_trial(), 2);
	close_scene();
	scene_clones = "\"max\": 3, \"source\": 1";
	scene_open(&s, ENFORCE "\"source_holds\": 50");
	suspicious_from(1);
	suspicious_from(1);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	close_scene();
}

static void a_service_has_its_share_of_clones(void **state)
{
	scene_clones = "\"max\": 3";
	scene_open(&s, ENFORCE "\"clones\": 1");
	suspicious_from(1);
	suspicious_from(2);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	datagram(1111);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	assert_int_equal(number("web", NULL, "clones"), 1);
	close_scene();
}

/* What is only observed takes no clone that somebody waits for. */
static void who_waits_goes_before_who_only_observes(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"observe\"");
	datagram(1111);
	datagram(1112);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	suspicious_from(1);
	assert_int_equal(number("web", "limits", "clones"), 1);
	scene_gone(&s, s.request.begin.trial);
	scene_pass(&s, 0);
	assert_int_equal(s.requests, 2);
	assert_int_equal(s.request.flow.protocol, 17);
	close_scene();
}

/* ---- each limit: counted by its name, and the policy is asked ---- */

static void expect_overload(const char *limit)
{
	assert_string_equal(
	    json_string_value(json_object_get(scene_record(&s, "hold"), "disposition_reason")),
	    "release.overload");
	assert_int_equal(number("web", "limits", limit), 1);
	assert_int_equal(number("web", "exceptions", "overload"), 1);
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_OVERLOAD), 1);
	assert_string_equal(scene_taken(&s), "EVIL");
	/* The other service has nothing of it. */
	datagram(1111);
	scene_pass(&s, 3 * MS);
	assert_int_equal(number("dns", NULL, "holds"), 1);
	close_scene();
}

static void holds_of_a_service_are_limited(void **state)
{
	scene_open(&s, ENFORCE "\"holds\": 2, \"on_overload\": \"release\"");
	for (uint32_t host = 1; host <= 3; host++)
		suspicious_from(host);
	expect_overload("holds");
}

static void holds_of_an_address_are_limited(void **state)
{
	scene_open(&s, ENFORCE "\"source_holds\": 2, \"on_overload\": \"release\"");
	suspicious_from(2);
	for (int i = 0; i < 3; i++)
		suspicious_from(1);
	expect_overload("source_holds");
}

static void held_bytes_of_a_service_are_limited(void **state)
{
	scene_open(&s, ENFORCE "\"held\": 250, \"on_overload\": \"release\"");
	for (uint32_t host = 1; host <= 3; host++)
		suspicious_from(host);
	assert_in_range(number("web", NULL, "held_bytes"), 100, 250);
	expect_overload("held");
}

static void waiting_for_a_clone_is_limited(void **state)
{
	scene_open(&s, ENFORCE "\"on_overload\": \"release\"");
	datagram(1111);
	scene_pass(&s, 3 * MS);
	suspicious_from(1);
	scene_pass(&s, 3 * MS);
	scene_pass(&s, 1001 * MS);
	assert_int_equal(number("web", "limits", "clones"), 1);
	assert_string_equal(scene_taken(&s), "EVIL");
	close_scene();
}

static void the_time_of_a_hold_is_limited(void **state)
{
	scene_open(&s, ENFORCE
		   "\"hold_time\": 500000000, \"on_timeout\": \"release\", \"on_overload\": \"drop\"");
	suspicious_from(1);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	scene_pass(&s, 490 * MS);
	assert_string_equal(scene_taken(&s), "");
	scene_pass(&s, 10 * MS); /* of the trial's budget there is half a second left */
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(number("web", "limits", "hold_time"), 1);
	assert_int_equal(number("web", "exceptions", "timeout"), 1);
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_TIMEOUT), 1);
	/* The same for one that only waited: its clone is still the other's. */
	suspicious_from(2);
	scene_pass(&s, 501 * MS);
	assert_int_equal(number("web", "limits", "hold_time"), 2);
	assert_int_equal(number("web", "exceptions", "overload"), 1);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_OVERLOAD_POLICY), 1);
	close_scene();
}

static unsigned records(const char *op, const char *key, const char *value)
{
	unsigned n = 0;
	for (size_t i = 0; i < json_array_size(s.records); i++) {
		json_t *record = json_array_get(s.records, i);
		const char *is = json_string_value(json_object_get(record, "op"));
		const char *has = key ? json_string_value(json_object_get(record, key)) : NULL;
		n += !strcmp(is, op) && (!key || (has && !strcmp(has, value)));
	}
	return n;
}

/* A flood of exceptions does not fill the feed: they are counted, the number is told; objections are always told. */
static void what_the_feed_tells_is_limited(void **state)
{
	scene_open(&s, ENFORCE "\"feed_limit\": 5, \"source_holds\": 1");
	suspicious_from(1);
	for (int i = 0; i < 20; i++)
		suspicious_from(1);
	assert_int_equal(records("hold", NULL, NULL), 5);
	assert_int_equal(records("packets", NULL, NULL), 5);
	assert_int_equal(number("web", "limits", "feed_limit"), 15);
	assert_int_equal(number("web", "limits", "source_holds"), 20);
	scene_pass(&s, 3 * MS);
	s.request.clone.next = s.request.flow.next_sequence;
	scene_answer(&s, true);
	assert_int_equal(records("hold", "verdict", "malicious"), 1);
	assert_int_equal(records("event", "type", "feed-limit"), 0);
	scene_pass(&s, 60000 * MS);
	assert_int_equal(records("event", "type", "feed-limit"), 1);
	assert_non_null(
	    strstr(json_string_value(json_object_get(scene_record(&s, "event"), "text")), "15 holds"));
	suspicious_from(3);
	suspicious_from(3);
	assert_int_equal(records("hold", NULL, NULL), 7);
	close_scene();
}

static void places_are_given_back(void **state)
{
	scene_open(&s, ENFORCE "\"source_holds\": 3");
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 3; i++)
			suspicious_from(1);
		scene_pass(&s, 3 * MS);
		for (int i = 0; i < 3; i++) {
			scene_gone(&s, s.request.begin.trial);
			scene_pass(&s, 0);
		}
		assert_int_equal(number("web", NULL, "holds"), 0);
		assert_int_equal(number("web", NULL, "clones"), 0);
		assert_int_equal(number("web", NULL, "held_bytes"), 0);
	}
	assert_int_equal(s.requests, 15);
	assert_int_equal(number("web", "limits", "source_holds"), 0);
	close_scene();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_flooding_address_costs_another_one_trial),
	    cmocka_unit_test(each_address_that_waits_costs_one_trial),
	    cmocka_unit_test(services_take_turns),
	    cmocka_unit_test(one_address_never_has_all_clones),
	    cmocka_unit_test(a_service_has_its_share_of_clones),
	    cmocka_unit_test(who_waits_goes_before_who_only_observes),
	    cmocka_unit_test(holds_of_a_service_are_limited),
	    cmocka_unit_test(holds_of_an_address_are_limited),
	    cmocka_unit_test(held_bytes_of_a_service_are_limited),
	    cmocka_unit_test(waiting_for_a_clone_is_limited),
	    cmocka_unit_test(the_time_of_a_hold_is_limited),
	    cmocka_unit_test(what_the_feed_tells_is_limited),
	    cmocka_unit_test(places_are_given_back),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
