#include "dataplane/screen.h"

#include <errno.h>
#include <hs/hs.h>
#include <stdlib.h>

struct ft_screen {
	const struct ft_patterns *patterns;
	hs_database_t *stream;   /* patterns of streams, for streams */
	hs_database_t *packet;   /* patterns of packets */
	hs_database_t *datagram; /* all of them */
	hs_scratch_t *scratch;
};

struct selection {
	const char *expressions[FT_PATTERNS_MAX];
	unsigned flags[FT_PATTERNS_MAX], ids[FT_PATTERNS_MAX];
	unsigned count;
};

static bool contains(const uint32_t *sids, size_t count, uint32_t sid)
{
	for (size_t i = 0; i < count; i++)
		if (sids[i] == sid)
			return true;
	return false;
}

/* kind: 's'tream, 'p'acket or 'a'll. */
static void select_patterns(struct selection *to, const struct ft_patterns *patterns, const uint32_t *sids,
			    size_t count, char kind)
{
	to->count = 0;
	for (size_t i = 0; i < patterns->count && to->count < FT_PATTERNS_MAX; i++) {
		const struct ft_pattern *pattern = &patterns->patterns[i];
		if ((kind != 'a' && pattern->stream != (kind == 's')) || !contains(sids, count, pattern->sid))
			continue;
		to->expressions[to->count] = pattern->pattern;
		/* One match a stream would be blind to the second attack on a kept connection. */
		to->flags[to->count] = pattern->flags & ~(unsigned)HS_FLAG_SINGLEMATCH;
		to->ids[to->count++] = (unsigned)i;
	}
}

static int compile(const struct selection *selection, unsigned mode, hs_database_t **database,
		   struct ft_screen *screen, struct ft_error *err)
{
	if (!selection->count)
		return 0;
	hs_compile_error_t *why = NULL;
	if (hs_compile_multi(selection->expressions, selection->flags, selection->ids, selection->count, mode,
			     NULL, database, &why) != HS_SUCCESS) {
		const struct ft_patterns *all = screen->patterns;
		if (why && why->expression >= 0 && (unsigned)why->expression < selection->count)
			ft_error_set(err, -EINVAL, "pattern rule %u: %s",
				     all->patterns[selection->ids[why->expression]].sid, why->message);
		ft_error_set(err, -EINVAL, "the pattern rules do not compile: %s",
			     why ? why->message : "no memory");
		hs_free_compile_error(why);
		return -EINVAL;
	}
	if (hs_alloc_scratch(*database, &screen->scratch) != HS_SUCCESS)
		return ft_error_set(err, -ENOMEM, "no memory for the pattern rules");
	return 0;
}

int ft_screen_new(const struct ft_patterns *patterns, const uint32_t *sids, size_t count,
		  struct ft_screen **screen, struct ft_error *err)
{
	*screen = NULL;
	if (!count)
		return 0;
	struct ft_screen *made = calloc(1, sizeof(*made));
	struct selection *selection = malloc(sizeof(*selection));
	if (!made || !selection) {
		free(made);
		free(selection);
		return ft_error_set(err, -ENOMEM, "no memory for the pattern rules");
	}
	made->patterns = patterns;
	select_patterns(selection, patterns, sids, count, 's');
	int error = compile(selection, HS_MODE_STREAM, &made->stream, made, err);
	if (!error) {
		select_patterns(selection, patterns, sids, count, 'p');
		error = compile(selection, HS_MODE_BLOCK, &made->packet, made, err);
	}
	if (!error) {
		select_patterns(selection, patterns, sids, count, 'a');
		error = compile(selection, HS_MODE_BLOCK, &made->datagram, made, err);
	}
	if (error || !selection->count) {
		ft_screen_free(made);
		made = NULL;
	}
	free(selection);
	*screen = made;
	return error;
}

void ft_screen_free(struct ft_screen *screen)
{
	if (!screen)
		return;
	hs_free_database(screen->stream);
	hs_free_database(screen->packet);
	hs_free_database(screen->datagram);
	hs_free_scratch(screen->scratch);
	free(screen);
}

struct found {
	const struct ft_patterns *patterns;
	const struct ft_screen_filter *filter;
	const struct ft_pattern *worst;
};

static int on_match(unsigned id, unsigned long long from, unsigned long long to, unsigned flags,
		    void *context)
{
	struct found *found = context;
	const struct ft_pattern *pattern = &found->patterns->patterns[id];
	const struct ft_screen_filter *filter = found->filter;
	if ((!found->worst || pattern->severity < found->worst->severity) &&
	    (!filter || filter->counts(filter->context, pattern)))
		found->worst = pattern;
	return 0; /* stopping here would end the stream */
}

static int scan_block(struct ft_screen *screen, hs_database_t *database, const void *data, size_t length,
		      struct found *found)
{
	if (!database || !length)
		return 0;
	return hs_scan(database, data, (unsigned)length, 0, screen->scratch, on_match, found) ? -ENOMEM : 0;
}

int ft_screen_bytes(struct ft_screen *screen, struct hs_stream **stream, const void *data, size_t length,
		    const struct ft_screen_filter *filter, const struct ft_pattern **match)
{
	struct found found = {.patterns = screen->patterns, .filter = filter};
	*match = NULL;
	if (screen->stream && !*stream && hs_open_stream(screen->stream, 0, stream) != HS_SUCCESS)
		return -ENOMEM;
	int error = scan_block(screen, screen->packet, data, length, &found);
	if (!error && screen->stream && length &&
	    hs_scan_stream(*stream, data, (unsigned)length, 0, screen->scratch, on_match, &found) !=
		HS_SUCCESS)
		error = -ENOMEM;
	*match = found.worst;
	return error;
}

int ft_screen_datagram(struct ft_screen *screen, const void *data, size_t length,
		       const struct ft_screen_filter *filter, const struct ft_pattern **match)
{
	struct found found = {.patterns = screen->patterns, .filter = filter};
	int error = scan_block(screen, screen->datagram, data, length, &found);
	*match = found.worst;
	return error;
}

void ft_screen_end(struct ft_screen *screen, struct hs_stream **stream)
{
	/* Without a callback, so no matches at the end of data: whoever needs one has the bytes already. */
	if (*stream)
		hs_close_stream(*stream, NULL, NULL, NULL);
	*stream = NULL;
}
