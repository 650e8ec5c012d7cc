#include "log/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/verdict.h"
#include "log/eve.h"
#include "log/record.h"

struct entry {
	uint64_t hold;
	/* Both as text: a tree of JSON takes several times as much. */
	char *summary;
	size_t summary_length;
	char *record; /* NULL once it was dropped for room */
	size_t length;
};

struct ft_index {
	struct entry entries[FT_INDEX_HOLDS]; /* a ring */
	uint64_t added;                       /* ever; the newest is added - 1 */
	uint64_t oldest_whole;                /* first position that may still have its record */
	size_t bytes;           /* of records */
	size_t summary_bytes;
	uint64_t verdicts[FT_VERDICTS];
};

struct ft_index *ft_index_new(void)
{
	return calloc(1, sizeof(struct ft_index));
}

static void drop_record(struct ft_index *index, struct entry *entry)
{
	index->bytes -= entry->length;
	free(entry->record);
	entry->record = NULL;
	entry->length = 0;
}

void ft_index_free(struct ft_index *index)
{
	if (!index)
		return;
	for (size_t i = 0; i < FT_INDEX_HOLDS; i++) {
		free(index->entries[i].summary);
		free(index->entries[i].record);
	}
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

int ft_index_add(struct ft_index *index, const json_t *record)
{
	struct entry *entry = &index->entries[index->added % FT_INDEX_HOLDS];
	char *summary = summarise(record), *text = json_dumps(record, JSON_COMPACT);
	if (!summary || !text) {
		free(summary);
		free(text);
		return -ENOMEM;
	}
	drop_record(index, entry);
	free(entry->summary);
	index->summary_bytes -= entry->summary_length;
	entry->hold = (uint64_t)json_integer_value(json_object_get(record, "hold"));
	entry->summary = summary;
	entry->summary_length = strlen(summary);
	index->summary_bytes += entry->summary_length;
	entry->record = text;
	entry->length = strlen(text);
	index->bytes += entry->length;
	index->added++;
	int verdict = ft_verdict_by_name(json_string_value(json_object_get(record, "verdict")));
	if (verdict >= 0)
		index->verdicts[verdict]++;
	/* Positions that the ring has overwritten are gone already. */
	if (index->added > FT_INDEX_HOLDS && index->oldest_whole < index->added - FT_INDEX_HOLDS)
		index->oldest_whole = index->added - FT_INDEX_HOLDS;
	for (; index->bytes > FT_INDEX_BYTES && index->oldest_whole + 1 < index->added; index->oldest_whole++)
		drop_record(index, &index->entries[index->oldest_whole % FT_INDEX_HOLDS]);
	return 0;
}

json_t *ft_index_list(const struct ft_index *index, uint64_t limit, size_t bytes)
{
	uint64_t most = index->added < FT_INDEX_HOLDS ? index->added : FT_INDEX_HOLDS;
	json_t *list = json_array();
	for (uint64_t i = 0; i < most && i < limit; i++) {
		const struct entry *entry = &index->entries[(index->added - 1 - i) % FT_INDEX_HOLDS];
		size_t size = entry->summary_length + 1;
		if (size > bytes)
			break;
		bytes -= size;
		json_array_insert_new(list, 0, json_loadb(entry->summary, entry->summary_length, 0, NULL));
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
		return entry->record ? json_loadb(entry->record, entry->length, 0, NULL) : NULL;
	}
	return NULL;
}

size_t ft_index_size(const struct ft_index *index)
{
	return index->bytes + index->summary_bytes;
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
