#include "replay/past.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replay/connect.h"

#define FILE_MOST (16u << 20)

/* The whole file; *text is the caller's to free. */
static int slurp(const char *path, char **text, size_t *length, struct ft_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	*text = fd < 0 ? NULL : malloc(FILE_MOST + 1);
	*length = 0;
	if (!*text) {
		int error = fd < 0 ? -errno : -ENOMEM;
		if (fd >= 0)
			close(fd);
		return ft_error_set(err, error, "%s: %s", path, strerror(-error));
	}
	ssize_t n;
	while ((n = read(fd, *text + *length, FILE_MOST + 1 - *length)) > 0 || (n < 0 && errno == EINTR))
		*length += n > 0 ? (size_t)n : 0;
	int error = n < 0 ? -errno : *length > FILE_MOST ? -EFBIG : 0;
	close(fd);
	if (!error)
		return 0;
	free(*text);
	*text = NULL;
	return ft_error_set(err, error, "%s: %s", path, strerror(-error));
}

static uint64_t number(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));
	return value > 0 ? (uint64_t)value : 0;
}

static int read_record(struct ft_past *v, struct ft_error *err)
{
	const char *guest = json_string_value(json_object_get(v->record, "guest"));
	const json_t *seed = json_object_get(v->record, "seed");
	if (!guest || strlen(guest) >= sizeof(v->guest) || !json_string_value(json_object_get(v->record, "verdict")))
		return ft_error_set(err, -EINVAL, "this is no record of a verdict");
	if (!json_array_size(json_object_get(v->record, "trials")) || !seed || !number(seed, "number"))
		return ft_error_set(err, -ENODATA, "there was no trial behind this verdict, or it began before anybody could tell from where");
	snprintf(v->guest, sizeof(v->guest), "%s", guest);
	v->seed = (struct ft_case_seed){
	    .run = (uint32_t)number(seed, "run"), .number = number(seed, "number"), .icount = number(seed, "instructions")};
	uint64_t group = number(json_object_get(v->record, "group"), "size");
	v->flows = group && group <= FT_TRIAL_FLOWS ? (uint32_t)group : 1;
	v->transcript.wanted = v->seed.number;
	return 0;
}

int ft_past_open(struct ft_past *v, const char *record, const char *rules, struct ft_error *err)
{
	char *text;
	size_t length;
	*v = (struct ft_past){.retrial = {.events = {-1, -1}, .control = {-1, -1}}};
	int error = slurp(record, &text, &length, err);
	if (error)
		return error;
	json_t *json = json_loadb(text, length, JSON_DISABLE_EOF_CHECK, NULL);
	free(text);
	/* A line of the feed has it in its alert. */
	const json_t *inside = json_object_get(json_object_get(json_object_get(json, "alert"), "context"), "foretaste");
	v->record = json_incref(inside ? (json_t *)inside : json);
	json_decref(json);
	if (!v->record)
		return ft_error_set(err, -EINVAL, "%s is no JSON", record);
	error = read_record(v, err);
	if (!error && rules)
		error = slurp(rules, &v->rules_text, &v->rules_length, err);
	if (!error && rules)
		error = ft_retrial_open(&v->retrial, err);
	return error;
}

int ft_past_prepare(struct ft_past *v, struct ft_error *err)
{
	uint8_t hash[crypto_hash_sha256_BYTES];
	char hex[2 * sizeof(hash) + 1], where[FT_DOOR_WHERE];
	const char *wanted = json_string_value(json_object_get(v->record, "rules_sha256"));
	const char *service = json_string_value(json_object_get(v->record, "service"));
	if (!v->rules_text)
		return 0;
	crypto_hash_sha256(hash, (const uint8_t *)v->rules_text, v->rules_length);
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	if (!wanted || strcmp(wanted, hex))
		return ft_error_set(err, -EINVAL, "these rules (%.16s...) are not those that judged it (%.16s...)", hex, wanted ? wanted : "unknown");
	json_t *json = json_loadb(v->rules_text, v->rules_length, 0, NULL), *empty = json_object();
	const json_t *normal = json_object_get(json_object_get(json, "normal"), service ? service : "");
	int error = ft_rules_load(json_object_get(json, "verdict_rules"), FT_RULES_VERDICT, &v->rules, where, err);
	if (!error)
		error = ft_profile_load(normal ? normal : empty, &v->profile, where, err);
	json_decref(empty);
	json_decref(json);
	return error;
}

void ft_past_close(struct ft_past *v)
{
	ft_retrial_close(&v->retrial);
	ft_transcript_clear(&v->transcript);
	ft_profile_free(v->profile);
	ft_rules_free(v->rules);
	free(v->rules_text);
	json_decref(v->record);
	v->profile = NULL;
	v->rules = NULL;
	v->rules_text = NULL;
	v->record = NULL;
}

/* The record says what was held: number of bytes, sequence numbers and between whom. */
int ft_past_request(struct ft_past *v, struct ft_error *err)
{
	const struct ft_request *r = v->transcript.request;
	const json_t *flow = json_object_get(v->record, "flow"), *input = json_object_get(v->record, "input");
	if (v->flows > r->flow_count)
		return ft_error_set(err, -EBADMSG, "the verdict is about %u holds, and the trial had %u", v->flows, r->flow_count);
	bool found = false;
	for (uint32_t i = 0; i < v->flows; i++) {
		const struct ft_trial_flow *f = &r->flows[i];
		uint16_t client = (uint16_t)(f->client_port << 8 | f->client_port >> 8), server = (uint16_t)(f->server_port << 8 | f->server_port >> 8);
		found |= client == number(flow, "client_port") && server == number(flow, "server_port") && f->bytes == number(input, "bytes") &&
			 (f->protocol != 6 || (f->first_sequence == number(input, "first_sequence") && f->next_sequence == number(input, "next_sequence")));
	}
	if (!found)
		return ft_error_set(err, -EBADMSG, "the trial of seed %" PRIu64 " was about other input than this verdict", v->seed.number);
	ft_transcript_cut(&v->transcript, v->flows);
	return 0;
}

int ft_past_try(struct ft_past *v, struct ft_witness *witness, json_t **record, struct ft_error *err)
{
	struct ft_retrial_plan plan = {.witness = witness,
				       .request = v->transcript.request,
				       .outside = &v->transcript.outside,
				       .seed = v->seed,
				       .rules = v->rules,
				       .profile = v->profile};
	struct ft_case *c;
	int error = ft_retrial_run(&v->retrial, &plan, &c, err);
	if (error)
		return error;
	*record = json_object();
	if (!*record || ft_case_record(c, *record))
		error = ft_error_set(err, -ENOMEM, "no memory for a record");
	ft_case_free(c);
	return error;
}

int ft_past_try_elsewhere(struct ft_past *v, struct ft_witness *witness, json_t **record, struct ft_error *err)
{
	int error = ft_connect_flows(witness->m, v->transcript.request, &v->transcript.outside, err);
	return error ? error : ft_past_try(v, witness, record, err);
}

void ft_past_print(FILE *to, const char *who, const json_t *record)
{
	const char *verdict = json_string_value(json_object_get(record, "verdict")), *rule = json_string_value(json_object_get(record, "rule"));
	fprintf(to, "%s: %s by %s (%" JSON_INTEGER_FORMAT ")", who, verdict ? verdict : "?", rule ? rule : "?",
		json_integer_value(json_object_get(record, "rule_sid")));
	size_t i;
	const json_t *run;
	json_array_foreach(json_object_get(record, "trials"), i, run)
	{
		const char *role = json_string_value(json_object_get(run, "role")), *end = json_string_value(json_object_get(run, "end"));
		const char *sha256 = json_string_value(json_object_get(run, "sha256")), *state = json_string_value(json_object_get(run, "state_hash"));
		fprintf(to, "; %s: %s after %" JSON_INTEGER_FORMAT " instructions, state %s, %" JSON_INTEGER_FORMAT " events %.16s...", role ? role : "?",
			end ? end : "?", json_integer_value(json_object_get(run, "instructions")), state ? state : "?",
			json_integer_value(json_object_get(run, "events")), sha256 ? sha256 : "?");
	}
	putc('\n', to);
}
