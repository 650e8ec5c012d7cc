#include "ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

size_t ask_request(char *to, size_t size, const char *command)
{
	int n = snprintf(to, size, "GET /cgi-bin/lookup?host=localhost%%3Bbash+-c+%%27");
	for (; *command; command++)
		n += snprintf(to + n, size - (size_t)n, "%%%02x", (unsigned char)*command);
	n += snprintf(to + n, size - (size_t)n, "%%27 HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n");
	assert_in_range(n, 1, size - 1);
	return (size_t)n;
}

static bool over(const struct peer *p)
{
	return p->finished || p->reset;
}

void ask_live(struct stand *s, uint16_t port, const char *command, char *word, size_t size)
{
	char text[4096], form[16];
	struct peer p;
	struct stand_frame frame;
	size_t n = ask_request(text, sizeof(text), command);
	peer_open(&p, s, port);
	assert_true(peer_connect(&p));
	for (size_t at = 0; at < n; at += 1400) {
		peer_segment(&p, text + at, n - at < 1400 ? n - at : 1400, &frame);
		peer_put(&p, &frame);
	}
	assert_true(peer_run(&p, STAND_PATIENCE_MS, over));
	p.bytes = realloc(p.bytes, p.length + 1);
	p.bytes[p.length] = 0;
	const char *is = strstr(p.bytes, "it is ");
	if (!is)
		fail_msg("the live guest answers: %s", p.bytes);
	snprintf(form, sizeof(form), "%%%zus", size - 1);
	assert_int_equal(sscanf(is + 6, form, word), 1);
	peer_close(&p);
}
