/* Runs user cases on the processor itself. Uses process-wide things (signal handlers, fixed addresses, the GS base):
 * one at a time in a process. */
#ifndef FT_TEST_NATIVE_H
#define FT_TEST_NATIVE_H

#include <stdbool.h>

#include "user_case.h"

/* Maps the pages and installs the handlers; faults outside of a case go on to the handlers that were there. -errno. */
int native_open(void);

/* Runs c; *end is the state at the trap that ended it, data the CASE_DATA_SIZE bytes afterwards. -ETIME when it did not
 * end within a second. */
int native_run(const struct user_case *c, struct user_state *end, uint8_t *data);

/* Whether a case may begin with a stack pointer that is not canonical. IRET takes any (SDM volume 2, IRET); but the kernel below
 * may return to user mode by other means, which answer one with #GP before the first instruction: some virtual machines' kernels
 * do. To be asked after native_open. */
bool native_takes_any_stack(void);

#endif
