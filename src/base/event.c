#include "base/event.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	uint8_t strings;
	const char *fields;
} table[FT_EVENT_TYPES] = {
#define X(name_, label, strings_, fields_) {.name = label, .strings = strings_, .fields = fields_},
	FT_EVENTS(X)
#undef X
};

static const struct {
	const char *label, *text;
} ends[FT_TRIAL_END_COUNT] = {
#define X(name_, label_, text_) {.label = label_, .text = text_},
	FT_TRIAL_ENDS(X)
#undef X
};

size_t ft_event_first(const void *message, size_t left)
{
	struct ft_event event;
	if (left < sizeof(event))
		return left;
	memcpy(&event, message, sizeof(event));
	return event.length >= sizeof(event) && event.length < left ? event.length : left;
}

int ft_event_check(const void *record, size_t length, struct ft_event *event,
		   const char *strings[FT_EVENT_STRINGS])
{
	if (length < sizeof(*event) || length > FT_EVENT_MAX)
		return -EPROTO;
	memcpy(event, record, sizeof(*event));
	if (event->length != length || event->type >= FT_EVENT_TYPES || event->role >= FT_ROLES ||
	    event->strings != table[event->type].strings)
		return -EPROTO;
	event->process[sizeof(event->process) - 1] = 0;
	const char *at = (const char *)record + sizeof(*event);
	size_t left = length - sizeof(*event);
	for (unsigned i = 0; i < FT_EVENT_STRINGS; i++) {
		strings[i] = "";
		if (i >= event->strings)
			continue;
		size_t n = strnlen(at, left);
		if (n == left)
			return -EPROTO;
		strings[i] = at;
		at += n + 1;
		left -= n + 1;
	}
	return left ? -EPROTO : 0;
}

size_t ft_event_build(void *buffer, struct ft_event *event, const char *string0, const char *string1)
{
	const char *texts[FT_EVENT_STRINGS] = {string0 ? string0 : "", string1 ? string1 : ""};
	uint8_t count = event->type < FT_EVENT_TYPES ? table[event->type].strings : 0;
	size_t at = sizeof(*event);
	for (unsigned i = 0; i < count; i++) {
		/* Keep one byte for the terminator of each string still to come. */
		size_t most = FT_EVENT_MAX - at - (count - i);
		size_t n = strnlen(texts[i], most);
		memcpy((char *)buffer + at, texts[i], n);
		((char *)buffer)[at + n] = 0;
		at += n + 1;
	}
	event->strings = count;
	event->length = (uint32_t)at;
	memcpy(buffer, event, sizeof(*event));
	return at;
}

const char *ft_event_name(unsigned type)
{
	return type < FT_EVENT_TYPES ? table[type].name : "unknown";
}

int ft_event_by_name(const char *name)
{
	for (int i = 0; i < FT_EVENT_TYPES; i++)
		if (!strcmp(table[i].name, name))
			return i;
	return -1;
}

int ft_event_field(unsigned type, const char *name)
{
	if (type >= FT_EVENT_TYPES || !*name)
		return -1;
	const char *at = table[type].fields;
	int index = 0;
	for (;;) {
		size_t n = strcspn(at, ",;");
		if (strlen(name) == n && !strncmp(at, name, n))
			return index;
		if (!at[n])
			return -1;
		index = at[n] == ';' ? 8 : index + 1;
		at += n + 1;
	}
}

bool ft_event_field_name(unsigned type, int index, char name[FT_EVENT_FIELD_NAME])
{
	if (type >= FT_EVENT_TYPES)
		return false;
	const char *at = table[type].fields;
	for (int i = 0;;) {
		size_t n = strcspn(at, ",;");
		if (i == index && n < FT_EVENT_FIELD_NAME) {
			memcpy(name, at, n);
			name[n] = 0;
			return n > 0;
		}
		if (!at[n])
			return false;
		i = at[n] == ';' ? 8 : i + 1;
		at += n + 1;
	}
}

const char *ft_trial_end_label(unsigned end)
{
	return end < FT_TRIAL_END_COUNT ? ends[end].label : "unknown";
}

const char *ft_trial_end_text(unsigned end)
{
	return end < FT_TRIAL_END_COUNT ? ends[end].text : "unknown";
}

const char *ft_event_role_name(unsigned role)
{
	static const char *const names[FT_ROLES] = {"live", "seed", "trial", "twin"};
	return role < FT_ROLES ? names[role] : "unknown";
}
