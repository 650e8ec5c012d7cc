/*
 * PLANTED, for tests only: a CGI program that uses up what a clone has, by the name that it is called by:
 * `dirty` writes to every page of memory that it can get, `spin` never idles, `fork` forks without end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void dirty(void)
{
	/* In pieces, so that the last one that does not fit is small; never given back. */
	for (unsigned char value = 1;; value++) {
		const size_t size = 1 << 20;
		unsigned char *piece = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (piece == MAP_FAILED)
			pause();
		memset(piece, value, size);
	}
}

static void spin(void)
{
	for (volatile unsigned long count = 0;; count++)
		;
}

static void fork_without_end(void)
{
	for (;;)
		(void)!fork();
}

int main(int argc, char **argv)
{
	const char *name = argc ? strrchr(argv[0], '/') : NULL;
	name = name ? name + 1 : "";
	puts("Content-Type: text/plain\r\n\r");
	fflush(stdout);
	if (!strcmp(name, "dirty"))
		dirty();
	else if (!strcmp(name, "spin"))
		spin();
	else if (!strcmp(name, "fork"))
		fork_without_end();
	return 1;
}
