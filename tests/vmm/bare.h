/* A machine without an operating system, set up by the test from outside: long mode, one address space, ring-3 pages
 * of user_case.h, and an interrupt table whose every entry halts. */
#ifndef FT_TEST_BARE_H
#define FT_TEST_BARE_H

#include "user_case.h"
#include "vmm/machine.h"

struct ft_machine *bare_open(const struct ft_engine_options *options, struct ft_error *err);
void bare_close(struct ft_machine *m);

/* Runs c until the first exception; as native_run. most: instructions before it counts as endless (-ETIME).
 * -EIO: the engine stopped in a way it must not (*exit). */
int bare_run(struct ft_machine *m, const struct user_case *c, uint64_t most, struct user_state *end, uint8_t *data,
	     enum ft_exit *exit);

#endif
