/* Evidence in words: one event as an entry of a record's evidence list (src/log/hold.md), and as a sentence. */
#ifndef FT_DETECT_STORY_H
#define FT_DETECT_STORY_H

#include <jansson.h>
#include <stdbool.h>

#include "base/event.h"

#define FT_STORY_TEXT 480 /* bytes of a sentence, NUL included */

/* Is this a kind of event that belongs into a story even when no rule looks at it? */
bool ft_story_worth(const struct ft_event *event);

/* "ping.cgi started /usr/bin/id (id -u)". Text from the guest is made printable; the result is ASCII. */
void ft_story_sentence(const struct ft_event *event, const char *const *strings, char text[FT_STORY_TEXT]);

/* {"event", "pid", "process", the event's fields by name, "says"}. NULL when there is no memory. */
json_t *ft_story_entry(const struct ft_event *event, const char *const *strings);

/* Copies text, bytes outside printable ASCII as \xNN, cut to size - 1. */
void ft_story_printable(const char *text, char *out, size_t size);

#endif
