/* Evidence as a clone that its guest has broken would send it: records of any shape through the door (ft_event_check), then
 * into a case, a watch and a story. A verdict is `clean` only for a trial that ended at its horizon with every held byte
 * taken and nothing lost; what people read is printable; a record fits into its message. */
#include "input.h"

#include "base/channel.h"
#include "base/event.h"
#include "detect/case.h"
#include "detect/eval.h"
#include "detect/story.h"
#include "detect/watch.h"

#define HOLD 7u

static const char verdict_text[] =
    "[{\"sid\": 1, \"name\": \"exec\", \"text\": \"t\", \"severity\": 1, \"verdict\": \"malicious\","
    "  \"any\": {\"event\": \"exec\", \"where\": {\"result\": 0}, \"unless\": {\"path\": {\"in\": "
    "\"may_exec\"}}}},"
    " {\"sid\": 2, \"name\": \"write\", \"text\": \"t\", \"severity\": 1, \"verdict\": \"suspicious\","
    "  \"any\": {\"event\": \"file.write\", \"where\": {\"path\": {\"glob\": [\"/etc/*\", \"*/.ssh/*\"]}},"
    "          \"unless\": {\"path\": {\"in\": \"may_write\"}}}},"
    " {\"sid\": 3, \"name\": \"many\", \"text\": \"t\", \"severity\": 3, \"verdict\": \"malicious\","
    "  \"threshold\": {\"of\": {\"event\": \"file.remove\"}, \"count\": 3, \"within\": \"10 s\"}},"
    " {\"sid\": 4, \"name\": \"chain\", \"text\": \"t\", \"severity\": 2, \"verdict\": \"suspicious\","
    "  \"sequence\": {\"steps\": [{\"event\": \"connect\"}, {\"event\": \"file.mode\"}], \"within\": \"5 s\","
    "               \"same\": \"process\"}},"
    " {\"sid\": 5, \"name\": \"spread\", \"text\": \"t\", \"severity\": 2, \"verdict\": \"inconclusive\","
    "  \"set\": {\"of\": {\"event\": \"connect\", \"unless\": {\"text\": {\"in\": \"may_connect\"}}},"
    "          \"field\": \"address\", \"distinct\": 3}},"
    " {\"sid\": 6, \"name\": \"down\", \"text\": \"t\", \"severity\": 1, \"verdict\": \"malicious\","
    "  \"any\": {\"event\": \"trial.end\", \"where\": {\"end\": [\"reset\", \"triple-fault\"]}}}]";
static const char correlation_text[] =
    "[{\"sid\": 11, \"name\": \"busy\", \"text\": \"t\", \"severity\": 3,"
    "  \"absence\": {\"during\": {\"event\": \"cpu\", \"where\": {\"busy_permille\": {\"min\": 400}}},"
    "              \"of\": [{\"event\": \"key\"}, {\"event\": \"net.rx\"}], \"for\": \"10 s\"}},"
    " {\"sid\": 12, \"name\": \"burst\", \"text\": \"t\", \"severity\": 2,"
    "  \"set\": {\"of\": {\"event\": \"net.tx\", \"where\": {\"opens\": 1}}, \"field\": \"daddr\", "
    "\"distinct\": 3,"
    "          \"within\": \"10 s\"}}]";
static const char normal_text[] =
    "{\"may_exec\": [\"/bin/ping\", \"/usr/lib/cgi-bin/*\"], \"may_write\": [\"/var/log/**\"],"
    " \"may_connect\": [\"10.0.0.0/8:443\", \"[2001:db8::/32]:443\", \"unix:/run/a.sock\"]}";

static struct ft_rules *verdicts, *correlations;
static struct ft_profile *profile;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct ft_error err = {0};
	json_t *v = json_loads(verdict_text, 0, NULL), *c = json_loads(correlation_text, 0, NULL),
	       *n = json_loads(normal_text, 0, NULL);
	if (ft_rules_load(v, FT_RULES_VERDICT, &verdicts, NULL, &err) ||
	    ft_rules_load(c, FT_RULES_CORRELATION, &correlations, NULL, &err) ||
	    ft_profile_load(n, &profile, NULL, &err)) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	json_decref(v);
	json_decref(c);
	json_decref(n);
	return 0;
}

/* A string of the kind that rules look at, or bytes of the input. */
static const char *text(struct input *in, char *to, size_t room)
{
	static const char *const usual[] = {"/bin/ping",
					    "/etc/passwd",
					    "/tmp/tmp.Xk29aQ",
					    "10.0.0.9:443",
					    "[2001:db8::1]:443",
					    "unix:/run/a.sock",
					    "/var/log/a/../../etc/x",
					    "/root/.ssh/authorized_keys",
					    "10.9.9.9:4444",
					    "/usr/lib/cgi-bin/x",
					    ""};
	uint8_t how = input8(in);
	if (how < 128)
		return usual[how % (sizeof(usual) / sizeof(usual[0]))];
	size_t n = how < 250 ? how - 127u : room - 1;
	if (how >= 250)
		memset(to, how, n);
	input_copy(in, to, n < 130 ? n : 130);
	to[n] = 0;
	return to;
}

static size_t make(struct input *in, uint8_t *record)
{
	static char strings[2][5000];
	uint8_t how = input8(in), type = input8(in);
	struct ft_event event = {.type = type % FT_EVENT_TYPES,
				 .role = how & 3,
				 .trial = how & 4 ? HOLD + (how >> 6) : HOLD,
				 .vtime_ns = input16(in) * 10000000ull,
				 .pid = how >> 5};
	if (event.role == FT_ROLE_LIVE)
		event.trial = 0;
	for (unsigned i = 0; i < 6; i++)
		event.a[i] = how & 8 ? input64(in) : input8(in) % 5;
	if (how & 16)
		input_copy(in, event.process, sizeof(event.process));
	size_t length = ft_event_build(record, &event, text(in, strings[0], sizeof(strings[0])),
				       text(in, strings[1], sizeof(strings[1])));
	MUST(length <= FT_EVENT_MAX);
	if (type >= 0x80) { /* and then something is wrong with it */
		record[input16(in) % length] ^= input8(in);
		length = type & 0x40 ? input16(in) % (length + 1) : length;
		uint32_t told = (uint32_t)length; /* cut, and honest about it */
		if ((type & 0x20) && length >= sizeof(event))
			memcpy(record + offsetof(struct ft_event, length), &told, sizeof(told));
	}
	return length;
}

static void printable(const char *said)
{
	for (; *said; said++)
		MUST(*said >= 0x20 && *said < 0x7f);
}

struct seen {
	struct ft_case *c;
	struct ft_watch *watch;
	bool handled, horizon, ended, lost;
	uint64_t taken, held;
};

static void found(void *context, const struct ft_rule *rule, const struct ft_event *event,
		  const char *const *strings, uint64_t since)
{
	MUST(rule >= correlations->rules && rule < correlations->rules + correlations->count);
}

static void look(struct seen *s, const struct ft_event *e, const char *const *strings)
{
	char sentence[FT_STORY_TEXT];
	ft_story_sentence(e, strings, sentence);
	printable(sentence);
	json_t *entry = ft_story_entry(e, strings);
	MUST(entry);
	json_decref(entry);
	MUST(!ft_watch_event(s->watch, e, strings, found, NULL));
	int added = ft_case_add(s->c, e, strings);
	if (e->trial != HOLD || e->role == FT_ROLE_LIVE) {
		MUST(added);
		return;
	}
	if (added || (e->role != FT_ROLE_TRIAL && e->role != FT_ROLE_SEED))
		return;
	s->lost |= e->type == FT_EVENT_LOST;
	if (e->role == FT_ROLE_SEED)
		return;
	if (e->type == FT_EVENT_TRIAL_HANDLED) {
		s->taken = e->a[0];
		s->held = e->a[1];
	}
	if (e->type == FT_EVENT_TRIAL_END) {
		MUST(!s->ended);
		s->ended = true;
		s->horizon = e->a[0] == FT_TRIAL_END_HORIZON;
		s->handled = e->a[4] == 1;
	}
}

/* A trial that ends: with all bytes taken or not, at its horizon or not. */
static void finish(struct seen *s, struct input *in)
{
	uint8_t how = input8(in);
	const char *strings[FT_EVENT_STRINGS] = {"", ""};
	struct ft_event handled = {.type = FT_EVENT_TRIAL_HANDLED,
				   .role = FT_ROLE_TRIAL,
				   .trial = HOLD,
				   .length = sizeof(handled),
				   .a = {how & 3, how >> 2 & 3, 1}};
	struct ft_event end = {
	    .type = FT_EVENT_TRIAL_END,
	    .role = FT_ROLE_TRIAL,
	    .trial = HOLD,
	    .length = sizeof(end),
	    .a = {how & 16 ? input8(in) % 12u : FT_TRIAL_END_HORIZON, 1, 2, 3, how >> 5 & 1}};
	look(s, &handled, strings);
	look(s, &end, strings);
}

static void take(struct seen *s, struct input *in)
{
	uint8_t *record = malloc(FT_EVENT_MAX);
	size_t length = make(in, record);
	uint8_t *exact = malloc(length ? length : 1);
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	memcpy(exact, record, length);
	free(record);
	if (!ft_event_check(exact, length, &event, strings)) {
		MUST(event.type < FT_EVENT_TYPES && event.role < FT_ROLES && event.length == length);
		MUST(!event.process[sizeof(event.process) - 1]);
		for (unsigned i = 0; i < FT_EVENT_STRINGS; i++)
			MUST(strlen(strings[i]) < FT_EVENT_MAX);
		look(s, &event, strings);
	}
	free(exact);
}

static void judge(struct seen *s)
{
	struct ft_judgement j;
	json_t *record = json_object();
	ft_case_judge(s->c, &j);
	MUST(j.severity >= 1 && j.severity <= 4 && j.name && j.text && j.sid);
	MUST((j.verdict == FT_VERDICT_CLEAN) == (j.severity == 4));
	if (j.verdict == FT_VERDICT_CLEAN)
		MUST(s->ended && s->horizon && s->handled && s->taken >= s->held && !s->lost);
	MUST(!ft_case_record(s->c, record));
	char *dump = json_dumps(record, JSON_COMPACT);
	MUST(dump && strlen(dump) < FT_CHANNEL_MESSAGE - (32u << 10));
	free(dump);
	json_decref(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct seen s = {.c = ft_case_new(HOLD, verdicts, profile),
			 .watch = ft_watch_new(correlations, profile)};
	bool twin = false;
	while (in.left) {
		uint8_t what = input8(&in);
		if (what >= 8) {
			take(&s, &in);
			continue;
		}
		ft_case_clock(s.c, what * 1000000ull);
		if (what == 1 && !s.ended) {
			ft_case_abandon(
			    s.c, input8(&in) % FT_TRIAL_END_COUNT ? FT_TRIAL_END_WALL : FT_TRIAL_END_KILLED,
			    "x");
			s.ended = true;
		} else if (what == 2 && s.ended) {
			ft_case_abandon(s.c, FT_TRIAL_END_WALL, NULL);
		}
		if (what >= 6)
			finish(&s, &in);
		if (what < 4 && ft_case_step(s.c) == FT_CASE_TWIN) {
			MUST(!twin); /* said once */
			twin = true;
			MUST(ft_case_until(s.c) >= 1000000000);
		}
	}
	judge(&s);
	ft_watch_free(s.watch);
	ft_case_free(s.c);
	return 0;
}
