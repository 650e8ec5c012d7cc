/* What executes a guest's instructions here: what `engine: auto` comes to, and why. */
#ifndef FT_GATEWAY_ENGINE_H
#define FT_GATEWAY_ENGINE_H

#include <jansson.h>
#include <stdint.h>

#include "gateway/config.h"

struct ft_engine_choice {
	bool kvm;
	int fd;        /* of /dev/kvm when kvm, the caller's; else -1 */
	uint32_t tsc_khz; /* what a guest's TSC counts, if it boots */
	char why[512]; /* one sentence's end: what was measured, or what is missing */
};

/* 0, or -errno: the guest is to run on kvm, and this host cannot. Opens /dev/kvm and lets a little machine run on it: a few
 * milliseconds. */
int ft_engine_choose(const struct ft_config *config, const char *guest, struct ft_engine_choice *choice, struct ft_error *err);

/* For a guest's vmm: its engine in its part of the configuration, and /dev/kvm if that is kvm. *fd: -1 if it is not. Where `auto`
 * left soft, the log says why. */
int ft_engine_start(const struct ft_config *config, const char *guest, json_t *part, int *fd, struct ft_error *err);

/* Lines for `foretaste check`: the choice for each guest, which processor it would have, and what goes with that. */
void ft_engine_print(const struct ft_config *config, FILE *file);

#endif
