/* What a shell in the live web guest answers: by the planted flaw of its host name lookup. */
#ifndef TESTS_GUEST_ASK_H
#define TESTS_GUEST_ASK_H

#include "peer.h"

/* The request that gives the command to the shell; its length. */
size_t ask_request(char *to, size_t size, const char *command);

/* The first word behind "it is " in what the guest answers. port: one that no connection has had. Fails the test where there is none. */
void ask_live(struct stand *s, uint16_t port, const char *command, char *word, size_t size);

#endif
