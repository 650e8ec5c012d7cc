/* `foretaste prove`: proofs out of a ledger's directory, on standard output. */
#ifndef FT_CLI_PROVE_H
#define FT_CLI_PROVE_H

#include "base/error.h"

/* what: the number of a hold (its decision), entry=NUMBER, from=SIZE (consistency since then), or checkpoint. 0 or -errno; -EINVAL: no
 * such thing can be asked for. */
int ft_prove(const char *directory, const char *what, struct ft_error *err);

#endif
