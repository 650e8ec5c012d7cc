/* The guest images that benchmarks run: made by deploy/guest, cached by it. */
#ifndef FT_BENCH_IMAGES_H
#define FT_BENCH_IMAGES_H

#include <stddef.h>

#include "base/error.h"

/* Builds (or finds) image `variant` and writes its directory to `directory`. FORETASTE_IMAGES: where the web guest's is, made already. */
int images_prepare(const char *variant, char *directory, size_t size, struct ft_error *err);

/* The product's kernel command line for the image. */
const char *images_cmdline(const char *directory);

#endif
