#include "replay/compare.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 200 /* characters of a value */

static bool differ(const char *where, const char *key, const json_t *recorded, const json_t *again, char *text, size_t size)
{
	if (json_equal(recorded, again) || (!recorded && !again))
		return false;
	char *a = recorded ? json_dumps(recorded, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
	char *b = again ? json_dumps(again, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
	snprintf(text, size, "%s%s%s: %.*s was recorded, %.*s is seen now", where, *where && *key ? ", " : "", key, SHOWN, a ? a : "nothing", SHOWN,
		 b ? b : "nothing");
	free(a);
	free(b);
	return true;
}

/* The first of the keys that differs. */
static bool keys_differ(const char *where, const char *const *keys, const json_t *recorded, const json_t *again, char *text, size_t size)
{
	for (; *keys; keys++)
		if (differ(where, *keys, json_object_get(recorded, *keys), json_object_get(again, *keys), text, size))
			return true;
	return false;
}

static bool trials_differ(const json_t *recorded, const json_t *again, char *text, size_t size)
{
	/* How far it came; then what it was there; then all that it told on its way. */
	static const char *const keys[] = {"role",	   "end",	    "handled",	    "taken_bytes", "held_bytes", "instructions",
					   "virtual_ns", "pages_written", "state_hash", "events",	   "sha256",	 "detail",
					   NULL};
	size_t count = json_array_size(recorded) > json_array_size(again) ? json_array_size(recorded) : json_array_size(again);
	for (size_t i = 0; i < count; i++) {
		char where[32];
		snprintf(where, sizeof(where), "run %zu", i + 1);
		const json_t *a = json_array_get(recorded, i), *b = json_array_get(again, i);
		if (!a || !b)
			return differ(where, "", a, b, text, size);
		if (keys_differ(where, keys, a, b, text, size))
			return true;
	}
	return false;
}

/* An entry without how fast the host was; a new reference, NULL for NULL. */
static json_t *repeatable(const json_t *entry)
{
	json_t *copy = json_copy((json_t *)(uintptr_t)entry);
	json_object_del(copy, "first_insn_ns");
	return copy;
}

static bool evidence_differs(const json_t *recorded, const json_t *again, char *text, size_t size)
{
	size_t count = json_array_size(recorded) > json_array_size(again) ? json_array_size(recorded) : json_array_size(again);
	for (size_t i = 0; i < count; i++) {
		char where[48];
		snprintf(where, sizeof(where), "evidence, entry %zu", i + 1);
		json_t *a = repeatable(json_array_get(recorded, i)), *b = repeatable(json_array_get(again, i));
		bool differs = differ(where, "", a, b, text, size);
		json_decref(a);
		json_decref(b);
		if (differs)
			return true;
	}
	return false;
}

bool ft_compare_records(const json_t *recorded, const json_t *again, char *text, size_t size)
{
	static const char *const judged[] = {"evidence_dropped", "verdict", "rule", "rule_sid", "rule_rev", "rule_text", "severity", NULL};
	text[0] = 0;
	return !trials_differ(json_object_get(recorded, "trials"), json_object_get(again, "trials"), text, size) &&
	       !evidence_differs(json_object_get(recorded, "evidence"), json_object_get(again, "evidence"), text, size) &&
	       !keys_differ("", judged, recorded, again, text, size);
}

static bool says(const json_t *evidence, const char *text)
{
	size_t i;
	const json_t *entry;
	json_array_foreach((json_t *)evidence, i, entry)
	{
		const char *own = json_string_value(json_is_string(entry) ? entry : json_object_get(entry, "says"));
		if (own && !strcmp(own, text))
			return true;
	}
	return false;
}

static json_t *without(const json_t *evidence, const json_t *other)
{
	json_t *only = json_array();
	size_t i;
	const json_t *entry;
	json_array_foreach((json_t *)evidence, i, entry)
	{
		const char *text = json_string_value(json_object_get(entry, "says"));
		if (text && !says(other, text) && !says(only, text))
			json_array_append_new(only, json_string(text));
	}
	return only;
}

void ft_compare_evidence(const json_t *recorded, const json_t *again, json_t **gone, json_t **added)
{
	*gone = without(json_object_get(recorded, "evidence"), json_object_get(again, "evidence"));
	*added = without(json_object_get(again, "evidence"), json_object_get(recorded, "evidence"));
}
