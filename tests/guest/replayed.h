/* foretaste-replay as a child, and what came of it. */
#ifndef FT_TEST_REPLAYED_H
#define FT_TEST_REPLAYED_H

#include <jansson.h>

struct replayed {
	int status;	 /* exit status, -1: it did not exit */
	char *out, *err; /* owned */
	json_t *report;	 /* owned, NULL: none came */
};

/* arguments: the program's path first, NULL behind the last. report: how the JSON begins that its output ends with; "": it is nothing else. */
struct replayed replayed_run(const char *const *arguments, const char *report);
void replayed_free(struct replayed *replayed);

#endif
