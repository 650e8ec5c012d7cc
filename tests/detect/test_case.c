/* The case of a hold: what a trial and its twin come to. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/channel.h"
#include "detect/case.h"
#include "detect/trace.h"
#include "tests/detect/scene.h"

static const char rules_text[] =
    "[{\"sid\": 1, \"rev\": 3, \"name\": \"exec\", \"text\": \"it started something\", \"severity\": 1, "
    "\"verdict\": "
    "\"malicious\","
    "  \"any\": {\"event\": \"exec\", \"where\": {\"result\": 0}, \"unless\": {\"path\": {\"in\": "
    "\"may_exec\"}}}},"
    " {\"sid\": 2, \"name\": \"crash\", \"text\": \"it crashed\", \"severity\": 2, \"verdict\": "
    "\"suspicious\","
    "  \"any\": {\"event\": \"signal\", \"where\": {\"signal\": [\"SIGSEGV\", \"SIGILL\"]}}},"
    " {\"sid\": 3, \"name\": \"write\", \"text\": \"it wrote\", \"severity\": 1, \"verdict\": \"malicious\","
    "  \"any\": {\"event\": \"file.write\", \"unless\": {\"path\": {\"in\": \"may_write\"}}}},"
    " {\"sid\": 4, \"name\": \"down\", \"text\": \"it went down\", \"severity\": 1, \"verdict\": "
    "\"malicious\","
    "  \"any\": {\"event\": \"trial.end\", \"where\": {\"end\": [\"reset\", \"triple-fault\"]}}},"
    " {\"sid\": 5, \"name\": \"many\", \"text\": \"it removed many\", \"severity\": 3, \"verdict\": "
    "\"malicious\","
    "  \"threshold\": {\"of\": {\"event\": \"file.remove\"}, \"count\": 3}},"
    " {\"sid\": 6, \"name\": \"answered\", \"text\": \"it answered\", \"severity\": 1, \"verdict\": "
    "\"malicious\","
    "  \"any\": {\"event\": \"trial.answered\"}}]";

#define KEPT (FT_TRACE_EVENTS + FT_TRACE_EVENT_RESERVE)

struct court {
	struct ft_rules *rules;
	struct ft_profile *profile;
	struct ft_case *c;
};

static void begin(struct court *court)
{
	struct ft_error err = {0};
	json_t *list = json_loads(rules_text, 0, NULL);
	json_t *normal =
	    json_loads("{\"may_exec\": [\"/bin/ping\"], \"may_write\": [\"/var/log/**\"]}", 0, NULL);
	if (ft_rules_load(list, FT_RULES_VERDICT, &court->rules, NULL, &err) ||
	    ft_profile_load(normal, &court->profile, NULL, &err))
		fail_msg("%s", err.text);
	json_decref(list);
	json_decref(normal);
	court->c = ft_case_new(SCENE_HOLD, court->rules, court->profile);
	assert_non_null(court->c);
}

static void end(struct court *court)
{
	ft_case_free(court->c);
	ft_rules_free(court->rules);
	ft_profile_free(court->profile);
}

static int add(struct court *court, enum ft_event_type type, enum ft_event_role role, uint64_t ms,
	       const char *process, const char *string0, const char *string1, const uint64_t fields[6])
{
	struct scene_event e;
	scene(&e, type, role, ms, process, string0, string1, fields);
	return ft_case_add(court->c, &e.event, e.strings);
}

static void exec(struct court *court, enum ft_event_role role, uint64_t ms, const char *path,
		 const char *argv)
{
	assert_int_equal(add(court, FT_EVENT_EXEC, role, ms, "cgi", path, argv, FIELDS(0)), 0);
}

static void handled(struct court *court, uint64_t taken, uint64_t held)
{
	assert_int_equal(
	    add(court, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, 2000, "", NULL, NULL, FIELDS(taken, held, 1)),
	    0);
}

static void ended(struct court *court, enum ft_event_role role, enum ft_trial_end how, bool taken)
{
	assert_int_equal(add(court, FT_EVENT_TRIAL_END, role, 120000, "", "", NULL,
			     FIELDS(how, 0xabcdef, 1000, 12, taken)),
			 0);
}

static void seed(struct court *court)
{
	assert_int_equal(
	    add(court, FT_EVENT_SEED_READY, FT_ROLE_SEED, 1000, "", NULL, NULL, FIELDS(300000, 5)), 0);
}

static void assert_verdict(struct court *court, enum ft_verdict verdict, uint32_t sid)
{
	struct ft_judgement j;
	ft_case_judge(court->c, &j);
	if (j.verdict != verdict || j.sid != sid)
		fail_msg("%s by %u (%s), expected %s by %u", ft_verdict_name(j.verdict), j.sid, j.text,
			 ft_verdict_name(verdict), sid);
}

static void clean_needs_everything(void **state)
{
	static const struct {
		enum ft_trial_end end;
		bool handled;
		uint64_t taken;
		enum ft_verdict verdict;
		uint32_t sid;
	} runs[] = {
	    {FT_TRIAL_END_HORIZON, true, 141, FT_VERDICT_CLEAN, 4000001},
	    {FT_TRIAL_END_HORIZON, false, 141, FT_VERDICT_INCONCLUSIVE, 4000002},
	    {FT_TRIAL_END_HORIZON, true, 140, FT_VERDICT_INCONCLUSIVE, 4000002},
	    {FT_TRIAL_END_WALL, true, 141, FT_VERDICT_INCONCLUSIVE, 4000010},
	    {FT_TRIAL_END_INSTRUCTIONS, true, 141, FT_VERDICT_INCONCLUSIVE, 4000011},
	    {FT_TRIAL_END_MEMORY, true, 141, FT_VERDICT_INCONCLUSIVE, 4000012},
	    {FT_TRIAL_END_NEVER_IDLE, false, 141, FT_VERDICT_INCONCLUSIVE, 4000013},
	    {FT_TRIAL_END_KILLED, true, 141, FT_VERDICT_INCONCLUSIVE, 4000016},
	    {FT_TRIAL_END_ERROR, true, 141, FT_VERDICT_INCONCLUSIVE, 4000017},
	};
	for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
		struct court court;
		begin(&court);
		seed(&court);
		exec(&court, FT_ROLE_TRIAL, 1100, "/bin/ping", "ping -c1 x");
		assert_int_equal(ft_case_step(court.c), FT_CASE_RUNNING);
		handled(&court, runs[i].taken, 141);
		ended(&court, FT_ROLE_TRIAL, runs[i].end, runs[i].handled);
		/* No rule objects: no twin is needed. */
		assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
		assert_verdict(&court, runs[i].verdict, runs[i].sid);
		end(&court);
	}
}

/* An end that claims to have handled the input, without the word on how much was taken. */
static void an_end_alone_proves_nothing(void **state)
{
	struct court court;
	begin(&court);
	seed(&court);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_INCONCLUSIVE, 4000002);
	end(&court);
}

static void an_end_that_no_table_knows_is_an_error(void **state)
{
	struct court court;
	begin(&court);
	seed(&court);
	assert_int_equal(
	    add(&court, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, 1, "", "", NULL, FIELDS(1u << 31, 0, 0, 0, 1)), 0);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_INCONCLUSIVE, 4000017);
	end(&court);
}

/* A trial that ran /bin/sh twice against a twin that ran it `times` times. */
static void against_twin(unsigned times, enum ft_trial_end twin_end, enum ft_verdict verdict, uint32_t sid)
{
	struct court court;
	begin(&court);
	seed(&court);
	exec(&court, FT_ROLE_TRIAL, 1500, "/bin/sh", "sh -c job 4711");
	exec(&court, FT_ROLE_TRIAL, 31500, "/bin/sh", "sh -c job 4712");
	handled(&court, 141, 141);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	assert_true(ft_case_until(court.c) >= 120000000000u);
	assert_int_equal(ft_case_step(court.c), FT_CASE_RUNNING);
	for (unsigned i = 0; i < times; i++)
		exec(&court, FT_ROLE_TWIN, 1400 + 30000 * i, "/bin/sh", "sh -c job 17");
	ended(&court, FT_ROLE_TWIN, twin_end, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, verdict, sid);
	end(&court);
}

static void what_the_twin_shows_as_often_does_not_count(void **state)
{
	against_twin(2, FT_TRIAL_END_HORIZON, FT_VERDICT_CLEAN, 4000001);
	against_twin(3, FT_TRIAL_END_HORIZON, FT_VERDICT_CLEAN, 4000001);
	against_twin(1, FT_TRIAL_END_HORIZON, FT_VERDICT_MALICIOUS, 1);
	against_twin(0, FT_TRIAL_END_HORIZON, FT_VERDICT_MALICIOUS, 1);
	/* Without a comparison nothing is proven either way. */
	against_twin(0, FT_TRIAL_END_WALL, FT_VERDICT_INCONCLUSIVE, 4000005);
	/* What was shown until then counts all the same: nothing is left to object to. */
	against_twin(2, FT_TRIAL_END_WALL, FT_VERDICT_CLEAN, 4000001);
}

/* Does one event of the twin take away one of the trial? */
static bool same(const char *trial_path, const char *trial_argv, const char *twin_path, const char *twin_argv)
{
	struct court court;
	struct ft_judgement j;
	begin(&court);
	exec(&court, FT_ROLE_TRIAL, 1, trial_path, trial_argv);
	handled(&court, 1, 1);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	exec(&court, FT_ROLE_TWIN, 1, twin_path, twin_argv);
	ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	ft_case_judge(court.c, &j);
	end(&court);
	return j.verdict == FT_VERDICT_CLEAN;
}

static void the_same_thing_is_known_by_what_was_done(void **state)
{
	assert_true(same("/bin/sh", "sh -c id", "/bin/sh", "sh -c id"));
	assert_true(same("/bin/sh", "rm /tmp/tmp.Xk29aQ", "/bin/sh", "rm /tmp/tmp.p0Yb7z"));
	assert_true(same("/bin/sh", "kill 123", "/bin/sh", "kill 98765"));
	assert_false(same("/bin/sh", "sh -c id", "/bin/sh", "sh -c ls"));
	assert_false(same("/bin/sh", "sh -c id", "/bin/dash", "sh -c id"));
	/* The program itself is not blurred. */
	assert_false(same("/tmp/x1", "x", "/tmp/x2", "x"));
	assert_false(same("/bin/sh", "cat passwords", "/bin/sh", "cat messages"));
}

static void temporary_files_have_other_names_each_time(void **state)
{
	struct court court;
	begin(&court);
	for (enum ft_event_role role = FT_ROLE_TRIAL; role <= FT_ROLE_TWIN; role++) {
		add(&court, FT_EVENT_FILE_WRITE, role, 5, "job",
		    role == FT_ROLE_TRIAL ? "/tmp/tmp.aB3dEf" : "/tmp/tmp.Zz9xY1", NULL, FIELDS(0));
		if (role == FT_ROLE_TRIAL)
			handled(&court, 1, 1);
		ended(&court, role, FT_TRIAL_END_HORIZON, role == FT_ROLE_TRIAL);
		assert_int_equal(ft_case_step(court.c),
				 role == FT_ROLE_TRIAL ? FT_CASE_TWIN : FT_CASE_JUDGED);
	}
	assert_verdict(&court, FT_VERDICT_CLEAN, 4000001);
	end(&court);
}

static void the_worst_rule_decides(void **state)
{
	struct court court;
	begin(&court);
	add(&court, FT_EVENT_SIGNAL, FT_ROLE_TRIAL, 5, "cgi", NULL, NULL, FIELDS(11, 100));
	for (int i = 0; i < 3; i++)
		add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TRIAL, 6, "cgi", "/a", NULL, FIELDS(0));
	exec(&court, FT_ROLE_TRIAL, 7, "/bin/sh", "sh");
	/* Even a trial that proved nothing else convicts by what it showed. */
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_WALL, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_MALICIOUS, 1);
	struct ft_judgement j;
	ft_case_judge(court.c, &j);
	assert_int_equal(j.rev, 3);
	assert_int_equal(j.severity, 1);
	assert_string_equal(j.text, "it started something");
	end(&court);
}

static void a_threshold_counts_what_the_twin_leaves(void **state)
{
	for (unsigned shown = 0; shown <= 1; shown++) {
		struct court court;
		begin(&court);
		for (uint64_t i = 0; i < 3; i++)
			add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TRIAL, 6 + i, "cgi", "/a", NULL, FIELDS(0));
		handled(&court, 1, 1);
		ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
		assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
		if (shown)
			add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TWIN, 6, "cgi", "/a", NULL, FIELDS(0));
		ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
		ft_case_step(court.c);
		assert_verdict(&court, shown ? FT_VERDICT_CLEAN : FT_VERDICT_MALICIOUS, shown ? 4000001 : 5);
		end(&court);
	}
}

static void the_nearest_in_time_is_taken_away(void **state)
{
	struct court court;
	begin(&court);
	court.rules->rules[4].window_ns = 1000000000;
	for (uint64_t i = 0; i < 3; i++)
		add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TRIAL, 100 + i, "cgi", "/a", NULL, FIELDS(0));
	add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TRIAL, 30000, "cgi", "/a", NULL, FIELDS(0));
	handled(&court, 1, 1);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TWIN, 30100, "cgi", "/a", NULL, FIELDS(0));
	ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_MALICIOUS, 5);
	end(&court);
}

static void going_down_is_malicious_unless_the_twin_does_too(void **state)
{
	for (unsigned both = 0; both <= 1; both++) {
		struct court court;
		begin(&court);
		ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_RESET, false);
		assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
		ended(&court, FT_ROLE_TWIN, both ? FT_TRIAL_END_RESET : FT_TRIAL_END_HORIZON, false);
		assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
		/* A guest that reboots by itself: nothing against the input, but no proof for it. */
		assert_verdict(&court, both ? FT_VERDICT_INCONCLUSIVE : FT_VERDICT_MALICIOUS,
			       both ? 4000014 : 4);
		end(&court);
	}
}

static void lost_evidence_is_never_clean(void **state)
{
	struct court court;
	begin(&court);
	add(&court, FT_EVENT_LOST, FT_ROLE_TRIAL, 5, "", NULL, NULL, FIELDS(3));
	handled(&court, 1, 1);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_INCONCLUSIVE, 4000003);
	end(&court);
}

/* A clone that its guest has broken says what it likes: sums of it do not come round to nothing. */
static void lost_evidence_does_not_add_up_to_none(void **state)
{
	for (unsigned role = 0; role < 2; role++) {
		struct court court;
		begin(&court);
		add(&court, FT_EVENT_LOST, role ? FT_ROLE_SEED : FT_ROLE_TRIAL, 5, "", NULL, NULL, FIELDS(UINT64_MAX));
		add(&court, FT_EVENT_LOST, role ? FT_ROLE_SEED : FT_ROLE_TRIAL, 5, "", NULL, NULL, FIELDS(1));
		handled(&court, 1, 1);
		ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
		assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
		assert_verdict(&court, FT_VERDICT_INCONCLUSIVE, 4000003);
		json_t *record = json_object();
		assert_int_equal(ft_case_record(court.c, record), 0);
		assert_true(json_integer_value(json_object_get(record, "evidence_dropped")) > 0);
		json_decref(record);
		end(&court);
	}
}

static void a_flood_is_bounded_and_never_clean(void **state)
{
	struct court court;
	begin(&court);
	seed(&court);
	char path[3000];
	memset(path, 'x', sizeof(path));
	/* Removals that the twin shows too, as many as one likes: more than can be kept, so none may be believed. */
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(path, 32, "/tmp/%c%c%c", 'a' + (char)(i % 26), 'a' + (char)(i / 26 % 26),
			 'a' + (char)(i / 676));
		path[strlen(path)] = i % 2 ? 'x' : 0;
		path[sizeof(path) - 1] = 0;
		add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TRIAL, 2000 + i, "cgi", path, NULL, FIELDS(0));
	}
	handled(&court, 1, 1);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_MALICIOUS, 5);
	json_t *record = json_object();
	assert_int_equal(ft_case_record(court.c, record), 0);
	assert_true(json_array_size(json_object_get(record, "evidence")) <= FT_CASE_STORY);
	assert_true(json_integer_value(json_object_get(record, "evidence_dropped")) > 0);
	assert_true(json_dumpb(record, NULL, 0, JSON_COMPACT) < FT_CHANNEL_MESSAGE - (32u << 10));
	json_decref(record);
	end(&court);

	/* Routine work, more often than can be compared. */
	begin(&court);
	for (unsigned i = 0; i < KEPT + 10; i++)
		exec(&court, FT_ROLE_TRIAL, 2000, "/bin/sh", "sh");
	handled(&court, 1, 1);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	for (unsigned i = 0; i < KEPT; i++)
		exec(&court, FT_ROLE_TWIN, 2000, "/bin/sh", "sh");
	ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_INCONCLUSIVE, 4000004);
	end(&court);
}

/* Harmless parts of a combining rule fill the memory; what convicts by itself still gets in. */
static void a_flood_of_parts_hides_nothing(void **state)
{
	struct court court;
	begin(&court);
	for (unsigned i = 0; i < 2; i++)
		add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TRIAL, 1, "cgi", "/a", NULL, FIELDS(0));
	struct ft_rule *many = &court.rules->rules[4];
	many->least = FT_RULES_COUNT; /* never reached: only the flood itself is of interest */
	for (unsigned i = 0; i < FT_TRACE_EVENTS - 2; i++)
		add(&court, FT_EVENT_FILE_REMOVE, FT_ROLE_TRIAL, 2, "cgi", "/a", NULL, FIELDS(0));
	many->least++;
	exec(&court, FT_ROLE_TRIAL, 3, "/bin/sh", "sh");
	handled(&court, 1, 1);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_MALICIOUS, 1);
	end(&court);
}

static void abandoned_trials_and_twins_prove_nothing(void **state)
{
	struct court court;
	begin(&court);
	ft_case_abandon(court.c, FT_TRIAL_END_KILLED, "the vmm is gone");
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_INCONCLUSIVE, 4000016);
	end(&court);

	begin(&court);
	exec(&court, FT_ROLE_TRIAL, 5, "/bin/sh", "sh");
	/* The seed dies in the middle of the trial; then in the middle of the twin. */
	assert_int_equal(add(&court, FT_EVENT_SEED_GONE, FT_ROLE_SEED, 6, "", "gone", NULL, FIELDS(1)), 0);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	assert_int_equal(add(&court, FT_EVENT_SEED_GONE, FT_ROLE_SEED, 7, "", "gone", NULL, FIELDS(1)), 0);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	struct ft_judgement j;
	ft_case_judge(court.c, &j);
	assert_int_not_equal(j.verdict, FT_VERDICT_CLEAN);
	end(&court);
}

static void strangers_are_ignored(void **state)
{
	struct court court;
	struct scene_event e;
	begin(&court);
	scene(&e, FT_EVENT_EXEC, FT_ROLE_TRIAL, 1, "a", "/bin/sh", "sh", FIELDS(0));
	e.event.trial = SCENE_HOLD + 1;
	assert_int_equal(ft_case_add(court.c, &e.event, e.strings), -EPROTO);
	assert_int_equal(add(&court, FT_EVENT_EXEC, FT_ROLE_TWIN, 1, "a", "/bin/sh", "sh", FIELDS(0)),
			 -EPROTO);
	scene(&e, FT_EVENT_EXEC, FT_ROLE_LIVE, 1, "a", "/bin/sh", "sh", FIELDS(0));
	e.event.trial = SCENE_HOLD;
	assert_int_equal(ft_case_add(court.c, &e.event, e.strings), -EPROTO);
	handled(&court, 1, 1);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(add(&court, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, 1, "", "", NULL, FIELDS(1)), -EPROTO);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_int_equal(add(&court, FT_EVENT_EXEC, FT_ROLE_TRIAL, 1, "a", "/bin/sh", "sh", FIELDS(0)),
			 -EPROTO);
	assert_verdict(&court, FT_VERDICT_CLEAN, 4000001);
	end(&court);
}

/* Not even for a rule that asks for it. */
static void how_far_a_group_was_answered_is_no_evidence(void **state)
{
	struct court court;
	begin(&court);
	seed(&court);
	handled(&court, 141, 141);
	assert_int_equal(
	    add(&court, FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, 120000, "", NULL, NULL, FIELDS(3, 2)), 0);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	assert_verdict(&court, FT_VERDICT_CLEAN, 4000001);
	json_t *record = json_object();
	assert_int_equal(ft_case_record(court.c, record), 0);
	assert_int_equal(json_array_size(json_object_get(record, "evidence")), 2);
	json_decref(record);
	end(&court);
}

static void the_record_tells_the_story_in_order(void **state)
{
	struct court court;
	begin(&court);
	ft_case_clock(court.c, 1000);
	seed(&court);
	ft_case_clock(court.c, 91000);
	exec(&court, FT_ROLE_TRIAL, 1500, "/bin/ping", "ping");
	exec(&court, FT_ROLE_TRIAL, 1600, "/bin/sh", "sh -c \x1b[2J\xff");
	exec(&court, FT_ROLE_TRIAL, 1700, "/bin/sh", "sh -c \x1b[2J\xff");
	add(&court, FT_EVENT_CR3, FT_ROLE_TRIAL, 1800, "", NULL, NULL, FIELDS(1, 2));
	handled(&court, 141, 141);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_TWIN);
	exec(&court, FT_ROLE_TWIN, 1500, "/bin/ping", "ping");
	ended(&court, FT_ROLE_TWIN, FT_TRIAL_END_HORIZON, false);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	json_t *record = json_object();
	assert_int_equal(ft_case_record(court.c, record), 0);
	json_t *story = json_object_get(record, "evidence");
	assert_int_equal(json_array_size(story), 4);
	json_t *ping = json_array_get(story, 0), *sh = json_array_get(story, 1);
	assert_true(json_is_true(json_object_get(ping, "twin")));
	assert_int_equal(json_integer_value(json_object_get(ping, "t_ns")), 500000000);
	assert_false(json_is_true(json_object_get(sh, "twin")));
	assert_int_equal(json_integer_value(json_object_get(sh, "count")), 2);
	assert_string_equal(json_string_value(json_object_get(sh, "argv")), "sh -c \\x1b[2J\\xff");
	assert_string_equal(json_string_value(json_object_get(sh, "says")),
			    "cgi started the program /bin/sh (sh -c \\x1b[2J\\xff)");
	assert_string_equal(json_string_value(json_object_get(json_array_get(story, 2), "event")),
			    "trial.handled");
	assert_string_equal(json_string_value(json_object_get(json_array_get(story, 3), "event")),
			    "trial.end");
	json_t *trials = json_object_get(record, "trials");
	assert_int_equal(json_array_size(trials), 2);
	json_t *trial = json_array_get(trials, 0);
	assert_string_equal(json_string_value(json_object_get(trial, "end")), "horizon");
	assert_int_equal(json_integer_value(json_object_get(trial, "virtual_ns")), 119000000000);
	assert_int_equal(json_integer_value(json_object_get(trial, "pause_ns")), 300000);
	assert_int_equal(json_integer_value(json_object_get(trial, "wall_ns")), 90000);
	assert_string_equal(json_string_value(json_object_get(trial, "state_hash")), "0x0000000000abcdef");
	assert_int_equal(json_integer_value(json_object_get(record, "rule_sid")), 1);
	assert_string_equal(json_string_value(json_object_get(record, "verdict")), "malicious");
	json_decref(record);
	end(&court);
}

/* The clone of a busy server tells all of the live one's clients something. What begins something new is told one by one. */
static void goodbyes_to_many_ports_are_one_entry(void **state)
{
	struct court court;
	begin(&court);
	seed(&court);
	for (unsigned port = 40000; port < 40050; port++) {
		char text[32];
		snprintf(text, sizeof(text), "10.0.2.9:%u", port);
		add(&court, FT_EVENT_NET_TX, FT_ROLE_TRIAL, 1500, "", text, NULL, FIELDS(66, 6, 0x0a000209, port, 80, 0));
	}
	add(&court, FT_EVENT_NET_TX, FT_ROLE_TRIAL, 1500, "", "10.0.2.8:40000", NULL, FIELDS(66, 6, 0x0a000208, 40000, 80, 0));
	for (unsigned port = 25; port < 27; port++)
		add(&court, FT_EVENT_NET_TX, FT_ROLE_TRIAL, 1500, "", port == 25 ? "10.0.2.9:25" : "10.0.2.9:26", NULL,
		    FIELDS(66, 6, 0x0a000209, port, 40000, 1));
	handled(&court, 141, 141);
	ended(&court, FT_ROLE_TRIAL, FT_TRIAL_END_HORIZON, true);
	assert_int_equal(ft_case_step(court.c), FT_CASE_JUDGED);
	json_t *record = json_object();
	assert_int_equal(ft_case_record(court.c, record), 0);
	json_t *story = json_object_get(record, "evidence");
	assert_int_equal(json_array_size(story), 4 + 2);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(story, 0), "count")), 50);
	json_decref(record);
	end(&court);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(goodbyes_to_many_ports_are_one_entry),
	    cmocka_unit_test(clean_needs_everything),
	    cmocka_unit_test(an_end_alone_proves_nothing),
	    cmocka_unit_test(an_end_that_no_table_knows_is_an_error),
	    cmocka_unit_test(what_the_twin_shows_as_often_does_not_count),
	    cmocka_unit_test(the_same_thing_is_known_by_what_was_done),
	    cmocka_unit_test(temporary_files_have_other_names_each_time),
	    cmocka_unit_test(the_worst_rule_decides),
	    cmocka_unit_test(a_threshold_counts_what_the_twin_leaves),
	    cmocka_unit_test(the_nearest_in_time_is_taken_away),
	    cmocka_unit_test(going_down_is_malicious_unless_the_twin_does_too),
	    cmocka_unit_test(lost_evidence_does_not_add_up_to_none),
	    cmocka_unit_test(lost_evidence_is_never_clean),
	    cmocka_unit_test(a_flood_is_bounded_and_never_clean),
	    cmocka_unit_test(a_flood_of_parts_hides_nothing),
	    cmocka_unit_test(abandoned_trials_and_twins_prove_nothing),
	    cmocka_unit_test(strangers_are_ignored),
	    cmocka_unit_test(how_far_a_group_was_answered_is_no_evidence),
	    cmocka_unit_test(the_record_tells_the_story_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
