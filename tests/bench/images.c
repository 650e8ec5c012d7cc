#include "images.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int images_prepare(const char *variant, char *directory, size_t size, struct ft_error *err)
{
	const char *cache = getenv("FORETASTE_CACHE"), *there = getenv("FORETASTE_IMAGES");
	if (there && !strcmp(variant, "web")) {
		snprintf(directory, size, "%s", there);
		return 0;
	}
	snprintf(directory, size, "%s/guest/%s", cache ? cache : "/var/cache/foretaste", variant);
	pid_t child = fork();
	if (child == 0) {
		dup2(2, 1); /* stdout is for results */
		execl(FORETASTE_SOURCE "/deploy/guest/build", "build", variant, (char *)NULL);
		_exit(127);
	}
	int status = 0;
	if (child < 0 || waitpid(child, &status, 0) != child || status)
		return ft_error_set(err, -EIO, "deploy/guest/build %s failed (status 0x%x)", variant, status);
	return 0;
}

const char *images_cmdline(const char *directory)
{
	static char line[1024];
	static const char key[] = "GUEST_CMDLINE=\"";
	char path[600];
	snprintf(path, sizeof(path), "%s/guest.env", directory);
	FILE *file = fopen(path, "re");
	bool found = false;
	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, key, sizeof(key) - 1);
	if (file)
		fclose(file);
	if (!found)
		return "console=ttyS0 root=/dev/vda rw";
	memmove(line, line + sizeof(key) - 1, strlen(line) + 2 - sizeof(key));
	line[strcspn(line, "\"\n")] = 0;
	return line;
}
