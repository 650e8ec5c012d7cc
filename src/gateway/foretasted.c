/* foretasted: the supervisor as a process. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "gateway/config.h"
#include "gateway/supervisor.h"

#define SETS 64

static void usage(FILE *file)
{
	fprintf(file, "usage: foretasted [--config FILE] [--set NAME.KEY=VALUE]...\n"
		      "Runs the gateway in the foreground until SIGTERM or SIGINT. FILE is " FT_CONFIG_PATH
		      " unless given.\n");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
						{"set", required_argument, NULL, 's'},
						{"help", no_argument, NULL, 'h'},
						{"version", no_argument, NULL, 'V'},
						{NULL, 0, NULL, 0}};
	const char *file = FT_CONFIG_PATH, *sets[SETS];
	size_t count = 0;
	for (int c; (c = getopt_long(argc, argv, "c:s:h", options, NULL)) != -1;) {
		if (c == 'c') {
			file = optarg;
		} else if (c == 's' && count < SETS) {
			sets[count++] = optarg;
		} else if (c == 'V') {
			printf("foretasted %s\n", FT_VERSION);
			return EX_OK;
		} else {
			usage(c == 'h' ? stdout : stderr);
			return c == 'h' ? EX_OK : EX_USAGE;
		}
	}
	if (optind < argc) {
		usage(stderr);
		return EX_USAGE;
	}
	struct ft_config config;
	struct ft_error err = {0};
	int error = ft_config_load(&config, file, sets, count, &err), code = ft_config_exit(error);
	if (!error) {
		setvbuf(stderr, NULL, _IOLBF, 0);
		code = ft_supervisor_run(&config, &err);
		ft_config_free(&config);
	}
	if (code)
		fprintf(stderr, "foretasted: %s\n", err.text);
	return code;
}
