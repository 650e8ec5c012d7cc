#include "detect/trace.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "detect/story.h"

/* Bytes of each string that a key looks at, after blurring. */
#define KEY_TEXT 1024u

struct key {
	char bytes[2 * KEY_TEXT + 128];
	size_t length;
};

static void key_number(struct key *key, uint64_t value)
{
	memcpy(key->bytes + key->length, &value, sizeof(value));
	key->length += sizeof(value);
}

/* Length of the word at text, and whether it looks made up: six letters and digits or more, with a digit or with capitals
 * after small letters. */
static size_t word_length(const char *text, bool *random)
{
	bool digit = false, small = false, mixed = false;
	size_t n = 0;
	for (; isalnum((unsigned char)text[n]); n++) {
		digit |= isdigit((unsigned char)text[n]) != 0;
		mixed |= small && isupper((unsigned char)text[n]);
		small |= islower((unsigned char)text[n]) != 0;
	}
	*random = n >= 6 && (digit || mixed);
	return n;
}

static void key_text(struct key *key, const char *text, bool blur)
{
	size_t end = key->length + KEY_TEXT - 1;
	while (*text && key->length < end) {
		bool random = false;
		size_t n = blur ? word_length(text, &random) : 0;
		if (random) {
			key->bytes[key->length++] = '#';
			text += n;
			continue;
		}
		/* A plain word as it is, but for its digits. */
		for (n = n ? n : 1; n-- && *text && key->length < end;) {
			bool digit = blur && isdigit((unsigned char)*text);
			if (!digit || !key->length || key->bytes[key->length - 1] != '#')
				key->bytes[key->length++] = digit ? '#' : *text;
			text++;
		}
	}
	key->bytes[key->length++] = 0;
}

/* Did it work? What the twin tried in vain does not make routine of what the trial did. Of a connection the attempt
 * counts: its result comes later (-EINPROGRESS), and no rule of ours asks for it. */
static void key_outcome(struct key *key, uint64_t result)
{
	key_number(key, (int64_t)result < 0);
}

uint64_t ft_trace_key(const struct ft_event *event, const char *const *strings)
{
	struct key key;
	key.length = 0;
	const uint64_t *a = event->a;
	key_number(&key, event->type);
	key_text(&key, event->process, false);
	switch (event->type) {
	case FT_EVENT_EXEC:
		key_outcome(&key, a[0]);
		key_text(&key, strings[0], false);
		key_text(&key, strings[1], true);
		break;
	case FT_EVENT_LISTEN:
		key_outcome(&key, a[3]);
		key_number(&key, a[0]);
		key_text(&key, strings[0], false);
		break;
	case FT_EVENT_CONNECT:
		key_number(&key, a[0]);
		key_text(&key, strings[0], false);
		break;
	case FT_EVENT_NET_TX:
		key_number(&key, a[1]);
		key_text(&key, strings[0], false);
		break;
	case FT_EVENT_FILE_WRITE:
		key_outcome(&key, a[1]);
		key_text(&key, strings[0], true);
		break;
	case FT_EVENT_FILE_REMOVE:
	case FT_EVENT_FILE_RENAME:
	case FT_EVENT_FILE_LINK:
		key_outcome(&key, a[0]);
		key_text(&key, strings[0], true);
		key_text(&key, strings[1], true);
		break;
	case FT_EVENT_FILE_MAP:
	case FT_EVENT_CONSOLE:
		key_text(&key, strings[0], true);
		key_text(&key, strings[1], true);
		break;
	case FT_EVENT_FILE_MODE:
		key_outcome(&key, a[1]);
		key_number(&key, a[0]);
		key_text(&key, strings[0], true);
		break;
	case FT_EVENT_SYSCALL:
		key_number(&key, a[0]);
		key_text(&key, strings[0], true);
		key_text(&key, strings[1], true);
		break;
	case FT_EVENT_SIGNAL:
	case FT_EVENT_PROCESS_EXIT:
	case FT_EVENT_TRIAL_END:
	case FT_EVENT_FAULT:
	case FT_EVENT_RESET:
	case FT_EVENT_PANIC:
		key_number(&key, a[0]);
		break;
	default:
		break;
	}
	return XXH3_64bits(key.bytes, key.length);
}

/* Of what goes on on connections that are there anyway, where no rule looks at it, a story wants to know with whom, not on which of
 * many ports: a busy server's clone says goodbye to all of the live one's clients. */
static uint64_t story_key(const struct ft_event *event, const char *const *strings, uint64_t key, bool relevant)
{
	const char *port = strrchr(strings[0], ':');
	if (relevant || event->type != FT_EVENT_NET_TX || event->a[5] || !port)
		return key;
	XXH64_hash_t with = XXH3_64bits(strings[0], (size_t)(port - strings[0]));
	return XXH3_64bits_withSeed(&event->a[1], sizeof(event->a[1]), with);
}

static bool append(struct ft_trace *trace, struct ft_trace_list *list, size_t most, size_t most_bytes,
		   const struct ft_event *event, const char *const *strings, uint64_t key, bool relevant)
{
	size_t n[FT_EVENT_STRINGS], bytes = 0;
	for (unsigned i = 0; i < FT_EVENT_STRINGS; i++)
		bytes += n[i] = strlen(strings[i]) + 1;
	if (list->count == most || trace->bytes + bytes > most_bytes)
		return false;
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 32;
		struct ft_trace_event *more = realloc(list->events, room * sizeof(*more));
		if (!more)
			return false;
		list->events = more;
		list->room = room;
	}
	char *copy = malloc(bytes);
	if (!copy)
		return false;
	struct ft_trace_event *e = &list->events[list->count++];
	*e = (struct ft_trace_event){.event = *event, .key = key, .count = 1, .relevant = relevant};
	for (unsigned i = 0; i < FT_EVENT_STRINGS; i++) {
		memcpy(copy, strings[i], n[i]);
		e->strings[i] = copy;
		copy += n[i];
	}
	trace->bytes += bytes;
	return true;
}

void ft_trace_lose(struct ft_trace *trace, const struct ft_event *event)
{
	uint64_t more = event->a[0] ? event->a[0] : 1;
	trace->lost = more > FT_TRACE_LOST - trace->lost ? FT_TRACE_LOST : trace->lost + more;
}

void ft_trace_add(struct ft_trace *trace, const struct ft_event *event, const char *const *strings,
		  enum ft_relevance relevance)
{
	bool relevant = relevance != FT_RELEVANCE_NONE, decides = relevance == FT_RELEVANCE_DECIDES;
	if (event->type == FT_EVENT_LOST)
		ft_trace_lose(trace, event);
	uint64_t key = ft_trace_key(event, strings);
	size_t most = FT_TRACE_EVENTS + (decides ? FT_TRACE_EVENT_RESERVE : 0);
	size_t most_bytes = FT_TRACE_BYTES + (decides ? FT_TRACE_BYTE_RESERVE : 0);
	if (relevant && !append(trace, &trace->kept, most, most_bytes, event, strings, key, true))
		trace->overflow = true;
	if (!relevant && !ft_story_worth(event))
		return;
	key = story_key(event, strings, key, relevant);
	for (size_t i = 0; i < trace->story.count; i++)
		if (trace->story.events[i].key == key) {
			trace->story.events[i].count++;
			return;
		}
	if (!append(trace, &trace->story, FT_TRACE_STORY, FT_TRACE_BYTES, event, strings, key, relevant))
		trace->dropped++;
}

static void free_list(struct ft_trace_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->events[i].strings[0]); /* one block for all strings */
	free(list->events);
}

void ft_trace_free(struct ft_trace *trace)
{
	free_list(&trace->kept);
	free_list(&trace->story);
	*trace = (struct ft_trace){0};
}

void ft_trace_subtract(struct ft_trace *trial, const struct ft_trace *twin)
{
	for (size_t t = 0; t < twin->kept.count; t++) {
		const struct ft_trace_event *shown = &twin->kept.events[t];
		struct ft_trace_event *nearest = NULL;
		uint64_t best = UINT64_MAX;
		for (size_t i = 0; i < trial->kept.count; i++) {
			struct ft_trace_event *e = &trial->kept.events[i];
			if (!e->count || e->key != shown->key)
				continue;
			uint64_t apart = e->event.vtime_ns > shown->event.vtime_ns
					     ? e->event.vtime_ns - shown->event.vtime_ns
					     : shown->event.vtime_ns - e->event.vtime_ns;
			if (!nearest || apart < best) {
				nearest = e;
				best = apart;
			}
		}
		if (nearest)
			nearest->count = 0;
	}
}

uint64_t ft_trace_told(const struct ft_trace *trace, uint64_t key)
{
	for (size_t i = 0; i < trace->story.count; i++)
		if (trace->story.events[i].key == key)
			return trace->story.events[i].count;
	return 0;
}
