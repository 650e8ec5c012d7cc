#include "log/record.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum kind {
	TEXT,   /* at most `most` bytes; longer ones are cut */
	WORD,   /* one of `words` */
	NUMBER, /* 0..most */
	BOOLEAN,
	ADDRESS, /* IPv4 or IPv6 */
	DIGEST,  /* 64 hexadecimal digits */
	MAP,     /* `fields` */
	MAPS,    /* list of at most `most` maps of `fields` */
	EVIDENCE /* list of at most `most` maps with any keys and plain values */
};

struct field {
	const char *key;
	enum kind kind;
	bool required;
	uint64_t most;
	const char *const *words;
	const struct field *fields;
};

#define ANY_NUMBER ((uint64_t)INT64_MAX)

static const char *const modes[] = {"observe", "shadow", "enforce", "bypass", NULL};
static const char *const protocols[] = {"tcp", "udp", NULL};
static const char *const verdicts[] = {"clean", "malicious", "suspicious", "inconclusive", NULL};
static const char *const dispositions[] = {"released", "dropped", "reset", "tempfailed", "observed", NULL};
static const char *const roles[] = {"trial", "twin", NULL};

static const struct field flow[] = {
    {"proto", WORD, true, 0, protocols, NULL},
    {"client", ADDRESS, true, 0, NULL, NULL},
    {"client_port", NUMBER, true, 65535, NULL, NULL},
    {"server", ADDRESS, true, 0, NULL, NULL},
    {"server_port", NUMBER, true, 65535, NULL, NULL},
    {"packets", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"bytes", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"packets_toclient", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"bytes_toclient", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"start_ns", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"vlan", NUMBER, false, 4095, NULL, NULL},
    {"vlan_inner", NUMBER, false, 4095, NULL, NULL},
    {0},
};

static const struct field http[] = {
    {"method", TEXT, false, 64, NULL, NULL},    {"url", TEXT, false, 8192, NULL, NULL},
    {"hostname", TEXT, false, 512, NULL, NULL}, {"user_agent", TEXT, false, 1024, NULL, NULL},
    {"protocol", TEXT, false, 32, NULL, NULL},  {"content_type", TEXT, false, 256, NULL, NULL},
    {"refer", TEXT, false, 2048, NULL, NULL},   {0},
};

static const struct field input[] = {
    {"frames", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"bytes", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"sha256", DIGEST, false, 0, NULL, NULL},
    {"first_sequence", NUMBER, false, UINT32_MAX, NULL, NULL},
    {"next_sequence", NUMBER, false, UINT32_MAX, NULL, NULL},
    {"printable", TEXT, false, 8192, NULL, NULL},
    {"http", MAP, false, 0, NULL, http},
    {0},
};

static const struct field trigger[] = {
    {"reason", TEXT, true, 64, NULL, NULL},         {"sid", NUMBER, false, UINT32_MAX, NULL, NULL},
    {"rule", TEXT, false, 256, NULL, NULL},         {"risk", TEXT, false, 256, NULL, NULL},
    {"rev", NUMBER, false, UINT32_MAX, NULL, NULL}, {"severity", NUMBER, false, 4, NULL, NULL},
    {"name", TEXT, false, 64, NULL, NULL},          {"text", TEXT, false, 256, NULL, NULL},
    {"overlap", BOOLEAN, false, 0, NULL, NULL},     {0},
};

static const struct field trial[] = {
    {"role", WORD, true, 0, roles, NULL},
    {"end", TEXT, true, 64, NULL, NULL},
    {"handled", BOOLEAN, false, 0, NULL, NULL},
    {"taken_bytes", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"held_bytes", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"state_hash", TEXT, false, 24, NULL, NULL},
    {"instructions", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"virtual_ns", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"wall_ns", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"pause_ns", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"pages_written", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"events", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"sha256", DIGEST, false, 0, NULL, NULL},
    {"detail", TEXT, false, 256, NULL, NULL},
    {0},
};

static const struct field would[] = {
    {"reason", TEXT, true, 64, NULL, NULL},
    {"tried", BOOLEAN, false, 0, NULL, NULL},
    {"delay_ns", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {0},
};

static const struct field group[] = {
    {"size", NUMBER, true, 128, NULL, NULL},
    {"runs", NUMBER, true, ANY_NUMBER, NULL, NULL},
    {0},
};

static const struct field seed[] = {
    {"run", NUMBER, true, UINT32_MAX, NULL, NULL},
    {"number", NUMBER, true, ANY_NUMBER, NULL, NULL},
    {"instructions", NUMBER, true, ANY_NUMBER, NULL, NULL},
    {0},
};

static const struct field hold[] = {
    {"hold", NUMBER, true, ANY_NUMBER, NULL, NULL},
    {"guest", TEXT, true, 64, NULL, NULL},
    {"service", TEXT, true, 64, NULL, NULL},
    {"mode", WORD, true, 0, modes, NULL},
    {"started_ns", NUMBER, true, ANY_NUMBER, NULL, NULL},
    {"ended_ns", NUMBER, true, ANY_NUMBER, NULL, NULL},
    {"flow", MAP, true, 0, NULL, flow},
    {"input", MAP, false, 0, NULL, input},
    {"trigger", MAP, true, 0, NULL, trigger},
    {"seed", MAP, false, 0, NULL, seed},
    {"rules_sha256", DIGEST, false, 0, NULL, NULL},
    {"trials", MAPS, false, 8, NULL, trial},
    {"evidence", EVIDENCE, false, 256, NULL, NULL},
    {"evidence_dropped", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {"verdict", WORD, true, 0, verdicts, NULL},
    {"rule", TEXT, false, 64, NULL, NULL},
    {"rule_sid", NUMBER, false, UINT32_MAX, NULL, NULL},
    {"rule_rev", NUMBER, false, UINT32_MAX, NULL, NULL},
    {"rule_text", TEXT, false, 256, NULL, NULL},
    {"severity", NUMBER, true, 4, NULL, NULL},
    {"disposition", WORD, true, 0, dispositions, NULL},
    {"disposition_reason", TEXT, true, 64, NULL, NULL},
    {"would", MAP, false, 0, NULL, would},
    {"group", MAP, false, 0, NULL, group},
    {"frames_done", NUMBER, false, ANY_NUMBER, NULL, NULL},
    {0},
};

json_t *ft_record_text(const json_t *text, size_t most)
{
	const char *bytes = json_string_value(text);
	size_t n = json_string_length(text);
	if (!bytes)
		return NULL;
	if (n > most) {
		n = most;
		/* Not inside a character: continuation bytes are 10xxxxxx. */
		while (n && ((unsigned char)bytes[n] & 0xc0) == 0x80)
			n--;
	}
	return json_stringn(bytes, n);
}

static int check_map(const json_t *from, const struct field *fields, const char *place, json_t **out,
		     struct ft_error *err);

static json_t *check_evidence_entry(const json_t *from)
{
	json_t *to = json_object();
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)from, key, value)
	{
		if (strlen(key) > 32 || json_object_size(to) == 24 ||
		    strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(key))
			continue;
		if (json_is_string(value))
			json_object_set_new(to, key, ft_record_text(value, 512));
		else if (json_is_integer(value) || json_is_boolean(value))
			json_object_set(to, key, value);
	}
	return to;
}

static json_t *check_evidence(const json_t *from, uint64_t most)
{
	if (!json_is_array(from) || json_array_size(from) > most)
		return NULL;
	json_t *to = json_array();
	for (size_t i = 0; i < json_array_size(from); i++) {
		const json_t *entry = json_array_get(from, i);
		if (!json_is_object(entry) || !json_is_string(json_object_get(entry, "event"))) {
			json_decref(to);
			return NULL;
		}
		json_array_append_new(to, check_evidence_entry(entry));
	}
	return to;
}

static bool is_word(const char *text, const char *const *words)
{
	while (text && *words && strcmp(*words, text))
		words++;
	return text && *words;
}

static bool is_address(const char *text)
{
	unsigned char buffer[16];
	return text && (inet_pton(AF_INET, text, buffer) == 1 || inet_pton(AF_INET6, text, buffer) == 1);
}

static bool is_digest(const char *text)
{
	return text && strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static int check_maps(const json_t *from, const struct field *field, const char *place, json_t **out,
		      struct ft_error *err)
{
	if (!json_is_array(from) || json_array_size(from) > field->most)
		return ft_error_set(err, -EINVAL, "%s is no list of at most %d maps", place,
				    (int)field->most);
	*out = json_array();
	for (size_t i = 0; i < json_array_size(from); i++) {
		json_t *one = NULL;
		int status = check_map(json_array_get(from, i), field->fields, place, &one, err);
		if (status)
			return status;
		json_array_append_new(*out, one);
	}
	return 0;
}

/* *out: a new reference, or NULL when the value is not what the field takes. */
static int check_value(const json_t *from, const struct field *field, const char *place, json_t **out,
		       struct ft_error *err)
{
	const char *text = json_string_value(from);
	switch (field->kind) {
	case TEXT:
		*out = ft_record_text(from, field->most);
		break;
	case WORD:
		*out = is_word(text, field->words) ? json_incref((json_t *)from) : NULL;
		break;
	case ADDRESS:
		*out = is_address(text) ? json_incref((json_t *)from) : NULL;
		break;
	case DIGEST:
		*out = is_digest(text) ? json_incref((json_t *)from) : NULL;
		break;
	case BOOLEAN:
		*out = json_is_boolean(from) ? json_incref((json_t *)from) : NULL;
		break;
	case NUMBER: {
		json_int_t value = json_integer_value(from);
		bool fits = json_is_integer(from) && value >= 0 && (uint64_t)value <= field->most;
		*out = fits ? json_incref((json_t *)from) : NULL;
		break;
	}
	case EVIDENCE:
		*out = check_evidence(from, field->most);
		break;
	case MAP:
		return check_map(from, field->fields, place, out, err);
	case MAPS:
		return check_maps(from, field, place, out, err);
	}
	return *out ? 0 : ft_error_set(err, -EINVAL, "%s has a value that cannot be", place);
}

static int check_map(const json_t *from, const struct field *fields, const char *place, json_t **out,
		     struct ft_error *err)
{
	*out = NULL;
	if (!json_is_object(from))
		return ft_error_set(err, -EINVAL, "%s is no map", place);
	json_t *to = json_object();
	int status = to ? 0 : -ENOMEM;
	for (const struct field *field = fields; field->key && !status; field++) {
		const json_t *value = json_object_get(from, field->key);
		char here[128];
		snprintf(here, sizeof(here), "%s.%s", place, field->key);
		if (!value || json_is_null(value)) {
			if (field->required)
				status = ft_error_set(err, -EINVAL, "%s is missing", here);
			continue;
		}
		json_t *checked = NULL;
		status = check_value(value, field, here, &checked, err);
		if (status)
			json_decref(checked);
		else
			status = json_object_set_new(to, field->key, checked) ? -ENOMEM : 0;
	}
	if (status)
		json_decref(to);
	else
		*out = to;
	return status;
}

int ft_record_check(const json_t *message, json_t **record, struct ft_error *err)
{
	int status = check_map(message, hold, "hold", record, err);
	if (status)
		return status;
	json_int_t severity = json_integer_value(json_object_get(*record, "severity"));
	bool clean = !strcmp(json_string_value(json_object_get(*record, "verdict")), "clean");
	if (severity < 1 || clean != (severity == 4)) {
		json_decref(*record);
		*record = NULL;
		return ft_error_set(err, -EINVAL, "hold.severity does not go with hold.verdict");
	}
	return 0;
}
