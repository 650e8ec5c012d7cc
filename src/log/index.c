#include "log/index.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/verdict.h"
#include "log/eve.h"
#include "log/record.h"

#define SUMMARY_BYTES (16u << 20)
#define PLACE         8u /* texts begin at multiples of this */

/* Texts one behind the other in a ring of fixed size, so that what is kept for months neither grows nor falls to pieces. The newest
 * replace the oldest: whoever puts one in first gives up those that lie in its place. */
struct texts {
	char *at;
	size_t size, next;
};

struct text {
	size_t at, length; /* 0: it has been given up */
};

struct entry {
	uint64_t hold;
	/* Both as text: a tree of JSON takes several times as much. */
	struct text summary, record;
};

struct ft_index {
	struct entry entries[FT_INDEX_HOLDS]; /* a ring */
	uint64_t added;                       /* ever; the newest is added - 1 */
	/* First positions that may still have theirs. */
	uint64_t oldest_summary, oldest_record;
	struct texts summaries, records;
	uint64_t verdicts[FT_VERDICTS];
};

static bool texts_open(struct texts *texts, size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return false;
	*texts = (struct texts){.at = at, .size = size};
	return true;
}

/* Where a text of that length goes: behind the newest, or at the front. */
static size_t texts_place(const struct texts *texts, size_t length)
{
	return texts->next + length <= texts->size ? texts->next : 0;
}

static bool in_the_way(const struct texts *texts, const struct text *old, size_t place, size_t length)
{
	if (!old->length)
		return false;
	/* What is left at the end when the front is next is given up, too: in the order of age nothing may be skipped. */
	bool skipped = place < texts->next && old->at >= texts->next;
	return skipped || (old->at < place + length && place < old->at + old->length);
}

static void texts_put(struct texts *texts, struct text *text, size_t place, const char *from, size_t length)
{
	*text = (struct text){place, length};
	memcpy(texts->at + place, from, length);
	texts->next = place + ((length + PLACE - 1) & ~(size_t)(PLACE - 1));
}

struct ft_index *ft_index_new(void)
{
	struct ft_index *index = calloc(1, sizeof(*index));
	if (index && texts_open(&index->summaries, SUMMARY_BYTES) && texts_open(&index->records, FT_INDEX_BYTES))
		return index;
	ft_index_free(index);
	return NULL;
}

void ft_index_free(struct ft_index *index)
{
	if (!index)
		return;
	if (index->summaries.at)
		munmap(index->summaries.at, index->summaries.size);
	if (index->records.at)
		munmap(index->records.at, index->records.size);
	free(index);
}

static char *summarise(const json_t *record)
{
	static const char *const keys[] = {
	    "hold", "guest",    "service",   "mode",     "started_ns", "ended_ns",    "verdict",
	    "rule", "rule_sid", "rule_text", "severity", "trigger",    "disposition", "disposition_reason"};
	static const char *const flow_keys[] = {"proto", "client", "client_port", "server", "server_port"};
	json_t *summary = json_object();
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		json_t *value = json_object_get(record, keys[i]);
		if (value)
			json_object_set(summary, keys[i], value);
	}
	const json_t *flow = json_object_get(record, "flow");
	for (size_t i = 0; i < sizeof(flow_keys) / sizeof(*flow_keys); i++)
		json_object_set(summary, flow_keys[i], json_object_get(flow, flow_keys[i]));
	const json_t *http = json_object_get(json_object_get(record, "input"), "http");
	json_t *url = ft_record_text(json_object_get(http, "url"), 200);
	json_t *method = json_object_get(http, "method");
	if (method)
		json_object_set(summary, "method", method);
	if (url)
		json_object_set_new(summary, "url", url);
	char *text = json_dumps(summary, JSON_COMPACT);
	json_decref(summary);
	return text;
}

/* Gives up, from the oldest on, what lies where a text of that length goes; returns the place. */
static size_t make_room(struct ft_index *index, struct texts *texts, uint64_t *oldest, size_t which, size_t length)
{
	size_t place = texts_place(texts, length);
	for (; *oldest < index->added; ++*oldest) {
		struct text *old = (struct text *)(void *)((char *)&index->entries[*oldest % FT_INDEX_HOLDS] + which);
		if (index->added - *oldest <= FT_INDEX_HOLDS - 1 && !in_the_way(texts, old, place, length))
			break;
		old->length = 0;
	}
	return place;
}

int ft_index_add(struct ft_index *index, const json_t *record)
{
	char *summary = summarise(record), *text = json_dumps(record, JSON_COMPACT);
	size_t summary_length = summary ? strlen(summary) : 0, length = text ? strlen(text) : 0;
	bool fits = summary && text && summary_length <= SUMMARY_BYTES && length <= FT_INDEX_BYTES;
	if (fits) {
		size_t a = make_room(index, &index->summaries, &index->oldest_summary, offsetof(struct entry, summary), summary_length);
		size_t b = make_room(index, &index->records, &index->oldest_record, offsetof(struct entry, record), length);
		struct entry *entry = &index->entries[index->added % FT_INDEX_HOLDS];
		entry->hold = (uint64_t)json_integer_value(json_object_get(record, "hold"));
		texts_put(&index->summaries, &entry->summary, a, summary, summary_length);
		texts_put(&index->records, &entry->record, b, text, length);
		index->added++;
		int verdict = ft_verdict_by_name(json_string_value(json_object_get(record, "verdict")));
		if (verdict >= 0)
			index->verdicts[verdict]++;
	}
	free(summary);
	free(text);
	return fits ? 0 : -ENOMEM;
}

static json_t *load(const struct texts *texts, const struct text *text)
{
	return text->length ? json_loadb(texts->at + text->at, text->length, 0, NULL) : NULL;
}

json_t *ft_index_list(const struct ft_index *index, uint64_t limit, size_t bytes)
{
	uint64_t most = index->added - index->oldest_summary;
	json_t *list = json_array();
	for (uint64_t i = 0; i < most && i < limit; i++) {
		const struct entry *entry = &index->entries[(index->added - 1 - i) % FT_INDEX_HOLDS];
		size_t size = entry->summary.length + 1;
		if (size > bytes)
			break;
		bytes -= size;
		json_array_insert_new(list, 0, load(&index->summaries, &entry->summary));
	}
	return list;
}

json_t *ft_index_show(const struct ft_index *index, uint64_t hold, int *known)
{
	uint64_t most = index->added < FT_INDEX_HOLDS ? index->added : FT_INDEX_HOLDS;
	*known = 0;
	for (uint64_t i = 0; i < most; i++) {
		const struct entry *entry = &index->entries[(index->added - 1 - i) % FT_INDEX_HOLDS];
		if (entry->hold != hold)
			continue;
		*known = 1;
		return load(&index->records, &entry->record);
	}
	return NULL;
}

json_t *ft_index_counts(const struct ft_index *index)
{
	json_t *counts = json_object();
	for (int i = 0; i < FT_VERDICTS; i++)
		json_object_set_new(counts, ft_verdict_name((enum ft_verdict)i),
				    json_integer((json_int_t)index->verdicts[i]));
	return counts;
}

/* One line of a feed: 1 when it was an alert of ours. */
static int take_line(struct ft_index *index, const char *line, size_t length)
{
	json_t *json = json_loadb(line, length, 0, NULL), *record = NULL;
	const json_t *alert = json_object_get(json, "alert");
	const json_t *ours = json_object_get(json_object_get(alert, "context"), "foretaste");
	int taken = json_integer_value(json_object_get(alert, "gid")) == FT_EVE_GID &&
		    json_object_get(ours, "hold") && !ft_record_check(ours, &record, NULL) &&
		    !ft_index_add(index, record);
	json_decref(record);
	json_decref(json);
	return taken;
}

uint64_t ft_index_read_feed(struct ft_index *index, int fd)
{
	struct stat st;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size <= 0)
		return 0;
	size_t size = (uint64_t)st.st_size < FT_INDEX_BYTES ? (size_t)st.st_size : FT_INDEX_BYTES;
	off_t start = st.st_size - (off_t)size;
	char *text = malloc(size);
	uint64_t taken = 0;
	size_t got = 0;
	while (text && got < size) {
		ssize_t n = pread(fd, text + got, size - got, start + (off_t)got);
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	size_t at = 0;
	if (start && got) {
		/* Begins in the middle of a line. */
		const char *newline = memchr(text, '\n', got);
		at = newline ? (size_t)(newline - text) + 1 : got;
	}
	while (at < got) {
		const char *newline = memchr(text + at, '\n', got - at);
		if (!newline)
			break;
		size_t length = (size_t)(newline - text) - at;
		taken += (uint64_t)take_line(index, text + at, length);
		at += length + 1;
	}
	free(text);
	/* What an earlier process counted is not this one's. */
	memset(index->verdicts, 0, sizeof(index->verdicts));
	return taken;
}
